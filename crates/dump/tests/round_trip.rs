//! Is a VMCS that is printed and read back the same? Every format, generation, prefix, quoting and wrapping, with values of all kinds.

use softvirt_dump::write::{
    self, Carrier, Keys, KvmGeneration, Prefix, QemuWidth, Quote, Text, XenGeneration, XmhfForm,
};
use softvirt_dump::{Dump, DumpKind, Facts, GuestVisible, MsrEntry, parse};
use vmx_model::{Field, Vmcs};
use x86_state::SegmentRegister;

/// Marsaglia's xorshift64: the same values in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A VMCS with small, sparse and full values.
    fn vmcs(&mut self) -> Vmcs {
        let mut vmcs = Vmcs::new();
        for field in Field::all() {
            let value = self.next();
            let value = match self.next() % 4 {
                0 => 0,
                1 => value & 0xff,
                2 => value & self.next() & self.next(),
                _ => value,
            };
            vmcs.set(field, value & field.row().width.mask());
        }
        // More than four CR3-target values do not exist.
        vmcs.set(Field::CR3_TARGET_COUNT, self.next() % 5);
        vmcs
    }

    fn list(&mut self) -> Vec<MsrEntry> {
        (0..1 + self.next() % 3)
            .map(|_| MsrEntry { index: self.next() as u32, reserved: 0, value: self.next() })
            .collect()
    }
}

fn carriers() -> Vec<Carrier> {
    let mut all = Vec::new();
    for prefix in Prefix::ALL {
        for wrap in [None, Some(80), Some(72), Some(50)] {
            for quote in [Quote::None, Quote::Wrapped, Quote::First] {
                all.push(Carrier { prefix, wrap, quote });
            }
        }
    }
    all
}

/// Prints, reads, and compares the fields that the format tells.
fn check(vmcs: &Vmcs, text: &Text, carrier: Carrier, kind: DumpKind) -> Dump {
    let carried = carrier.carry(text);
    let context = || format!("{carrier:?}\n{carried}");
    let mut dumps = parse(&carried).unwrap_or_else(|error| panic!("{error}\n{}", context()));
    assert_eq!(dumps.len(), 1, "{}", context());
    let dump = dumps.remove(0);
    for field in Field::all() {
        let expected = text.fields.contains(&field).then(|| vmcs.get(field));
        assert_eq!(dump.vmcs.try_get(field), expected, "{field:?} {:?} {}", dump.notes, context());
    }
    assert_eq!(dump.kind, kind, "{}", context());
    dump
}

#[test]
fn kvm_dumps_come_back() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for generation in KvmGeneration::ALL {
        for (round, carrier) in carriers().into_iter().enumerate() {
            let mut vmcs = random.vmcs();
            let mut facts = Facts { effective_efer: Some(random.next()), ..Facts::default() };
            if generation >= KvmGeneration::V5_11 && round % 2 == 0 {
                let (load, store, exit) = (random.list(), random.list(), random.list());
                vmcs.set(Field::VM_ENTRY_MSR_LOAD_COUNT, load.len() as u64);
                vmcs.set(Field::VM_EXIT_MSR_STORE_COUNT, store.len() as u64);
                vmcs.set(Field::VM_EXIT_MSR_LOAD_COUNT, exit.len() as u64);
                facts.msr_lists.entry_load = Some(load);
                facts.msr_lists.exit_store = Some(store);
                facts.msr_lists.exit_load = Some(exit);
            }
            let text = write::kvm(&vmcs, &facts, generation);
            // A dump with Xen's prefix is not KVM's.
            let kind = if matches!(carrier.prefix, Prefix::Xen | Prefix::XenDate | Prefix::XenSeconds) {
                DumpKind::Xen
            } else {
                DumpKind::Kvm
            };
            if kind == DumpKind::Xen {
                continue;
            }
            let dump = check(&vmcs, &text, carrier, kind);
            assert_eq!(dump.facts.msr_lists, facts.msr_lists, "{generation:?} {carrier:?}");
            if generation >= KvmGeneration::V5_11 && !text.fields.contains(&Field::GUEST_IA32_EFER) {
                assert_eq!(dump.facts.effective_efer, facts.effective_efer, "{generation:?} {carrier:?}");
            }
        }
    }
}

#[test]
fn xen_dumps_come_back() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for generation in XenGeneration::ALL {
        for carrier in carriers() {
            let mut vmcs = random.vmcs();
            let short = generation == XenGeneration::V4_4;
            if short {
                vmcs.update(Field::EXIT_QUALIFICATION, |value| value & 0xffff_ffff);
            }
            let facts = Facts::default();
            check(&vmcs, &write::xen(&vmcs, &facts, generation), carrier, DumpKind::Xen);
        }
    }
}

#[test]
fn xens_efer_in_the_msr_list_is_not_the_field() {
    let facts = Facts { autoload_efer: Some(0x500), ..Facts::default() };
    let vmcs = write::linux_guest();
    for wrap in [None, Some(40)] {
        let carrier = Carrier { prefix: Prefix::Xen, wrap, quote: Quote::None };
        let dump = check(&vmcs, &write::xen(&vmcs, &facts, XenGeneration::V4_12), carrier, DumpKind::Xen);
        assert_eq!(dump.facts.autoload_efer, Some(0x500));
    }
}

#[test]
fn xmhf_listings_come_back() {
    let mut random = Random(0xfeed_f00d_dead_beef);
    for form in [
        XmhfForm::Dotted("VMCS02"),
        XmhfForm::Labelled("after02"),
        XmhfForm::Colons("vmcs12"),
        XmhfForm::Cached,
        XmhfForm::GuestState,
    ] {
        for wrap in [None, Some(80), Some(72)] {
            for quote in [Quote::None, Quote::Wrapped, Quote::First] {
                let mut vmcs = random.vmcs();
                if form != XmhfForm::GuestState {
                    // What a processor does not have is "unavailable".
                    let missing: Vec<Field> = Field::all().filter(|_| random.next() % 5 == 0).collect();
                    missing.into_iter().for_each(|field| vmcs.forget(field));
                }
                let carrier = Carrier { prefix: Prefix::None, wrap, quote };
                check(&vmcs, &write::xmhf(&vmcs, form), carrier, DumpKind::Xmhf);
            }
        }
    }
}

#[test]
fn json_and_toml_come_back() {
    let mut random = Random(0x5555_aaaa_1234_4321);
    for keys in [Keys::Names, Keys::Encodings] {
        for _ in 0..20 {
            let mut vmcs = random.vmcs();
            let missing: Vec<Field> = Field::all().filter(|_| random.next() % 3 == 0).collect();
            missing.into_iter().for_each(|field| vmcs.forget(field));
            // Other values are noted as no error of VMLAUNCH.
            vmcs.set(Field::VM_INSTRUCTION_ERROR, 0);
            let json = check(&vmcs, &write::json(&vmcs, keys), Carrier::PLAIN, DumpKind::Json);
            let toml = check(&vmcs, &write::toml(&vmcs, keys), Carrier::PLAIN, DumpKind::Toml);
            assert_eq!((json.notes.as_slice(), toml.notes.as_slice()), ([].as_slice(), [].as_slice()));
        }
    }
}

#[test]
fn qemu_registers_come_back() {
    let mut random = Random(0x7777_1111_3333_9999);
    for width in [QemuWidth::Bits32, QemuWidth::Bits64] {
        for wrap in [None, Some(80), Some(72), Some(40)] {
            for quote in [Quote::None, Quote::Wrapped, Quote::First] {
                let mut vmcs = random.vmcs();
                vmcs.update(Field::GUEST_RFLAGS, |rflags| rflags & 0xffff_ffff);
                let mut guest = GuestVisible {
                    cr0: Some(random.next() & 0xffff_ffff),
                    cr2: Some(random.next()),
                    cr3: Some(random.next()),
                    cr4: Some(random.next() & 0xffff_ffff),
                    // LMA as the width says.
                    efer: Some(if width == QemuWidth::Bits64 { 0x500 } else { 0 }),
                    cpl: Some(3),
                    smm: Some(false),
                    halted: Some(true),
                };
                if width == QemuWidth::Bits32 {
                    let bases = (0..8).filter_map(|n| Field::from_index(Field::GUEST_ES_BASE.index() + n));
                    let others = [Field::GUEST_RSP, Field::GUEST_RIP, Field::GUEST_GDTR_BASE, Field::GUEST_IDTR_BASE];
                    bases.chain(others).for_each(|field| vmcs.update(field, |value| value & 0xffff_ffff));
                    guest.cr2 = guest.cr2.map(|value| value & 0xffff_ffff);
                    guest.cr3 = guest.cr3.map(|value| value & 0xffff_ffff);
                }
                use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
                for register in [Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr] {
                    // QEMU has no bits but these, and its "unusable" is P = 0.
                    vmcs.update(Field::guest_access_rights(register), |rights| {
                        let rights = rights & 0xf0ff;
                        if rights & 0x80 == 0 { rights | 0x10000 } else { rights }
                    });
                }
                let carrier = Carrier { prefix: Prefix::None, wrap, quote };
                let dump = check(&vmcs, &write::qemu(&vmcs, &guest, width), carrier, DumpKind::Qemu);
                assert_eq!(dump.facts.guest_visible, guest, "{carrier:?}");
                assert_eq!(dump.facts.derived.len(), 8);
            }
        }
    }
}

#[test]
fn wide_tables_of_both_kinds_come_back_in_one_text() {
    let (first, second) = (write::linux_guest(), write::guest_hlt());
    let facts = Facts::default();
    let text = write::kvm(&first, &facts, KvmGeneration::V5_2).then(write::kvm(&second, &facts, KvmGeneration::V6_18));
    let carrier = Carrier { prefix: Prefix::Syslog, wrap: Some(72), quote: Quote::First };
    let dumps = parse(carrier.carry(&text)).unwrap();
    assert_eq!(dumps.len(), 2);
    assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_ACTIVITY_STATE), Some(0));
    assert_eq!(dumps[1].vmcs.try_get(Field::GUEST_ACTIVITY_STATE), Some(1));
    assert!(dumps[0].last_line < dumps[1].first_line);
}
