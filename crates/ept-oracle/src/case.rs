//! Which registers and which access? A case from any bytes, so that a fuzzer, a property test and a loop try the same.

use crate::slow::{Acc, EptRegs, Op, Regs, Second};
use crate::tables::{FIRST_32, FIRST_EPT, FIRST_SUB_PAGE, LOG_PAGE, PAGES, Random};

/// Everything that decides about one access.
#[derive(Clone, Debug)]
pub struct Case {
    /// The first dimension.
    pub regs: Regs,
    /// The second dimension.
    pub second: Second,
    /// The access.
    pub acc: Acc,
    /// The pointer: segment base and offset added.
    pub pointer: u64,
    /// What the tables are made from.
    pub seed: u64,
    /// One word in so many has a bit turned over.
    pub noise: u64,
    /// Words at addresses of the bytes' choice.
    pub patches: Vec<(u64, u64)>,
}

/// Takes numbers from bytes; zeros when they have run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn u64(&mut self) -> u64 {
        (0..8).fold(0, |number, n| number | u64::from(self.u8()) << (8 * n))
    }

    fn below(&mut self, n: u8) -> u64 {
        u64::from(self.u8() % n)
    }

    /// One in `n`; not if the bytes have run out.
    fn one_in(&mut self, n: u8) -> bool {
        self.u8() % n == n - 1
    }
}

impl Case {
    /// Any bytes make a case.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut bytes = Bytes(bytes);
        let bytes = &mut bytes;
        let seed = bytes.u64();
        let noise = [1000, 1000, 1000, 20][usize::from(bytes.u8() & 3)];
        let width = [52, 46, 40, 36][usize::from(bytes.u8() & 3)];
        let key_bits = match bytes.below(8) {
            6 => 7 << (width - 3),
            7 => 1 << 47,
            _ => 0,
        };
        let mut regs = regs(bytes, width, key_bits);
        let second = match bytes.below(4) {
            0 => Second::None,
            1 | 2 => Second::Ept(ept(bytes)),
            _ => {
                let mut host = self::regs(bytes, width, key_bits);
                // The host's paging is on; HLAT and PDPTE registers are not nested paging's.
                host.cr0 |= 1 << 31;
                (host.hlat, host.pdpte_registers, regs.pdpte_registers, regs.hlat) = (None, None, None, None);
                let flags = bytes.u8();
                Second::Npt { host, gmet: flags & 1 != 0, sss: flags & 2 != 0, rogpt: flags & 4 != 0 }
            }
        };
        let mut acc = access(bytes);
        if let Second::Ept(EptRegs { sub_page: Some(_), paging_write: true, .. }) = second {
            // Sub-page permissions are for writes. They are reached most often where guest tables need no write access.
            acc.op = Op::Write;
        }
        let pointer = pointer(bytes, &regs);
        let mut patches = Vec::new();
        for _ in 0..bytes.below(12) {
            let (page, index, value) = (bytes.below(PAGES as u8), bytes.u8(), bytes.u64());
            // Indexes from both ends of the table; canonical addresses use them most.
            let index = if index & 0x80 == 0 { u64::from(index) } else { 0x180 + u64::from(index) };
            patches.push((page << 12 | (index & 0x1ff) << 3, value));
        }
        Self { regs, second, acc, pointer, seed, noise, patches }
    }

    /// A case from a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self::from_bytes(&bytes_of_seed(seed))
    }
}

/// The bytes from which [`Case::from_seed`] makes its case: a starting point for a fuzzer.
#[must_use]
pub fn bytes_of_seed(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..32).flat_map(|_| random.bits().to_le_bytes()).collect()
}

fn regs(bytes: &mut Bytes<'_>, width: u32, key_bits: u64) -> Regs {
    let (pg, pae, lme, la57) = match bytes.below(12) {
        0 => (0, 0, 0, 0),
        1 => (1, 0, 0, 0),
        2 | 3 => (1, 1, 0, 0),
        4 | 5 => (1, 1, 1, 1),
        _ => (1, 1, 1, 0),
    };
    let flags = bytes.u64();
    let on = |n: u32, bit: u32| (flags >> n & 1) << bit;
    // Each half of the time; protection keys in one case of four.
    let mut root = bytes.below(8);
    if pg == 1 && pae == 0 {
        root += FIRST_32;
    }
    // PCID or PWT and PCD, and the bits of LAM: no part of the address.
    let beside = if bytes.one_in(2) { bytes.u64() & (0xfff | 7 << 61) } else { 0 };
    let pae_paging = pae == 1 && lme == 0;
    // At the table's end words pass for PDPTEs more often.
    let pdpt = if on(26, 0) == 1 { 0xfe0 } else { 0 };
    let registers = pae_paging && on(0, 0) == 1;
    let hlat = (lme == 1 && bytes.one_in(4)).then(|| (bytes.below(8) << 12, bytes.u8() & 1 == 1));
    let keys_off = on(1, 0) == 1;
    Regs {
        cr0: 1 | pg << 31 | on(2, 16),
        cr3: root << 12 | if pae_paging { beside & 0x1f | pdpt } else { beside },
        cr4: pae << 5
            | la57 << 12
            | on(3, 4)
            | on(4, 20)
            | on(5, 21)
            | (on(6, 0) & on(7, 0)) << 22
            | (on(8, 0) & on(9, 0)) << 24
            | on(10, 7)
            | on(11, 28),
        efer: lme << 8 | lme << 10 | on(12, 11) | (on(13, 0) & on(14, 0)) << 20,
        code_64: lme == 1 && on(15, 0) | on(16, 0) == 1,
        ac: on(17, 0) == 1,
        pkru: if keys_off { 0 } else { bytes.u64() as u32 },
        pkrs: if keys_off { 0 } else { bytes.u64() as u32 },
        width,
        key_bits,
        page_1g: on(18, 0) | on(19, 0) == 1,
        pse36: on(20, 0) | on(21, 0) == 1,
        pat: on(22, 0) | on(23, 0) == 1,
        upper_global_reserved: on(24, 0) & on(25, 0) == 1,
        pdpte_registers: registers.then_some([0x1001, 0x2001, 0x3000, 0x7001]),
        hlat,
    }
}

fn ept(bytes: &mut Bytes<'_>) -> EptRegs {
    let flags = bytes.u64();
    let on = |n: u32| flags >> n & 1 == 1;
    let five = on(0) && on(1);
    let first = FIRST_EPT + if five { 8 } else { 6 };
    let root = if bytes.one_in(20) { bytes.below(PAGES as u8) } else { first + u64::from(on(2)) };
    let sub_page = (on(3) || on(20)).then_some((FIRST_SUB_PAGE + u64::from(on(4) && on(5))) << 12);
    let log_page = if bytes.one_in(10) { bytes.below(PAGES as u8) } else { LOG_PAGE };
    let index = match bytes.below(4) {
        0 => 0xffff,
        1 => u16::from(bytes.u8() & 3),
        _ => 0x1ff - u16::from(bytes.u8()),
    };
    let accessed = on(6);
    EptRegs {
        eptp: root << 12 | 6 | if five { 4 } else { 3 } << 3 | u64::from(accessed) << 6 | u64::from(on(7)) << 7,
        mbe: on(8),
        paging_write: on(9) || on(21),
        verify: on(10),
        violation_ve: on(11),
        sub_page,
        // VM entry demands accessed and dirty flags with PML.
        log: (accessed && on(12)).then_some((log_page << 12, index)),
        execute_only: on(13) || on(14),
        page_2m: on(15) || on(16),
        page_1g: on(17) || on(18),
        advanced: on(19),
    }
}

fn access(bytes: &mut Bytes<'_>) -> Acc {
    let op = [Op::Read, Op::Write, Op::Fetch][usize::from(bytes.u8() % 3)];
    let user = bytes.u8() & 1 == 0;
    Acc {
        op,
        user,
        implicit: bytes.one_in(4) && !user && op != Op::Fetch,
        shadow: bytes.one_in(6) && op != Op::Fetch,
        data_segment: bytes.u8() & 1 == 0,
        bytes: [1, 8, 64, 129, 4096][usize::from(bytes.u8() % 5)],
    }
}

/// A pointer: mostly one that is canonical, perhaps with something in its upper bits.
fn pointer(bytes: &mut Bytes<'_>, regs: &Regs) -> u64 {
    let any = bytes.u64();
    let sign = if regs.cr4 >> 12 & 1 == 1 { 7 } else { 16 };
    let canonical = ((any << sign) as i64 >> sign) as u64;
    match bytes.below(16) {
        0 => any,
        1 => canonical ^ 1 << (40 + bytes.below(24)),
        2 => canonical ^ bytes.u64() & 0x7e00_0000_0000_0000,
        3 => canonical ^ bytes.u64() & 0x7fff_0000_0000_0000,
        _ => canonical,
    }
}
