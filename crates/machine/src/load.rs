//! How does an image get into memory, and in what state does the first processor begin?

use crate::elf;
use crate::multiboot::{self, Range};
use crate::ram::{HIGH, Ram};
use std::fmt;
use x86_state::{AccessRights, Cpu, Cr0, DescriptorTable, Gpr, Segment, SegmentRegister, Selector};

/// Where conventional memory ends: the boot information goes below it, if it fits.
const CONVENTIONAL_END: u64 = 0xa_0000;
/// Where the boot information goes, if it fits below [`CONVENTIONAL_END`].
const INFORMATION: u64 = 0x8_0000;
/// Where a boot sector is loaded and entered.
pub const BOOT_SECTOR: u64 = 0x7c00;

/// A file for the image, as boot loaders pass them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its name, or its command line.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// What kind of image it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF executable with a Multiboot 1 header.
    MultibootElf,
    /// An image whose Multiboot 1 header tells where it goes.
    Multiboot,
    /// An ELF executable without such a header, entered in the same state.
    Elf,
    /// Bytes, entered in real-address mode.
    Raw,
}

/// What has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What kind of image it was.
    pub format: Format,
    /// The physical address of the first instruction.
    pub entry: u64,
    /// The first address of the image.
    pub first: u64,
    /// The first address behind it, its zeros included.
    pub end: u64,
}

/// Why an image cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file ends before what was to be read.
    Truncated {
        /// What was to be read.
        what: &'static str,
        /// Where it begins in the file.
        offset: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// A field of an ELF header has a value that is not for this machine.
    Elf {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A Multiboot header demands what this loader does not have.
    MultibootFlags {
        /// Where the header is in the file.
        offset: u64,
        /// The flags that are not understood.
        flags: u32,
    },
    /// A part of the image would lie outside RAM.
    OutsideRam {
        /// What.
        what: &'static str,
        /// Its physical address.
        address: u64,
        /// Its size.
        len_bytes: u64,
    },
    /// An ELF segment has more bytes in the file than in memory, or an address field of a Multiboot header contradicts another.
    Contradiction {
        /// Which fields.
        what: &'static str,
        /// The first one.
        first: u64,
        /// The second one.
        second: u64,
    },
    /// Neither ELF, nor Multiboot, nor a boot sector.
    Unrecognized,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { what, offset, file_bytes } => {
                write!(f, "the file ends within {what}, at offset {offset:#x}: it has {file_bytes:#x} bytes")
            }
            Self::Elf { field, value } => {
                write!(f, "ELF header: {field} is {value:#x}, which this machine cannot load")
            }
            Self::MultibootFlags { offset, flags } => {
                write!(f, "the Multiboot header at offset {offset:#x} demands features {flags:#x}, which are not there")
            }
            Self::OutsideRam { what, address, len_bytes } => {
                write!(f, "{what}, {len_bytes:#x} bytes at {address:#x}, would be outside RAM")
            }
            Self::Contradiction { what, first, second } => {
                write!(f, "{what} contradict each other: {first:#x} and {second:#x}")
            }
            Self::Unrecognized => f.write_str(
                "neither an ELF executable, nor an image with a Multiboot header in its first 8 KiB, nor a boot sector \
                 (55 AA at offset 510)",
            ),
        }
    }
}

impl std::error::Error for LoadError {}

/// Puts bytes into RAM, and zeros behind them up to `memory_bytes`.
fn put(ram: &Ram, what: &'static str, address: u64, bytes: &[u8], memory_bytes: u64) -> Result<(), LoadError> {
    let len_bytes = memory_bytes.max(bytes.len() as u64);
    let outside = LoadError::OutsideRam { what, address, len_bytes };
    let cells = ram.range(address, len_bytes).ok_or(outside)?;
    let (data, zeros) = cells.split_at(bytes.len());
    for (cell, byte) in data.iter().zip(bytes) {
        cell.set(*byte);
    }
    for cell in zeros {
        // A page that nobody has touched stays untouched.
        if cell.get() != 0 {
            cell.set(0);
        }
    }
    Ok(())
}

/// The part of the file.
fn part<'a>(image: &'a [u8], what: &'static str, offset: u64, len_bytes: u64) -> Result<&'a [u8], LoadError> {
    let truncated = LoadError::Truncated { what, offset, file_bytes: image.len() as u64 };
    let range = || {
        let first = usize::try_from(offset).ok()?;
        image.get(first..first.checked_add(usize::try_from(len_bytes).ok()?)?)
    };
    range().ok_or(truncated)
}

/// Loads an image of a format that tells itself, and puts the first processor at its entry.
pub(crate) fn load(
    ram: &Ram,
    cpu: &mut Cpu,
    image: &[u8],
    command_line: &str,
    modules: &[Module<'_>],
) -> Result<Loaded, LoadError> {
    let header = multiboot::header(image)?;
    let loaded = match header.and_then(|header| Some((header.offset, header.addresses?))) {
        Some((offset, addresses)) => by_addresses(ram, image, offset, addresses)?,
        None if elf::is_elf(image) => {
            let format = if header.is_some() { Format::MultibootElf } else { Format::Elf };
            by_segments(ram, image, format)?
        }
        None if image.get(510..512) == Some(&[0x55, 0xaa]) => return load_raw(ram, cpu, image, BOOT_SECTOR),
        None => return Err(LoadError::Unrecognized),
    };
    let low = ram.low_bytes();
    let range = |base: u64, end: u64, available| Range { base, len_bytes: end.saturating_sub(base), available };
    let map = [
        range(0, CONVENTIONAL_END, true),
        range(CONVENTIONAL_END, 1 << 20, false),
        range(1 << 20, low, true),
        range(HIGH, HIGH + ram.high_bytes(), true),
    ];
    let map = if ram.high_bytes() == 0 { &map[..3] } else { &map[..] };
    // In conventional memory, where the image is not; else behind the image.
    let build = |at| multiboot::information(at, command_line, modules, map, low);
    let bytes = build(INFORMATION);
    let fits = INFORMATION + bytes.len() as u64 <= CONVENTIONAL_END;
    let apart = loaded.first >= CONVENTIONAL_END || loaded.end <= INFORMATION;
    let (at, bytes) = match fits && apart {
        true => (INFORMATION, bytes),
        false => {
            let at = loaded.end.max(1 << 20).next_multiple_of(0x1000);
            (at, build(at))
        }
    };
    put(ram, "the boot information with its modules", at, &bytes, 0)?;
    enter_protected(cpu, loaded.entry as u32);
    cpu.gpr[Gpr::Rax] = multiboot::LOADER_MAGIC.into();
    cpu.gpr[Gpr::Rbx] = at;
    Ok(loaded)
}

fn by_segments(ram: &Ram, image: &[u8], format: Format) -> Result<Loaded, LoadError> {
    let elf = elf::parse(image)?;
    let (mut first, mut end) = (u64::MAX, 0);
    for segment in &elf.segments {
        if segment.file_bytes > segment.memory_bytes {
            let (first, second) = (segment.file_bytes, segment.memory_bytes);
            return Err(LoadError::Contradiction { what: "p_filesz and p_memsz", first, second });
        }
        let bytes = part(image, "an ELF segment", segment.offset, segment.file_bytes)?;
        put(ram, "an ELF segment", segment.address, bytes, segment.memory_bytes)?;
        first = first.min(segment.address);
        end = end.max(segment.address + segment.memory_bytes);
    }
    let entry = elf.physical_entry();
    if u32::try_from(entry).is_err() || elf.segments.is_empty() {
        return Err(LoadError::Elf { field: "e_entry", value: elf.entry });
    }
    Ok(Loaded { format, entry, first, end })
}

/// The "a.out kludge": 3.1.3, The address fields of Multiboot header.
fn by_addresses(ram: &Ram, image: &[u8], offset: u64, addresses: [u32; 5]) -> Result<Loaded, LoadError> {
    let [header, load, load_end, bss_end, entry] = addresses.map(u64::from);
    let contradiction = |what, first, second| LoadError::Contradiction { what, first, second };
    let before = header.checked_sub(load).filter(|before| *before <= offset).ok_or(contradiction(
        "header_addr and load_addr",
        header,
        load,
    ))?;
    let start = offset - before;
    let file_bytes = match load_end {
        0 => (image.len() as u64).saturating_sub(start),
        _ => load_end.checked_sub(load).ok_or(contradiction("load_end_addr and load_addr", load_end, load))?,
    };
    let memory_bytes = match bss_end {
        0 => file_bytes,
        _ => bss_end.checked_sub(load).filter(|bytes| *bytes >= file_bytes).ok_or(contradiction(
            "bss_end_addr and load_end_addr",
            bss_end,
            load_end,
        ))?,
    };
    let bytes = part(image, "the image that the Multiboot header describes", start, file_bytes)?;
    put(ram, "the image that the Multiboot header describes", load, bytes, memory_bytes)?;
    Ok(Loaded { format: Format::Multiboot, entry, first: load, end: load + memory_bytes })
}

/// Loads bytes as they are, and puts the first processor at them in real-address mode.
pub(crate) fn load_raw(ram: &Ram, cpu: &mut Cpu, image: &[u8], address: u64) -> Result<Loaded, LoadError> {
    // What real-address mode reaches with an offset below 16.
    let len_bytes = image.len() as u64;
    if address >= 1 << 20 {
        return Err(LoadError::OutsideRam { what: "the entry in real-address mode", address, len_bytes });
    }
    put(ram, "the raw image", address, image, 0)?;
    // A boot sector is entered at 0:7C00; elsewhere the segment takes what it can.
    let (segment, offset) = if address < 0x1_0000 { (0, address) } else { (address >> 4, address & 0xf) };
    for register in
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs, SegmentRegister::Ss]
    {
        cpu.segments[register] = Segment::real(Selector(0), AccessRights::REAL);
    }
    cpu.segments[SegmentRegister::Cs] = Segment::real(Selector(segment as u16), AccessRights::REAL);
    cpu.idtr = DescriptorTable { base: 0, limit: 0x3ff };
    cpu.rip = offset;
    cpu.gpr[Gpr::Rsp] = BOOT_SECTOR;
    // The drive that it came from: the first hard disk.
    cpu.gpr[Gpr::Rdx] = 0x80;
    Ok(Loaded { format: Format::Raw, entry: address, first: address, end: address + len_bytes })
}

/// The state at the entry of a Multiboot image (3.2): 32-bit protected mode, flat, no paging, interrupts off.
fn enter_protected(cpu: &mut Cpu, entry: u32) {
    let flat = |selector, rights| Segment { selector: Selector(selector), base: 0, limit: u32::MAX, rights };
    cpu.cr0 = Cr0::PE | Cr0::ET;
    cpu.segments[SegmentRegister::Cs] = flat(0x08, AccessRights::CODE_32);
    for register in
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs, SegmentRegister::Ss]
    {
        cpu.segments[register] = flat(0x10, AccessRights::DATA_32);
    }
    cpu.rip = entry.into();
}
