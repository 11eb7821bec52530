//! What is in the physical memory that a file holds? Raw images and ELF cores, read where they are asked, never written.
//!
//! Pages come by positional reads: a file larger than the machine's memory is no problem. What a core holds is in `image/core.rs`.

mod core;

use super::Failure;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

/// Physical addresses have at most 52 bits (SDM 3A 4.1.4).
const ADDRESS_END: u64 = 1 << 52;

const COMPRESSED: &str = "is a compressed kdump file, which softvirt does not read. Take an ELF dump: in QEMU dump-guest-memory without -z, \
                          -l and -s; in the crashed kernel makedumpfile -E /proc/vmcore. makedumpfile does not turn this file into ELF";

const FLATTENED: &str = "is in makedumpfile's flattened format (as QEMU writes with -z, -l and -s), which softvirt does not read. In QEMU \
                         use dump-guest-memory without these options; an ELF dump in it comes out by makedumpfile -R OUTPUT < FILE";

/// The command line's part in it.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// Physical memory: a raw image, or an ELF core of QEMU (dump-guest-memory, also with -p) or kdump (/proc/vmcore, makedumpfile -E)
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

/// What a file says about itself.
#[derive(Debug, Default)]
struct Content {
    kind: String,
    /// Where memory lies: sorted, no two overlap, each within the file.
    pieces: Vec<Piece>,
    /// Physical addresses `[start, end)` of memory that the machine has and the dump leaves out; sorted, no two overlap.
    left_out: Vec<(u64, u64)>,
    /// Bytes that the file announces and does not have.
    truncated: u64,
    cpus: Vec<CpuState>,
}

/// The registers of a CPU that translate addresses, as a core of QEMU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuState {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    /// QEMU does not save EFER. It makes an x86-64 core if the first CPU is in long mode, else one for the 80386.
    pub(crate) long_mode: bool,
}

/// Of the bytes that were read, how many does the file not hold?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Absent {
    /// Nobody has them: they read as ones.
    pub(crate) missing: usize,
    /// The machine has them and the dump leaves them out: they read as zeros.
    pub(crate) left_out: usize,
}

/// The physical memory that a file holds.
pub(crate) struct Image {
    file: File,
    name: String,
    content: Content,
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
        let content = match &magic {
            [0x7f, b'E', b'L', b'F', ..] if source.base.is_some() => {
                return Err(failure(
                    &"is an ELF file, which says itself where its memory lies: --base is for raw images",
                ));
            }
            [0x7f, b'E', b'L', b'F', ..] => {
                let copy = file.try_clone().map_err(|error| failure(&error))?;
                core::read(copy, magic[4], length).map_err(|words| failure(&words))?
            }
            b"KDUMP   " | b"DISKDUMP" => return Err(failure(&COMPRESSED)),
            b"makedump" => return Err(failure(&FLATTENED)),
            _ => {
                let base = source.base.unwrap_or(0);
                if base >= ADDRESS_END {
                    return Err(failure(&format_args!("--base {base:#x} is beyond 52 bits")));
                }
                let end = base.saturating_add(length).min(ADDRESS_END);
                let pieces = vec![Piece { start: base, end, offset: 0 }];
                Content { kind: "raw image".to_owned(), pieces, ..Content::default() }
            }
        };
        Ok(Self { file, name: source.mem.clone(), content, error: RefCell::new(None) })
    }

    /// Fills `bytes` from the address on: with ones what nobody has, with zeros what the dump leaves out.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Absent {
        bytes.fill(0xff);
        let end = address.saturating_add(bytes.len() as u64);
        let mut absent = Absent { missing: bytes.len(), left_out: 0 };
        let left_out = &self.content.left_out;
        let first = left_out.partition_point(|range| range.1 <= address);
        for range in left_out[first..].iter().take_while(|range| range.0 < end) {
            let part = &mut bytes[(range.0.max(address) - address) as usize..(range.1.min(end) - address) as usize];
            part.fill(0);
            absent.missing -= part.len();
            absent.left_out += part.len();
        }
        let pieces = &self.content.pieces;
        let first = pieces.partition_point(|piece| piece.end <= address);
        for piece in pieces[first..].iter().take_while(|piece| piece.start < end) {
            let from = piece.start.max(address);
            let part = &mut bytes[(from - address) as usize..(piece.end.min(end) - address) as usize];
            match read_exact_at(&self.file, part, piece.offset + (from - piece.start)) {
                Ok(()) => absent.missing -= part.len(),
                Err(error) => {
                    part.fill(0xff);
                    self.error.borrow_mut().get_or_insert(error);
                }
            }
        }
        absent
    }

    /// Does the file hold this byte?
    pub(crate) fn holds(&self, address: u64) -> bool {
        let pieces = &self.content.pieces;
        let first = pieces.partition_point(|piece| piece.end <= address);
        pieces.get(first).is_some_and(|piece| piece.start <= address)
    }

    /// The CPUs whose registers the file holds.
    pub(crate) fn cpus(&self) -> &[CpuState] {
        &self.content.cpus
    }

    /// The file's name, as it was given.
    pub(crate) fn name(&self) -> &str {
        &self.name
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
        let ranges: Vec<String> = self
            .content
            .pieces
            .iter()
            .take(SHOWN)
            .map(|piece| format!("{:#x}-{:#x}", piece.start, piece.end - 1))
            .collect();
        let more = match self.content.pieces.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more ranges"),
        };
        let truncated = match self.content.truncated {
            0 => String::new(),
            bytes => format!("; the file is truncated: {bytes} bytes that it announces are missing"),
        };
        format!("{}, {}, {}{more}{truncated}", self.name, self.content.kind, ranges.join(", "))
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
}
