//! Accesses to control and debug registers.
//!
//! Source: SDM 3C (rev 077) 25.1.3; 25.3, Changes to Instruction Behavior in VMX Non-Root Operation; 27.2.1, Tables 27-3 (control-register
//! accesses) and 27-4 (MOV DR).

use super::{cases, l2};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::layout::VIRTUAL_APIC;

const CR0_TS: u64 = 1 << 3;
const CR0_MP: u64 = 1 << 1;
const CR4_PGE: u64 = 1 << 7;

cases! {
    /// The qualification has the register in 3:0, the kind in 5:4 (0 to, 1 from, 2 CLTS, 3 LMSW), the general-purpose register in 11:8.
    mov_to_cr0_that_changes_a_bit_of_the_host: l2(|a| {
        a.mov(rcx, cr0)?;
        a.or(ecx, CR0_TS as i32)?;
        a.mov(cr0, rcx)
    }).set(&[(Field::CR0_GUEST_HOST_MASK, CR0_TS), (Field::CR0_READ_SHADOW, 0)])
        .sees(&["exit 28 at 200006 qualification 100 length 3", "exit 18 at 200009 length 3"]);
    mov_to_cr3: l2(|a| {
        a.mov(r10, cr3)?;
        a.mov(cr3, r10)
    }).on(&[Control::CR3_LOAD_EXITING])
        .sees(&["exit 28 at 200004 qualification a03 length 4", "exit 18 at 200008 length 3"]);
    /// CR3-target values do not exit.
    mov_to_cr3_of_a_target_value: l2(|a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    }).on(&[Control::CR3_LOAD_EXITING])
        .set(&[(Field::CR3_TARGET_COUNT, 1), (Field::CR3_TARGET_VALUE_0, softvirt_guests::layout::PAGING)])
        .sees(&["exit 18 at 200006 length 3"]);
    mov_from_cr3: l2(|a| a.mov(r10, cr3)).on(&[Control::CR3_STORE_EXITING])
        .sees(&["exit 28 at 200000 qualification a13 length 4", "exit 18 at 200004 length 3"]);
    mov_to_cr4: l2(|a| {
        a.mov(rdx, cr4)?;
        a.or(edx, CR4_PGE as i32)?;
        a.mov(cr4, rdx)
    }).set(&[(Field::CR4_GUEST_HOST_MASK, CR4_PGE), (Field::CR4_READ_SHADOW, 0)])
        .sees(&["exit 28 at 200009 qualification 204 length 3", "exit 18 at 20000c length 3"]);
    mov_to_cr8: l2(|a| a.mov(cr8, rax)).on(&[Control::CR8_LOAD_EXITING])
        .sees(&["exit 28 at 200000 qualification 8 length 4", "exit 18 at 200004 length 3"]);
    mov_from_cr8: l2(|a| a.mov(rsi, cr8)).on(&[Control::CR8_STORE_EXITING])
        .sees(&["exit 28 at 200000 qualification 618 length 4", "exit 18 at 200004 length 3"]);
    /// CLTS exits if the bit belongs to the host and reads as 1.
    clts: l2(|a| a.clts()).set(&[(Field::CR0_GUEST_HOST_MASK, CR0_TS), (Field::CR0_READ_SHADOW, CR0_TS)])
        .sees(&["exit 28 at 200000 qualification 20 length 2", "exit 18 at 200002 length 3"]);
    /// The source operand is in bits 31:16.
    lmsw_of_a_register: l2(|a| {
        a.mov(eax, 0x1233)?; // MP and PE
        a.lmsw(ax)
    }).set(&[(Field::CR0_GUEST_HOST_MASK, CR0_MP), (Field::CR0_READ_SHADOW, 0)])
        .sees(&["exit 28 at 200005 qualification 12330030 length 4", "exit 18 at 200009 length 3"]);
    /// Bit 6 says so; the linear address is recorded.
    lmsw_of_memory: l2(|a| {
        a.mov(word_ptr(rbx + 0x20_2000), 0x0b)?;
        a.lmsw(word_ptr(rbx + 0x20_2000))
    }).set(&[(Field::CR0_GUEST_HOST_MASK, CR0_MP | CR0_TS), (Field::CR0_READ_SHADOW, 0)])
        .sees(&["exit 28 at 200009 qualification b0070 linear 202000 length 7", "exit 18 at 200010 length 3"]);
    /// With "use TPR shadow" MOV to CR8 changes VTPR; below the threshold that exits, behind the instruction.
    tpr_below_threshold: l2(|a| {
        a.mov(eax, 5)?;
        a.mov(cr8, rax)?;
        a.mov(eax, 2)?;
        a.mov(cr8, rax)
    }).on(&[Control::USE_TPR_SHADOW])
        .set(&[(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC), (Field::TPR_THRESHOLD, 3)])
        .change(|hypervisor| hypervisor.memory.push((VIRTUAL_APIC + 0x80, vec![0x40])))
        .host(|a, ways| {
            // Else the next VM entry would find VTPR below the threshold.
            a.set_field(Field::TPR_THRESHOLD, 0)?;
            a.jmp(ways.resume)
        }).sees(&["exit 43 at 200012", "exit 18 at 200012 length 3"]);
    /// The debug register is in 2:0, the direction in bit 4 (1: from), the general-purpose register in 11:8.
    mov_to_dr7: l2(|a| a.mov(dr7, rbx)).on(&[Control::MOV_DR_EXITING])
        .sees(&["exit 29 at 200000 qualification 307 length 3", "exit 18 at 200003 length 3"]);
    mov_from_dr3: l2(|a| a.mov(r9, dr3)).on(&[Control::MOV_DR_EXITING])
        .sees(&["exit 29 at 200000 qualification 913 length 4", "exit 18 at 200004 length 3"]);
}
