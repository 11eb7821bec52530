//! `softvirt walk`: where does an address lead, and what stops it?

mod record;
mod render;
mod steps;
mod stop;

use super::image::{Image, Source, address};
use super::tables::{Extended, ept_support, paging_support};
use super::{Answer, Failure, Format, cpu};
use record::Recorder;
use softvirt::ept::{
    Access, Direct, Failure as Stopped, Npt, NptControls, Operation, Paging, PagingSupport, PdpteLoadFailure, Pdptes,
    Privilege, SecondDimension, Translation, load_pdptes,
};
use softvirt::x86_state::addr::is_canonical;
use softvirt::x86_state::{Cr0, Cr4, Efer, Gva, PagingMode};
use steps::Second;

/// What to walk.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt walk --mem guest.raw --cr3 0x1000 0xffffffff81000000
  softvirt walk --mem vmcore --cr3 0x2a0a000 --access write --user 7f0000001000
  softvirt walk --mem host.elf --cr3 0x1000 --eptp 0x10001e 0x400000

Numbers are hexadecimal. The registers default to those of a 64-bit kernel without SMEP, SMAP and protection keys. The memory is
the host's if there is a second dimension. The file is never written: flags that the walk sets go to a copy, and are shown.
Exit codes: 0 the address is translated; 1 the access faults; 2 the input cannot be read.")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// CR3 of the guest
    #[arg(long, value_name = "X", value_parser = address)]
    cr3: u64,
    /// CR0 of the guest
    #[arg(long, value_name = "X", value_parser = address, default_value = "0x80050033")]
    cr0: u64,
    /// CR4 of the guest
    #[arg(long, value_name = "X", value_parser = address, default_value = "0x6a0")]
    cr4: u64,
    /// IA32_EFER of the guest
    #[arg(long, value_name = "X", value_parser = address, default_value = "0xd01")]
    efer: u64,
    /// PKRU of the guest
    #[arg(long, value_name = "X", value_parser = address, default_value = "0")]
    pkru: u64,
    /// Intel's second dimension: the EPT pointer. Only an address means 4 levels, no accessed and dirty flags
    #[arg(long, value_name = "X", value_parser = address, conflicts_with = "ncr3")]
    eptp: Option<u64>,
    /// AMD's second dimension: nested CR3
    #[arg(long, value_name = "X", value_parser = address)]
    ncr3: Option<u64>,
    /// CR4 of the host, for its paging mode under --ncr3
    #[arg(long, value_name = "X", value_parser = address, default_value = "0x6a0", requires = "ncr3")]
    host_cr4: u64,
    /// EFER of the host, for its paging mode under --ncr3
    #[arg(long, value_name = "X", value_parser = address, default_value = "0xd01", requires = "ncr3")]
    host_efer: u64,
    /// What the access does
    #[arg(long, value_enum, default_value_t = Kind::Read)]
    access: Kind,
    /// The access comes from user mode (CPL 3)
    #[arg(long)]
    user: bool,
    /// The processor, which decides about reserved bits: a name that `softvirt cpu` lists [default: 52 address bits, every page size]
    #[arg(long, value_name = "NAME")]
    cpu: Option<String>,
    /// The guest-virtual address
    #[arg(value_name = "GVA", value_parser = address)]
    gva: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Reads data
    Read,
    /// Writes data
    Write,
    /// Fetches an instruction
    Fetch,
}

/// How a walk has ended.
enum Ended {
    Translated(Translation),
    Stopped(Stopped),
    /// MOV CR3 would not have loaded the PDPTEs.
    BadPdptes,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profile = args.cpu.as_deref().map(cpu::find).transpose()?;
    let support = PagingSupport { upper_global_reserved: args.ncr3.is_some(), ..paging_support(profile) };
    let mut paging = guest_paging(args, &support)?;
    check_address(&paging, args.gva)?;
    let second = match (args.eptp, args.ncr3) {
        (Some(eptp), _) => Second::Ept(Box::new(Extended::new(eptp, &ept_support(profile))?)),
        (None, Some(ncr3)) => Second::Npt(Box::new(nested_paging(args, ncr3, &support)?)),
        (None, None) => Second::Direct,
    };
    let operation = match args.access {
        Kind::Read => Operation::Read,
        Kind::Write => Operation::Write,
        Kind::Fetch => Operation::Fetch,
    };
    let access = Access::new(operation, if args.user { Privilege::User } else { Privilege::Supervisor });
    let image = Image::open(&args.source)?;
    let recorder = Recorder::new(&image);
    let ended = match &second {
        Second::Direct => walk(&recorder, &mut paging, &Direct, args.gva, access),
        Second::Ept(extended) => walk(&recorder, &mut paging, &extended.ept, args.gva, access),
        Second::Npt(npt) => walk(&recorder, &mut paging, npt.as_ref(), args.gva, access),
    };
    image.finish()?;
    let (reads, updates) = recorder.into_record();
    let steps = steps::name(&reads, &paging, &second, args.gva);
    let report = render::Report::new(&render::Walk {
        image: &image,
        gva: args.gva,
        access,
        paging: &paging,
        second: &second,
        steps: &steps,
        updates: &updates,
        ended: &ended,
    });
    let answer = match format {
        Format::Json => Answer::json(&report)?,
        Format::Text => Answer::fine(report.text()),
    };
    Ok(Answer { found: !matches!(ended, Ended::Translated(_)), ..answer })
}

fn walk<S: SecondDimension>(
    recorder: &Recorder<'_>,
    paging: &mut Paging,
    second: &S,
    gva: u64,
    access: Access,
) -> Ended {
    if let (PagingMode::Pae, Pdptes::Registers(_)) = (paging.mode(), paging.pdptes) {
        match load_pdptes(recorder, paging.support(), second, paging.cr3) {
            Ok(registers) => paging.pdptes = Pdptes::Registers(registers),
            Err(PdpteLoadFailure::GeneralProtection) => return Ended::BadPdptes,
            Err(PdpteLoadFailure::Second(failure)) => return Ended::Stopped(failure),
        }
    }
    match softvirt::ept::walk(recorder, paging, second, Gva(gva), access) {
        Ok(translation) => Ended::Translated(translation),
        Err(failure) => Ended::Stopped(failure),
    }
}

fn guest_paging(args: &Args, support: &PagingSupport) -> Result<Paging, Failure> {
    let (cr0, cr4, efer) =
        (Cr0::from_bits_retain(args.cr0), Cr4::from_bits_retain(args.cr4), Efer::from_bits_retain(args.efer));
    let mut paging = Paging::new(cr0, args.cr3, cr4, efer, support);
    if efer.contains(Efer::LME) && cr0.contains(Cr0::PG) && !cr4.contains(Cr4::PAE) {
        return Err(Failure(
            "EFER.LME and CR0.PG are 1 while CR4.PAE is 0: no processor has this paging mode".to_owned(),
        ));
    }
    paging.pkru = u32::try_from(args.pkru).map_err(|_| Failure("--pkru has more than 32 bits".to_owned()))?;
    // Intel loads the PDPTEs into registers with CR3; under nested paging they are read in the walk.
    if args.ncr3.is_none() {
        paging.pdptes = Pdptes::Registers([0; 4]);
    }
    let beyond = match paging.mode() {
        PagingMode::Level4 | PagingMode::Level5 => support.address.reserved(),
        _ => !0xffff_ffff,
    };
    if args.cr3 & beyond != 0 && paging.mode() != PagingMode::None {
        return Err(Failure(format!(
            "--cr3 {:#x} sets bits that this processor and paging mode do not have",
            args.cr3
        )));
    }
    Ok(paging)
}

fn nested_paging(args: &Args, ncr3: u64, support: &PagingSupport) -> Result<Npt, Failure> {
    let (cr4, efer) = (Cr4::from_bits_retain(args.host_cr4), Efer::from_bits_retain(args.host_efer));
    if efer.contains(Efer::LME) && !cr4.contains(Cr4::PAE) {
        return Err(Failure(
            "--host-efer has LME while --host-cr4 lacks PAE: no processor has this paging mode".to_owned(),
        ));
    }
    let host = Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, ncr3, cr4, efer, support);
    if ncr3 & support.address.reserved() != 0 {
        return Err(Failure(format!("--ncr3 {ncr3:#x} has more bits than this processor's addresses")));
    }
    Ok(Npt::new(host, NptControls::default()))
}

/// A processor walks nothing for an address that is not canonical.
fn check_address(paging: &Paging, gva: u64) -> Result<(), Failure> {
    let width = match paging.mode() {
        PagingMode::Level4 => 48,
        PagingMode::Level5 => 57,
        _ if gva >> 32 == 0 => return Ok(()),
        _ => return Err(Failure(format!("{gva:#x} has more than the 32 bits of a linear address in this mode"))),
    };
    if is_canonical(gva, width) {
        return Ok(());
    }
    Err(Failure(format!(
        "{gva:#x} is not canonical ({width} bits): the processor raises #GP(0) or #SS(0) and walks nothing"
    )))
}
