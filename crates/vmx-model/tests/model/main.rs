//! The model's tests, but for those of exits and of interception: one program, because each one compiles the whole model.

mod entry_failures;
mod entry_injection;
mod entry_state;
mod event;
mod guest_registers_and_segments;
mod ignored;
mod insn_fields;
mod insn_invalidate;
mod insn_ladders;
mod insn_lifecycle;
mod insn_once;
mod insn_properties;
mod insn_restrictions;
mod insn_support;
mod msr_lists;
mod oracles_controls;
mod oracles_guest;
mod oracles_host;
mod oracles_state;
mod review_controls;
mod review_guest;
mod review_transitions;
mod rules;
mod translation;
mod world;
