//! How does QEMU print the registers of a guest?

use super::{Reading, Text};
use crate::GuestVisible;
use vmx_model::{Field, Vmcs};
use x86_state::SegmentRegister::{self, Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// The width in which QEMU prints addresses: 64 bits if the guest is in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QemuWidth {
    /// "EAX=", "EIP=".
    Bits32,
    /// "RAX=", "RIP=".
    Bits64,
}

/// Prints the guest's registers as QEMU does. Access rights lose "unusable": QEMU has P clear for it.
#[must_use]
pub fn qemu(vmcs: &Vmcs, guest: &GuestVisible, width: QemuWidth) -> Text {
    let mut out = Reading::new(vmcs);
    let wide = width == QemuWidth::Bits64;
    let address = |value: u64| if wide { format!("{value:016x}") } else { format!("{:08x}", value as u32) };
    let (rsp, rip, rflags) = (out.get(Field::GUEST_RSP), out.get(Field::GUEST_RIP), out.get(Field::GUEST_RFLAGS));
    let zero = address(0);
    let state = format!(
        "[-------] CPL={} II=0 A20=1 SMM={} HLT={}",
        guest.cpl.unwrap_or(0),
        u8::from(guest.smm.unwrap_or(false)),
        u8::from(guest.halted.unwrap_or(false))
    );
    if wide {
        out.line(format!("RAX={zero} RBX={zero} RCX={zero} RDX={zero}"));
        out.line(format!("RSI={zero} RDI={zero} RBP={zero} RSP={}", address(rsp)));
        out.line(format!("R8 ={zero} R9 ={zero} R10={zero} R11={zero}"));
        out.line(format!("R12={zero} R13={zero} R14={zero} R15={zero}"));
        out.line(format!("RIP={} RFL={rflags:08x} {state}", address(rip)));
    } else {
        out.line(format!("EAX={zero} EBX={zero} ECX={zero} EDX={zero}"));
        out.line(format!("ESI={zero} EDI={zero} EBP={zero} ESP={}", address(rsp)));
        out.line(format!("EIP={} EFL={rflags:08x} {state}", address(rip)));
    }
    for (name, register) in
        [("ES ", Es), ("CS ", Cs), ("SS ", Ss), ("DS ", Ds), ("FS ", Fs), ("GS ", Gs), ("LDT", Ldtr), ("TR ", Tr)]
    {
        segment(&mut out, name, register, address);
    }
    for (name, base, limit) in [
        ("GDT", Field::GUEST_GDTR_BASE, Field::GUEST_GDTR_LIMIT),
        ("IDT", Field::GUEST_IDTR_BASE, Field::GUEST_IDTR_LIMIT),
    ] {
        let (base, limit) = (out.get(base), out.get(limit));
        out.line(format!("{name}=     {} {limit:08x}", address(base)));
    }
    let [cr0, cr2, cr3, cr4] = [guest.cr0, guest.cr2, guest.cr3, guest.cr4].map(|value| value.unwrap_or(0));
    out.line(format!("CR0={cr0:08x} CR2={} CR3={} CR4={cr4:08x}", address(cr2), address(cr3)));
    out.line("DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 ");
    let dr7 = out.get(Field::GUEST_DR7);
    out.line(format!("DR6=00000000ffff0ff0 DR7={dr7:016x}"));
    out.line(format!("EFER={:016x}", guest.efer.unwrap_or(0)));
    out.line("Code=<f4> eb fd 66 90 66 90 66 90 66 90 66 90 66 90 66 90");
    out.text
}

fn segment(out: &mut Reading<'_>, name: &str, register: SegmentRegister, address: impl Fn(u64) -> String) {
    let (selector, base) = (out.get(Field::guest_selector(register)), out.get(Field::guest_base(register)));
    let (limit, rights) = (out.get(Field::guest_limit(register)), out.get(Field::guest_access_rights(register)));
    let present = if rights >> 16 & 1 == 1 { 0 } else { 1 << 7 };
    let flags = (rights & 0xf07f | rights & present) << 8;
    let kind = if flags >> 15 & 1 == 1 { format!(" DPL={} DS   [-WA]", rights >> 5 & 3) } else { String::new() };
    out.line(format!("{name}={selector:04x} {} {limit:08x} {flags:08x}{kind}", address(base)));
}
