//! What does an ELF file put where? Program headers of 32-bit and 64-bit x86 executables.
//!
//! Source: System V Application Binary Interface, edition 4.1, chapters 4 and 5; ELF-64 Object File Format 1.5.

use crate::load::LoadError;

const PT_LOAD: u32 = 1;
/// No executable has more program headers here; the field is 16 bits wide.
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// A part of the file that goes to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset in the file.
    pub(crate) offset: u64,
    /// Physical address.
    pub(crate) address: u64,
    /// Virtual address.
    pub(crate) virtual_address: u64,
    /// Bytes that come from the file.
    pub(crate) file_bytes: u64,
    /// Bytes in memory: the rest is zero.
    pub(crate) memory_bytes: u64,
}

/// An executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
}

/// Does the file begin as an ELF file does?
pub(crate) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// Reads the headers.
pub(crate) fn parse(image: &[u8]) -> Result<Elf, LoadError> {
    let file = File(image);
    let is_64 = match file.byte(4, "e_ident[EI_CLASS]")? {
        1 => false,
        2 => true,
        class => return Err(LoadError::Elf { field: "e_ident[EI_CLASS]", value: class.into() }),
    };
    let require = |field, value: u64, allowed: &[u64]| match allowed.contains(&value) {
        true => Ok(()),
        false => Err(LoadError::Elf { field, value }),
    };
    require("e_ident[EI_DATA]", file.byte(5, "e_ident[EI_DATA]")?.into(), &[1])?;
    require("e_type", file.u16(16, "e_type")?.into(), &[ET_EXEC.into(), ET_DYN.into()])?;
    require("e_machine", file.u16(18, "e_machine")?.into(), &[EM_386.into(), EM_X86_64.into()])?;
    let (entry, table, entry_bytes_at, count_at, least) = if is_64 {
        (file.u64(24, "e_entry")?, file.u64(32, "e_phoff")?, 54, 56, 56)
    } else {
        (file.u32(24, "e_entry")?.into(), file.u32(28, "e_phoff")?.into(), 42, 44, 32)
    };
    let entry_bytes = u64::from(file.u16(entry_bytes_at, "e_phentsize")?);
    let count = u64::from(file.u16(count_at, "e_phnum")?);
    if count > 0 && entry_bytes < least {
        return Err(LoadError::Elf { field: "e_phentsize", value: entry_bytes });
    }
    let mut segments = Vec::new();
    for n in 0..count {
        // Neither product nor sum overflows before the file ends: both factors are below 2^16.
        let at = table.checked_add(n * entry_bytes).ok_or(LoadError::Elf { field: "e_phoff", value: table })?;
        if file.u32(at, "p_type")? != PT_LOAD {
            continue;
        }
        let segment = if is_64 {
            Segment {
                offset: file.u64(after(at, 8), "p_offset")?,
                virtual_address: file.u64(after(at, 16), "p_vaddr")?,
                address: file.u64(after(at, 24), "p_paddr")?,
                file_bytes: file.u64(after(at, 32), "p_filesz")?,
                memory_bytes: file.u64(after(at, 40), "p_memsz")?,
            }
        } else {
            Segment {
                offset: file.u32(after(at, 4), "p_offset")?.into(),
                virtual_address: file.u32(after(at, 8), "p_vaddr")?.into(),
                address: file.u32(after(at, 12), "p_paddr")?.into(),
                file_bytes: file.u32(after(at, 16), "p_filesz")?.into(),
                memory_bytes: file.u32(after(at, 20), "p_memsz")?.into(),
            }
        };
        if segment.memory_bytes > 0 {
            segments.push(segment);
        }
    }
    Ok(Elf { entry, segments })
}

const fn after(at: u64, bytes: u64) -> u64 {
    at.saturating_add(bytes)
}

impl Elf {
    /// The physical address of the entry point, which is a virtual one in the file: by the segment that holds it, if one does.
    pub(crate) fn physical_entry(&self) -> u64 {
        let holds = |segment: &&Segment| {
            self.entry.checked_sub(segment.virtual_address).is_some_and(|into| into < segment.memory_bytes)
        };
        match self.segments.iter().find(holds) {
            Some(segment) => segment.address.wrapping_add(self.entry.wrapping_sub(segment.virtual_address)),
            None => self.entry,
        }
    }
}

/// A file that says what was to be read where it ends.
struct File<'a>(&'a [u8]);

impl File<'_> {
    fn bytes<const LEN: usize>(&self, at: u64, field: &'static str) -> Result<[u8; LEN], LoadError> {
        let found = usize::try_from(at).ok().and_then(|at| self.0.get(at..)?.first_chunk());
        found.copied().ok_or(LoadError::Truncated { what: field, offset: at, file_bytes: self.0.len() as u64 })
    }

    fn byte(&self, at: u64, field: &'static str) -> Result<u8, LoadError> {
        self.bytes::<1>(at, field).map(|[byte]| byte)
    }

    fn u16(&self, at: u64, field: &'static str) -> Result<u16, LoadError> {
        self.bytes(at, field).map(u16::from_le_bytes)
    }

    fn u32(&self, at: u64, field: &'static str) -> Result<u32, LoadError> {
        self.bytes(at, field).map(u32::from_le_bytes)
    }

    fn u64(&self, at: u64, field: &'static str) -> Result<u64, LoadError> {
        self.bytes(at, field).map(u64::from_le_bytes)
    }
}
