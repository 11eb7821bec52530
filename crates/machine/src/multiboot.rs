//! What does Multiboot 1 ask of a boot loader? The header in the image, the information for it, and the state at its entry.
//!
//! Source: Multiboot Specification version 0.6.96, 3.1, OS image format; 3.2, Machine state; 3.3, Boot information format.

use crate::load::{LoadError, Module};

/// The header begins within so many bytes, and ends there too.
const SEARCHED_BYTES: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// EAX at entry.
pub(crate) const LOADER_MAGIC: u32 = 0x2bad_b002;
/// Flag 16: the header says where the image goes.
const ADDRESSES: u32 = 1 << 16;
/// Flags that a loader must understand: bits `[15:0]`. Understood: 0 (modules on pages), 1 (memory information).
const NOT_UNDERSTOOD: u32 = 0xfffc;

/// The header of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where it is in the file.
    pub(crate) offset: u64,
    /// Load address of the header, of the first byte, ends of data and of zeros, and entry point, if the header tells.
    pub(crate) addresses: Option<[u32; 5]>,
}

/// Finds the header; `None` if there is none.
pub(crate) fn header(image: &[u8]) -> Result<Option<Header>, LoadError> {
    let searched = image.get(..SEARCHED_BYTES).unwrap_or(image);
    let word = |at: usize| searched.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    for at in (0..searched.len()).step_by(4) {
        let (Some(HEADER_MAGIC), Some(flags), Some(checksum)) = (word(at), word(at + 4), word(at + 8)) else {
            continue;
        };
        if HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            continue;
        }
        if flags & NOT_UNDERSTOOD != 0 {
            return Err(LoadError::MultibootFlags { offset: at as u64, flags: flags & NOT_UNDERSTOOD });
        }
        let fields = || Some([word(at + 12)?, word(at + 16)?, word(at + 20)?, word(at + 24)?, word(at + 28)?]);
        let truncated = LoadError::Truncated {
            what: "the Multiboot header's address fields",
            offset: at as u64 + 12,
            file_bytes: image.len() as u64,
        };
        let addresses = match flags & ADDRESSES {
            0 => None,
            _ => Some(fields().ok_or(truncated)?),
        };
        return Ok(Some(Header { offset: at as u64, addresses }));
    }
    Ok(None)
}

/// A range of the memory map.
pub(crate) struct Range {
    pub(crate) base: u64,
    pub(crate) len_bytes: u64,
    /// Usable RAM?
    pub(crate) available: bool,
}

/// Builds the boot information for address `at`: the structure first, then what it points to, modules on pages of their own. Gives the bytes.
pub(crate) fn information(
    at: u64,
    command_line: &str,
    modules: &[Module<'_>],
    map: &[Range],
    low_bytes: u64,
) -> Vec<u8> {
    const STRUCTURE_BYTES: usize = 120;
    const PAGE: usize = 0x1000;
    // Memory, command line, modules, memory map, the loader's name.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    let mut bytes = vec![0; STRUCTURE_BYTES];
    let address = |offset: usize| (at + offset as u64) as u32;
    let text = |bytes: &mut Vec<u8>, text: &str| {
        let offset = bytes.len();
        // A C string ends at its first zero.
        bytes.extend(text.bytes().take_while(|byte| *byte != 0));
        bytes.push(0);
        offset
    };
    let command_line = text(&mut bytes, command_line);
    let loader = text(&mut bytes, "softvirt");
    let names: Vec<usize> = modules.iter().map(|module| text(&mut bytes, module.name)).collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let map_offset = bytes.len();
    for range in map {
        // The size does not count itself.
        bytes.extend(20_u32.to_le_bytes());
        bytes.extend(range.base.to_le_bytes());
        bytes.extend(range.len_bytes.to_le_bytes());
        bytes.extend(if range.available { 1_u32 } else { 2 }.to_le_bytes());
    }
    let map_bytes = bytes.len() - map_offset;
    let list = bytes.len();
    bytes.resize(list + 16 * modules.len(), 0);
    let mut entries = Vec::new();
    for (module, name) in modules.iter().zip(names) {
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        let start = bytes.len();
        bytes.extend(module.bytes);
        entries.extend([address(start), address(bytes.len()), address(name), 0]);
    }
    let mut put = |offset: usize, value: u32| {
        if let Some(field) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
            *field = value.to_le_bytes();
        }
    };
    for (n, value) in entries.into_iter().enumerate() {
        put(list + 4 * n, value);
    }
    let above = low_bytes.saturating_sub(1 << 20) >> 10;
    for (offset, value) in [
        (0, FLAGS),
        (4, 640),
        (8, above as u32),
        (16, address(command_line)),
        (20, modules.len() as u32),
        (24, address(list)),
        (44, map_bytes as u32),
        (48, address(map_offset)),
        (64, address(loader)),
    ] {
        put(offset, value);
    }
    bytes
}
