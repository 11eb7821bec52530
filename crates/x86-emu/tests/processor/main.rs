//! What does the processor do? One program, because each one compiles the whole emulator.

mod debug;
mod events;
mod execution;
mod int_coverage;
mod int_stack_string;
mod int_vectors;
mod vmx;
mod world;
