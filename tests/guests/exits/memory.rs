//! What EPT and the pages of APIC virtualization make of accesses.
//!
//! Source: SDM 3C (rev 077) 28.3.3, EPT-Induced VM Exits; 28.3.6, Page-Modification Logging; 28.3.4, Sub-Page Write Permissions; 27.2.1,
//! Table 27-7 (EPT violations); 27.2.3, Information About NMI Unblocking Due to IRET.

use super::{cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::{Assembled, Code};
use softvirt_guests::hypervisor::{Hypervisor, Ways};
use softvirt_guests::layout::{IDT_L2, L2_HOLE, PAGING, PML, SPARE, ept_entry};
use softvirt_guests::tables::{EPT_POINTER, EPT_RWX, EPT_WRITE_BACK};

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXECUTE: u64 = 4;
/// Bit 6 of the EPT pointer: accessed and dirty flags.
const ACCESSED_AND_DIRTY: u64 = 1 << 6;
/// Bit 61 of an EPT entry: sub-page write permissions decide.
const SPP: u64 = 1 << 61;

/// The hole has these rights.
fn hole(hypervisor: &mut Hypervisor, rights: u64) {
    hypervisor.vmcs.ept();
    hypervisor.ept.push((L2_HOLE, L2_HOLE | rights | EPT_WRITE_BACK));
}

/// L1 gives the hole all rights and resumes L2 where it is.
fn mend(a: &mut Code, ways: Ways) -> Assembled {
    a.mov(rax, L2_HOLE | EPT_RWX | EPT_WRITE_BACK)?;
    a.mov(rbx, ept_entry(L2_HOLE))?;
    a.mov(qword_ptr(rbx), rax)?;
    a.mov(ecx, 1)?; // single context
    a.mov(rax, EPT_POINTER)?;
    a.push(0)?;
    a.push(rax)?;
    a.invept(rcx, xmmword_ptr(rsp))?;
    a.add(rsp, 16)?;
    a.jmp(ways.resume)
}

fn pml(hypervisor: &mut Hypervisor) {
    hypervisor.vmcs.ept();
    hypervisor.vmcs.on(Control::ENABLE_PML);
    hypervisor.vmcs.set(Field::EPT_POINTER, EPT_POINTER | ACCESSED_AND_DIRTY);
    hypervisor.vmcs.set(Field::PML_ADDRESS, PML);
    hypervisor.vmcs.set(Field::PML_INDEX, 0xffff);
}

cases! {
    /// The qualification has the access in 2:0, the rights of the entry in 5:3, "linear address valid" in 7, "of the translated address" in
    /// 8, and with advanced information what the guest's own paging says in 11:9.
    ept_violation_by_a_read: l2(|a| a.mov(eax, dword_ptr(rbx + 0x20_8010))).change(|h| hole(h, 0)).host(mend)
        .sees(&["exit 48 at 200000 qualification 781 linear 208010 physical 208010", "exit 18 at 200006 length 3"]);
    ept_violation_by_a_write: l2(|a| a.mov(dword_ptr(rbx + 0x20_8010), eax)).change(|h| hole(h, READ | EXECUTE)).host(mend)
        .sees(&["exit 48 at 200000 qualification 7aa linear 208010 physical 208010", "exit 18 at 200006 length 3"]);
    ept_violation_by_a_fetch: l2(|a| {
        a.mov(byte_ptr(rbx + 0x20_8010), 0xc3)?; // RET
        a.mov(eax, 0x20_8010)?;
        a.call(rax)
    }).change(|h| hole(h, READ | WRITE)).host(mend)
        .sees(&["exit 48 at 208010 qualification 79c linear 208010 physical 208010", "exit 18 at 20000e length 3"]);
    /// A page walk reads the guest's own PML4: bit 8 is 0, and the linear address is the one whose walk it was.
    ept_violation_by_a_page_walk: l2(|_| Ok(())).change(|h| {
        h.vmcs.ept();
        h.ept.push((PAGING, 0));
    }).host(stop).sees(&["exit 48 at 200000 qualification 81 linear 200000 physical 110000"]);
    /// Writable and not readable.
    ept_misconfiguration: l2(|a| a.mov(eax, dword_ptr(rbx + 0x20_8010))).change(|h| hole(h, WRITE)).host(stop)
        .sees(&["exit 49 at 200000 physical 208010"]);
    /// The index is out of range: the log has no room. With accessed and dirty flags in EPT, page walks count as writes to the guest's paging
    /// structures, so that L2 exits before its first instruction. Once there is room it goes on.
    page_modification_log_full: l2(|a| a.mov(dword_ptr(rbx + 0x20_8010), eax)).change(pml).host(|a, ways| {
        a.set_field(Field::PML_INDEX, 511)?;
        a.jmp(ways.resume)
    }).sees(&["exit 62 at 200000", "exit 18 at 200006 length 3"]);
    /// The SPP table's first level is empty: an SPP miss (bit 11).
    spp_miss: l2(|a| a.mov(dword_ptr(rbx + 0x20_8010), eax)).on(&[Control::SUB_PAGE_WRITE_PERMISSIONS])
        .set(&[(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, SPARE)])
        .change(|h| {
            h.vmcs.ept();
            h.ept.push((L2_HOLE, L2_HOLE | READ | EXECUTE | EPT_WRITE_BACK | SPP));
        }).host(stop).sees(&["exit 66 at 200000 qualification 800 linear 208010 physical 208010"]);
    /// A reserved bit in the SPP table's entry.
    spp_misconfiguration: l2(|a| a.mov(dword_ptr(rbx + 0x20_8010), eax)).on(&[Control::SUB_PAGE_WRITE_PERMISSIONS])
        .set(&[(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, SPARE)])
        .change(|h| {
            h.vmcs.ept();
            h.memory.push((SPARE, vec![0x03]));
            h.ept.push((L2_HOLE, L2_HOLE | READ | EXECUTE | EPT_WRITE_BACK | SPP));
        }).host(stop).sees(&["exit 66 at 200000 linear 208010 physical 208010"]);
    /// Bit 12: the IRET that met the violation had unblocked virtual NMIs.
    ept_violation_by_iret: l2(|a| {
        a.mov(esp, 0x20_8800)?;
        a.iretq()
    }).on(&[Control::NMI_EXITING, Control::VIRTUAL_NMIS]).set(&[(Field::GUEST_INTERRUPTIBILITY_STATE, 8)])
        .change(|h| hole(h, 0)).host(stop)
        .sees(&["exit 48 at 200005 qualification 1781 linear 208800 physical 208800"]);
    /// VM entry injects INT 21H (type 4), and EPT denies the IDT: the vectoring information is what was injected, length included.
    ept_violation_by_an_injected_software_interrupt: l2(|a| a.nop())
        .set(&[(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0421), (Field::VM_ENTRY_INSTRUCTION_LENGTH, 2)])
        .change(|h| {
            h.vmcs.ept();
            h.ept.push((IDT_L2, 0));
        }).host(stop)
        .sees(&["exit 48 at 200000 qualification 781 linear 103210 physical 103210 vectoring 80000421 length 2"]);
}
