//! How does a guest become something that a boot loader loads? A multiboot 1 kernel in a 32-bit ELF file, or a boot sector.
//!
//! Source: Multiboot Specification 0.6.96, 3.1, OS image format, and 3.2, Machine state; System V ABI, ELF header and program header.

use std::fmt;

/// A piece of memory, as it is to be when the guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins.
    pub address: u64,
    /// What is there.
    pub bytes: Vec<u8>,
}

/// The memory of a guest that starts as a multiboot kernel: in 32-bit protected mode, without paging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    chunks: Vec<Chunk>,
    entry: u64,
    end: u64,
}

/// The image cannot be built.
#[derive(Debug)]
pub enum BuildError {
    /// The assembler refuses an instruction.
    Assembler(iced_x86::IcedError),
    /// Two pieces of memory overlap: the first address that both have.
    Overlap(u64),
    /// A piece of memory is longer than its place.
    TooLong {
        /// The place.
        address: u64,
        /// How long the piece is.
        bytes: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assembler(error) => write!(f, "the assembler: {error}"),
            Self::Overlap(address) => write!(f, "two pieces of memory at {address:#x}"),
            Self::TooLong { address, bytes } => write!(f, "{bytes} bytes at {address:#x} are too many"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<iced_x86::IcedError> for BuildError {
    fn from(error: iced_x86::IcedError) -> Self {
        Self::Assembler(error)
    }
}

/// Size of the ELF header, and of a program header.
const ELF_HEADER: usize = 52;
const PROGRAM_HEADER: usize = 32;
/// Below, there are things between pieces of memory that are no RAM.
const ONE_MBYTE: u64 = 1 << 20;
/// PT_LOAD; readable, writable, executable.
const LOAD: u32 = 1;
const ALL_RIGHTS: u32 = 7;

impl Image {
    /// An image that is entered here, and that uses memory up to `end`, which starts as zeros where no chunk is.
    #[must_use]
    pub fn new(entry: u64, end: u64) -> Self {
        Self { chunks: Vec::new(), entry, end }
    }

    /// Adds a piece of memory.
    ///
    /// # Errors
    /// It overlaps another one, or the end.
    pub fn add(&mut self, address: u64, bytes: Vec<u8>) -> Result<(), BuildError> {
        let end = address + bytes.len() as u64;
        if end > self.end {
            return Err(BuildError::TooLong { address, bytes: bytes.len() });
        }
        let at = self.chunks.partition_point(|chunk| chunk.address < address);
        if let Some(next) = self.chunks.get(at).filter(|next| next.address < end) {
            return Err(BuildError::Overlap(next.address));
        }
        let before = at.checked_sub(1).and_then(|at| self.chunks.get(at));
        if before.is_some_and(|before| before.address + before.bytes.len() as u64 > address) {
            return Err(BuildError::Overlap(address));
        }
        self.chunks.insert(at, Chunk { address, bytes });
        Ok(())
    }

    /// Every piece of memory, in ascending order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The first instruction.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The ELF file: one segment for each piece of memory, above 1 MByte with zeros up to the next one or to the end.
    ///
    /// The first piece must hold the multiboot header; it stands in the first 8 KByte of the file.
    #[must_use]
    pub fn to_elf(&self) -> Vec<u8> {
        let chunks = &self.chunks;
        let ends = chunks.iter().skip(1).map(|next| next.address).chain([self.end]);
        let mut file = Vec::new();
        file.extend([0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
        let half = |file: &mut Vec<u8>, value: usize| file.extend((value as u16).to_le_bytes());
        half(&mut file, 2); // ET_EXEC
        half(&mut file, 3); // EM_386
        word(&mut file, 1); // EV_CURRENT
        word(&mut file, self.entry as u32);
        word(&mut file, ELF_HEADER as u32); // program headers
        word(&mut file, 0); // no section headers
        word(&mut file, 0); // flags
        for value in [ELF_HEADER, PROGRAM_HEADER, chunks.len(), 0, 0, 0] {
            half(&mut file, value);
        }
        let mut offset = (ELF_HEADER + PROGRAM_HEADER * chunks.len()).next_multiple_of(16);
        for (chunk, end) in chunks.iter().zip(ends) {
            let (address, in_file) = (chunk.address as u32, chunk.bytes.len() as u32);
            let in_memory = if chunk.address < ONE_MBYTE { in_file.into() } else { end - chunk.address };
            for value in [LOAD, offset as u32, address, address, in_file, in_memory as u32, ALL_RIGHTS, 1] {
                word(&mut file, value);
            }
            offset = (offset + chunk.bytes.len()).next_multiple_of(16);
        }
        for chunk in chunks {
            file.resize(file.len().next_multiple_of(16), 0);
            file.extend(&chunk.bytes);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(file: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn segments_are_what_was_added_and_reach_to_the_next_one() {
        let mut image = Image::new(0x10_0004, 0x10_3000);
        image.add(0x10_2000, vec![3; 5]).unwrap();
        image.add(0x10_0000, vec![1, 2]).unwrap();
        image.add(0x8000, vec![4]).unwrap();
        let file = image.to_elf();
        assert_eq!(u32_at(&file, 24), 0x10_0004, "entry");
        assert_eq!(u16::from_le_bytes([file[44], file[45]]), 3, "program headers");
        let header = |n: usize| [1, 3, 4, 5].map(|word| u32_at(&file, 52 + 32 * n + 4 * word));
        let [offset, address, in_file, in_memory] = header(0);
        assert_eq!((address, in_file, in_memory), (0x8000, 1, 1));
        assert_eq!(file[offset as usize], 4);
        let [offset, address, in_file, in_memory] = header(1);
        assert_eq!((address, in_file, in_memory), (0x10_0000, 2, 0x2000));
        assert_eq!(file[offset as usize..][..2], [1, 2]);
        let [offset, address, in_file, in_memory] = header(2);
        assert_eq!((address, in_file, in_memory), (0x10_2000, 5, 0x1000));
        assert_eq!(file[offset as usize..][..5], [3; 5]);
    }

    #[test]
    fn pieces_of_memory_must_not_overlap_or_be_too_long() {
        let mut image = Image::new(0x1000, 0x4000);
        image.add(0x2000, vec![0; 0x100]).unwrap();
        assert!(matches!(image.add(0x20ff, vec![0]), Err(BuildError::Overlap(0x20ff))));
        assert!(matches!(image.add(0x1fff, vec![0; 2]), Err(BuildError::Overlap(0x2000))));
        assert!(matches!(image.add(0x3fff, vec![0; 2]), Err(BuildError::TooLong { address: 0x3fff, bytes: 2 })));
        image.add(0x1fff, vec![0]).unwrap();
        image.add(0x2100, vec![0]).unwrap();
    }
}
