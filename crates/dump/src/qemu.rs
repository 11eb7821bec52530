//! What does QEMU print? Its register dump, as after "KVM: entry failed" or at the monitor's "info registers".
//!
//! Source of the format: QEMU, target/i386/cpu-dump.c (before 5.0: target/i386/helper.c), `x86_cpu_dump_state`.
//!
//! These are registers that QEMU holds for the guest, read from KVM after the failure, not VMCS fields:
//! - CR0, CR3, CR4 and EFER are what the guest reads. The VMCS holds other values (bits that the hypervisor forces, shadow paging), so they
//!   go to [`GuestVisible`](crate::GuestVisible) and not into the VMCS.
//! - General state (RSP, RIP, RFLAGS, DR7, segment and table registers) is what KVM loads into the VMCS. That is not so for a guest in real mode
//!   on a processor without unrestricted guest, which KVM runs in virtual-8086 mode.
//! - A segment's last word is the descriptor's upper half. Bits `[15:8]` and `[23:20]` are the access rights' `[7:0]` and `[15:12]`. "Unusable" (bit 16)
//!   has no place there: QEMU clears P for an unusable register, and makes a register with P clear unusable when it loads it into KVM. Access
//!   rights are therefore listed as derived.
//! - If the guest is not in 64-bit code, addresses are cut to 32 bits.

use crate::building::Building;
use crate::lines::{Line, Token, hex, tokens};
use crate::{DumpKind, Happened};
use vmx_model::Field;
use x86_state::SegmentRegister;

/// Bits of a descriptor's upper half, shifted right by 8, that access rights have.
const RIGHTS: u64 = 0xf0ff;
const PRESENT: u64 = 1 << 7;
const UNUSABLE: u64 = 1 << 16;
/// Longest line without a value that counts as the broken-off end of another.
const SCRAP_BYTES: usize = 24;
const EFER_LMA: u64 = 1 << 10;

/// What the words after a name are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Segment(SegmentRegister),
    Gdt,
    Idt,
}

/// Reads the lines of one register dump.
pub(crate) struct Registers<'a> {
    last: &'a str,
    /// A single value that the next word gives.
    awaiting: Option<&'a str>,
    /// A row of words: whose, and what was read.
    group: Option<(Group, [u64; 4], usize)>,
    narrow: bool,
    /// The dump's lines have a log prefix.
    prefixed: bool,
    any: bool,
    done: bool,
}

/// Does a register dump begin with this line?
pub(crate) fn begins(text: &str) -> bool {
    let Some((first, rest)) = text.split_once('=') else { return false };
    matches!(first, "EAX" | "RAX")
        && rest.split_whitespace().next().and_then(hex).is_some_and(|(_, digits)| digits >= 8)
}

impl<'a> Registers<'a> {
    pub(crate) fn new(line: &Line<'a>) -> Self {
        let narrow = line.text.starts_with("EAX");
        Self { last: "", awaiting: None, group: None, narrow, prefixed: line.prefixed, any: false, done: false }
    }

    /// Reads a line; `false` if the dump ended before it.
    pub(crate) fn read(&mut self, line: &Line<'a>, building: &mut Building) -> bool {
        // QEMU prints to a terminal or file; a line of a kernel log is not its.
        if self.done || (line.prefixed && !self.prefixed) {
            return false;
        }
        if line.text.is_empty() {
            return true;
        }
        if line.text.starts_with("Code=") {
            self.done = true;
            building.extend(line.number);
            return true;
        }
        let hex_only = line.text.split_whitespace().all(|word| hex(word).is_some());
        // A mailer may have broken off "[-RA]" or "DS".
        let scrap = line.text.len() <= SCRAP_BYTES && !line.prefixed;
        if !line.text.contains('=') && !hex_only && !scrap {
            self.done = true;
            return false;
        }
        for token in tokens(line.text) {
            match token {
                Token::Equals => self.name(),
                Token::Word(word) => self.word(word, line.number, building),
            }
        }
        true
    }

    fn name(&mut self) {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
        let group = match self.last {
            "ES" => Some(Group::Segment(Es)),
            "CS" => Some(Group::Segment(Cs)),
            "SS" => Some(Group::Segment(Ss)),
            "DS" => Some(Group::Segment(Ds)),
            "FS" => Some(Group::Segment(Fs)),
            "GS" => Some(Group::Segment(Gs)),
            "LDT" => Some(Group::Segment(Ldtr)),
            "TR" => Some(Group::Segment(Tr)),
            "GDT" => Some(Group::Gdt),
            "IDT" => Some(Group::Idt),
            _ => None,
        };
        self.awaiting = group.is_none().then_some(self.last);
        self.group = group.map(|group| (group, [0; 4], 0));
        self.last = "";
    }

    fn word(&mut self, word: &'a str, line: usize, building: &mut Building) {
        if let Some(name) = self.awaiting.take() {
            self.single(name, word, line, building);
        } else if let Some((group, mut values, count)) = self.group.take() {
            match hex(word) {
                Some((value, _)) => {
                    values[count] = value;
                    let whole = if matches!(group, Group::Segment(_)) { 4 } else { 2 };
                    if count + 1 == whole {
                        self.row(group, values, line, building);
                    } else {
                        self.group = Some((group, values, count + 1));
                    }
                }
                None => building.note(line, format!("a row of segment values ends after {count} of them")),
            }
        }
        self.last = word;
    }

    fn row(&mut self, group: Group, values: [u64; 4], line: usize, building: &mut Building) {
        self.any = true;
        match group {
            Group::Segment(register) => {
                let [selector, base, limit, flags] = values;
                building.set(Field::guest_selector(register), selector, line);
                building.set(Field::guest_base(register), base, line);
                building.set(Field::guest_limit(register), limit, line);
                let rights = flags >> 8 & RIGHTS;
                let unusable = if rights & PRESENT == 0 { UNUSABLE } else { 0 };
                let why =
                    "from the descriptor flags that QEMU prints; a register without P is one that QEMU makes unusable";
                building.derive(Field::guest_access_rights(register), rights | unusable, line, why);
            }
            Group::Gdt => {
                building.set(Field::GUEST_GDTR_BASE, values[0], line);
                building.set(Field::GUEST_GDTR_LIMIT, values[1], line);
            }
            Group::Idt => {
                building.set(Field::GUEST_IDTR_BASE, values[0], line);
                building.set(Field::GUEST_IDTR_LIMIT, values[1], line);
            }
        }
    }

    fn single(&mut self, name: &str, word: &str, line: usize, building: &mut Building) {
        let Some((value, _)) = hex(word) else { return };
        building.extend(line);
        let guest = &mut building.dump.facts.guest_visible;
        let field = match name {
            "RSP" | "ESP" => Field::GUEST_RSP,
            "RIP" | "EIP" => Field::GUEST_RIP,
            "RFL" | "EFL" => Field::GUEST_RFLAGS,
            "DR7" => Field::GUEST_DR7,
            "CR0" => return guest.cr0 = Some(value),
            "CR2" => return guest.cr2 = Some(value),
            "CR3" => return guest.cr3 = Some(value),
            "CR4" => return guest.cr4 = Some(value),
            "EFER" => return guest.efer = Some(value),
            "CPL" => return guest.cpl = u8::try_from(value).ok(),
            "SMM" => return guest.smm = Some(value != 0),
            "HLT" => return guest.halted = Some(value != 0),
            _ => return,
        };
        self.any = true;
        building.set(field, value, line);
    }

    /// The dump is over.
    pub(crate) fn finish(&mut self, building: &mut Building) {
        building.dump.kind = DumpKind::Qemu;
        let line = building.dump.first_line;
        let vmcs = &mut building.dump.vmcs;
        if self.narrow && building.dump.facts.guest_visible.efer.is_some_and(|efer| efer & EFER_LMA != 0) {
            // The guest is in IA-32e mode and its addresses have 64 bits, of which 32 are printed.
            use SegmentRegister::{Fs, Gs, Ldtr, Tr};
            for register in [Fs, Gs, Ldtr, Tr] {
                vmcs.forget(Field::guest_base(register));
            }
            vmcs.forget(Field::GUEST_RIP);
            vmcs.forget(Field::GUEST_RSP);
            building.note(line, "the guest is in IA-32e mode and QEMU prints 32 bits of RIP, RSP and the bases of FS, GS, LDTR and TR: they are unknown");
        }
        let no_entry = building.dump.events.iter().any(|event| event.what == Happened::NoReason);
        if no_entry && self.any {
            building.dump.vmcs = vmx_model::Vmcs::unknown();
            building.dump.facts.derived.clear();
            building.note(line, "no VM entry took place (hardware error 0), so these registers were not checked by one: no VMCS field is taken from them");
        }
    }
}
