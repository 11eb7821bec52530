//! Which linear address does a program mean? Tags in pointers, and the canonical form.
//!
//! [`walk`](crate::walk()) takes a canonical address. A program may write something into the upper bits of a pointer where the
//! processor masks them (Intel's LAM) or leaves them out of its check (AMD's UAI). [`Pointers`] says what remains: an
//! address, or [`NotCanonical`], which the caller turns into #GP(0), or #SS(0) if the reference is one to the stack segment.
//!
//! ```text
//!            63  62:57       56  55:48   47  46:0
//! LAM57      =   metadata    S   address bits          S is copied into the metadata, bit 63 stays and must equal S
//! LAM48      =   metadata ........       S   address
//! UAI        ignored ....    address bits
//! ```
//!
//! Source: Intel's description of linear-address masking (SDM 3A, Linear-Address Pre-Processing: chapter 4 of the revisions of
//! 2025, not in rev 077), as Linux KVM (`vmx_get_untagged_addr`) and kvm-unit-tests (`x86/lam.c`) have it, which were run
//! on processors with LAM; APM 2 5.10, Upper Address Ignore (rev 3.44).

use x86_state::addr::{canonicalize, is_canonical};
use x86_state::{Cpu, Cr0, Cr4, Efer, Gva};

/// What a pointer is used for, as far as it decides about its upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// Data through DS or ES.
    Data,
    /// Data through SS, FS, GS or CS. AMD checks these in full; Intel does not ask for the segment.
    OtherSegment,
    /// An instruction fetch, and the target of a jump, call or return.
    Fetch,
    /// An access of the processor's own, to a descriptor table or a task-state segment.
    ///
    /// Linux leaves these unmasked, so does the model. Intel's text can be read otherwise: the contents of a register are
    /// checked when they are used, under the masking then active.
    System,
    /// The address that INVLPG, INVPCID or INVVPID name (not the pointer to their descriptor, which is data). Not masked by
    /// LAM: with a tag in it INVLPG does nothing and INVPCID causes #GP(0). Not among the references that UAI exempts.
    Invalidation,
}

/// The address is not canonical, in the sense that applies to the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotCanonical;

impl core::fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the address is not canonical")
    }
}

impl core::error::Error for NotCanonical {}

/// CR3 bit 61, LAM_U57: bits `[62:57]` of a user pointer are metadata.
pub const CR3_LAM_U57: u64 = 1 << 61;
/// CR3 bit 62, LAM_U48: bits `[62:48]` of a user pointer are metadata, unless LAM_U57 is 1.
pub const CR3_LAM_U48: u64 = 1 << 62;
/// IA32_EFER bit 20, UAIE: upper address ignore enable, on AMD's processors.
pub const EFER_UAIE: u64 = 1 << 20;

/// How pointers become linear addresses at present.
///
/// # Invariants
/// - Masking never changes bit 63: a user pointer (bit 63 is 0) stays one whatever its tag, and a supervisor pointer too. CPL
///   has no part in it.
/// - What [`Pointers::linear`] returns is canonical for the paging mode; outside 64-bit mode, less than 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointers {
    /// Is CS.L 1 in IA-32e mode? Otherwise linear addresses have 32 bits.
    code_64: bool,
    /// Linear-address bits of the paging mode, 48 or 57.
    width: u8,
    /// The lowest metadata bit of user pointers, 48 or 57; 64 if nothing is masked.
    user: u8,
    /// The same of supervisor pointers.
    supervisor: u8,
    /// Upper address ignore.
    ignore_upper: bool,
}

impl Pointers {
    /// Pointers as these registers have them; `code_64` is CS.L.
    ///
    /// The bits of the other vendor's feature are reserved, so that only one of the two can be on.
    #[must_use]
    pub const fn new(cr0: Cr0, cr3: u64, cr4: Cr4, efer: Efer, code_64: bool) -> Self {
        let long = cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE) && efer.contains(Efer::LME);
        let la57 = cr4.contains(Cr4::LA57);
        let user = if cr3 & CR3_LAM_U57 != 0 {
            57
        } else if cr3 & CR3_LAM_U48 != 0 {
            48
        } else {
            64
        };
        let supervisor = match (cr4.contains(Cr4::LAM_SUP), la57) {
            (false, _) => 64,
            (true, false) => 48,
            (true, true) => 57,
        };
        Self {
            code_64: long && code_64,
            width: if la57 { 57 } else { 48 },
            user,
            supervisor,
            ignore_upper: efer.bits() & EFER_UAIE != 0,
        }
    }

    /// Pointers as a processor's registers have them.
    #[must_use]
    pub const fn of_cpu(cpu: &Cpu, code_64: bool) -> Self {
        Self::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, code_64)
    }

    /// The linear address that a pointer (segment base and offset added) means.
    ///
    /// # Errors
    /// [`NotCanonical`]. With LAM that is: the highest translated bit differs from bit 63, or bits between it and the
    /// metadata do (LAM57 with 4-level paging: bits `[56:47]`); LAM48 with 5-level paging asks bits 63 and 47 only.
    #[inline]
    pub const fn linear(&self, pointer: u64, reference: Reference) -> Result<Gva, NotCanonical> {
        if !self.code_64 {
            return Ok(Gva(pointer & 0xffff_ffff));
        }
        let meant = match reference {
            Reference::Data if self.ignore_upper => canonicalize(pointer, 57),
            Reference::Data | Reference::OtherSegment => {
                let bit_63 = pointer & 1 << 63;
                let metadata = if bit_63 == 0 { self.user } else { self.supervisor };
                canonicalize(pointer, metadata) & !(1 << 63) | bit_63
            }
            Reference::Fetch | Reference::System | Reference::Invalidation => pointer,
        };
        if is_canonical(meant, self.width) { Ok(Gva(meant)) } else { Err(NotCanonical) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U57: u64 = CR3_LAM_U57;
    const U48: u64 = CR3_LAM_U48;

    fn pointers(la57: bool, cr3: u64, sup: bool, efer: u64) -> Pointers {
        let mut cr4 = Cr4::PAE;
        cr4.set(Cr4::LA57, la57);
        cr4.set(Cr4::LAM_SUP, sup);
        Pointers::new(Cr0::PE | Cr0::PG, cr3, cr4, Efer::from_bits_retain(efer) | Efer::LME | Efer::LMA, true)
    }

    /// Pointer, and what it means: `None` if it is not canonical.
    type Case = (u64, Option<u64>);

    fn holds(pointers: Pointers, reference: Reference, cases: &[Case]) {
        for (pointer, expected) in cases {
            let found = pointers.linear(*pointer, reference).ok().map(|gva| gva.0);
            assert_eq!(found, *expected, "{pointer:#018x} {reference:?} {pointers:?}");
        }
    }

    #[test]
    fn without_a_feature_the_address_is_canonical_or_not() {
        let at_48: [Case; 6] = [
            (0x0000_7fff_ffff_ffff, Some(0x0000_7fff_ffff_ffff)),
            (0x0000_8000_0000_0000, None),
            (0xffff_8000_0000_0000, Some(0xffff_8000_0000_0000)),
            (0xffff_7fff_ffff_ffff, None),
            (0x0200_0000_0000_1000, None),
            (0xbfff_8000_0000_0000, None),
        ];
        let at_57: [Case; 6] = [
            (0x0000_8000_0000_0000, Some(0x0000_8000_0000_0000)),
            (0x00ff_ffff_ffff_ffff, Some(0x00ff_ffff_ffff_ffff)),
            (0x0100_0000_0000_0000, None),
            (0xff00_0000_0000_0000, Some(0xff00_0000_0000_0000)),
            (0xfeff_ffff_ffff_ffff, None),
            (0x0200_0000_0000_1000, None),
        ];
        use Reference::{Data, Fetch, Invalidation, OtherSegment, System};
        for reference in [Data, OtherSegment, Fetch, System, Invalidation] {
            holds(pointers(false, 0, false, 0), reference, &at_48);
            holds(pointers(true, 0, false, 0), reference, &at_57);
        }
    }

    #[test]
    fn lam57_masks_bits_62_to_57_of_user_pointers() {
        // 4-level paging: bits 56:47 still have to be 0.
        let cases: [Case; 8] = [
            (0x7e00_1234_5678_9abc, Some(0x0000_1234_5678_9abc)),
            (0x0200_7fff_ffff_ffff, Some(0x0000_7fff_ffff_ffff)),
            (0x7e01_0000_0000_0000, None),
            (0x7f00_1234_5678_9abc, None),
            (0x7e00_8000_0000_0000, None),
            (0x0000_8000_0000_0000, None),
            // Supervisor pointers are CR4.LAM_SUP's business.
            (0x8000_8000_0000_0000, None),
            (0xffff_8000_0000_0000, Some(0xffff_8000_0000_0000)),
        ];
        holds(pointers(false, U57, false, 0), Reference::Data, &cases);
        // LAM_U48 has no say while LAM_U57 is 1.
        holds(pointers(false, U57 | U48, false, 0), Reference::Data, &cases);
        // 5-level paging: bit 56 is an address bit and has to equal bit 63.
        let cases: [Case; 5] = [
            (0x7e01_0000_0000_0000, Some(0x0001_0000_0000_0000)),
            (0x7eff_ffff_ffff_ffff, Some(0x00ff_ffff_ffff_ffff)),
            (0x7f00_0000_0000_0000, None),
            (0x0100_0000_0000_0000, None),
            (0xfdff_ffff_ffff_ffff, None),
        ];
        holds(pointers(true, U57, false, 0), Reference::Data, &cases);
    }

    #[test]
    fn lam48_masks_bits_62_to_48_of_user_pointers() {
        let cases: [Case; 6] = [
            (0x7fff_1234_5678_9abc, Some(0x0000_1234_5678_9abc)),
            (0x0001_7fff_ffff_ffff, Some(0x0000_7fff_ffff_ffff)),
            (0x7fff_8000_0000_0000, None),
            (0x0000_8000_0000_0000, None),
            (0x8000_8000_0000_0000, None),
            (0xffff_8000_0000_0000, Some(0xffff_8000_0000_0000)),
        ];
        holds(pointers(false, U48, false, 0), Reference::Data, &cases);
        // With 5-level paging the masking wins: user pointers have 47 bits, though the tables translate 57.
        holds(pointers(true, U48, false, 0), Reference::Data, &cases[..4]);
    }

    #[test]
    fn cr4_lam_sup_masks_supervisor_pointers_by_the_paging_mode() {
        let four_levels: [Case; 6] = [
            (0x8000_8000_0000_1000, Some(0xffff_8000_0000_1000)),
            (0xdead_ffff_ffff_f000, Some(0xffff_ffff_ffff_f000)),
            (0xffff_7fff_ffff_f000, None),
            (0x8000_0000_0000_0000, None),
            // A user pointer is not masked by it.
            (0x7fff_8000_0000_0000, None),
            (0x0200_0000_0000_1000, None),
        ];
        holds(pointers(false, 0, true, 0), Reference::Data, &four_levels);
        let five_levels: [Case; 5] = [
            (0x8100_0000_0000_1000, Some(0xff00_0000_0000_1000)),
            (0xffff_8000_0000_1000, Some(0xffff_8000_0000_1000)),
            (0x8001_8000_0000_1000, None),
            (0xfeff_ffff_ffff_ffff, None),
            (0x0200_0000_0000_1000, None),
        ];
        holds(pointers(true, 0, true, 0), Reference::Data, &five_levels);
        // Both halves at once, each by its own control.
        let both = pointers(false, U48, true, 0);
        holds(
            both,
            Reference::Data,
            &[(0x7fff_0000_0000_1000, Some(0x1000)), (0xbfff_8000_0000_1000, Some(!0 << 47 | 0x1000))],
        );
    }

    #[test]
    fn lam_asks_for_no_segment_and_leaves_fetches_and_system_accesses_alone() {
        let on = pointers(false, U48, true, 0);
        let (user, supervisor) = (0x1234_0000_0000_1000, 0x8000_8000_0000_1000);
        holds(on, Reference::OtherSegment, &[(user, Some(0x1000)), (supervisor, Some(!0 << 47 | 0x1000))]);
        for reference in [Reference::Fetch, Reference::System, Reference::Invalidation] {
            holds(on, reference, &[(user, None), (supervisor, None), (0x1000, Some(0x1000))]);
        }
    }

    #[test]
    fn uai_leaves_bits_63_to_57_of_ds_and_es_out_of_the_check() {
        let four_levels: [Case; 6] = [
            (0xfe00_0000_0000_1000, Some(0x1000)),
            (0x0000_7fff_ffff_ffff, Some(0x0000_7fff_ffff_ffff)),
            // Bits 56:48 are still compared with bit 47.
            (0x0100_0000_0000_1000, None),
            (0xfe00_8000_0000_0000, None),
            (0x01ff_8000_0000_0000, Some(0xffff_8000_0000_0000)),
            (0x55ff_ffff_ffff_f000, Some(0xffff_ffff_ffff_f000)),
        ];
        holds(pointers(false, 0, false, EFER_UAIE), Reference::Data, &four_levels);
        // With 5-level paging nothing is left to check.
        let five_levels: [Case; 4] = [
            (0xfe00_0000_0000_1000, Some(0x1000)),
            (0x0100_0000_0000_1000, Some(0xff00_0000_0000_1000)),
            (0xfeff_ffff_ffff_ffff, Some(0x00ff_ffff_ffff_ffff)),
            (0x8000_8000_0000_0000, Some(0x0000_8000_0000_0000)),
        ];
        holds(pointers(true, 0, false, EFER_UAIE), Reference::Data, &five_levels);
        // SS, FS, GS and CS, fetches, descriptor tables: the usual check.
        let tagged = [(0xfe00_0000_0000_1000, None)];
        for reference in [Reference::OtherSegment, Reference::Fetch, Reference::System, Reference::Invalidation] {
            holds(pointers(false, 0, false, EFER_UAIE), reference, &tagged);
            holds(pointers(true, 0, false, EFER_UAIE), reference, &tagged);
        }
    }

    #[test]
    fn outside_64_bit_mode_an_address_has_32_bits_and_no_form() {
        let (cr4, efer) = (Cr4::PAE | Cr4::LAM_SUP, Efer::LME | Efer::LMA | Efer::from_bits_retain(EFER_UAIE));
        let compatibility = Pointers::new(Cr0::PE | Cr0::PG, U57 | U48, cr4, efer, false);
        let protected = Pointers::new(Cr0::PE | Cr0::PG, U57 | U48, Cr4::PAE, Efer::empty(), true);
        let unpaged = Pointers::new(Cr0::PE, 0, cr4, efer, true);
        for pointers in [compatibility, protected, unpaged] {
            holds(
                pointers,
                Reference::Data,
                &[(0x1234_8765_4321_0fed, Some(0x4321_0fed)), (0xffff_f000, Some(0xffff_f000))],
            );
        }
    }
}
