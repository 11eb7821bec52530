//! Is a message for this local APIC? And which of several takes a lowest-priority interrupt?
//!
//! Source: SDM 3A 10.6.2 (rev 077), Determining IPI Destination; 10.12.10, Determining IPI Destination in x2APIC Mode;
//! APM 2 16.6, Local APIC Handling of Interrupts.

use crate::apic::LocalApic;
use crate::base::ApicMode;
use crate::message::Destination;

/// Does the 8-bit message destination address match, by the LDR and the model that the DFR selects?
///
/// Flat (DFR\[31:28\] = 1111): any bit in common with LDR\[31:24\]. Cluster (0000): bits `[7:4]` equal LDR\[31:28\], and any of
/// bits `[3:0]` in common with LDR\[27:24\]. The manual defines no other model: nothing matches.
/// The broadcast address 0xFF is not looked at here (see [`Destination::from_8_bits`]).
#[must_use]
pub const fn matches_xapic(address: u8, ldr: u32, dfr: u32) -> bool {
    let id = (ldr >> 24) as u8;
    match dfr >> 28 {
        0b1111 => address & id != 0,
        0b0000 => address >> 4 == id >> 4 && address & id & 0xf != 0,
        _ => false,
    }
}

/// Does the 32-bit message destination address match the logical x2APIC ID: the same cluster (bits `[31:16]`), any of
/// bits `[15:0]` in common?
#[must_use]
pub const fn matches_x2apic(address: u32, ldr: u32) -> bool {
    address >> 16 == ldr >> 16 && address & ldr & 0xffff != 0
}

/// The logical x2APIC ID that hardware derives from the x2APIC ID.
///
/// 10.12.10.2, Deriving Logical x2APIC ID from the Local x2APIC ID: `[(x2APIC ID[19:4] << 16) | (1 << x2APIC ID[3:0])]`.
#[must_use]
pub const fn logical_x2apic_id(id: u32) -> u32 {
    (id >> 4 & 0xffff) << 16 | 1 << (id & 0xf)
}

/// Is a message with this destination for `apic`? `is_sender`: it is the one that sent it.
///
/// A disabled local APIC is never addressed. A local APIC in x2APIC mode takes an 8-bit logical address as a 32-bit one
/// (cluster 0), and one in xAPIC mode is never matched by an address beyond 8 bits: the manual leaves such mixtures to
/// interrupt remapping (10.12.6, Routing of Device Interrupts in x2APIC Mode).
#[must_use]
pub const fn addresses(destination: Destination, apic: &LocalApic, is_sender: bool) -> bool {
    let mode = apic.mode();
    if matches!(mode, ApicMode::Disabled) {
        return false;
    }
    match destination {
        Destination::Everyone => true,
        Destination::Others => !is_sender,
        Destination::Itself => is_sender,
        Destination::Physical(id) => id == apic.id(),
        Destination::Logical(address) => match mode {
            ApicMode::X2Apic => matches_x2apic(address, apic.ldr),
            _ => address <= 0xff && matches_xapic(address as u8, apic.ldr, apic.dfr),
        },
    }
}

/// Which of the addressed local APICs takes a lowest-priority interrupt with this vector? The index that came with it.
///
/// Only software-enabled ones take part. A focus processor comes first: one that serves the vector or has it pending, if it has
/// the checking and SVR\[9\] is 0 (of APM 2 16.4.7's two sentences on the bit the first, "1 disables", is taken; the manuals
/// agree on it). Else the lowest [`priority::apr`](crate::priority::apr) wins, and of equals the highest APIC ID
/// (APM 2 16.6.2). Intel leaves the choice to the chipset (10.6.2.4, Lowest Priority Delivery Mode), which knows the TPR alone.
#[must_use]
pub fn arbitrate<'a>(candidates: impl IntoIterator<Item = (usize, &'a LocalApic)>, vector: u8) -> Option<usize> {
    let rank = |apic: &LocalApic| (!apic.is_focus(vector), apic.apr(), u32::MAX - apic.id());
    let able =
        candidates.into_iter().filter(|(_, apic)| apic.mode() != ApicMode::Disabled && apic.is_software_enabled());
    able.min_by_key(|(_, apic)| rank(apic)).map(|(index, _)| index)
}
