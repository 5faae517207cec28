//! The report as CSV, one figure per line, for a spreadsheet or a plot.

use crate::cli::csv::{Csv, field};
use crate::eval::report::EvalReport;

/// All figures.
pub(super) fn csv(report: &EvalReport) -> Csv {
    let mut csv = Csv::default();
    csv.row(["model", "group", "name", "measure", "value", "standard_error"]);
    let mut figure = |names: [&str; 4], value: Option<f64>, error: Option<f64>| {
        csv.row(names.map(String::from).into_iter().chain([field(value), field(error)]));
    };
    for model in &report.models {
        for domain in &model.domains {
            let names = |measure| [model.model.as_str(), "domain", domain.loss.domain.as_str(), measure];
            figure(names("loss"), domain.loss.loss, domain.loss.standard_error);
            figure(names("perplexity"), domain.perplexity, None);
            figure(names("bits_per_byte"), domain.bits_per_byte, None);
            figure(names("difference"), domain.difference, domain.difference_standard_error);
        }
    }
    for task in &report.tasks {
        for model in &task.models {
            let names = |measure| [model.model.as_str(), "task", task.task.as_str(), measure];
            figure(names("acc"), model.acc, model.acc_stderr);
            figure(names("acc_norm"), model.acc_norm, model.acc_norm_stderr);
            figure(names("acc_difference"), model.acc_difference, model.acc_difference_stderr);
            figure(names("acc_norm_difference"), model.acc_norm_difference, model.acc_norm_difference_stderr);
        }
    }
    csv
}
