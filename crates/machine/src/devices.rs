//! Which devices are there, and where? Ports and memory-mapped registers, by address.

use crate::acpi;
use crate::board::{Board, Request};
use crate::fw_cfg::{self, FwCfg};
use crate::ioapic::{self, IoApic};
use crate::pic::Pics;
use crate::reset::{self, ResetPorts};
use crate::testdev::{self, TestDevice};
use crate::uart::Uart;
use softvirt_lapic::{Delivery, Destination, Message};

/// The first port of the first serial port, and its interrupt line.
const COM1: u16 = 0x3f8;
const COM1_LINE: u8 = 4;

/// The address register of PCI's configuration space, which 4-byte accesses reach: there is no PCI. Narrower ones reach what else is there.
const PCI_ADDRESS: u16 = 0xcf8;

/// The most bytes of output that are held until the machine collects them.
const OUTPUT_BYTES: usize = 1 << 20;

/// The devices that all processors reach.
pub(crate) struct Devices {
    pub(crate) pics: Pics,
    pub(crate) io_apic: IoApic,
    pub(crate) uart: Uart,
    pub(crate) fw_cfg: FwCfg,
    /// Absent in a machine without test devices, and with it the debug exit.
    pub(crate) test: Option<TestDevice>,
    pub(crate) reset: ResetPorts,
    /// How many letters of "Shutdown" have come.
    pub(crate) shutdown: usize,
    /// What the serial port has sent since the machine last looked.
    pub(crate) serial: Vec<u8>,
    /// The same of the debug console.
    pub(crate) console: Vec<u8>,
}

impl Devices {
    pub(crate) fn new(cpus: u8, memory_bytes: u64, test: bool) -> Self {
        Self {
            pics: Pics::after_firmware(),
            io_apic: IoApic::default(),
            uart: Uart::default(),
            fw_cfg: FwCfg::new(cpus, memory_bytes),
            test: test.then(TestDevice::default),
            reset: ResetPorts::default(),
            shutdown: 0,
            serial: Vec::new(),
            console: Vec::new(),
        }
    }
}

fn push(output: &mut Vec<u8>, byte: u8) {
    if output.len() < OUTPUT_BYTES {
        output.push(byte);
    }
}

impl Board {
    /// IN.
    pub(crate) fn port_read(&self, port: u16, size_bytes: u8) -> u32 {
        if let Some(value) = self.devices.borrow().test.as_ref().and_then(|test| test.read(port, size_bytes)) {
            return value;
        }
        if port == acpi::TIMER_PORT {
            return acpi::timer(self.clock());
        }
        if (port, size_bytes) == (PCI_ADDRESS, 4) {
            return u32::MAX;
        }
        // Devices of one byte each: a wider access is one to each of its ports.
        (0..size_bytes.min(4)).fold(u32::MAX, |value, n| {
            let shift = 8 * u32::from(n);
            value & !(0xff << shift) | u32::from(self.byte_port_read(port.wrapping_add(n.into()))) << shift
        })
    }

    fn byte_port_read(&self, port: u16) -> u8 {
        let mut devices = self.devices.borrow_mut();
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                let value = devices.pics.read(port);
                drop(devices);
                self.drive_intr();
                value
            }
            COM1..=0x3ff => {
                let value = devices.uart.read((port & 7) as u8);
                drop(devices);
                self.drive_uart();
                value
            }
            fw_cfg::DATA => devices.fw_cfg.read(),
            testdev::CONSOLE => testdev::CONSOLE as u8,
            _ => devices.reset.read(port).unwrap_or(0xff),
        }
    }

    /// OUT.
    pub(crate) fn port_write(&self, port: u16, size_bytes: u8, value: u32) {
        let is_test = self.devices.borrow().test.is_some();
        match port {
            testdev::DEBUG_EXIT if is_test => return self.ask(Request::DebugExit(value)),
            PCI_ADDRESS if size_bytes == 4 => return,
            fw_cfg::SELECTOR if size_bytes > 1 => return self.devices.borrow_mut().fw_cfg.select(value as u16),
            _ => {}
        }
        if let Some(line) = port.checked_sub(testdev::LINES).filter(|line| is_test && *line < ioapic::LINES.into()) {
            return self.set_line(line as u8, value & 0xff != 0);
        }
        if self.devices.borrow_mut().test.as_mut().is_some_and(|test| test.write(port, size_bytes, value)) {
            // The debug console is among the test device's latches: a byte goes to both.
            if port == testdev::CONSOLE && size_bytes == 1 {
                self.byte_port_write(port, value as u8);
            }
            return;
        }
        for (n, byte) in (0..u16::from(size_bytes.min(4))).zip(value.to_le_bytes()) {
            self.byte_port_write(port.wrapping_add(n), byte);
        }
    }

    fn byte_port_write(&self, port: u16, value: u8) {
        let mut devices = self.devices.borrow_mut();
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                devices.pics.write(port, value);
                drop(devices);
                self.drive_intr();
            }
            COM1..=0x3ff => {
                if let Some(byte) = devices.uart.write((port & 7) as u8, value) {
                    push(&mut devices.serial, byte);
                }
                drop(devices);
                self.drive_uart();
            }
            testdev::CONSOLE => push(&mut devices.console, value),
            testdev::SHUTDOWN_PORT => {
                let expected = testdev::SHUTDOWN.get(devices.shutdown).copied();
                devices.shutdown = match expected == Some(value) {
                    true => devices.shutdown + 1,
                    false => usize::from(testdev::SHUTDOWN.first() == Some(&value)),
                };
                if devices.shutdown == testdev::SHUTDOWN.len() {
                    devices.shutdown = 0;
                    drop(devices);
                    self.ask(Request::Shutdown);
                }
            }
            reset::BOOT => {
                drop(devices);
                self.ask(Request::Boot);
            }
            _ => {
                if devices.reset.write(port, value) == Some(true) {
                    drop(devices);
                    self.deliver(&Message::edge(Destination::Everyone, Delivery::Init, 0), None);
                }
            }
        }
    }

    fn drive_uart(&self) {
        let asserted = self.devices.borrow().uart.interrupts();
        self.set_line(COM1_LINE, asserted);
    }

    /// A load from where no RAM is, of 1 to 8 bytes by processor `index`. All ones where nothing is.
    pub(crate) fn device_read(&self, index: usize, at: u64, len_bytes: u8) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(len_bytes.clamp(1, 8)));
        if let Some(line) = self.lines.get(index).filter(|line| line.apic_page.get() == at & !0xfff) {
            return line.change(|apic, now| apic.mmio_read((at & 0xfff) as u16, len_bytes, now)) & ones;
        }
        let devices = self.devices.borrow();
        match at & !0xfff {
            ioapic::ADDRESS => u64::from(devices.io_apic.read(at & 0xfff)) & ones,
            _ => (0..len_bytes.min(8)).fold(ones, |value, n| {
                let byte = devices.test.as_ref().and_then(|test| test.byte(at.wrapping_add(n.into())));
                let shift = 8 * u32::from(n);
                byte.map_or(value, |byte| value & !(0xff << shift) | u64::from(byte.get()) << shift)
            }),
        }
    }

    /// A store there.
    pub(crate) fn device_write(&self, index: usize, at: u64, len_bytes: u8, value: u64) {
        if let Some(line) = self.lines.get(index).filter(|line| line.apic_page.get() == at & !0xfff) {
            let effect = line.change(|apic, now| apic.mmio_write((at & 0xfff) as u16, len_bytes, value as u32, now));
            return self.carry_out(effect, index);
        }
        let mut devices = self.devices.borrow_mut();
        match at & !0xfff {
            ioapic::ADDRESS => {
                devices.io_apic.write(at & 0xfff, value as u32, &mut |message| self.deliver(message, None));
            }
            _ => {
                for (n, byte) in (0..u64::from(len_bytes.min(8))).zip(value.to_le_bytes()) {
                    if let Some(cell) = devices.test.as_ref().and_then(|test| test.byte(at.wrapping_add(n))) {
                        cell.set(byte);
                    }
                }
            }
        }
    }
}
