//! Decisions about instructions in VMX non-root operation: `vmx_model::intercept` and `vmx_model::information`.

mod apic;
mod control_registers;
mod information;
mod io;
mod known_to_iced;
mod ladder;
mod msr;
mod properties;
mod task_switch;
mod time;
mod world;
