//! What holds for every instruction, state and setting of the controls.

use crate::world::{Memory, OPERAND, World, memory, on_both};
use proptest::prelude::*;
use vmx_model::intercept::{Hot, Row};
use vmx_model::{Control as C, ControlVector, Controls, Field, Verdict, intercept};
use x86_state::{
    AccessRights, Cr0, Cr4, Efer, Gpr, Instruction, MemoryOperand, Msr, Op, OpClass, Operand, Rflags, SegmentRegister,
    Size,
};

/// A stream of words (splitmix64).
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }

    /// A word with few bits, many bits or none.
    fn bits(&mut self) -> u64 {
        match self.next() % 4 {
            0 => 0,
            1 => self.next() & self.next() & self.next(),
            2 => self.next() | self.next() | self.next(),
            _ => self.next(),
        }
    }

    fn register(&mut self) -> Gpr {
        self.pick(&Gpr::ALL)
    }

    fn msr(&mut self) -> Msr {
        let base = self.pick(&[0, 0x800, 0x1f00, 0xc000_0000, 0xc000_1f00, 0x3f00]);
        let named =
            [Msr::TSC, Msr::SPEC_CTRL, Msr::TSC_DEADLINE, Msr::BIOS_UPDT_TRIG, Msr::EFER, Msr(0x808), Msr(0x80b)];
        if self.next() % 2 == 0 { self.pick(&named) } else { Msr(base + self.next() as u32 % 0x200) }
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn op(&mut self, class: OpClass) -> Op {
        use OpClass as O;
        let register = self.register();
        match class {
            O::Cpuid => Op::Cpuid,
            O::Getsec => Op::Getsec,
            O::Hlt => Op::Hlt,
            O::Invd => Op::Invd,
            O::Wbinvd => Op::Wbinvd,
            O::Wbnoinvd => Op::Wbnoinvd,
            O::Pause => Op::Pause,
            O::Rsm => Op::Rsm,
            O::Iret => Op::Iret,
            O::Monitor => Op::Monitor,
            O::Mwait => Op::Mwait { armed: self.flag(), extensions: self.next() as u32 },
            O::Umonitor => Op::Umonitor,
            O::Umwait => Op::Umwait { register },
            O::Tpause => Op::Tpause { register },
            O::Rdtsc => Op::Rdtsc,
            O::Rdtscp => Op::Rdtscp,
            O::Rdpid => Op::Rdpid,
            O::Rdpmc => Op::Rdpmc,
            O::Rdrand => Op::Rdrand { register },
            O::Rdseed => Op::Rdseed { register },
            O::MovToCr => Op::MovToCr { number: self.pick(&[0, 2, 3, 4, 8]), source: register, value: self.bits() },
            O::MovFromCr => Op::MovFromCr { number: self.pick(&[0, 2, 3, 4, 8]), destination: register },
            O::Clts => Op::Clts,
            O::Lmsw => Op::Lmsw { source: self.next() as u16 },
            O::Smsw => Op::Smsw,
            O::MovToDr => Op::MovToDr { number: self.next() as u8 & 7, source: register },
            O::MovFromDr => Op::MovFromDr { number: self.next() as u8 & 7, destination: register },
            O::Io => Op::Io {
                port: self.next() as u16,
                size_bytes: self.pick(&[1, 2, 4]),
                input: self.flag(),
                immediate: self.flag(),
            },
            O::StringIo => Op::StringIo {
                port: self.bits() as u16,
                size_bytes: self.pick(&[1, 2, 4]),
                input: self.flag(),
                repeated: self.flag(),
            },
            O::Rdmsr => Op::Rdmsr { msr: self.msr() },
            O::Wrmsr => Op::Wrmsr { msr: self.msr(), value: self.bits() },
            O::Wrmsrns => Op::Wrmsrns { msr: self.msr(), value: self.bits() },
            O::Rdmsrlist => Op::Rdmsrlist,
            O::Wrmsrlist => Op::Wrmsrlist,
            O::Urdmsr => Op::Urdmsr { msr: self.msr() },
            O::Uwrmsr => Op::Uwrmsr { msr: self.msr(), value: self.bits() },
            O::Xsetbv => Op::Xsetbv,
            O::Xsaves => Op::Xsaves { components: self.bits() },
            O::Xrstors => Op::Xrstors { components: self.bits() },
            O::Lgdt => Op::Lgdt,
            O::Lidt => Op::Lidt,
            O::Sgdt => Op::Sgdt,
            O::Sidt => Op::Sidt,
            O::Lldt => Op::Lldt,
            O::Ltr => Op::Ltr,
            O::Sldt => Op::Sldt,
            O::Str => Op::Str,
            O::Invlpg => Op::Invlpg,
            O::Invpcid => Op::Invpcid { register },
            O::Encls => Op::Encls { leaf: self.next() as u32 % 70 },
            O::Enclv => Op::Enclv { leaf: self.next() as u32 % 70 },
            O::Pconfig => Op::Pconfig { leaf: self.next() as u32 % 70 },
            O::Loadiwkey => Op::Loadiwkey { first: self.next() as u8, second: self.next() as u8 },
            O::Enqcmd => Op::Enqcmd,
            O::Enqcmds => Op::Enqcmds,
            O::Seamcall => Op::Seamcall,
            O::Tdcall => Op::Tdcall,
            O::Invept => Op::Invept { register },
            O::Invvpid => Op::Invvpid { register },
            O::Vmcall => Op::Vmcall,
            O::Vmclear => Op::Vmclear,
            O::Vmfunc => Op::Vmfunc,
            O::Vmlaunch => Op::Vmlaunch,
            O::Vmptrld => Op::Vmptrld,
            O::Vmptrst => Op::Vmptrst,
            O::Vmread => Op::Vmread { register },
            O::Vmresume => Op::Vmresume,
            O::Vmwrite => Op::Vmwrite { register },
            O::Vmxoff => Op::Vmxoff,
            O::Vmxon => Op::Vmxon,
        }
    }

    fn instruction(&mut self, class: OpClass) -> Instruction {
        const SIZES: [Size; 3] = [Size::Bits16, Size::Bits32, Size::Bits64];
        let operand = match self.next() % 3 {
            0 => Operand::None,
            1 => Operand::Register(self.register()),
            _ => memory(MemoryOperand { displacement: self.bits(), rip_relative: self.flag(), ..OPERAND }),
        };
        let mut instruction = Instruction::new(self.op(class), 1 + self.next() as u8 % 15).with_operand(operand);
        instruction.operand_size = self.pick(&SIZES);
        instruction.address_size = self.pick(&SIZES);
        instruction
    }

    /// Any processor, any VMCS.
    fn world(&mut self) -> World {
        let mut world = World::new(self.flag(), &[]);
        for field in Field::all() {
            world.vmx.vmcs.set(field, self.bits());
        }
        for vector in ControlVector::ALL {
            world.vmx.vmcs.set(vector.field(), self.bits());
        }
        if self.next() % 4 != 0 {
            world.on(C::ACTIVATE_SECONDARY_CONTROLS);
            world.on(C::ACTIVATE_TERTIARY_CONTROLS);
        }
        world.vmx.guest.controls = Controls::of(&world.vmx.vmcs);
        world.vmx.guest.virtual_interrupt_recognized = self.flag();
        for register in Gpr::ALL {
            world.cpu.gpr[register] = if self.flag() { self.bits() } else { self.next() & 0x7fff };
        }
        world.cpu.cr0 = Cr0::from_bits_retain(self.bits());
        world.cpu.cr0.set(Cr0::PE, self.next() % 4 != 0);
        world.cpu.cr4 = Cr4::from_bits_retain(self.bits());
        world.cpu.efer = self.pick(&[Efer::empty(), Efer::LMA | Efer::LME]);
        world.cpu.rflags = Rflags::from_bits_retain(self.bits());
        world.cpu.segments[SegmentRegister::Cs].rights = self.pick(&[AccessRights::CODE_64, AccessRights::CODE_32]);
        world.cpl(self.pick(&[0, 0, 0, 3]));
        world.cpu.xss = self.bits();
        world.cpu.in_smm = self.next() % 4 == 0;
        world.memory = Memory::new(self.pick(&[0, 0xff, 0x55]));
        world
    }
}

/// Does a decision look at the field under these controls?
fn is_active(world: &World, field: Field) -> bool {
    let has = |control| world.vmx.guest.controls.has(control);
    let target = |n| has(C::CR3_LOAD_EXITING) && world.vmx.vmcs.get(Field::CR3_TARGET_COUNT) > n;
    match field {
        Field::CR0_GUEST_HOST_MASK | Field::CR4_GUEST_HOST_MASK => true,
        Field::CR0_READ_SHADOW | Field::CR4_READ_SHADOW => true,
        Field::IO_BITMAP_A_ADDRESS | Field::IO_BITMAP_B_ADDRESS => has(C::USE_IO_BITMAPS),
        Field::MSR_BITMAPS_ADDRESS => has(C::USE_MSR_BITMAPS),
        Field::TSC_OFFSET => has(C::USE_TSC_OFFSETTING),
        Field::TSC_MULTIPLIER => has(C::USE_TSC_OFFSETTING) && has(C::USE_TSC_SCALING),
        Field::VIRTUAL_APIC_ADDRESS => has(C::USE_TPR_SHADOW) || has(C::VIRTUALIZE_X2APIC_MODE),
        Field::XSS_EXITING_BITMAP => has(C::ENABLE_XSAVES_XRSTORS),
        Field::ENCLS_EXITING_BITMAP => has(C::ENABLE_ENCLS_EXITING),
        Field::ENCLV_EXITING_BITMAP => has(C::ENABLE_ENCLV_EXITING),
        Field::PCONFIG_EXITING_BITMAP => has(C::ENABLE_PCONFIG),
        Field::CR3_TARGET_COUNT => has(C::CR3_LOAD_EXITING),
        Field::CR3_TARGET_VALUE_0 => target(0),
        Field::CR3_TARGET_VALUE_1 => target(1),
        Field::CR3_TARGET_VALUE_2 => target(2),
        Field::CR3_TARGET_VALUE_3 => target(3),
        Field::VMREAD_BITMAP_ADDRESS | Field::VMWRITE_BITMAP_ADDRESS => has(C::VMCS_SHADOWING),
        Field::SPEC_CTRL_MASK | Field::SPEC_CTRL_SHADOW => has(C::VIRTUALIZE_SPEC_CTRL),
        Field::GUEST_DEADLINE_SHADOW => has(C::VIRTUALIZE_APIC_TIMER),
        _ => false,
    }
}

fn decide(world: &World, instruction: &Instruction) -> Verdict {
    intercept::decide(&world.vmx, &world.cpu, &world.memory, instruction)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_hot_is_normal(seed: u64) {
        let mut words = Words(seed);
        let world = words.world();
        let hot = Hot::of(&world.vmx.guest.controls, &world.vmx.vmcs);
        for &class in OpClass::ALL {
            let instruction = words.instruction(class);
            let verdict = decide(&world, &instruction);
            if hot.contains(class) {
                prop_assert_eq!(verdict, Verdict::Normal, "{:?}", instruction);
            }
        }
    }

    /// Fields that no active control reads, bits of shadows where the mask is 0, and vectors that are not activated.
    #[test]
    fn no_decision_depends_on_what_the_controls_disable(seed: u64) {
        let mut words = Words(seed);
        let world = words.world();
        let mut other = world.clone();
        for field in Field::all().filter(|&field| !is_active(&world, field)) {
            other.vmx.vmcs.update(field, |_| words.bits());
        }
        for (mask, shadow) in [
            (Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW),
            (Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW),
        ] {
            let unmasked = !world.vmx.vmcs.get(mask);
            other.vmx.vmcs.update(shadow, |bits| bits ^ words.next() & unmasked);
        }
        for vector in ControlVector::ALL {
            let active = vector.activated_by().is_none_or(|control| world.vmx.guest.controls.has(control));
            let bits = if active { world.vmx.vmcs.get(vector.field()) } else { words.next() };
            other.vmx.vmcs.set(vector.field(), bits);
        }
        other.vmx.guest.controls = Controls::of(&other.vmx.vmcs);
        prop_assert_eq!(other.vmx.guest.controls, world.vmx.guest.controls);
        for &class in OpClass::ALL {
            let instruction = words.instruction(class);
            prop_assert_eq!(decide(&world, &instruction), decide(&other, &instruction), "{:?}", instruction);
        }
    }

    /// An exit has the reason, the length and the kind of information of its row, and memory stays as it is.
    #[test]
    fn exits_are_those_of_their_rows(seed: u64) {
        let mut words = Words(seed);
        let world = words.world();
        for &class in OpClass::ALL {
            let instruction = words.instruction(class);
            if let Verdict::Exit(exit) = decide(&world, &instruction) {
                let row = Row::of(class);
                prop_assert_eq!(Some(exit.reason), row.reason);
                prop_assert_eq!(exit.instruction_len_bytes, Some(instruction.len_bytes));
                prop_assert_eq!(exit.instruction_information.is_some(), row.information.table().is_some());
                prop_assert!(exit.event.is_none() && exit.delivering.is_none() && exit.physical.is_none());
            }
        }
        prop_assert!(world.memory.bytes.borrow().is_empty());
    }
}

/// The set is not empty, and every control and every field of a row takes its instruction out of it.
#[test]
fn every_control_of_a_row_cools_it() {
    for row in Row::TABLE {
        on_both(&[], |world| {
            if let Some(control) = row.enabled_by {
                world.on(control);
            }
            let hot = |world: &World| Hot::of(&world.vmx.guest.controls, &world.vmx.vmcs).contains(row.class);
            // "enable ENCLV exiting" and the like are no reason to look twice.
            assert_eq!(hot(world), !row.always, "{}", row.class.mnemonic());
            for &control in row.controls {
                let mut with = world.clone();
                with.on(control);
                assert!(!hot(&with), "{} {control:?}", row.class.mnemonic());
            }
            for &field in row.fields {
                let mut with = world.clone();
                with.set(field, 1);
                assert!(!hot(&with), "{} {field:?}", row.class.mnemonic());
            }
        });
    }
}

/// B-13: whoever emulates an instruction asks again, and no intercept of the hypervisor is passed over.
#[test]
fn b_13_emulated_instructions_meet_every_intercept() {
    use OpClass::*;
    let intercepted = [
        Io, StringIo, Rdmsr, Wrmsr, Lgdt, Lidt, Sgdt, Sidt, Lldt, Ltr, Sldt, Str, MovToDr, MovFromDr, Hlt, Invlpg,
        Rdtsc, Rdpmc, Monitor, Mwait, Wbinvd, Rdrand, Rdseed,
    ];
    let mut words = Words(13);
    for _ in 0..100 {
        let mut world = World::new(true, &[]);
        for control in C::all() {
            world.on(control);
        }
        world.cpu.gpr[Gpr::Rcx] = 1;
        for class in intercepted {
            let instruction = words.instruction(class);
            let verdict = decide(&world, &instruction);
            assert!(matches!(verdict, Verdict::Exit(_)), "{instruction:?}: {verdict:?}");
        }
    }
}
