//! The I/O APIC by literal register sequences.

use softvirt_lapic::{Delivery, Destination, Message, Trigger};
use softvirt_machine::ioapic::IoApic;

/// An I/O APIC, and what it has sent.
#[derive(Default)]
struct Bench {
    chip: IoApic,
    sent: Vec<Message>,
    refuses: bool,
}

impl Bench {
    fn write(&mut self, register: u8, value: u32) {
        let Self { chip, sent, refuses } = self;
        chip.write(0, register.into(), &mut |_| panic!("the index sends nothing"));
        chip.write(0x10, value, &mut |message| {
            sent.push(*message);
            !*refuses
        });
    }

    fn read(&mut self, register: u8) -> u32 {
        self.chip.write(0, register.into(), &mut |_| panic!("the index sends nothing"));
        self.chip.read(0x10)
    }

    fn entry(&mut self, line: u8, value: u64) {
        self.write(0x11 + 2 * line, (value >> 32) as u32);
        self.write(0x10 + 2 * line, value as u32);
    }

    fn line(&mut self, line: u8, asserted: bool) {
        let Self { chip, sent, refuses } = self;
        chip.set_line(line, asserted, &mut |message| {
            sent.push(*message);
            !*refuses
        });
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        let Self { chip, sent, refuses } = self;
        chip.end_of_interrupt(vector, &mut |message| {
            sent.push(*message);
            !*refuses
        });
    }

    fn vectors(&mut self) -> Vec<u8> {
        self.sent.drain(..).map(|message| message.vector).collect()
    }
}

const LEVEL: u64 = 1 << 15;
const MASK: u64 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

#[test]
fn registers_after_reset() {
    let mut bench = Bench::default();
    assert_eq!((bench.read(0), bench.read(1), bench.read(2)), (0, 0x0017_0011, 0));
    for register in (0x10..0x40).step_by(2) {
        assert_eq!((bench.read(register), bench.read(register + 1)), (0x1_0000, 0), "{register:#x}");
    }
    assert_eq!((bench.read(0x40), bench.read(0xff), bench.read(3)), (0, 0, 0));
}

#[test]
fn id_has_four_bits_and_the_rest_is_read_only() {
    let mut bench = Bench::default();
    bench.write(0, u32::MAX);
    bench.write(1, u32::MAX);
    assert_eq!((bench.read(0), bench.read(1), bench.read(2)), (0x0f00_0000, 0x0017_0011, 0x0f00_0000));
    bench.entry(3, u64::MAX);
    assert_eq!((bench.read(0x16), bench.read(0x17)), (0x1_afff, 0xff00_0000));
}

#[test]
fn an_edge_sends_once() {
    let mut bench = Bench::default();
    bench.entry(5, 0x41 | 2 << 56);
    bench.line(5, true);
    bench.line(5, true);
    assert_eq!(bench.sent, [Message::edge(Destination::Physical(2), Delivery::Fixed, 0x41)]);
    bench.line(5, false);
    bench.line(5, true);
    assert_eq!(bench.vectors(), [0x41, 0x41]);
}

#[test]
fn an_edge_on_a_masked_entry_is_lost() {
    let mut bench = Bench::default();
    bench.entry(5, 0x41 | MASK);
    bench.line(5, true);
    bench.entry(5, 0x41);
    assert_eq!(bench.vectors(), []);
}

#[test]
fn a_level_sends_again_after_its_eoi_while_it_lasts() {
    let mut bench = Bench::default();
    bench.entry(9, 0x52 | LEVEL);
    bench.line(9, true);
    assert_eq!(bench.sent[0].trigger, Trigger::Level);
    assert_eq!(bench.read(0x22) & REMOTE_IRR, REMOTE_IRR);
    bench.end_of_interrupt(0x51);
    assert_eq!(bench.vectors(), [0x52], "that was another vector");
    bench.end_of_interrupt(0x52);
    assert_eq!(bench.vectors(), [0x52]);
    bench.line(9, false);
    bench.end_of_interrupt(0x52);
    assert_eq!(bench.vectors(), []);
    assert_eq!(bench.read(0x22) & REMOTE_IRR, 0);
}

#[test]
fn a_level_is_sent_when_its_mask_goes() {
    let mut bench = Bench::default();
    bench.entry(9, 0x52 | LEVEL | MASK);
    bench.line(9, true);
    assert_eq!(bench.vectors(), []);
    bench.entry(9, 0x52 | LEVEL);
    assert_eq!(bench.vectors(), [0x52]);
}

#[test]
fn a_level_that_nobody_accepts_waits_without_remote_irr() {
    let mut bench = Bench { refuses: true, ..Bench::default() };
    bench.entry(9, 0x52 | LEVEL);
    bench.line(9, true);
    assert_eq!(bench.read(0x22) & REMOTE_IRR, 0);
}

#[test]
fn remote_irr_goes_when_the_entry_becomes_edge_triggered() {
    let mut bench = Bench::default();
    bench.entry(9, 0x52 | LEVEL);
    bench.line(9, true);
    bench.entry(9, 0x52);
    assert_eq!(bench.read(0x22), 0x52);
}

#[test]
fn delivery_modes_and_destinations() {
    for (entry, message) in [
        (0x060, Some((Destination::Physical(0), Delivery::Fixed))),
        (0x160 | 1 << 11 | 3 << 56, Some((Destination::Logical(3), Delivery::LowestPriority))),
        (0x260, Some((Destination::Physical(0), Delivery::Smi))),
        (0x460, Some((Destination::Physical(0), Delivery::Nmi))),
        (0x560 | 0xff << 56, Some((Destination::Everyone, Delivery::Init))),
        (0x760, Some((Destination::Physical(0), Delivery::ExtInt))),
        // Reserved.
        (0x360, None),
        (0x660, None),
    ] {
        let mut bench = Bench::default();
        bench.entry(1, entry);
        bench.line(1, true);
        let sent = bench.sent.first().map(|message| (message.destination, message.delivery));
        assert_eq!(sent, message, "{entry:#x}");
    }
}
