//! Which interrupt vectors are in a 256-bit register, and which is the highest? IRR, ISR and TMR, and their images in memory.
//!
//! Source: SDM 3A 10.8.4 (rev 077), Interrupt Acceptance for Fixed Interrupts.

/// A set of vectors, as the IRR, ISR and TMR hold it: bit *x* stands for vector *x*.
///
/// On a register page it is eight 32-bit words at 16-byte steps, vectors 31:0 first. The words of a virtual-APIC page
/// make one with [`from_words`](Self::from_words), and [`place`] says where a vector's bit lies there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VectorSet {
    words: [u32; 8],
}

impl VectorSet {
    /// No vectors.
    pub const EMPTY: Self = Self { words: [0; 8] };

    /// The set that eight words hold, vectors 31:0 in the first.
    #[must_use]
    pub const fn from_words(words: [u32; 8]) -> Self {
        Self { words }
    }

    /// The words, vectors 31:0 first.
    #[must_use]
    pub const fn words(&self) -> [u32; 8] {
        self.words
    }

    /// Vectors `[32n+31:32n]`; 0 for a word that does not exist.
    #[must_use]
    pub fn word(&self, n: usize) -> u32 {
        self.words.get(n).copied().unwrap_or(0)
    }

    /// Is the vector in the set?
    #[must_use]
    pub const fn contains(&self, vector: u8) -> bool {
        self.words[(vector >> 5) as usize] >> (vector & 31) & 1 == 1
    }

    /// Puts the vector in. Was it not there before?
    pub const fn insert(&mut self, vector: u8) -> bool {
        let is_new = !self.contains(vector);
        self.words[(vector >> 5) as usize] |= 1 << (vector & 31);
        is_new
    }

    /// Takes the vector out. Was it there?
    pub const fn remove(&mut self, vector: u8) -> bool {
        let was_there = self.contains(vector);
        self.words[(vector >> 5) as usize] &= !(1 << (vector & 31));
        was_there
    }

    /// The highest vector; `None` if there is none.
    #[must_use]
    pub const fn highest(&self) -> Option<u8> {
        let mut n = 8;
        while n > 0 {
            n -= 1;
            let word = self.words[n];
            if word != 0 {
                return Some((n as u8) << 5 | (31 - word.leading_zeros()) as u8);
            }
        }
        None
    }

    /// The highest vector as the manual's formulas have it (IRRV, ISRV): 0 if there is none.
    #[must_use]
    pub const fn highest_or_zero(&self) -> u8 {
        match self.highest() {
            Some(vector) => vector,
            None => 0,
        }
    }

    /// Is it empty?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.highest().is_none()
    }

    /// How many vectors are in it?
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

/// Where does a vector's bit lie on a register page? The offset from the register's first word, and the mask in the word there.
///
/// SDM 3C 29.1.1, Virtualized APIC Registers, has it as `(x & E0H) >> 1` and bit `x & 1FH`.
#[must_use]
pub const fn place(vector: u8) -> (u16, u32) {
    (((vector & 0xe0) >> 1) as u16, 1 << (vector & 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_vector_by_set() {
        let cases: [(&[u8], Option<u8>); 6] = [
            (&[], None),
            (&[0], Some(0)),
            (&[16, 31], Some(31)),
            (&[31, 32], Some(32)),
            (&[0x30, 0xff, 0xe0], Some(0xff)),
            (&[0x80, 0x7f], Some(0x80)),
        ];
        for (vectors, expected) in cases {
            let mut set = VectorSet::EMPTY;
            for &vector in vectors {
                set.insert(vector);
            }
            assert_eq!(set.highest(), expected, "{vectors:x?}");
            assert_eq!(set.highest_or_zero(), expected.unwrap_or(0));
            assert_eq!(set.len() as usize, vectors.len());
            assert_eq!(set.is_empty(), vectors.is_empty());
        }
    }

    #[test]
    fn insert_and_remove_say_what_changed() {
        let mut set = VectorSet::EMPTY;
        assert!(set.insert(0x41));
        assert!(!set.insert(0x41));
        assert!(set.remove(0x41));
        assert!(!set.remove(0x41));
        assert_eq!(set, VectorSet::EMPTY);
    }

    #[test]
    fn a_vector_lies_where_the_register_page_has_it() {
        // Figure 10-20's addresses: vectors 63:32 at 10H past the first word, 255:224 at 70H.
        for (vector, expected) in [(0, (0, 1)), (33, (0x10, 2)), (0xff, (0x70, 1 << 31)), (0x80, (0x40, 1))] {
            assert_eq!(place(vector), expected, "{vector:#x}");
            let mut set = VectorSet::EMPTY;
            set.insert(vector);
            assert_eq!(set.word(usize::from(expected.0 >> 4)), expected.1);
            assert_eq!(VectorSet::from_words(set.words()), set);
        }
        assert_eq!(VectorSet::from_words([u32::MAX; 8]).word(8), 0);
    }
}
