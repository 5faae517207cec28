//! Plain text tables: first column left, the rest right, columns as wide as their widest cell.

pub use crate::files::readable_bytes as bytes;

/// A table under construction.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a header.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Table {
        Table { rows: vec![header.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no row but the header.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Characters of its longest line.
    pub fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
    }

    /// The same without columns that tell nothing: whose cells below the heading are all empty, or `–`.
    pub fn without_empty_columns(self) -> Table {
        let told = |cell: Option<&String>| cell.is_some_and(|cell| !matches!(cell.as_str(), "" | "–"));
        let kept = |column: usize| column == 0 || self.rows.iter().skip(1).any(|row| told(row.get(column)));
        let columns: Vec<usize> = (0..self.widths().len()).filter(|column| kept(*column)).collect();
        let cells = |row: &Vec<String>| columns.iter().filter_map(|column| row.get(*column).cloned()).collect();
        Table { rows: self.rows.iter().map(cells).collect() }
    }

    /// The same without so many of its last columns that it is no wider than `width`; its first two stay.
    pub fn within(self, width: usize) -> Table {
        let (widths, mut columns) = (self.widths(), self.widths().len());
        let wide = |columns: usize| widths.iter().take(columns).sum::<usize>() + 2 * columns.saturating_sub(1);
        while columns > 2 && wide(columns) > width {
            columns -= 1;
        }
        Table { rows: self.rows.into_iter().map(|row| row.into_iter().take(columns).collect()).collect() }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        (0..columns).map(|column| width(column).unwrap_or(0)).collect()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let widths = self.widths();
        for (index, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
                writeln!(f, "{}", rule.join("  "))?;
            }
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Seconds as `45 s`, `12 min 5 s`, `3 h 20 min` or `2 d 4 h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_string();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// An estimated time, no finer than estimates are: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub fn estimated(seconds: f64) -> String {
    let to = |unit: f64| (seconds / unit).round() * unit;
    match seconds {
        ..20.0 => duration(seconds),
        20.0..117.5 => format!("{:.0} s", to(5.0)),
        117.5..3570.0 => format!("{:.0} min", to(60.0) / 60.0),
        3570.0..172_800.0 => duration(to(600.0)),
        _ => duration(seconds),
    }
}

/// A number, or `–` where there is none.
pub fn optional(value: Option<f64>, decimals: usize) -> String {
    let text = value.filter(|value| value.is_finite()).map_or("–".to_string(), |value| format!("{value:.decimals$}"));
    // What rounds to zero has no sign.
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|digit| matches!(digit, '0' | '.')) => digits.to_string(),
        _ => text,
    }
}

/// Ascending indices with runs drawn together: `0-3 5 7-9`; `none` for no index.
pub fn ranges(indices: &[i64]) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let run = |(first, last): &(i64, i64)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    if runs.is_empty() { "none".to_string() } else { runs.iter().map(run).collect::<Vec<_>>().join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["domain", "loss"]);
        table.row(["a", "1.25"]);
        table.row(["long name", "10.5"]);
        assert_eq!(table.to_string(), "domain     loss\n─────────  ────\na          1.25\nlong name  10.5\n");
    }

    #[test]
    fn columns_that_tell_nothing_go() {
        let mut table = Table::new(["domain", "loss", "target", "rows", "±"]);
        table.row(["a", "1.25", "–", ""]);
        table.row(["b", "–", "–", "", "0.1"]);
        assert_eq!(table.width(), 6 + 4 + 6 + 4 + 3 + 8);
        let table = table.without_empty_columns();
        assert_eq!(table.to_string(), "domain  loss    ±\n──────  ────  ───\na       1.25\nb          –  0.1\n");
        assert_eq!(table.width(), 6 + 4 + 3 + 4);
        assert!(Table::new(["a", "b"]).without_empty_columns().is_empty());
        assert_eq!(table.clone().within(17).to_string(), table.to_string());
        assert_eq!(table.clone().within(16).width(), 12);
        assert_eq!(table.within(3).width(), 12, "two columns at least");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(1234567i64), "1,234,567");
        assert_eq!(grouped(-12i64), "-12");
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(3725.0), "1 h 2 min");
        assert_eq!(duration(f64::INFINITY), "?");
        let estimates = [4.4, 23.0, 117.0, 118.0, 474.0, 3569.0, 3571.0, 12_345.0, 200_000.0, f64::NAN].map(estimated);
        let said = ["4 s", "25 s", "115 s", "2 min", "8 min", "59 min", "1 h 0 min", "3 h 30 min", "2 d 7 h", "?"];
        assert_eq!(estimates, said);
        assert_eq!(optional(None, 2), "–");
        assert_eq!(optional(Some(f64::NAN), 2), "–");
        assert_eq!((optional(Some(-0.004), 2), optional(Some(-0.006), 2)), ("0.00".into(), "-0.01".into()));
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2 5 7-8");
        assert_eq!(ranges(&[]), "none");
    }
}
