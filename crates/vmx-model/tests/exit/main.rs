//! Do VM exits record, save, load and abort as SDM 3C chapter 27 says?
//!
//! Names that begin with an id (`b_76`, `bochs_215`) are regression tests for a defect of another hypervisor or emulator.

mod aborts;
mod agreement;
mod before;
mod load;
mod record;
mod save;
mod synth;
mod world;
