//! What a reset by software leads to: the shutdown code's pointer, or the image anew, with RAM as it was.

use crate::support::{CODE, HLT, bus, config, guest};
use softvirt_machine::Ended;
use x86_state::{Hpa, PhysMemory};

/// Counts its boots in memory, and writes the count to the debug exit once it is 2; else goes on with `code`.
fn counts_boots(code: &[u8]) -> Vec<u8> {
    let mut image = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xff, 0x06, 0x00, 0x20, // inc word [0x2000]
        0xa1, 0x00, 0x20, // mov ax, [0x2000]
        0x83, 0xf8, 0x02, // cmp ax, 2
        0x75, 0x02, // jne +2
        0xe7, 0xf4, // out 0xf4, ax
    ];
    image.extend(code);
    image.extend(HLT);
    image
}

#[test]
fn every_way_to_reset_boots_the_image_again_and_keeps_ram() {
    for (name, code) in [
        ("fast init", &[0xb0, 3, 0xe6, 0x92][..]),
        ("keyboard controller", &[0xb0, 0xfe, 0xe6, 0x64]),
        ("its output port", &[0xb0, 0xd1, 0xe6, 0x64, 0xb0, 0xfe, 0xe6, 0x60]),
        ("reset control", &[0xba, 0xf9, 0x0c, 0xb0, 4, 0xee]),
        // JMP FFFF:0, the reset vector below 1 MByte.
        ("the vector", &[0xea, 0, 0, 0xff, 0xff]),
    ] {
        let mut machine = guest(&config(2), &[(CODE, counts_boots(code))]);
        assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(2), "{name}");
    }
}

#[test]
fn the_shutdown_code_0a_goes_through_the_pointer_at_40_67() {
    const RESUMES: u16 = 0x3000;
    let mut code = vec![0xb0, 0x0f, 0xe6, 0x70, 0xb0, 0x0a, 0xe6, 0x71]; // CMOS 0FH: 0AH
    code.extend([0xc7, 0x06, 0x67, 0x04]); // MOV WORD [0x467], RESUMES
    code.extend(RESUMES.to_le_bytes());
    code.extend([0xb0, 3, 0xe6, 0x92]);
    let mut machine = guest(&config(1), &[(CODE, counts_boots(&code))]);
    // MOV AX, 7; OUT 0xF4, AX
    bus(&machine).write_bytes(Hpa(RESUMES.into()), &[0xb8, 7, 0, 0xe7, 0xf4]);
    assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(7));
}

#[test]
fn an_address_of_pci_configuration_space_is_no_reset() {
    // MOV DX, 0xCF8; MOV EAX, 0x80000400; OUT DX, EAX; IN EAX, DX; OUT 0xF4, EAX
    let code = [0xba, 0xf8, 0x0c, 0x66, 0xb8, 0, 4, 0, 0x80, 0x66, 0xef, 0x66, 0xed, 0x66, 0xe7, 0xf4];
    let mut machine = guest(&config(1), &[(CODE, code.to_vec())]);
    assert_eq!(machine.run(100, &mut ()), Ended::DebugExit(u32::MAX));
}
