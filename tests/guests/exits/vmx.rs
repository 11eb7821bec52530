//! Every instruction of VMX exits from non-root operation, whatever its operands.
//!
//! Source: SDM 3C (rev 077) 25.1.2, Instructions That Cause VM Exits Unconditionally; 27.2.5, Tables 27-9 (INVEPT, INVVPID), 27-13 (memory
//! operand) and 27-14 (VMREAD, VMWRITE).

use super::{cases, l2};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::hypervisor::Hypervisor;
use softvirt_guests::layout::{SPARE, SPARE_2};

fn shadow(hypervisor: &mut Hypervisor) {
    hypervisor.memory.push((SPARE, vec![0xff; 4096]));
    hypervisor.memory.push((SPARE_2, vec![0xff; 4096]));
}

cases! {
    vmcall: l2(|_| Ok(())).sees(&["exit 18 at 200000 length 3"]);
    vmclear: l2(|a| a.vmclear(qword_ptr(rbx + 0x20_2000)))
        .sees(&["exit 19 at 200000 qualification 202000 length 8 information 1c18100", "exit 18 at 200008 length 3"]);
    vmlaunch: l2(|a| a.vmlaunch()).sees(&["exit 20 at 200000 length 3", "exit 18 at 200003 length 3"]);
    vmptrld: l2(|a| a.vmptrld(qword_ptr(rbx + rcx * 8 + 0x20_2000)))
        .sees(&["exit 21 at 200000 qualification 202000 length 8 information 1858103", "exit 18 at 200008 length 3"]);
    vmptrst: l2(|a| a.vmptrst(qword_ptr(rbx - 8)))
        .sees(&[
            "exit 22 at 200000 qualification fffffffffffffff8 length 4 information 1c18100",
            "exit 18 at 200004 length 3",
        ]);
    /// A 32-bit address; FS.
    vmptrld_with_prefixes: l2(|a| a.vmptrld(qword_ptr(ecx + 0x10).fs()))
        .sees(&["exit 21 at 200000 qualification 10 length 6 information c20080", "exit 18 at 200006 length 3"]);
    vmread_to_a_register: l2(|a| a.vmread(rdx, rsi))
        .sees(&["exit 23 at 200000 length 3 information 60000410", "exit 18 at 200003 length 3"]);
    vmread_to_memory: l2(|a| a.vmread(qword_ptr(rdi + 0x20_2000), r9))
        .sees(&[
            "exit 23 at 200000 qualification 202000 length 8 information 93c18100",
            "exit 18 at 200008 length 3",
        ]);
    vmwrite: l2(|a| a.vmwrite(rax, r15))
        .sees(&["exit 25 at 200000 length 4 information 478", "exit 18 at 200004 length 3"]);
    /// With VMCS shadowing the bitmaps decide; encodings beyond them exit.
    vmread_that_the_bitmap_intercepts: l2(|a| a.vmread(rdx, rsi)).on(&[Control::VMCS_SHADOWING])
        .set(&[(Field::VMREAD_BITMAP_ADDRESS, SPARE), (Field::VMWRITE_BITMAP_ADDRESS, SPARE_2)])
        .change(shadow).sees(&["exit 23 at 200000 length 3 information 60000410", "exit 18 at 200003 length 3"]);
    vmresume: l2(|a| a.vmresume()).sees(&["exit 24 at 200000 length 3", "exit 18 at 200003 length 3"]);
    vmxoff: l2(|a| a.vmxoff()).sees(&["exit 26 at 200000 length 3", "exit 18 at 200003 length 3"]);
    vmxon: l2(|a| a.vmxon(qword_ptr(rsp + 0x10)))
        .sees(&["exit 27 at 200000 qualification 10 length 6 information 2410100", "exit 18 at 200006 length 3"]);
    invept: l2(|a| a.invept(rcx, xmmword_ptr(rbx + 0x20_2000)))
        .sees(&[
            "exit 50 at 200000 qualification 202000 length 9 information 11c18100",
            "exit 18 at 200009 length 3",
        ]);
    invvpid: l2(|a| a.invvpid(r11, xmmword_ptr(r12 + 0x40)))
        .sees(&["exit 53 at 200000 qualification 40 length 8 information b6418100", "exit 18 at 200008 length 3"]);
}
