//! A map of gates in the terminal: one line per layer, one cell per head or per tenth of the MLP, darker where a gate is
//! closed. What the cut removes is crossed out, so that kept-but-closed and removed-but-open are seen at once.
//!
//! With colours a cell is a background of a 256-colour scale; without, a shade character. Where there are more cells than
//! fit, neighbours share one and show their mean.

use super::terminal::Terminal;

/// One gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// In [0, 1].
    pub gate: f32,
    /// Whether the cut removes it.
    pub removed: bool,
}

/// A line of the map.
#[derive(Clone, Debug)]
pub struct HeatRow {
    /// Written before the cells.
    pub label: String,
    /// Cells of each section.
    pub sections: Vec<Vec<Cell>>,
    /// Written after them.
    pub ending: String,
}

/// A map: sections side by side, rows below each other.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// Title of the label column.
    pub label: String,
    /// Titles of the sections.
    pub titles: Vec<String>,
    /// The lines.
    pub rows: Vec<HeatRow>,
}

/// From closed to open: dark blue over green to pale yellow, ordered in lightness too.
const SCALE: [u8; 10] = [17, 18, 24, 30, 36, 71, 107, 149, 191, 229];
/// Upper bounds of the shades; the first is "closed".
const SHADES: [(f32, char); 4] = [(0.05, '·'), (0.35, '░'), (0.65, '▒'), (0.95, '▓')];
const OPEN: char = '█';
/// Between sections.
const GAP: &str = "  ";
const WIDEST_CELL: usize = 2;

impl HeatMap {
    /// The map as text, with its legend.
    pub fn render(&self, terminal: Terminal) -> String {
        let layout = Layout::new(self, terminal.width);
        let mut text = format!("{}\n", self.header(&layout).trim_end());
        for row in &self.rows {
            let cells = row.sections.iter().zip(&layout.groups).map(|(cells, group)| {
                let cells = cells.chunks((*group).max(1)).map(merged);
                cells.map(|cell| painted(cell, layout.cell, terminal.colours)).collect::<String>()
            });
            let cells = cells.collect::<Vec<_>>().join(GAP);
            let line = format!("{:>width$}{GAP}{cells}{GAP}{}", row.label, row.ending, width = layout.label);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push_str(&legend(terminal.colours));
        text.push_str(&layout.note());
        text
    }

    fn header(&self, layout: &Layout) -> String {
        let titles = self.titles.iter().zip(&layout.widths).map(|(title, width)| {
            let title: String = title.chars().take(*width).collect();
            format!("{title:<width$}")
        });
        format!("{:>width$}{GAP}{}", self.label, titles.collect::<Vec<_>>().join(GAP), width = layout.label)
    }
}

/// How many characters everything gets.
struct Layout {
    label: usize,
    /// Characters of a cell.
    cell: usize,
    /// Values per cell, by section.
    groups: Vec<usize>,
    /// Characters of each section.
    widths: Vec<usize>,
}

impl Layout {
    fn new(map: &HeatMap, width: usize) -> Layout {
        let longest = |text: &dyn Fn(&HeatRow) -> usize| map.rows.iter().map(text).max().unwrap_or(0);
        let label = longest(&|row| row.label.chars().count()).max(map.label.chars().count());
        let ending = longest(&|row| row.ending.chars().count());
        let counts: Vec<usize> = (0..map.titles.len())
            .map(|section| longest(&|row| row.sections.get(section).map_or(0, Vec::len)))
            .collect();
        let room = width.saturating_sub(label + ending + GAP.len() * (counts.len() + 1)).max(counts.len());
        let all: usize = counts.iter().sum();
        let cell = (room / all.max(1)).clamp(1, WIDEST_CELL);
        // Only the widest section is thinned: the others are tenths.
        let widest = counts.iter().copied().max().unwrap_or(0);
        let left = room.saturating_sub(all - widest).max(1);
        let group = |count: usize| if count == widest && all > room { count.div_ceil(left) } else { 1 };
        let groups: Vec<usize> = counts.iter().map(|count| group(*count)).collect();
        let widths = counts.iter().zip(&groups).map(|(count, group)| count.div_ceil(*group) * cell).collect();
        Layout { label, cell, groups, widths }
    }

    fn note(&self) -> String {
        let group = self.groups.iter().max().copied().unwrap_or(1);
        if group > 1 { format!("one cell is the mean of {group} neighbours\n") } else { String::new() }
    }
}

fn merged(cells: &[Cell]) -> Cell {
    let mean = cells.iter().map(|cell| cell.gate).sum::<f32>() / cells.len().max(1) as f32;
    Cell { gate: mean, removed: cells.iter().all(|cell| cell.removed) }
}

fn painted(cell: Cell, width: usize, colours: bool) -> String {
    let mark = match (cell.removed, cell.gate < 0.5) {
        (false, _) => None,
        (true, true) => Some('×'),
        (true, false) => Some('!'),
    };
    if !colours {
        return mark.unwrap_or_else(|| shade(cell.gate)).to_string().repeat(width);
    }
    let index = ((cell.gate * SCALE.len() as f32) as usize).min(SCALE.len() - 1);
    let background = SCALE.get(index).copied().unwrap_or(0);
    let foreground = if index < 5 { 255 } else { 16 };
    let text = mark.unwrap_or(' ').to_string().repeat(width);
    format!("\u{1b}[48;5;{background};38;5;{foreground}m{text}\u{1b}[0m")
}

fn shade(gate: f32) -> char {
    SHADES.iter().find(|(bound, _)| gate < *bound).map_or(OPEN, |(_, shade)| *shade)
}

fn legend(colours: bool) -> String {
    let removed = "× removed by the cut   ! removed, though its gate is above 0.5";
    if colours {
        let ramp = (0..SCALE.len())
            .map(|index| painted(Cell { gate: (index as f32 + 0.5) / SCALE.len() as f32, removed: false }, 1, true));
        return format!("gate 0 {} 1   {removed}\n", ramp.collect::<String>());
    }
    let shades = SHADES.iter().map(|(bound, shade)| format!("{shade} < {bound}")).collect::<Vec<_>>().join("  ");
    format!("gate {shades}  {OPEN} open   {removed}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(heads: usize) -> HeatMap {
        let row = |removed: bool| HeatRow {
            label: "0".into(),
            sections: vec![
                (0..heads).map(|head| Cell { gate: if head % 2 == 0 { 1.0 } else { 0.0 }, removed }).collect(),
                vec![Cell { gate: 0.5, removed }; 10],
            ],
            ending: if removed { "removed" } else { "0" }.into(),
        };
        let titles = vec!["heads".into(), "MLP".into()];
        HeatMap { label: "layer".into(), titles, rows: vec![row(false), row(true)] }
    }

    fn plain(width: usize) -> Terminal {
        Terminal { width, colours: false }
    }

    #[test]
    fn kept_cells_are_shaded_and_removed_ones_crossed_out() {
        let text = map(4).render(plain(40));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "    0  █·█·  ▒▒▒▒▒▒▒▒▒▒  0");
        assert_eq!(lines[2], "    0  !×!×  !!!!!!!!!!  removed");
        assert!(lines[3].contains("removed by the cut"), "{text}");
        let wide = map(4).render(plain(200));
        assert_eq!(wide.lines().nth(1), Some("    0  ██··██··  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒  0"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for (heads, width) in [(32, 80), (128, 60), (1000, 40), (8, 40)] {
            let text = map(heads).render(plain(width));
            let longest = text.lines().take(3).map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{heads} heads in {width}: {longest:?}\n{text}");
            assert!(heads < 100 || text.contains("the mean of"), "{text}");
        }
    }

    #[test]
    fn colours_are_reset_after_every_cell() {
        let text = map(2).render(Terminal { width: 80, colours: true });
        assert_eq!(text.matches("\u{1b}[48;5;").count(), text.matches("\u{1b}[0m").count());
        assert!(text.contains("\u{1b}[48;5;229"));
    }
}
