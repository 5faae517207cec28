//! Colours of drawings that stand alone. In the page the same classes take theirs from `page/report.css`, which knows
//! light and dark.
//!
//! Eight colours that stay apart under the common forms of colour blindness, each at least 3 : 1 against the paper. From
//! the ninth name on colours come again with a hollow shape on the line, beside which the dots of the first eight are
//! filled, so that 64 names are told apart; runs differ by their dashes.

use std::fmt::Write;

/// Lines and marks.
pub const COLOURS: [&str; 8] = ["#0b62a4", "#c04a00", "#00785a", "#a8327d", "#8a6100", "#1687bb", "#5a5a5a", "#3b2d8c"];
/// Dashes of runs, and, at [`REFERENCE_DASH`], of targets and references.
pub const DASHES: [&str; 9] = ["none", "9 3", "5 2 1 2", "2 3", "14 4", "9 2 1 2 1 2", "4 6", "2 7", "8 2 3 2"];
/// Dashes of runs, one each; those after them have to share.
pub const RUN_DASHES: [usize; 8] = [0, 1, 2, 4, 5, 6, 7, 8];
/// Dash of targets and references.
pub const REFERENCE_DASH: usize = 3;
/// Steps of the scale of a heat map: `g0` (closed) to `g10` (open).
pub const SHADES: usize = 11;

/// Shapes of the second to eighth time that the colours come round, as paths about the origin.
const GLYPHS: [&str; 7] = [
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.5L4.5 3.5h-9z",
    "M0 -5L4.5 0L0 5L-4.5 0z",
    "M-1.3 -4.5h2.6v3.2h3.2v2.6h-3.2v3.2h-2.6v-3.2h-3.2v-2.6h3.2z",
    "M0 4.5L4.5 -3.5h-9z",
    "M-4 -4h8L-4 4h8z",
    "M-4.5 -1.4h9v2.8h-9z",
];

/// The shape of a name's colour, none of the first eight.
pub fn glyph(colour: usize) -> Option<&'static str> {
    (colour / COLOURS.len()).checked_sub(1).and_then(|round| GLYPHS.get(round % GLYPHS.len())).copied()
}

/// `c3 d1`: the classes of a series.
pub fn classes(colour: usize, dash: usize) -> String {
    format!("c{} d{}", colour % COLOURS.len(), dash % DASHES.len())
}

/// The class of a gate.
pub fn shade(gate: u8) -> usize {
    (usize::from(gate) * (SHADES - 1) + 127) / 255
}

/// The style sheet of a file.
pub fn file_style() -> String {
    let mut css = String::from(
        "text{font-family:sans-serif;font-size:13px;fill:#1c2430}.title{font-size:15px;font-weight:bold}\
         .paper{fill:#ffffff}.grid{stroke:#dfe3e8;fill:none}.axis{stroke:#6b7480;fill:none}\
         .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.band{stroke:none;fill-opacity:0.18}\
         .whisker{stroke-width:1.5}.glyph{fill:#ffffff;stroke-width:1.6}.border{stroke:#6b7480;fill:none;stroke-dasharray:3 3}.mark{fill:#6b7480}.mark.skip{fill:#b3261e}.kept{stroke:#1c2430;stroke-width:1.4}\
         .cell{stroke:#ffffff;stroke-width:0.6}.cell.kept{stroke:#1c2430;stroke-width:1.4}",
    );
    for (index, colour) in COLOURS.iter().enumerate() {
        let _ = write!(
            css,
            ".c{index} .line,.c{index} .whisker{{stroke:{colour}}}.c{index} .band,.c{index} .dot,.c{index} .bar{{fill:{colour}}}\
             .c{index} .glyph{{stroke:{colour}}}"
        );
    }
    for (index, dash) in DASHES.iter().enumerate() {
        let _ = write!(css, ".d{index} .line{{stroke-dasharray:{dash}}}");
    }
    for shade in 0..SHADES {
        let _ = write!(css, ".g{shade}{{fill:{}}}", mixed(shade as f64 / (SHADES - 1) as f64));
    }
    css
}

/// From the paper's grey to blue.
fn mixed(part: f64) -> String {
    let mix = |from: f64, to: f64| (from + part * (to - from)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(236.0, 11.0), mix(238.0, 84.0), mix(241.0, 148.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_have_shades_from_end_to_end() {
        assert_eq!((shade(0), shade(128), shade(255)), (0, 5, 10));
        assert_eq!(mixed(1.0), "#0b5494");
    }

    #[test]
    fn sixty_four_names_look_different() {
        let looks = (0..64).map(|colour| (colour % COLOURS.len(), glyph(colour)));
        assert_eq!(looks.collect::<std::collections::BTreeSet<_>>().len(), 64);
        assert_eq!(glyph(7), None);
    }

    #[test]
    fn eight_runs_have_a_dash_each_and_the_page_knows_all() {
        let mut drawn: Vec<&str> = RUN_DASHES.iter().map(|dash| DASHES[*dash]).collect();
        drawn.push(DASHES[REFERENCE_DASH]);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 9);
        let page = include_str!("../page/report.css");
        for (index, dash) in DASHES.iter().enumerate().skip(1) {
            let rule = format!(".d{index} .line, .line.d{index} {{ stroke-dasharray: {dash}; }}");
            assert!(page.contains(&rule), "{rule}");
        }
    }

    #[test]
    fn colours_stand_out_from_the_paper() {
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        for colour in COLOURS {
            let part = |at: usize| linear(f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0);
            let luminance = 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
            assert!(1.05 / (luminance + 0.05) >= 3.0, "{colour}");
        }
    }
}
