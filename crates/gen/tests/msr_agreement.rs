//! Does the MSR table answer the same for WRMSR and RDMSR as for the lists of VM entry and VM exit, register by register?

use softvirt_gen::{EveryMsr, Sparse};
use vmx_model::Vmx;
use vmx_model::msr_list::{MsrList, load_at_entry, load_at_exit, read_register, store_at_exit, write_register};
use vmx_model::state::Words;
use x86_state::msr::{check_read, check_write, table};
use x86_state::profile::MicrocodeMsrs;
use x86_state::{Cpu, CpuProfile, Hpa, Msr, MsrAnswer, PhysMemory, Platform, profiles};

const LIST: MsrList = MsrList { address: Hpa(0x1000), count: 1 };

/// Registers that MSR lists treat otherwise than RDMSR and WRMSR do (SDM 3C 26.4, 27.4, 27.6): the first and the last one of a range, whether
/// loads and stores differ, and why. The answers agree on everything else.
const DIFFERENCES: [(u32, u32, bool, bool, &str); 3] = [
    (0x800, 0x8ff, true, true, "bits 31:8 of the index are 8: no register of the local APIC stands in a list"),
    (0xc000_0100, 0xc000_0100, true, false, "IA32_FS_BASE has a field in the guest-state and in the host-state area"),
    (0xc000_0101, 0xc000_0101, true, false, "IA32_GS_BASE, likewise"),
];

/// Registers that a processor may refuse in lists for itself: 26.4 gives IA32_BIOS_UPDT_TRIG, 27.4 IA32_BIOS_SIGN_ID as an example. Whether
/// it does is a knob of the profile.
const REFUSED: [u32; 2] = [0x79, 0x8b];

fn differs(profile: &CpuProfile, msr: Msr, load: bool) -> bool {
    let refused = profile.knobs().microcode_msrs == MicrocodeMsrs::RefusedInLists && REFUSED.contains(&msr.0);
    refused
        || DIFFERENCES.iter().any(|&(first, last, loads, stores, _)| {
            (first..=last).contains(&msr.0) && if load { loads } else { stores }
        })
}

/// Every register of the table, and numbers without one at the edges of its rows; of long rows both ends.
fn registers() -> Vec<Msr> {
    let mut registers = Vec::new();
    for row in table::TABLE {
        registers.push(row.first.wrapping_sub(1));
        if row.last - row.first < 0x200 {
            registers.extend(row.first..=row.last);
        } else {
            registers.extend([row.first, row.first + 1, row.last - 1, row.last]);
        }
        registers.push(row.last.wrapping_add(1));
    }
    registers.sort_unstable();
    registers.dedup();
    registers.into_iter().map(Msr).collect()
}

/// Values that some register or other refuses: reserved bits, no address, no memory type, a mode that cannot be reached.
const VALUES: [u64; 12] = [
    0,
    1,
    0x500,
    0xd01,
    0x0007_0406_0007_0406,
    0xfee0_0900,
    0xfee0_0d00,
    0x8000_0000_0000_0000,
    0xffff_8000_0000_0000,
    0x0000_8000_0000_0000,
    0xffff_ffff,
    u64::MAX,
];

fn each_case(mut test: impl FnMut(&CpuProfile, &Cpu, Msr)) {
    for profile in profiles::ALL {
        for in_smm in [false, true] {
            let mut cpu = Cpu::reset(0);
            cpu.in_smm = in_smm;
            for msr in registers() {
                test(profile, &cpu, msr);
            }
        }
    }
}

#[test]
fn a_list_loads_what_wrmsr_writes_and_refuses_what_it_refuses() {
    let mut answers = [0_u32; 3];
    each_case(|profile, cpu, msr| {
        for value in VALUES {
            let mut context = cpu.msr_context(profile);
            context.in_vmx_operation = Some(true);
            context.lbr_depth = Some(0);
            let wrmsr = check_write(msr, value, &context);
            let mut words = Words::EMPTY;
            assert!(words.set(LIST.address.0, u64::from(msr.0)) && words.set(LIST.address.0 + 8, value));
            let memory = Sparse::new(words, 0xff);
            let platform = Platform { profile, memory: &memory, msrs: &EveryMsr, tsc: 7 };
            for at_entry in [true, false] {
                let (mut after, mut vmx) = (*cpu, Vmx::new(profile));
                let loaded = if at_entry {
                    load_at_entry(&mut after, &mut vmx, &platform, LIST)
                } else {
                    load_at_exit(&mut after, &mut vmx, &platform, LIST)
                };
                let (mut written, mut written_vmx) = (*cpu, Vmx::new(profile));
                let expected = if differs(profile, msr, true) {
                    Err(1)
                } else {
                    match wrmsr {
                        MsrAnswer::Faults(_) => Err(1),
                        // Where the table cannot tell the register's home decides, and here every register has one.
                        MsrAnswer::Accepts | MsrAnswer::Unknown(_) => {
                            assert!(write_register(&mut written, &mut written_vmx, &platform, msr, value), "{msr:?}");
                            Ok(())
                        }
                    }
                };
                assert_eq!(loaded, expected, "{msr:?} = {value:#x} on {}: WRMSR {wrmsr:?}", profile.name());
                assert!(after == written && vmx == written_vmx, "{msr:?} = {value:#x} on {}", profile.name());
            }
            answers[match wrmsr {
                MsrAnswer::Accepts => 0,
                MsrAnswer::Faults(_) => 1,
                MsrAnswer::Unknown(_) => 2,
            }] += 1;
        }
    });
    assert!(answers.iter().all(|&count| count > 1000), "{answers:?}");
}

#[test]
fn a_list_stores_what_rdmsr_reads_and_refuses_what_it_refuses() {
    let mut answers = [0_u32; 3];
    each_case(|profile, cpu, msr| {
        let mut context = cpu.msr_context(profile);
        context.lbr_depth = Some(0);
        let rdmsr = check_read(msr, &context);
        let mut words = Words::EMPTY;
        assert!(words.set(LIST.address.0, u64::from(msr.0)) && words.set(LIST.address.0 + 8, 0xabcd));
        let memory = Sparse::new(words, 0xff);
        let platform = Platform { profile, memory: &memory, msrs: &EveryMsr, tsc: 7 };
        let vmx = Vmx::new(profile);
        let stored = store_at_exit(cpu, &vmx, &platform, LIST);
        let refused = differs(profile, msr, false) || matches!(rdmsr, MsrAnswer::Faults(_));
        assert_eq!(stored, if refused { Err(1) } else { Ok(()) }, "{msr:?} on {}: RDMSR {rdmsr:?}", profile.name());
        let value = read_register(cpu, &vmx, &platform, msr).filter(|_| !refused).unwrap_or(0xabcd);
        assert_eq!(memory.read_u64(Hpa(LIST.address.0 + 8)), value, "{msr:?} on {}", profile.name());
        answers[match rdmsr {
            MsrAnswer::Accepts => 0,
            MsrAnswer::Faults(_) => 1,
            MsrAnswer::Unknown(_) => 2,
        }] += 1;
    });
    assert!(answers.iter().all(|&count| count > 100), "{answers:?}");
}

#[test]
fn a_list_refuses_an_entry_with_reserved_bits_whatever_the_register() {
    for profile in profiles::ALL {
        let cpu = Cpu::reset(0);
        let mut words = Words::EMPTY;
        assert!(words.set(LIST.address.0, 1 << 32 | u64::from(Msr::SYSENTER_CS.0)));
        let memory = Sparse::new(words, 0);
        let platform = Platform { profile, memory: &memory, msrs: &EveryMsr, tsc: 0 };
        let (mut after, mut vmx) = (cpu, Vmx::new(profile));
        assert_eq!(load_at_entry(&mut after, &mut vmx, &platform, LIST), Err(1));
        assert_eq!(load_at_exit(&mut after, &mut vmx, &platform, LIST), Err(1));
        assert_eq!(store_at_exit(&cpu, &vmx, &platform, LIST), Err(1));
    }
}
