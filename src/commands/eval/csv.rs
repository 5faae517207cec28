//! The report as CSV, one figure per line, for a spreadsheet or a plot.

use crate::eval::report::Report;

const HEADER: &str = "model,group,name,measure,value,standard_error\n";

/// All figures.
pub(super) fn text(report: &Report) -> String {
    let mut text = HEADER.to_string();
    let mut line = |names: [&str; 4], value: Option<f64>, error: Option<f64>| {
        let cells = names.iter().map(|name| quoted(name)).chain([number(value), number(error)]);
        text.push_str(&cells.collect::<Vec<_>>().join(","));
        text.push('\n');
    };
    for model in &report.models {
        for domain in &model.domains {
            let names = |measure| [model.model.as_str(), "domain", domain.loss.domain.as_str(), measure];
            line(names("loss"), domain.loss.loss, domain.loss.standard_error);
            line(names("perplexity"), domain.perplexity, None);
            line(names("bits_per_byte"), domain.bits_per_byte, None);
            line(names("difference"), domain.difference, domain.difference_standard_error);
        }
    }
    for task in &report.tasks {
        for model in &task.models {
            let names = |measure| [model.model.as_str(), "task", task.task.as_str(), measure];
            line(names("acc"), model.acc, model.acc_stderr);
            line(names("acc_norm"), model.acc_norm, model.acc_norm_stderr);
            line(names("acc_difference"), model.acc_difference, model.acc_difference_stderr);
            line(names("acc_norm_difference"), model.acc_norm_difference, model.acc_norm_difference_stderr);
        }
    }
    text
}

/// A number, or nothing where there is none.
fn number(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default()
}

/// A cell as RFC 4180 has it: in quotes where it needs them, with quotes inside doubled.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("runs/a"), "runs/a");
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(number(Some(f64::NAN)), "");
        assert_eq!(number(Some(0.1)), "0.1");
    }
}
