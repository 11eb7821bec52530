//! What does one processor reach? RAM first, then devices, its local APIC, and what waits for it.

use crate::board::{Board, Line};
use crate::ram::Ram;
use crate::reset::shown;
use softvirt_lapic::LvtEntry;
use std::cell::Cell;
use std::rc::Rc;
use vmx_model::event::Pending;
use x86_emu::Bus;
use x86_emu::bus::Taken;
use x86_state::{Hpa, Msr, MsrFile, PhysMemory};

/// One processor's view of the machine.
///
/// RAM comes first: a local APIC whose registers are moved over RAM is not seen there.
pub struct CpuBus {
    ram: Rc<Ram>,
    line: Rc<Line>,
    board: Rc<Board>,
    index: usize,
}

impl CpuBus {
    /// The bus of processor `index`, which has this line.
    pub(crate) fn new(ram: Rc<Ram>, board: Rc<Board>, line: Rc<Line>, index: usize) -> Self {
        Self { ram, line, board, index }
    }

    /// What is not wholly in low RAM.
    #[cold]
    #[inline(never)]
    fn read_elsewhere<const LEN: usize>(&self, at: u64) -> u64 {
        let at = shown(at);
        if let Some(cells) = self.ram.cells::<LEN>(at).or_else(|| self.ram.high_cells::<LEN>(at)) {
            return cells.iter().rev().fold(0, |value, cell| value << 8 | u64::from(cell.get()));
        }
        if self.ram.byte(at).is_none() && self.ram.byte(at.wrapping_add(LEN as u64 - 1)).is_none() {
            return self.board.device_read(self.index, at, LEN as u8);
        }
        // Across an end of RAM.
        (0..LEN as u64).rev().fold(0, |value, n| {
            let byte = self.ram.byte(at.wrapping_add(n)).map_or(0xff, |cell| cell.get());
            value << 8 | u64::from(byte)
        })
    }

    #[cold]
    #[inline(never)]
    fn write_elsewhere<const LEN: usize>(&self, at: u64, value: u64) {
        if self.ram.byte(at).is_none() && self.ram.byte(at.wrapping_add(LEN as u64 - 1)).is_none() {
            return self.board.device_write(self.index, at, LEN as u8, value);
        }
        for (n, byte) in (0..LEN as u64).zip(value.to_le_bytes()) {
            if let Some(cell) = self.ram.byte(at.wrapping_add(n)) {
                cell.set(byte);
            }
        }
    }
}

macro_rules! sizes {
    ($($read:ident $write:ident $word:ty;)*) => {$(
        #[inline(always)]
        fn $read(&self, address: Hpa) -> $word {
            const LEN: usize = size_of::<$word>();
            match self.ram.cells::<LEN>(address.0) {
                Some(cells) => <$word>::from_le_bytes(std::array::from_fn(|n| cells[n].get())),
                None => self.read_elsewhere::<LEN>(address.0) as $word,
            }
        }

        #[inline(always)]
        fn $write(&self, address: Hpa, value: $word) {
            const LEN: usize = size_of::<$word>();
            match self.ram.cells::<LEN>(address.0) {
                Some(cells) => {
                    for (cell, byte) in cells.iter().zip(value.to_le_bytes()) {
                        cell.set(byte);
                    }
                }
                None => self.write_elsewhere::<LEN>(address.0, value.into()),
            }
        }
    )*};
}

impl PhysMemory for CpuBus {
    sizes! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
        read_u64 write_u64 u64;
    }

    #[inline(always)]
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        // Processors take turns: nobody comes between.
        match self.read_u32(address) {
            found if found == current => {
                self.write_u32(address, new);
                Ok(found)
            }
            found => Err(found),
        }
    }

    #[inline(always)]
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        match self.read_u64(address) {
            found if found == current => {
                self.write_u64(address, new);
                Ok(found)
            }
            found => Err(found),
        }
    }
}

impl MsrFile for CpuBus {
    fn read(&self, msr: Msr) -> Option<u64> {
        let line = &*self.line;
        match msr {
            Msr::TSC_DEADLINE => Some(line.change(|apic, now| apic.read_tsc_deadline(now))),
            msr if msr.is_x2apic() => line.change(|apic, now| apic.read_msr(msr, now)).ok(),
            _ => None,
        }
    }

    fn write(&self, msr: Msr, value: u64) -> bool {
        let line = &*self.line;
        match msr {
            Msr::TSC_DEADLINE => line.change(|apic, now| apic.write_tsc_deadline(value, now)),
            Msr::APIC_BASE => return line.change(|apic, _| apic.write_apic_base(value)).is_ok(),
            msr if msr.is_x2apic() => match line.change(|apic, now| apic.write_msr(msr, value, now)) {
                Ok(effect) => self.board.carry_out(effect, self.index),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }
}

impl Bus for CpuBus {
    fn port_read(&self, port: u16, size_bytes: u8) -> u32 {
        self.board.port_read(port, size_bytes)
    }

    fn port_write(&self, port: u16, size_bytes: u8, value: u32) {
        self.board.port_write(port, size_bytes, value);
    }

    #[inline(always)]
    fn ram_pages(&self) -> usize {
        (self.ram.low_bytes() >> 12) as usize
    }

    #[inline(always)]
    fn ram(&self) -> &[Cell<u8>] {
        let [low, _] = self.ram.parts();
        low
    }

    fn pending(&self) -> Pending {
        self.line.pending.get()
    }

    #[inline(always)]
    fn attention(&self) -> bool {
        self.line.attention.get()
    }

    fn acknowledge_interrupt(&self) -> u8 {
        let line = &*self.line;
        let external = line.apic.borrow().pending().is_none() && line.apic.borrow().ext_int();
        if !external {
            return line.change(|apic, _| apic.acknowledge());
        }
        let vector = self.board.devices.borrow_mut().pics.acknowledge();
        line.change(|apic, _| apic.acknowledge_ext_int());
        self.board.drive_intr();
        vector
    }

    fn taken(&self, event: Taken) {
        let line = &*self.line;
        match event {
            Taken::Nmi => line.take_nmi(),
            Taken::Smi => line.change(|apic, _| apic.latches.smi = false),
            Taken::InitExit => line.change(|apic, _| apic.latches.init = false),
            Taken::Init => line.change(|apic, _| apic.init()),
            Taken::Sipi => line.change(|apic, _| apic.latches.start_up = None),
        }
    }

    fn task_priority(&self) -> u8 {
        self.line.apic.borrow().cr8() as u8
    }

    fn set_task_priority(&self, priority: u8) {
        self.line.change(|apic, _| apic.set_cr8(priority.into()));
    }

    #[inline(always)]
    fn tsc_of_next_event(&self) -> Option<u64> {
        Some(self.line.next.get())
    }

    #[inline(always)]
    fn now(&self, tsc: u64) -> u64 {
        self.line.tell(tsc)
    }

    fn tsc_moved(&self, by: u64) {
        self.line.adjust_by(by);
    }

    fn performance_interrupt(&self) {
        self.line.change(|apic, _| apic.local_interrupt(LvtEntry::Performance));
    }

    fn apic_id(&self) -> u32 {
        self.index as u32
    }

    fn processors(&self) -> u32 {
        self.board.lines.len() as u32
    }
}
