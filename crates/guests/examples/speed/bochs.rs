//! Bochs, without a screen, from a floppy image.

use softvirt_guests::bench;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

const CONFIGURATION: &str = r#"
config_interface: textconfig
display_library: rfb, options="timeout=0"
megs: 64
romimage: file=/usr/share/bochs/BIOS-bochs-legacy
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, count=1, ips=100000000, reset_on_triple_fault=0
floppya: 1_44=floppy.img, status=inserted
boot: floppy
port_e9_hack: enabled=1
log: bochs.log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"#;

/// The seconds between the two reports; `None` if there is no Bochs, or no report.
pub(crate) fn run(image: &[u8]) -> Option<f64> {
    let folder = std::env::temp_dir().join(format!("softvirt-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).ok()?;
    let seconds = run_in(&folder, image);
    std::fs::remove_dir_all(&folder).ok()?;
    seconds
}

fn run_in(folder: &Path, image: &[u8]) -> Option<f64> {
    let mut floppy = image.to_vec();
    floppy.resize(1_474_560, 0);
    std::fs::write(folder.join("floppy.img"), floppy).ok()?;
    std::fs::write(folder.join("bochsrc"), CONFIGURATION).ok()?;
    // Debian's Bochs has its debugger built in, and waits for a command.
    std::fs::write(folder.join("commands"), "c\n").ok()?;
    let mut bochs = Command::new("bochs")
        .args(["-q", "-f", "bochsrc", "-rc", "commands"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let process = bochs.id().to_string();
    let mut output = bochs.stdout.take()?;
    let mut byte = [0];
    let mut began = None;
    let mut seconds = None;
    while output.read(&mut byte).ok()? == 1 {
        // "<bochs:1>" is a prompt.
        match (byte[0], began) {
            (bench::START, _) => began = super::on_processor(&process),
            (bench::END, Some(start)) => {
                seconds = super::on_processor(&process).map(|end| end - start);
                break;
            }
            (bench::FAILED, Some(_)) => break,
            _ => {}
        }
    }
    bochs.kill().ok()?;
    bochs.wait().ok()?;
    seconds
}
