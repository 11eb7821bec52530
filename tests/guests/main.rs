//! Bare-metal guests with what they print, and hypervisors with the VM exits that they see.

#![allow(unreachable_pub, reason = "modules of one test target")]

mod demonstration;
mod exits;
mod smoke;
mod world;
