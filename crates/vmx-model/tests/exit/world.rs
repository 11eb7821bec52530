//! A guest that is about to exit.

use vmx_model::builder::{self, CURRENT_VMCS_POINTER};
use vmx_model::exit::{Left, leave};
use vmx_model::fields::FieldType;
use vmx_model::rules::GuestKind;
use vmx_model::{Control, Controls, EntryState, Exit, Field, Operation, Vmx};
use x86_state::mem::WordMemory;
use x86_state::{
    AccessRights, Cpu, CpuProfile, Cr0, Cr4, DebugCtl, Dr7, Efer, Gpr, Hpa, PendingDebug, PhysMemory, Platform, Rflags,
    SegmentRegister, Selector, VmxMsr, profiles,
};

/// Where the tests have their MSR lists.
pub(crate) const LIST: u64 = 0x6000;

/// A 64-bit guest in VMX non-root operation, every register of which holds a value of its own.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) vmx: Vmx,
    pub(crate) cpu: Cpu,
    pub(crate) profile: CpuProfile,
    pub(crate) tsc: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(&builder::build(GuestKind::Long64, &profiles::MAX))
    }

    pub(crate) fn of(state: &EntryState) -> Self {
        let mut vmx = Vmx::new(&state.profile);
        vmx.state.operation = Operation::NonRoot;
        vmx.state.current_vmcs = Some(Hpa(CURRENT_VMCS_POINTER));
        vmx.vmcs = state.vmcs;
        vmx.guest.controls = Controls::of(&vmx.vmcs);
        Self { vmx, cpu: guest(), profile: state.profile, tsc: 0 }
    }

    /// Sets the control (and activates its vector) or clears it.
    pub(crate) fn control(&mut self, control: Control, on: bool) -> &mut Self {
        let vector = control.vector();
        if let (true, Some(activator)) = (on, vector.activated_by()) {
            self.control(activator, true);
        }
        let mask = control.mask();
        self.vmx.vmcs.update(vector.field(), |bits| if on { bits | mask } else { bits & !mask });
        self.vmx.guest.controls = Controls::of(&self.vmx.vmcs);
        self
    }

    /// A processor that does not support the 1-settings of these controls.
    pub(crate) fn lacks(&mut self, controls: &[Control]) -> &mut Self {
        for control in controls {
            for &msr in control.vector().capabilities() {
                if msr == VmxMsr::Basic {
                    continue;
                }
                let mask = match msr {
                    VmxMsr::ExitCtls2 | VmxMsr::ProcbasedCtls3 | VmxMsr::Vmfunc => control.mask(),
                    _ => control.mask() << 32,
                };
                self.profile = self.profile.with_vmx(msr, self.profile.vmx(msr).map(|value| value & !mask));
            }
        }
        self
    }

    /// Fills all fields of that type with the low bits of `value`.
    pub(crate) fn fill(&mut self, kind: FieldType, value: u64) -> &mut Self {
        for field in Field::all().filter(|field| field.row().kind == kind) {
            self.vmx.vmcs.set(field, value);
        }
        self
    }

    pub(crate) fn set(&mut self, field: Field, value: u64) -> &mut Self {
        self.vmx.vmcs.set(field, value);
        self
    }

    pub(crate) fn get(&self, field: Field) -> u64 {
        self.vmx.vmcs.get(field)
    }

    pub(crate) fn exit_with<M: PhysMemory>(&mut self, memory: &M, exit: &Exit) -> Left {
        let platform = Platform { tsc: self.tsc, ..Platform::new(&self.profile, memory) };
        leave(&mut self.vmx, &mut self.cpu, &platform, exit)
    }

    /// Exits without any memory to speak of.
    pub(crate) fn exit(&mut self, exit: &Exit) -> &mut Self {
        let left = self.exit_with(&WordMemory::<0>::new([]), exit);
        assert!(matches!(left, Left::Host { .. }), "{left:?}");
        self
    }
}

/// A guest whose registers all differ from each other, from 0 and from all ones.
fn guest() -> Cpu {
    let mut cpu = Cpu::reset(0);
    cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::AM | Cr0::PG;
    cpu.cr3 = 0x1234_5000;
    cpu.cr4 = Cr4::PAE | Cr4::VMXE | Cr4::PGE;
    cpu.efer = Efer::LME | Efer::LMA | Efer::SCE;
    cpu.rflags = Rflags::FIXED_1 | Rflags::IF | Rflags::ZF;
    cpu.rip = 0x40_1000;
    cpu.gpr[Gpr::Rsp] = 0x7_0010;
    cpu.dr7 = Dr7::from_bits_retain(0x455);
    cpu.debugctl = DebugCtl::LBR;
    cpu.sysenter_cs = 0x11;
    cpu.sysenter_esp = 0x1_2222;
    cpu.sysenter_eip = 0x1_3333;
    cpu.pat = 0x0606_0606_0606_0606;
    cpu.perf_global_ctrl = 0x3;
    cpu.bndcfgs = 0x4001;
    cpu.rtit_ctl = 0x2002;
    cpu.lbr_ctl = 0x7;
    cpu.pkrs = 0x5555_aaaa;
    cpu.spec_ctrl = 0x5;
    cpu.uinv = 0x77;
    cpu.cet.s_cet = 0x15;
    cpu.cet.ssp = 0x9990;
    cpu.cet.interrupt_ssp_table_addr = 0x8880;
    cpu.fred.config = 0x1001;
    cpu.fred.rsp = [0x40, 0x80, 0xc0, 0x100];
    cpu.fred.stack_levels = 0x2222;
    cpu.fred.ssp = [0x1_0001, 0x2_0001, 0x3_0001];
    cpu.pdptes = [0xa001, 0xb001, 0xc001, 0xd001];
    cpu.gdtr.base = 0x3333_0000;
    cpu.gdtr.limit = 0x7f;
    cpu.idtr.base = 0x4444_0000;
    cpu.idtr.limit = 0xfff;
    for (n, register) in (1..).zip(SegmentRegister::ALL) {
        let segment = &mut cpu.segments[register];
        segment.selector = Selector(8 * n as u16);
        segment.base = 0x1_0000 * n;
        segment.limit = 0xf_0000 + n as u32;
        segment.rights = AccessRights::DATA_32;
    }
    cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_64;
    cpu.segments[SegmentRegister::Tr].rights = AccessRights::TSS_BUSY;
    cpu.segments[SegmentRegister::Ldtr].rights = AccessRights::LDT;
    cpu.pending_debug = PendingDebug::from_bits_retain(0x5003);
    cpu
}
