//! What does a handler work with? Registers, operands and faults, in the terms of the instruction.

use crate::bus::Bus;
use crate::decode::Fetching;
use crate::insn::{Address, Insn, Place};
use crate::memory::Caches;
use crate::state::State;
use crate::word::Word;
use vmx_model::entry::Injection;
use vmx_model::errors::InstructionError;
use vmx_model::event::{Raised, Reaction};
use vmx_model::exit::{Exit, Left};
use vmx_model::known::EntryInstruction;
use x86_state::{Cpu, CpuMode, CpuProfile, Cr0, Event, Exception, Rflags};

/// The instruction did not complete; [`Exec::stop`] says why. RIP still references it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An exception.
    Raise(Raised),
    /// A VM exit.
    Exit(Exit),
    /// What has become of a failed translation.
    React(Reaction),
    /// The instruction is to be begun again.
    Retry,
}

/// One processor while it executes.
pub struct Exec<'a, B: Bus> {
    /// Its state.
    pub state: &'a mut State,
    /// Translations.
    pub caches: &'a mut Caches,
    /// What is around it.
    pub bus: &'a B,
    /// Which processor it is.
    pub profile: &'a CpuProfile,
    /// RIP after this instruction.
    pub next_rip: u64,
    /// Why the last handler stopped.
    pub stop: Stop,
    /// The event whose delivery is under way.
    pub delivering: Option<Event>,
    /// An IRET is being executed that found NMIs blocked and has unblocked them.
    pub unblocks_nmi: bool,
    /// How instructions are fetched.
    pub(crate) fetching: Fetching,
    /// Is a data breakpoint enabled?
    pub(crate) watching: bool,
    /// Must operands be aligned?
    pub(crate) aligned: bool,
    /// The block must not go on: its instructions may have changed, or what waits outside.
    pub(crate) leave: bool,
    /// Time has passed within the block that is not in the counter yet.
    pub(crate) behind: bool,
    /// The instruction has stopped because a device must not be reached while that is so: it is to be begun again.
    pub(crate) settle: bool,
    /// Breakpoints that this instruction has met: bits `[3:0]`.
    pub(crate) met: u64,
    /// A VM entry that this instruction has made or tried, and with what; or the return from SMM.
    pub(crate) entry: Option<Led>,
    /// VM entry injected the event under delivery.
    pub(crate) injecting: bool,
    /// The last instruction that was looked at singly has retired.
    pub(crate) retired: bool,
}

/// What a VMLAUNCH or VMRESUME has led to, once its own conditions (#UD, VM exit, #GP) have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmEntry {
    /// The guest runs, once this event is delivered.
    Entered(Option<Injection>),
    /// The entry failed late, with this exit reason; the host runs, or the processor has aborted.
    Failed(Left),
    /// VMfailValid with this error number, or VMfailInvalid (`None`): the next instruction runs.
    Refused(Option<InstructionError>),
    /// What comes next is not modelled; nothing has changed.
    NotModelled,
}

/// What an instruction has led to, behind which nothing of itself is looked at any more.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, in `Exec`, and boxing it would allocate at each VM entry")]
pub(crate) enum Led {
    /// A VM entry, made or tried.
    VmEntry(VmEntry, Option<Attempt>),
    /// RSM: the interrupted program goes on.
    OutOfSmm,
}

/// A VM entry about to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The instruction.
    pub instruction: EntryInstruction,
    /// The registers.
    pub cpu: Cpu,
}

impl<'a, B: Bus> Exec<'a, B> {
    /// A processor about to execute.
    pub fn new(state: &'a mut State, caches: &'a mut Caches, bus: &'a B, profile: &'a CpuProfile) -> Self {
        let fetching = Fetching::of(&state.cpu);
        let next_rip = state.cpu.rip;
        let aligned = checks_alignment(&state.cpu);
        Self {
            state,
            caches,
            bus,
            profile,
            next_rip,
            stop: Stop::Retry,
            delivering: None,
            unblocks_nmi: false,
            fetching,
            watching: false,
            aligned,
            leave: false,
            behind: false,
            settle: false,
            met: 0,
            entry: None,
            injecting: false,
            retired: false,
        }
    }
}

impl<B: Bus> Exec<'_, B> {
    /// Stops with an exception without an error code.
    #[cold]
    pub fn fault(&mut self, exception: Exception) -> Stopped {
        self.raise(Raised::new(Event::exception(exception)))
    }

    /// Stops with an exception with an error code: #GP, #SS, #NP, #TS.
    #[cold]
    pub fn fault_with(&mut self, exception: Exception, error_code: u32) -> Stopped {
        self.raise(Raised::new(Event::exception_with_code(exception, error_code)))
    }

    /// Stops with #GP(0).
    #[cold]
    pub fn gp(&mut self) -> Stopped {
        self.fault_with(Exception::GP, 0)
    }

    /// Stops with #UD.
    #[cold]
    pub fn ud(&mut self) -> Stopped {
        self.fault(Exception::UD)
    }

    /// Stops with this exception.
    #[cold]
    pub fn raise(&mut self, raised: Raised) -> Stopped {
        self.stop = Stop::Raise(raised);
        Stopped
    }

    /// Stops with a VM exit.
    #[cold]
    pub fn exit(&mut self, exit: Exit) -> Stopped {
        self.stop = Stop::Exit(exit);
        Stopped
    }

    /// In 64-bit mode?
    #[inline(always)]
    pub fn long64(&self) -> bool {
        matches!(self.state.cpu.mode(), CpuMode::Long64)
    }

    /// A general-purpose register's low bits.
    #[inline(always)]
    pub fn gpr<W: Word>(&self, number: u8) -> W {
        W::cut(self.state.cpu.gpr.0[usize::from(number & 15)])
    }

    /// Writes a general-purpose register: 32 bits clear the upper half, 8 and 16 bits leave the rest.
    #[inline(always)]
    pub fn set_gpr<W: Word>(&mut self, number: u8, value: W) {
        let register = &mut self.state.cpu.gpr.0[usize::from(number & 15)];
        *register = match W::BITS {
            64 | 32 => value.to_u64(),
            bits => *register & !((1 << bits) - 1) | value.to_u64(),
        };
    }

    /// The offset of a memory operand in its segment.
    #[inline(always)]
    pub fn offset(&self, address: &Address) -> u64 {
        let register = |number: u8| match number {
            16.. => 0,
            _ => self.state.cpu.gpr.0[usize::from(number & 15)],
        };
        let index = register(address.index) << address.scale_log2;
        address.displacement.wrapping_add(register(address.base)).wrapping_add(index) & address.mask
    }

    /// Reads operand `n`, a register, memory or the immediate.
    #[inline(always)]
    pub fn get<W: Word>(&mut self, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        Ok(match insn.operands[n & 3] {
            Place::Gpr(number) => self.gpr(number),
            Place::Memory => return self.read(insn.memory.segment, self.offset(&insn.memory)),
            Place::Immediate => W::cut(insn.immediate),
            Place::High(number) => W::cut(self.state.cpu.gpr.0[usize::from(number & 3)] >> 8 & 0xff),
            _ => return Err(self.ud()),
        })
    }

    /// Writes operand `n`, a register or memory.
    #[inline(always)]
    pub fn set<W: Word>(&mut self, insn: &Insn<B>, n: usize, value: W) -> Result<(), Stopped> {
        match insn.operands[n & 3] {
            Place::Gpr(number) => self.set_gpr(number, value),
            Place::Memory => return self.write(insn.memory.segment, self.offset(&insn.memory), value),
            Place::High(number) => {
                let register = &mut self.state.cpu.gpr.0[usize::from(number & 3)];
                *register = *register & !0xff00 | (value.to_u64() & 0xff) << 8;
            }
            _ => return Err(self.ud()),
        }
        Ok(())
    }

    /// Reads operand `n`, replaces it by `change` of it, and gives both. Memory is checked for writing before anything happens; with LOCK the
    /// replacement is atomic.
    #[inline(always)]
    pub fn modify<W: Word>(&mut self, insn: &Insn<B>, n: usize, change: impl FnMut(W) -> W) -> Result<(W, W), Stopped> {
        let mut change = change;
        if insn.operands[n & 3] == Place::Memory {
            let offset = self.offset(&insn.memory);
            return self.read_modify_write(insn.memory.segment, offset, insn.prefixes.lock, change);
        }
        let before = self.get(insn, n)?;
        let after = change(before);
        self.set(insn, n, after)?;
        Ok((before, after))
    }

    /// RFLAGS with the arithmetic flags in it.
    #[inline]
    pub fn rflags(&mut self) -> Rflags {
        self.state.flags.settle(&mut self.state.cpu.rflags);
        self.state.cpu.rflags
    }

    /// Is the condition of Jcc, SETcc, CMOVcc met?
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        self.state.flags.condition(self.state.cpu.rflags, code)
    }
}

/// Are operands checked for alignment (SDM 3A 2.3, AC; 2.5, AM)?
pub(crate) fn checks_alignment(cpu: &Cpu) -> bool {
    cpu.rflags.contains(Rflags::AC) && cpu.cr0.contains(Cr0::AM) && cpu.cpl() == 3
}
