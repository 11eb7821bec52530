//! How does software reset a PC, and what does firmware do then? Fast INIT, the keyboard controller, the reset control register, the shutdown code.
//!
//! All of them pulse INIT# of every processor; RAM and devices stay as they are. The first processor goes on at the reset vector, where
//! [`CODE`] looks at the shutdown code in CMOS RAM: 0AH jumps through the pointer at 40:67, everything else boots the image anew.
//!
//! A reset that also resets devices (bit 1 of the reset control register) is not here: it is taken for the same.
//!
//! Source: Intel 82801 (ICH), 13.7.1 PORT92, Fast A20 and Init Register; 13.7.5 RST_CNT, Reset Control Register; IBM Personal Computer AT Technical
//! Reference, Keyboard Controller; Real-Time Clock/CMOS RAM, Shutdown Status Byte (0FH).

use crate::ram::Ram;

/// Fast A20 and INIT: A20 is bit 1, and bit 0 going from 0 to 1 pulses INIT#.
const FAST: u16 = 0x92;
/// Keyboard controller: output buffer, and what follows a command.
const KEYBOARD_DATA: u16 = 0x60;
/// Keyboard controller: status (bit 0: the output buffer is full; bit 1: the input buffer, never), and commands.
const KEYBOARD: u16 = 0x64;
/// The index of CMOS RAM.
const CMOS_INDEX: u16 = 0x70;
/// The byte of CMOS RAM that was chosen.
const CMOS_DATA: u16 = 0x71;
/// The reset control register: bit 2 going from 0 to 1 resets.
const CONTROL: u16 = 0xcf9;
/// Firmware asks the machine to boot at this port, which is softvirt's own.
pub(crate) const BOOT: u16 = 0x8908;

/// Where [`CODE`] is.
const FIRMWARE: u64 = 0xf_e05b;
/// The shutdown code decides.
const CODE: [u8; 24] = [
    0xb0, 0x0f, // mov al, 0x0f
    0xe6, 0x70, // out 0x70, al
    0xe4, 0x71, // in al, 0x71
    0x3c, 0x0a, // cmp al, 0x0a
    0x75, 0x08, // jne boot
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xff, 0x2e, 0x67, 0x04, // jmp far [0x467]
    0xba, 0x08, 0x89, // boot: mov dx, BOOT
    0xee, // out dx, al
    0xf4, // hlt
    0x90,
];
/// Where execution begins after a reset, below 1 MByte; the processor's own is 16 bytes below 4 GByte, and shows the same.
const VECTOR: u64 = 0xf_fff0;
/// jmp far F000:E05B.
const JUMP: [u8; 5] = [0xea, 0x5b, 0xe0, 0x00, 0xf0];

/// The last 64 KByte below 4 GByte show those below 1 MByte: the address there.
pub(crate) const fn shown(at: u64) -> u64 {
    if at >> 16 == 0xffff { at & 0xf_ffff } else { at }
}

/// Puts the firmware into RAM.
pub(crate) fn install(ram: &Ram) {
    for (start, bytes) in [(FIRMWARE, &CODE[..]), (VECTOR, &JUMP[..])] {
        for (at, byte) in (start..).zip(bytes) {
            if let Some(cell) = ram.byte(at) {
                cell.set(*byte);
            }
        }
    }
}

/// The registers by which software resets the machine.
#[derive(Clone, Debug)]
pub(crate) struct ResetPorts {
    fast: u8,
    control: u8,
    /// What the keyboard controller has to say.
    output: Option<u8>,
    /// Its output port: bit 0 is RESET#, bit 1 A20.
    output_port: u8,
    /// The next byte of data is for the output port.
    writes_output_port: bool,
    cmos_index: u8,
    cmos: [u8; 128],
}

impl Default for ResetPorts {
    fn default() -> Self {
        // A20 is on.
        Self {
            fast: 2,
            control: 0,
            output: None,
            output_port: 3,
            writes_output_port: false,
            cmos_index: 0,
            cmos: [0; 128],
        }
    }
}

impl ResetPorts {
    /// IN; `None`: the port is another device's.
    pub(crate) fn read(&mut self, port: u16) -> Option<u8> {
        Some(match port {
            FAST => self.fast,
            CONTROL => self.control,
            KEYBOARD => u8::from(self.output.is_some()),
            KEYBOARD_DATA => self.output.take().unwrap_or(0),
            CMOS_DATA => self.cmos.get(usize::from(self.cmos_index)).copied().unwrap_or(0),
            _ => return None,
        })
    }

    /// OUT; does it pulse INIT#? `None`: the port is another device's.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> Option<bool> {
        Some(match port {
            FAST => value & !std::mem::replace(&mut self.fast, value & 3) & 1 != 0,
            CONTROL => value & !std::mem::replace(&mut self.control, value & 0xe) & 4 != 0,
            KEYBOARD => {
                self.writes_output_port = value == 0xd1;
                if value == 0xd0 {
                    self.output = Some(self.output_port);
                }
                // F0H to FFH pulse the bits of the output port that are 0.
                value >= 0xf0 && value & 1 == 0
            }
            KEYBOARD_DATA => {
                let for_port = std::mem::take(&mut self.writes_output_port);
                if for_port {
                    // RESET# is let go at once.
                    self.output_port = value | 1;
                }
                for_port && value & 1 == 0
            }
            CMOS_INDEX => {
                // Bit 7 masks NMIs, and is not looked at.
                self.cmos_index = value & 0x7f;
                false
            }
            CMOS_DATA => {
                if let Some(byte) = self.cmos.get_mut(usize::from(self.cmos_index)) {
                    *byte = value;
                }
                false
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_ends_before_the_vector_and_the_vector_is_at_the_top() {
        assert_eq!(shown(0xffff_fff0), VECTOR);
        assert_eq!([shown(0xfffe_ffff), shown(0x1_0000_0000), shown(VECTOR)], [0xfffe_ffff, 0x1_0000_0000, VECTOR]);
        assert!(FIRMWARE + CODE.len() as u64 <= VECTOR);
    }

    #[test]
    fn init_is_pulsed_by_edges_of_the_registers_and_by_the_keyboard_controller() {
        for (writes, expected) in [
            (&[(FAST, 3)][..], &[true][..]),
            (&[(FAST, 3), (FAST, 3), (FAST, 2), (FAST, 1)], &[true, false, false, true]),
            (&[(CONTROL, 4), (CONTROL, 6), (CONTROL, 0), (CONTROL, 0xe)], &[true, false, false, true]),
            (&[(KEYBOARD, 0xfe)], &[true]),
            (&[(KEYBOARD, 0xff)], &[false]),
            (&[(KEYBOARD, 0xd1), (KEYBOARD_DATA, 0xfe)], &[false, true]),
            (&[(KEYBOARD, 0xd1), (KEYBOARD_DATA, 0xff)], &[false, false]),
            (&[(KEYBOARD_DATA, 0xfe)], &[false]),
            (&[(CMOS_INDEX, 0xf), (CMOS_DATA, 0xa)], &[false, false]),
        ] {
            let mut ports = ResetPorts::default();
            let found: Vec<bool> = writes.iter().map(|(port, value)| ports.write(*port, *value).unwrap()).collect();
            assert_eq!(found, expected, "{writes:x?}");
        }
    }

    #[test]
    fn the_keyboard_controller_gives_its_output_port_once() {
        let mut ports = ResetPorts::default();
        assert_eq!(ports.write(KEYBOARD, 0xd0), Some(false));
        assert_eq!([KEYBOARD, KEYBOARD_DATA, KEYBOARD].map(|port| ports.read(port)), [Some(1), Some(3), Some(0)]);
    }
}
