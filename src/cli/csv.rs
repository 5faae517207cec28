//! Comma-separated values as RFC 4180 has them: a header, a line per row, quotes only where they are needed.

/// Rows under construction, the header first.
#[derive(Clone, Debug, Default)]
pub struct Csv {
    text: String,
}

impl Csv {
    /// Adds a row.
    pub fn row<S: AsRef<str>>(&mut self, fields: impl IntoIterator<Item = S>) {
        let fields: Vec<String> = fields.into_iter().map(|field| quoted(field.as_ref())).collect();
        self.text.push_str(&fields.join(","));
        self.text.push('\n');
    }
}

impl std::fmt::Display for Csv {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A number so that it reads back as it was; empty where there is none.
pub fn field(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(String::new, |value| value.to_string())
}

fn quoted(field: &str) -> String {
    match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_quotes_has_them() {
        let mut csv = Csv::default();
        csv.row(["step", "domain, or \"name\""]);
        csv.row([field(Some(0.1)), field(None)]);
        csv.row([field(Some(40960.0)), field(Some(f64::NAN))]);
        assert_eq!(csv.to_string(), "step,\"domain, or \"\"name\"\"\"\n0.1,\n40960,\n");
    }
}
