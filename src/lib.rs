#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod explain;
pub mod fuzz;

pub use softvirt_dump as dump;
pub use softvirt_ept as ept;
pub use softvirt_gen as generate;
pub use softvirt_guests as guests;
pub use softvirt_machine as machine;
pub use vmx_model;
pub use x86_emu;
pub use x86_state;
