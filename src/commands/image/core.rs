//! What does an ELF core say about a machine: where its memory lies in the file, and what was in its CPUs?
//!
//! Observed with QEMU 7.2's `dump-guest-memory` and with makedumpfile 1.7:
//! - `p_paddr` says where memory belongs. Without `-p` there is one segment for each range of memory (`p_vaddr` is the same or 0); with
//!   `-p` one for each range that page tables map, and one physical page can be in many of them.
//! - A core of a machine in long mode, or with memory or ROM up to 4 GBytes (every PC has), is 64-bit; `e_machine` tells long mode.
//! - A `QEMU` note for each CPU holds its registers, except EFER.
//! - Of what makedumpfile leaves out (pages of zeros first of all), `p_filesz` is smaller than `p_memsz`.
//! - More than 65534 segments (`-p`): `e_phnum` is PN_XNUM, and the number is in the first section header.

use super::{ADDRESS_END, Content, CpuState, Piece};
use object::elf::{EM_X86_64, ET_CORE, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs::File;

/// Notes beyond this size are not looked at: those of 4096 CPUs have 3 MBytes.
const NOTES_READ: u64 = 16 << 20;

/// Reads the headers of a core. `class` is the fifth byte of the file.
pub(super) fn read(file: File, class: u8, length: u64) -> Result<Content, String> {
    let cache = ReadCache::new(file);
    match class {
        1 => content::<FileHeader32<object::Endianness>>(&cache, length, "32-bit ELF core"),
        2 => content::<FileHeader64<object::Endianness>>(&cache, length, "64-bit ELF core"),
        _ => Err("is neither a 32-bit nor a 64-bit ELF file".to_owned()),
    }
}

fn content<H>(cache: &ReadCache<File>, length: u64, kind: &str) -> Result<Content, String>
where
    H: FileHeader<Endian = object::Endianness>,
{
    let unreadable = |error: object::Error| format!("is not a readable ELF file: {error}");
    let header = H::parse(cache).map_err(unreadable)?;
    let endian = header.endian().map_err(unreadable)?;
    if header.e_type(endian) != ET_CORE {
        return Err("is an ELF file, but not a core".to_owned());
    }
    let long_mode = header.e_machine(endian) == EM_X86_64;
    let mut content = Content { kind: kind.to_owned(), ..Content::default() };
    let mut loads = 0;
    let mut placed = false;
    for segment in header.program_headers(endian, cache).map_err(unreadable)? {
        let offset: u64 = segment.p_offset(endian).into();
        let in_file: u64 = segment.p_filesz(endian).into();
        if segment.p_type(endian) == PT_NOTE && in_file <= NOTES_READ {
            // Notes that cannot be read are as good as none: the memory is what was asked for.
            if let Ok(Some(mut notes)) = segment.notes(endian, cache) {
                while let Ok(Some(note)) = notes.next() {
                    content
                        .cpus
                        .extend((note.name() == b"QEMU").then(|| qemu_cpu_state(note.desc(), long_mode)).flatten());
                }
            }
        }
        if segment.p_type(endian) != PT_LOAD {
            continue;
        }
        loads += 1;
        let start: u64 = segment.p_paddr(endian).into();
        placed |= start != 0;
        let size = in_file.min(length.saturating_sub(offset));
        content.truncated = content.truncated.saturating_add(in_file - size);
        // /proc/kcore gives the physical address of what has none as all ones.
        let reach = |size: u64| start.saturating_add(size).min(ADDRESS_END);
        if start < ADDRESS_END && size > 0 {
            content.pieces.push(Piece { start, end: reach(size), offset });
        }
        let in_memory: u64 = segment.p_memsz(endian).into();
        if start < ADDRESS_END && reach(in_file) < reach(in_memory) {
            content.left_out.push((reach(in_file), reach(in_memory)));
        }
    }
    if loads > 1 && !placed {
        return Err(
            "has several segments, all at physical address 0: it is the core of a process, not of a machine".to_owned()
        );
    }
    if content.pieces.is_empty() {
        return Err(match content.truncated {
            0 => "is an ELF core without memory (PT_LOAD)".to_owned(),
            bytes => format!("is truncated: all {bytes} bytes of its memory are missing"),
        });
    }
    content.pieces = without_overlaps(content.pieces);
    content.left_out = outside(content.left_out, &content.pieces);
    Ok(content)
}

/// Sorted pieces, neighbours joined; of what several hold, the one that starts first counts. (kdump's segment of the kernel's text
/// repeats a part of the memory that another segment holds; QEMU's `-p` has a segment for every mapping.)
fn without_overlaps(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| piece.start);
    let mut out: Vec<Piece> = Vec::new();
    for mut piece in pieces {
        let covered = out.last().map_or(0, |last| last.end);
        if piece.end <= covered {
            continue;
        }
        if piece.start < covered {
            piece.offset += covered - piece.start;
            piece.start = covered;
        }
        match out.last_mut() {
            Some(last) if last.end == piece.start && last.offset + (last.end - last.start) == piece.offset => {
                last.end = piece.end;
            }
            _ => out.push(piece),
        }
    }
    out
}

/// The parts of `ranges` that are in no piece, sorted and without overlaps.
fn outside(mut ranges: Vec<(u64, u64)>, pieces: &[Piece]) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out = Vec::new();
    let mut done = 0;
    for (start, end) in ranges {
        let mut from = start.max(done);
        let first = pieces.partition_point(|piece| piece.end <= from);
        for piece in pieces[first..].iter().take_while(|piece| piece.start < end) {
            if from < piece.start {
                out.push((from, piece.start));
            }
            from = from.max(piece.end);
        }
        if from < end {
            out.push((from, end));
        }
        done = done.max(end);
    }
    out
}

/// QEMU's `QEMUCPUState`, version 1 (target/i386/arch_dump.c):
///
/// ```text
/// 0  version (1)    4  size (at least 440)   8   RAX .. R15, RIP, RFLAGS: 18 words
/// 152 ten segments of 24 bytes               392 CR0 .. CR4: 5 words          432 kernel GS base
/// ```
fn qemu_cpu_state(bytes: &[u8], long_mode: bool) -> Option<CpuState> {
    let half = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let known = half(0)? == 1 && half(4)? >= 440;
    known.then_some(())?;
    Some(CpuState { cr0: word(392)?, cr3: word(392 + 3 * 8)?, cr4: word(392 + 4 * 8)?, long_mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn piece(start: u64, end: u64, offset: u64) -> Piece {
        Piece { start, end, offset }
    }

    #[test]
    fn of_overlapping_pieces_the_first_counts() {
        let pieces =
            without_overlaps(vec![piece(0x2000, 0x5000, 0x900), piece(0, 0x3000, 0x100), piece(0x800, 0x900, 0)]);
        assert_eq!(pieces, [piece(0, 0x3000, 0x100), piece(0x3000, 0x5000, 0x1900)]);
    }

    #[test]
    fn neighbours_are_joined_if_they_are_neighbours_in_the_file_too() {
        let pieces =
            without_overlaps(vec![piece(0, 0x1000, 0x100), piece(0x1000, 0x2000, 0x1100), piece(0x2000, 0x3000, 0)]);
        assert_eq!(pieces, [piece(0, 0x2000, 0x100), piece(0x2000, 0x3000, 0)]);
    }

    #[test]
    fn what_one_segment_leaves_out_another_may_hold() {
        let pieces = [piece(0x2000, 0x3000, 0), piece(0x5000, 0x6000, 0)];
        assert_eq!(
            outside(vec![(0x1000, 0x5800), (0x1000, 0x4000)], &pieces),
            [(0x1000, 0x2000), (0x3000, 0x4000), (0x4000, 0x5000)]
        );
        assert_eq!(outside(vec![(0x2000, 0x3000)], &pieces), []);
    }

    #[test]
    fn a_cpu_note_of_another_version_or_size_is_not_taken() {
        let mut note = vec![0; 440];
        note[0] = 1;
        note[4..8].copy_from_slice(&440_u32.to_le_bytes());
        for (at, value) in [(392, 0x8000_0011_u64), (416, 0x20_6000), (424, 0x30)] {
            note[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let state = CpuState { cr0: 0x8000_0011, cr3: 0x20_6000, cr4: 0x30, long_mode: true };
        assert_eq!(qemu_cpu_state(&note, true), Some(state));
        assert_eq!(qemu_cpu_state(&note[..430], true), None);
        note[0] = 2;
        assert_eq!(qemu_cpu_state(&note, true), None);
    }
}
