//! What do the MSR lists of VM entry and VM exit load and store, and does loading agree with the rules? (SDM 3C 26.4, 27.4, 27.6)

use crate::world::{Memory, Registers, TSC, World};
use vmx_model::builder::build;
use vmx_model::msr_list::{
    MsrList, load_at_entry, load_at_exit, most_entries, read_register, store_at_exit, write_register,
};
use vmx_model::rules::GuestKind::Long64;
use vmx_model::rules::first_failing_msr_entry;
use vmx_model::{EntryState, Field, Vmx, check_entry};
use x86_state::{Cpu, CpuProfile, Efer, Hpa, Msr, NoMsrs, PhysMemory, Platform, VmxMsr, profiles};

const LIST: u64 = 0x6000;
const NOISE: u64 = 0x0bad_0bad_0bad_0bad;

/// The list with these entries (low word, value) in memory, in a 64-bit host on a processor.
fn world(profile: &CpuProfile, entries: &[(u64, u64)]) -> (World, MsrList) {
    let mut state = build(Long64, profile);
    for (n, (low, value)) in (0..).zip(entries) {
        state.memory.set(LIST + 16 * n, *low);
        state.memory.set(LIST + 16 * n + 8, *value);
    }
    (World::new(&state), MsrList { address: Hpa(LIST), count: entries.len() as u32 })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    EntryLoad,
    ExitLoad,
    ExitStore,
}

use Direction::{EntryLoad, ExitLoad, ExitStore};

fn process(world: &mut World, list: MsrList, direction: Direction, with_registers: bool) -> Result<(), u32> {
    world.msrs.all = with_registers;
    let platform = Platform { profile: &world.profile, memory: &world.memory, msrs: &world.msrs, tsc: TSC };
    match direction {
        EntryLoad => load_at_entry(&mut world.cpu, &mut world.vmx, &platform, list),
        ExitLoad => load_at_exit(&mut world.cpu, &mut world.vmx, &platform, list),
        ExitStore => store_at_exit(&world.cpu, &world.vmx, &platform, list),
    }
}

fn low(msr: Msr) -> u64 {
    u64::from(msr.0)
}

/// The failures that 26.4, 27.4 and 27.6 name, each as the second entry. `None` where the direction has no such failure.
#[test]
fn each_cause_fails_with_the_number_of_the_entry() {
    for (name, entry, fails_in) in [
        ("harmless", (low(Msr::LSTAR), 0), &[][..]),
        ("FS base", (low(Msr::FS_BASE), 0), &[EntryLoad, ExitLoad]),
        ("GS base", (low(Msr::GS_BASE), 0), &[EntryLoad, ExitLoad]),
        ("x2APIC", (0x808, 0), &[EntryLoad, ExitLoad, ExitStore]),
        ("end of x2APIC", (0x8ff, 0), &[EntryLoad, ExitLoad, ExitStore]),
        ("written in SMM only", (low(Msr::SMM_MONITOR_CTL), 0), &[EntryLoad, ExitLoad]),
        ("read in SMM only", (low(Msr::SMBASE), 0), &[EntryLoad, ExitLoad, ExitStore]),
        ("microcode", (low(Msr::BIOS_SIGN_ID), 0), &[EntryLoad, ExitLoad, ExitStore]),
        ("bits 63:32", (1 << 32 | low(Msr::LSTAR), 0), &[EntryLoad, ExitLoad, ExitStore]),
        ("#GP of WRMSR by value", (low(Msr::LSTAR), 1 << 63), &[EntryLoad, ExitLoad]),
        ("read-only", (low(Msr::VMX_BASIC), 0), &[EntryLoad, ExitLoad]),
        ("locked", (low(Msr::FEATURE_CONTROL), 5), &[EntryLoad, ExitLoad]),
        ("write-only", (low(Msr::PRED_CMD), 0), &[ExitStore]),
    ] {
        for direction in [EntryLoad, ExitLoad, ExitStore] {
            let (mut world, list) = world(&profiles::MAX, &[(low(Msr::STAR), 7), entry, (low(Msr::CSTAR), 9)]);
            let result = process(&mut world, list, direction, true);
            let fails = fails_in.contains(&direction);
            assert_eq!(result, if fails { Err(2) } else { Ok(()) }, "{name}, {direction:?}");
            // The entry before is processed, the one behind only without failure.
            if direction == ExitStore {
                assert_eq!(world.memory.word(LIST + 8), 0, "{name}: STAR of reset");
                assert_eq!(world.memory.word(LIST + 40), if fails { 9 } else { 0 }, "{name}");
            } else {
                assert_eq!((world.cpu.star, world.cpu.cstar), (7, if fails { 0 } else { 9 }), "{name}, {direction:?}");
            }
        }
    }
}

/// Bochs drops IA32_TIME_STAMP_COUNTER from MSR-store lists without a word.
#[test]
fn the_time_stamp_counter_is_stored_unscaled() {
    let (mut world, list) = world(&profiles::MAX, &[(low(Msr::TSC), NOISE)]);
    world.vmx.vmcs.set(Field::TSC_OFFSET, 0x1000);
    assert_eq!(process(&mut world, list, ExitStore, false), Ok(()));
    assert_eq!((world.memory.word(LIST), world.memory.word(LIST + 8)), (low(Msr::TSC), TSC));
}

#[test]
fn a_load_of_the_time_stamp_counter_goes_to_its_owner() {
    for direction in [EntryLoad, ExitLoad] {
        let (mut world, list) = world(&profiles::MAX, &[(low(Msr::TSC), 5)]);
        assert_eq!(process(&mut world, list, direction, true), Ok(()));
        assert_eq!(world.msrs.written.get(), Some((Msr::TSC, 5)));
        assert_eq!(process(&mut world, list, direction, false), Err(1), "nobody takes it");
    }
}

#[test]
fn stores_take_registers_from_where_they_live() {
    let entries = [Msr::FS_BASE, Msr::GS_BASE, Msr::EFER, Msr::FEATURE_CONTROL, Msr::VMX_BASIC, Msr::PAT, Msr(0xc1)];
    let words = entries.map(|msr| (low(msr), NOISE));
    let (mut world, list) = world(&profiles::MAX, &words);
    world.cpu.segments[x86_state::SegmentRegister::Fs].base = 0xf5;
    world.cpu.segments[x86_state::SegmentRegister::Gs].base = 0x65;
    world.cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
    world.vmx.feature_control = 5;
    world.msrs.written.set(Some((Msr(0xc1), 0xc0c0)));
    assert_eq!(process(&mut world, list, ExitStore, true), Ok(()));
    let basic = profiles::MAX.vmx(VmxMsr::Basic).unwrap();
    let expected = [0xf5, 0x65, 0xd00, 5, basic, Cpu::PAT_RESET, 0xc0c0];
    for ((n, value), msr) in (0..).zip(expected).zip(entries) {
        assert_eq!(world.memory.word(LIST + 16 * n + 8), value, "{msr:?}");
        assert_eq!(world.memory.word(LIST + 16 * n), low(msr), "the index stays");
    }
}

/// A register that the table accepts, or cannot judge, and that nobody keeps.
#[test]
fn a_register_without_a_home_fails() {
    // A counter (accepted), a number without a row (unknown), IA32_MISC_ENABLE (unknown values).
    for msr in [Msr(0xc1), Msr(0xdead), Msr::MISC_ENABLE] {
        for direction in [EntryLoad, ExitLoad, ExitStore] {
            for (registers, expected) in [(false, Err(1)), (true, Ok(()))] {
                let (mut world, list) = world(&profiles::MAX, &[(low(msr), 1)]);
                assert_eq!(process(&mut world, list, direction, registers), expected, "{msr:?} {direction:?}");
            }
        }
    }
}

/// What WRMSR refuses depends on what the entries before have loaded.
#[test]
fn an_entry_meets_the_state_that_earlier_ones_leave() {
    let start = (low(Msr::RTIT_CTL), 1 | 1 << 8);
    let cr3_match = (low(Msr::RTIT_CR3_MATCH), 0);
    for direction in [EntryLoad, ExitLoad] {
        let (mut before, list) = world(&profiles::MAX, &[cr3_match, start]);
        assert_eq!(process(&mut before, list, direction, true), Ok(()));
        let (mut after, list) = world(&profiles::MAX, &[start, cr3_match]);
        assert_eq!(process(&mut after, list, direction, true), Err(2));
    }
}

/// With IA32_LBR_DEPTH 8 there are records 0 to 7. The registers outside the processor begin at 0.
#[test]
fn branch_records_exist_up_to_the_depth_that_is_loaded() {
    let depth = (low(Msr::LBR_DEPTH), 8);
    for (entries, result) in
        [(vec![(0x1500, 0)], Err(1)), (vec![depth, (0x1507, 0)], Ok(())), (vec![depth, (0x1508, 0)], Err(2))]
    {
        let (mut world, list) = world(&profiles::MAX, &entries);
        assert_eq!(process(&mut world, list, EntryLoad, true), result, "{entries:x?}");
    }
}

/// LMA is ignored; LME cannot change while paging is on (26.4, footnotes 1 and 2).
#[test]
fn efer_keeps_lma_and_lme() {
    for (value, result) in [(0xd01, Ok(())), (0x901, Ok(())), (0x801, Err(1)), (0x1_0901, Err(1))] {
        let (mut world, list) = world(&profiles::MAX, &[(low(Msr::EFER), value)]);
        let before = world.cpu.efer;
        assert_eq!(process(&mut world, list, EntryLoad, true), result, "{value:#x}");
        let expected = if result.is_ok() { Efer::from_bits_retain(0xd01) } else { before };
        assert_eq!(world.cpu.efer, expected);
    }
}

/// A long list: each entry the same harmless register.
struct Endless;

impl PhysMemory for Endless {
    fn read_u8(&self, address: Hpa) -> u8 {
        (self.read_u64(Hpa(address.0 & !7)) >> (8 * (address.0 & 7))) as u8
    }
    fn write_u8(&self, _: Hpa, _: u8) {}
    fn read_u64(&self, address: Hpa) -> u64 {
        if address.0 & 8 == 0 { low(Msr::STAR) } else { address.0 }
    }
}

/// IA32_VMX_MISC[27:25] recommends 512 * (N + 1) entries; the entry behind them fails, whatever the 32-bit count.
#[test]
fn lists_are_bounded_by_the_recommended_maximum() {
    let misc = profiles::MAX.vmx(VmxMsr::Misc).unwrap() & !(7 << 25);
    for (capability, most) in [(Some(misc), 512), (Some(misc | 2 << 25), 1536), (None, 4096)] {
        let profile = profiles::MAX.with_vmx(VmxMsr::Misc, capability);
        assert_eq!(most_entries(&profile), most);
        let platform = Platform { profile: &profile, memory: &Endless, msrs: &NoMsrs, tsc: 0 };
        for (count, expected) in [(0, Ok(())), (most, Ok(())), (most + 1, Err(most + 1)), (u32::MAX, Err(most + 1))] {
            let list = MsrList { address: Hpa(u64::MAX - 0xf), count };
            let (mut cpu, mut vmx) = (Cpu::reset(0), Vmx::new(&profile));
            assert_eq!(load_at_entry(&mut cpu, &mut vmx, &platform, list), expected);
            assert_eq!(load_at_exit(&mut cpu, &mut vmx, &platform, list), expected);
            assert_eq!(store_at_exit(&cpu, &vmx, &platform, list), expected);
            // The last entry processed; addresses wrap.
            let last = 16 * u64::from(count.min(most));
            assert_eq!(cpu.star, if count == 0 { 0 } else { last.wrapping_sub(16 + 8) });
        }
    }
}

/// Nothing behind the count is read or written.
#[test]
fn entries_behind_the_count_are_left_alone() {
    for direction in [EntryLoad, ExitLoad, ExitStore] {
        let (mut world, list) = world(&profiles::MAX, &[(low(Msr::STAR), 7), (0x808, 0)]);
        assert_eq!(process(&mut world, MsrList { count: 1, ..list }, direction, true), Ok(()));
    }
}

#[test]
fn lists_are_where_the_vmcs_says() {
    let mut vmcs = vmx_model::Vmcs::new();
    for (n, field) in (1..).zip([
        Field::VM_ENTRY_MSR_LOAD_ADDRESS,
        Field::VM_ENTRY_MSR_LOAD_COUNT,
        Field::VM_EXIT_MSR_STORE_ADDRESS,
        Field::VM_EXIT_MSR_STORE_COUNT,
        Field::VM_EXIT_MSR_LOAD_ADDRESS,
        Field::VM_EXIT_MSR_LOAD_COUNT,
    ]) {
        vmcs.set(field, n);
    }
    for (list, address, count) in
        [(MsrList::entry_load(&vmcs), 1, 2), (MsrList::exit_store(&vmcs), 3, 4), (MsrList::exit_load(&vmcs), 5, 6)]
    {
        assert_eq!(list, MsrList { address: Hpa(address), count });
    }
}

/// UINV is bits 39:32 of IA32_UINTR_MISC and lives in the processor; the rest lives elsewhere.
#[test]
fn uinv_is_a_part_of_a_register() {
    let (mut world, _) = world(&profiles::MAX, &[]);
    let platform = Platform { profile: &world.profile, memory: &world.memory, msrs: &world.msrs, tsc: 0 };
    assert!(write_register(&mut world.cpu, &mut world.vmx, &platform, Msr(0x988), 0x33_0000_0010));
    assert_eq!(world.cpu.uinv, 0x33);
    world.cpu.uinv = 0x44;
    assert_eq!(read_register(&world.cpu, &world.vmx, &platform, Msr(0x988)), Some(0x44_0000_0010));
}

/// One mechanism: where the rules decide, loading does the same, for every register and values that matter.
#[test]
fn loading_agrees_with_the_rules_for_every_register() {
    let registers = (0..0x2000).chain(0xc000_0000..0xc000_0200).chain([0x4000_0000, u32::MAX]);
    for profile in [&profiles::MAX, &profiles::SKYLAKE_SP, &profiles::CORE2, &profiles::KVM] {
        for msr in registers.clone() {
            for value in [0, 1, 0x500, 0x0606_0606_0606_0606, 1 << 47, u64::MAX] {
                let mut state: EntryState = build(Long64, profile);
                state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
                state.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
                state.memory.set(LIST, u64::from(msr));
                state.memory.set(LIST + 8, value);
                let rule = first_failing_msr_entry(&state);
                let decided = check_entry(&state).unknown().all(|rule| !rule.row().id.starts_with("msr."));

                let mut world = World::new(&state);
                let result = world.enter();
                let loaded = match result {
                    vmx_model::entry::Entry::Entered(_) => None,
                    _ => Some(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION) as u32),
                };
                if decided || rule.is_some() {
                    assert_eq!(loaded, rule, "{:?} {value:#x} on {}", Msr(msr), profile.name());
                }
            }
        }
    }
}

#[test]
fn memory_and_registers_of_the_tests_are_what_they_seem() {
    let (world, _) = world(&profiles::MAX, &[(1, 2)]);
    let memory: &Memory = &world.memory;
    assert_eq!((memory.read_u64(Hpa(LIST)), memory.read_u32(Hpa(LIST + 8))), (1, 2));
    assert!(!x86_state::MsrFile::write(&Registers::default(), Msr(1), 1));
}
