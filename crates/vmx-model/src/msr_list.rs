//! What do the MSR lists of VM entry and VM exit do? Loading and storing, entry by entry, up to the first one that fails.
//!
//! Source: SDM 3C (rev 077) 26.4, Loading MSRs; 27.4, Saving MSRs; 27.6, Loading MSRs; 24.7.2, VM-Exit Controls for MSRs; SDM 3D A.6,
//! Miscellaneous Data.
//!
//! ```text
//!  127                     64 63          32 31            0
//! +--------------------------+--------------+---------------+
//! |        MSR data          |   reserved   |   MSR index   |
//! +--------------------------+--------------+---------------+
//! ```
//!
//! One walk serves the processor's loading here and the rules `msr.entry_load.*`: both judge an entry by the MSR table, in the state that
//! the entries before it have left.
//!
//! # Choices
//! - Where the MSR table cannot tell, the register's home decides: an entry is processed if the register lives in the [`Cpu`], the [`Vmx`]
//!   or the platform's [`MsrFile`], and fails if it lives nowhere, as WRMSR or RDMSR of a register that does not exist raises #GP. The
//!   same holds for registers that the table accepts and nobody keeps: no value is ever dropped without a word.
//! - The lists are longer than IA32_VMX_MISC\[27:25\] recommends: "undefined processor behavior may result". The entries up to that number,
//!   `512 * (N + 1)`, are processed, and the next one fails. Where the capability is not known, N counts as 7, its greatest value.
//! - A store of IA32_TIME_STAMP_COUNTER takes [`Platform::tsc`], without offset and scaling: the guest's view of it ends with the VM exit.
//!   A load goes to the platform's file, which owns the counter.
//! - No load asks for invalidations: the manual wants those "that would architecturally be required" by the write, and names none for
//!   IA32_EFER, IA32_PAT or the MTRRs, whose writers invalidate in instructions of their own (SDM 3A 4.10.4.1,
//!   Operations that Invalidate TLBs and Paging-Structure Caches; 11.11.8, MTRR Considerations in MP Systems).

use crate::fields::Field;
use crate::vmcs::Vmcs;
use crate::vmx::Vmx;
use x86_state::msr::{ListAnswer, MsrContext, check_vm_entry_load, check_vm_exit_load, check_vm_exit_store, file};
use x86_state::{Cpu, CpuProfile, Hpa, Msr, MsrFile, PhysMemory, Platform, VmxMsr};

/// Size of an entry of an MSR list.
pub const ENTRY_BYTES: u64 = 16;
/// Byte offset of the value, bits 127:64 of an entry.
const VALUE_OFFSET_BYTES: u64 = 8;
/// IA32_UINTR_MISC; its bits `[39:32]` are [`Cpu::uinv`].
const UINTR_MISC: Msr = Msr(0x988);
const UINV: u64 = 0xff << 32;

/// Where an MSR list is, and how many entries it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrList {
    /// The first entry.
    pub address: Hpa,
    /// The number of entries.
    pub count: u32,
}

impl MsrList {
    const fn of(vmcs: &Vmcs, address: Field, count: Field) -> Self {
        Self { address: Hpa(vmcs.get(address)), count: vmcs.get(count) as u32 }
    }

    /// The VM-entry MSR-load list.
    #[must_use]
    pub const fn entry_load(vmcs: &Vmcs) -> Self {
        Self::of(vmcs, Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT)
    }

    /// The VM-exit MSR-store list.
    #[must_use]
    pub const fn exit_store(vmcs: &Vmcs) -> Self {
        Self::of(vmcs, Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT)
    }

    /// The VM-exit MSR-load list.
    #[must_use]
    pub const fn exit_load(vmcs: &Vmcs) -> Self {
        Self::of(vmcs, Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT)
    }

    /// The address of the entry with this number, counted from 1.
    const fn entry(self, number: u32) -> u64 {
        self.address.0.wrapping_add(ENTRY_BYTES.wrapping_mul(number as u64 - 1))
    }
}

/// The most entries of a list that are processed: 512 times one more than IA32_VMX_MISC\[27:25\].
#[must_use]
pub const fn most_entries(profile: &CpuProfile) -> u32 {
    let n = match profile.vmx(VmxMsr::Misc) {
        Some(misc) => (misc >> 25 & 7) as u32,
        None => 7,
    };
    512 * (n + 1)
}

/// What a walk along a load list meets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// An entry.
    Entry {
        /// Counted from 1.
        number: u32,
        /// The register.
        msr: Msr,
        /// The value.
        value: u64,
        /// What the MSR table says.
        answer: ListAnswer,
    },
    /// An entry whose memory is not known.
    Unreadable,
    /// The first entry beyond [`most_entries`].
    BeyondBound {
        /// Counted from 1.
        number: u32,
    },
}

/// Walks a load list until `visit` returns false. `context` is the state before the first entry.
pub(crate) fn walk_load<'a>(
    list: MsrList,
    mut context: MsrContext<'a>,
    check: fn(Msr, u32, u64, &MsrContext<'_>) -> ListAnswer,
    read: impl Fn(u64) -> Option<u64>,
    mut visit: impl FnMut(Step) -> bool,
) {
    let most = most_entries(context.profile);
    for number in 1..=list.count.min(most) {
        let at = list.entry(number);
        let (Some(low), Some(value)) = (read(at), read(at.wrapping_add(VALUE_OFFSET_BYTES))) else {
            visit(Step::Unreadable);
            return;
        };
        let msr = Msr(low as u32);
        let answer = check(msr, (low >> 32) as u32, value, &context);
        if !visit(Step::Entry { number, msr, value, answer }) {
            return;
        }
        context = after(context, msr, value);
    }
    if list.count > most {
        visit(Step::BeyondBound { number: most + 1 });
    }
}

/// The state after an entry was loaded.
const fn after<'a>(mut context: MsrContext<'a>, msr: Msr, value: u64) -> MsrContext<'a> {
    match msr {
        Msr::EFER => context.efer = Some(value),
        Msr::APIC_BASE => context.apic_base = Some(value),
        Msr::RTIT_CTL => context.rtit_ctl = Some(value),
        Msr::LBR_DEPTH => context.lbr_depth = Some(value),
        _ => {}
    }
    context
}

/// What the MSR table has to know of the processor.
fn context<'a, M, R>(cpu: &Cpu, platform: &Platform<'a, M, R>) -> MsrContext<'a>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let mut context = cpu.msr_context(platform.profile);
    context.in_vmx_operation = Some(true);
    context.lbr_depth = platform.msrs.read(Msr::LBR_DEPTH);
    context
}

/// The value of a register, wherever it lives; `None` if it lives nowhere. Nothing is checked.
#[must_use]
pub fn read_register<M, R>(cpu: &Cpu, vmx: &Vmx, platform: &Platform<'_, M, R>, msr: Msr) -> Option<u64>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let elsewhere = || platform.msrs.read(msr);
    match msr {
        Msr::TSC => Some(platform.tsc),
        Msr::FEATURE_CONTROL => Some(vmx.feature_control),
        Msr::SMM_MONITOR_CTL => Some(vmx.smm_monitor_ctl),
        UINTR_MISC => elsewhere().map(|value| value & !UINV | u64::from(cpu.uinv) << 32),
        _ => file::read(cpu, msr).or_else(|| capability(platform.profile, msr)).or_else(elsewhere),
    }
}

/// A VMX capability MSR.
fn capability(profile: &CpuProfile, msr: Msr) -> Option<u64> {
    VmxMsr::ALL
        .into_iter()
        .find(|capability| capability.index() == msr.0)
        .and_then(|capability| profile.vmx(capability))
}

/// Writes a register, wherever it lives. `false` if it lives nowhere, and nothing is written then. Nothing is checked.
pub fn write_register<M, R>(cpu: &mut Cpu, vmx: &mut Vmx, platform: &Platform<'_, M, R>, msr: Msr, value: u64) -> bool
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    match msr {
        Msr::FEATURE_CONTROL => vmx.feature_control = value,
        Msr::SMM_MONITOR_CTL => vmx.smm_monitor_ctl = value,
        // The local APIC, which follows it, is in the file if there is one at all.
        Msr::APIC_BASE => {
            platform.msrs.write(msr, value);
            cpu.apic_base = value;
        }
        UINTR_MISC => {
            if !platform.msrs.write(msr, value & !UINV) {
                return false;
            }
            cpu.uinv = (value >> 32) as u8;
        }
        _ => return file::write(cpu, msr, value) || platform.msrs.write(msr, value),
    }
    true
}

fn load<M, R>(
    cpu: &mut Cpu,
    vmx: &mut Vmx,
    platform: &Platform<'_, M, R>,
    list: MsrList,
    check: fn(Msr, u32, u64, &MsrContext<'_>) -> ListAnswer,
) -> Result<(), u32>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let mut result = Ok(());
    let read = |address| Some(platform.memory.read_u64(Hpa(address)));
    walk_load(list, context(cpu, platform), check, read, |step| {
        result = match step {
            Step::Entry { number, msr, value, answer } => {
                let refused = matches!(answer, ListAnswer::Fails(_));
                if !refused && write_register(cpu, vmx, platform, msr, value) { Ok(()) } else { Err(number) }
            }
            Step::BeyondBound { number } => Err(number),
            // Memory always answers.
            Step::Unreadable => Ok(()),
        };
        result.is_ok()
    });
    result
}

/// Loads the VM-entry MSR-load list (SDM 3C 26.4, Loading MSRs), after the guest's state is loaded.
///
/// # Errors
/// The number of the entry that fails, counted from 1. The entries before it are loaded and stay so.
pub fn load_at_entry<M, R>(
    cpu: &mut Cpu,
    vmx: &mut Vmx,
    platform: &Platform<'_, M, R>,
    list: MsrList,
) -> Result<(), u32>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    load(cpu, vmx, platform, list, check_vm_entry_load)
}

/// Loads the VM-exit MSR-load list (SDM 3C 27.6, Loading MSRs), after the host's state is loaded.
///
/// # Errors
/// The number of the entry that fails, counted from 1: a VMX abort. The entries before it are loaded.
pub fn load_at_exit<M, R>(cpu: &mut Cpu, vmx: &mut Vmx, platform: &Platform<'_, M, R>, list: MsrList) -> Result<(), u32>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    load(cpu, vmx, platform, list, check_vm_exit_load)
}

/// Stores the registers of the VM-exit MSR-store list (SDM 3C 27.4, Saving MSRs), before the host's state is loaded.
///
/// # Errors
/// The number of the entry that fails, counted from 1: a VMX abort. The entries before it are stored.
pub fn store_at_exit<M, R>(cpu: &Cpu, vmx: &Vmx, platform: &Platform<'_, M, R>, list: MsrList) -> Result<(), u32>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let context = context(cpu, platform);
    let most = most_entries(platform.profile);
    for number in 1..=list.count.min(most) {
        let at = list.entry(number);
        let low = platform.read_u64(at, 0);
        let msr = Msr(low as u32);
        if matches!(check_vm_exit_store(msr, (low >> 32) as u32, &context), ListAnswer::Fails(_)) {
            return Err(number);
        }
        let value = read_register(cpu, vmx, platform, msr).ok_or(number)?;
        platform.memory.write_u64(Hpa(at.wrapping_add(VALUE_OFFSET_BYTES)), value);
    }
    if list.count > most { Err(most + 1) } else { Ok(()) }
}
