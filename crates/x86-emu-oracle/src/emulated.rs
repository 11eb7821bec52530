//! What does x86-emu do with a case?

use crate::case::{Case, DATA, DATA_BYTES, End, FLAGS, Outcome};
use iced_x86::{Code, Decoder, DecoderOptions};
use softvirt_ept::Retention;
use std::cell::Cell;
use vmx_model::event::Raised;
use x86_emu::code::CodePages;
use x86_emu::memory::Caches;
use x86_emu::x87::X87;
use x86_emu::{Bus, Exec, Insn, State, Stop, Stopped, ops};
use x86_state::{
    AccessRights, Cpu, Cr0, Cr4, Efer, Event, Exception, Hpa, Msr, MsrFile, PhysMemory, Rflags, Segment,
    SegmentRegister, Selector, profiles,
};

/// PML4, PDPT, PD and PT, one page each, and the page of data: all of RAM.
const TABLES: u64 = 0x1000;
const DATA_PAGE: u64 = 0x5000;
const RAM_BYTES: usize = 0x6000;

/// RAM, and nothing else.
struct World {
    ram: Vec<Cell<u8>>,
}

macro_rules! sizes {
    ($($read:ident $write:ident $word:ty;)*) => {$(
        fn $read(&self, address: Hpa) -> $word {
            let mut bytes = <$word>::MAX.to_le_bytes();
            for (byte, at) in bytes.iter_mut().zip(address.0..) {
                if let Some(cell) = self.ram.get(at as usize) {
                    *byte = cell.get();
                }
            }
            <$word>::from_le_bytes(bytes)
        }

        fn $write(&self, address: Hpa, value: $word) {
            for (byte, at) in value.to_le_bytes().into_iter().zip(address.0..) {
                if let Some(cell) = self.ram.get(at as usize) {
                    cell.set(byte);
                }
            }
        }
    )*};
}

impl PhysMemory for World {
    sizes! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
        read_u64 write_u64 u64;
    }
}

impl MsrFile for World {
    fn read(&self, _: Msr) -> Option<u64> {
        None
    }

    fn write(&self, _: Msr, _: u64) -> bool {
        false
    }
}

impl Bus for World {
    fn ram_pages(&self) -> usize {
        RAM_BYTES >> 12
    }
}

/// Does x86-emu have a handler for it among the instructions that neither transfer control nor touch the state of the system: integer ones,
/// those of SSE and MMX, and those on the state of the x87 FPU?
#[must_use]
pub fn is_computation(code: Code) -> bool {
    let handlers =
        [ops::integer::<World>, ops::sse::handler::<World>, ops::x87::handler::<World>, ops::mmx::handler::<World>];
    handlers.iter().any(|handler| handler(code).is_some())
}

/// A processor of x86-emu at privilege level 3, with one page of data.
pub struct Emulated {
    world: World,
    state: State,
    caches: Caches,
    /// Flags beside those of a case.
    system_flags: Rflags,
    /// The mode of the last case.
    bits: u32,
}

impl Emulated {
    /// `system_flags`: what RFLAGS holds beside the flags of a case (IF, ID).
    #[must_use]
    pub fn new(system_flags: Rflags) -> Self {
        let profile = &profiles::MAX;
        let world = World { ram: vec![Cell::new(0); RAM_BYTES] };
        let indices = [DATA >> 39 & 511, DATA >> 30 & 511, DATA >> 21 & 511, DATA >> 12 & 511];
        for (level, index) in (0..).zip(indices) {
            let table = TABLES + 0x1000 * level;
            world.write_u64(Hpa(table + 8 * index), (table + 0x1000) | 7);
        }
        let mut state = State::new(profile, 1);
        enter_user_mode(&mut state.cpu);
        let caches = Caches::new(profile, Retention::Lazy, CodePages::new(world.ram_pages()));
        Self { world, state, caches, system_flags: system_flags.difference(FLAGS | Rflags::RF), bits: 64 }
    }

    /// Executes the instruction, all iterations of it.
    pub fn run(&mut self, case: &Case) -> Outcome {
        for (byte, at) in case.memory.iter().zip(DATA_PAGE..) {
            self.world.write_u8(Hpa(at), *byte);
        }
        self.state.cpu.gpr.0 = case.gpr;
        self.state.xmm = case.xmm;
        self.state.mxcsr = case.mxcsr;
        self.state.x87 = case.x87;
        self.state.flags = x86_emu::flags::Flags::default();
        self.state.cpu.rflags = case.flags | self.system_flags;
        self.state.cpu.rip = crate::case::CODE;
        let code = if case.bits == 64 { AccessRights::CODE_64 } else { AccessRights::CODE_32 };
        if self.bits != case.bits {
            self.state.cpu.segments[SegmentRegister::Cs].rights = AccessRights(code.0 | 3 << 5);
            self.caches.changed();
            self.bits = case.bits;
        }
        let end = self.execute(case.bits, &case.code);
        let State { cpu, flags, xmm, mxcsr, x87, .. } = &mut self.state;
        let x87 = X87 { opcode: 0, instruction: 0, instruction_selector: 0, data: 0, data_selector: 0, ..*x87 };
        flags.settle(&mut cpu.rflags);
        let mut memory = Box::new([0; DATA_BYTES]);
        for (byte, at) in memory.iter_mut().zip(DATA_PAGE..) {
            *byte = self.world.read_u8(Hpa(at));
        }
        Outcome { end, gpr: cpu.gpr.0, flags: cpu.rflags & FLAGS, xmm: *xmm, mxcsr: *mxcsr, x87, memory }
    }

    fn execute(&mut self, bits: u32, code: &[u8]) -> End {
        let rip = crate::case::CODE;
        let instruction = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return End::Exception(Exception::UD.0);
        }
        let code = ops::announced::resolve(&profiles::MAX, instruction.code());
        if code.and_then(ops::handler::<World>).is_none() {
            return End::NotModelled;
        }
        let insn = Insn::decoded(&instruction, code);
        loop {
            let mut exec = Exec::new(&mut self.state, &mut self.caches, &self.world, &profiles::MAX);
            exec.next_rip = instruction.next_ip();
            match (insn.handler)(&mut exec, &insn) {
                Ok(()) if exec.next_rip == rip => {}
                Ok(()) => return End::Completed,
                Err(Stopped) => {
                    return match exec.stop {
                        Stop::Raise(Raised { event: Event { vector, .. }, .. }) => End::Exception(vector),
                        _ => End::NotModelled,
                    };
                }
            }
        }
    }
}

fn enter_user_mode(cpu: &mut Cpu) {
    cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG | Cr0::WP;
    cpu.cr3 = TABLES;
    cpu.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
    let user = |selector, rights: AccessRights| Segment {
        selector: Selector(selector),
        base: 0,
        limit: u32::MAX,
        rights: AccessRights(rights.0 | 3 << 5),
    };
    cpu.segments[SegmentRegister::Cs] = user(0x33, AccessRights::CODE_64);
    for register in [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es] {
        cpu.segments[register] = user(0x2b, AccessRights::DATA_32);
    }
}
