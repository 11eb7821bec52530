//! Ordinary paging: SDM 3A 4.3 to 4.8.

use x86_state::Hpa;

use super::{Acc, GuestEntry, Op, Outcome, Regs, Second, Slow, Through, Walked, bit, field};

impl Slow<'_> {
    /// Ordinary tables, 4.3 to 4.5, from CR3 or, with `hlatp`, by HLAT paging. `through` translates the address of an entry.
    pub(super) fn tables<E>(
        &self,
        regs: &Regs,
        hlatp: Option<u64>,
        linear: u64,
        mut through: impl FnMut(u64) -> Result<(u64, Through), E>,
    ) -> Result<Walked, E> {
        let (pg, pae, pse) = (bit(regs.cr0, 31), bit(regs.cr4, 5), bit(regs.cr4, 4));
        let (lme, nxe, la57) = (bit(regs.efer, 8), bit(regs.efer, 11), bit(regs.cr4, 12));
        let m = regs.width;
        let mut entries = Vec::new();
        if !pg {
            return Ok(Walked::To { address: linear & 0xffff_ffff, page_bits: 52, entries, off: true });
        }
        if !pae {
            return self.tables_32(regs, pse, linear, entries, through);
        }
        let mut read = |gpa: u64, level: u32| -> Result<GuestEntry, E> {
            let (hpa, through) = through(gpa)?;
            Ok(GuestEntry { level, gpa, hpa, entry: self.memory.read_u64(Hpa(hpa)), through })
        };
        let (mut table, mut level, linear) = if lme {
            (regs.address(hlatp.unwrap_or(regs.cr3), 12), if la57 { 5 } else { 4 }, linear)
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
            let upper = field(pdpte, 63, 52) | regs.beyond_width(pdpte);
            if check && (field(pdpte, 2, 1) | field(pdpte, 8, 5) | upper) != 0 {
                return Ok(Walked::Fault { present: true, reserved: true });
            }
            (regs.address(pdpte, 12), 2, linear)
        };
        loop {
            let shift = 12 + 9 * (level - 1);
            let step = read(table | (linear >> shift & 0x1ff) << 3, level)?;
            let entry = step.entry;
            entries.push(step);
            if !bit(entry, 0) {
                return Ok(Walked::Fault { present: false, reserved: false });
            }
            let large = bit(entry, 7) && (level == 2 || level == 3 && lme && regs.page_1g);
            let mut reserved = regs.beyond_width(entry);
            if !lme {
                reserved |= field(entry, 62, 52);
            }
            if !nxe {
                reserved |= field(entry, 63, 63);
            }
            if level >= 3 && !large {
                reserved |= field(entry, 7, 7);
            }
            if level >= 4 && regs.upper_global_reserved {
                reserved |= field(entry, 8, 8);
            }
            if large {
                reserved |= field(entry, shift - 1, 13);
            }
            // With PAE paging the PAT bit is reserved if there is no PAT; a processor with IA-32e mode has one.
            if !lme && !regs.pat {
                reserved |= if large { field(entry, 12, 12) } else { 0 };
                reserved |= if level == 1 { field(entry, 7, 7) } else { 0 };
            }
            if reserved != 0 {
                return Ok(Walked::Fault { present: true, reserved: true });
            }
            if hlatp.is_some() && bit(entry, 11) {
                return Ok(Walked::Restart { page_bits: shift, entries });
            }
            if large || level == 1 {
                let address = regs.address(entry, shift) | field(linear, shift - 1, 0);
                return Ok(Walked::To { address, page_bits: shift, entries, off: false });
            }
            debug_assert!(m > 12);
            table = regs.address(entry, 12);
            level -= 1;
        }
    }

    /// 4.3, 32-Bit Paging.
    fn tables_32<E>(
        &self,
        regs: &Regs,
        pse: bool,
        linear: u64,
        mut entries: Vec<GuestEntry>,
        mut through: impl FnMut(u64) -> Result<(u64, Through), E>,
    ) -> Result<Walked, E> {
        let mut read = |gpa: u64, level: u32| -> Result<GuestEntry, E> {
            let (hpa, through) = through(gpa)?;
            Ok(GuestEntry { level, gpa, hpa, entry: self.memory.read_u32(Hpa(hpa)).into(), through })
        };
        let pde = read(field(regs.cr3, 31, 12) | field(linear, 31, 22) >> 20, 2)?;
        let entry = pde.entry;
        entries.push(pde);
        if !bit(entry, 0) {
            return Ok(Walked::Fault { present: false, reserved: false });
        }
        if pse && bit(entry, 7) {
            // Table 4-4: bits 21:(M-19) with PSE-36, M being at most 40; bits 21:13 without.
            let wide = regs.width.min(40);
            let lowest = if regs.pse36 && wide > 32 { wide - 19 } else { 13 };
            if field(entry, 21, lowest) != 0 || !regs.pat && bit(entry, 12) {
                return Ok(Walked::Fault { present: true, reserved: true });
            }
            let address = field(entry, 20, 13) << 19 | field(entry, 31, 22) | field(linear, 21, 0);
            return Ok(Walked::To { address, page_bits: 22, entries, off: false });
        }
        let pte = read(field(entry, 31, 12) | field(linear, 21, 12) >> 10, 1)?;
        let entry = pte.entry;
        entries.push(pte);
        if !bit(entry, 0) {
            return Ok(Walked::Fault { present: false, reserved: false });
        }
        // With CR4.PSE = 0 no bits are reserved.
        if pse && !regs.pat && bit(entry, 7) {
            return Ok(Walked::Fault { present: true, reserved: true });
        }
        let address = field(entry, 31, 12) | field(linear, 11, 0);
        Ok(Walked::To { address, page_bits: 12, entries, off: false })
    }

    /// One access to a linear address: the host-physical address and log2 of the page size.
    pub(super) fn attempt(&self, linear: u64, acc: Acc) -> Result<(u64, u32), Outcome> {
        let regs = &self.regs;
        // 4.5.1: HLAT paging is used with 4-level and 5-level paging, for addresses that match the prefix.
        let hlatp = match regs.hlat {
            Some((hlatp, prefix)) if regs.long() && (!prefix || bit(linear, 63)) => Some(hlatp),
            _ => None,
        };
        let mut limit = 52;
        let mut walked = self.tables(regs, hlatp, linear, |gpa| self.guest_table(gpa))?;
        let mut hlat = hlatp.is_some();
        if let Walked::Restart { page_bits, entries } = walked {
            // 4.5.5. The entries used until here get their accessed flag (4.8).
            limit = page_bits;
            self.guest_flags(&entries, false)?;
            walked = self.tables(regs, None, linear, |gpa| self.guest_table(gpa))?;
            hlat = false;
        }
        let (address, page_bits, entries, off) = match walked {
            Walked::To { address, page_bits, entries, off } => (address, page_bits.min(limit), entries, off),
            Walked::Fault { present, reserved } => {
                return Err(Outcome::PageFault(self.error_code(acc, present, reserved, false, hlat)));
            }
            Walked::Restart { .. } => unreachable!("ordinary paging ignores bit 11"),
        };
        let user_address = entries.iter().all(|step| bit(step.entry, 2));
        let writable = entries.iter().all(|step| bit(step.entry, 1));
        let nx_matters = bit(regs.cr4, 5) && bit(regs.efer, 11);
        let execute_disable = nx_matters && entries.iter().any(|step| bit(step.entry, 63));
        if !off {
            let key_denies = self.key_denies(&entries, user_address, acc);
            if !self.allowed(&entries, user_address, writable, execute_disable, acc) || key_denies {
                return Err(Outcome::PageFault(self.error_code(acc, true, false, key_denies, false)));
            }
            self.guest_flags(&entries, acc.op == Op::Write)?;
        }
        let (user, writable) = if off { (true, true) } else { (user_address, writable) };
        let (hpa, second_bits) = match self.second {
            Second::None => (address, 52),
            Second::Ept(_) => {
                if !off {
                    let tables: Vec<_> = entries.iter().filter(|step| step.level != 3 || regs.long()).collect();
                    self.verify(&tables)?;
                }
                let (hpa, bits, _) = self.ept(address, Some((acc, user, writable, execute_disable)))?;
                (hpa, bits)
            }
            Second::Npt { .. } => {
                let (hpa, bits, _) = self.npt(address, Some(acc))?;
                (hpa, bits)
            }
        };
        Ok((hpa, page_bits.min(second_bits)))
    }

    /// 4.6.2, Protection Keys.
    fn key_denies(&self, entries: &[GuestEntry], user_address: bool, acc: Acc) -> bool {
        let regs = &self.regs;
        let leaf = entries.last().map_or(0, |step| step.entry);
        let wp = bit(regs.cr0, 16);
        // The register is chosen by the page, not by who accesses it.
        let (on, key_register) =
            if user_address { (bit(regs.cr4, 22), regs.pkru) } else { (bit(regs.cr4, 24), regs.pkrs) };
        let key = leaf >> 59 & 0xf;
        let (ad, wd) = (key_register >> (2 * key) & 1 == 1, key_register >> (2 * key + 1) & 1 == 1);
        regs.long() && on && acc.op != Op::Fetch && (ad || wd && acc.op == Op::Write && (acc.user || wp))
    }

    /// 4.6.1, Determination of Access Rights, without protection keys.
    fn allowed(
        &self,
        entries: &[GuestEntry],
        user_address: bool,
        writable: bool,
        execute_disable: bool,
        acc: Acc,
    ) -> bool {
        let regs = &self.regs;
        let leaf = entries.last().map_or(0, |step| step.entry);
        let wp = bit(regs.cr0, 16);
        let (smep, smap) = (bit(regs.cr4, 20), bit(regs.cr4, 21));
        let smap_allows = !smap || regs.ac && !acc.implicit;
        if acc.shadow {
            let upper = entries[..entries.len() - 1].iter().all(|step| bit(step.entry, 1));
            return !bit(leaf, 1) && bit(leaf, 6) && upper && user_address == acc.user;
        }
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
    }

    /// 4.8, Accessed and Dirty Flags.
    fn guest_flags(&self, entries: &[GuestEntry], write: bool) -> Result<(), Outcome> {
        let narrow = !bit(self.regs.cr4, 5);
        for (n, step) in entries.iter().enumerate() {
            let last = n + 1 == entries.len();
            let set = 1 << 5 | if last && write { 1 << 6 } else { 0 };
            // A PDPTE of PAE paging has no flags.
            if (step.level == 3 && !self.regs.long()) || step.entry & set == set {
                continue;
            }
            self.guest_table_write(step)?;
            if !self.raise(step.hpa, step.entry, set, 0x60, narrow) {
                return Err(Outcome::Retry);
            }
        }
        Ok(())
    }

    /// 4.7, Page-Fault Exceptions.
    fn error_code(&self, acc: Acc, present: bool, reserved: bool, key: bool, hlat: bool) -> u32 {
        let regs = &self.regs;
        let fetch_bit = bit(regs.cr4, 20) || bit(regs.cr4, 5) && bit(regs.efer, 11);
        u32::from(present)
            | u32::from(acc.op == Op::Write) << 1
            | u32::from(acc.user) << 2
            | u32::from(reserved) << 3
            | u32::from(acc.op == Op::Fetch && fetch_bit) << 4
            | u32::from(key) << 5
            | u32::from(acc.shadow) << 6
            | u32::from(hlat) << 7
    }

    fn guest_table(&self, gpa: u64) -> Result<(u64, Through), Outcome> {
        match self.second {
            Second::None => Ok((gpa, Through::default())),
            Second::Ept(_) => self.ept(gpa, None).map(|(hpa, _, through)| (hpa, through)),
            Second::Npt { .. } => self.npt(gpa, None).map(|(hpa, _, through)| (hpa, through)),
        }
    }

    fn guest_table_write(&self, step: &GuestEntry) -> Result<(), Outcome> {
        match self.second {
            Second::None => Ok(()),
            Second::Ept(_) => self.ept_table_write(step),
            Second::Npt { .. } => self.npt_table_write(step),
        }
    }
}
