//! What do the two 8259As do? Priorities, masks, initialization, and the vector for an interrupt acknowledge.
//!
//! Source: Intel 8259A data sheet (order number 231468-003, 1988), Programming the 8259A; Intel 82371SB (PIIX) data sheet, 2.5.5 (ELCR).

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chip {
    lines: u8,
    requested: u8,
    in_service: u8,
    mask: u8,
    /// Level-triggered inputs.
    level: u8,
    base: u8,
    /// The input with the lowest priority; 7 at first.
    lowest: u8,
    /// The next write of the data port is this initialization word: 2, 3, 4; 0: the mask.
    expects: u8,
    needs_icw4: bool,
    auto_eoi: bool,
    rotates: bool,
    fully_nested: bool,
    special_mask: bool,
    reads_in_service: bool,
    polls: bool,
}

impl Chip {
    const fn reset() -> Self {
        Self {
            lines: 0,
            requested: 0,
            in_service: 0,
            // The data sheet does not say; nothing comes through before it is initialized.
            mask: 0xff,
            level: 0,
            base: 0,
            lowest: 7,
            expects: 0,
            needs_icw4: false,
            auto_eoi: false,
            rotates: false,
            fully_nested: false,
            special_mask: false,
            reads_in_service: false,
            polls: false,
        }
    }

    fn set_line(&mut self, input: u8, asserted: bool) {
        let bit = 1 << (input & 7);
        let was = self.lines & bit != 0;
        if asserted {
            self.lines |= bit;
            if self.level & bit != 0 || !was {
                self.requested |= bit;
            }
        } else {
            self.lines &= !bit;
            // An edge stays requested. The data sheet says that "the IR inputs must remain high until after the falling edge of the first INTA",
            // else a spurious interrupt comes; the 8259As inside chipsets, and those of QEMU and KVM, keep the edge.
            self.requested &= !(bit & self.level);
        }
    }

    /// How urgent: 0 is the most; 8: nothing.
    fn rank(&self, inputs: u8) -> u8 {
        (0..8).find(|rank| inputs >> (self.lowest.wrapping_add(1 + rank) & 7) & 1 == 1).unwrap_or(8)
    }

    fn input(&self, rank: u8) -> u8 {
        self.lowest.wrapping_add(1 + rank) & 7
    }

    /// The input to be acknowledged now.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let candidate = self.rank(self.requested & !self.mask);
        let mut serving = self.in_service;
        if self.special_mask {
            serving &= !self.mask;
        }
        if self.fully_nested && is_master {
            // The slave may interrupt its own service.
            serving &= !(1 << 2);
        }
        (candidate < self.rank(serving)).then(|| self.input(candidate))
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.level & bit == 0 {
            self.requested &= !bit;
        }
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotates {
            self.lowest = input;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1. Edge detection starts anew: the level of lines that are up counts as seen.
            *self = Self {
                lines: self.lines,
                level: self.level,
                requested: self.lines & self.level,
                mask: 0,
                base: self.base,
                expects: 2,
                needs_icw4: value & 1 != 0,
                ..Self::reset()
            };
        } else if value & 8 != 0 {
            // OCW3.
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
            self.polls = value & 4 != 0;
            if value & 2 != 0 {
                self.reads_in_service = value & 1 != 0;
            }
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    fn write_ocw2(&mut self, command: u8, input: u8) {
        let highest = self.rank(self.in_service);
        let ended = match command {
            // Non-specific EOI, with and without rotation.
            1 | 5 if highest < 8 => Some(self.input(highest)),
            3 | 7 => Some(input),
            _ => None,
        };
        if let Some(input) = ended {
            self.in_service &= !(1 << input);
            if command & 4 != 0 {
                self.lowest = input;
            }
        }
        match command {
            0 => self.rotates = false,
            4 => self.rotates = true,
            6 => self.lowest = input,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expects = match self.expects {
            2 => {
                self.base = value & 0xf8;
                3
            }
            3 if self.needs_icw4 => 4,
            3 => 0,
            4 => {
                self.auto_eoi = value & 2 != 0;
                self.fully_nested = value & 0x10 != 0;
                0
            }
            _ => {
                self.mask = value;
                0
            }
        };
    }

    fn read_command(&mut self, is_master: bool) -> u8 {
        if core::mem::take(&mut self.polls) {
            return match self.pending(is_master) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        if self.reads_in_service { self.in_service } else { self.requested }
    }
}

/// The pair of a PC: the second one's output is input 2 of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pics {
    master: Chip,
    slave: Chip,
}

impl Default for Pics {
    fn default() -> Self {
        Self { master: Chip::reset(), slave: Chip::reset() }
    }
}

impl Pics {
    /// As firmware leaves them: vectors 8 and 0x70 on, the lines of PCI devices (5, 9, 10, 11) and the cascade open.
    #[must_use]
    pub fn after_firmware() -> Self {
        let mut pics = Self::default();
        for (port, value) in [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0xdb)] {
            pics.write(port, value);
        }
        for (port, value) in [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 0x02), (0xa1, 0x01), (0xa1, 0xf1)] {
            pics.write(port, value);
        }
        pics
    }

    /// Reads a port: 0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1; others read as all ones.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 => self.master.read_command(true),
            0x21 => self.master.mask,
            0xa0 => self.slave.read_command(false),
            0xa1 => self.slave.mask,
            0x4d0 => self.master.level,
            0x4d1 => self.slave.level,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes one of these ports.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            // The timer, the keyboard, the cascade; the clock and the coprocessor are always edge-triggered.
            0x4d0 => self.master.level = value & 0xf8,
            0x4d1 => self.slave.level = value & 0xde,
            _ => {}
        }
        self.cascade();
    }

    /// Drives an ISA line, 0 to 15. Line 2 does not exist: the cascade is there.
    pub fn set_line(&mut self, line: u8, asserted: bool) {
        match line {
            2 | 16.. => return,
            0..=7 => self.master.set_line(line, asserted),
            _ => self.slave.set_line(line - 8, asserted),
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let asserted = self.slave.pending(false).is_some();
        let bit = 1 << 2;
        if asserted {
            self.master.lines |= bit;
            self.master.requested |= bit;
        } else {
            self.master.lines &= !bit;
            self.master.requested &= !bit;
        }
    }

    /// Does it ask for an interrupt?
    #[must_use]
    pub fn interrupts(&self) -> bool {
        self.master.pending(true).is_some()
    }

    /// The processor acknowledges: the vector. If nothing is pending any more, that of input 7 (a spurious interrupt), without service.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.pending(true) {
            None => self.master.base | 7,
            Some(2) => {
                self.master.acknowledge(2);
                match self.slave.pending(false) {
                    None => self.slave.base | 7,
                    Some(input) => {
                        self.slave.acknowledge(input);
                        self.slave.base | input
                    }
                }
            }
            Some(input) => {
                self.master.acknowledge(input);
                self.master.base | input
            }
        };
        self.cascade();
        vector
    }
}
