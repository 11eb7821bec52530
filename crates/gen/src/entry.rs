//! How do bytes become a VM entry?

use arbitrary::{Arbitrary, Result, Unstructured};
use vmx_model::builder::{build, supports};
use vmx_model::rules::{GuestKind, RuleId};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryState, Field, round_to_valid};
use x86_state::{CpuProfile, profiles};

/// How far from valid a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// It enters.
    Valid,
    /// This rule is broken, and perhaps what it implies.
    OneRule(RuleId),
    /// It entered before this many bits were flipped.
    BitsAway(u8),
}

/// A generated VM entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryCase {
    /// The state, with its processor in it.
    pub state: EntryState,
    /// How far from valid it is.
    pub dial: Dial,
}

impl EntryCase {
    /// Makes a case from any bytes; the same bytes make the same case. Bytes that run out count as zeros.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut source = Unstructured::new(bytes);
        // Unstructured answers with zeros when it runs dry; only its collections report an error, and none are asked for here.
        Self::arbitrary(&mut source)
            .unwrap_or_else(|_| Self { state: build(GuestKind::Long64, &profiles::MAX), dial: Dial::Valid })
    }
}

impl<'a> Arbitrary<'a> for EntryCase {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        match u.arbitrary::<u8>()? % 4 {
            0 => {
                let mut state = arbitrary_state(u)?;
                let valid = round_to_valid(&mut state).is_ok();
                debug_assert!(valid, "every state can be rounded to a valid one");
                Ok(Self { state, dial: Dial::Valid })
            }
            1 => {
                let rules = RuleId::all();
                let choice = usize::from(u.arbitrary::<u16>()?) % vmx_model::rules::RULE_COUNT;
                let rule = rules.clone().nth(choice).unwrap_or(RuleId::FIRST);
                // A rule's `breaks` is defined from its base on a processor with everything.
                let mut state = build(rule.row().base, &profiles::MAX);
                (rule.row().breaks)(&mut state);
                Ok(Self { state, dial: Dial::OneRule(rule) })
            }
            _ => {
                let mut state = arbitrary_state(u)?;
                let _ = round_to_valid(&mut state);
                let flips = u.arbitrary::<u8>()? % 16;
                for _ in 0..flips {
                    flip(&mut state, u)?;
                }
                Ok(Self { state, dial: Dial::BitsAway(flips) })
            }
        }
    }
}

fn flip(state: &mut EntryState, u: &mut Unstructured<'_>) -> Result<()> {
    let place = usize::from(u.arbitrary::<u8>()?);
    let bit = u.arbitrary::<u8>()? % 64;
    match place {
        0..Field::COUNT => {
            if let Some(field) = Field::from_index(place) {
                state.vmcs.update(field, |value| value ^ 1 << (u32::from(bit) % field.row().width.bits()));
            }
        }
        _ if place % 2 == 0 => state.cpu[place / 2 % CpuInput::COUNT] ^= 1 << bit,
        // Most of the VMX state is yes or no: bit 0 decides.
        _ => state.vmx[place / 2 % VmxInput::COUNT] ^= 1 << if bit < 48 { 0 } else { bit },
    }
    Ok(())
}

/// One of the processors; every third time the one with everything, which has most to get wrong.
fn arbitrary_profile(u: &mut Unstructured<'_>) -> Result<&'static CpuProfile> {
    let choice = usize::from(u.arbitrary::<u8>()?);
    Ok(if choice % 3 == 0 { &profiles::MAX } else { profiles::ALL[choice / 3 % profiles::ALL.len()] })
}

/// Turns controls on that the processor offers, and chooses an event to inject: features meet rules only where they are used.
fn use_features(state: &mut EntryState, u: &mut Unstructured<'_>) -> Result<()> {
    let controls = Control::TABLE.len();
    for _ in 0..u.arbitrary::<u8>()? % 32 {
        let choice = usize::from(u.arbitrary::<u8>()?) % controls;
        if let Some(control) = Control::all().nth(choice).filter(|&control| state.can_set(control)) {
            state.on(control);
        }
    }
    if u.arbitrary::<u8>()? % 2 == 0 {
        let vector = u64::from(u.arbitrary::<u8>()? % 40);
        let kind = u64::from(u.arbitrary::<u8>()? % 8);
        let error_code = u64::from(u.arbitrary::<u8>()? % 4 == 0);
        state.set(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31 | error_code << 11 | kind << 8 | vector);
        state.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, u64::from(u.arbitrary::<u8>()? % 17));
    }
    if u.arbitrary::<u8>()? % 8 == 0 {
        let count = u64::from(u.arbitrary::<u8>()? % 4);
        state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, count);
        state.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, 0xa000);
        for entry in 0..count {
            let msr = MSRS[usize::from(u.arbitrary::<u8>()?) % MSRS.len()];
            state.memory.set(0xa000 + 16 * entry, u64::from(msr));
            state.memory.set(0xa008 + 16 * entry, interesting(u)?);
        }
    }
    Ok(())
}

/// MSRs worth loading: ordinary ones, and one for each reason to refuse.
const MSRS: [u32; 14] = [
    0x277,       // IA32_PAT
    0xc000_0080, // IA32_EFER
    0xc000_0082, // IA32_LSTAR
    0xc000_0102, // IA32_KERNEL_GS_BASE
    0x10,        // IA32_TIME_STAMP_COUNTER
    0x1d9,       // IA32_DEBUGCTL
    0x38f,       // IA32_PERF_GLOBAL_CTRL
    0xc000_0100, // IA32_FS_BASE: refused
    0xc000_0101, // IA32_GS_BASE: refused
    0x808,       // an x2APIC register: refused
    0x9b,        // IA32_SMM_MONITOR_CTL: only in SMM
    0x79,        // IA32_BIOS_UPDT_TRIG: model-specific
    0x480,       // IA32_VMX_BASIC: read-only
    0x1234_5678, // none
];

/// Any state at all: a builder's with fields overwritten, or every field from the source. Nothing about it is valid, but values that matter
/// (all zeros, all ones, one bit, a canonical address, a page) are more frequent than chance would have them.
///
/// # Errors
/// None in practice: fixed-size values are zero when the source runs dry.
pub fn arbitrary_state(u: &mut Unstructured<'_>) -> Result<EntryState> {
    let profile = arbitrary_profile(u)?;
    let kind = GuestKind::ALL[usize::from(u.arbitrary::<u8>()?) % GuestKind::ALL.len()];
    let kind = if supports(kind, profile) { kind } else { GuestKind::Protected32 };
    let mut state = build(kind, profile);
    use_features(&mut state, u)?;
    let changes = match u.arbitrary::<u8>()? {
        255 => {
            for field in Field::all() {
                state.set(field, interesting(u)?);
            }
            0
        }
        count => usize::from(count) % 16,
    };
    for _ in 0..changes {
        let place = usize::from(u.arbitrary::<u8>()?);
        let value = interesting(u)?;
        match place {
            0..Field::COUNT => {
                if let Some(field) = Field::from_index(place) {
                    state.set(field, value);
                }
            }
            _ if place % 3 == 0 => state.cpu[place % CpuInput::COUNT] = value,
            _ if place % 3 == 1 => state.vmx[place % VmxInput::COUNT] = value & 3,
            _ => {
                // Words near the places that builders and rules use, so that pointers meet memory.
                let page = u64::from(u.arbitrary::<u8>()? % 16);
                let word = u64::from(u.arbitrary::<u8>()?);
                state.memory.set(page << 12 | word << 3, value);
            }
        }
    }
    Ok(state)
}

pub(crate) fn interesting(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? % 10 {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << (u.arbitrary::<u8>()? % 64),
        3 => !(1 << (u.arbitrary::<u8>()? % 64)),
        4 => u64::from(u.arbitrary::<u8>()?),
        5 => u64::from(u.arbitrary::<u16>()?),
        6 => u64::from(u.arbitrary::<u8>()?) << 12,
        7 => 0xffff_8000_0000_0000 | u64::from(u.arbitrary::<u32>()?),
        8 => u64::from(u.arbitrary::<u32>()?),
        _ => u.arbitrary()?,
    })
}
