//! Nested paging: APM 2 15.25.5 to 15.25.7, 15.25.13, 15.25.14.

use super::{Acc, GuestEntry, Op, Outcome, Regs, Second, Slow, Through, Walked, bit};

impl Slow<'_> {
    /// `page` is the guest's access; none for a guest table.
    pub(super) fn npt(&self, gpa: u64, page: Option<Acc>) -> Result<(u64, u32, Through), Outcome> {
        let Second::Npt { host, gmet, sss, rogpt } = self.second else { unreachable!("called with NPT only") };
        let long = host.long();
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
        let walked = self.tables(&host, None, gpa, |at| Ok::<_, Outcome>((at, Through::default())))?;
        let (address, page_bits, mut steps) = match walked {
            Walked::Fault { present, reserved } => return Err(npf(present, reserved, false)),
            Walked::To { address, page_bits, entries, .. } => (address, page_bits, entries),
            Walked::Restart { .. } => unreachable!("HLAT paging is Intel's"),
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
            let forbidden = fetch && through.any(63) && bit(host.efer, 11) && bit(host.cr4, 5);
            accessible && !trapped && (!write || through.all(1)) && !forbidden
        };
        if !allowed {
            return Err(npf(true, false, sss && leaf_mark));
        }
        self.npt_flags(&host, &through, write)?;
        Ok((address, page_bits, through))
    }

    /// The write that sets a flag in a guest table: an access of its own with read-only guest page tables, otherwise it was
    /// one from the beginning.
    pub(super) fn npt_table_write(&self, step: &GuestEntry) -> Result<(), Outcome> {
        let Second::Npt { host, gmet, sss, rogpt } = self.second else { unreachable!("called with NPT only") };
        if !rogpt {
            return Ok(());
        }
        let sss = sss && bit(host.efer, 11) && bit(host.cr4, 5);
        let through = &step.through;
        let leaf_mark = bit(through.leaf(), 63) && !bit(through.leaf(), 2);
        let user = through.all(2) || gmet || sss && leaf_mark && through.upper(1) && through.upper(2);
        if !through.all(1) || !user {
            return Err(Outcome::Npf { info: 7 | 1 << 33 | u64::from(sss && leaf_mark) << 37, gpa: step.gpa });
        }
        self.npt_flags(&host, through, true)
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
