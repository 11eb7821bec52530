//! As much of a PC as the benchmark guests need: RAM, ports 0x92, 0xe9 and 0x8900, one processor.

use softvirt_ept::Retention;
use softvirt_guests::bench;
use std::cell::{Cell, RefCell};
use x86_emu::{Bus, Processor, Ran};
use x86_state::{AccessRights, Gpr, Hpa, Msr, MsrFile, PhysMemory, Segment, SegmentRegister, Selector, profiles};

/// What came of a run.
pub(crate) struct Measured {
    /// Instructions and events between the two reports.
    pub(crate) instructions: u64,
    /// Time on a processor between them.
    pub(crate) seconds: f64,
}

struct Pc {
    ram: Vec<Cell<u8>>,
    msrs: RefCell<Vec<(Msr, u64)>>,
    reported: Cell<Option<u8>>,
    time: Cell<Option<f64>>,
}

impl Pc {
    #[inline(always)]
    fn cells<const LEN: usize>(&self, address: Hpa) -> Option<&[Cell<u8>; LEN]> {
        self.ram.get(address.0 as usize..)?.first_chunk()
    }
}

macro_rules! sizes {
    ($($read:ident $write:ident $word:ty;)*) => {$(
        #[inline]
        fn $read(&self, address: Hpa) -> $word {
            match self.cells::<{ size_of::<$word>() }>(address) {
                Some(cells) => <$word>::from_le_bytes(std::array::from_fn(|n| cells[n].get())),
                None => <$word>::MAX,
            }
        }

        #[inline]
        fn $write(&self, address: Hpa, value: $word) {
            if let Some(cells) = self.cells::<{ size_of::<$word>() }>(address) {
                for (cell, byte) in cells.iter().zip(value.to_le_bytes()) {
                    cell.set(byte);
                }
            }
        }
    )*};
}

impl PhysMemory for Pc {
    sizes! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
        read_u64 write_u64 u64;
    }
}

impl MsrFile for Pc {
    fn read(&self, msr: Msr) -> Option<u64> {
        self.msrs.borrow().iter().find(|(number, _)| *number == msr).map(|(_, value)| *value)
    }

    fn write(&self, msr: Msr, value: u64) -> bool {
        let mut msrs = self.msrs.borrow_mut();
        let found = msrs.iter_mut().find(|(number, _)| *number == msr);
        found.map(|(_, present)| *present = value).is_some()
    }
}

impl Bus for Pc {
    fn port_write(&self, port: u16, _size_bytes: u8, value: u32) {
        if port == 0xe9 {
            self.reported.set(Some(value as u8));
            self.time.set(super::on_processor("self"));
        }
    }

    fn ram_pages(&self) -> usize {
        self.ram.len() / 0x1000
    }

    fn ram(&self) -> &[Cell<u8>] {
        &self.ram
    }
}

/// Runs an image.
pub(crate) fn run(image: &[u8]) -> Result<Measured, String> {
    let profile = &profiles::MAX;
    let pc = Pc {
        ram: vec![Cell::new(0); bench::RAM_BYTES as usize],
        msrs: RefCell::new(vec![(Msr::FEATURE_CONTROL, 5)]),
        reported: Cell::new(None),
        time: Cell::new(None),
    };
    pc.write_bytes(Hpa(bench::LOAD_ADDRESS), image);
    let mut processor = Processor::new(profile, &pc, Retention::Lazy, 1);
    let cpu = &mut processor.state.cpu;
    cpu.segments[SegmentRegister::Cs] = Segment::real(Selector(0), AccessRights::REAL);
    cpu.gpr[Gpr::Rdx] = 0;
    cpu.rip = bench::LOAD_ADDRESS;
    let mut instructions = 0;
    let mut until = |byte: u8| -> Result<(u64, f64), String> {
        loop {
            // The count may be wrong by as many as this, which is nothing beside the millions of a loop.
            const AT_ONCE: u64 = 2000;
            let ran = processor.run(&pc, profile, AT_ONCE);
            instructions += AT_ONCE;
            match (pc.reported.take(), ran) {
                (Some(reported), _) if reported == byte => {
                    return Ok((instructions, pc.time.get().unwrap_or(f64::NAN)));
                }
                (None, Ran::Budget) => {}
                (reported, ran) => {
                    let rip = processor.state.cpu.rip;
                    return Err(format!("{ran:?} at {rip:#x}, reported {reported:?}"));
                }
            }
        }
    };
    let start = until(bench::START)?;
    let end = until(bench::END)?;
    Ok(Measured { instructions: end.0 - start.0, seconds: end.1 - start.1 })
}
