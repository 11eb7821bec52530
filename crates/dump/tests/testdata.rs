//! Are the dumps in `testdata/dumps` what the writer prints, and read as what they show? `SOFTVIRT_BLESS=1 cargo test -p softvirt-dump --test testdata`
//! writes them anew.

use softvirt_dump::write::{
    self, Carrier, Keys, KvmGeneration, Prefix, QemuWidth, Quote, Text, XenGeneration, XmhfForm,
};
use softvirt_dump::{Dump, DumpKind, Facts, GuestVisible, Happened, VmInstruction, parse};
use std::path::{Path, PathBuf};
use vmx_model::{Field, Vmcs};

/// Exit reason of a failed VM entry: invalid guest state.
const INVALID_GUEST_STATE: u64 = 0x8000_0021;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dumps")
}

/// `vmcs` after a VM entry that failed for its guest state, with one fault planted.
fn failed(mut vmcs: Vmcs, fault: (Field, u64)) -> Vmcs {
    vmcs.set(fault.0, fault.1);
    vmcs.set(Field::EXIT_REASON, INVALID_GUEST_STATE);
    vmcs.set(Field::EXIT_QUALIFICATION, 0);
    vmcs
}

/// [`write::linux_guest`] with APIC virtualization, posted interrupts and TSC scaling.
fn with_apicv(mut vmcs: Vmcs) -> Vmcs {
    for (field, value) in [
        (Field::PIN_BASED_CONTROLS, 0xff),
        (Field::SECONDARY_PROC_BASED_CONTROLS, 0x0210_17fa),
        (Field::TSC_MULTIPLIER, 1 << 48),
        (Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xf2),
        (Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x1_2f3e_5040),
        (Field::GUEST_INTERRUPT_STATUS, 0xec00),
    ] {
        vmcs.set(field, value);
    }
    vmcs
}

fn carried(prefix: Prefix, text: &Text) -> String {
    Carrier { prefix, wrap: None, quote: Quote::None }.carry(text)
}

/// Every file: name, comment, text.
fn files() -> Vec<(&'static str, &'static str, String)> {
    let facts = Facts { vmcs_pointer: Some(0x0000_0000_7c1e_92d3), effective_efer: Some(0xd01), ..Facts::default() };
    let kvm = |vmcs: &Vmcs, generation| write::kvm(vmcs, &facts, generation);
    let linux = write::linux_guest;
    let mut injecting = linux();
    injecting.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_030e);
    injecting.set(Field::IDT_VECTORING_INFO, 0x8000_0b0e);
    injecting.set(Field::IDT_VECTORING_ERROR_CODE, 2);
    let mut software_interrupt = linux();
    software_interrupt.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0480);
    // XMHF runs without these, and its VMREAD of them fails.
    for field in Field::all()
        .filter(|field| matches!(field.encoding().0, 0x2018 | 0x2024..=0x2048 | 0x2402..=0x2404 | 0x2812..=0x282e))
    {
        software_interrupt.forget(field);
    }
    let mut interrupted = failed(linux(), (Field::GUEST_RFLAGS, 0x46));
    interrupted.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_00ec);
    let real_mode = GuestVisible { cr0: Some(0x6000_0010), cpl: Some(0), ..GuestVisible::default() };

    let mut files = vec![
        (
            "kvm-6x-invalid-guest-tr.txt",
            "Linux 6.18, kvm_intel: a 64-bit guest whose TR holds a 16-bit busy TSS (type 3). Rule broken: TR's type must be 11 in IA-32e mode.",
            carried(
                Prefix::KvmIntel,
                &kvm(&failed(linux(), (Field::GUEST_TR_ACCESS_RIGHTS, 0x83)), KvmGeneration::V6_18),
            ),
        ),
        (
            "kvm-5x-cs-dpl.txt",
            "Linux 5.2: CS is a non-conforming code segment with DPL 3 beside an SS with DPL 0. Rule broken: CS.DPL must equal SS.DPL.",
            carried(
                Prefix::Dmesg,
                &kvm(&failed(linux(), (Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb)), KvmGeneration::V5_2),
            ),
        ),
        (
            "kvm-4x-healthy-real-mode.txt",
            "Linux 4.4: a guest at the reset vector, as after an EPT violation. Nothing is broken.",
            carried(Prefix::Dmesg, &kvm(&write::real_mode_guest(), KvmGeneration::V4_4)),
        ),
        (
            "kvm-ftrace-rflags-if.txt",
            "Linux 5.19 through ftrace: an external interrupt is injected while RFLAGS.IF is 0. Rule broken: IF must be 1.",
            carried(Prefix::Ftrace, &kvm(&with_apicv(interrupted), KvmGeneration::V5_19)),
        ),
        (
            "kvm-healthy-64bit.txt",
            "Linux 5.19, kvm_intel with APICv: a running 64-bit guest after an EPT violation. Nothing is broken; this is no failed VM entry.",
            carried(Prefix::KvmIntel, &kvm(&with_apicv(linux()), KvmGeneration::V5_19)),
        ),
        (
            "kvm-truncated.txt",
            "Linux 6.18: TR holds a data segment (S = 1), and the log ends in the middle of the host state. Rule broken: TR's S must be 0.",
            carried(
                Prefix::KvmIntel,
                &kvm(&failed(linux(), (Field::GUEST_TR_ACCESS_RIGHTS, 0x9b)), KvmGeneration::V6_18).cut(30),
            ),
        ),
        (
            "kvm-two-vcpus.txt",
            "Linux 5.19, two dumps: a halted vCPU in order, then one whose RIP is not canonical. Rule broken in the second only.",
            carried(
                Prefix::DmesgCaller,
                &kvm(&write::guest_hlt(), KvmGeneration::V5_19)
                    .then(kvm(&failed(linux(), (Field::GUEST_RIP, 0x8000_0000_8196_2c1f)), KvmGeneration::V5_19)),
            ),
        ),
        (
            "xen-vmlaunch-error7.txt",
            "Xen 4.12: VMLAUNCH error 7; a page fault is to be injected without an error code. The exit reason is an earlier exit's.",
            carried(
                Prefix::XenDate,
                &write::xen(&injecting, &facts, XenGeneration::V4_12).after(&["d2v0 VMLAUNCH error: 0x7"]),
            ),
        ),
        (
            "xen-healthy-hvm.txt",
            "Xen 4.19, debug key 'v': a halted 64-bit guest. Nothing is broken.",
            carried(
                Prefix::Xen,
                &write::xen(&write::guest_hlt(), &facts, XenGeneration::V4_19).after(&[
                    "*********** VMCS Areas **************",
                    "",
                    ">>> Domain 3 <<<",
                    "  VCPU 1",
                ]),
            ),
        ),
        (
            "xen-4.4-ldtr-type.txt",
            "Xen 4.4: LDTR is usable and holds no LDT (type 3). Rule broken: LDTR's type must be 2.",
            carried(
                Prefix::XenSeconds,
                &write::xen(&failed(linux(), (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x8083)), &facts, XenGeneration::V4_4)
                    .after(&[
                        "Failed vm entry (exit reason 0x80000021) caused by invalid guest state (0).",
                        "************* VMCS Area **************",
                    ]),
            ),
        ),
        (
            "xmhf-softint-ilen.txt",
            "XMHF, VMCS02: a software interrupt is injected with VM-entry instruction length 0. Rule broken on processors with IA32_VMX_MISC[30] = 0: the length must be 1 to 15.",
            carried(Prefix::None, &write::xmhf(&software_interrupt, XmhfForm::Dotted("VMCS02"))),
        ),
        (
            "xmhf-rflags-bit1.txt",
            "XMHF, guest state only: RFLAGS is 0. Rule broken: bit 1 of RFLAGS must be 1.",
            carried(
                Prefix::None,
                &write::xmhf(&failed(write::real_mode_guest(), (Field::GUEST_RFLAGS, 0)), XmhfForm::GuestState)
                    .after(&["CPU(0x00): VM-ENTRY error: reason=0x80000021, qualification=0x0000000000000000"]),
            ),
        ),
        (
            "qemu-regs-only.txt",
            "QEMU after VM-instruction error 7: the registers are in order; the cause is in the controls or the host state, which QEMU does not know.",
            carried(
                Prefix::None,
                &write::qemu(&write::real_mode_guest(), &real_mode, QemuWidth::Bits32)
                    .after(&["KVM: entry failed, hardware error 0x7"]),
            ),
        ),
        (
            "svm-stub.txt",
            "KVM on AMD: the beginning of a VMCB dump. There is no VMCS in it.",
            carried(Prefix::Dmesg, &write::svm_stub()),
        ),
        ("toml-guest-pat.toml", "By name: byte 2 of IA32_PAT is 3. Rule broken: each byte must be a memory type.", {
            let mut vmcs = linux();
            vmcs.set(Field::GUEST_IA32_PAT, 0x0407_0506_0003_0106);
            carried(Prefix::None, &write::toml(&vmcs, Keys::Names))
        }),
        ("json-host-tr-null.json", "", {
            let mut vmcs = linux();
            vmcs.set(Field::HOST_TR_SELECTOR, 0);
            let text = carried(Prefix::None, &write::json(&vmcs, Keys::Encodings));
            text.replacen(
                "{\n",
                "{\n  \"label\": \"by encoding: the host's TR selector is 0, which no host may have\",\n",
                1,
            )
        }),
    ];
    let mail = Carrier { prefix: Prefix::Syslog, wrap: Some(72), quote: Quote::First };
    let dump = kvm(&failed(linux(), (Field::GUEST_GS_BASE, 0x8fff_8882_37c0_0000)), KvmGeneration::V5_11);
    let mail = format!(
        "On Thursday somebody wrote:\n> My guest dies when it comes back from suspend, with this in the log:\n>\n{}> \n> What does it mean?\n\nLook at the segments.\n",
        mail.carry(&dump)
    );
    let comment = "A mail that quotes a log of Linux 5.11, wrapped at 72 columns: the base of GS is not canonical. Rule broken: it must be.";
    files.push(("mail-quoted-wrapped.txt", comment, mail));
    files
}

fn content(comment: &str, text: &str) -> String {
    if comment.is_empty() { text.to_owned() } else { format!("# {comment}\n\n{text}") }
}

#[test]
fn files_are_up_to_date() {
    let bless = std::env::var_os("SOFTVIRT_BLESS").is_some();
    let folder = folder();
    for (name, comment, text) in files() {
        let path = folder.join(name);
        let content = content(comment, &text);
        if bless {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, content).unwrap();
        } else {
            let found = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
            assert!(found == content, "{name} is not what the writer prints; SOFTVIRT_BLESS=1 writes it anew");
        }
    }
}

#[test]
fn no_file_is_without_a_writer() {
    let known: Vec<&str> = files().iter().map(|(name, ..)| *name).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "{name}");
    }
}

fn dumps(name: &str) -> Vec<Dump> {
    let files = files();
    let (_, comment, text) = files.iter().find(|(known, ..)| *known == name).unwrap();
    parse(content(comment, text)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn dump(name: &str) -> Dump {
    let mut dumps = dumps(name);
    assert_eq!(dumps.len(), 1, "{name}");
    dumps.remove(0)
}

#[test]
fn every_file_is_read_as_what_it_shows() {
    let ept_violation = Happened::OrdinaryExit { reason: 0x30, qualification: Some(0x181) };
    let invalid = Happened::EntryFailed { reason: INVALID_GUEST_STATE as u32, qualification: Some(0) };
    let error7 = |instruction| Happened::VmInstructionError { instruction, number: 7 };
    for (name, kind, event, field, value) in [
        ("kvm-6x-invalid-guest-tr.txt", DumpKind::Kvm, Some(invalid.clone()), Field::GUEST_TR_ACCESS_RIGHTS, 0x83),
        ("kvm-5x-cs-dpl.txt", DumpKind::Kvm, Some(invalid.clone()), Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb),
        ("kvm-4x-healthy-real-mode.txt", DumpKind::Kvm, Some(ept_violation.clone()), Field::GUEST_CR0, 0x30),
        ("kvm-ftrace-rflags-if.txt", DumpKind::Kvm, Some(invalid.clone()), Field::TPR_THRESHOLD, 0),
        ("kvm-healthy-64bit.txt", DumpKind::Kvm, Some(ept_violation.clone()), Field::GUEST_INTERRUPT_STATUS, 0xec00),
        ("kvm-truncated.txt", DumpKind::Kvm, None, Field::GUEST_TR_ACCESS_RIGHTS, 0x9b),
        (
            "xen-vmlaunch-error7.txt",
            DumpKind::Xen,
            Some(error7(Some(VmInstruction::Vmlaunch))),
            Field::VM_ENTRY_INTERRUPTION_INFO,
            0x8000_030e,
        ),
        (
            "xen-healthy-hvm.txt",
            DumpKind::Xen,
            Some(Happened::OrdinaryExit { reason: 12, qualification: Some(0) }),
            Field::GUEST_ACTIVITY_STATE,
            1,
        ),
        ("xen-4.4-ldtr-type.txt", DumpKind::Xen, Some(invalid.clone()), Field::GUEST_LDTR_ACCESS_RIGHTS, 0x8083),
        (
            "xmhf-softint-ilen.txt",
            DumpKind::Xmhf,
            Some(ept_violation.clone()),
            Field::VM_ENTRY_INTERRUPTION_INFO,
            0x8000_0480,
        ),
        ("xmhf-rflags-bit1.txt", DumpKind::Xmhf, Some(invalid.clone()), Field::GUEST_RFLAGS, 0),
        ("qemu-regs-only.txt", DumpKind::Qemu, Some(error7(None)), Field::GUEST_CS_ACCESS_RIGHTS, 0x9b),
        (
            "toml-guest-pat.toml",
            DumpKind::Toml,
            Some(ept_violation.clone()),
            Field::GUEST_IA32_PAT,
            0x0407_0506_0003_0106,
        ),
        ("json-host-tr-null.json", DumpKind::Json, Some(ept_violation.clone()), Field::HOST_TR_SELECTOR, 0),
        ("mail-quoted-wrapped.txt", DumpKind::Kvm, Some(invalid.clone()), Field::GUEST_GS_BASE, 0x8fff_8882_37c0_0000),
    ] {
        let dump = dump(name);
        assert_eq!(dump.kind, kind, "{name}");
        assert_eq!(dump.events.first().map(|event| event.what.clone()), event, "{name}");
        assert_eq!(dump.vmcs.try_get(field), Some(value), "{name}");
    }
}

#[test]
fn an_svm_dump_has_no_fields() {
    let dump = dump("svm-stub.txt");
    assert_eq!((dump.kind, dump.vmcs.known_count()), (DumpKind::Svm, 0));
}

#[test]
fn two_dumps_of_a_file_are_two_reports() {
    let dumps = dumps("kvm-two-vcpus.txt");
    assert_eq!(dumps.len(), 2);
    assert!(!dumps[0].events[0].what.is_entry_failure());
    assert!(dumps[1].events[0].what.is_entry_failure());
    assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_ACTIVITY_STATE), Some(1));
    assert_eq!(dumps[1].vmcs.try_get(Field::GUEST_RIP), Some(0x8000_0000_8196_2c1f));
}

#[test]
fn what_a_truncated_dump_lacks_is_unknown() {
    let dump = dump("kvm-truncated.txt");
    assert_eq!(dump.vmcs.try_get(Field::GUEST_IA32_EFER), Some(0xd01));
    assert_eq!(dump.vmcs.try_get(Field::HOST_CS_SELECTOR), Some(0x10));
    for field in
        [Field::HOST_IA32_PAT, Field::PIN_BASED_CONTROLS, Field::EXIT_REASON, Field::VM_ENTRY_INTERRUPTION_INFO]
    {
        assert_eq!(dump.vmcs.try_get(field), None, "{field:?}");
    }
}

#[test]
fn labels_name_the_virtual_processor() {
    assert_eq!(dump("xen-vmlaunch-error7.txt").label.as_deref(), Some("d2v0"));
    assert_eq!(dump("xen-healthy-hvm.txt").label.as_deref(), Some("d3v1"));
    assert_eq!(dump("xmhf-softint-ilen.txt").label.as_deref(), Some("VMCS02"));
    assert_eq!(dump("kvm-6x-invalid-guest-tr.txt").label.as_deref(), Some("VMCS 000000007c1e92d3"));
}
