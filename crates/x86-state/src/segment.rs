//! What does a segment register hold? Selector, base, limit and access rights, in VMX's and in SVM's encoding.
//!
//! Source: SDM 3C 24.4.1 (rev 077), Guest Register State, Table 24-2; APM 2 15.5.1 for SVM's attribute word.

/// A segment register, in the order of the VMCS encodings (ES is index 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SegmentRegister {
    /// ES
    Es,
    /// CS
    Cs,
    /// SS
    Ss,
    /// DS
    Ds,
    /// FS
    Fs,
    /// GS
    Gs,
    /// LDTR
    Ldtr,
    /// TR
    Tr,
}

impl SegmentRegister {
    /// All eight, in encoding order.
    pub const ALL: [SegmentRegister; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];

    /// The manual's name in capitals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es => "ES",
            Self::Cs => "CS",
            Self::Ss => "SS",
            Self::Ds => "DS",
            Self::Fs => "FS",
            Self::Gs => "GS",
            Self::Ldtr => "LDTR",
            Self::Tr => "TR",
        }
    }
}

/// Access rights in VMX's 32-bit format.
///
/// ```text
///  31          17  16   15  14   13  12  11   8  7   6 5  4   3  0
/// +--------------+----+---+-----+---+---+------+---+-----+---+------+
/// |   reserved   | un | G | D/B | L |AVL| rsvd | P | DPL | S | Type |
/// +--------------+----+---+-----+---+---+------+---+-----+---+------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct AccessRights(pub u32);

impl AccessRights {
    /// Bit 16: the register is unusable.
    pub const UNUSABLE: u32 = 1 << 16;
    /// The reserved bits `[11:8]`.
    pub const RESERVED_LOW: u32 = 0xf00;
    /// The reserved bits `[31:17]`.
    pub const RESERVED_HIGH: u32 = 0xfffe_0000;

    /// Type: bits `[3:0]`.
    #[must_use]
    #[inline]
    pub const fn typ(self) -> u32 {
        self.0 & 0xf
    }

    /// S: bit 4, 1 for code and data segments.
    #[must_use]
    #[inline]
    pub const fn s(self) -> bool {
        self.0 >> 4 & 1 == 1
    }

    /// DPL: bits `[6:5]`.
    #[must_use]
    #[inline]
    pub const fn dpl(self) -> u32 {
        self.0 >> 5 & 3
    }

    /// P: bit 7.
    #[must_use]
    #[inline]
    pub const fn p(self) -> bool {
        self.0 >> 7 & 1 == 1
    }

    /// AVL: bit 12.
    #[must_use]
    #[inline]
    pub const fn avl(self) -> bool {
        self.0 >> 12 & 1 == 1
    }

    /// L: bit 13, 64-bit code segment (CS only).
    #[must_use]
    #[inline]
    pub const fn l(self) -> bool {
        self.0 >> 13 & 1 == 1
    }

    /// D/B: bit 14.
    #[must_use]
    #[inline]
    pub const fn db(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    /// G: bit 15.
    #[must_use]
    #[inline]
    pub const fn g(self) -> bool {
        self.0 >> 15 & 1 == 1
    }

    /// Unusable: bit 16.
    #[must_use]
    #[inline]
    pub const fn unusable(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// Usable: not [`Self::unusable`].
    #[must_use]
    #[inline]
    pub const fn usable(self) -> bool {
        !self.unusable()
    }

    /// A 64-bit code segment: execute/read, accessed, present, L and G.
    pub const CODE_64: Self = Self(0xa09b);
    /// A flat 32-bit code segment: execute/read, accessed, present, D and G.
    pub const CODE_32: Self = Self(0xc09b);
    /// A flat data or stack segment: read/write, accessed, present, B and G.
    pub const DATA_32: Self = Self(0xc093);
    /// A segment of real-address mode: read/write, accessed, present.
    pub const REAL: Self = Self(0x93);
    /// A segment of virtual-8086 mode: read/write, accessed, DPL 3, present.
    pub const V86: Self = Self(0xf3);
    /// A busy TSS (32-bit, or 64-bit in IA-32e mode), present.
    pub const TSS_BUSY: Self = Self(0x8b);
    /// An LDT, present.
    pub const LDT: Self = Self(0x82);
    /// A register that holds nothing.
    pub const NULL: Self = Self(Self::UNUSABLE);

    /// The rights in bits 55:52 and 47:40 of a descriptor: those of a usable segment.
    ///
    /// Bits `[15:0]` of the rights are bits `[55:40]` of the descriptor, without the limit's bits `[51:48]`.
    #[must_use]
    pub const fn from_descriptor(descriptor: u64) -> Self {
        Self((descriptor >> 40) as u32 & 0xf0ff)
    }

    /// The rights of a VMCB's attribute word for register `register`.
    ///
    /// A clear P bit makes the register unusable, which is how SVM signals a null segment; CS and TR are never null, and
    /// their P bit is just a bit (APM 2 15.5.1, Segment State in the VMCB).
    #[must_use]
    pub const fn from_svm(attributes: SvmAttributes, register: SegmentRegister) -> Self {
        let word = attributes.0 as u32;
        let rights = word & 0xff | (word & 0xf00) << 4;
        let never_null = matches!(register, SegmentRegister::Cs | SegmentRegister::Tr);
        if rights & 0x80 == 0 && !never_null { Self(rights | Self::UNUSABLE) } else { Self(rights) }
    }

    /// The attribute word of a VMCB that means the same.
    ///
    /// An unusable register loses its P bit; its other bits stay, although the APM recommends all zeros for a null segment,
    /// so that nothing is lost on the way back. The reserved bits have no place in the word.
    #[must_use]
    pub const fn to_svm(self) -> SvmAttributes {
        let word = self.0 & 0xff | self.0 >> 4 & 0xf00;
        SvmAttributes(if self.unusable() { word & !0x80 } else { word } as u16)
    }

    /// Is it a code segment: S and bit 3 of the type?
    #[must_use]
    pub const fn is_code(self) -> bool {
        self.s() && self.typ() & 8 != 0
    }
}

/// Segment attributes in SVM's 12-bit format, in the low bits of a 16-bit field of the VMCB.
///
/// ```text
///  15    12 11  10   9   8   7  6 5  4  3    0
/// +--------+---+-----+---+---+---+-----+---+------+
/// | unused | G | D/B | L |AVL| P | DPL | S | Type |
/// +--------+---+-----+---+---+---+-----+---+------+
/// ```
///
/// Source: APM 2 15.5.1, Segment State in the VMCB: bits 55:52 and 47:40 of the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct SvmAttributes(pub u16);

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Segment {
    /// The visible part.
    pub selector: Selector,
    /// The base address; of ES, CS, SS and DS only bits `[31:0]` are architectural.
    pub base: u64,
    /// The offset of the last byte, in bytes: granularity is already applied.
    pub limit: u32,
    /// Access rights.
    pub rights: AccessRights,
}

impl Segment {
    /// A register that holds nothing: null selector, unusable.
    pub const NULL: Self = Self { selector: Selector(0), base: 0, limit: 0, rights: AccessRights::NULL };

    /// What the descriptor describes; for a 16-byte system descriptor of 64-bit mode the low half, without base bits 63:32.
    #[must_use]
    pub const fn from_descriptor(selector: Selector, descriptor: u64) -> Self {
        let rights = AccessRights::from_descriptor(descriptor);
        let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        Self {
            selector,
            base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
            limit: if rights.g() { limit << 12 | 0xfff } else { limit },
            rights,
        }
    }

    /// What loading `selector` in real-address or virtual-8086 mode gives: base 16 times the selector, limit 0xffff.
    #[must_use]
    pub const fn real(selector: Selector, rights: AccessRights) -> Self {
        Self { selector, base: (selector.0 as u64) << 4, limit: 0xffff, rights }
    }
}

/// A segment selector.
///
/// ```text
///  15                       3   2   1 0
/// +--------------------------+----+-----+
/// |          index           | TI | RPL |
/// +--------------------------+----+-----+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Selector(pub u16);

impl Selector {
    /// RPL: bits `[1:0]`.
    #[must_use]
    pub const fn rpl(self) -> u32 {
        self.0 as u32 & 3
    }

    /// TI: bit 2, set if the selector refers to the LDT.
    #[must_use]
    pub const fn ti(self) -> bool {
        self.0 & 4 != 0
    }

    /// Index: bits `[15:3]`.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0 >> 3
    }

    /// Is it null: index 0 of the GDT, with any RPL?
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svm_attributes_survive_vmx_for_every_value_and_register() {
        for register in SegmentRegister::ALL {
            for word in 0..0x1000 {
                let attributes = SvmAttributes(word);
                assert_eq!(AccessRights::from_svm(attributes, register).to_svm(), attributes, "{register:?} {word:#x}");
            }
        }
    }

    #[test]
    fn vmx_rights_survive_svm_where_both_can_hold_them() {
        for register in SegmentRegister::ALL {
            let never_null = matches!(register, SegmentRegister::Cs | SegmentRegister::Tr);
            for bits in 0..0x2_0000u32 {
                let rights = AccessRights(bits);
                if bits & AccessRights::RESERVED_LOW != 0 || rights.unusable() && never_null {
                    continue;
                }
                // Usable and P, or unusable and not P; of CS and TR any P.
                if !never_null && rights.unusable() == rights.p() {
                    continue;
                }
                assert_eq!(AccessRights::from_svm(rights.to_svm(), register), rights, "{register:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn unusable_registers_are_not_present_in_svm() {
        // 0x1c093 is what ESXi leaves in an unusable DS.
        assert_eq!(AccessRights(0x1_c093).to_svm(), SvmAttributes(0xc13));
        assert_eq!(AccessRights::NULL.to_svm(), SvmAttributes(0));
        assert_eq!(AccessRights::from_svm(SvmAttributes(0), SegmentRegister::Ds), AccessRights::NULL);
        assert_eq!(AccessRights::from_svm(SvmAttributes(0), SegmentRegister::Cs), AccessRights(0));
    }

    #[test]
    fn descriptors_of_linux_read_as_linux_means_them() {
        for (descriptor, base, limit, rights) in [
            // GDT_ENTRY_KERNEL_CS, GDT_ENTRY_KERNEL_DS, a 16-bit segment at 0x12345678 of 0x9abcd bytes.
            (0x00af_9b00_0000_ffff, 0, 0xffff_ffff, AccessRights::CODE_64),
            (0x00cf_9300_0000_ffff, 0, 0xffff_ffff, AccessRights::DATA_32),
            (0x1209_9334_5678_abcc, 0x1234_5678, 0x9_abcc, AccessRights::REAL),
        ] {
            let segment = Segment::from_descriptor(Selector(8), descriptor);
            assert_eq!(segment, Segment { selector: Selector(8), base, limit, rights }, "{descriptor:#x}");
        }
    }

    #[test]
    fn selector_fields() {
        for (selector, index, ti, rpl, null) in
            [(0, 0, false, 0, true), (3, 0, false, 3, true), (4, 0, true, 0, false), (0xffff, 0x1fff, true, 3, false)]
        {
            let selector = Selector(selector);
            assert_eq!(
                (selector.index(), selector.ti(), selector.rpl(), selector.is_null()),
                (index, ti, rpl, null),
                "{selector:?}"
            );
        }
    }

    #[test]
    fn rights_fields_of_a_64_bit_code_segment() {
        let rights = AccessRights::CODE_64;
        assert_eq!((rights.typ(), rights.s(), rights.dpl(), rights.p()), (11, true, 0, true));
        assert_eq!((rights.avl(), rights.l(), rights.db(), rights.g()), (false, true, false, true));
        assert!(rights.usable() && rights.is_code());
    }
}
