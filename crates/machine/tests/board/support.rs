//! Small machines, and machine code for them in real-address mode.

use softvirt_machine::{Config, CpuBus, Ended, Machine};

/// Where guests begin.
pub(crate) const CODE: u64 = 0x7c00;
/// Where other processors begin: page 8.
pub(crate) const AP_CODE: u64 = 0x8000;
/// Where the handler of interrupt [`VECTOR`] is.
pub(crate) const HANDLER: u64 = 0x8100;
/// The interrupt that guests use.
pub(crate) const VECTOR: u8 = 0x40;
/// HLT.
pub(crate) const HLT: [u8; 1] = [0xf4];

/// So many processors, 2 MByte of RAM.
pub(crate) fn config(cpus: u8) -> Config<'static> {
    Config { cpus, memory_bytes: 2 << 20, ..Config::default() }
}

/// One processor, 2 MByte of RAM, nothing loaded.
pub(crate) fn machine() -> Machine {
    Machine::new(&config(1)).unwrap()
}

/// What the first processor reaches.
pub(crate) fn bus(machine: &Machine) -> &CpuBus {
    machine.bus(0).unwrap()
}

/// A machine with these parts in memory, about to begin at [`CODE`].
pub(crate) fn guest(config: &Config<'_>, parts: &[(u64, Vec<u8>)]) -> Machine {
    let mut machine = Machine::new(config).unwrap();
    for (at, bytes) in parts {
        machine.load_raw(bytes, *at).unwrap();
    }
    let [(at, bytes), ..] = parts else { panic!("no code") };
    machine.load_raw(bytes, *at).unwrap();
    machine
}

/// Runs one processor's code at [`CODE`].
pub(crate) fn run(code: &[&[u8]]) -> (Machine, Ended) {
    let mut machine = guest(&config(1), &[(CODE, code.concat())]);
    let ended = machine.run(100_000, &mut ());
    (machine, ended)
}

/// MOV ECX, msr; MOV EDX, high; MOV EAX, low; WRMSR.
pub(crate) fn wrmsr(msr: u32, value: u64) -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend(msr.to_le_bytes());
    code.extend([0x66, 0xba]);
    code.extend(((value >> 32) as u32).to_le_bytes());
    code.extend([0x66, 0xb8]);
    code.extend((value as u32).to_le_bytes());
    code.extend([0x0f, 0x30]);
    code
}

/// MOV ECX, msr; RDMSR.
pub(crate) fn rdmsr(msr: u32) -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend(msr.to_le_bytes());
    code.extend([0x0f, 0x32]);
    code
}

/// MOV EAX, value; OUT port, EAX.
pub(crate) fn out32(port: u8, value: u32) -> Vec<u8> {
    let mut code = vec![0x66, 0xb8];
    code.extend(value.to_le_bytes());
    code.extend([0x66, 0xe7, port]);
    code
}

/// MOV DX, port; MOV AL, value; OUT DX, AL.
pub(crate) fn out8(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xba, low, high, 0xb0, value, 0xee]
}

/// Segments 0, a stack below `stack`, interrupt [`VECTOR`] to [`HANDLER`], x2APIC mode, enabled by software. Interrupts are off.
pub(crate) fn prologue(stack: u16) -> Vec<u8> {
    let [low, high] = stack.to_le_bytes();
    let at = 4 * u16::from(VECTOR);
    [
        // CLI; XOR AX, AX; MOV DS, AX; MOV SS, AX; MOV SP, stack.
        vec![0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, low, high],
        // MOV WORD [at], HANDLER; MOV WORD [at + 2], 0.
        vec![0xc7, 0x06, at as u8, (at >> 8) as u8, HANDLER as u8, (HANDLER >> 8) as u8],
        vec![0xc7, 0x06, at as u8 + 2, (at >> 8) as u8, 0, 0],
        // IA32_APIC_BASE.EXTD.
        rdmsr(0x1b),
        vec![0x66, 0x0d, 0, 4, 0, 0, 0x0f, 0x30],
        wrmsr(0x80f, 0x1ff),
    ]
    .concat()
}

/// STI; HLT; JMP to the STI.
pub(crate) const WAIT: [u8; 4] = [0xfb, 0xf4, 0xeb, 0xfc];
/// OUT 0xE9, AL.
pub(crate) const PRINT: [u8; 2] = [0xe6, 0xe9];
