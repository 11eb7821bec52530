//! Instructions that exit instead of being executed, other than those of VMX and those that access control registers, ports or MSRs.
//!
//! Source: SDM 3C (rev 077) 25.1.2, Instructions That Cause VM Exits Unconditionally; 25.1.3, Instructions That Cause VM Exits
//! Conditionally; 27.2.1, Table 27-3 and others; 27.2.5, Tables 27-8 to 27-14.

use super::{cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::{Assembled, Code};
use softvirt_guests::layout::SPARE;

const CR4_OSXSAVE: u64 = 0x4_2020;

/// State components 11 and 12: CET_U and CET_S.
const CET_COMPONENTS: u32 = 3 << 11;

/// L1 puts the components of CET into IA32_XSS, which L2 has in common with it.
fn allow_cet_state(a: &mut Code) -> Assembled {
    a.mov(rax, cr4)?;
    a.or(eax, 1 << 18)?; // OSXSAVE
    a.mov(cr4, rax)?;
    a.mov(ecx, 0xda0)?;
    a.mov(eax, CET_COMPONENTS)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

cases! {
    cpuid: l2(|a| a.cpuid()).sees(&["exit 10 at 200000 length 2", "exit 18 at 200002 length 3"]);
    /// SMX is not modelled: CR4.SMXE cannot be 1, and GETSEC is #UD before it exits.
    getsec_is_undefined: l2(|a| a.getsec()).set(&[(Field::EXCEPTION_BITMAP, 1 << 6)]).host(stop)
        .sees(&["exit 0 at 200000 event 80000306"]);
    hlt: l2(|a| a.hlt()).on(&[Control::HLT_EXITING])
        .sees(&["exit 12 at 200000 length 1", "exit 18 at 200001 length 3"]);
    invd: l2(|a| a.invd()).sees(&["exit 13 at 200000 length 2", "exit 18 at 200002 length 3"]);
    /// The qualification is the linear address of the operand.
    invlpg: l2(|a| a.invlpg(ptr(rbx + 0x1238))).on(&[Control::INVLPG_EXITING])
        .sees(&["exit 14 at 200000 qualification 1238 length 7", "exit 18 at 200007 length 3"]);
    rdpmc: l2(|a| a.rdpmc()).on(&[Control::RDPMC_EXITING])
        .sees(&["exit 15 at 200000 length 2", "exit 18 at 200002 length 3"]);
    rdtsc: l2(|a| a.rdtsc()).on(&[Control::RDTSC_EXITING])
        .sees(&["exit 16 at 200000 length 2", "exit 18 at 200002 length 3"]);
    rdtscp: l2(|a| a.rdtscp()).on(&[Control::RDTSC_EXITING, Control::ENABLE_RDTSCP])
        .sees(&["exit 51 at 200000 length 3", "exit 18 at 200003 length 3"]);
    wbinvd: l2(|a| a.wbinvd()).on(&[Control::WBINVD_EXITING])
        .sees(&["exit 54 at 200000 length 2", "exit 18 at 200002 length 3"]);
    wbnoinvd: l2(|a| a.wbnoinvd()).on(&[Control::WBINVD_EXITING])
        .sees(&["exit 54 at 200000 qualification 1 length 3", "exit 18 at 200003 length 3"]);
    xsetbv: l2(|a| a.xsetbv()).set(&[(Field::GUEST_CR4, CR4_OSXSAVE)])
        .sees(&["exit 55 at 200000 length 3", "exit 18 at 200003 length 3"]);
    monitor: l2(|a| a.monitor()).on(&[Control::MONITOR_EXITING])
        .sees(&["exit 39 at 200000 length 3", "exit 18 at 200003 length 3"]);
    mwait_not_armed: l2(|a| a.mwait()).on(&[Control::MWAIT_EXITING])
        .sees(&["exit 36 at 200000 length 3", "exit 18 at 200003 length 3"]);
    /// MONITOR has armed the address range: the qualification is 1.
    mwait_armed: l2(|a| {
        a.monitor()?;
        a.mwait()
    }).on(&[Control::MWAIT_EXITING])
        .sees(&["exit 36 at 200003 qualification 1 length 3", "exit 18 at 200006 length 3"]);
    pause: l2(|a| a.pause()).on(&[Control::PAUSE_EXITING])
        .sees(&["exit 40 at 200000 length 2", "exit 18 at 200002 length 3"]);
    /// Two PAUSEs that are no more than PLE_Gap apart belong to one loop; it exits once it is longer than PLE_Window.
    pause_loop: l2(|a| {
        a.mov(ecx, 100)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.pause()?;
        a.dec(ecx)?;
        a.jnz(again)
    }).on(&[Control::PAUSE_LOOP_EXITING]).set(&[(Field::PLE_GAP, 10), (Field::PLE_WINDOW, 200)])
        .sees(&["exit 40 at 200005 length 2", "exit 18 at 20000b length 3"]);
    /// Bits 6:3 of the instruction information are the register, bits 12:11 its size (0: 16 bits).
    rdrand: l2(|a| a.rdrand(r9)).on(&[Control::RDRAND_EXITING])
        .sees(&["exit 57 at 200000 length 4 information 1048", "exit 18 at 200004 length 3"]);
    rdrand_16: l2(|a| a.rdrand(cx)).on(&[Control::RDRAND_EXITING])
        .sees(&["exit 57 at 200000 length 4 information 8", "exit 18 at 200004 length 3"]);
    rdseed: l2(|a| a.rdseed(edx)).on(&[Control::RDSEED_EXITING])
        .sees(&["exit 61 at 200000 length 3 information 810", "exit 18 at 200003 length 3"]);
    /// The qualification is the displacement.
    invpcid: l2(|a| a.invpcid(rcx, xmmword_ptr(rbx + 0x20_2010)))
        .on(&[Control::INVLPG_EXITING, Control::ENABLE_INVPCID])
        .sees(&[
            "exit 58 at 200000 qualification 202010 length 9 information 11c18100",
            "exit 18 at 200009 length 3",
        ]);
    /// No VM function is enabled: function 0 exits.
    vmfunc: l2(|a| a.vmfunc()).on(&[Control::ENABLE_VM_FUNCTIONS]).set(&[(Field::VM_FUNCTION_CONTROLS, 0)])
        .sees(&["exit 59 at 200000 length 3", "exit 18 at 200003 length 3"]);
    /// EPTP switching to an entry of the list that is no valid EPT pointer.
    vmfunc_of_an_invalid_eptp: l2(|a| a.vmfunc()).on(&[Control::EPTP_SWITCHING])
        .set(&[(Field::EPTP_LIST_ADDRESS, SPARE)])
        .change(|hypervisor| hypervisor.vmcs.ept())
        .sees(&["exit 59 at 200000 length 3", "exit 18 at 200003 length 3"]);
    sgdt: l2(|a| a.sgdt(tbyte_ptr(rbx + 0x20_2000))).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&["exit 46 at 200000 qualification 202000 length 7 information 1c18100", "exit 18 at 200007 length 3"]);
    sidt: l2(|a| a.sidt(tbyte_ptr(rbp + rcx * 4 + 0x20_2000))).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&[
            "exit 46 at 200000 qualification 202000 length 8 information 12850102",
            "exit 18 at 200008 length 3",
        ]);
    lgdt: l2(|a| a.lgdt(tbyte_ptr(rbx + 0x20_2000))).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&[
            "exit 46 at 200000 qualification 202000 length 7 information 21c18100",
            "exit 18 at 200007 length 3",
        ]);
    lidt: l2(|a| a.lidt(tbyte_ptr(rbx + 0x20_2000))).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&[
            "exit 46 at 200000 qualification 202000 length 7 information 31c18100",
            "exit 18 at 200007 length 3",
        ]);
    sldt: l2(|a| a.sldt(edx)).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&["exit 47 at 200000 length 3 information 410", "exit 18 at 200003 length 3"]);
    str: l2(|a| a.str(word_ptr(rsi + 0x20_2000))).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&[
            "exit 47 at 200000 qualification 202000 length 7 information 13418100",
            "exit 18 at 200007 length 3",
        ]);
    lldt: l2(|a| a.lldt(cx)).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&["exit 47 at 200000 length 4 information 20000408", "exit 18 at 200004 length 3"]);
    ltr: l2(|a| a.ltr(r8w)).on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&["exit 47 at 200000 length 5 information 30000440", "exit 18 at 200005 length 3"]);
    /// Bits 6:3 are the register, bits 12:11 its size (1: 32 bits).
    umwait: l2(|a| a.umwait(ecx)).on(&[Control::RDTSC_EXITING, Control::ENABLE_USER_WAIT_AND_PAUSE])
        .sees(&["exit 67 at 200000 length 4 information 808", "exit 18 at 200004 length 3"]);
    tpause: l2(|a| a.tpause(r10d)).on(&[Control::RDTSC_EXITING, Control::ENABLE_USER_WAIT_AND_PAUSE])
        .sees(&["exit 68 at 200000 length 5 information 850", "exit 18 at 200005 length 3"]);
    /// The components of user-mode and supervisor-mode CET are in IA32_XSS and in the XSS-exiting bitmap; L2 asks for them.
    xsaves: l2(|a| {
        a.mov(eax, CET_COMPONENTS)?;
        a.xsaves(ptr(rbx + 0x20_2040))
    }).on(&[Control::ENABLE_XSAVES_XRSTORS]).before(allow_cet_state)
        .set(&[(Field::GUEST_CR4, CR4_OSXSAVE), (Field::XSS_EXITING_BITMAP, CET_COMPONENTS as u64)])
        .sees(&["exit 63 at 200005 qualification 202040 length 7 information 1c18100", "exit 18 at 20000c length 3"]);
    xrstors: l2(|a| {
        a.mov(eax, CET_COMPONENTS)?;
        a.xrstors(ptr(rbx + rcx * 2 + 0x20_2040))
    }).on(&[Control::ENABLE_XSAVES_XRSTORS]).before(allow_cet_state)
        .set(&[(Field::GUEST_CR4, CR4_OSXSAVE), (Field::XSS_EXITING_BITMAP, CET_COMPONENTS as u64)])
        .sees(&["exit 64 at 200005 qualification 202040 length 8 information 1858101", "exit 18 at 20000d length 3"]);
    /// Components that are not in the bitmap do not exit.
    xsaves_of_other_components: l2(|a| {
        a.mov(eax, CET_COMPONENTS)?;
        a.xsaves(ptr(rbx + 0x20_2040))
    }).on(&[Control::ENABLE_XSAVES_XRSTORS]).before(allow_cet_state)
        .set(&[(Field::GUEST_CR4, CR4_OSXSAVE), (Field::XSS_EXITING_BITMAP, !CET_COMPONENTS as u64)])
        .sees(&["exit 18 at 20000c length 3"]);
}
