//! Ports and model-specific registers, with bitmaps and without.
//!
//! Source: SDM 3C (rev 077) 25.1.3; 24.6.4, I/O-Bitmap Addresses; 24.6.9, MSR-Bitmap Address; 27.2.1, Table 27-5; 27.2.5, Table 27-8.

use super::{cases, l2};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::hypervisor::Hypervisor;
use softvirt_guests::layout::{IO_BITMAPS, MSR_BITMAPS};

const STAR: u32 = 0xc000_0081;
const SYSENTER_CS: u32 = 0x174;

/// Ports 0x71 and 0xc001 are intercepted.
fn io_bitmaps(hypervisor: &mut Hypervisor) {
    let mut bitmaps = vec![0; 0x2000];
    bitmaps[0x71 / 8] = 1 << (0x71 % 8);
    bitmaps[0xc001 / 8] = 1 << (0xc001 % 8);
    hypervisor.memory.push((IO_BITMAPS, bitmaps));
    hypervisor.vmcs.on(Control::USE_IO_BITMAPS);
    hypervisor.vmcs.set(Field::IO_BITMAP_A_ADDRESS, IO_BITMAPS);
    hypervisor.vmcs.set(Field::IO_BITMAP_B_ADDRESS, IO_BITMAPS + 0x1000);
}

/// Reads of IA32_SYSENTER_CS and writes of IA32_STAR are intercepted. Read bitmaps for low and high MSRs come first, then write bitmaps.
fn msr_bitmaps(hypervisor: &mut Hypervisor) {
    let mut bitmaps = vec![0; 0x1000];
    bitmaps[SYSENTER_CS as usize / 8] = 1 << (SYSENTER_CS % 8);
    let high = STAR & 0x1fff;
    bitmaps[0xc00 + high as usize / 8] = 1 << (high % 8);
    hypervisor.memory.push((MSR_BITMAPS, bitmaps));
    hypervisor.vmcs.on(Control::USE_MSR_BITMAPS);
    hypervisor.vmcs.set(Field::MSR_BITMAPS_ADDRESS, MSR_BITMAPS);
}

cases! {
    /// The qualification has the size minus 1 in 2:0, IN in bit 3, string in 4, REP in 5, immediate in 6, the port in 31:16.
    in_of_a_byte_from_an_immediate_port: l2(|a| a.in_(al, 0x71)).on(&[Control::UNCONDITIONAL_IO_EXITING])
        .sees(&["exit 30 at 200000 qualification 710048 length 2", "exit 18 at 200002 length 3"]);
    out_of_four_bytes_to_dx: l2(|a| {
        a.mov(edx, 0x1234)?;
        a.out(dx, eax)
    }).on(&[Control::UNCONDITIONAL_IO_EXITING])
        .sees(&["exit 30 at 200005 qualification 12340003 length 1", "exit 18 at 200006 length 3"]);
    /// INS and OUTS record the linear address, and in the instruction information the address size (9:7) and the segment (17:15).
    insw: l2(|a| {
        a.mov(edi, 0x20_2000)?;
        a.mov(edx, 0x60)?;
        a.insw()
    }).on(&[Control::UNCONDITIONAL_IO_EXITING])
        .sees(&[
            "exit 30 at 20000a qualification 600019 linear 202000 length 2 information 100",
            "exit 18 at 20000c length 3",
        ]);
    rep_outsb_of_another_segment: l2(|a| {
        a.mov(esi, 0x20_2000)?;
        a.mov(ecx, 4)?;
        a.mov(edx, 0x60)?;
        a.db(&[0xf3, 0x64, 0x6e]) // REP OUTSB FS:[RSI]
    }).on(&[Control::UNCONDITIONAL_IO_EXITING])
        .sees(&[
            "exit 30 at 20000f qualification 600030 linear 202000 length 3 information 20100",
            "exit 18 at 200012 length 3",
        ]);
    io_bitmaps_intercept_single_ports: l2(|a| {
        a.in_(al, 0x70)?;
        a.in_(al, 0x71)?;
        a.mov(edx, 0xc000)?;
        a.out(dx, al)?;
        a.inc(edx)?;
        a.out(dx, al)
    }).change(io_bitmaps)
        .sees(&[
            "exit 30 at 200002 qualification 710048 length 2",
            "exit 30 at 20000c qualification c0010000 length 1",
            "exit 18 at 20000d length 3",
        ]);
    /// Two bytes from port 0x70: the second one is intercepted.
    io_bitmaps_look_at_every_byte: l2(|a| a.in_(ax, 0x70)).change(io_bitmaps)
        .sees(&["exit 30 at 200000 qualification 700049 length 3", "exit 18 at 200003 length 3"]);
    rdmsr: l2(|a| a.rdmsr()).sees(&["exit 31 at 200000 length 2", "exit 18 at 200002 length 3"]);
    wrmsr: l2(|a| a.wrmsr()).sees(&["exit 32 at 200000 length 2", "exit 18 at 200002 length 3"]);
    msr_bitmaps_intercept_reads_and_writes: l2(|a| {
        a.mov(ecx, SYSENTER_CS)?;
        a.rdmsr()?;
        a.wrmsr()?;
        a.mov(ecx, STAR)?;
        a.rdmsr()?;
        a.wrmsr()
    }).change(msr_bitmaps)
        .sees(&["exit 31 at 200005 length 2", "exit 32 at 200010 length 2", "exit 18 at 200012 length 3"]);
    /// MSRs outside both ranges always exit.
    an_msr_outside_the_bitmaps: l2(|a| {
        a.mov(ecx, 0x4000_0000)?;
        a.rdmsr()
    }).change(msr_bitmaps).sees(&["exit 31 at 200005 length 2", "exit 18 at 200007 length 3"]);
}
