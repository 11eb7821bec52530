//! Extended page tables: SDM 3C 28.3.

use x86_state::Hpa;

use super::{Acc, EptRegs, GuestEntry, Op, Outcome, Second, Slow, Through, bit, field};

/// An access, and what guest paging says of the linear address: user-mode, read/write, execute-disable.
pub(super) type Page = (Acc, bool, bool, bool);

impl Slow<'_> {
    fn ept_regs(&self) -> EptRegs {
        match self.second {
            Second::Ept(regs) => regs,
            _ => unreachable!("called with EPT only"),
        }
    }

    /// Table 27-7, bits 1:0, for an access to a guest table.
    fn table_bits(&self) -> u64 {
        if bit(self.ept_regs().eptp, 6) { 3 } else { 1 }
    }

    /// 28.3.2 to 28.3.6. `page` is none for a guest table.
    pub(super) fn ept(&self, gpa: u64, page: Option<Page>) -> Result<(u64, u32, Through), Outcome> {
        let regs = self.ept_regs();
        let guest = &self.regs;
        let flags = bit(regs.eptp, 6);
        let access_bits = match page {
            None => self.table_bits(),
            Some((acc, ..)) => match acc.op {
                Op::Read => 1,
                Op::Write => 2,
                Op::Fetch => 4,
            },
        };
        let levels = ((regs.eptp >> 3 & 7) + 1) as u32;
        let mut through = Through::default();
        if gpa >> (12 + 9 * levels) != 0 {
            return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
        }
        let mut table = guest.address(regs.eptp, 12);
        let mut level = levels;
        let (address, page_bits) = loop {
            let shift = 12 + 9 * (level - 1);
            let at = table | (gpa >> shift & 0x1ff) << 3;
            let entry = self.memory.read_u64(Hpa(at));
            let present = field(entry, 2, 0) != 0 || regs.mbe && bit(entry, 10);
            let leaf = match level {
                1 => true,
                2 => regs.page_2m && bit(entry, 7),
                3 => regs.page_1g && bit(entry, 7),
                _ => false,
            };
            through.entries.push((at, entry, leaf));
            if !present {
                return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
            }
            // 28.3.3.1, EPT Misconfigurations.
            let mut wrong = false;
            if !bit(entry, 0) {
                wrong |= bit(entry, 1);
                wrong |= !regs.execute_only && (bit(entry, 2) || regs.mbe && bit(entry, 10));
                wrong |= regs.paging_write && leaf && bit(entry, 58);
            }
            wrong |= guest.beyond_width(entry) != 0;
            if leaf {
                wrong |= matches!(entry >> 3 & 7, 2 | 3 | 7);
                wrong |= level > 1 && field(entry, shift - 1, 12) != 0;
            } else {
                wrong |= field(entry, 7, 3) != 0;
            }
            if wrong {
                return Err(Outcome::EptMisconfiguration { gpa });
            }
            if leaf {
                break (guest.address(entry, shift) | field(gpa, shift - 1, 0), shift);
            }
            table = guest.address(entry, 12);
            level -= 1;
        };
        // 28.3.3.2, EPT Violations.
        let leaf = through.leaf();
        let write = match page {
            None => flags,
            Some((acc, ..)) => acc.op == Op::Write,
        };
        let allowed = match page {
            None if flags => through.all(1) || regs.paging_write && through.upper(1) && bit(leaf, 58),
            None => through.all(0),
            Some((acc, ..)) if acc.shadow && !acc.user && bit(regs.eptp, 7) => {
                through.all(0) && through.upper(1) && bit(leaf, 60)
            }
            Some((Acc { op: Op::Read, .. }, ..)) => through.all(0),
            Some((acc @ Acc { op: Op::Write, .. }, ..)) => {
                through.all(1) || level == 1 && self.sub_page_allows(gpa, &through, acc)?
            }
            Some((Acc { op: Op::Fetch, .. }, user, ..)) => through.all(if regs.mbe && user { 10 } else { 2 }),
        };
        if !allowed {
            return Err(self.ept_violation(gpa, &through, access_bits, page, 0));
        }
        if flags {
            self.ept_flags(gpa, &through, write)?;
        }
        Ok((address, page_bits, through))
    }

    /// 28.3.4, Sub-Page Write Permissions, for a write to a 4-KByte page which bit 1 of an entry forbids.
    fn sub_page_allows(&self, gpa: u64, through: &Through, acc: Acc) -> Result<bool, Outcome> {
        let Some(spptp) = self.ept_regs().sub_page else { return Ok(false) };
        // That the page has to be readable is not in the text; see the fast walker's remark.
        if !bit(through.leaf(), 61) || !through.all(0) {
            return Ok(false);
        }
        let mut table = self.regs.address(spptp, 12);
        for (high, low) in [(47, 39), (38, 30), (29, 21)] {
            let entry = self.memory.read_u64(Hpa(table | field(gpa, high, low) >> low << 3));
            if !bit(entry, 0) {
                return Err(Outcome::SubPage { miss: true, gpa });
            }
            // Bits 11:1 and 63:N.
            if field(entry, 11, 1) | field(entry, 63, 52) | self.regs.beyond_width(entry) != 0 {
                return Err(Outcome::SubPage { miss: false, gpa });
            }
            table = self.regs.address(entry, 12);
        }
        let vector = self.memory.read_u64(Hpa(table | field(gpa, 20, 12) >> 12 << 3));
        if (0..32).any(|n| bit(vector, 2 * n + 1)) {
            return Err(Outcome::SubPage { miss: false, gpa });
        }
        // The part of the access that lies in this page, byte by byte.
        let end = (u64::from(acc.bytes.max(1)) + field(gpa, 11, 0)).min(0x1000);
        Ok((field(gpa, 11, 0)..end).all(|byte| bit(vector, 2 * (byte >> 7) as u32)))
    }

    /// 28.3.5, Accessed and Dirty Flags for EPT, and 28.3.6, Page-Modification Logging.
    fn ept_flags(&self, gpa: u64, through: &Through, write: bool) -> Result<(), Outcome> {
        let wanted = |leaf: bool| 1 << 8 | if leaf && write { 1 << 9 } else { 0 };
        if through.entries.iter().all(|(_, entry, leaf)| entry & wanted(*leaf) == wanted(*leaf)) {
            return Ok(());
        }
        let log = self.ept_regs().log;
        if log.is_some() && self.log_index.get() > 511 {
            return Err(Outcome::LogFull);
        }
        for (at, entry, leaf) in &through.entries {
            let set = wanted(*leaf);
            if entry & set == set {
                continue;
            }
            if !self.raise(*at, *entry, set, 0x300, false) {
                return Err(Outcome::Retry);
            }
            if let (Some((address, _)), true, false) = (log, bit(set, 9), bit(*entry, 9)) {
                let index = self.log_index.get();
                self.memory.write_u64(Hpa(address + 8 * u64::from(index)), field(gpa, 63, 12));
                self.log_index.set(index.wrapping_sub(1));
            }
        }
        Ok(())
    }

    /// 28.3.3.2, guest-paging verification. `tables` are the guest's entries from the top to the one that maps the page.
    pub(super) fn verify(&self, tables: &[&GuestEntry]) -> Result<(), Outcome> {
        let regs = self.ept_regs();
        let Some(last) = tables.last() else { return Ok(()) };
        let every = tables.iter().all(|step| bit(step.through.leaf(), 58));
        if regs.paging_write && regs.verify && bit(last.through.leaf(), 57) && !every {
            return Err(self.ept_violation(last.gpa, &last.through, self.table_bits(), None, 1 << 15));
        }
        Ok(())
    }

    /// The write that sets a flag in a guest table.
    pub(super) fn ept_table_write(&self, step: &GuestEntry) -> Result<(), Outcome> {
        let excused = self.ept_regs().paging_write && step.through.upper(1) && bit(step.through.leaf(), 58);
        if step.through.all(1) || excused {
            return Ok(());
        }
        Err(self.ept_violation(step.gpa, &step.through, 3, None, 0))
    }

    /// Table 27-7, Exit Qualification for EPT Violations; 25.5.7.1, Convertible EPT Violations.
    fn ept_violation(&self, gpa: u64, through: &Through, access_bits: u64, page: Option<Page>, more: u64) -> Outcome {
        let regs = self.ept_regs();
        let mut qualification = access_bits | more | 1 << 7;
        let absent = |entry: u64| field(entry, 2, 0) == 0 && !(regs.mbe && bit(entry, 10));
        if !through.entries.is_empty() && !through.entries.iter().any(|(_, entry, _)| absent(*entry)) {
            for n in 0..3 {
                qualification |= u64::from(through.all(n)) << (3 + n);
            }
            qualification |= u64::from(regs.mbe && through.all(10)) << 6;
            qualification |= u64::from(bit(regs.eptp, 7) && bit(through.leaf(), 60)) << 14;
        }
        if let Some((acc, user, writable, execute_disable)) = page {
            qualification |= 1 << 8;
            if regs.advanced {
                qualification |= u64::from(user) << 9 | u64::from(writable) << 10 | u64::from(execute_disable) << 11;
            }
            qualification |= u64::from(acc.shadow) << 13;
        }
        let convertible = regs.violation_ve && !through.entries.is_empty() && !bit(through.leaf(), 63);
        Outcome::EptViolation { qualification, gpa, convertible }
    }
}
