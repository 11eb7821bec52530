//! How is a VMCS set up in machine code? A table of fields by name, and the few instructions that write it.
//!
//! A row of the table is 16 bytes: the field's encoding, the capability MSR that the value has to agree with (0: none), the value. Rows end
//! with the encoding FFFFFFFFH. The code adjusts controls as every hypervisor does: bits that must be 1 are set, and a wanted bit that may
//! not be 1 is a message and the end.
//!
//! Source: SDM 3C (rev 077) 24.11.2, VMREAD, VMWRITE, and Encodings of VMCS Fields; 31.5.1, Algorithms for Determining VMX Capabilities;
//! SDM 3D A.2 to A.5.

use crate::code::{Assembled, Code};
use crate::layout::{
    self, CODE_32, CODE_64, DATA, DATA_USER, GDT, GDT_LIMIT, IDT, IDT_L2, L2, PAGING, PAGING_32, STACK, STACK_L2, TASK,
    TASK_L2, TSS, TSS_L2, VMCS_ROWS,
};
use iced_x86::code_asm::*;
use std::collections::BTreeMap;
use vmx_model::control::ControlVector;
use vmx_model::{Control, Field};
use x86_state::SegmentRegister::{self, Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// Where the VM-exit handler is, by convention of [`crate::hypervisor`]: written at run time.
const IA32_VMX_BASIC: u32 = 0x480;
/// The highest capability MSR that has a "true" one 12 further on.
const LAST_WITH_TRUE: i32 = 0x484;

/// Which mode L2 begins in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode at level 0, in the identity mapping.
    Long64,
    /// Flat 32-bit protected mode at level 0 with 32-bit paging.
    Protected32,
    /// Compatibility mode at level 0, in the identity mapping.
    Compatibility,
    /// Real-address mode, all segments at 0 but CS, by "unrestricted guest" under EPT.
    Real,
    /// Virtual-8086 mode under 32-bit paging, all segments at 0 but CS.
    Virtual8086,
}

impl Mode {
    /// Bits of the code.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Long64 => 64,
            Self::Protected32 | Self::Compatibility => 32,
            Self::Real | Self::Virtual8086 => 16,
        }
    }

    /// Where the code is. Modes with 16-bit addresses have it below 1 MByte.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::Real | Self::Virtual8086 => REAL_CODE,
            _ => L2,
        }
    }
}

/// Where real-address code of L2 is.
pub const REAL_CODE: u64 = 0x2_0000;

/// Fields and what they are to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmcsTable {
    fields: BTreeMap<Field, u64>,
}

impl VmcsTable {
    /// A VMCS that enters L2 in this mode, and whose exits lead to a 64-bit host with the tables of [`layout`].
    ///
    /// HOST_RIP is not in it: the code writes that itself.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let mut table = Self::default();
        table.host();
        table.controls();
        table.guest(mode);
        table
    }

    /// Sets a field.
    pub fn set(&mut self, field: Field, value: u64) {
        self.fields.insert(field, value);
    }

    /// A field's value; 0 for one that is not set.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        self.fields.get(&field).copied().unwrap_or(0)
    }

    /// Turns a control on, and what activates it.
    pub fn on(&mut self, control: Control) {
        if let Some(activates) = control.vector().activated_by() {
            self.on(activates);
        }
        *self.fields.entry(control.vector().field()).or_insert(0) |= control.mask();
    }

    /// Turns a control off.
    pub fn off(&mut self, control: Control) {
        if let Some(value) = self.fields.get_mut(&control.vector().field()) {
            *value &= !control.mask();
        }
    }

    fn host(&mut self) {
        for (field, value) in [
            (Field::HOST_CS_SELECTOR, CODE_64.into()),
            (Field::HOST_TR_SELECTOR, TASK.into()),
            (Field::HOST_CR0, 0x8001_0031),
            (Field::HOST_CR3, PAGING),
            (Field::HOST_CR4, 0x2020),
            (Field::HOST_FS_BASE, 0),
            (Field::HOST_GS_BASE, 0),
            (Field::HOST_TR_BASE, TSS),
            (Field::HOST_GDTR_BASE, GDT),
            (Field::HOST_IDTR_BASE, IDT),
            (Field::HOST_IA32_SYSENTER_CS, 0),
            (Field::HOST_IA32_SYSENTER_ESP, 0),
            (Field::HOST_IA32_SYSENTER_EIP, 0),
            (Field::HOST_RSP, STACK),
        ] {
            self.set(field, value);
        }
        for field in [
            Field::HOST_ES_SELECTOR,
            Field::HOST_SS_SELECTOR,
            Field::HOST_DS_SELECTOR,
            Field::HOST_FS_SELECTOR,
            Field::HOST_GS_SELECTOR,
        ] {
            self.set(field, DATA.into());
        }
    }

    fn controls(&mut self) {
        for field in [
            Field::PIN_BASED_CONTROLS,
            Field::PRIMARY_PROC_BASED_CONTROLS,
            Field::VM_EXIT_CONTROLS,
            Field::VM_ENTRY_CONTROLS,
            Field::EXCEPTION_BITMAP,
            Field::PAGE_FAULT_ERROR_CODE_MASK,
            Field::PAGE_FAULT_ERROR_CODE_MATCH,
            Field::CR3_TARGET_COUNT,
            Field::VM_EXIT_MSR_STORE_COUNT,
            Field::VM_EXIT_MSR_LOAD_COUNT,
            Field::VM_ENTRY_MSR_LOAD_COUNT,
            Field::VM_ENTRY_INTERRUPTION_INFO,
            Field::CR0_GUEST_HOST_MASK,
            Field::CR4_GUEST_HOST_MASK,
            Field::CR0_READ_SHADOW,
            Field::CR4_READ_SHADOW,
        ] {
            self.set(field, 0);
        }
        self.on(Control::HOST_ADDRESS_SPACE_SIZE);
    }

    fn segment(&mut self, register: SegmentRegister, selector: u16, base: u64, limit: u64, rights: u64) {
        self.set(Field::guest_selector(register), selector.into());
        self.set(Field::guest_base(register), base);
        self.set(Field::guest_limit(register), limit);
        self.set(Field::guest_access_rights(register), rights);
    }

    fn guest(&mut self, mode: Mode) {
        for (field, value) in [
            (Field::VMCS_LINK_POINTER, u64::MAX),
            (Field::GUEST_IA32_DEBUGCTL, 0),
            (Field::GUEST_GDTR_BASE, GDT),
            (Field::GUEST_GDTR_LIMIT, GDT_LIMIT.into()),
            (Field::GUEST_IDTR_BASE, IDT_L2),
            (Field::GUEST_IDTR_LIMIT, 0xfff),
            (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
            (Field::GUEST_ACTIVITY_STATE, 0),
            (Field::GUEST_IA32_SYSENTER_CS, 0),
            (Field::GUEST_IA32_SYSENTER_ESP, 0),
            (Field::GUEST_IA32_SYSENTER_EIP, 0),
            (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
            (Field::GUEST_CR0, 0x8000_0031),
            (Field::GUEST_CR3, PAGING),
            (Field::GUEST_CR4, 0x2020),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_RFLAGS, 2),
            (Field::GUEST_RSP, STACK_L2),
            (Field::GUEST_RIP, L2),
        ] {
            self.set(field, value);
        }
        self.segment(Ldtr, 0, 0, 0, 0x1_0000);
        self.segment(Tr, TASK_L2, TSS_L2, 0x67, 0x8b);
        match mode {
            Mode::Long64 | Mode::Compatibility => {
                self.on(Control::IA32E_MODE_GUEST);
                let (selector, rights) = if mode == Mode::Long64 { (CODE_64, 0xa09b) } else { (CODE_32, 0xc09b) };
                self.flat(selector, rights);
            }
            Mode::Protected32 => {
                self.flat(CODE_32, 0xc09b);
                self.set(Field::GUEST_CR3, PAGING_32);
                self.set(Field::GUEST_CR4, 0x2010);
            }
            Mode::Real => {
                self.on(Control::UNRESTRICTED_GUEST);
                self.ept();
                self.set(Field::GUEST_CR0, 0x30);
                self.set(Field::GUEST_CR4, 0x2000);
                self.sixteen_bits(0x93, 0x9b);
                self.set(Field::GUEST_IDTR_BASE, 0);
                self.set(Field::GUEST_IDTR_LIMIT, 0x3ff);
            }
            Mode::Virtual8086 => {
                self.set(Field::GUEST_CR3, PAGING_32);
                self.set(Field::GUEST_CR4, 0x2010);
                self.set(Field::GUEST_RFLAGS, 1 << 17 | 2);
                self.sixteen_bits(0xf3, 0xf3);
            }
        }
    }

    fn flat(&mut self, code: u16, rights: u64) {
        self.segment(Cs, code, 0, 0xffff_ffff, rights);
        for register in [Es, Ss, Ds, Fs, Gs] {
            self.segment(register, DATA, 0, 0xffff_ffff, 0xc093);
        }
    }

    fn sixteen_bits(&mut self, data: u64, code: u64) {
        self.segment(Cs, (REAL_CODE >> 4) as u16, REAL_CODE, 0xffff, code);
        for register in [Es, Ss, Ds, Fs, Gs] {
            self.segment(register, 0, 0, 0xffff, data);
        }
        self.set(Field::GUEST_RIP, 0);
        self.set(Field::GUEST_RSP, 0x7000);
    }

    /// Turns EPT on, with [`crate::tables::ept`].
    pub fn ept(&mut self) {
        self.on(Control::ENABLE_EPT);
        self.set(Field::EPT_POINTER, crate::tables::EPT_POINTER);
    }

    /// Makes L2 begin at level 3.
    pub fn user(&mut self) {
        self.segment(Cs, layout::CODE_64_USER, 0, 0xffff_ffff, 0xa0fb);
        for register in [Es, Ss, Ds, Fs, Gs] {
            self.segment(register, DATA_USER, 0, 0xffff_ffff, 0xc0f3);
        }
    }

    /// The table, to stand at [`VMCS_ROWS`]. Controls come first: fields that go with a control that the processor lacks do not exist.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (others, controls): (Vec<_>, Vec<_>) = self.fields.iter().partition(|(field, _)| capability(**field) == 0);
        for (field, value) in controls.into_iter().chain(others) {
            bytes.extend(field.encoding().0.to_le_bytes());
            bytes.extend(capability(*field).to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0xff; 4]);
        bytes
    }
}

/// The MSR with the allowed settings of a vector of 32 controls, in the format of A.2: low half must be 1, high half may be 1.
fn capability(field: Field) -> u32 {
    let vectors = [
        (ControlVector::Pin, 0x481),
        (ControlVector::Proc, 0x482),
        (ControlVector::Exit, 0x483),
        (ControlVector::Entry, 0x484),
        (ControlVector::Proc2, 0x48b),
    ];
    vectors.iter().find(|(vector, _)| vector.field() == field).map_or(0, |(_, msr)| *msr)
}

impl Code {
    /// VMREAD of a field to RAX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn read_field(&mut self, field: Field) -> Assembled {
        self.mov(eax, field.encoding().0)?;
        self.vmread(rax, rax)
    }

    /// VMWRITE of RAX to a field. Changes RDX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn write_field(&mut self, field: Field) -> Assembled {
        self.mov(edx, field.encoding().0)?;
        self.vmwrite(rdx, rax)
    }

    /// VMWRITE of a constant to a field. Changes RAX and RDX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn set_field(&mut self, field: Field, value: u64) -> Assembled {
        self.mov(rax, value)?;
        self.write_field(field)
    }

    /// Turns bits of a field on and off. Changes RAX and RDX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn change_field(&mut self, field: Field, off: u64, on: u64) -> Assembled {
        self.read_field(field)?;
        self.mov(rdx, !off)?;
        self.and(rax, rdx)?;
        self.mov(rdx, on)?;
        self.or(rax, rdx)?;
        self.write_field(field)
    }

    /// Writes the table at [`VMCS_ROWS`] to the current VMCS; jumps to `failed` if a VMWRITE fails. Changes most registers.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn write_table(&mut self, failed: CodeLabel) -> Assembled {
        let [mut next, mut write, mut adjusted, mut possible, mut done] = [0; 5].map(|_| self.create_label());
        self.mov(ebx, VMCS_ROWS as u32)?;
        self.place(&mut next)?;
        self.mov(edi, dword_ptr(rbx))?;
        self.cmp(edi, -1)?;
        self.je(done)?;
        self.mov(rax, qword_ptr(rbx + 8))?;
        self.mov(ecx, dword_ptr(rbx + 4))?;
        self.test(ecx, ecx)?;
        self.jz(write)?;
        // The "true" capabilities, if IA32_VMX_BASIC[55] says that there are any.
        self.mov(esi, eax)?;
        self.cmp(ecx, LAST_WITH_TRUE)?;
        self.ja(adjusted)?;
        self.mov(r8d, ecx)?;
        self.mov(ecx, IA32_VMX_BASIC)?;
        self.rdmsr()?;
        self.mov(ecx, r8d)?;
        self.test(edx, 1 << (55 - 32))?;
        self.jz(adjusted)?;
        self.add(ecx, 12)?;
        self.place(&mut adjusted)?;
        self.rdmsr()?;
        self.or(eax, esi)?;
        self.and(eax, edx)?;
        self.and(edx, esi)?;
        self.cmp(edx, esi)?;
        self.je(possible)?;
        self.mov(ebp, ecx)?;
        self.print("L1: the processor lacks a control of MSR ")?;
        self.mov(eax, ebp)?;
        self.print_hex()?;
        self.print("\n")?;
        self.exit(0x7e)?;
        self.place(&mut possible)?;
        self.place(&mut write)?;
        self.vmwrite(rdi, rax)?;
        self.jbe(failed)?;
        self.add(rbx, 16)?;
        self.jmp(next)?;
        self.place(&mut done)
    }
}
