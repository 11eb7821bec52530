//! What does firmware tell the operating system? ACPI tables: where the interrupt controllers are, which processors there are, and the timer.
//!
//! There is no DSDT and no FACS: nothing can be put to sleep, and no interrupt is routed by tables.
//!
//! Source: ACPI specification 1.0b, 5.2.4.1, Root System Description Pointer; 5.2.5, Fixed ACPI Description Table; 5.2.8, Multiple APIC Description
//! Table; 4.7.3.3, Power Management Timer.

use crate::ioapic;
use crate::ram::Ram;

/// The port of the power-management timer, 32 bits wide.
pub(crate) const TIMER_PORT: u16 = 0x608;
/// Its frequency in Hz.
const TIMER_HZ: u128 = 3_579_545;
/// How many instructions a second of that timer is taken to have.
const INSTRUCTIONS_HZ: u128 = 1_000_000_000;
/// Where the tables are: in what firmware occupies below 1 MByte.
const TABLES: u64 = 0xf_0000;

/// The power-management timer at this clock: 24 bits.
pub(crate) fn timer(clock: u64) -> u32 {
    (u128::from(clock) * TIMER_HZ / INSTRUCTIONS_HZ) as u32 & 0xff_ffff
}

/// Makes the bytes add up to 0.
fn seal(bytes: &mut [u8], checksum_at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(checksum_at) {
        *checksum = 0_u8.wrapping_sub(sum);
    }
}

/// A table with its header (5.2.3, System Description Table Header).
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((36 + body.len() as u32).to_le_bytes());
    // Revision 1, the checksum.
    bytes.extend([1, 0]);
    bytes.extend(b"SOFTVTSOFTVIRT");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(b"SOFT");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(body);
    seal(&mut bytes, 9);
    bytes
}

/// The fixed table: of what it can tell there is the timer alone.
fn fixed() -> Vec<u8> {
    let mut body = [0; 80];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in body.iter_mut().skip(at - 36).zip(bytes) {
            *to = *from;
        }
    };
    // SCI_INT, PM_TMR_BLK, PM_TM_LEN; flags: WBINVD works.
    put(46, &9_u16.to_le_bytes());
    put(76, &u32::from(TIMER_PORT).to_le_bytes());
    put(91, &[4]);
    put(112, &1_u32.to_le_bytes());
    table(b"FACP", &body)
}

/// Local APICs and the I/O APIC.
fn apics(cpus: u8) -> Vec<u8> {
    let mut body = 0xfee0_0000_u32.to_le_bytes().to_vec();
    // There are 8259s too.
    body.extend(1_u32.to_le_bytes());
    for cpu in 0..cpus {
        body.extend([0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    body.extend([1, 12, 0, 0]);
    body.extend((ioapic::ADDRESS as u32).to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    // ISA line 0 is input 2.
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    table(b"APIC", &body)
}

/// Puts the tables into RAM.
pub(crate) fn install(ram: &Ram, cpus: u8) {
    let mut bytes = vec![0; 0x20];
    let mut addresses = Vec::new();
    let append = |bytes: &mut Vec<u8>, table: &[u8]| {
        let at = TABLES + bytes.len() as u64;
        bytes.extend(table);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        (at as u32).to_le_bytes()
    };
    addresses.extend(append(&mut bytes, &fixed()));
    addresses.extend(append(&mut bytes, &apics(cpus)));
    let root = append(&mut bytes, &table(b"RSDT", &addresses));
    let mut pointer = b"RSD PTR \0SOFTVT\0".to_vec();
    pointer.extend(root);
    seal(&mut pointer, 8);
    for (at, byte) in pointer.into_iter().enumerate() {
        if let Some(to) = bytes.get_mut(at) {
            *to = byte;
        }
    }
    for (at, byte) in (TABLES..).zip(bytes) {
        if let Some(cell) = ram.byte(at) {
            cell.set(byte);
        }
    }
}
