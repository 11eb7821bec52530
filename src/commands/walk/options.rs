//! What has the user asked for? The options of `softvirt walk`, and which of them contradict each other.

use super::Second;
use crate::commands::Failure;
use crate::commands::image::{CpuState, Image, Source, address};
use crate::commands::tables::{ept, ept_support, paging_support};
use softvirt::ept::{
    Access, EptControls, Hlat, NotCanonical, Npt, NptControls, Operation, PageModificationLog, Paging, PagingSupport,
    Pdptes, Pointers, Privilege, Reference,
    linear::{CR3_LAM_U48, CR3_LAM_U57, EFER_UAIE},
};
use softvirt::vmx_model::describe::BitList;
use softvirt::x86_state::{CpuProfile, Cr0, Cr4, Efer, Gva, Hpa, PagingMode, Rflags};
use std::cell::Cell;

/// What to walk.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) source: Source,
    /// The processor, which decides about reserved bits: a name that `softvirt cpu` lists [default: 52 address bits, every page size]
    #[arg(long, value_name = "NAME")]
    pub(super) cpu: Option<String>,
    #[command(flatten)]
    registers: Registers,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    ept: EptArgs,
    #[command(flatten)]
    npt: NptArgs,
    /// The guest-virtual address: segment base and offset added, a tag (LAM, upper address ignore) still in it
    #[arg(value_name = "GVA", value_parser = address)]
    pub(super) gva: u64,
}

const EXAMPLES: &str = "\
Examples:
  softvirt walk --mem guest.core 0xffffffff81000000           registers of the first CPU, from QEMU's core
  softvirt walk --mem vmcore --cr3 0x2a0a000 --access write --user 7f0000001000
  softvirt walk --mem guest.raw --cr3 1000 --clear lme,pae --set pse 400000        32-bit paging
  softvirt walk --mem guest.raw --cr3 1000 --set smap,pke --pkru 0xc --access write 400000
  softvirt walk --mem guest.raw --cr3 1000 --set lam-u57 --user 7e00000000400000   a tagged pointer
  softvirt walk --mem host.elf --cr3 0x1000 --eptp 0x10005e 0x400000               EPT with accessed and dirty flags
  softvirt walk --mem host.elf --cr3 0x1000 --eptp 0x10001e --mbec --access fetch --user 400000
  softvirt walk --mem host.elf --cr3 0x1000 --eptp 0x10001e --spptp 0x200000 --access write 400080
  softvirt walk --mem host.elf --cr3 0x1000 --ncr3 0x300000 --gmet --access fetch 400000

A step reads: name, address, entry, its bits in words. Steps of the second dimension are indented under what they were needed for.
The memory is the host's if there is a second dimension, else the guest's. The file is never written: flags that the walk sets go to a
copy, and are shown. Numbers are hexadecimal, except where DECIMAL stands.
Exit codes: 0 the address is translated; 1 the access faults or exits; 2 the input cannot be read, or options contradict each other.";

#[derive(clap::Args)]
#[command(next_help_heading = "The guest's registers")]
struct Registers {
    /// CR3. Without it, CR0, CR3 and CR4 come from the core, if QEMU has written it
    #[arg(long, value_name = "X", value_parser = address)]
    cr3: Option<u64>,
    /// Of which CPU in the core, counted from 0, the registers are
    #[arg(long, value_name = "DECIMAL", conflicts_with = "cr3")]
    vcpu: Option<usize>,
    /// CR0 [default: 0x80050033, or the core's]
    #[arg(long, value_name = "X", value_parser = address)]
    cr0: Option<u64>,
    /// CR4 [default: 0x6a0, or the core's]
    #[arg(long, value_name = "X", value_parser = address)]
    cr4: Option<u64>,
    /// IA32_EFER, which cores do not hold [default: 0xd01, or 0x800 if the core says that the machine is not in long mode]
    #[arg(long, value_name = "X", value_parser = address)]
    efer: Option<u64>,
    /// Sets these bits of CR0, CR3, CR4, EFER and EFLAGS
    #[arg(long, value_name = "BIT,...", value_delimiter = ',', value_enum)]
    set: Vec<Bit>,
    /// Clears these bits, of the same names
    #[arg(long, value_name = "BIT,...", value_delimiter = ',', value_enum, hide_possible_values = true)]
    clear: Vec<Bit>,
    /// PKRU, with CR4.PKE [default: 0, every key allows everything]
    #[arg(long, value_name = "X", value_parser = address)]
    pkru: Option<u64>,
    /// IA32_PKRS, with CR4.PKS [default: 0]
    #[arg(long, value_name = "X", value_parser = address)]
    pkrs: Option<u64>,
    /// Where PAE paging has its PDPTEs: "load" (registers, as MOV CR3 loads and checks them), "memory" (read in the walk, as AMD does), or
    /// four values of the registers, X,X,X,X [default: load; memory under --ncr3]
    #[arg(long, value_name = "WHERE", value_parser = pdptes)]
    pdptes: Option<PdptesFrom>,
}

/// A bit of a register that has a word in the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Bit {
    /// CR0: paging
    Pg,
    /// CR0: write protection for the supervisor
    Wp,
    /// CR4: 4-MByte pages in 32-bit paging
    Pse,
    /// CR4: physical-address extension
    Pae,
    /// CR4: global pages
    Pge,
    /// CR4: 5-level paging
    La57,
    /// CR4: the supervisor does not execute user pages
    Smep,
    /// CR4: the supervisor does not access user pages
    Smap,
    /// CR4: protection keys for user pages
    Pke,
    /// CR4: protection keys for supervisor pages
    Pks,
    /// CR4: shadow stacks
    Cet,
    /// EFER: long mode
    Lme,
    /// EFER: execute-disable
    Nxe,
    /// EFLAGS: suspends SMAP
    Ac,
    /// CR3: bits 62:57 of user pointers are masked
    LamU57,
    /// CR3: bits 62:48 of user pointers are masked
    LamU48,
    /// CR4: bits 62:48 of supervisor pointers are masked, 62:57 with LA57
    LamSup,
    /// EFER: upper address ignore, bits 63:57 of pointers through DS and ES (AMD)
    Uaie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PdptesFrom {
    Load,
    Memory,
    Values([u64; 4]),
}

fn pdptes(text: &str) -> Result<PdptesFrom, String> {
    match text {
        "load" => Ok(PdptesFrom::Load),
        "memory" => Ok(PdptesFrom::Memory),
        _ => {
            let values: Vec<u64> = text.split(',').map(address).collect::<Result<_, _>>()?;
            let values = values.try_into().map_err(|_| "this is neither load nor memory nor four values".to_owned())?;
            Ok(PdptesFrom::Values(values))
        }
    }
}

#[derive(clap::Args)]
#[command(next_help_heading = "The access")]
struct AccessArgs {
    /// What it does
    #[arg(long, value_enum, default_value_t = Kind::Read)]
    access: Kind,
    /// It comes from user mode (CPL 3)
    #[arg(long, conflicts_with = "implicit")]
    user: bool,
    /// The processor makes it itself, to a descriptor table or a TSS: a supervisor access at any CPL, and EFLAGS.AC does not help
    #[arg(long)]
    implicit: bool,
    /// It is a shadow-stack access
    #[arg(long)]
    shadow_stack: bool,
    /// The segment of a data access: through SS an address that is not canonical is #SS, not #GP; AMD's upper address ignore
    /// is for DS and ES [default: ds]
    #[arg(long, value_enum, value_name = "SEGMENT", conflicts_with_all = ["implicit", "shadow_stack"], hide_possible_values = true)]
    segment: Option<Segment>,
    /// Its size; only sub-page permissions ask for it
    #[arg(long, value_name = "DECIMAL", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    bytes: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Reads data
    Read,
    /// Writes data, or reads and writes
    Write,
    /// Fetches an instruction
    Fetch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Segment {
    Ds,
    Es,
    Ss,
    Cs,
    Fs,
    Gs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Intel's second dimension (VM-execution controls)")]
struct EptArgs {
    /// The EPT pointer. Bit 6: accessed and dirty flags; bit 7: supervisor shadow-stack control. Only an address means 4 levels and
    /// neither
    #[arg(long, value_name = "X", value_parser = address, conflicts_with = "ncr3")]
    eptp: Option<u64>,
    /// Mode-based execute control: bit 2 is for supervisor-mode addresses, bit 10 for user-mode ones
    #[arg(long, requires = "eptp")]
    mbec: bool,
    /// EPT paging-write control: bit 58 lets the walk write to a guest table in a read-only page
    #[arg(long, requires = "eptp")]
    paging_write: bool,
    /// Guest-paging verification: with bit 57 every guest table has to allow paging writes
    #[arg(long, requires = "paging_write")]
    verify_guest_paging: bool,
    /// Sub-page write permissions, with this sub-page-permission-table pointer
    #[arg(long, value_name = "X", value_parser = address, requires = "eptp")]
    spptp: Option<u64>,
    /// EPT-violation #VE
    #[arg(long, requires = "eptp")]
    ve: bool,
    /// Page-modification logging, with this PML address
    #[arg(long, value_name = "X", value_parser = address, requires = "eptp")]
    pml: Option<u64>,
    /// The PML index
    #[arg(long, value_name = "DECIMAL", default_value_t = 511, requires = "pml")]
    pml_index: u16,
    /// HLAT paging, with this HLAT pointer
    #[arg(long, value_name = "X", value_parser = address, requires = "eptp")]
    hlatp: Option<u64>,
    /// The HLAT prefix size: 0 for every address, 1 for those with bit 63
    #[arg(long, value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), requires = "hlatp")]
    hlat_prefix: u8,
}

#[derive(clap::Args)]
#[command(next_help_heading = "AMD's second dimension (VMCB)")]
struct NptArgs {
    /// Nested CR3
    #[arg(long, value_name = "X", value_parser = address)]
    ncr3: Option<u64>,
    /// The host's CR4, for its paging mode
    #[arg(long, value_name = "X", value_parser = address, default_value = "0x6a0", requires = "ncr3")]
    host_cr4: u64,
    /// The host's EFER, for its paging mode
    #[arg(long, value_name = "X", value_parser = address, default_value = "0xd01", requires = "ncr3")]
    host_efer: u64,
    /// Guest-mode execute trap
    #[arg(long, requires = "ncr3")]
    gmet: bool,
    /// Supervisor shadow-stack check
    #[arg(long, requires = "ncr3")]
    sss_check: bool,
    /// Read-only guest page tables
    #[arg(long, requires = "ncr3")]
    read_only_guest_tables: bool,
}

/// The registers that a walk uses, and where they come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    pub(super) cr0: Cr0,
    pub(super) cr3: u64,
    pub(super) cr4: Cr4,
    pub(super) efer: Efer,
    alignment_check: bool,
    /// The CPU in the core whose registers these are.
    pub(super) vcpu: Option<usize>,
    /// EFER is neither in the core nor given.
    pub(super) efer_assumed: bool,
}

/// "options contradict each other", or are without effect.
fn contradiction<T>(words: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(words.into()))
}

impl Args {
    /// What a processor with this second dimension supports.
    pub(super) fn support(&self, profile: Option<&CpuProfile>) -> PagingSupport {
        let mut support = paging_support(profile);
        support.upper_global_reserved |= self.npt.ncr3.is_some();
        support
    }

    /// The guest's registers.
    pub(super) fn registers(&self, image: &Image) -> Result<Chosen, Failure> {
        let given = &self.registers;
        let from_core = match given.cr3 {
            Some(_) => None,
            None => Some(self.core_state(image)?),
        };
        let long = from_core.is_none_or(|(_, state)| state.long_mode);
        let mut cr0 = given.cr0.or(from_core.map(|(_, state)| state.cr0)).unwrap_or(0x8005_0033);
        let mut cr4 = given.cr4.or(from_core.map(|(_, state)| state.cr4)).unwrap_or(0x6a0);
        let mut cr3 = given.cr3.or(from_core.map(|(_, state)| state.cr3)).unwrap_or_default();
        let mut efer = given.efer.unwrap_or(if long { 0xd01 } else { 0x800 });
        let mut rflags = 0;
        for bit in &given.set {
            if given.clear.contains(bit) {
                return contradiction(format!("--set and --clear both name {}", name_of(*bit)));
            }
        }
        for (bits, set) in [(&given.set, true), (&given.clear, false)] {
            for bit in bits {
                let (register, mask) = match bit {
                    Bit::Pg => (&mut cr0, (Cr0::PG | Cr0::PE).bits()),
                    Bit::Wp => (&mut cr0, Cr0::WP.bits()),
                    Bit::Pse => (&mut cr4, Cr4::PSE.bits()),
                    Bit::Pae => (&mut cr4, Cr4::PAE.bits()),
                    Bit::Pge => (&mut cr4, Cr4::PGE.bits()),
                    Bit::La57 => (&mut cr4, Cr4::LA57.bits()),
                    Bit::Smep => (&mut cr4, Cr4::SMEP.bits()),
                    Bit::Smap => (&mut cr4, Cr4::SMAP.bits()),
                    Bit::Pke => (&mut cr4, Cr4::PKE.bits()),
                    Bit::Pks => (&mut cr4, Cr4::PKS.bits()),
                    Bit::Cet => (&mut cr4, Cr4::CET.bits()),
                    Bit::Lme => (&mut efer, (Efer::LME | Efer::LMA).bits()),
                    Bit::Nxe => (&mut efer, Efer::NXE.bits()),
                    Bit::Ac => (&mut rflags, Rflags::AC.bits()),
                    Bit::LamU57 => (&mut cr3, CR3_LAM_U57),
                    Bit::LamU48 => (&mut cr3, CR3_LAM_U48),
                    Bit::LamSup => (&mut cr4, Cr4::LAM_SUP.bits()),
                    Bit::Uaie => (&mut efer, EFER_UAIE),
                };
                // Without paging the processor may stay in protected mode.
                let mask = if !set && *bit == Bit::Pg { Cr0::PG.bits() } else { mask };
                *register = if set { *register | mask } else { *register & !mask };
            }
        }
        let chosen = Chosen {
            cr0: Cr0::from_bits_retain(cr0),
            cr3,
            cr4: Cr4::from_bits_retain(cr4),
            efer: Efer::from_bits_retain(efer),
            alignment_check: rflags != 0,
            vcpu: from_core.map(|(vcpu, _)| vcpu),
            efer_assumed: from_core.is_some() && given.efer.is_none(),
        };
        chosen.check()?;
        Ok(chosen)
    }

    fn core_state(&self, image: &Image) -> Result<(usize, CpuState), Failure> {
        if self.ept.eptp.is_some() || self.npt.ncr3.is_some() {
            return contradiction(
                "--cr3 is needed: under a second dimension it is the guest's, and the core has the host's",
            );
        }
        let cpus = image.cpus();
        let vcpu = self.registers.vcpu.unwrap_or(0);
        match cpus.get(vcpu) {
            Some(state) => Ok((vcpu, *state)),
            None if cpus.is_empty() => contradiction(format!(
                "--cr3 is needed: {} does not hold registers (a core of QEMU does, in its QEMU notes)",
                image.name()
            )),
            None => contradiction(format!("--vcpu {vcpu}: {} has CPUs 0 to {}", image.name(), cpus.len() - 1)),
        }
    }

    /// The guest's paging.
    pub(super) fn paging(&self, chosen: &Chosen, support: &PagingSupport) -> Result<Paging, Failure> {
        let given = &self.registers;
        let mut paging = Paging::new(chosen.cr0, chosen.cr3, chosen.cr4, chosen.efer, support);
        paging.modifiers.alignment_check = chosen.alignment_check;
        let long = matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5);
        let beyond = if long { support.address.reserved() } else { !0xffff_ffff };
        if chosen.cr3 & beyond != 0 && paging.mode() != PagingMode::None {
            return contradiction(format!(
                "CR3 {:#x} sets bits that this processor and paging mode do not have",
                chosen.cr3
            ));
        }
        for (option, value, enabled, bit, register) in [
            ("--pkru", given.pkru, paging.modifiers.pke, "pke", &mut paging.pkru),
            ("--pkrs", given.pkrs, paging.modifiers.pks, "pks", &mut paging.pkrs),
        ] {
            let Some(value) = value else { continue };
            if !enabled {
                return contradiction(format!(
                    "{option} has no effect: protection keys need 4-level or 5-level paging and --set {bit}"
                ));
            }
            *register = u32::try_from(value).map_err(|_| Failure(format!("{option} has more than 32 bits")))?;
        }
        paging.pdptes = match (given.pdptes, self.npt.ncr3) {
            (Some(_), _) if paging.mode() != PagingMode::Pae => {
                return contradiction("--pdptes is for PAE paging: CR4.PAE 1 and EFER.LME 0 (--clear lme)");
            }
            (Some(PdptesFrom::Load | PdptesFrom::Values(_)), Some(_)) => {
                return contradiction(
                    "--pdptes: under nested paging the PDPTEs are read in the walk (APM 2 15.25.10): only memory",
                );
            }
            (Some(PdptesFrom::Memory), _) | (None, Some(_)) => Pdptes::InMemory,
            (Some(PdptesFrom::Values(values)), None) => Pdptes::Registers(values),
            (Some(PdptesFrom::Load) | None, None) => Pdptes::Registers([0; 4]),
        };
        paging.hlat = match self.ept.hlatp {
            None => Hlat::Off,
            Some(_) if !long => return contradiction("--hlatp: HLAT paging is for 4-level and 5-level paging only"),
            Some(root) => {
                let reserved = root & (support.address.reserved() | 0xfff << 52 | 0xfe7);
                if reserved != 0 {
                    return contradiction(format!(
                        "--hlatp {root:#x}: {} must be 0 on this processor",
                        BitList(reserved)
                    ));
                }
                if self.ept.hlat_prefix == 0 { Hlat::All(root) } else { Hlat::UpperHalf(root) }
            }
        };
        Ok(paging)
    }

    /// Does the walk begin with loading the PDPTE registers?
    pub(super) fn loads_pdptes(&self, paging: &Paging) -> bool {
        paging.mode() == PagingMode::Pae
            && matches!(paging.pdptes, Pdptes::Registers(_))
            && !matches!(self.registers.pdptes, Some(PdptesFrom::Values(_)))
    }

    /// The access.
    pub(super) fn access(&self, chosen: &Chosen) -> Result<Access, Failure> {
        let given = &self.access;
        let operation = match given.access {
            Kind::Read => Operation::Read,
            Kind::Write => Operation::Write,
            Kind::Fetch => Operation::Fetch,
        };
        let privilege = match (given.user, given.implicit) {
            (true, _) => Privilege::User,
            (false, true) => Privilege::ImplicitSupervisor,
            (false, false) => Privilege::Supervisor,
        };
        if operation == Operation::Fetch && given.implicit {
            return contradiction(
                "--implicit: the processor reads and writes system structures, it does not execute them",
            );
        }
        if operation == Operation::Fetch && given.shadow_stack {
            return contradiction("--shadow-stack: a shadow stack is read and written, not executed");
        }
        if given.shadow_stack && !chosen.cr4.contains(Cr4::CET) {
            return contradiction(
                "--shadow-stack: CR4.CET is 0, so that there are no shadow-stack accesses (--set cet)",
            );
        }
        if self.gva & 0xfff > 0x1000 - u64::from(given.bytes) {
            return contradiction(format!(
                "--bytes {}: the access crosses a 4-KByte page; ask for each page by itself",
                given.bytes
            ));
        }
        if operation == Operation::Fetch && given.segment.is_some() {
            return contradiction("--segment is for data accesses; instructions are fetched through CS");
        }
        let access = Access { bytes: given.bytes, ..Access::new(operation, privilege) };
        Ok(if given.shadow_stack { access.shadow_stack() } else { access })
    }

    /// The linear address that the pointer means.
    pub(super) fn linear(&self, chosen: &Chosen, paging: &Paging) -> Result<Result<Gva, NotCanonical>, Failure> {
        let long = matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5);
        if !long && self.gva >> 32 != 0 {
            return contradiction(format!(
                "{:#x} has more than the 32 bits of a linear address in this mode",
                self.gva
            ));
        }
        if chosen.cr3 & (CR3_LAM_U57 | CR3_LAM_U48) != 0 && chosen.efer.bits() & EFER_UAIE != 0 {
            return contradiction("CR3 has LAM bits and EFER has UAIE: no processor has both");
        }
        let given = &self.access;
        let reference = match (given.access, given.segment) {
            (Kind::Fetch, _) => Reference::Fetch,
            _ if given.implicit => Reference::System,
            (_, None | Some(Segment::Ds | Segment::Es)) => Reference::Data,
            (_, Some(Segment::Ss | Segment::Cs | Segment::Fs | Segment::Gs)) => Reference::OtherSegment,
        };
        Ok(Pointers::new(chosen.cr0, chosen.cr3, chosen.cr4, chosen.efer, true).linear(self.gva, reference))
    }

    /// Is it a reference to the stack segment?
    pub(super) fn through_ss(&self) -> bool {
        self.access.segment == Some(Segment::Ss)
    }

    /// The page-modification log.
    pub(super) fn log(&self) -> Result<Option<PageModificationLog>, Failure> {
        let Some(address) = self.ept.pml else { return Ok(None) };
        if self.ept.eptp.is_some_and(|eptp| eptp & 1 << 6 == 0) {
            return contradiction("--pml has no effect: the EPTP's bit 6, accessed and dirty flags, is 0");
        }
        if address & (0xfff << 52 | 0xfff) != 0 {
            return contradiction(format!("--pml {address:#x} is not the address of a 4-KByte page"));
        }
        Ok(Some(PageModificationLog { address: Hpa(address), index: Cell::new(self.ept.pml_index) }))
    }

    /// The second dimension.
    pub(super) fn second<'a>(
        &self,
        profile: Option<&CpuProfile>,
        support: &PagingSupport,
        log: Option<&'a PageModificationLog>,
    ) -> Result<Second<'a>, Failure> {
        let (given, nested) = (&self.ept, &self.npt);
        if let Some(eptp) = given.eptp {
            let support = ept_support(profile);
            if let Some(root) = given.spptp.filter(|root| root & !support.address.frame() != 0) {
                return contradiction(format!("--spptp {root:#x} is not the address of a table on this processor"));
            }
            let controls = EptControls {
                mode_based_execute: given.mbec,
                paging_write: given.paging_write,
                guest_paging_verification: given.verify_guest_paging,
                sub_page: given.spptp.map(Hpa),
                violation_ve: given.ve,
            };
            let ept = ept(eptp, controls, &support)?;
            return Ok(Second::Ept(Box::new(match log {
                Some(log) => ept.with_log(log),
                None => ept,
            })));
        }
        let Some(ncr3) = nested.ncr3 else { return Ok(Second::Direct) };
        let (cr4, efer) = (Cr4::from_bits_retain(nested.host_cr4), Efer::from_bits_retain(nested.host_efer));
        if efer.contains(Efer::LME) && !cr4.contains(Cr4::PAE) {
            return contradiction("--host-efer has LME while --host-cr4 lacks PAE: no processor has this paging mode");
        }
        let host = Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, ncr3, cr4, efer, support);
        if ncr3 & support.address.reserved() != 0 {
            return contradiction(format!("--ncr3 {ncr3:#x} has more bits than this processor's addresses"));
        }
        if nested.sss_check && !host.modifiers.execute_disable {
            return contradiction(
                "--sss-check has no effect: the host's entries have no NX bit (--host-efer with NXE, --host-cr4 with PAE)",
            );
        }
        let controls = NptControls {
            gmet: nested.gmet,
            supervisor_shadow_stack: nested.sss_check,
            read_only_guest_tables: nested.read_only_guest_tables,
        };
        Ok(Second::Npt(Box::new(Npt::new(host, controls))))
    }
}

fn name_of(bit: Bit) -> String {
    use clap::ValueEnum;
    bit.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

impl Chosen {
    /// Combinations that no processor lets software have.
    fn check(&self) -> Result<(), Failure> {
        let paging = self.cr0.contains(Cr0::PG);
        if paging && !self.cr0.contains(Cr0::PE) {
            return contradiction("CR0.PG is 1 while CR0.PE is 0: no processor has paging without protected mode");
        }
        if paging && self.efer.contains(Efer::LME) && !self.cr4.contains(Cr4::PAE) {
            return contradiction(
                "EFER.LME and CR0.PG are 1 while CR4.PAE is 0: no processor has this paging mode (for 32-bit paging: --clear lme,pae)",
            );
        }
        if self.cr4.contains(Cr4::CET) && !self.cr0.contains(Cr0::WP) {
            return contradiction("CR4.CET is 1 while CR0.WP is 0: no processor allows that");
        }
        Ok(())
    }
}
