//! `softvirt walk`: where does an address lead, and what stops it?

mod options;
mod record;
mod render;
mod rights;
mod steps;
mod stop;

use super::image::Image;
use super::{Answer, Failure, Format, cpu};
pub(crate) use options::Args;
use record::Recorder;
use softvirt::ept::{
    Access, Direct, Failure as Stopped, NotCanonical, Paging, PdpteLoadFailure, Pdptes, SecondDimension, Translation,
    load_pdptes,
};
use softvirt::x86_state::Gva;
use steps::Second;

/// How a walk has ended.
enum Ended {
    Translated(Translation),
    Stopped(Stopped),
    /// MOV CR3 would not have loaded the PDPTEs.
    BadPdptes,
    /// The pointer means no linear address: nothing was walked.
    NotCanonical,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profile = args.cpu.as_deref().map(cpu::find).transpose()?;
    let support = args.support(profile);
    let image = Image::open(&args.source)?;
    let chosen = args.registers(&image)?;
    let mut paging = args.paging(&chosen, &support)?;
    let access = args.access(&chosen)?;
    let pointed = args.linear(&chosen, &paging)?;
    let log = args.log()?;
    let second = args.second(profile, &support, log.as_ref())?;
    let loads = args.loads_pdptes(&paging);
    let recorder = Recorder::new(&image);
    let ended = match (pointed, &second) {
        (Err(NotCanonical), _) => Ended::NotCanonical,
        (Ok(gva), Second::Direct) => walk(&recorder, &mut paging, &Direct, gva, access, loads),
        (Ok(gva), Second::Ept(ept)) => walk(&recorder, &mut paging, ept.as_ref(), gva, access, loads),
        (Ok(gva), Second::Npt(npt)) => walk(&recorder, &mut paging, npt.as_ref(), gva, access, loads),
    };
    let gva = pointed.map_or(args.gva, |gva| gva.0);
    image.finish()?;
    let (reads, updates) = recorder.into_record();
    let steps = steps::name(&reads, &paging, &second, gva, loads);
    let report = render::Report::new(&render::Walk {
        image: &image,
        chosen: &chosen,
        pointer: args.gva,
        gva,
        stack: args.through_ss(),
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
    gva: Gva,
    access: Access,
    loads_pdptes: bool,
) -> Ended {
    if loads_pdptes {
        match load_pdptes(recorder, paging.support(), second, paging.cr3) {
            Ok(registers) => paging.pdptes = Pdptes::Registers(registers),
            Err(PdpteLoadFailure::GeneralProtection) => return Ended::BadPdptes,
            Err(PdpteLoadFailure::Second(failure)) => return Ended::Stopped(failure),
        }
    }
    match softvirt::ept::walk(recorder, paging, second, gva, access) {
        Ok(translation) => Ended::Translated(translation),
        Err(failure) => Ended::Stopped(failure),
    }
}
