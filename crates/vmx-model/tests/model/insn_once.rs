//! Is what was checked what is used? Memory that another processor changes between two reads shows who reads twice.

use crate::insn_support::{EPTP_LIST, OTHER, Ram, SHADOW, World};
use std::cell::Cell;
use vmx_model::insn::{self, Outcome};
use vmx_model::{Control, Field};
use x86_state::{Hpa, Op, PhysMemory, Platform};

/// Memory in which one word becomes all ones once it was read.
struct ReadOnce<'a> {
    ram: &'a Ram,
    word: u64,
    reads: Cell<u32>,
}

impl ReadOnce<'_> {
    /// All ones if the access is another one to the word.
    fn noise(&self, address: Hpa) -> u64 {
        let again = self.reads.get() > 0;
        if address.0 & !7 != self.word {
            return 0;
        }
        self.reads.set(self.reads.get() + 1);
        if again { u64::MAX } else { 0 }
    }
}

impl PhysMemory for ReadOnce<'_> {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.ram.read_u8(address) | self.noise(address) as u8
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.ram.write_u8(address, value);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        self.ram.read_u16(address) | self.noise(address) as u16
    }
    fn write_u16(&self, address: Hpa, value: u16) {
        self.ram.write_u16(address, value);
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.ram.read_u32(address) | self.noise(address) as u32
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        self.ram.write_u32(address, value);
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        self.ram.read_u64(address) | self.noise(address)
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        self.ram.write_u64(address, value);
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.ram.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.ram.compare_exchange_u64(address, current, new)
    }
}

/// Runs the instruction; gives the outcome and how often the word was read.
fn run(world: &mut World, word: u64) -> (Outcome<&'static str>, u32) {
    let memory = ReadOnce { ram: &world.ram, word, reads: Cell::new(0) };
    let platform = Platform::new(&world.profile, &memory);
    let outcome = insn::execute(&mut world.vmx, &mut world.cpu, &platform, &world.instruction, &mut world.operands);
    (outcome, memory.reads.get())
}

#[test]
fn eptp_switching_uses_the_entry_that_it_checked() {
    let eptp = 0x9000 | 3 << 3 | 6;
    let mut world = World::guest(Op::Vmfunc, &[Control::ENABLE_EPT, Control::EPTP_SWITCHING]);
    world.vmx.vmcs.set(Field::EPTP_LIST_ADDRESS, EPTP_LIST);
    world.vmx.vmcs.set(Field::EPT_POINTER, 0x8000 | 3 << 3 | 6);
    world.ram.write_u64(Hpa(EPTP_LIST), eptp);
    let (outcome, reads) = run(&mut world, EPTP_LIST);
    assert!(matches!(outcome, Outcome::Invalidate(_)), "{outcome:?}");
    assert_eq!((world.vmx.vmcs.get(Field::EPT_POINTER), reads), (eptp, 1));
}

#[test]
fn vmptrld_uses_the_header_that_it_checked() {
    for (region, shadow) in [(OTHER, false), (SHADOW, true)] {
        let mut world = World::root(Op::Vmptrld);
        world.set_pointer(region);
        assert_eq!(run(&mut world, region), (Outcome::Succeed, 1));
        assert_eq!(world.vmx.state.current_is_shadow, shadow);
    }
}

#[test]
fn vmxon_reads_the_header_once() {
    let mut world = World::root(Op::Vmxon);
    world.vmx.state.operation = vmx_model::known::Operation::Outside;
    world.set_pointer(OTHER);
    let (outcome, reads) = run(&mut world, OTHER);
    assert!(outcome.completes());
    assert_eq!(reads, 1);
}
