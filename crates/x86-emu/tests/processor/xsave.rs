//! The XSAVE feature set, and what CPUID says of it.

use crate::world::{Machine, PT};
use x86_emu::Stop;
use x86_emu::cpuid;
use x86_emu::x87::X87;
use x86_emu::xsave;
use x86_state::{Cr0, Cr4, Exception, Gpr, Xcr0, profiles};

const AREA: u64 = 0x1000;
const HEADER: u64 = AREA + 512;
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x20];
const XSAVEOPT64: &[u8] = &[0x48, 0x0f, 0xae, 0x30];
const XSAVEC64: &[u8] = &[0x48, 0x0f, 0xc7, 0x20];
const XSAVES64: &[u8] = &[0x48, 0x0f, 0xc7, 0x28];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x28];
const XRSTORS64: &[u8] = &[0x48, 0x0f, 0xc7, 0x18];
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const COMPACTED: u64 = 1 << 63;
/// Where PKRU is in the standard format.
const PKRU: u64 = AREA + 0xa80;
/// In the compacted format, alone.
const PKRU_COMPACTED: u64 = AREA + 576;
/// x87, SSE, PKRU.
const ALL: u64 = 0x203;

/// The same with its area at [RDI]: RAX is the instruction mask.
fn at_rdi(code: &[u8]) -> Vec<u8> {
    let mut code = code.to_vec();
    if let Some(modrm) = code.last_mut() {
        *modrm |= 7;
    }
    code
}

fn machine() -> Machine {
    let mut machine = Machine::long64();
    machine.cpu().cr4 |= Cr4::OSXSAVE;
    machine.cpu().xcr0 = Xcr0::from_bits_retain(ALL);
    machine.cpu().gpr[Gpr::Rax] = 0xffff_ffff;
    machine.cpu().gpr[Gpr::Rdx] = 0xffff_ffff;
    machine.cpu().gpr[Gpr::Rdi] = AREA;
    machine.processor.state.x87 = X87::INITIAL;
    machine
}

fn attempt(machine: &mut Machine, code: &[u8]) -> Result<(), Stop> {
    machine.attempt(&at_rdi(code))
}

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

const FAMILY: [&[u8]; 6] = [XSAVE64, XSAVEOPT64, XSAVEC64, XSAVES64, XRSTOR64, XRSTORS64];

#[test]
fn without_osxsave_all_are_undefined() {
    for code in FAMILY {
        let mut machine = machine();
        machine.cpu().cr4.remove(Cr4::OSXSAVE);
        assert_eq!(exception(attempt(&mut machine, code)), Some(Exception::UD), "{code:02x?}");
    }
}

#[test]
fn after_a_task_switch_there_is_no_device() {
    for code in FAMILY {
        let mut machine = machine();
        machine.cpu().cr0 |= Cr0::TS;
        machine.cpu().gpr[Gpr::Rdi] = AREA + 1;
        assert_eq!(exception(attempt(&mut machine, code)), Some(Exception::NM), "{code:02x?}");
    }
}

#[test]
fn an_area_that_is_not_aligned_to_64_bytes_is_a_general_protection_fault() {
    for code in FAMILY {
        let mut machine = machine();
        machine.cpu().gpr[Gpr::Rdi] = AREA + 16;
        assert_eq!(exception(attempt(&mut machine, code)), Some(Exception::GP), "{code:02x?}");
    }
}

#[test]
fn a_user_may_not_execute_the_supervisors_forms() {
    for (code, expected) in [(XSAVES64, Some(Exception::GP)), (XRSTORS64, Some(Exception::GP)), (XSAVEC64, None)] {
        let mut machine = machine();
        machine.enter_user();
        assert_eq!(exception(attempt(&mut machine, code)), expected, "{code:02x?}");
    }
}

#[test]
fn xsave_saves_what_is_asked_for_even_if_it_is_initial() {
    let mut machine = machine();
    machine.set_u64(AREA, 0x7777);
    machine.set_u64(AREA + 160, 0x7777);
    machine.set_u64(HEADER, 0xf000_0000_0000_0003);
    machine.set_u64(HEADER + 8, 0x5555);
    machine.cpu().pkru = 0x5555_5554;
    assert_eq!(attempt(&mut machine, XSAVE64), Ok(()));
    assert_eq!(machine.u64(AREA), 0x037f);
    assert_eq!(machine.u64(AREA + 160), 0);
    assert_eq!(machine.u64(HEADER), 0xf000_0000_0000_0200, "bits that are not asked for stay");
    assert_eq!(machine.u64(HEADER + 8), 0x5555, "XCOMP_BV is not written");
    assert_eq!(machine.u64(PKRU), 0x5555_5554);
}

#[test]
fn xsave_leaves_what_is_not_asked_for() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rax] = 1;
    machine.set_u64(AREA + 24, 0x7777);
    machine.set_u64(PKRU, 0x7777);
    machine.cpu().pkru = 4;
    assert_eq!(attempt(&mut machine, XSAVE64), Ok(()));
    assert_eq!((machine.u64(AREA + 24), machine.u64(PKRU)), (0x7777, 0x7777));
}

#[test]
fn xsaveopt_does_not_write_initial_state_but_mxcsr() {
    let mut machine = machine();
    machine.set_u64(AREA, 0x7777);
    machine.set_u64(AREA + 160, 0x7777);
    machine.processor.state.mxcsr = 0x1fa0;
    assert_eq!(attempt(&mut machine, XSAVEOPT64), Ok(()));
    assert_eq!((machine.u64(AREA), machine.u64(AREA + 160)), (0x7777, 0x7777));
    assert_eq!(machine.u32(AREA + 24), 0x1fa0);
    assert_eq!(machine.u64(HEADER), 0, "MXCSR is not a part of XINUSE");
}

#[test]
fn xsavec_compacts_and_counts_mxcsr_as_sse_state() {
    let mut machine = machine();
    machine.set_u64(AREA + 160, 0x7777);
    machine.processor.state.mxcsr = 0x1fa0;
    machine.cpu().pkru = 8;
    assert_eq!(attempt(&mut machine, XSAVEC64), Ok(()));
    assert_eq!((machine.u64(HEADER), machine.u64(HEADER + 8)), (0x202, ALL | COMPACTED));
    assert_eq!((machine.u32(AREA + 24), machine.u64(AREA + 160)), (0x1fa0, 0));
    assert_eq!(machine.u64(PKRU_COMPACTED), 8);
}

#[test]
fn a_page_of_the_area_that_is_read_only_leaves_it_as_it_was() {
    let mut machine = machine();
    machine.set_u64(PT + 8 * 3, 0x3000 | 5);
    machine.cpu().gpr[Gpr::Rdi] = 0x2dc0;
    machine.processor.state.xmm[0] = 5;
    machine.cpu().pkru = 8;
    assert_eq!(exception(attempt(&mut machine, XSAVEC64)), Some(Exception::PF));
    assert_eq!(machine.u64(0x2dc0 + 160), 0);
}

#[test]
fn xrstor_takes_back_what_each_form_saved() {
    for (save, restore) in
        [(XSAVE64, XRSTOR64), (XSAVEOPT64, XRSTOR64), (XSAVEC64, XRSTOR64), (XSAVES64, XRSTOR64), (XSAVES64, XRSTORS64)]
    {
        let mut machine = machine();
        let state = &mut machine.processor.state;
        state.xmm = std::array::from_fn(|n| n as u128 + 5);
        state.mxcsr = 0x3fbf;
        state.x87 = X87 { control: 0x0340, status: 3 << 11, occupied: 0x5a, instruction: 1 << 40, ..X87::INITIAL };
        state.x87.registers[2] = 0x4000 << 64 | 3;
        state.cpu.pkru = 0x5555_5550;
        let saved = state.clone();
        assert_eq!(attempt(&mut machine, save), Ok(()), "{save:02x?}");
        let state = &mut machine.processor.state;
        (state.xmm, state.mxcsr, state.x87, state.cpu.pkru) = ([1; 16], 0x1f80, X87::POWER_UP, 0);
        assert_eq!(attempt(&mut machine, restore), Ok(()), "{save:02x?} {restore:02x?}");
        let state = &machine.processor.state;
        assert_eq!(
            (state.xmm, state.mxcsr, state.x87, state.cpu.pkru),
            (saved.xmm, saved.mxcsr, saved.x87, saved.cpu.pkru),
            "{save:02x?}"
        );
    }
}

fn used(machine: &mut Machine) {
    let state = &mut machine.processor.state;
    (state.xmm, state.mxcsr, state.x87, state.cpu.pkru) = ([9; 16], 0x3f80, X87::POWER_UP, 8);
}

#[test]
fn the_standard_form_initializes_what_is_not_in_the_area_but_loads_mxcsr() {
    let mut machine = machine();
    used(&mut machine);
    machine.set_u32(AREA + 24, 0x1fbf);
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
    let state = &machine.processor.state;
    assert_eq!((state.xmm, state.x87, state.cpu.pkru, state.mxcsr), ([0; 16], X87::INITIAL, 0, 0x1fbf));
}

#[test]
fn the_compacted_form_initializes_mxcsr_too() {
    let mut machine = machine();
    used(&mut machine);
    machine.set_u32(AREA + 24, 0x1fbf);
    machine.set_u64(HEADER + 8, COMPACTED);
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
    let state = &machine.processor.state;
    assert_eq!((state.xmm, state.x87, state.cpu.pkru, state.mxcsr), ([0; 16], X87::INITIAL, 0, 0x1f80));
}

#[test]
fn xrstor_leaves_what_is_not_asked_for() {
    let mut machine = machine();
    used(&mut machine);
    machine.cpu().gpr[Gpr::Rax] = 1;
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
    let state = &machine.processor.state;
    assert_eq!((state.xmm, state.x87, state.cpu.pkru, state.mxcsr), ([9; 16], X87::INITIAL, 8, 0x3f80));
}

/// Instruction, XSTATE_BV, XCOMP_BV, bytes 23:16 of the header, MXCSR.
type Header = (&'static str, &'static [u8], u64, u64, u64, u32);

const REFUSED: &[Header] = &[
    ("standard: a component that XCR0 has not", XRSTOR64, 4, 0, 0, 0x1f80),
    ("standard: bytes 23:16", XRSTOR64, 3, 0, 1, 0x1f80),
    ("standard: XCOMP_BV", XRSTOR64, 3, 1, 0, 0x1f80),
    ("standard: MXCSR, even if SSE state is not there", XRSTOR64, 0, 0, 0, 0x1_0000),
    ("compacted: a component that XCR0 has not", XRSTOR64, 0, COMPACTED | 4, 0, 0x1f80),
    ("compacted: XSTATE_BV has more than XCOMP_BV", XRSTOR64, 2, COMPACTED | 1, 0, 0x1f80),
    ("compacted: bytes 23:16", XRSTOR64, 1, COMPACTED | 1, 1, 0x1f80),
    ("compacted: MXCSR", XRSTOR64, 2, COMPACTED | 2, 0, 0x1_0000),
    ("xrstors: the standard form", XRSTORS64, 3, 0, 0, 0x1f80),
    ("xrstors: a component that neither XCR0 nor IA32_XSS has", XRSTORS64, 0, COMPACTED | 0x800, 0, 0x1f80),
];

#[test]
fn what_a_header_may_not_have_is_a_general_protection_fault() {
    for (name, code, present, map, reserved, mxcsr) in REFUSED {
        let mut machine = machine();
        used(&mut machine);
        machine.set_u64(HEADER, *present);
        machine.set_u64(HEADER + 8, *map);
        machine.set_u64(HEADER + 16, *reserved);
        machine.set_u32(AREA + 24, *mxcsr);
        assert_eq!(exception(attempt(&mut machine, code)), Some(Exception::GP), "{name}");
        assert_eq!(machine.processor.state.xmm, [9; 16], "{name}");
    }
}

#[test]
fn the_compacted_form_does_not_load_mxcsr_without_sse_state() {
    let mut machine = machine();
    machine.set_u64(HEADER + 8, COMPACTED | 3);
    machine.set_u32(AREA + 24, 0x1_0000);
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
}

#[test]
fn bytes_63_to_24_of_a_standard_header_are_not_looked_at() {
    let mut machine = machine();
    machine.set_u32(AREA + 24, 0x1f80);
    machine.set_u64(HEADER + 24, 1);
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
}

#[test]
fn xgetbv_1_tells_what_is_in_use() {
    let mut machine = machine();
    machine.cpu().pkru = 1;
    machine.cpu().gpr[Gpr::Rcx] = 1;
    assert_eq!(machine.attempt(XGETBV), Ok(()));
    assert_eq!((machine.gpr(Gpr::Rax), machine.gpr(Gpr::Rdx)), (0x200, 0));
    machine.processor.state.mxcsr = 0x1f81;
    assert_eq!(machine.attempt(XGETBV), Ok(()));
    assert_eq!(machine.gpr(Gpr::Rax), 0x202);
}

#[test]
fn xgetbv_of_another_register_is_a_general_protection_fault() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rcx] = 2;
    assert_eq!(exception(machine.attempt(XGETBV)), Some(Exception::GP));
}

#[test]
fn xsetbv_takes_components_that_are_modelled_and_x87_always() {
    let rows =
        [(1, true), (3, true), (0x203, true), (0x201, true), (2, false), (7, false), (0xe7, false), (0x803, false)];
    for (value, taken) in rows {
        let mut machine = machine();
        machine.cpu().gpr[Gpr::Rcx] = 0;
        machine.cpu().gpr[Gpr::Rax] = value;
        machine.cpu().gpr[Gpr::Rdx] = 0;
        assert_eq!(machine.attempt(XSETBV).is_ok(), taken, "{value:#x}");
        assert_eq!(machine.processor.state.cpu.xcr0.bits(), if taken { value } else { ALL }, "{value:#x}");
    }
}

/// Component numbers, XCOMP_BV's if the format is compacted, expected offsets.
type Layout = (&'static [u32], Option<&'static [u32]>, &'static [u64]);

/// PKRU has 8 bytes, CET_U 16, CET_S 24, tile configuration 64, aligned to 64.
const LAYOUTS: &[Layout] = &[
    (&[9], None, &[0xa80]),
    (&[9], Some(&[9]), &[576]),
    (&[9, 11, 12], Some(&[9, 11, 12]), &[576, 584, 600]),
    (&[12], Some(&[11, 12]), &[592]),
    (&[12], Some(&[12]), &[576]),
    (&[9, 17], Some(&[9, 17]), &[576, 640]),
    (&[17], Some(&[17]), &[576]),
    (&[9], Some(&[11]), &[]),
    (&[], Some(&[9, 11]), &[]),
];

#[test]
fn components_lie_behind_each_other_in_the_compacted_format() {
    let map = |components: &[u32]| components.iter().fold(0_u64, |map, n| map | 1 << n);
    for (components, compacted, expected) in LAYOUTS {
        let places = xsave::places(&profiles::MAX, map(components), compacted.map(map));
        let offsets: Vec<u64> = places.map(|place| place.offset).collect();
        assert_eq!(offsets, *expected, "{components:?} {compacted:?}");
    }
}

#[test]
fn a_component_that_is_not_modelled_is_refused_in_xss() {
    // WRMSR of IA32_XSS: Intel PT, component 8, which this processor would have.
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rcx] = 0xda0;
    machine.cpu().gpr[Gpr::Rax] = 1 << 8;
    machine.cpu().gpr[Gpr::Rdx] = 0;
    assert_eq!(exception(machine.attempt(&[0x0f, 0x30])), Some(Exception::GP));
}

/// A key that XRSTOR loads forbids accesses from the next instruction on.
#[test]
fn protection_keys_follow_pkru_that_xrstor_loads() {
    let mut machine = machine();
    machine.cpu().cr4 |= Cr4::PKE;
    // Page 5 has key 1.
    machine.set_u64(PT + 8 * 5, 0x5000 | 7 | 1 << 59);
    machine.enter_user();
    machine.cpu().gpr[Gpr::Rsi] = 0x5000;
    assert_eq!(machine.attempt(&[0x8a, 0x0e]), Ok(()), "mov cl, [rsi]");
    machine.set_u64(HEADER, 0x200);
    machine.set_u32(AREA + 24, 0x1f80);
    machine.set_u64(PKRU, 0b0100);
    assert_eq!(attempt(&mut machine, XRSTOR64), Ok(()));
    assert_eq!(exception(machine.attempt(&[0x8a, 0x0e])), Some(Exception::PF));
}

#[test]
fn cpuid_tells_components_and_sizes() {
    let mut machine = machine();
    let cpu = machine.cpu();
    let leaf = |cpu: &x86_state::Cpu, subleaf| cpuid::answer(&profiles::MAX, cpu, 0xd, subleaf);
    let [low, now, most, high] = leaf(cpu, 0);
    assert_eq!((low, now, most, high), (0x203, 0xa88, 0xa88, 0));
    cpu.xcr0 = Xcr0::X87;
    assert_eq!(leaf(cpu, 0)[1], 576);
    let [extensions, now, ..] = leaf(cpu, 1);
    assert_eq!((extensions, now), (0xf, 576), "XSAVEOPT, XSAVEC, XGETBV 1, XSAVES; no XFD");
    cpu.xcr0 = Xcr0::from_bits_retain(ALL);
    assert_eq!(leaf(cpu, 1)[1], 584);
    assert_eq!(leaf(cpu, 9), [8, 0xa80, 0, 0]);
    assert_eq!(leaf(cpu, 2), [0; 4], "no AVX");
    assert_eq!(leaf(cpu, 17), [0; 4], "no AMX");
}

const CET: u64 = 0x1800;

/// IA32_XSS has CET_U and CET_S; PKRU, CET_U and CET_S are asked for. They lie at 576, 584 and 600.
fn with_cet() -> Machine {
    let mut machine = machine();
    machine.cpu().xss = CET;
    machine.cpu().gpr[Gpr::Rax] = CET | 0x200;
    machine
}

#[test]
fn cpuid_tells_the_supervisors_components() {
    let mut machine = with_cet();
    let cpu = machine.cpu();
    let leaf = |subleaf| cpuid::answer(&profiles::MAX, cpu, 0xd, subleaf);
    assert_eq!(leaf(1), [0xf, 624, CET as u32, 0]);
    assert_eq!((leaf(11), leaf(12)), ([16, 0, 1, 0], [24, 0, 1, 0]));
}

#[test]
fn wrmsr_takes_the_supervisors_components_in_xss() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rcx] = 0xda0;
    machine.cpu().gpr[Gpr::Rax] = CET;
    machine.cpu().gpr[Gpr::Rdx] = 0;
    assert_eq!(machine.attempt(&[0x0f, 0x30]), Ok(()));
    assert_eq!(machine.processor.state.cpu.xss, CET);
}

#[test]
fn xsaves_saves_control_flow_state_and_xrstors_takes_it_back() {
    let mut machine = with_cet();
    machine.cpu().cet.u_cet = 0x3;
    machine.cpu().cet.pl_ssp = [0x1000, 0x2000, 0x3000, 0x4000];
    assert_eq!(attempt(&mut machine, XSAVES64), Ok(()));
    assert_eq!((machine.u64(HEADER), machine.u64(HEADER + 8)), (CET, CET | 0x200 | COMPACTED), "PKRU is initial");
    assert_eq!((machine.u64(AREA + 584), machine.u64(AREA + 592)), (3, 0x4000), "IA32_U_CET, IA32_PL3_SSP");
    let supervisor = [600, 608, 616].map(|offset| machine.u64(AREA + offset));
    assert_eq!(supervisor, [0x1000, 0x2000, 0x3000], "IA32_PL0_SSP to IA32_PL2_SSP");
    let saved = machine.cpu().cet;
    machine.cpu().cet.u_cet = 0;
    machine.cpu().cet.pl_ssp = [0; 4];
    machine.cpu().pkru = 5;
    assert_eq!(attempt(&mut machine, XRSTORS64), Ok(()));
    assert_eq!((machine.cpu().cet, machine.cpu().pkru), (saved, 0));
}

#[test]
fn xrstors_refuses_what_wrmsr_refuses_and_loads_nothing() {
    let rows =
        [(584, 1 << 6, "a reserved bit of IA32_U_CET"), (592, 1, "IA32_PL3_SSP"), (608, 1 << 62, "IA32_PL1_SSP")];
    for (offset, value, name) in rows {
        let mut machine = with_cet();
        machine.cpu().pkru = 5;
        machine.set_u64(HEADER, CET);
        machine.set_u64(HEADER + 8, CET | 0x200 | COMPACTED);
        machine.set_u64(AREA + offset, value);
        assert_eq!(exception(attempt(&mut machine, XRSTORS64)), Some(Exception::GP), "{name}");
        assert_eq!(machine.cpu().pkru, 5, "{name}");
    }
}

/// XRSTOR knows nothing of IA32_XSS.
#[test]
fn xrstor_refuses_an_area_with_supervisor_state() {
    let mut machine = with_cet();
    machine.set_u64(HEADER + 8, CET | COMPACTED);
    assert_eq!(exception(attempt(&mut machine, XRSTOR64)), Some(Exception::GP));
}
