//! A second walker: slow, and in the order of the manual's sentences. It shares no code with the crate.
//!
//! SDM 3A 4.3 to 4.8, SDM 3C 28.3 (rev 077), APM 2 15.25. Registers go in raw; what software sees comes out.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use x86_state::{Hpa, PhysMemory};

use crate::support::FlatRam;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Fetch,
}

#[derive(Clone, Copy, Debug)]
pub struct Acc {
    pub op: Op,
    pub user: bool,
    pub implicit: bool,
    pub shadow: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Regs {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub ac: bool,
    pub pkru: u32,
    pub pkrs: u32,
    pub width: u32,
    pub pdpte_registers: Option<[u64; 4]>,
}

#[derive(Clone, Copy, Debug)]
pub enum Second {
    None,
    Ept { eptp: u64, mbe: bool, paging_write: bool, verify: bool, execute_only: bool },
    Npt { host: Regs, gmet: bool, sss: bool, rogpt: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Page(u64),
    PageFault(u32),
    EptViolation { qualification: u64, gpa: u64 },
    EptMisconfiguration { gpa: u64 },
    Npf { info: u64, gpa: u64 },
    Retry,
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

/// Bits high:low of `value`, in place.
fn field(value: u64, high: u32, low: u32) -> u64 {
    value & (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// What a page of the second dimension looked like when a guest entry was read through it.
#[derive(Clone, Default)]
struct Through {
    entries: Vec<(u64, u64, bool)>, // address, value, maps a page
}

impl Through {
    fn all(&self, n: u32) -> bool {
        self.entries.iter().all(|(_, entry, _)| bit(*entry, n))
    }
    fn any(&self, n: u32) -> bool {
        self.entries.iter().any(|(_, entry, _)| bit(*entry, n))
    }
    fn leaf(&self) -> u64 {
        self.entries.last().map_or(0, |(_, entry, _)| *entry)
    }
    fn upper(&self, n: u32) -> bool {
        self.entries[..self.entries.len() - 1].iter().all(|(_, entry, _)| bit(*entry, n))
    }
}

struct GuestEntry {
    level: u32,
    gpa: u64,
    hpa: u64,
    entry: u64,
    through: Through,
}

pub struct Slow<'a> {
    pub ram: &'a FlatRam,
    pub regs: Regs,
    pub second: Second,
}

/// How a walk through ordinary tables ends.
enum Walked {
    To { address: u64, entries: Vec<GuestEntry>, off: bool },
    Fault { present: bool, reserved: bool },
}

impl Slow<'_> {
    fn raise(&self, at: u64, entry: u64, set: u64, flags: u64, narrow: bool) -> bool {
        let found = if narrow { u64::from(self.ram.read_u32(Hpa(at))) } else { self.ram.read_u64(Hpa(at)) };
        if (found ^ entry) & !flags != 0 {
            return false;
        }
        if found & set != set {
            if narrow {
                self.ram.write_u32(Hpa(at), (found | set) as u32);
            } else {
                self.ram.write_u64(Hpa(at), found | set);
            }
        }
        true
    }

    /// Ordinary tables, 4.3 to 4.5. `through` translates the address of an entry.
    fn tables<E>(
        &self,
        regs: &Regs,
        linear: u64,
        mut through: impl FnMut(u64, u32) -> Result<(u64, Through), E>,
    ) -> Result<Walked, E> {
        let (pg, pae, pse) = (bit(regs.cr0, 31), bit(regs.cr4, 5), bit(regs.cr4, 4));
        let (lme, nxe, la57) = (bit(regs.efer, 8), bit(regs.efer, 11), bit(regs.cr4, 12));
        let m = regs.width;
        let mut entries = Vec::new();
        if !pg {
            return Ok(Walked::To { address: linear & 0xffff_ffff, entries, off: true });
        }
        if !pae {
            // 4.3, 32-bit paging.
            let mut read = |gpa: u64, level: u32| -> Result<GuestEntry, E> {
                let (hpa, through) = through(gpa, level)?;
                Ok(GuestEntry { level, gpa, hpa, entry: self.ram.read_u32(Hpa(hpa)).into(), through })
            };
            let pde = read(field(regs.cr3, 31, 12) | field(linear, 31, 22) >> 20, 2)?;
            let entry = pde.entry;
            entries.push(pde);
            if !bit(entry, 0) {
                return Ok(Walked::Fault { present: false, reserved: false });
            }
            if pse && bit(entry, 7) {
                let wide = m.min(40);
                let lowest = if wide > 32 { wide - 19 } else { 13 };
                if field(entry, 21, lowest) != 0 {
                    return Ok(Walked::Fault { present: true, reserved: true });
                }
                let address = field(entry, 20, 13) << 19 | field(entry, 31, 22) | field(linear, 21, 0);
                return Ok(Walked::To { address, entries, off: false });
            }
            let pte = read(field(entry, 31, 12) | field(linear, 21, 12) >> 10, 1)?;
            let entry = pte.entry;
            entries.push(pte);
            if !bit(entry, 0) {
                return Ok(Walked::Fault { present: false, reserved: false });
            }
            return Ok(Walked::To { address: field(entry, 31, 12) | field(linear, 11, 0), entries, off: false });
        }
        let mut read = |gpa: u64, level: u32| -> Result<GuestEntry, E> {
            let (hpa, through) = through(gpa, level)?;
            Ok(GuestEntry { level, gpa, hpa, entry: self.ram.read_u64(Hpa(hpa)), through })
        };
        let (mut table, mut level, linear) = if lme {
            (field(regs.cr3, m - 1, 12), if la57 { 5 } else { 4 }, linear)
        } else {
            let linear = linear & 0xffff_ffff;
            let index = linear >> 30;
            let (pdpte, check) = match regs.pdpte_registers {
                Some(registers) => (registers[index as usize], false),
                None => (read(field(regs.cr3, 31, 5) + 8 * index, 3)?.entry, true),
            };
            if !bit(pdpte, 0) {
                return Ok(Walked::Fault { present: false, reserved: false });
            }
            if check && (field(pdpte, 2, 1) | field(pdpte, 8, 5) | field(pdpte, 63, m)) != 0 {
                return Ok(Walked::Fault { present: true, reserved: true });
            }
            (field(pdpte, m - 1, 12), 2, linear)
        };
        loop {
            let shift = 12 + 9 * (level - 1);
            let step = read(table | (linear >> shift & 0x1ff) << 3, level)?;
            let entry = step.entry;
            entries.push(step);
            if !bit(entry, 0) {
                return Ok(Walked::Fault { present: false, reserved: false });
            }
            let large = bit(entry, 7) && (level == 2 || level == 3 && lme);
            let mut reserved = if m < 52 { field(entry, 51, m) } else { 0 };
            if !lme {
                reserved |= field(entry, 62, 52);
            }
            if !nxe {
                reserved |= field(entry, 63, 63);
            }
            if level >= 4 {
                reserved |= field(entry, 7, 7);
            }
            if large {
                reserved |= field(entry, shift - 1, 13);
            }
            if reserved != 0 {
                return Ok(Walked::Fault { present: true, reserved: true });
            }
            if large || level == 1 {
                let address = field(entry, m - 1, shift) | field(linear, shift - 1, 0);
                return Ok(Walked::To { address, entries, off: false });
            }
            table = field(entry, m - 1, 12);
            level -= 1;
        }
    }

    pub fn access(&self, gva: u64, acc: Acc) -> Outcome {
        match self.attempt(gva, acc) {
            Ok(address) => Outcome::Page(address),
            Err(outcome) => outcome,
        }
    }

    fn attempt(&self, gva: u64, acc: Acc) -> Result<u64, Outcome> {
        let regs = &self.regs;
        let (address, entries, off) = match self.tables(regs, gva, |gpa, _| self.guest_table(gpa))? {
            Walked::To { address, entries, off } => (address, entries, off),
            Walked::Fault { present, reserved } => {
                return Err(Outcome::PageFault(self.error_code(acc, present, reserved, false)));
            }
        };
        let long = bit(regs.efer, 8) && bit(regs.cr4, 5);
        let user_address = entries.iter().all(|step| bit(step.entry, 2));
        let writable = entries.iter().all(|step| bit(step.entry, 1));
        let nx_matters = bit(regs.cr4, 5) && bit(regs.efer, 11);
        let execute_disable = nx_matters && entries.iter().any(|step| bit(step.entry, 63));
        if !off {
            let leaf = entries.last().map_or(0, |step| step.entry);
            let wp = bit(regs.cr0, 16);
            let (smep, smap) = (bit(regs.cr4, 20), bit(regs.cr4, 21));
            // 4.6.2.
            let (on, key_register) =
                if user_address { (bit(regs.cr4, 22), regs.pkru) } else { (bit(regs.cr4, 24), regs.pkrs) };
            let key = leaf >> 59 & 0xf;
            let (ad, wd) = (key_register >> (2 * key) & 1 == 1, key_register >> (2 * key + 1) & 1 == 1);
            let key_denies = long && on && acc.op != Op::Fetch && (ad || wd && acc.op == Op::Write && (acc.user || wp));
            // 4.6.1.
            let smap_allows = !smap || bit(u64::from(regs.ac), 0) && !acc.implicit;
            let allowed = if acc.shadow {
                let upper = entries[..entries.len() - 1].iter().all(|step| bit(step.entry, 1));
                !bit(leaf, 1) && bit(leaf, 6) && upper && user_address == acc.user
            } else {
                match (acc.user, acc.op, user_address) {
                    (false, Op::Read, false) => true,
                    (false, Op::Read, true) => smap_allows,
                    (false, Op::Write, false) => !wp || writable,
                    (false, Op::Write, true) => smap_allows && (!wp || writable),
                    (false, Op::Fetch, false) => !execute_disable,
                    (false, Op::Fetch, true) => !smep && !execute_disable,
                    (true, _, false) => false,
                    (true, Op::Read, true) => true,
                    (true, Op::Write, true) => writable,
                    (true, Op::Fetch, true) => !execute_disable,
                }
            };
            if !allowed || key_denies {
                return Err(Outcome::PageFault(self.error_code(acc, true, false, key_denies)));
            }
            // 4.8.
            let narrow = !bit(regs.cr4, 5);
            for (n, step) in entries.iter().enumerate() {
                let last = n + 1 == entries.len();
                let set = 1 << 5 | if last && acc.op == Op::Write { 1 << 6 } else { 0 };
                // A PDPTE has no flags.
                if (step.level == 3 && !long) || step.entry & set == set {
                    continue;
                }
                self.guest_table_write(step)?;
                if !self.raise(step.hpa, step.entry, set, 0x60, narrow) {
                    return Err(Outcome::Retry);
                }
            }
        }
        let (user, writable) = if off { (true, true) } else { (user_address, writable) };
        match self.second {
            Second::None => Ok(address),
            Second::Ept { paging_write, verify, .. } => {
                if paging_write && verify && !off {
                    let tables: Vec<_> = entries.iter().filter(|step| step.level != 3 || long).collect();
                    let last = tables[tables.len() - 1];
                    if bit(last.through.leaf(), 57) && tables.iter().any(|step| !bit(step.through.leaf(), 58)) {
                        return Err(self.ept_violation(last.gpa, &last.through, self.table_bits(), None, 1 << 15));
                    }
                }
                Ok(self.ept(address, Some((acc, user, writable, execute_disable)))?.0)
            }
            Second::Npt { .. } => Ok(self.npt(address, Some(acc))?.0),
        }
    }

    /// 4.7.
    fn error_code(&self, acc: Acc, present: bool, reserved: bool, key: bool) -> u32 {
        let regs = &self.regs;
        let fetch_bit = bit(regs.cr4, 20) || bit(regs.cr4, 5) && bit(regs.efer, 11);
        u32::from(present)
            | u32::from(acc.op == Op::Write) << 1
            | u32::from(acc.user) << 2
            | u32::from(reserved) << 3
            | u32::from(acc.op == Op::Fetch && fetch_bit) << 4
            | u32::from(key) << 5
            | u32::from(acc.shadow) << 6
    }

    fn guest_table(&self, gpa: u64) -> Result<(u64, Through), Outcome> {
        match self.second {
            Second::None => Ok((gpa, Through::default())),
            Second::Ept { .. } => self.ept(gpa, None),
            Second::Npt { .. } => self.npt(gpa, None),
        }
    }

    fn guest_table_write(&self, step: &GuestEntry) -> Result<(), Outcome> {
        match self.second {
            Second::Ept { paging_write, .. } => {
                let excused = paging_write && step.through.upper(1) && bit(step.through.leaf(), 58);
                if step.through.all(1) || excused {
                    return Ok(());
                }
                Err(self.ept_violation(step.gpa, &step.through, 3, None, 0))
            }
            Second::Npt { rogpt: true, host, sss, gmet } => {
                let through = &step.through;
                let marked = bit(through.leaf(), 63) && !bit(through.leaf(), 2) && through.upper(1);
                let user = through.all(2) || gmet || sss && marked && through.upper(2);
                if !through.all(1) || !user {
                    let mark = sss && bit(through.leaf(), 63) && !bit(through.leaf(), 2);
                    return Err(Outcome::Npf { info: 7 | 1 << 33 | u64::from(mark) << 37, gpa: step.gpa });
                }
                self.npt_flags(&host, through, true)
            }
            _ => Ok(()),
        }
    }

    /// Table 27-7, bits 1:0, for an access to a guest table.
    fn table_bits(&self) -> u64 {
        match self.second {
            Second::Ept { eptp, .. } if bit(eptp, 6) => 3,
            _ => 1,
        }
    }

    /// 28.3. `page` is the access and what guest paging says about the linear address; none for a guest table.
    fn ept(&self, gpa: u64, page: Option<(Acc, bool, bool, bool)>) -> Result<(u64, Through), Outcome> {
        let Second::Ept { eptp, mbe, paging_write, execute_only, .. } = self.second else { unreachable!() };
        let m = self.regs.width;
        let flags = bit(eptp, 6);
        let access_bits = match page {
            None => self.table_bits(),
            Some((acc, ..)) => match acc.op {
                Op::Read => 1,
                Op::Write => 2,
                Op::Fetch => 4,
            },
        };
        let levels = ((eptp >> 3 & 7) + 1) as u32;
        let mut through = Through::default();
        if gpa >> (12 + 9 * levels) != 0 {
            return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
        }
        let mut table = field(eptp, m - 1, 12);
        let mut level = levels;
        let address = loop {
            let shift = 12 + 9 * (level - 1);
            let at = table | (gpa >> shift & 0x1ff) << 3;
            let entry = self.ram.read_u64(Hpa(at));
            let present = field(entry, 2, 0) != 0 || mbe && bit(entry, 10);
            let leaf = level == 1 || level <= 3 && bit(entry, 7);
            through.entries.push((at, entry, leaf));
            if !present {
                return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
            }
            // 28.3.3.1.
            let mut wrong = false;
            if !bit(entry, 0) {
                wrong |= bit(entry, 1);
                wrong |= !execute_only && (bit(entry, 2) || mbe && bit(entry, 10));
                wrong |= paging_write && leaf && bit(entry, 58);
            }
            wrong |= m < 52 && field(entry, 51, m) != 0;
            if leaf {
                wrong |= matches!(entry >> 3 & 7, 2 | 3 | 7);
                wrong |= level > 1 && field(entry, shift - 1, 12) != 0;
            } else {
                wrong |= field(entry, 6, 3) != 0 || level >= 4 && bit(entry, 7);
            }
            if wrong {
                return Err(Outcome::EptMisconfiguration { gpa });
            }
            if leaf {
                break field(entry, m - 1, shift) | field(gpa, shift - 1, 0);
            }
            table = field(entry, m - 1, 12);
            level -= 1;
        };
        // 28.3.3.2.
        let leaf = through.leaf();
        let write = match page {
            None => flags,
            Some((acc, ..)) => acc.op == Op::Write,
        };
        let allowed = match page {
            None if flags => through.all(1) || paging_write && through.upper(1) && bit(leaf, 58),
            None => through.all(0),
            Some((acc, ..)) if acc.shadow && !acc.user && bit(eptp, 7) => {
                through.all(0) && through.upper(1) && bit(leaf, 60)
            }
            Some((Acc { op: Op::Read, .. }, ..)) => through.all(0),
            Some((Acc { op: Op::Write, .. }, ..)) => through.all(1),
            Some((Acc { op: Op::Fetch, .. }, user, ..)) => through.all(if mbe && user { 10 } else { 2 }),
        };
        if !allowed {
            return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
        }
        // 28.3.5.
        if flags {
            for (at, entry, is_leaf) in &through.entries {
                let set = 1 << 8 | if *is_leaf && write { 1 << 9 } else { 0 };
                if entry & set != set && !self.raise(*at, *entry, set, 0x300, false) {
                    return Err(Outcome::Retry);
                }
            }
        }
        Ok((address, through))
    }

    /// Table 27-7.
    fn ept_violation(
        &self,
        gpa: u64,
        through: &Through,
        access_bits: u64,
        page: Option<(Acc, bool, bool, bool)>,
        more: u64,
    ) -> Outcome {
        let Second::Ept { eptp, mbe, .. } = self.second else { unreachable!() };
        let mut qualification = access_bits | more | 1 << 7;
        let absent = |entry: u64| field(entry, 2, 0) == 0 && !(mbe && bit(entry, 10));
        if !through.entries.is_empty() && !through.entries.iter().any(|(_, entry, _)| absent(*entry)) {
            for n in 0..3 {
                qualification |= u64::from(through.all(n)) << (3 + n);
            }
            qualification |= u64::from(mbe && through.all(10)) << 6;
            qualification |= u64::from(bit(eptp, 7) && bit(through.leaf(), 60)) << 14;
        }
        if let Some((acc, user, writable, execute_disable)) = page {
            qualification |= 1 << 8;
            qualification |= u64::from(user) << 9 | u64::from(writable) << 10 | u64::from(execute_disable) << 11;
            qualification |= u64::from(acc.shadow) << 13;
        }
        Outcome::EptViolation { qualification, gpa }
    }

    /// 15.25.5 to 15.25.7. `page` is the guest's access; none for a guest table.
    fn npt(&self, gpa: u64, page: Option<Acc>) -> Result<(u64, Through), Outcome> {
        let Second::Npt { host, gmet, sss, rogpt } = self.second else { unreachable!() };
        let long = bit(host.cr4, 5) && bit(host.efer, 8);
        let write = page.map_or(!rogpt, |acc| acc.op == Op::Write);
        let user = !gmet || page.is_none_or(|acc| acc.user);
        let fetch = page.is_some_and(|acc| acc.op == Op::Fetch);
        let shadow = page.is_some_and(|acc| acc.shadow);
        let npf = |present: bool, reserved: bool, mark: bool| Outcome::Npf {
            info: u64::from(present)
                | u64::from(write) << 1
                | u64::from(user) << 2
                | u64::from(reserved) << 3
                | u64::from(fetch) << 4
                | u64::from(shadow) << 6
                | 1 << if page.is_some() { 32 } else { 33 }
                | u64::from(mark) << 37,
            gpa,
        };
        let width = match (long, bit(host.cr4, 12)) {
            (true, true) => 57,
            (true, false) => 48,
            _ => 32,
        };
        if gpa >> width != 0 {
            return Err(npf(false, false, false));
        }
        let host = Regs { pdpte_registers: None, ..host };
        let walked = self.tables(&host, gpa, |at, _| Ok::<_, Outcome>((at, Through::default())))?;
        let (address, mut steps) = match walked {
            Walked::Fault { present, reserved } => return Err(npf(present, reserved, false)),
            Walked::To { address, entries, .. } => (address, entries),
        };
        steps.retain(|step| step.level != 3 || long);
        let mut through = Through::default();
        let count = steps.len();
        for (n, step) in steps.iter().enumerate() {
            through.entries.push((step.hpa, step.entry, n + 1 == count));
        }
        let sss = sss && bit(host.efer, 11) && bit(host.cr4, 5);
        let leaf_mark = bit(through.leaf(), 63) && !bit(through.leaf(), 2);
        let marked = leaf_mark && through.upper(1);
        let supervisor = page.is_some_and(|acc| !acc.user);
        let allowed = if sss && shadow && supervisor {
            marked
        } else {
            let accessible = through.all(2) || gmet || sss && marked && through.upper(2);
            let trapped = gmet && fetch && supervisor && through.all(2);
            accessible && !trapped && (!write || through.all(1)) && !(fetch && through.any(63))
        };
        if !allowed {
            return Err(npf(true, false, sss && leaf_mark));
        }
        self.npt_flags(&host, &through, write)?;
        Ok((address, through))
    }

    fn npt_flags(&self, host: &Regs, through: &Through, write: bool) -> Result<(), Outcome> {
        for (at, entry, is_leaf) in &through.entries {
            let set = 1 << 5 | if *is_leaf && write { 1 << 6 } else { 0 };
            if entry & set != set && !self.raise(*at, *entry, set, 0x60, !bit(host.cr4, 5)) {
                return Err(Outcome::Retry);
            }
        }
        Ok(())
    }
}
