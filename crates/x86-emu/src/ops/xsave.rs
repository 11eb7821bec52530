//! The XSAVE feature set: XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS.
//!
//! All that an instruction writes is probed first, and all that it loads is checked before any of it takes effect: each of them is done
//! wholly or not at all, which is more than the manual promises.
//!
//! Source: SDM 1 13.7 to 13.13 (rev 077); SDM 2C 5.3, XRSTOR; XRSTORS; XSAVE; XSAVEC; XSAVEOPT; XSAVES.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::float::MXCSR_RESET;
use crate::insn::{Handler, Insn};
use crate::state::State;
use crate::x87::X87;
use crate::xsave::{self, Place};
use crate::xsave::{AVX_STATE, CET_S_STATE, CET_U_STATE, COMPACTED, HEADER, PKRU_STATE, SSE_STATE, X87_STATE};
use iced_x86::Code;
use softvirt_ept::Operation;
use vmx_model::insn::restrictions::msr_context;
use x86_state::msr::{self, MsrAnswer};
use x86_state::{Cr0, Cr4, Exception, Gva, Msr, Op};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Xsave_mem => |exec, insn| save(exec, insn, Form::Standard, false),
        Code::Xsave64_mem => |exec, insn| save(exec, insn, Form::Standard, true),
        Code::Xsaveopt_mem => |exec, insn| save(exec, insn, Form::Optimized, false),
        Code::Xsaveopt64_mem => |exec, insn| save(exec, insn, Form::Optimized, true),
        Code::Xsavec_mem => |exec, insn| save(exec, insn, Form::Compacted, false),
        Code::Xsavec64_mem => |exec, insn| save(exec, insn, Form::Compacted, true),
        Code::Xsaves_mem => |exec, insn| save(exec, insn, Form::Supervisor, false),
        Code::Xsaves64_mem => |exec, insn| save(exec, insn, Form::Supervisor, true),
        Code::Xrstor_mem => |exec, insn| restore(exec, insn, false, false),
        Code::Xrstor64_mem => |exec, insn| restore(exec, insn, false, true),
        Code::Xrstors_mem => |exec, insn| restore(exec, insn, true, false),
        Code::Xrstors64_mem => |exec, insn| restore(exec, insn, true, true),
        _ => return None,
    };
    Some(handler)
}

/// XSAVE, XSAVEOPT, XSAVEC, XSAVES.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Standard,
    Optimized,
    Compacted,
    Supervisor,
}

/// The components that may be asked for: XCR0, for XSAVES and XRSTORS with IA32_XSS.
fn enabled<B: Bus>(exec: &Exec<'_, B>, supervisor: bool) -> u64 {
    let user = exec.state.cpu.xcr0.bits() & xsave::user_components(exec.profile);
    let more = if supervisor { exec.state.cpu.xss & xsave::supervisor_components(exec.profile) } else { 0 };
    user | more
}

/// What precedes the look at the area: #UD without CR4.OSXSAVE, the intercept, #GP(0) above level 0, #NM with CR0.TS. Gives the
/// components that are enabled, and the requested ones of them.
fn begin<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, supervisor: Option<Op>) -> Result<(u64, u64), Stopped> {
    if !exec.state.cpu.cr4.contains(Cr4::OSXSAVE) {
        return Err(exec.ud());
    }
    if let Some(op) = supervisor {
        exec.sensitive(insn, op)?;
        if exec.state.cpu.cpl() != 0 {
            return Err(exec.gp());
        }
    }
    if exec.state.cpu.cr0.contains(Cr0::TS) {
        return Err(exec.fault(Exception::NM));
    }
    let enabled = enabled(exec, supervisor.is_some());
    Ok((enabled, enabled & exec.edx_eax()))
}

/// The area's linear address.
fn area<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, len_bytes: u64, write: bool) -> Result<Gva, Stopped> {
    let offset = exec.offset(&insn.memory);
    exec.area(insn.memory.segment, offset, len_bytes, 64, write)
}

fn save<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, form: Form, wide: bool) -> Result<(), Stopped> {
    let op = (form == Form::Supervisor).then_some(Op::Xsaves { components: exec.edx_eax() });
    let (_, requested) = begin(exec, insn, op)?;
    let compacted = matches!(form, Form::Compacted | Form::Supervisor);
    let area = area(exec, insn, xsave::area_bytes(exec.profile, requested, compacted), true)?;
    let in_use = requested & if compacted { exec.state.in_use_with_mxcsr() } else { exec.state.in_use() };
    let saved = if form == Form::Standard { requested } else { in_use };
    let profile = exec.profile;
    let places = || xsave::places(profile, requested, compacted.then_some(requested));
    let keeps_mxcsr = if compacted { saved & SSE_STATE != 0 } else { requested & (SSE_STATE | AVX_STATE) != 0 };

    if requested & (X87_STATE | SSE_STATE) != 0 {
        exec.probe(area, HEADER, Operation::Write)?;
    }
    exec.probe(exec.advanced(area, HEADER), 16, Operation::Write)?;
    for Place { offset, len_bytes, .. } in places() {
        exec.probe(exec.advanced(area, offset), len_bytes, Operation::Write)?;
    }

    if saved & X87_STATE != 0 {
        exec.save_x87(area, wide)?;
    }
    if keeps_mxcsr {
        exec.save_mxcsr(area)?;
    }
    if saved & SSE_STATE != 0 {
        exec.save_xmm(area)?;
    }
    for Place { component, offset, len_bytes } in places().filter(|place| place.component & saved != 0) {
        for (word, at) in words(exec.state, component).into_iter().zip((0..len_bytes).step_by(8)) {
            write(exec, area, offset + at, word)?;
        }
    }
    if compacted {
        write(exec, area, HEADER, in_use)?;
        return write(exec, area, HEADER + 8, requested | COMPACTED);
    }
    let old = read(exec, area, HEADER)?;
    write(exec, area, HEADER, old & !requested | in_use)
}

fn write<B: Bus>(exec: &mut Exec<'_, B>, area: Gva, offset: u64, value: u64) -> Result<(), Stopped> {
    exec.write_linear(exec.advanced(area, offset), value, exec.data(Operation::Write))
}

fn read<B: Bus>(exec: &mut Exec<'_, B>, area: Gva, offset: u64) -> Result<u64, Stopped> {
    exec.read_linear(exec.advanced(area, offset), exec.data(Operation::Read))
}

/// An extended component's contents.
fn words(state: &State, component: u64) -> [u64; 3] {
    let cet = &state.cpu.cet;
    let [pl0, pl1, pl2, pl3] = cet.pl_ssp;
    match component {
        PKRU_STATE => [state.cpu.pkru.into(), 0, 0],
        CET_U_STATE => [cet.u_cet, pl3, 0],
        CET_S_STATE => [pl0, pl1, pl2],
        _ => [0; 3],
    }
}

fn set_words(state: &mut State, component: u64, words: [u64; 3]) {
    let cet = &mut state.cpu.cet;
    match component {
        PKRU_STATE => state.cpu.pkru = words[0] as u32,
        CET_U_STATE => [cet.u_cet, cet.pl_ssp[3], _] = words,
        CET_S_STATE => [cet.pl_ssp[0], cet.pl_ssp[1], cet.pl_ssp[2]] = words,
        _ => {}
    }
}

/// #GP(0) if a supervisor component would get what WRMSR refuses, or something where it has nothing.
fn check_words<B: Bus>(exec: &mut Exec<'_, B>, component: u64, words: [u64; 3]) -> Result<(), Stopped> {
    let context = msr_context(&exec.state.vmx, &exec.state.cpu, exec.profile);
    let registers: &[Msr] = match component {
        CET_U_STATE if words[2] == 0 => &[Msr::U_CET, Msr::PL3_SSP],
        CET_S_STATE => &[Msr::PL0_SSP, Msr::PL1_SSP, Msr::PL2_SSP],
        CET_U_STATE => return Err(exec.gp()),
        _ => return Ok(()),
    };
    let refused = registers
        .iter()
        .zip(words)
        .any(|(register, value)| matches!(msr::check_write(*register, value, &context), MsrAnswer::Faults(_)));
    if refused { Err(exec.gp()) } else { Ok(()) }
}

/// XSTATE_BV, and XCOMP_BV if the area is compacted.
fn header<B: Bus>(
    exec: &mut Exec<'_, B>,
    area: Gva,
    enabled: u64,
    supervisor: bool,
) -> Result<(u64, Option<u64>), Stopped> {
    let mut header = [0; 8];
    for (word, at) in header.iter_mut().zip((HEADER..).step_by(8)) {
        *word = read(exec, area, at)?;
    }
    let [present, map, reserved @ ..] = header;
    if map & COMPACTED == 0 {
        // Bytes 23:8 must be 0; the other reserved ones are not looked at.
        return if supervisor || present & !enabled != 0 || map != 0 || reserved[0] != 0 {
            Err(exec.gp())
        } else {
            Ok((present, None))
        };
    }
    let supported = supervisor || xsave::extensions(exec.profile) >> 1 & 1 == 1;
    let wrong = map & !COMPACTED & !enabled != 0 || present & !map != 0 || reserved != [0; 6];
    if !supported || wrong { Err(exec.gp()) } else { Ok((present, Some(map & !COMPACTED))) }
}

fn restore<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, supervisor: bool, wide: bool) -> Result<(), Stopped> {
    let op = supervisor.then_some(Op::Xrstors { components: exec.edx_eax() });
    let (enabled, requested) = begin(exec, insn, op)?;
    let base = area(exec, insn, xsave::EXTENDED, false)?;
    let (present, map) = header(exec, base, enabled, supervisor)?;
    let profile = exec.profile;
    let places = || xsave::places(profile, requested & present, map);
    let len_bytes = places().map(|place| place.offset + place.len_bytes).fold(xsave::EXTENDED, u64::max);
    area(exec, insn, len_bytes, false)?;

    // Everything is loaded and checked first.
    let loads = |component| requested & present & component != 0;
    let asks = |component| requested & component != 0;
    let x87 = match loads(X87_STATE) {
        true => exec.load_x87(base, wide)?,
        false => X87::INITIAL,
    };
    let mut xmm = exec.state.xmm;
    if loads(SSE_STATE) {
        xmm = exec.load_xmm(base)?;
    } else {
        xmm.iter_mut().take(xsave::xmm_registers(&exec.state.cpu)).for_each(|register| *register = 0);
    }
    // The standard form loads MXCSR whether SSE state is in the area or not.
    let mxcsr = match loads(SSE_STATE) || map.is_none() && asks(SSE_STATE | AVX_STATE) {
        true => exec.load_mxcsr(base)?,
        false => MXCSR_RESET,
    };
    exec.check_mxcsr(mxcsr)?;
    let mut extended = [(PKRU_STATE, [0; 3]), (CET_U_STATE, [0; 3]), (CET_S_STATE, [0; 3])];
    for Place { component, offset, len_bytes } in places() {
        let Some((_, words)) = extended.iter_mut().find(|row| row.0 == component) else { continue };
        for (word, at) in words.iter_mut().zip((0..len_bytes).step_by(8)) {
            *word = read(exec, base, offset + at)?;
        }
        check_words(exec, component, *words)?;
    }

    if asks(X87_STATE) {
        exec.state.x87 = x87;
    }
    if asks(SSE_STATE) {
        exec.state.xmm = xmm;
    }
    if asks(SSE_STATE | AVX_STATE) {
        exec.state.mxcsr = mxcsr;
    }
    for (component, words) in extended.into_iter().filter(|row| asks(row.0)) {
        set_words(exec.state, component, words);
        exec.caches.changed();
    }
    Ok(())
}
