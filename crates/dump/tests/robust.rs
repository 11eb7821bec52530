//! Does any text give a report or an error? Mutilated dumps, noise, and texts made to take long.

use softvirt_dump::write::{self, Carrier, KvmGeneration, Prefix, Quote, XenGeneration, XmhfForm};
use softvirt_dump::{DumpKind, Facts, MAX_DUMPS, parse};
use vmx_model::Field;

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize
    }
}

fn texts() -> Vec<String> {
    let (vmcs, facts) = (write::linux_guest(), Facts::default());
    let carrier = Carrier { prefix: Prefix::KvmIntel, wrap: Some(72), quote: Quote::Wrapped };
    vec![
        carrier.carry(&write::kvm(&vmcs, &facts, KvmGeneration::V6_18)),
        Carrier { prefix: Prefix::XenDate, ..Carrier::PLAIN }.carry(&write::xen(&vmcs, &facts, XenGeneration::V4_12)),
        Carrier::PLAIN.carry(&write::xmhf(&vmcs, XmhfForm::Dotted("VMCS02"))),
        Carrier::PLAIN.carry(&write::qemu(&vmcs, &Default::default(), write::QemuWidth::Bits64)),
        Carrier::PLAIN.carry(&write::svm_stub()),
        Carrier::PLAIN.carry(&write::json(&vmcs, write::Keys::Names)),
        Carrier::PLAIN.carry(&write::toml(&vmcs, write::Keys::Encodings)),
    ]
}

#[test]
fn mutilated_dumps_give_a_report_or_an_error() {
    let mut random = Random(0x1357_9bdf_0246_8ace);
    for text in texts() {
        for _ in 0..300 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..1 + random.next() % 8 {
                let at = random.next() % bytes.len();
                match random.next() % 4 {
                    0 => bytes[at] = random.next() as u8,
                    1 => bytes.truncate(at + 1),
                    2 => drop(bytes.drain(at..(at + random.next() % 40).min(bytes.len()))),
                    _ => bytes.extend_from_within(at..),
                }
                if bytes.is_empty() {
                    bytes.push(b'\n');
                }
            }
            for dump in parse(&bytes).unwrap_or_default() {
                assert!(dump.first_line >= 1 && dump.first_line <= dump.last_line);
            }
        }
    }
}

#[test]
fn noise_is_an_error_that_says_what_was_expected() {
    let mut random = Random(0x0f1e_2d3c_4b5a_6978);
    for length in [0, 1, 17, 4096] {
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        assert!(parse(&bytes).is_err(), "{length}");
    }
    let error = parse("Dear all,\nmy guest does not start.\n").unwrap_err();
    assert_eq!((error.line, error.last_line), (1, 2));
    assert!(
        error.to_string().starts_with("lines 1-2: no line that a VMCS dump has, such as \"*** Guest State ***\""),
        "{error}"
    );
    assert_eq!(parse(" \n\n").unwrap_err().to_string(), "line 1: the text is empty");
    let error = parse("[ 1.0] *** Guest State ***\n[ 1.0] reboot\n").unwrap_err();
    assert_eq!(error.to_string(), "lines 1-2: a dump begins here, but no \"name = value\" line of it follows");
}

#[test]
fn no_piece_of_a_dump_alone_is_trouble() {
    for text in texts() {
        for line in text.lines() {
            let _ = parse(line);
        }
        for end in 0..text.len().min(3000) {
            if text.is_char_boundary(end) {
                let _ = parse(&text[..end]);
            }
        }
    }
}

/// A megabyte of each takes milliseconds if the time grows with the length; with its square, this test would not end.
#[test]
fn texts_made_to_take_long_do_not() {
    let many = |piece: &str| piece.repeat((1 << 20) / piece.len());
    for text in [
        many("="),
        many("guest_CR0"),
        many("guest_CR0="),
        many("guest_CR0=\n"),
        many("@a@b@c@d"),
        many("[ 1.0]"),
        many("> "),
        many("CS: "),
        many("0000 "),
        many("*** Guest State ***\n"),
        many("CPU(0x01): (0x6800)\n"),
        many("{\"a\":"),
        many("[vmcs]\n"),
        format!("[vmcs]\n{}", many("a.")),
        format!("{{{}\"guest_cr0\":1}}", many("\"\\u0061\":1,")),
        (0..40_000).map(|n| format!("@label{n}@guest_CR0 = 0x1\n")).collect(),
        (0..40_000).map(|n| format!("[ 1.0][ T{n}] *** Guest State ***\n[ 1.0][ T{n}] CR3 = 0x1\n")).collect(),
    ] {
        let _ = parse(text);
    }
}

#[test]
fn dumps_beyond_the_limit_are_left_out_and_it_is_said() {
    let text: String = (0..MAX_DUMPS + 5).map(|n| format!("*** Guest State ***\nCR3 = 0x{n:x}\n")).collect();
    let dumps = parse(text).unwrap();
    assert_eq!(dumps.len(), MAX_DUMPS);
    assert!(dumps[MAX_DUMPS - 1].notes.iter().any(|note| note.text.contains("more than")));
}

#[test]
fn interleaved_dumps_are_told_apart_by_their_callers() {
    let facts = Facts::default();
    let (first, second) = (write::linux_guest(), write::guest_hlt());
    let lines = |vmcs, caller: &str| -> Vec<String> {
        let text = Carrier::PLAIN.carry(&write::kvm(vmcs, &facts, KvmGeneration::V6_18));
        text.lines().map(|line| format!("[ 12.000000][ {caller}] kvm_intel: {line}\n")).collect()
    };
    let mixed: String =
        lines(&first, "T100").into_iter().zip(lines(&second, "T200")).flat_map(|(a, b)| [a, b]).collect();
    let dumps = parse(mixed).unwrap();
    assert_eq!(dumps.len(), 2);
    assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_ACTIVITY_STATE), Some(0));
    assert_eq!(dumps[1].vmcs.try_get(Field::GUEST_ACTIVITY_STATE), Some(1));
    assert!(dumps.iter().all(|dump| dump.notes.is_empty()));
}

#[test]
fn unrelated_lines_between_are_passed_over() {
    let text = Carrier { prefix: Prefix::Dmesg, ..Carrier::PLAIN }.carry(&write::kvm(
        &write::linux_guest(),
        &Facts::default(),
        KvmGeneration::V5_19,
    ));
    let expected = parse(&text).unwrap().remove(0);
    let mixed: String =
        text.lines().map(|line| format!("{line}\n[ 5120.5] usb 1-1: new device, idVendor=1d6b\n")).collect();
    let dump = parse(mixed).unwrap().remove(0);
    assert_eq!(dump.vmcs, expected.vmcs);
    assert_eq!(dump.notes, []);
}

#[test]
fn a_line_broken_inside_a_number_is_joined() {
    let text =
        "*** Guest State ***\nCR3 = 0x00000000\n04452000\nRSP = 0xffffc90000017e48  RIP = 0xffffffff8196\n2c1f\n";
    let dump = parse(text).unwrap().remove(0);
    assert_eq!(dump.vmcs.try_get(Field::GUEST_CR3), Some(0x0445_2000));
    assert_eq!(dump.vmcs.try_get(Field::GUEST_RIP), Some(0xffff_ffff_8196_2c1f));
}

#[test]
fn a_field_told_twice_keeps_the_last_and_is_noted() {
    let dump = parse("*** Guest State ***\nCR3 = 0x1000\nCR3 = 0x2000\n").unwrap().remove(0);
    assert_eq!(dump.vmcs.try_get(Field::GUEST_CR3), Some(0x2000));
    assert_eq!(dump.notes.len(), 1);
    assert_eq!(dump.notes[0].line, 3);
}

#[test]
fn registers_without_a_section_header_are_not_guessed() {
    let dump = parse("[ 1.0] RSP = 0x1  RIP = 0x2\n[ 1.0] CS=0010 SS=0018 DS=0000\n[ 1.0] FSBase=0 GSBase=0 TRBase=fffffe0000003000\n").unwrap().remove(0);
    assert_eq!(dump.kind, DumpKind::Kvm);
    assert_eq!(dump.vmcs.try_get(Field::HOST_TR_BASE), Some(0xffff_fe00_0000_3000));
    assert_eq!(dump.vmcs.try_get(Field::HOST_RSP), None);
    assert_eq!(dump.vmcs.try_get(Field::GUEST_RSP), None);
}

#[test]
fn xens_oldest_listing_by_encoding_is_read() {
    let text = "(XEN) \t 16-bit Guest-State Fields\n(XEN) \t\t0x00000800: 0x0010 0x0008 0x0010 0x0010 \n(XEN) \t\t0x00000808: 0x0000 ------ 0x0000 0x0018 \n\
                (XEN) \t 64-bit Control Fields\n(XEN) \t\t0x00002010: 0x0000000089abcdef 0x0000000001234567 ------------------ ------------------ \n";
    let dump = parse(text).unwrap().remove(0);
    assert_eq!(dump.kind, DumpKind::Xen);
    assert_eq!(dump.vmcs.try_get(Field::GUEST_CS_SELECTOR), Some(8));
    assert_eq!(dump.vmcs.try_get(Field::GUEST_GS_SELECTOR), None);
    assert_eq!(dump.vmcs.try_get(Field::GUEST_TR_SELECTOR), Some(0x18));
    assert_eq!(dump.vmcs.try_get(Field::TSC_OFFSET), Some(0x0123_4567_89ab_cdef));
    assert_eq!(dump.vmcs.try_get(Field::VIRTUAL_APIC_ADDRESS), None);
}
