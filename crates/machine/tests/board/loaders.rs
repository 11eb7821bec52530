//! What loaders put where, and what they refuse.

use crate::support::*;
use softvirt_machine::{Config, Ended, Format, LoadError, Loaded, Machine, Module};
use x86_state::{CpuMode, Hpa, PhysMemory};

const MAGIC: u32 = 0x1bad_b002;

/// A Multiboot header.
fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [MAGIC, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// An ELF32 file with one segment of these bytes at this address, entered 12 bytes behind its beginning.
fn elf32(address: u32, bytes: &[u8], memory_bytes: u32) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    for word in [address + 12, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD: the virtual address is not the physical one.
    for word in [1, 0x100, address, address, bytes.len() as u32, memory_bytes, 7, 4] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x100, 0);
    file.extend(bytes);
    file
}

/// The same as ELF64, at virtual address 0xFFFFFFFF80000000 plus the physical one.
fn elf64(address: u64, bytes: &[u8]) -> Vec<u8> {
    let high = 0xffff_ffff_8000_0000;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [high + address + 12, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    file.extend(7_u32.to_le_bytes());
    let len = bytes.len() as u64;
    for word in [0x100, high + address, address, len, len, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x100, 0);
    file.extend(bytes);
    file
}

/// OUT 0xF4, EAX in 32-bit code.
const EXIT: [u8; 2] = [0xe7, 0xf4];

fn loaded(image: &[u8]) -> Result<Loaded, LoadError> {
    machine().load(image, "image", &[])
}

#[test]
fn a_multiboot_elf_is_loaded_and_entered_as_the_specification_says() {
    let image = elf32(0x10_0000, &[header(0, &[]), EXIT.to_vec()].concat(), 0x1000);
    let mut machine = machine();
    bus(&machine).write_u32(Hpa(0x10_0100), 0xdead_beef);
    let expected = Loaded { format: Format::MultibootElf, entry: 0x10_000c, first: 0x10_0000, end: 0x10_1000 };
    assert_eq!(machine.load(&image, "image", &[]), Ok(expected));
    assert_eq!(bus(&machine).read_u32(Hpa(0x10_0100)), 0, "zeros behind the file's bytes");
    let state = machine.cpus().next().unwrap();
    assert_eq!((state.cpu.rip, state.cpu.mode()), (0x10_000c, CpuMode::Protected32));
    assert_eq!(machine.run(10, &mut ()), Ended::DebugExit(0x2bad_b002));
}

#[test]
fn the_boot_information_tells_memory_command_line_and_modules() {
    let image = elf32(0x10_0000, &[header(0, &[]), EXIT.to_vec()].concat(), 0x1000);
    let mut machine = Machine::new(&Config { memory_bytes: (3 << 30) + 0x1000, ..config(1) }).unwrap();
    let modules = [Module { name: "one", bytes: b"first" }, Module { name: "two", bytes: &[0x77; 5000] }];
    machine.load(&image, "image a b=c", &modules).unwrap();
    let at = machine.cpus().next().unwrap().cpu.gpr.0[3];
    assert!(at >= 0x1000, "not in page 0");
    let bus = bus(&machine);
    let word = |offset: u64| u64::from(bus.read_u32(Hpa(at + offset)));
    let text = |mut at: u64| {
        let mut text = String::new();
        while bus.read_u8(Hpa(at)) != 0 {
            text.push(char::from(bus.read_u8(Hpa(at))));
            at += 1;
        }
        text
    };
    assert_eq!(word(0), 0b10_0100_1101);
    assert_eq!((word(4), word(8)), (640, (3 << 20) - 1024));
    assert_eq!((text(word(16)), text(word(64))), ("image a b=c".to_string(), "softvirt".to_string()));
    assert_eq!(word(20), 2);
    for (n, (name, first, len_bytes)) in [("one", b'f', 5), ("two", 0x77, 5000)].into_iter().enumerate() {
        let entry = word(24) + 16 * n as u64;
        let field = |n: u64| u64::from(bus.read_u32(Hpa(entry + 4 * n)));
        assert_eq!(text(field(2)), name);
        assert_eq!(field(1) - field(0), len_bytes);
        assert_eq!((field(0) % 0x1000, bus.read_u8(Hpa(field(0)))), (0, first));
    }
    let mut map = Vec::new();
    let (mut entry, end) = (word(48), word(48) + word(44));
    while entry < end {
        map.push((bus.read_u64(Hpa(entry + 4)), bus.read_u64(Hpa(entry + 12)), bus.read_u32(Hpa(entry + 20))));
        entry += u64::from(bus.read_u32(Hpa(entry))) + 4;
    }
    let expected =
        [(0, 0xa_0000, 1), (0xa_0000, 0x6_0000, 2), (0x10_0000, (3 << 30) - 0x10_0000, 1), (1 << 32, 0x1000, 1)];
    assert_eq!(map, expected);
}

#[test]
fn large_modules_go_behind_the_image() {
    let image = elf32(0x10_0000, &[header(0, &[]), EXIT.to_vec()].concat(), 0x2345);
    let mut machine = machine();
    machine.load(&image, "image", &[Module { name: "large", bytes: &[1; 0x3_0000] }]).unwrap();
    assert_eq!(machine.cpus().next().unwrap().cpu.gpr.0[3], 0x10_3000);
}

#[test]
fn an_image_with_addresses_in_its_header_goes_there() {
    // Header at file offset 16 and 0x10_0010; load 0x10_0000; data to 0x10_0040, zeros to 0x10_0100; entry behind the header.
    let header = header(1 << 16, &[0x10_0010, 0x10_0000, 0x10_0040, 0x10_0100, 0x10_0030]);
    let mut image = [vec![0x90; 16], header, EXIT.to_vec()].concat();
    image.resize(0x60, 0x55);
    let mut machine = machine();
    let expected = Loaded { format: Format::Multiboot, entry: 0x10_0030, first: 0x10_0000, end: 0x10_0100 };
    assert_eq!(machine.load(&image, "image", &[]), Ok(expected));
    assert_eq!(bus(&machine).read_u8(Hpa(0x10_0000)), 0x90);
    assert_eq!(bus(&machine).read_u8(Hpa(0x10_0040)), 0, "behind load_end_addr");
    assert_eq!(machine.run(10, &mut ()), Ended::DebugExit(0x2bad_b002));
}

#[test]
fn an_elf64_is_loaded_by_physical_addresses_and_entered_at_its_physical_entry() {
    let image = elf64(0x12_0000, &[vec![0x90; 12], EXIT.to_vec()].concat());
    let mut machine = machine();
    let loaded = machine.load(&image, "image", &[]).unwrap();
    assert_eq!((loaded.format, loaded.entry), (Format::Elf, 0x12_000c));
    assert_eq!(machine.run(10, &mut ()), Ended::DebugExit(0x2bad_b002));
}

#[test]
fn a_boot_sector_is_entered_at_7c00_in_real_address_mode() {
    // MOV EAX, 5; OUT 0xF4, EAX
    let mut image = out32(0xf4, 5);
    image.resize(510, 0);
    image.extend([0x55, 0xaa]);
    let mut machine = machine();
    assert_eq!(machine.load(&image, "", &[]).map(|loaded| (loaded.format, loaded.entry)), Ok((Format::Raw, 0x7c00)));
    assert_eq!(machine.run(10, &mut ()), Ended::DebugExit(5));
}

#[test]
fn raw_bytes_above_64_kbyte_are_entered_by_a_segment() {
    let mut machine = machine();
    machine.load_raw(&out32(0xf4, 6), 0x9_1234).unwrap();
    let state = machine.cpus().next().unwrap();
    assert_eq!((state.cpu.segments[x86_state::SegmentRegister::Cs].base, state.cpu.rip), (0x9_1230, 4));
    assert_eq!(machine.run(10, &mut ()), Ended::DebugExit(6));
    let refused = machine.load_raw(&[0x90], 0x10_0000).unwrap_err();
    assert_eq!(refused.to_string(), "the entry in real-address mode, 0x1 bytes at 0x100000, would be outside RAM");
}

#[test]
fn errors_say_where_and_why() {
    let code = [header(0, &[]), EXIT.to_vec()].concat();
    let good = elf32(0x10_0000, &code, 0x1000);
    let with = |at: usize, value: u32| {
        let mut file = good.clone();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        file
    };
    let late = [vec![0; 8192 - 4], header(0, &[])].concat();
    for (image, words) in [
        (
            vec![],
            "neither an ELF executable, nor an image with a Multiboot header in its first 8 KiB, nor a boot sector (55 AA at offset 510)",
        ),
        (
            late,
            "neither an ELF executable, nor an image with a Multiboot header in its first 8 KiB, nor a boot sector (55 AA at offset 510)",
        ),
        (good[..20].to_vec(), "the file ends within e_entry, at offset 0x18: it has 0x14 bytes"),
        (good[..60].to_vec(), "the file ends within p_vaddr, at offset 0x3c: it has 0x3c bytes"),
        (good[..0x104].to_vec(), "the file ends within an ELF segment, at offset 0x100: it has 0x104 bytes"),
        (with(4, 0x0001_0103), "ELF header: e_ident[EI_CLASS] is 0x3, which this machine cannot load"),
        (with(18, 0x0001_0028), "ELF header: e_machine is 0x28, which this machine cannot load"),
        (with(28, 0xffff_fff0), "the file ends within p_type, at offset 0xfffffff0: it has 0x10e bytes"),
        (with(42, 0x0001_0008), "ELF header: e_phentsize is 0x8, which this machine cannot load"),
        (with(42, 0x0000_0020), "ELF header: e_entry is 0x10000c, which this machine cannot load"),
        (with(64, 0x20_0000), "an ELF segment, 0x1000 bytes at 0x200000, would be outside RAM"),
        (with(64, 0xffff_fff0), "an ELF segment, 0x1000 bytes at 0xfffffff0, would be outside RAM"),
        (with(72, 0xffff_ffff), "an ELF segment, 0xffffffff bytes at 0x100000, would be outside RAM"),
        (with(72, 4), "p_filesz and p_memsz contradict each other: 0xe and 0x4"),
        (with(56, 0xffff_ffff), "the file ends within an ELF segment, at offset 0xffffffff: it has 0x10e bytes"),
        (header(4, &[]), "the Multiboot header at offset 0x0 demands features 0x4, which are not there"),
        (
            header(1 << 16, &[0x10_0000; 4]),
            "the file ends within the Multiboot header's address fields, at offset 0xc: it has 0x1c bytes",
        ),
        (
            header(1 << 16, &[0, 0x10_0000, 0, 0, 0]),
            "header_addr and load_addr contradict each other: 0x0 and 0x100000",
        ),
        (
            header(1 << 16, &[0x10_0000, 0x10_0000, 0xf_0000, 0, 0]),
            "load_end_addr and load_addr contradict each other: 0xf0000 and 0x100000",
        ),
        (
            header(1 << 16, &[0x10_0000, 0x10_0000, 0x10_0020, 0x10_0010, 0]),
            "bss_end_addr and load_end_addr contradict each other: 0x100010 and 0x100020",
        ),
        (
            header(1 << 16, &[0x10_0000, 0x10_0000, 0x10_0fff, 0, 0]),
            "the file ends within the image that the Multiboot header describes, at offset 0x0: it has 0x20 bytes",
        ),
        (
            header(1 << 16, &[0xffff_fff0, 0xffff_fff0, 0, 0, 0]),
            "the image that the Multiboot header describes, 0x20 bytes at 0xfffffff0, would be outside RAM",
        ),
    ] {
        assert_eq!(loaded(&image).map_err(|error| error.to_string()), Err(words.to_string()));
    }
    assert!(loaded(&good).is_ok());
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let image = elf32(0x10_0000, &[header(0, &[]), EXIT.to_vec()].concat(), 0x1000);
    let error = machine().load(&image, "", &[Module { name: "huge", bytes: &vec![0; 2 << 20] }]).unwrap_err();
    assert!(error.to_string().starts_with("the boot information with its modules, "), "{error}");
}
