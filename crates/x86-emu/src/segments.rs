//! What does loading a segment register do? Descriptors, their checks, and the hidden parts.
//!
//! Source: SDM 3A 3.4 and 3.5, Segment Descriptors and System Descriptor Types; 5.5 to 5.8, privilege checks; SDM 2B, MOV; APM 2 4.8 for
//! what NULL selectors leave behind (here as Intel's processors do: base and limit 0).

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use softvirt_ept::Operation;
use x86_state::addr::is_canonical;
use x86_state::{AccessRights, CpuMode, DescriptorTable, Efer, Exception, Gva, Segment, SegmentRegister, Selector};

/// A descriptor as it stands in memory, and where.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its linear address.
    pub at: Gva,
    /// Its first eight bytes.
    pub low: u64,
}

impl Descriptor {
    /// Type, S, DPL, P and the rest, in VMX's format.
    #[must_use]
    pub const fn rights(&self) -> AccessRights {
        AccessRights::from_descriptor(self.low)
    }

    /// Is it a conforming code segment?
    #[must_use]
    pub const fn conforming(&self) -> bool {
        self.rights().is_code() && self.rights().typ() & 4 != 0
    }

    /// Bits `[31:16]`: the selector of a gate.
    #[must_use]
    pub const fn gate_selector(&self) -> Selector {
        Selector((self.low >> 16) as u16)
    }

    /// The offset of a gate, without bits 63:32 of a 64-bit gate.
    #[must_use]
    pub const fn gate_offset(&self) -> u64 {
        self.low & 0xffff | self.low >> 32 & 0xffff_0000
    }
}

/// The error code that names a selector: without its RPL.
#[must_use]
pub const fn selector_error(selector: Selector) -> u32 {
    (selector.0 & !3) as u32
}

impl<B: Bus> Exec<'_, B> {
    /// The descriptor of a selector in the GDT or the LDT; `exception` with the selector as its error code if it is outside the table.
    pub fn descriptor(&mut self, selector: Selector, exception: Exception) -> Result<Descriptor, Stopped> {
        let ldtr = self.state.cpu.segments[SegmentRegister::Ldtr];
        let table = match selector.ti() {
            false => self.state.cpu.gdtr,
            true if ldtr.rights.unusable() => return Err(self.fault_with(exception, selector_error(selector))),
            true => DescriptorTable { base: ldtr.base, limit: ldtr.limit },
        };
        let offset = u64::from(selector.0 & !7);
        if offset + 7 > u64::from(table.limit) {
            return Err(self.fault_with(exception, selector_error(selector)));
        }
        let Some(at) = self.table_address(table.base.wrapping_add(offset), 8) else {
            return Err(self.fault_with(exception, selector_error(selector)));
        };
        let low = self.read_linear(at, self.system(Operation::Read))?;
        Ok(Descriptor { at, low })
    }

    /// The linear address of `len_bytes` of a descriptor table or a TSS; `None` if they are not canonical in IA-32e mode.
    #[must_use]
    pub(crate) fn table_address(&self, address: u64, len_bytes: u64) -> Option<Gva> {
        let cpu = &self.state.cpu;
        let last = address.wrapping_add(len_bytes.wrapping_sub(1));
        let width = cpu.linear_width();
        let reachable = !cpu.efer.contains(Efer::LMA) || is_canonical(address, width) && is_canonical(last, width);
        reachable.then(|| self.system_linear(address))
    }

    /// A linear address of the processor's own: 32 bits outside IA-32e mode.
    #[must_use]
    pub fn system_linear(&self, address: u64) -> Gva {
        Gva(if self.state.cpu.efer.contains(Efer::LMA) { address } else { address & 0xffff_ffff })
    }

    /// The upper eight bytes of a 16-byte descriptor of IA-32e mode: #GP(selector) if the table ends before them, or if the type in them,
    /// bits `[12:8]` of the last four bytes, is not 0.
    pub fn upper_half(&mut self, descriptor: &Descriptor, selector: Selector) -> Result<u64, Stopped> {
        let limit = match selector.ti() {
            false => self.state.cpu.gdtr.limit,
            true => self.state.cpu.segments[SegmentRegister::Ldtr].limit,
        };
        let within = u64::from(selector.0 & !7) + 15 <= u64::from(limit);
        let Some(at) = self.table_address(descriptor.at.0.wrapping_add(8), 8).filter(|_| within) else {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        };
        let high: u64 = self.read_linear(at, self.system(Operation::Read))?;
        if high >> 40 & 0x1f != 0 {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        Ok(high)
    }

    /// Sets bits in the type of a descriptor in memory, if they are clear: accessed (1) or busy (2).
    pub fn mark_descriptor(&mut self, descriptor: &Descriptor, bits: u64) -> Result<(), Stopped> {
        let bits = bits << 40;
        if descriptor.low & bits == bits {
            return Ok(());
        }
        self.write_linear(descriptor.at, descriptor.low | bits, self.system(Operation::Write))
    }

    /// Loads a data-segment register or SS by MOV, POP, LDS and their like.
    pub fn load_segment(&mut self, register: SegmentRegister, selector: Selector) -> Result<(), Stopped> {
        match self.state.cpu.mode() {
            CpuMode::Real => self.load_real(register, selector),
            CpuMode::Virtual8086 => {
                self.state.cpu.segments[register] = Segment::real(selector, AccessRights::V86);
            }
            _ if register == SegmentRegister::Ss => return self.load_stack_segment(selector),
            _ => return self.load_data_segment(register, selector),
        }
        Ok(())
    }

    /// Real-address mode: selector and base change; limit and rights stay (SDM 3A 20.1.1 and 9.9.2: "big real mode").
    pub fn load_real(&mut self, register: SegmentRegister, selector: Selector) {
        let segment = &mut self.state.cpu.segments[register];
        segment.selector = selector;
        segment.base = u64::from(selector.0) << 4;
    }

    fn load_stack_segment(&mut self, selector: Selector) -> Result<(), Stopped> {
        let cpl = u32::from(self.state.cpu.cpl());
        if selector.is_null() {
            if !self.long64() || cpl == 3 || selector.rpl() != cpl {
                return Err(self.gp());
            }
            self.state.cpu.segments[SegmentRegister::Ss] = null_stack(selector, cpl);
            return Ok(());
        }
        let segment = self.check_stack_segment(selector, cpl, Exception::GP)?;
        self.state.cpu.segments[SegmentRegister::Ss] = segment;
        self.caches.transferred();
        Ok(())
    }

    /// The stack segment of a selector for use at privilege level `cpl`: `exception` if it does not fit, #SS if it is not present.
    pub fn check_stack_segment(
        &mut self,
        selector: Selector,
        cpl: u32,
        exception: Exception,
    ) -> Result<Segment, Stopped> {
        let descriptor = self.descriptor(selector, exception)?;
        let rights = descriptor.rights();
        let writable_data = rights.s() && rights.typ() & 0b1010 == 0b0010;
        if selector.rpl() != cpl || !writable_data || rights.dpl() != cpl {
            return Err(self.fault_with(exception, selector_error(selector)));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::SS, selector_error(selector)));
        }
        self.mark_descriptor(&descriptor, 1)?;
        Ok(Segment::from_descriptor(selector, descriptor.low | 1 << 40))
    }

    fn load_data_segment(&mut self, register: SegmentRegister, selector: Selector) -> Result<(), Stopped> {
        if selector.is_null() {
            self.state.cpu.segments[register] = Segment { selector, ..Segment::NULL };
            return Ok(());
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let rights = descriptor.rights();
        let readable = rights.s() && (!rights.is_code() || rights.typ() & 2 != 0);
        let cpl = u32::from(self.state.cpu.cpl());
        let privileged = !descriptor.conforming() && (selector.rpl() > rights.dpl() || cpl > rights.dpl());
        if !readable || privileged {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::NP, selector_error(selector)));
        }
        self.mark_descriptor(&descriptor, 1)?;
        self.state.cpu.segments[register] = Segment::from_descriptor(selector, descriptor.low | 1 << 40);
        Ok(())
    }

    /// LLDT: the LDT of a selector in the GDT.
    pub fn load_ldt(&mut self, selector: Selector) -> Result<(), Stopped> {
        if selector.is_null() {
            self.state.cpu.segments[SegmentRegister::Ldtr] = Segment { selector, ..Segment::NULL };
            return Ok(());
        }
        let (descriptor, segment) = self.system_segment(selector, &[2])?;
        let _ = descriptor;
        self.state.cpu.segments[SegmentRegister::Ldtr] = segment;
        Ok(())
    }

    /// LTR: the available TSS of a selector in the GDT, which becomes busy.
    pub fn load_task_register(&mut self, selector: Selector) -> Result<(), Stopped> {
        if selector.is_null() {
            return Err(self.gp());
        }
        let types: &[u32] = if self.state.cpu.efer.contains(Efer::LMA) { &[9] } else { &[1, 9] };
        let (descriptor, mut segment) = self.system_segment(selector, types)?;
        self.mark_descriptor(&descriptor, 2)?;
        segment.rights.0 |= 2;
        self.state.cpu.segments[SegmentRegister::Tr] = segment;
        Ok(())
    }

    /// A system segment of one of these types in the GDT, with its 64-bit base in IA-32e mode.
    fn system_segment(&mut self, selector: Selector, types: &[u32]) -> Result<(Descriptor, Segment), Stopped> {
        if selector.ti() {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let rights = descriptor.rights();
        if rights.s() || !types.contains(&rights.typ()) {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::NP, selector_error(selector)));
        }
        let mut segment = Segment::from_descriptor(selector, descriptor.low);
        if self.state.cpu.efer.contains(Efer::LMA) {
            segment.base |= self.upper_half(&descriptor, selector)? << 32;
            // By the processor's width, whatever the paging mode (5-level paging white paper 2.5.2, Canonicality Checking on Other Loads). The
            // paper names no error code: read as that of every other fault of a descriptor.
            if !is_canonical(segment.base, self.profile.linear_width()) {
                return Err(self.fault_with(Exception::GP, selector_error(selector)));
            }
        }
        Ok((descriptor, segment))
    }

    /// After a return to an outer privilege level: data segments that it may not use become null (SDM 2A, IRET and RET).
    ///
    /// "SegmentSelector := 0" is all that the manual says. Base and limit stay as they are: programs of 64-bit mode keep the bases of FS and
    /// GS under null selectors, and return from interrupts with them.
    pub fn drop_privileged_segments(&mut self, cpl: u32) {
        for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
            let segment = self.state.cpu.segments[register];
            let rights = segment.rights;
            let conforming = rights.is_code() && rights.typ() & 4 != 0;
            if segment.selector.is_null() || rights.usable() && !conforming && rights.dpl() < cpl {
                self.state.cpu.segments[register] =
                    Segment { selector: Selector(0), rights: AccessRights::NULL, ..segment };
            }
        }
    }
}

/// SS with a null selector in 64-bit mode: unusable, and its DPL is the CPL all the same.
#[must_use]
pub const fn null_stack(selector: Selector, cpl: u32) -> Segment {
    Segment { selector, base: 0, limit: 0, rights: AccessRights(AccessRights::UNUSABLE | cpl << 5) }
}
