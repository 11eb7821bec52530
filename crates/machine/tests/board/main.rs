//! The machine from outside: devices by register sequences, loaders, several processors, determinism, hostile guests.

mod determinism;
mod devices;
mod hostile;
mod interrupts;
mod io_apic;
mod loaders;
mod processors;
mod reset;
mod support;
