//! What does a page walk cost when more memory is mapped? Draws `docs/page-walks.svg` from the bench `table_size` and
//! callgrind's counts.

use std::process::{Command, Stdio};

use plotters::prelude::*;

use crate::callgrind::{Counter, root};

/// Depths and sizes as `crates/ept/benches/worlds` has them; the floor of a depth is drawn in the same colour.
const DEPTHS: [(&str, &str, RGBColor); 4] = [
    ("ept_5x5", "5 levels on 5 of EPT, 35 loads", RGBColor(0xb2, 0x18, 0x2b)),
    ("ept_4x4", "4 levels on 4 of EPT, 24 loads", RGBColor(0x21, 0x66, 0xac)),
    ("ept_4", "EPT alone, 4 loads", RGBColor(0x1b, 0x78, 0x37)),
    ("guest_4", "guest alone, 4 loads", RGBColor(0x76, 0x2a, 0x83)),
];
const SPANS: [u64; 7] = [2 << 20, 16 << 20, 128 << 20, 1 << 30, 8 << 30, 64 << 30, 256 << 30];

type Line = Vec<(f64, f64)>;

struct Depth {
    label: &'static str,
    colour: RGBColor,
    walk: Line,
    floor: Line,
    instructions: Line,
}

/// Measures and draws.
pub(crate) fn run() -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["bench", "--package", "softvirt-ept", "--bench", "table_size"])
        .current_dir(root()?)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("the benchmark failed".to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let counter = Counter::build("softvirt-ept", "count_walks")?;
    let mut depths = Vec::new();
    for (name, label, colour) in DEPTHS {
        let mut depth = Depth { label, colour, walk: Vec::new(), floor: Vec::new(), instructions: Vec::new() };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [first, span, floor, walk] = words[..] else { continue };
            if first != name {
                continue;
            }
            let number = |word: &str| word.parse::<f64>().map_err(|error| format!("{line}: {error}"));
            let (size, floor, walk) = (number(span)?, number(floor)?, number(walk)?);
            let count = counter.each(&format!("{name}@{span}"), 64, 6400)?;
            let ratio = walk / floor;
            println!(
                "{name} {}: {walk:.1} ns, floor {floor:.1} ns, ratio {ratio:.2}, {count:.0} instructions",
                label_of(size)
            );
            depth.walk.push((size, walk));
            depth.floor.push((size, floor));
            depth.instructions.push((size, count));
        }
        if depth.walk.is_empty() {
            return Err(format!("the benchmark said nothing of {name}: {text}"));
        }
        depths.push(depth);
    }
    draw(&depths).map_err(|error| format!("docs/page-walks.svg: {error}"))
}

fn draw(depths: &[Depth]) -> Result<(), Box<dyn std::error::Error>> {
    let file = root()?.join("docs/page-walks.svg");
    let area = SVGBackend::new(&file, (1040, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(520);
    let time = |depth: &Depth| vec![(depth.walk.clone(), true), (depth.floor.clone(), false)];
    panel(&left, depths, "Time of a walk (dashed: its loads alone)", "ns", time)?;
    panel(&right, depths, "Instructions of a walk", "instructions", |depth| vec![(depth.instructions.clone(), true)])?;
    area.present()?;
    Ok(())
}

/// One chart over the mapped size; the flag of a line says whether it is drawn through.
fn panel<F: Fn(&Depth) -> Vec<(Line, bool)>>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    depths: &[Depth],
    caption: &str,
    unit: &str,
    lines: F,
) -> Result<(), Box<dyn std::error::Error>> {
    let values: Vec<f64> = depths.iter().flat_map(&lines).flat_map(|(line, _)| line).map(|(_, value)| value).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let sizes = (SPANS[0] as f64..SPANS[SPANS.len() - 1] as f64).log_scale();
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(
            sizes.with_key_points(SPANS.map(|span| span as f64).to_vec()),
            (least * 0.7..most * 2.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("range in which the mapped pages lie")
        .y_desc(unit)
        .x_labels(SPANS.len())
        .x_label_formatter(&|size| label_of(*size))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for depth in depths {
        for (line, through) in lines(depth) {
            let style = depth.colour.stroke_width(2);
            if through {
                chart
                    .draw_series(LineSeries::new(line, style).point_size(3))?
                    .label(depth.label)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            } else {
                chart.draw_series(DashedLineSeries::new(line, 5, 4, depth.colour.stroke_width(1)))?;
            }
        }
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

fn label_of(size: f64) -> String {
    let megabytes = size / f64::from(1 << 20);
    if megabytes < 1024.0 { format!("{megabytes:.0} MB") } else { format!("{:.0} GB", megabytes / 1024.0) }
}
