//! What does the host's processor do with a case? (x86-64 Linux)
//!
//! Signals carry the processor into the case and out of it again: INT3 raises SIGTRAP, whose handler keeps the registers, replaces them by
//! the case's and returns, to the instruction. It ends with the INT3 behind it or with a fault: that signal's handler takes the registers as
//! the outcome and puts back those from before.
//!
//! # Why this is sound
//! - Memory of the case is mapped at addresses of its own by `MAP_FIXED_NOREPLACE` (nothing of the process can be there), 64 KBytes
//!   of inaccessible guard on either side. It is touched through the writable views of this module alone, and only while no case runs.
//! - The instruction comes from [`crate::forms`]: it neither transfers control nor enters the kernel. What it writes lies in the page
//!   of data, or below 1 GByte where nothing else is mapped, or is no canonical user address, and faults: `forms` builds addresses so.
//! - Handlers run on a stack of their own, so that the case may set RSP. They call nothing but `signal`, and touch nothing but the
//!   `Run` that the thread which raised the signal owns: [`Native`] is neither `Send` nor `Sync`, and only one exists at a time.
//! - 32-bit cases run in compatibility mode: the frame's CS selects Linux' 32-bit code segment, and the outcome's signal restores the other.
//! - XMM registers, MXCSR and x87 state are replaced and taken in the same frames: the FXSAVE area that the kernel puts there and loads from it.
//! - All registers are restored by the kernel from what it stored at the INT3, so that the `asm!` block changes nothing but memory.

#![allow(unsafe_code)]

use crate::case::{CODE, Case, DATA, DATA_BYTES, End, FLAGS, Outcome};
use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicPtr, Ordering};
use x86_emu::x87::X87;
use x86_state::Rflags;

/// Bytes of address space around the page of data: guard, data, guard; the code follows.
const GUARD: u64 = 0x1_0000;

/// Registers of a signal's frame in the order of their numbers.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The run that signals belong to.
static RUN: AtomicPtr<Run> = AtomicPtr::new(std::ptr::null_mut());
/// Held by the one [`Native`].
static ONE: Mutex<()> = Mutex::new(());

const BREAKPOINT: i64 = 3;
const INT3: u8 = 0xcc;
/// Linux' selector of 32-bit user code.
const USER_CODE_32: i64 = 0x23;
/// Linux' selector of user data.
const USER_DATA: u16 = 0x2b;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Entering,
    Running,
    Done,
}

struct Run {
    phase: Phase,
    bits: u32,
    /// Registers at the INT3 that led here.
    before: [i64; 23],
    gpr: [u64; 16],
    flags: Rflags,
    /// The same of XMM registers, MXCSR and the x87 FPU.
    floating_before: Floating,
    floating: Floating,
    vector: i64,
}

/// The host's processor.
pub struct Native {
    data: *mut u8,
    code: *mut u8,
    system_flags: Rflags,
    _stack: Vec<u8>,
    _one: MutexGuard<'static, ()>,
    _thread: PhantomData<*mut ()>,
}

impl Native {
    /// Maps the memory and installs the signal handlers.
    ///
    /// # Errors
    /// The operating system's, if it gives no memory at the fixed addresses.
    pub fn new() -> std::io::Result<Self> {
        let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut stack = vec![0_u8; 0x1_0000];
        // SAFETY: plain system calls; the arguments are as documented, results are checked.
        unsafe {
            let length = (CODE + GUARD - (DATA - GUARD)) as usize;
            map(DATA - GUARD, length, libc::PROT_NONE, libc::MAP_FIXED_NOREPLACE | anonymous(), -1)?;
            let data = map(DATA, DATA_BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED | anonymous(), -1)?;
            // Two views of one page, so that no page is writable and executable at once.
            let file = check(libc::memfd_create(c"x86-emu-oracle".as_ptr(), 0))?;
            check(libc::ftruncate(file, 0x1000))?;
            map(CODE, 0x1000, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_FIXED | libc::MAP_SHARED, file)?;
            let code = map(0, 0x1000, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file)?;
            libc::close(file);
            let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
            check(libc::sigaltstack(&alternate, std::ptr::null_mut()))?;
            for signal in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                check(libc::sigaction(signal, &action, std::ptr::null_mut()))?;
            }
            // A 64-bit process has null selectors there, which compatibility mode refuses; 64-bit mode heeds neither.
            asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) USER_DATA, options(nomem, nostack, preserves_flags));
            let flags: u64;
            asm!("pushfq", "pop {}", out(reg) flags);
            Ok(Self {
                data,
                code,
                system_flags: Rflags::from_bits_retain(flags).difference(FLAGS),
                _stack: stack,
                _one: one,
                _thread: PhantomData,
            })
        }
    }

    /// RFLAGS beside the flags of a case.
    #[must_use]
    pub fn system_flags(&self) -> Rflags {
        self.system_flags
    }

    /// Executes the instruction, all iterations of it.
    ///
    /// # Preconditions
    /// The instruction is one of [`crate::forms`]: see the module's text. Its bytes are at most 15.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let mut run = Run {
            phase: Phase::Entering,
            bits: case.bits,
            before: [0; 23],
            gpr: case.gpr,
            flags: case.flags & FLAGS,
            floating_before: ([0; 16], 0, X87::INITIAL),
            floating: (case.xmm, case.mxcsr & 0xffff, case.x87),
            vector: 0,
        };
        let mut memory = Box::new([0; DATA_BYTES]);
        // SAFETY: see the module's text. `run` outlives both signals, and no reference to it is in use while they are handled.
        unsafe {
            std::ptr::copy_nonoverlapping(case.memory.as_ptr(), self.data, DATA_BYTES);
            std::ptr::write_bytes(self.code, INT3, 32);
            std::ptr::copy_nonoverlapping(case.code.as_ptr(), self.code, case.code.len().min(15));
            RUN.store(&raw mut run, Ordering::SeqCst);
            asm!("int3");
            RUN.store(std::ptr::null_mut(), Ordering::SeqCst);
            std::ptr::copy_nonoverlapping(self.data, memory.as_mut_ptr(), DATA_BYTES);
        }
        assert!(run.phase == Phase::Done, "both signals arrived");
        let end = match run.vector {
            BREAKPOINT => End::Completed,
            vector => End::Exception(vector as u8),
        };
        let (xmm, mxcsr, x87) = run.floating;
        Outcome { end, gpr: run.gpr, flags: run.flags & FLAGS, xmm, mxcsr, x87, memory }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the mappings are this value's own; signals get their default actions before their stack goes.
        unsafe {
            for signal in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut off: libc::stack_t = std::mem::zeroed();
            off.ss_flags = libc::SS_DISABLE;
            libc::sigaltstack(&off, std::ptr::null_mut());
            libc::munmap((DATA - GUARD) as *mut c_void, (CODE + GUARD - (DATA - GUARD)) as usize);
            libc::munmap(self.code.cast(), 0x1000);
        }
    }
}

const fn anonymous() -> c_int {
    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
}

/// # Safety
/// As mmap's.
unsafe fn map(
    address: u64,
    len_bytes: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
) -> std::io::Result<*mut u8> {
    // SAFETY: the caller's.
    let mapped = unsafe { libc::mmap(address as *mut c_void, len_bytes, protection, flags, file, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    if address != 0 && mapped as u64 != address {
        return Err(std::io::Error::other("the kernel ignores fixed addresses"));
    }
    Ok(mapped.cast())
}

fn check(result: c_int) -> std::io::Result<c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// XMM registers, MXCSR and the x87 FPU.
type Floating = ([u128; 16], u32, X87);

/// Where they are in an FXSAVE area.
const MXCSR: usize = 24;
const STACK: usize = 32;
const XMM: usize = 160;

/// What a signal's frame holds of them. The x87 FPU's pointers to the last instruction are left out: processors keep them or not.
///
/// # Safety
/// `frame` references the FXSAVE area of a signal's frame.
unsafe fn floating(frame: *const libc::_libc_fpstate) -> Floating {
    let bytes = frame.cast::<u8>();
    // SAFETY: the caller's; the area has 512 bytes.
    unsafe {
        let words = [bytes.cast::<u64>().read_unaligned() & 0xffff_ffff_ffff, 0, 0];
        let stack = std::array::from_fn(|n| bytes.add(STACK + 16 * n).cast::<u128>().read_unaligned());
        let xmm = std::array::from_fn(|n| bytes.add(XMM + 16 * n).cast::<u128>().read_unaligned());
        let mxcsr = bytes.add(MXCSR).cast::<u32>().read_unaligned();
        (xmm, mxcsr, X87::from_image(words, stack, true, false))
    }
}

/// Replaces them.
///
/// # Safety
/// `frame` references the FXSAVE area of a signal's frame, as the kernel made it: with the XSAVE header behind it if it says so.
unsafe fn set_floating(frame: *mut libc::_libc_fpstate, (xmm, mxcsr, x87): Floating) {
    /// Linux' FP_XSTATE_MAGIC1 at byte 464: there is an XSAVE header at byte 512.
    const MAGIC: (usize, u32) = (464, 0x4650_5853);
    const HEADER: usize = 512;
    const X87_AND_SSE: u64 = 3;
    let bytes = frame.cast::<u8>();
    let (words, stack) = x87.image(true, false);
    // SAFETY: the caller's; the area has 512 bytes, and 576 with a header.
    unsafe {
        for (n, word) in words.into_iter().enumerate() {
            bytes.add(8 * n).cast::<u64>().write_unaligned(word);
        }
        for (n, register) in stack.into_iter().enumerate() {
            bytes.add(STACK + 16 * n).cast::<u128>().write_unaligned(register);
        }
        for (n, register) in xmm.into_iter().enumerate() {
            bytes.add(XMM + 16 * n).cast::<u128>().write_unaligned(register);
        }
        bytes.add(MXCSR).cast::<u32>().write_unaligned(mxcsr);
        if bytes.add(MAGIC.0).cast::<u32>().read_unaligned() == MAGIC.1 {
            // Not in their initial configuration: the kernel is to load them.
            let present = bytes.add(HEADER).cast::<u64>();
            present.write_unaligned(present.read_unaligned() | X87_AND_SSE);
        }
    }
}

extern "C" fn on_signal(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let run = RUN.load(Ordering::SeqCst);
    // SAFETY: the kernel passes the context of the interrupted thread; `RUN` is null or references the `Run` of the thread that
    // raised the signal, which waits.
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let frame = machine.fpregs;
        let registers = &mut machine.gregs;
        if run.is_null() || (*run).phase == Phase::Done {
            // Not ours: the default action, when the instruction is executed again.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let run = &mut *run;
        if run.phase == Phase::Entering {
            run.before = *registers;
            run.floating_before = floating(frame);
            set_floating(frame, run.floating);
            for (index, value) in REGISTERS.iter().zip(run.gpr) {
                registers[*index as usize] = value as i64;
            }
            let flags = &mut registers[libc::REG_EFL as usize];
            *flags = *flags & !(FLAGS.bits() as i64) | run.flags.bits() as i64;
            registers[libc::REG_RIP as usize] = CODE as i64;
            if run.bits == 32 {
                let selectors = &mut registers[libc::REG_CSGSFS as usize];
                *selectors = *selectors & !0xffff | USER_CODE_32;
            }
            run.phase = Phase::Running;
            return;
        }
        for (index, value) in REGISTERS.iter().zip(&mut run.gpr) {
            *value = registers[*index as usize] as u64;
        }
        run.flags = Rflags::from_bits_retain(registers[libc::REG_EFL as usize] as u64);
        run.vector = registers[libc::REG_TRAPNO as usize];
        run.floating = floating(frame);
        set_floating(frame, run.floating_before);
        *registers = run.before;
        run.phase = Phase::Done;
    }
}
