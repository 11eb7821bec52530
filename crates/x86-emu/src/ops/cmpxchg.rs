//! CMPXCHG8B and CMPXCHG16B.
//!
//! Source: SDM 2A 3.2, CMPXCHG8B/CMPXCHG16B.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use iced_x86::Code;
use softvirt_ept::Operation;
use x86_state::{Gpr, Gva, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Cmpxchg8b_m64 => cmpxchg8b,
        Code::Cmpxchg16b_m128 => cmpxchg16b,
        _ => return None,
    };
    Some(handler)
}

const RAX: u8 = Gpr::Rax as u8;
const RBX: u8 = Gpr::Rbx as u8;
const RCX: u8 = Gpr::Rcx as u8;
const RDX: u8 = Gpr::Rdx as u8;

/// ZF alone changes.
fn set_zero<B: Bus>(exec: &mut Exec<'_, B>, equal: bool) {
    let state = &mut *exec.state;
    let zero = if equal { Rflags::ZF } else { Rflags::empty() };
    state.flags.put(&mut state.cpu.rflags, Rflags::ZF, zero);
}

fn cmpxchg8b<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let pair = |exec: &Exec<'_, B>, high, low| u64::from(exec.gpr::<u32>(high)) << 32 | u64::from(exec.gpr::<u32>(low));
    let expected = pair(exec, RDX, RAX);
    let new = pair(exec, RCX, RBX);
    let (found, _) = exec.modify(insn, 0, |old: u64| if old == expected { new } else { old })?;
    if found != expected {
        exec.set_gpr(RAX, found as u32);
        exec.set_gpr(RDX, (found >> 32) as u32);
    }
    set_zero(exec, found == expected);
    Ok(())
}

/// Memory that is not aligned to 16 bytes is #GP. It lies within one page, so that both halves are writable or none is.
fn cmpxchg16b<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let offset = exec.offset(&insn.memory);
    let linear = exec.linear(insn.memory.segment, offset, 16, true)?;
    if linear.0 % 16 != 0 {
        return Err(exec.gp());
    }
    let access = exec.data(Operation::Write);
    let upper = Gva(linear.0.wrapping_add(8));
    let found: [u64; 2] = [exec.read_linear(linear, access)?, exec.read_linear(upper, access)?];
    let equal = found == [exec.gpr::<u64>(RAX), exec.gpr::<u64>(RDX)];
    let [low, high] = if equal { [exec.gpr(RBX), exec.gpr(RCX)] } else { found };
    exec.write_linear(linear, low, access)?;
    exec.write_linear(upper, high, access)?;
    if !equal {
        exec.set_gpr(RAX, low);
        exec.set_gpr(RDX, high);
    }
    set_zero(exec, equal);
    Ok(())
}
