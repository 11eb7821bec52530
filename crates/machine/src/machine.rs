//! How does the machine run, and how does it end?

use crate::board::{Board, Line, Request};
use crate::bus::CpuBus;
use crate::config::{Config, ConfigError};
use crate::devices::Devices;
use crate::load::{self, LoadError, Loaded, Module};
use crate::ram::Ram;
use crate::schedule::{self, Schedule};
use crate::watch::{Counters, CpuCounters, Output, Watch, Watching};
use softvirt_lapic::{LocalApic, LvtEntry, Now};
use std::fmt::Write;
use std::rc::Rc;
use vmx_model::event::Pending;
use vmx_model::exit::Abort;
use x86_emu::code::CodePages;
use x86_emu::concealed::effective;
use x86_emu::{Processor, Ran, State};
use x86_state::{ActivityState, CpuProfile, Hpa, Interruptibility};

/// Why the machine has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This value was written to the debug-exit port, 0xF4.
    DebugExit(u32),
    /// "Shutdown" was written to port 0x8900.
    Shutdown,
    /// A processor shut down, outside VMX non-root operation: a PC would reset.
    TripleFault {
        /// Which one.
        cpu: usize,
    },
    /// All processors sleep, and nothing will wake one.
    AllAsleep,
    /// The instructions that were allowed are used up.
    Limit,
    /// A VMX abort has stopped a processor for good.
    Aborted {
        /// Which one.
        cpu: usize,
        /// Why.
        abort: Abort,
    },
    /// A processor was to do what is not modelled.
    NotModelled {
        /// Which one.
        cpu: usize,
    },
}

/// One processor and what is around it.
struct Core {
    processor: Processor<CpuBus>,
    bus: CpuBus,
    line: Rc<Line>,
    /// It waits for something; [`Line::changes`] was this when it looked last.
    asleep: Option<u64>,
}

/// A PC.
pub struct Machine {
    profile: Box<CpuProfile>,
    ram: Rc<Ram>,
    board: Rc<Board>,
    cores: Vec<Core>,
    schedule: Schedule,
    /// Whose turn the limit has cut short, and how much of it is left.
    cut_short: Option<(usize, u64)>,
    counters: Counters,
    output: Output,
    /// What has been loaded, for the next boot.
    sources: Vec<Source>,
    pages: CodePages,
}

/// Something that has been loaded.
enum Source {
    Image { bytes: Vec<u8>, command_line: String, modules: Vec<(String, Vec<u8>)> },
    Raw { bytes: Vec<u8>, address: u64 },
}

impl Machine {
    /// A machine after reset; all processors but the first wait for their start-up IPI.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn new(config: &Config<'_>) -> Result<Self, ConfigError> {
        config.check()?;
        let profile = effective(config.profile);
        let ram = Rc::new(Ram::new(config.memory_bytes).ok_or(ConfigError::HostMemory(config.memory_bytes))?);
        crate::acpi::install(&ram, config.cpus);
        crate::reset::install(&ram);
        let pages = CodePages::new((ram.low_bytes() >> 12) as usize);
        let apics = (0..u32::from(config.cpus)).map(|id| local_apic(id, &profile));
        let devices = Devices::new(config.cpus, config.memory_bytes, config.test_device);
        let board = Rc::new(Board::new(apics, devices));
        let cores = board.lines.iter().enumerate().map(|(index, line)| {
            let bus = CpuBus::new(Rc::clone(&ram), Rc::clone(&board), Rc::clone(line), index);
            let seed = config.seed.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut processor = Processor::sharing(&profile, config.retention, seed, pages.clone());
            let cpu = &mut processor.state.cpu;
            cpu.apic_base = line.apic.borrow().base.0;
            if index > 0 {
                cpu.activity = ActivityState::WAIT_FOR_SIPI;
            }
            cpu.smbase = crate::smm::base(index);
            // As firmware leaves it: MTRRs are on, and everything is write-back.
            processor.state.registers.mtrr_def_type = 0x806;
            crate::smm::install(&bus, cpu.smbase);
            Core { processor, bus, line: Rc::clone(line), asleep: None }
        });
        let cores = cores.collect();
        Ok(Self {
            profile: Box::new(profile),
            ram,
            board,
            cores,
            schedule: Schedule::new(config.seed, config.cpus),
            cut_short: None,
            counters: Counters { cpus: vec![CpuCounters::default(); config.cpus.into()], ..Counters::default() },
            output: Output::default(),
            sources: Vec::new(),
            pages,
        })
    }

    /// Loads an image and puts the first processor at its entry: an ELF executable with or without a Multiboot 1 header, an image whose Multiboot
    /// header tells where it goes, or a boot sector. `command_line` is the whole of it: by convention the image's name comes first.
    ///
    /// # Errors
    /// What is wrong with the image, and where. RAM may hold parts of it then.
    pub fn load(&mut self, image: &[u8], command_line: &str, modules: &[Module<'_>]) -> Result<Loaded, LoadError> {
        let Some(core) = self.cores.first_mut() else { return Err(LoadError::Unrecognized) };
        let loaded = load::load(&self.ram, &mut core.processor.state.cpu, image, command_line, modules)?;
        core.processor.caches.changed();
        let modules = modules.iter().map(|module| (module.name.to_owned(), module.bytes.to_vec())).collect();
        self.sources.push(Source::Image { bytes: image.to_vec(), command_line: command_line.to_owned(), modules });
        Ok(loaded)
    }

    /// Loads everything again, as after a reset, over what is in RAM.
    fn boot(&mut self) -> Result<(), LoadError> {
        let sources = std::mem::take(&mut self.sources);
        for source in sources {
            match source {
                Source::Image { bytes, command_line, modules } => {
                    let modules: Vec<Module<'_>> = modules.iter().map(|(name, bytes)| Module { name, bytes }).collect();
                    self.load(&bytes, &command_line, &modules)?;
                }
                Source::Raw { bytes, address } => {
                    self.load_raw(&bytes, address)?;
                }
            }
        }
        for page in 0..self.ram.low_bytes() >> 12 {
            self.pages.written(Hpa(page << 12));
        }
        Ok(())
    }

    /// Loads bytes at an address below 1 MByte and lets the first processor begin there in real-address mode.
    ///
    /// # Errors
    /// They would be outside RAM, or out of reach.
    pub fn load_raw(&mut self, image: &[u8], address: u64) -> Result<Loaded, LoadError> {
        let Some(core) = self.cores.first_mut() else { return Err(LoadError::Unrecognized) };
        let loaded = load::load_raw(&self.ram, &mut core.processor.state.cpu, image, address)?;
        core.processor.caches.changed();
        self.sources.push(Source::Raw { bytes: image.to_vec(), address });
        Ok(loaded)
    }

    /// How many page walks all processors have made: translations that their TLBs did not answer.
    #[must_use]
    pub fn page_walks(&self) -> u64 {
        self.cores.iter().map(|core| core.processor.caches.page_walks()).sum()
    }

    /// Runs until something ends it, for at most so many instructions of all processors together. After [`Ended::Limit`] it may be
    /// called again, and goes on as if nothing had been between.
    pub fn run(&mut self, most_instructions: u64, watch: &mut impl Watch) -> Ended {
        let mut left = most_instructions;
        loop {
            if let Some(request) = self.board.request.take() {
                match request {
                    Request::DebugExit(value) => return Ended::DebugExit(value),
                    Request::Shutdown => return Ended::Shutdown,
                    // It has been loaded before, and fits again.
                    Request::Boot if self.boot().is_err() => return Ended::AllAsleep,
                    Request::Boot => {}
                }
            }
            if left == 0 {
                return Ended::Limit;
            }
            let (index, length) = match self.cut_short.take() {
                Some(turn) => turn,
                None => {
                    let clocks = self.cores.iter().map(|core| core.ready_at(&self.profile));
                    let Some((index, clock)) = schedule::next(clocks) else { return Ended::AllAsleep };
                    self.begin_turn(index, clock);
                    (index, self.schedule.turn())
                }
            };
            let (instructions, ended) = self.turn(index, length, left, watch);
            self.output.collect(&self.board, watch);
            if let Some(ended) = ended {
                return ended;
            }
            // A turn in which no time passes counts too, so that nothing goes on for ever.
            left = left.saturating_sub(instructions.max(1));
        }
    }

    /// A processor's turn begins at this clock: what it has slept is over.
    fn begin_turn(&mut self, index: usize, clock: u64) {
        let Some(Core { processor, line, .. }) = self.cores.get_mut(index) else { return };
        let slept = clock.saturating_sub(line.clock.get());
        processor.state.tsc = line.tell(processor.state.tsc.wrapping_add(slept));
        settle_start_up(line, &processor.state);
        line.nmi_blocked.set(processor.state.cpu.interruptibility.contains(Interruptibility::NMI));
        if let Some(counters) = self.counters.cpus.get_mut(index) {
            counters.asleep += slept;
        }
    }

    /// The turn itself, of so much time, or as much of it as is left of the limit. Gives how many instructions
    /// that were.
    fn turn(&mut self, index: usize, length: u64, left: u64, watch: &mut impl Watch) -> (u64, Option<Ended>) {
        let Some(core) = self.cores.get_mut(index) else { return (0, None) };
        let Core { processor, bus, line, asleep } = core;
        self.board.running.set(index);
        let allowed = length.min(left);
        line.turn_ends.set(line.clock.get().saturating_add(allowed));
        line.refresh();
        let begun = line.clock.get();
        let extra = processor.state.extra_time;
        let mut observer =
            Watching { cpu: index, watch, counters: &mut self.counters, board: &self.board, output: &mut self.output };
        // The bus ends the turn, by time. Events take none, and count here: this is for a guest that has nothing but events.
        let budget = allowed.saturating_mul(2).saturating_add(64);
        let mut rounds = 0;
        let ran = loop {
            let ran = processor.run_observed(bus, &self.profile, budget, &mut observer);
            *asleep = match ran {
                Ran::Asleep | Ran::Shutdown => Some(line.changes.get()),
                _ => None,
            };
            processor.state.tsc = line.tell(processor.state.tsc);
            line.refresh();
            // An event of the timer, or an SMI, does not end the turn.
            let goes_on = matches!(ran, Ran::Due)
                && line.clock.get() < line.turn_ends.get()
                && self.board.request.get().is_none();
            rounds += 1;
            if !goes_on || rounds > allowed {
                break ran;
            }
        };
        let passed = line.clock.get().saturating_sub(begun);
        // What takes more than an instruction's time is no instruction.
        let instructions = passed.saturating_sub(processor.state.extra_time.wrapping_sub(extra));
        if let Some(counters) = self.counters.cpus.get_mut(index) {
            counters.instructions += instructions;
        }
        let ended = match ran {
            Ran::Aborted(abort) => Some(Ended::Aborted { cpu: index, abort }),
            Ran::NotModelled => Some(Ended::NotModelled { cpu: index }),
            // A guest may be entered in that state; its own triple fault is a VM exit.
            Ran::Shutdown if !processor.state.vmx.in_guest() => Some(Ended::TripleFault { cpu: index }),
            _ => None,
        };
        if asleep.is_none() && (allowed..length).contains(&passed) {
            self.cut_short = Some((index, length - passed));
        }
        (instructions, ended)
    }

    /// What the serial port has sent so far; of more than 4 MByte the end.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.output.serial
    }

    /// What has been written to the debug console, port 0xE9; of more than 4 MByte the end.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.output.console
    }

    /// The processors' states.
    pub fn cpus(&self) -> impl Iterator<Item = &State> {
        self.cores.iter().map(|core| &core.processor.state)
    }

    /// A processor's view of memory and devices, to look at what is there. Reading a device's register may change it.
    #[must_use]
    pub fn bus(&self, cpu: usize) -> Option<&CpuBus> {
        self.cores.get(cpu).map(|core| &core.bus)
    }

    /// Which processor it is.
    #[must_use]
    pub fn profile(&self) -> &CpuProfile {
        &self.profile
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A number that stands for the whole state: processors, local APICs, devices, RAM. Two machines with the same state have the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        for core in &self.cores {
            let Line { apic, clock, adjust, .. } = &*core.line;
            digest.debug(&(&core.processor.state, &apic.borrow()));
            digest.debug(&(clock.get(), adjust.get(), core.line.nmi_latched(), core.asleep.is_some()));
        }
        let devices = self.board.devices.borrow();
        digest.debug(&(
            &devices.pics,
            &devices.io_apic,
            &devices.uart,
            &devices.fw_cfg,
            &devices.reset,
            devices.shutdown,
        ));
        if let Some(test) = &devices.test {
            test.digest(|value| digest.add(value));
        }
        digest.debug(&(&self.schedule, self.cut_short));
        for part in self.ram.parts() {
            for (n, word) in (0..).zip(part.chunks(8)) {
                let word = word.iter().fold(0, |word, cell| word << 8 | u64::from(cell.get()));
                if word != 0 {
                    digest.add(n);
                    digest.add(word);
                }
            }
        }
        digest.0
    }

    /// Bytes of RAM as they are now; all ones where there is none.
    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) {
        for (at, byte) in (address..).zip(bytes) {
            *byte = self.ram.byte(at).map_or(0xff, |cell| cell.get());
        }
    }
}

/// A local APIC as firmware leaves it: the bootstrap processor's is in virtual wire mode, LINT0 the 8259As' and LINT1 the NMI's (SDM 3A 10.5.1 and
/// MultiProcessor Specification 1.4, 3.6.2.2, Virtual Wire Mode); the others are as after reset.
fn local_apic(id: u32, profile: &CpuProfile) -> LocalApic {
    let mut apic = LocalApic::new(softvirt_lapic::Config::intel(id).with_profile(profile));
    if id == 0 {
        for (offset, value) in [(0xf0, 0x1ff), (0x350, 0x700), (0x360, 0x400)] {
            // These send nothing.
            let _ = apic.mmio_write(offset, 4, value, Now::default());
        }
    }
    apic
}

/// An INIT for a processor that waits for its start-up IPI already leaves it there; in VMX non-root operation it stays pending. A start-up IPI
/// for a processor that does not wait for one, and is not about to because of an INIT, is lost (SDM 3A 8.4.3, MP Initialization
/// Protocol Algorithm for MP Systems).
fn settle_start_up(line: &Line, state: &State) {
    let Pending { init, sipi, .. } = line.pending.get();
    let waits = state.cpu.activity == ActivityState::WAIT_FOR_SIPI;
    if init && waits && !state.vmx.in_guest() {
        line.change(|apic, _| apic.init());
    } else if sipi.is_some() && !init && !waits {
        line.change(|apic, _| apic.latches.start_up = None);
    }
}

impl Core {
    /// The clock at which it runs next: at once, or when something wakes it; `None`: nothing will.
    fn ready_at(&self, profile: &CpuProfile) -> Option<u64> {
        let line = &*self.line;
        let clock = line.clock.get();
        match self.asleep {
            None => Some(clock),
            Some(seen) if seen != line.changes.get() => Some(clock.max(line.stirred_at.get())),
            Some(_) => {
                let preemption = self
                    .processor
                    .wakes_at(profile)
                    .map(|tsc| clock.saturating_add(tsc.saturating_sub(self.processor.state.tsc)));
                [line.timer().filter(|_| self.timer_wakes()), preemption]
                    .into_iter()
                    .flatten()
                    .min()
                    .map(|at| at.max(clock))
            }
        }
    }

    /// Does the timer's interrupt tell the processor anything new? One that is requested already, and was of no use, does not.
    fn timer_wakes(&self) -> bool {
        let apic = self.line.apic.borrow();
        !apic.irr.contains(apic.lvt(LvtEntry::Timer).vector())
    }
}

/// FNV-1a over words, with a multiplier of 64 bits.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 ^= self.0 >> 29;
    }

    /// Everything that the value's `Debug` shows.
    fn debug(&mut self, value: &impl std::fmt::Debug) {
        // Writing to this never fails.
        let _ = write!(self, "{value:?}");
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|byte| self.add(byte.into()));
        Ok(())
    }
}
