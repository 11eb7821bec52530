//! What does the serial port do? A 16550A whose transmitter is infinitely fast and whose line is connected to nothing but the log.
//!
//! Source: National Semiconductor PC16550D data sheet (1995), 8.0, Registers.

/// Bytes that the receiver's FIFO holds.
const FIFO_BYTES: usize = 16;

/// Interrupt-enable bits.
mod ier {
    pub(super) const RECEIVED: u8 = 1;
    pub(super) const EMPTY: u8 = 2;
    pub(super) const LINE: u8 = 4;
    pub(super) const MODEM: u8 = 8;
}

/// Line-status bits.
mod lsr {
    pub(super) const READY: u8 = 1;
    pub(super) const OVERRUN: u8 = 2;
    /// Transmitter holding register and transmitter empty: always.
    pub(super) const EMPTY: u8 = 0x60;
}

/// Modem-control bit 4: what is sent comes back.
const LOOP: u8 = 0x10;
/// Line-control bit 7: registers 0 and 1 are the divisor.
const DLAB: u8 = 0x80;

/// A 16550A.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    interrupts: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    fifo: bool,
    received: [u8; FIFO_BYTES],
    waiting: usize,
    overrun: bool,
    /// The transmitter has become empty, and nobody has looked since.
    emptied: bool,
    modem_delta: u8,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            interrupts: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: 12,
            fifo: false,
            received: [0; FIFO_BYTES],
            waiting: 0,
            overrun: false,
            emptied: false,
            modem_delta: 0,
        }
    }
}

impl Uart {
    /// Reads register 0 to 7.
    pub fn read(&mut self, register: u8) -> u8 {
        let dlab = self.line_control & DLAB != 0;
        match register & 7 {
            0 if dlab => self.divisor as u8,
            0 => self.take(),
            1 if dlab => (self.divisor >> 8) as u8,
            1 => self.interrupts,
            2 => {
                let identification = self.identification();
                // Reading it withdraws the transmitter's interrupt, if that is what it names.
                if identification == 2 {
                    self.emptied = false;
                }
                identification | if self.fifo { 0xc0 } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let ready = if self.waiting > 0 { lsr::READY } else { 0 };
                let overrun = if core::mem::take(&mut self.overrun) { lsr::OVERRUN } else { 0 };
                lsr::EMPTY | ready | overrun
            }
            6 => self.modem_status() | core::mem::take(&mut self.modem_delta),
            _ => self.scratch,
        }
    }

    /// Writes register 0 to 7. Gives the byte that goes out on the line, if one does.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        let dlab = self.line_control & DLAB != 0;
        match register & 7 {
            0 if dlab => self.divisor = self.divisor & 0xff00 | u16::from(value),
            0 => {
                self.emptied = true;
                if self.modem_control & LOOP == 0 {
                    return Some(value);
                }
                self.receive(value);
            }
            1 if dlab => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            1 => {
                // Enabling the transmitter's interrupt while it is empty raises it.
                if value & !self.interrupts & ier::EMPTY != 0 {
                    self.emptied = true;
                }
                self.interrupts = value & 0xf;
            }
            2 => {
                let enable = value & 1 != 0;
                // Bit 1 clears the receiver's FIFO; so does a change of bit 0.
                if value & 2 != 0 || enable != self.fifo {
                    self.waiting = 0;
                }
                self.fifo = enable;
            }
            3 => self.line_control = value,
            4 => {
                let before = self.modem_status();
                self.modem_control = value & 0x1f;
                // CTS, DSR and DCD have changed, or RI has gone from 1 to 0.
                let changed = (before ^ self.modem_status()) >> 4;
                self.modem_delta |= changed & 0b1011 | changed & before >> 4 & 0b0100;
            }
            7 => self.scratch = value,
            _ => {}
        }
        None
    }

    /// Does it ask for an interrupt? On a PC it reaches the interrupt controllers only if MCR bit 3 (OUT2) is 1.
    #[must_use]
    pub fn interrupts(&self) -> bool {
        self.identification() & 1 == 0 && self.modem_control & (8 | LOOP) == 8
    }

    /// Bits `[3:0]` of the interrupt-identification register: the most urgent interrupt that is enabled; 1: none.
    fn identification(&self) -> u8 {
        let enabled = |bit| self.interrupts & bit != 0;
        if enabled(ier::LINE) && self.overrun {
            6
        } else if enabled(ier::RECEIVED) && self.waiting > 0 {
            4
        } else if enabled(ier::EMPTY) && self.emptied {
            2
        } else if enabled(ier::MODEM) && self.modem_delta != 0 {
            0
        } else {
            1
        }
    }

    /// Bits `[7:4]` of the modem status: in the loop the outputs of modem control, else a modem that is ready (DCD, DSR, CTS).
    fn modem_status(&self) -> u8 {
        if self.modem_control & LOOP == 0 {
            return 0xb0;
        }
        let bit = |from: u8, to: u8| (self.modem_control >> from & 1) << to;
        // RTS is CTS, DTR is DSR, OUT1 is RI, OUT2 is DCD.
        bit(1, 4) | bit(0, 5) | bit(2, 6) | bit(3, 7)
    }

    fn receive(&mut self, byte: u8) {
        let room = if self.fifo { FIFO_BYTES } else { 1 };
        if self.waiting >= room {
            self.overrun = true;
            // Without the FIFO the new byte replaces the old one; with it, it is lost.
            if !self.fifo {
                self.received[0] = byte;
            }
            return;
        }
        if let Some(slot) = self.received.get_mut(self.waiting) {
            *slot = byte;
            self.waiting += 1;
        }
    }

    fn take(&mut self) -> u8 {
        if self.waiting == 0 {
            return 0;
        }
        let [first, ..] = self.received;
        self.received.rotate_left(1);
        self.waiting -= 1;
        first
    }
}
