//! Which state components does the XSAVE feature set manage here, and where do they lie in an area?
//!
//! x87, SSE and PKRU as user state, CET_U and CET_S as supervisor state: those of them that the profile has and the emulator models. Offsets,
//! sizes and alignments are the profile's, as CPUID leaf 0DH reports them; the sizes of whole areas follow from them.
//!
//! # Readings
//! - The init optimization follows the state itself: XINUSE\[i\] is 0 exactly if component i is in its initial configuration, which is
//!   within what SDM 1 13.6 allows.
//! - There is no modified optimization: XMODIFIED is always all ones.
//!
//! Source: SDM 1 13.1 to 13.6 (rev 077); SDM 2A 3.2, CPUID, leaf 0DH.

use crate::cpuid::NOT_MODELLED;
use crate::float::MXCSR_RESET;
use crate::state::State;
use crate::x87::X87;
use x86_state::{Cpu, CpuMode, CpuProfile, Feature, Xcr0};

/// x87 state: component 0.
pub const X87_STATE: u64 = 1;
/// SSE state: component 1.
pub const SSE_STATE: u64 = 1 << 1;
/// AVX state: component 2. Not modelled; XSAVE looks at its bit.
pub const AVX_STATE: u64 = 1 << 2;
/// PKRU state: component 9.
pub const PKRU_STATE: u64 = 1 << 9;
/// CET_U state: component 11.
pub const CET_U_STATE: u64 = 1 << 11;
/// CET_S state: component 12.
pub const CET_S_STATE: u64 = 1 << 12;

/// In XCOMP_BV: the area has the compacted format.
pub const COMPACTED: u64 = 1 << 63;
/// Where the XSAVE header begins.
pub const HEADER: u64 = 512;
/// Where the extended region begins: size of the legacy region and of the header.
pub const EXTENDED: u64 = 576;
/// No area is longer.
pub const LONGEST: u64 = 0x1000;

/// Extensions of the feature set that are modelled, in CPUID.(EAX=0DH,ECX=1):EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES.
const EXTENSIONS: u32 = 0b1111;

fn models(profile: &CpuProfile, feature: Feature) -> bool {
    profile.has(feature) == Some(true) && !NOT_MODELLED.contains(&feature)
}

/// The user state components: the bits that XCR0 may have.
#[must_use]
pub fn user_components(profile: &CpuProfile) -> u64 {
    let always = Xcr0::X87.union(Xcr0::SSE).bits();
    let Some(leaf) = profile.cpuid(0xd, 0) else { return always };
    let announced = u64::from(leaf.regs[3]) << 32 | u64::from(leaf.regs[0]);
    let pkru = if models(profile, Feature::PKU) { PKRU_STATE } else { 0 };
    always | announced & located(profile, pkru)
}

/// The supervisor state components: the bits that IA32_XSS may have.
#[must_use]
pub fn supervisor_components(profile: &CpuProfile) -> u64 {
    let Some(leaf) = profile.cpuid(0xd, 1) else { return 0 };
    let announced = u64::from(leaf.regs[3]) << 32 | u64::from(leaf.regs[2]);
    let cet = models(profile, Feature::CET_SS) || models(profile, Feature::CET_IBT);
    let cet = if cet { CET_U_STATE | CET_S_STATE } else { 0 };
    if models(profile, Feature::XSAVES) { announced & located(profile, cet) } else { 0 }
}

/// Those components whose place and size the profile tells.
fn located(profile: &CpuProfile, components: u64) -> u64 {
    let place = |n: u32| profile.cpuid(0xd, n).is_some_and(|leaf| leaf.regs[0] != 0 && leaf.regs[0] <= 0x400);
    (2..63).filter(|n| components >> n & 1 == 1 && place(*n)).fold(0, |known, n| known | 1 << n)
}

/// Where an extended component lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its bit.
    pub component: u64,
    /// From the base of the area.
    pub offset: u64,
    /// Its size.
    pub len_bytes: u64,
}

/// The extended components of `components` in an area, from the lowest bit on; `compacted`: in the compacted format with this XCOMP_BV.
/// Components that are not supported have no place.
pub fn places(profile: &CpuProfile, components: u64, compacted: Option<u64>) -> impl Iterator<Item = Place> + '_ {
    let mut next = EXTENDED;
    (2..63).filter_map(move |n: u32| {
        let component = 1 << n;
        if (compacted.unwrap_or(components) | components) & component == 0 {
            return None;
        }
        let leaf = profile.cpuid(0xd, n)?;
        let len_bytes = u64::from(leaf.regs[0]);
        let offset = match compacted {
            None => u64::from(leaf.regs[1]),
            Some(map) if map & component == 0 => return None,
            Some(_) if leaf.regs[2] >> 1 & 1 == 1 => next.next_multiple_of(64),
            Some(_) => next,
        };
        next = offset.saturating_add(len_bytes);
        let fits = next <= LONGEST && offset >= EXTENDED;
        (components & component != 0 && fits).then_some(Place { component, offset, len_bytes })
    })
}

/// The size of an area with these components.
#[must_use]
pub fn area_bytes(profile: &CpuProfile, components: u64, compacted: bool) -> u64 {
    let map = compacted.then_some(components);
    places(profile, components, map).map(|place| place.offset + place.len_bytes).fold(EXTENDED, u64::max)
}

/// CPUID leaf 0DH.
#[must_use]
pub fn leaf(profile: &CpuProfile, cpu: &Cpu, subleaf: u32) -> [u32; 4] {
    if profile.has(Feature::XSAVE) != Some(true) {
        return [0; 4];
    }
    let (user, supervisor) = (user_components(profile), supervisor_components(profile));
    let (enabled, in_xss) = (cpu.xcr0.bits() & user, cpu.xss & supervisor);
    let halves = |bits: u64| (bits as u32, (bits >> 32) as u32);
    match subleaf {
        0 => {
            let (low, high) = halves(user);
            let [now, most] = [enabled, user].map(|components| area_bytes(profile, components, false) as u32);
            [low, now, most, high]
        }
        1 => {
            let (low, high) = halves(supervisor);
            let extensions = extensions(profile);
            // Without XSAVES there is no such area; with XSAVEC alone the size is that for XSAVEC.
            let now = if extensions >> 1 & 5 != 0 { area_bytes(profile, enabled | in_xss, true) as u32 } else { 0 };
            [extensions, now, low, high]
        }
        2..63 if (user | supervisor) >> subleaf & 1 == 1 => match profile.cpuid(0xd, subleaf) {
            // ECX[1:0]: supervisor state, alignment. XFD is not modelled.
            Some(leaf) => [leaf.regs[0], leaf.regs[1], leaf.regs[2] & 3, 0],
            None => [0; 4],
        },
        _ => [0; 4],
    }
}

/// CPUID.(EAX=0DH,ECX=1):EAX.
#[must_use]
pub fn extensions(profile: &CpuProfile) -> u32 {
    profile.cpuid(0xd, 1).map_or(0, |leaf| leaf.regs[0] & EXTENSIONS)
}

/// How many XMM registers there are in this mode.
#[must_use]
pub fn xmm_registers(cpu: &Cpu) -> usize {
    if cpu.mode() == CpuMode::Long64 { 16 } else { 8 }
}

impl State {
    /// XINUSE: which components are not in their initial configuration.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        let cet = &self.cpu.cet;
        let [pl0, pl1, pl2, pl3] = cet.pl_ssp;
        let sse = self.xmm.iter().take(xmm_registers(&self.cpu)).any(|register| *register != 0);
        [
            (X87_STATE, self.x87 != X87::INITIAL),
            (SSE_STATE, sse),
            (PKRU_STATE, self.cpu.pkru != 0),
            (CET_U_STATE, cet.u_cet | pl3 != 0),
            (CET_S_STATE, pl0 | pl1 | pl2 != 0),
        ]
        .iter()
        .fold(0, |in_use, (component, used)| in_use | if *used { *component } else { 0 })
    }

    /// The same for XGETBV, XSAVEC and XSAVES: MXCSR counts as SSE state.
    #[must_use]
    pub fn in_use_with_mxcsr(&self) -> u64 {
        self.in_use() | if self.mxcsr != MXCSR_RESET { SSE_STATE } else { 0 }
    }
}
