//! How are sets of bits written? Lists with commas, names of single bits, ranges of bit numbers.

use core::fmt;

/// Writes items with ", " between them.
pub(super) struct List<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    empty: bool,
}

impl<'a, 'f> List<'a, 'f> {
    pub(super) fn new(f: &'a mut fmt::Formatter<'f>) -> Self {
        Self { f, empty: true }
    }

    pub(super) fn item(&mut self, words: fmt::Arguments<'_>) -> fmt::Result {
        if !core::mem::replace(&mut self.empty, false) {
            self.f.write_str(", ")?;
        }
        self.f.write_fmt(words)
    }

    /// Ends the list; `nothing` takes the place of an empty one.
    pub(super) fn or(self, nothing: &str) -> fmt::Result {
        if self.empty { self.f.write_str(nothing) } else { Ok(()) }
    }
}

/// Bit numbers and their names, ascending.
#[derive(Clone, Copy)]
pub(super) struct Named<'a>(pub(super) &'a [(u32, &'a str)]);

impl Named<'_> {
    /// The bits that have a name.
    pub(super) fn mask(self) -> u64 {
        self.0.iter().fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    /// Writes the names of the bits that are 1; `nothing` if there are none.
    pub(super) fn write(self, f: &mut fmt::Formatter<'_>, value: u64, nothing: &str) -> fmt::Result {
        let mut list = List::new(f);
        for (bit, name) in self.0.iter().filter(|(bit, _)| value >> bit & 1 == 1) {
            let _ = bit;
            list.item(format_args!("{name}"))?;
        }
        list.or(nothing)
    }
}

/// Flags bits of `mask` that are 1.
pub(super) fn reserved(f: &mut fmt::Formatter<'_>, value: u64, mask: u64) -> fmt::Result {
    match value & mask {
        0 => Ok(()),
        bits => write!(f, "; reserved: {}", BitList(bits)),
    }
}

/// The numbers of the bits that are 1, such as "bits 0, 4-8, 26".
///
/// ```
/// assert_eq!(vmx_model::describe::BitList(0x0401_e172).to_string(), "bits 1, 4-6, 8, 13-16, 26");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BitList(pub u64);

impl fmt::Display for BitList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.count_ones() {
            0 => "no bit",
            1 => "bit ",
            _ => "bits ",
        })?;
        let mut rest = self.0;
        let mut separator = "";
        while rest != 0 {
            let first = rest.trailing_zeros();
            let len = (rest >> first).trailing_ones();
            let last = first + len - 1;
            match len {
                1 => write!(f, "{separator}{first}")?,
                2 => write!(f, "{separator}{first}, {last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ", ";
            rest &= !(u64::MAX >> (64 - len) << first);
        }
        Ok(())
    }
}
