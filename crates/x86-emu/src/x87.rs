//! What state does the x87 FPU have? Plain data, which FXSAVE, XSAVE, MMX and a few control instructions move. Its arithmetic is not modelled
//! yet.
//!
//! # Reading
//! CPUID announces the FPU all the same: the bit stands for the state and its control instructions too, and whoever finds it absent finds
//! no FXSAVE and no SSE either. The instructions that compute raise #UD.
//!
//! Source: SDM 1 8.1, x87 FPU Execution Environment (rev 077); 10.5.1.1 and 13.5.1, x87 State; SDM 3A table 9-1.

/// The registers of the x87 FPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct X87 {
    /// The control word.
    pub control: u16,
    /// The status word; TOP is bits `[13:11]`.
    pub status: u16,
    /// Which physical registers are not empty: bit n for Rn. (Valid, zero and special follow from what the register holds.)
    pub occupied: u8,
    /// The last instruction's opcode: bits `[10:0]`.
    pub opcode: u16,
    /// The last instruction's offset.
    pub instruction: u64,
    /// The last instruction's code segment.
    pub instruction_selector: u16,
    /// The last memory operand's offset.
    pub data: u64,
    /// The last memory operand's segment.
    pub data_selector: u16,
    /// R0 to R7, which ST0 to ST7 and MM0 to MM7 are by other names: bits `[79:0]`.
    pub registers: [u128; 8],
}

/// Bits `[79:0]`.
const REGISTER: u128 = (1 << 80) - 1;
/// Exceptions in the status word, masks in the control word.
const EXCEPTIONS: u16 = 0x3f;
/// In the status word: an exception is pending that is not masked (ES), and the busy flag, which repeats it.
const SUMMARY: u16 = 1 << 7 | 1 << 15;

impl X87 {
    /// As FNINIT leaves it, with all registers 0: the initial configuration of the XSAVE feature set.
    pub const INITIAL: Self = Self {
        control: 0x037f,
        status: 0,
        occupied: 0,
        opcode: 0,
        instruction: 0,
        instruction_selector: 0,
        data: 0,
        data_selector: 0,
        registers: [0; 8],
    };

    /// After power-up: all registers hold 0 and are tagged so.
    pub const POWER_UP: Self = Self { control: 0x0040, occupied: 0xff, ..Self::INITIAL };

    /// FNINIT: the registers' contents stay.
    pub fn initialize(&mut self) {
        *self = Self { registers: self.registers, ..Self::INITIAL };
    }

    /// FNCLEX: exceptions, stack fault, summary and busy flags become 0. (C0 to C3 are undefined: they stay.)
    pub fn clear_exceptions(&mut self) {
        self.status &= 0x7f00;
    }

    /// EMMS: all registers are empty, and TOP is 0.
    pub fn empty(&mut self) {
        self.occupied = 0;
        self.status &= !(7 << 11);
    }

    /// An MMX instruction: TOP is 0, and all registers are in use.
    pub fn enter_mmx(&mut self) {
        self.occupied = 0xff;
        self.status &= !(7 << 11);
    }

    /// FLDCW, and what an area has: reserved bits become what they always are, and the summary follows.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & 0x1f3f | 0x0040;
        self.summarize();
    }

    /// Is an exception pending that is not masked?
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.status & !self.control & EXCEPTIONS != 0
    }

    fn summarize(&mut self) {
        self.status &= !SUMMARY;
        if self.is_pending() {
            self.status |= SUMMARY;
        }
    }

    /// The 32 bytes of control state in an FXSAVE area without MXCSR, as quadwords, and ST0 to ST7 as pairs. `wide`: REX.W, with 64-bit
    /// offsets and no selectors. `selectors`: the processor has not deprecated them.
    #[must_use]
    pub fn image(&self, wide: bool, selectors: bool) -> ([u64; 3], [u128; 8]) {
        let pointer = |offset: u64, selector: u16| match wide {
            true => offset,
            false => offset & 0xffff_ffff | if selectors { u64::from(selector) << 32 } else { 0 },
        };
        let words = u64::from(self.control)
            | u64::from(self.status) << 16
            | u64::from(self.occupied) << 32
            | u64::from(self.opcode) << 48;
        let instruction = pointer(self.instruction, self.instruction_selector);
        let data = pointer(self.data, self.data_selector);
        ([words, instruction, data], core::array::from_fn(|n| self.registers[(self.top() + n) & 7]))
    }

    /// From such an area.
    #[must_use]
    pub fn from_image([words, instruction, data]: [u64; 3], stack: [u128; 8], wide: bool, selectors: bool) -> Self {
        let pointer = |bits: u64| match wide {
            true => (bits, 0),
            false => (bits & 0xffff_ffff, if selectors { (bits >> 32) as u16 } else { 0 }),
        };
        let (instruction, instruction_selector) = pointer(instruction);
        let (data, data_selector) = pointer(data);
        let mut state = Self {
            control: 0,
            status: (words >> 16) as u16,
            occupied: (words >> 32) as u8,
            opcode: (words >> 48) as u16 & 0x7ff,
            instruction,
            instruction_selector,
            data,
            data_selector,
            registers: [0; 8],
        };
        let top = state.top();
        state.registers = core::array::from_fn(|n| stack[n.wrapping_sub(top) & 7] & REGISTER);
        state.set_control(words as u16);
        state
    }

    /// TOP: which register is ST0.
    fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }
}
