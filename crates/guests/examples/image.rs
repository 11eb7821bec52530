//! Writes a benchmark's floppy image: `image NAME ITERATIONS FILE`, 1.44 MByte.

use softvirt_guests::bench;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, iterations, file] = arguments.as_slice() else { return Err("image NAME ITERATIONS FILE".into()) };
    let guest = bench::all().iter().find(|guest| guest.name == name).ok_or("no such guest")?;
    let mut image = guest.image(iterations.parse()?);
    image.resize(1_474_560, 0);
    std::fs::write(file, image)?;
    Ok(())
}
