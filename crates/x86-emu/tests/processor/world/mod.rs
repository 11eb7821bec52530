//! A machine for tests: 2 MByte of RAM, ports that are logged, interrupts that the test raises, one processor.
//!
//! # Memory
//! Everything above [`TABLES`] belongs to this module: page tables, GDT, IDT, TSS. Tests use what is below.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use softvirt_ept::Retention;
use std::cell::{Cell, RefCell};
use std::sync::LazyLock;
use vmx_model::event::Pending;
use x86_emu::bus::Taken;
use x86_emu::concealed::effective;
use x86_emu::run::{Processor, Ran};
use x86_emu::topology::Topology;
use x86_emu::{Bus, Stop};
use x86_state::{
    AccessRights, Cpu, CpuProfile, Cr0, Cr4, DescriptorTable, Efer, Exception, Gpr, Hpa, Msr, MsrFile, PhysMemory,
    Rflags, Segment, SegmentRegister, Selector, profiles,
};

/// Size of RAM.
pub const RAM_BYTES: u64 = 0x20_0000;
/// From here on memory belongs to this module.
pub const TABLES: u64 = 0x1f_0000;
/// PML4, PDPT, PD and PT of the identity mapping, one page each. Each 4-KByte page has an entry of its own, writable and for users.
pub const PML4: u64 = TABLES;
/// The page table: entry `n` maps page `n`.
pub const PT: u64 = TABLES + 0x3000;
/// The page directory of 32-bit paging, with [`PT_32`].
pub const PD_32: u64 = TABLES + 0x4000;
/// The page table of 32-bit paging: entry `n` maps page `n` below 4 MByte.
pub const PT_32: u64 = TABLES + 0x5000;
/// The GDT, with the selectors below.
pub const GDT: u64 = TABLES + 0x8000;
/// The IDT: 256 entries of up to 16 bytes. Empty (not present) at first.
pub const IDT: u64 = TABLES + 0x9000;
/// The TSS, of the kind that the mode has.
pub const TSS: u64 = TABLES + 0xa000;
/// The top of the stack.
pub const STACK: u64 = 0x8_0000;
/// The top of the stack that the TSS has for level 0.
pub const STACK_0: u64 = 0x9_0000;
/// Where [`Machine`]s begin to execute.
pub const CODE: u64 = 0x1_0000;

/// Code of level 0: 32-bit in [`Machine::protected32`], 64-bit in [`Machine::long64`].
pub const CODE_0: u16 = 0x08;
/// Data of level 0.
pub const DATA_0: u16 = 0x10;
/// Code of level 3, as selected there.
pub const CODE_3: u16 = 0x1b;
/// Data of level 3, as selected there.
pub const DATA_3: u16 = 0x23;
/// 16-bit code of level 0.
pub const CODE16_0: u16 = 0x28;
/// 16-bit data of level 0.
pub const DATA16_0: u16 = 0x30;
/// 32-bit code of level 0 (compatibility mode in [`Machine::long64`]).
pub const CODE32_0: u16 = 0x38;
/// Rights of an interrupt gate for level 0, 32-bit or 64-bit.
pub const INTERRUPT_GATE: u8 = 0x8e;
/// The TSS; 16 bytes in [`Machine::long64`].
pub const TASK: u16 = 0x40;

/// The processor that everything runs on: all that is modelled.
pub static PROFILE: LazyLock<CpuProfile> = LazyLock::new(|| effective(&profiles::MAX));

/// What is around the processor.
pub struct World {
    ram: Vec<Cell<u8>>,
    /// Port accesses: port, size in bytes, the value of a write.
    pub ports: RefCell<Vec<(u16, u8, Option<u32>)>>,
    /// What IN gives.
    pub port_value: Cell<u32>,
    /// What waits.
    pub pending: Cell<Pending>,
    /// The vector of the external interrupt that waits.
    pub vector: Cell<u8>,
    /// CR8.
    pub task_priority: Cell<u8>,
    /// Model-specific registers beside those of the processor's state.
    pub msrs: RefCell<Vec<(Msr, u64)>>,
    /// What was taken, in order.
    pub taken: RefCell<Vec<Taken>>,
    /// How many performance-monitoring interrupts there were.
    pub performance_interrupts: Cell<u32>,
    /// By how much software has moved the time-stamp counter.
    pub tsc_moved: Cell<u64>,
    /// The processors of the machine.
    pub topology: Cell<Topology>,
    /// What the processor said of SMM, in order.
    pub smm: RefCell<Vec<bool>>,
    /// The times that accesses beyond RAM were made at.
    pub reached: RefCell<Vec<u64>>,
    time: Cell<u64>,
}

impl World {
    fn new() -> Self {
        Self {
            ram: vec![Cell::new(0); RAM_BYTES as usize],
            ports: RefCell::default(),
            port_value: Cell::new(u32::MAX),
            pending: Cell::default(),
            vector: Cell::new(0),
            task_priority: Cell::new(0),
            msrs: RefCell::default(),
            taken: RefCell::default(),
            performance_interrupts: Cell::default(),
            tsc_moved: Cell::default(),
            topology: Cell::default(),
            smm: RefCell::default(),
            reached: RefCell::default(),
            time: Cell::default(),
        }
    }

    fn update_pending(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.get();
        change(&mut pending);
        self.pending.set(pending);
    }

    /// An external interrupt waits from now on.
    pub fn raise_interrupt(&self, vector: u8) {
        self.vector.set(vector);
        self.update_pending(|pending| pending.external_interrupt = true);
    }

    /// An NMI waits from now on.
    pub fn raise_nmi(&self) {
        self.update_pending(|pending| pending.nmi = true);
    }
}

macro_rules! sizes {
    ($($read:ident $write:ident $word:ty;)*) => {$(
        fn $read(&self, address: Hpa) -> $word {
            if address.0 >= RAM_BYTES {
                self.reached.borrow_mut().push(self.time.get());
            }
            let mut bytes = <$word>::MAX.to_le_bytes();
            for (byte, at) in bytes.iter_mut().zip(address.0..) {
                if let Some(cell) = self.ram.get(at as usize) {
                    *byte = cell.get();
                }
            }
            <$word>::from_le_bytes(bytes)
        }

        fn $write(&self, address: Hpa, value: $word) {
            for (byte, at) in value.to_le_bytes().into_iter().zip(address.0..) {
                if let Some(cell) = self.ram.get(at as usize) {
                    cell.set(byte);
                }
            }
        }
    )*};
}

impl PhysMemory for World {
    sizes! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
        read_u64 write_u64 u64;
    }
}

impl MsrFile for World {
    fn read(&self, msr: Msr) -> Option<u64> {
        self.msrs.borrow().iter().find(|(number, _)| *number == msr).map(|(_, value)| *value)
    }

    fn write(&self, msr: Msr, value: u64) -> bool {
        let mut msrs = self.msrs.borrow_mut();
        let found = msrs.iter_mut().find(|(number, _)| *number == msr);
        found.map(|(_, present)| *present = value).is_some()
    }
}

impl Bus for World {
    fn port_read(&self, port: u16, size_bytes: u8) -> u32 {
        self.ports.borrow_mut().push((port, size_bytes, None));
        self.port_value.get()
    }

    fn port_write(&self, port: u16, size_bytes: u8, value: u32) {
        self.ports.borrow_mut().push((port, size_bytes, Some(value)));
    }

    fn ram_pages(&self) -> usize {
        (RAM_BYTES >> 12) as usize
    }

    fn now(&self, tsc: u64) -> u64 {
        self.time.set(tsc);
        tsc
    }

    fn ram(&self) -> &[Cell<u8>] {
        &self.ram
    }

    fn pending(&self) -> Pending {
        self.pending.get()
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.update_pending(|pending| pending.external_interrupt = false);
        self.vector.get()
    }

    fn taken(&self, event: Taken) {
        self.taken.borrow_mut().push(event);
        self.update_pending(|pending| match event {
            Taken::Nmi => pending.nmi = false,
            Taken::Smi => pending.smi = false,
            Taken::Init | Taken::InitExit => pending.init = false,
            Taken::Sipi => pending.sipi = None,
        });
    }

    fn performance_interrupt(&self) {
        self.performance_interrupts.set(self.performance_interrupts.get() + 1);
    }

    fn tsc_moved(&self, by: u64) {
        self.tsc_moved.set(self.tsc_moved.get().wrapping_add(by));
    }

    fn apic_id(&self) -> u32 {
        self.topology.get().apic_id
    }

    fn processors(&self) -> u32 {
        self.topology.get().processors
    }

    fn smm(&self, active: bool) {
        self.smm.borrow_mut().push(active);
    }

    fn task_priority(&self) -> u8 {
        self.task_priority.get()
    }

    fn set_task_priority(&self, priority: u8) {
        self.task_priority.set(priority);
    }
}

/// A processor in its world.
pub struct Machine {
    /// What is around the processor.
    pub world: World,
    /// The processor.
    pub processor: Box<Processor<World>>,
    /// Which processor it is.
    pub profile: &'static CpuProfile,
}

impl Machine {
    fn new() -> Self {
        let world = World::new();
        let profile = &*PROFILE;
        let processor = Box::new(Processor::new(profile, &world, Retention::Lazy, 1));
        Self { world, processor, profile }
    }

    /// Real-address mode: all segments at 0 with 64-KByte limits, except CS at [`CODE`] (selector 0x1000, IP 0) and SS at 0x7000 with SP
    /// 0x1000. Interrupts are off, the interrupt-vector table is at 0.
    #[must_use]
    pub fn real() -> Self {
        let mut machine = Self::new();
        let cpu = machine.cpu();
        for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
            cpu.segments[register] = Segment::real(Selector(0), AccessRights::REAL);
        }
        cpu.segments[SegmentRegister::Cs] = Segment::real(Selector((CODE >> 4) as u16), AccessRights::REAL);
        cpu.segments[SegmentRegister::Ss] = Segment::real(Selector(0x700), AccessRights::REAL);
        cpu.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        cpu.gpr[Gpr::Rsp] = 0x1000;
        cpu.rip = 0;
        machine
    }

    /// Flat 32-bit protected mode at level 0 without paging, at [`CODE`].
    #[must_use]
    pub fn protected32() -> Self {
        let mut machine = Self::new();
        machine.descriptors(0x00cf_9b00_0000_ffff, 0x00cf_fb00_0000_ffff);
        machine.set_u64(GDT + u64::from(TASK), descriptor(TSS, 0x67, 0x89));
        machine.set_u32(TSS + 4, STACK_0 as u32);
        machine.set_u32(TSS + 8, DATA_0.into());
        machine.set_u16(TSS + 0x66, 0x68);
        for page in 0..1024 {
            machine.set_u32(PT_32 + 4 * page, (page << 12 | 7) as u32);
        }
        machine.set_u32(PD_32, PT_32 as u32 | 7);
        let cpu = machine.cpu();
        cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
        cpu.cr3 = PD_32;
        machine.flat(AccessRights::CODE_32);
        machine
    }

    /// As [`Machine::protected32`] with 32-bit paging on.
    #[must_use]
    pub fn paged32() -> Self {
        let mut machine = Self::protected32();
        machine.cpu().cr0 |= Cr0::PG | Cr0::WP;
        machine.processor.caches.changed();
        machine
    }

    /// 64-bit mode at level 0, RAM mapped to itself, at [`CODE`].
    #[must_use]
    pub fn long64() -> Self {
        let mut machine = Self::new();
        machine.descriptors(0x00af_9b00_0000_ffff, 0x00af_fb00_0000_ffff);
        machine.set_u64(GDT + u64::from(TASK), descriptor(TSS, 0x67, 0x89));
        machine.set_u64(TSS + 4, STACK_0);
        machine.set_u16(TSS + 0x66, 0x68);
        for level in 0..3 {
            let table = PML4 + 0x1000 * level;
            machine.set_u64(table, (table + 0x1000) | 7);
        }
        for page in 0..512 {
            machine.set_u64(PT + 8 * page, page << 12 | 7);
        }
        let cpu = machine.cpu();
        cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG | Cr0::WP;
        cpu.cr3 = PML4;
        cpu.cr4 = Cr4::PAE | Cr4::OSFXSR;
        cpu.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
        machine.flat(AccessRights::CODE_64);
        machine
    }

    fn descriptors(&mut self, code_0: u64, code_3: u64) {
        let table = [
            0,
            code_0,
            0x00cf_9300_0000_ffff,
            code_3,
            0x00cf_f300_0000_ffff,
            0x0000_9b00_0000_ffff,
            0x0000_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
        ];
        for (at, descriptor) in (GDT..).step_by(8).zip(table) {
            self.set_u64(at, descriptor);
        }
        let cpu = self.cpu();
        cpu.gdtr = DescriptorTable { base: GDT, limit: 0xff };
        cpu.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    }

    fn flat(&mut self, code: AccessRights) {
        let segment = |selector, rights| Segment { selector: Selector(selector), base: 0, limit: u32::MAX, rights };
        let cpu = self.cpu();
        cpu.segments[SegmentRegister::Cs] = segment(CODE_0, code);
        for register in
            [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs]
        {
            cpu.segments[register] = segment(DATA_0, AccessRights::DATA_32);
        }
        cpu.segments[SegmentRegister::Tr] =
            Segment { selector: Selector(TASK), base: TSS, limit: 0x67, rights: AccessRights::TSS_BUSY };
        cpu.segments[SegmentRegister::Ldtr] = Segment::NULL;
        cpu.gpr[Gpr::Rsp] = STACK;
        cpu.rip = CODE;
        self.processor.caches.changed();
    }

    /// Makes a processor for which a change of the tables counts at once.
    pub fn strict(&mut self) {
        let state = self.processor.state.clone();
        *self.processor = Processor::new(self.profile, &self.world, Retention::Strict, 1);
        self.processor.state = state;
    }

    /// Makes the processor run at level 3, flat.
    pub fn enter_user(&mut self) {
        let cpu = self.cpu();
        cpu.segments[SegmentRegister::Cs].selector = Selector(CODE_3);
        cpu.segments[SegmentRegister::Cs].rights.0 |= 3 << 5;
        for register in [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es] {
            cpu.segments[register].selector = Selector(DATA_3);
            cpu.segments[register].rights.0 |= 3 << 5;
        }
        self.processor.caches.changed();
    }

    /// A gate in the IDT, as the mode has them. `rights` is byte 5: 0x8e a 32-bit or 64-bit interrupt gate, 0x8f a trap gate, 0xee for
    /// software of level 3.
    pub fn gate(&mut self, vector: u8, selector: u16, offset: u64, rights: u8) {
        let low = offset & 0xffff | u64::from(selector) << 16 | u64::from(rights) << 40 | (offset >> 16 & 0xffff) << 48;
        if self.cpu().efer.contains(Efer::LMA) {
            self.set_u64(IDT + 16 * u64::from(vector), low);
            self.set_u64(IDT + 16 * u64::from(vector) + 8, offset >> 32);
        } else {
            self.set_u64(IDT + 8 * u64::from(vector), low);
        }
    }

    /// An entry of the interrupt-vector table at 0.
    pub fn vector(&mut self, vector: u8, selector: u16, offset: u16) {
        self.set_u32(4 * u64::from(vector), u32::from(selector) << 16 | u32::from(offset));
    }

    /// Bytes at a physical address, as a device would put them.
    pub fn load(&mut self, address: u64, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(address..) {
            self.world.write_u8(Hpa(at), *byte);
            self.processor.caches.code.written(Hpa(at));
        }
    }

    /// Two bytes at a physical address.
    pub fn set_u16(&mut self, address: u64, value: u16) {
        self.load(address, &value.to_le_bytes());
    }

    /// Four bytes at a physical address.
    pub fn set_u32(&mut self, address: u64, value: u32) {
        self.load(address, &value.to_le_bytes());
    }

    /// Eight bytes at a physical address.
    pub fn set_u64(&mut self, address: u64, value: u64) {
        self.load(address, &value.to_le_bytes());
    }

    /// Two bytes of memory.
    #[must_use]
    pub fn u16(&self, address: u64) -> u16 {
        self.world.read_u16(Hpa(address))
    }

    /// Four bytes of memory.
    #[must_use]
    pub fn u32(&self, address: u64) -> u32 {
        self.world.read_u32(Hpa(address))
    }

    /// Eight bytes of memory.
    #[must_use]
    pub fn u64(&self, address: u64) -> u64 {
        self.world.read_u64(Hpa(address))
    }

    /// The registers. After a change of control registers or privilege: `processor.caches.changed()`.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.processor.state.cpu
    }

    /// A general-purpose register.
    #[must_use]
    pub fn gpr(&self, register: Gpr) -> u64 {
        self.processor.state.cpu.gpr[register]
    }

    /// RFLAGS, settled.
    pub fn rflags(&mut self) -> Rflags {
        let state = &mut self.processor.state;
        state.flags.settle(&mut state.cpu.rflags);
        state.cpu.rflags
    }

    /// Puts these bytes where the processor is and executes one instruction, without delivering anything: `Err` is why it stopped. RIP is
    /// advanced if it completed.
    pub fn attempt(&mut self, code: &[u8]) -> Result<(), Stop> {
        let cs = self.processor.state.cpu.segments[SegmentRegister::Cs].base;
        let at = cs.wrapping_add(self.processor.state.cpu.rip);
        self.load(at, code);
        self.processor.attempt(&self.world, self.profile)
    }

    /// One instruction or event.
    pub fn step(&mut self) -> Ran {
        self.processor.step(&self.world, self.profile)
    }

    /// Up to `budget` instructions.
    pub fn run(&mut self, budget: u64) -> Ran {
        self.processor.run(&self.world, self.profile, budget)
    }

    /// Loads a program where the processor is, and runs it until HLT or for 10,000 instructions.
    pub fn run_program(&mut self, code: &[u8]) -> Ran {
        let cs = self.processor.state.cpu.segments[SegmentRegister::Cs].base;
        self.load(cs.wrapping_add(self.processor.state.cpu.rip), code);
        self.run(10_000)
    }
}

/// A system descriptor with a base below 4 GByte and byte granularity.
#[must_use]
pub fn descriptor(base: u64, limit: u64, rights: u8) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | u64::from(rights) << 40 | (base >> 24 & 0xff) << 56
}

/// The exception that an instruction has raised, with its error code.
///
/// # Panics
/// If it completed, or stopped for another reason.
#[must_use]
pub fn fault(result: Result<(), Stop>) -> (Exception, Option<u32>) {
    match result {
        Err(Stop::Raise(raised)) => (Exception(raised.event.vector), raised.event.error_code),
        other => panic!("no exception: {other:?}"),
    }
}
