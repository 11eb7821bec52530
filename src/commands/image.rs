//! What is in the physical memory that a file holds? Raw images and ELF cores, read where they are asked, never written.
//!
//! ELF cores: QEMU's `dump-guest-memory` and kdump's uncompressed vmcore hold one `PT_LOAD` segment for each range of memory,
//! `p_paddr` says where it belongs. Pages come by positional reads: a file larger than the machine's memory is no problem.

use super::Failure;
use object::elf::{ET_CORE, FileHeader32, FileHeader64, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

/// Physical addresses have at most 52 bits (SDM 3A 4.1.4).
const ADDRESS_END: u64 = 1 << 52;

/// The command line's part in it.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// Physical memory: a raw image, or an ELF core of QEMU (dump-guest-memory) or kdump
    #[arg(long, value_name = "FILE")]
    mem: String,
    /// The physical address of the first byte of a raw image (hexadecimal)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    base: Option<u64>,
}

/// A hexadecimal number, with or without 0x; `_` and `` ` `` may group its digits.
pub(crate) fn address(text: &str) -> Result<u64, String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | '`')).collect();
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(&digits);
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("this is not a hexadecimal number".to_owned());
    }
    u64::from_str_radix(digits, 16).map_err(|_| "this has more than 64 bits".to_owned())
}

/// Physical addresses `[start, end)` lie in the file from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    offset: u64,
}

/// The physical memory that a file holds.
///
/// # Invariants
/// `pieces` is sorted, no two overlap, and each lies within the file.
pub(crate) struct Image {
    file: File,
    name: String,
    kind: String,
    pieces: Vec<Piece>,
    /// Bytes that the file announces and does not have.
    truncated: u64,
    /// The first read that went wrong: memory cannot fail, the command can.
    error: RefCell<Option<io::Error>>,
}

impl Image {
    pub(crate) fn open(source: &Source) -> Result<Self, Failure> {
        let failure = |words: &dyn std::fmt::Display| Failure(format!("{}: {words}", source.mem));
        let mut file = File::open(&source.mem).map_err(|error| failure(&error))?;
        if file.metadata().map_err(|error| failure(&error))?.is_dir() {
            return Err(failure(&"is a directory"));
        }
        let length = file.seek(SeekFrom::End(0)).map_err(|error| failure(&error))?;
        if length == 0 {
            return Err(failure(&"is empty"));
        }
        let mut magic = [0; 8];
        let magic_len = usize::try_from(length).map_or(8, |length| length.min(8));
        read_exact_at(&file, &mut magic[..magic_len], 0).map_err(|error| failure(&error))?;
        let (kind, pieces, truncated) = match &magic {
            [0x7f, b'E', b'L', b'F', ..] if source.base.is_some() => {
                return Err(failure(
                    &"is an ELF file, which says itself where its memory lies: --base is for raw images",
                ));
            }
            [0x7f, b'E', b'L', b'F', ..] => {
                let copy = file.try_clone().map_err(|error| failure(&error))?;
                elf(copy, magic[4], length).map_err(|words| failure(&words))?
            }
            b"KDUMP   " | b"DISKDUMP" => {
                return Err(failure(
                    &"is a compressed kdump file; make an ELF one (makedumpfile -E, or dump-guest-memory without -z, -l, -s)",
                ));
            }
            b"makedump" => return Err(failure(&"is a flattened makedumpfile; rearrange it first (makedumpfile -R)")),
            _ => {
                let base = source.base.unwrap_or(0);
                if base >= ADDRESS_END {
                    return Err(failure(&format_args!("--base {base:#x} is beyond 52 bits")));
                }
                let end = base.saturating_add(length).min(ADDRESS_END);
                ("raw image".to_owned(), vec![Piece { start: base, end, offset: 0 }], 0)
            }
        };
        Ok(Self { file, name: source.mem.clone(), kind, pieces, truncated, error: RefCell::new(None) })
    }

    /// Fills `bytes` from the address on. Bytes that nobody knows become ones; the answer is how many these are.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        bytes.fill(0xff);
        let end = address.saturating_add(bytes.len() as u64);
        let mut missing = bytes.len();
        let first = self.pieces.partition_point(|piece| piece.end <= address);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.start < end) {
            let from = piece.start.max(address);
            let part = &mut bytes[(from - address) as usize..(piece.end.min(end) - address) as usize];
            match read_exact_at(&self.file, part, piece.offset + (from - piece.start)) {
                Ok(()) => missing -= part.len(),
                Err(error) => {
                    part.fill(0xff);
                    self.error.borrow_mut().get_or_insert(error);
                }
            }
        }
        missing
    }

    /// Does the file hold this byte?
    pub(crate) fn holds(&self, address: u64) -> bool {
        let first = self.pieces.partition_point(|piece| piece.end <= address);
        self.pieces.get(first).is_some_and(|piece| piece.start <= address)
    }

    /// The error that a read has met, if any has.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        match self.error.borrow_mut().take() {
            Some(error) => Err(Failure(format!("{}: {error}", self.name))),
            None => Ok(()),
        }
    }

    /// The file in words.
    pub(crate) fn words(&self) -> String {
        const SHOWN: usize = 4;
        let ranges: Vec<String> =
            self.pieces.iter().take(SHOWN).map(|piece| format!("{:#x}-{:#x}", piece.start, piece.end - 1)).collect();
        let more = match self.pieces.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more ranges"),
        };
        let truncated = match self.truncated {
            0 => String::new(),
            bytes => format!("; the file is truncated: {bytes} bytes that it announces are missing"),
        };
        format!("{}, {}, {}{more}{truncated}", self.name, self.kind, ranges.join(", "))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

type Pieces = (String, Vec<Piece>, u64);

fn elf(file: File, class: u8, length: u64) -> Result<Pieces, String> {
    let cache = ReadCache::new(file);
    match class {
        1 => core_of::<FileHeader32<object::Endianness>>(&cache, length, "32-bit ELF core"),
        2 => core_of::<FileHeader64<object::Endianness>>(&cache, length, "64-bit ELF core"),
        _ => Err("is neither a 32-bit nor a 64-bit ELF file".to_owned()),
    }
}

fn core_of<H>(cache: &ReadCache<File>, length: u64, kind: &str) -> Result<Pieces, String>
where
    H: FileHeader<Endian = object::Endianness>,
{
    let unreadable = |error: object::Error| format!("is not a readable ELF file: {error}");
    let header = H::parse(cache).map_err(unreadable)?;
    let endian = header.endian().map_err(unreadable)?;
    if header.e_type(endian) != ET_CORE {
        return Err("is an ELF file, but not a core".to_owned());
    }
    let mut pieces = Vec::new();
    let mut truncated = 0;
    let mut loads = 0;
    for segment in header.program_headers(endian, cache).map_err(unreadable)? {
        if segment.p_type(endian) != PT_LOAD {
            continue;
        }
        loads += 1;
        let start: u64 = segment.p_paddr(endian).into();
        let offset: u64 = segment.p_offset(endian).into();
        // Memory beyond the size in the file was not dumped. It is a hole, not zeros.
        let announced: u64 = segment.p_filesz(endian).into();
        let size = announced.min(length.saturating_sub(offset));
        truncated += announced - size;
        // /proc/kcore gives the physical address of what has none as all ones.
        if start < ADDRESS_END && size > 0 {
            pieces.push(Piece { start, end: start.saturating_add(size).min(ADDRESS_END), offset });
        }
    }
    if loads > 1 && pieces.iter().filter(|piece| piece.start == 0).count() > 1 {
        return Err(
            "has several segments at physical address 0: it is the core of a process, not of a machine".to_owned()
        );
    }
    if pieces.is_empty() {
        return Err(match truncated {
            0 => "is an ELF core without memory (PT_LOAD)".to_owned(),
            bytes => format!("is truncated: all {bytes} bytes of its memory are missing"),
        });
    }
    Ok((kind.to_owned(), without_overlaps(pieces), truncated))
}

/// Sorted pieces; of what several hold, the one that starts first counts. (kdump's segment of the kernel's text repeats a part
/// of the memory that another segment holds.)
fn without_overlaps(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| piece.start);
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for mut piece in pieces {
        let covered = out.last().map_or(0, |last| last.end);
        if piece.end <= covered {
            continue;
        }
        if piece.start < covered {
            piece.offset += covered - piece.start;
            piece.start = covered;
        }
        out.push(piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal() {
        assert_eq!(address("0xffff_8000_0000_1000"), Ok(0xffff_8000_0000_1000));
        assert_eq!(address("ffff8000`00001000"), Ok(0xffff_8000_0000_1000));
        assert_eq!(address("10"), Ok(0x10));
        for bad in ["", "0x", "+1", "-1", "0xg", "1 2", "0x1_0000_0000_0000_0000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_overlapping_pieces_the_first_counts() {
        let piece = |start, end, offset| Piece { start, end, offset };
        let pieces =
            without_overlaps(vec![piece(0x2000, 0x5000, 0x900), piece(0, 0x3000, 0x100), piece(0x800, 0x900, 0)]);
        assert_eq!(pieces, [piece(0, 0x3000, 0x100), piece(0x3000, 0x5000, 0x1900)]);
    }
}
