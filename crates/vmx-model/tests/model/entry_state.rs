//! Which guest state does a VM entry load, control by control? (SDM 3C 26.3.2, Loading Guest State)

use crate::world::{World, entered};
use vmx_model::builder::{PDPT_ADDRESS, build, enable_ept};
use vmx_model::entry::guest::LOADS;
use vmx_model::fields::FieldType;
use vmx_model::rules::GuestKind::{self, Compatibility, Long64, Pae, Protected32, RealUnrestricted, Virtual8086};
use vmx_model::{Control, EntryState, Field, check_entry, ignored};
use x86_state::{Cpu, CpuMode, Cr0, Cr4, DebugCtl, Dr7, Efer, Feature, Gpr, PagingMode, SegmentRegister, profiles};

/// Sets every bit that the checks of the entry ignore to 0 or to 1.
fn fill_ignored(state: &mut EntryState, ones: bool) {
    for field in Field::all() {
        let bits = ignored::bits(state, field);
        state.vmcs.update(field, |value| if ones { value | bits } else { value & !bits });
    }
}

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    let broken: Vec<_> = check_entry(&state).broken().map(|rule| rule.row().id).collect();
    assert!(broken.is_empty(), "{broken:?}");
    state
}

/// A register that a control loads: its field, a value for the field, what the register holds then, and how to reach the register.
type Loaded = (Field, u64, u64, fn(&mut Cpu) -> u64, fn(&mut Cpu, u64));

macro_rules! loaded {
    ($($field:ident = $value:expr => $register:expr, |$cpu:ident, $new:ident| $read:expr, $write:expr;)*) => {
        &[$((Field::$field, $value, $register, |$cpu| $read, |$cpu, $new| $write),)*]
    };
}

const LOAD_CONTROLS: &[(Control, &[Loaded])] = &[
    (
        Control::LOAD_DEBUG_CONTROLS,
        loaded! {
            // Bits 12, 14 and 15 are always 0, bit 10 is always 1.
            GUEST_DR7 = 0xffff_fbff => 0xffff_2fff, |cpu, new| cpu.dr7.bits(), cpu.dr7 = Dr7::from_bits_retain(new);
            GUEST_IA32_DEBUGCTL = 0x3 => 0x3, |cpu, new| cpu.debugctl.bits(), cpu.debugctl = DebugCtl::from_bits_retain(new);
        },
    ),
    (
        Control::LOAD_PERF_GLOBAL_CTRL,
        loaded! { GUEST_IA32_PERF_GLOBAL_CTRL = 0x3 => 0x3, |cpu, new| cpu.perf_global_ctrl, cpu.perf_global_ctrl = new; },
    ),
    (
        Control::LOAD_PAT,
        loaded! { GUEST_IA32_PAT = 0x0600_0605_0401_0706 => 0x0600_0605_0401_0706, |cpu, new| cpu.pat, cpu.pat = new; },
    ),
    (
        Control::LOAD_EFER,
        // SCE, LME, LMA, NXE.
        loaded! { GUEST_IA32_EFER = 0xd01 => 0xd01, |cpu, new| cpu.efer.bits(), cpu.efer = Efer::from_bits_retain(new); },
    ),
    (
        Control::LOAD_BNDCFGS,
        loaded! { GUEST_IA32_BNDCFGS = 0x5003 => 0x5003, |cpu, new| cpu.bndcfgs, cpu.bndcfgs = new; },
    ),
    (
        Control::LOAD_RTIT_CTL,
        loaded! { GUEST_IA32_RTIT_CTL = 0x4 => 0x4, |cpu, new| cpu.rtit_ctl, cpu.rtit_ctl = new; },
    ),
    // The vector has 8 bits.
    (Control::LOAD_UINV, loaded! { GUEST_UINV = 0x33 => 0x33, |cpu, new| u64::from(cpu.uinv), cpu.uinv = new as u8; }),
    (
        Control::LOAD_CET_STATE,
        loaded! {
            GUEST_IA32_S_CET = 0x7003 => 0x7003, |cpu, new| cpu.cet.s_cet, cpu.cet.s_cet = new;
            GUEST_SSP = 0x8000 => 0x8000, |cpu, new| cpu.cet.ssp, cpu.cet.ssp = new;
            GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR = 0x9008 => 0x9008,
                |cpu, new| cpu.cet.interrupt_ssp_table_addr, cpu.cet.interrupt_ssp_table_addr = new;
        },
    ),
    (Control::LOAD_LBR_CTL, loaded! { GUEST_IA32_LBR_CTL = 0xf => 0xf, |cpu, new| cpu.lbr_ctl, cpu.lbr_ctl = new; }),
    (
        Control::LOAD_PKRS,
        loaded! { GUEST_IA32_PKRS = 0x5555_aaaa => 0x5555_aaaa, |cpu, new| u64::from(cpu.pkrs), cpu.pkrs = new as u32; },
    ),
    (
        Control::LOAD_FRED,
        loaded! {
            GUEST_IA32_FRED_CONFIG = 0x5003 => 0x5003, |cpu, new| cpu.fred.config, cpu.fred.config = new;
            GUEST_IA32_FRED_RSP1 = 0x6040 => 0x6040, |cpu, new| cpu.fred.rsp[1], cpu.fred.rsp[1] = new;
            GUEST_IA32_FRED_RSP2 = 0x6080 => 0x6080, |cpu, new| cpu.fred.rsp[2], cpu.fred.rsp[2] = new;
            GUEST_IA32_FRED_RSP3 = 0x60c0 => 0x60c0, |cpu, new| cpu.fred.rsp[3], cpu.fred.rsp[3] = new;
            GUEST_IA32_FRED_STACK_LEVELS = 0xe4 => 0xe4, |cpu, new| cpu.fred.stack_levels, cpu.fred.stack_levels = new;
            GUEST_IA32_FRED_SSP1 = 0x7008 => 0x7008, |cpu, new| cpu.fred.ssp[0], cpu.fred.ssp[0] = new;
            GUEST_IA32_FRED_SSP2 = 0x7010 => 0x7010, |cpu, new| cpu.fred.ssp[1], cpu.fred.ssp[1] = new;
            GUEST_IA32_FRED_SSP3 = 0x7018 => 0x7018, |cpu, new| cpu.fred.ssp[2], cpu.fred.ssp[2] = new;
        },
    ),
    (
        Control::LOAD_SPEC_CTRL,
        loaded! { GUEST_IA32_SPEC_CTRL = 0x1 => 0x1, |cpu, new| cpu.spec_ctrl, cpu.spec_ctrl = new; },
    ),
];

#[test]
fn each_load_control_loads_its_registers_and_only_if_it_is_1() {
    for (control, registers) in LOAD_CONTROLS {
        for ones in [false, true] {
            // What the registers hold in the host: LME and LMA are the mode's, and TraceEn (bit 0) must be 0 at VM entry.
            for before in [0x500, 0x522_u64] {
                let loads = on_max(Long64, |s| {
                    s.on(*control);
                    fill_ignored(s, ones);
                    for (field, value, ..) in *registers {
                        s.set(*field, *value);
                    }
                });
                let ignores = on_max(Long64, |s| {
                    s.off(*control);
                    fill_ignored(s, ones);
                });
                for (state, loaded) in [(loads, true), (ignores, false)] {
                    let mut world = World::new(&state);
                    let mut narrow = Vec::new();
                    for (.., read, write) in *registers {
                        write(&mut world.cpu, before);
                        narrow.push(read(&mut world.cpu));
                    }
                    world.entered();
                    for ((field, _, register, read, _), kept) in registers.iter().zip(narrow) {
                        let expected = if loaded { *register } else { kept };
                        assert_eq!(
                            read(&mut world.cpu),
                            expected,
                            "{field:?}, {control:?} {loaded}, ignored bits {ones}"
                        );
                    }
                }
            }
        }
    }
}

/// The test above has a row for each control that loads something.
#[test]
fn every_control_named_load_is_tested() {
    let rows: Vec<Control> = LOAD_CONTROLS.iter().map(|(control, _)| *control).collect();
    for control in Control::all().filter(|control| control.vector() == vmx_model::ControlVector::Entry) {
        assert_eq!(rows.contains(&control), control.name().starts_with("load"), "{control:?}");
    }
}

#[test]
fn every_control_has_a_row_with_its_model_or_the_reason() {
    use vmx_model::entry::CONTROLS;
    let entry: Vec<Control> =
        Control::all().filter(|control| control.vector() == vmx_model::ControlVector::Entry).collect();
    let rows: Vec<Control> = CONTROLS.iter().map(|row| row.control).collect();
    assert_eq!(rows, entry);
    // Rows of registers name controls of this vector and fields of the guest, each field once.
    for (n, row) in LOADS.iter().enumerate() {
        assert_eq!(row.field.row().kind, FieldType::Guest);
        assert!(row.control.is_none_or(|control| entry.contains(&control)), "{row:?}");
        assert!(LOADS[..n].iter().all(|other| other.field != row.field), "{row:?}");
    }
}

/// Control fields that do not count, host-state and read-only fields: none of them reaches the guest's registers.
#[test]
fn only_guest_state_fields_reach_the_processor() {
    for kind in GuestKind::ALL.into_iter().filter(|kind| *kind != GuestKind::ReturnFromSmm) {
        let [zeros, ones] = [false, true].map(|ones| {
            entered(&on_max(kind, |s| {
                let guest = s.vmcs;
                fill_ignored(s, ones);
                for field in Field::all().filter(|field| field.row().kind == FieldType::Guest) {
                    s.set(field, guest.get(field));
                }
            }))
        });
        assert_eq!(ones.cpu, zeros.cpu, "{kind:?}");
    }
}

#[test]
fn each_kind_of_guest_runs_in_its_mode() {
    for (kind, mode, paging, cpl) in [
        (Long64, CpuMode::Long64, PagingMode::Level4, 0),
        (Compatibility, CpuMode::Compatibility, PagingMode::Level4, 0),
        (Protected32, CpuMode::Protected32, PagingMode::Bits32, 0),
        (Pae, CpuMode::Protected32, PagingMode::Pae, 0),
        (Virtual8086, CpuMode::Virtual8086, PagingMode::Bits32, 3),
        (RealUnrestricted, CpuMode::Real, PagingMode::None, 0),
    ] {
        for load_efer in [false, true] {
            let state = on_max(kind, |s| if load_efer { s.on(Control::LOAD_EFER) } else { s.off(Control::LOAD_EFER) });
            let cpu = entered(&state).cpu;
            assert_eq!(
                (cpu.mode(), cpu.paging_mode(), cpu.cpl()),
                (mode, paging, cpl),
                "{kind:?}, load EFER {load_efer}"
            );
            assert_eq!(cpu.rip, state.get(Field::GUEST_RIP));
            assert_eq!(cpu.gpr[Gpr::Rsp], state.get(Field::GUEST_RSP));
            assert_eq!(cpu.rflags.bits(), state.get(Field::GUEST_RFLAGS));
        }
    }
}

/// KVM 3af3c95b81: CR0 and CR4 loaded one after the other met each other's dependencies. From a host with PCIDE and 4-level paging to a
/// guest without either.
#[test]
fn b_77_control_registers_are_loaded_at_once() {
    for kind in [Protected32, RealUnrestricted, Pae] {
        let state = on_max(kind, |_| ());
        let mut world = World::new(&state);
        world.cpu.cr4 |= Cr4::PCIDE;
        world.entered();
        assert_eq!(world.cpu.cr4.bits(), state.get(Field::GUEST_CR4), "{kind:?}");
        assert!(!world.cpu.efer.intersects(Efer::LMA), "{kind:?}");
    }
}

/// Nothing of the 26.3.1.1 checks is mended on the way: what the hypervisor wrote is what the guest has.
#[test]
fn b_04_cr0_and_cr4_are_loaded_as_written() {
    for bit in [Cr0::MP, Cr0::EM, Cr0::TS, Cr0::AM, Cr0::WP] {
        let state = on_max(Long64, |s| s.vmcs.update(Field::GUEST_CR0, |cr0| cr0 ^ bit.bits()));
        let written = Cr0::from_bits_retain(state.get(Field::GUEST_CR0));
        assert_eq!(entered(&state).cpu.cr0.intersection(bit), written.intersection(bit));
    }
    for bit in [Cr4::PSE, Cr4::PGE, Cr4::OSXSAVE, Cr4::SMEP, Cr4::SMAP, Cr4::UMIP] {
        let state = on_max(Long64, |s| s.vmcs.update(Field::GUEST_CR4, |cr4| cr4 ^ bit.bits()));
        assert_eq!(entered(&state).cpu.cr4.bits(), state.get(Field::GUEST_CR4));
    }
}

/// 26.3.2.1: ET, bits 15:6, 17 and 28:19, NW and CD are never modified.
#[test]
fn some_bits_of_cr0_are_the_hosts() {
    let never = 0x10 | 0xffc0 | 1 << 17 | 0x1ff8_0000 | 1 << 29 | 1 << 30;
    for host in [0, never] {
        for guest in [0, Cr0::NW.bits() | Cr0::CD.bits()] {
            let state = on_max(Long64, |s| s.set_bits(Field::GUEST_CR0, guest));
            let mut world = World::new(&state);
            world.cpu.cr0 = Cr0::from_bits_retain(world.cpu.cr0.bits() & !never | host);
            world.entered();
            assert_eq!(world.cpu.cr0.bits() & never, host);
            assert_eq!(world.cpu.cr0.bits() & !never, state.get(Field::GUEST_CR0) & !never);
        }
    }
}

/// 26.3.2.1: without "load IA32_EFER", LMA is "IA-32e mode guest", and LME too if CR0.PG will be 1; the other bits are the host's.
#[test]
fn efer_follows_the_mode_where_it_is_not_loaded() {
    let host = Efer::SCE | Efer::NXE | Efer::LME | Efer::LMA;
    for (kind, expected) in [
        (Long64, host),
        (Protected32, Efer::SCE | Efer::NXE),
        // CR0.PG is 0: LME is unmodified.
        (RealUnrestricted, Efer::SCE | Efer::NXE | Efer::LME),
    ] {
        let mut world = World::new(&on_max(kind, |s| s.off(Control::LOAD_EFER)));
        world.cpu.efer = host;
        world.entered();
        assert_eq!(world.cpu.efer, expected, "{kind:?}");
    }
    // A processor without Intel 64 architecture has nothing to modify.
    let core = profiles::CORE2.with_feature(Feature::LM, false);
    let mut world = World::new(&build(Protected32, &core));
    world.cpu.efer = Efer::NXE;
    world.entered();
    assert_eq!(world.cpu.efer, Efer::NXE);
}

#[test]
fn what_no_field_holds_stays_the_hosts() {
    let state = on_max(Long64, |_| ());
    let mut world = World::new(&state);
    for (n, register) in Gpr::ALL.into_iter().enumerate() {
        world.cpu.gpr[register] = 0x100 + n as u64;
    }
    world.cpu.cr2.0 = 0x2222;
    world.cpu.cr8 = 5;
    world.cpu.dr = [1, 2, 3, 4];
    world.cpu.star = 0x57a2;
    world.cpu.kernel_gs_base = 0x6500;
    world.cpu.xss = 0x100;
    world.cpu.pkru = 0x55;
    world.cpu.smbase = 0xa_0000;
    let host = world.cpu;
    world.entered();
    let guest = world.cpu;
    for register in Gpr::ALL.into_iter().filter(|register| *register != Gpr::Rsp) {
        assert_eq!(guest.gpr[register], host.gpr[register]);
    }
    assert_eq!((guest.cr2, guest.cr8, guest.dr, guest.dr6), (host.cr2, host.cr8, host.dr, host.dr6));
    assert_eq!((guest.star, guest.kernel_gs_base, guest.xss), (host.star, host.kernel_gs_base, host.xss));
    assert_eq!((guest.pkru, guest.smbase, guest.xcr0), (host.pkru, host.smbase, host.xcr0));
}

#[test]
fn sysenter_and_descriptor_tables_are_always_loaded() {
    let cpu = entered(&on_max(Long64, |s| {
        s.set(Field::GUEST_IA32_SYSENTER_CS, 0xffff_fff8);
        s.set(Field::GUEST_IA32_SYSENTER_ESP, 0xffff_8000_0000_1000);
        s.set(Field::GUEST_IA32_SYSENTER_EIP, 0xffff_8000_0000_2000);
        s.set(Field::GUEST_GDTR_BASE, 0xffff_8000_0000_3000);
        s.set(Field::GUEST_GDTR_LIMIT, 0xabcd);
        s.set(Field::GUEST_IDTR_BASE, 0xffff_8000_0000_4000);
        s.set(Field::GUEST_IDTR_LIMIT, 0x1fff);
    }))
    .cpu;
    assert_eq!(cpu.sysenter_cs, 0xffff_fff8);
    assert_eq!((cpu.sysenter_esp, cpu.sysenter_eip), (0xffff_8000_0000_1000, 0xffff_8000_0000_2000));
    assert_eq!((cpu.gdtr.base, cpu.gdtr.limit), (0xffff_8000_0000_3000, 0xabcd));
    assert_eq!((cpu.idtr.base, cpu.idtr.limit), (0xffff_8000_0000_4000, 0x1fff));
}

#[test]
fn usable_segments_are_loaded_as_they_are() {
    for kind in [Long64, Protected32, Virtual8086, RealUnrestricted] {
        let state = on_max(kind, |_| ());
        let cpu = entered(&state).cpu;
        for register in SegmentRegister::ALL.into_iter().filter(|register| *register != SegmentRegister::Ldtr) {
            let segment = cpu.segments[register];
            assert_eq!(
                u64::from(segment.selector.0),
                state.get(Field::guest_selector(register)),
                "{kind:?} {register:?}"
            );
            assert_eq!(segment.base, state.get(Field::guest_base(register)), "{kind:?} {register:?}");
            assert_eq!(u64::from(segment.limit), state.get(Field::guest_limit(register)), "{kind:?} {register:?}");
            assert_eq!(
                u64::from(segment.rights.0),
                state.get(Field::guest_access_rights(register)),
                "{kind:?} {register:?}"
            );
        }
    }
}

/// 26.3.2.2: the exceptions to "undefined".
#[test]
fn unusable_segments_keep_what_the_manual_defines() {
    use SegmentRegister::{Ds, Es, Fs, Gs, Ldtr, Ss};
    const UNUSABLE: u32 = 1 << 16;
    let cpu = entered(&on_max(Long64, |s| {
        for register in [Es, Ss, Ds, Fs, Gs, Ldtr] {
            s.set_rights(register, 0xffff_0f00 | UNUSABLE);
            s.set(Field::guest_base(register), 0x1234_5678_9abc_def7);
        }
        // Checked even if unusable.
        s.set(Field::GUEST_FS_BASE, 0xffff_8000_0000_0001);
        s.set(Field::GUEST_GS_BASE, 0xffff_8000_0000_0003);
    }))
    .cpu;
    let base = |register: SegmentRegister| cpu.segments[register].base;
    assert_eq!(base(Ss), 0x9abc_def0, "bits 3:0 and 63:32 are cleared");
    assert_eq!((base(Ds), base(Es)), (0x9abc_def7, 0x9abc_def7), "bits 63:32 are cleared");
    assert_eq!((base(Fs), base(Gs)), (0xffff_8000_0000_0001, 0xffff_8000_0000_0003));
    assert_eq!(base(Ldtr), 0, "some canonical address");
    assert!(cpu.segments[Ss].rights.db(), "SS.B is always 1");
    assert_eq!(cpu.cpl(), 0);
    for register in [Es, Ss, Ds, Fs, Gs, Ldtr] {
        let rights = cpu.segments[register].rights;
        assert!(rights.unusable() && rights.0 & 0xfffe_0f00 == 0, "{register:?}");
    }
}

/// B-29 is about SVM; VMX has the same question: which tables do the PDPTEs of the guest come from? With EPT from no table at all.
#[test]
fn b_29_pdptes_come_from_the_vmcs_with_ept_and_from_memory_without() {
    let words = [0x1_1001, 0x1_2001, 0, 0x1_4001];
    let fields = [0x2_1001, 0, 0x2_3001, 0x2_4001];
    for ept in [false, true] {
        let state = on_max(Pae, |s| {
            if ept {
                enable_ept(s);
            }
            for (n, word) in (0..).zip(words) {
                s.memory.set(PDPT_ADDRESS + 8 * n, word);
            }
            s.set(Field::GUEST_PDPTE0, fields[0]);
            s.set(Field::GUEST_PDPTE1, fields[1]);
            s.set(Field::GUEST_PDPTE2, fields[2]);
            s.set(Field::GUEST_PDPTE3, fields[3]);
            // Bits 4:0 do not belong to the address of the table.
            s.set_bits(Field::GUEST_CR3, 0x18);
        });
        assert_eq!(entered(&state).cpu.pdptes, if ept { fields } else { words }, "EPT {ept}");
    }
}

#[test]
fn pdptes_stay_without_pae_paging() {
    for kind in [Long64, Protected32, RealUnrestricted] {
        let mut world = World::new(&on_max(kind, |_| ()));
        world.cpu.pdptes = [1, 2, 3, 4];
        world.entered();
        assert_eq!(world.cpu.pdptes, [1, 2, 3, 4], "{kind:?}");
    }
}
