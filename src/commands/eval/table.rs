//! The report as tables: a block of lines per domain and per task, a line per model, so that it stays readable however
//! many models there are.

use crate::cli::table::{Table, grouped, optional};
use crate::eval::report::{DomainReport, EvalReport, TaskReport};

/// Losses by domain, their means, accuracies by task.
pub(super) fn text(report: &EvalReport) -> String {
    let names = short_names(&report.models.iter().map(|model| model.model.as_str()).collect::<Vec<_>>());
    let mut tables = Vec::new();
    if report.data.is_some() {
        tables.push(domains(report, &names).to_string());
        tables.push(means(report, &names).to_string());
    }
    if !report.tasks.is_empty() {
        tables.push(tasks(&report.tasks, &names).to_string());
    }
    tables.join("\n")
}

/// A longer name of the first model would widen the columns that compare with it.
const LONG_NAME: usize = 16;

/// Header of the columns that compare with the first model; none for a single model.
fn versus(names: &[String]) -> Vec<String> {
    match names {
        [first, _, ..] if first.chars().count() > LONG_NAME => vec!["vs the first".to_string(), "±".to_string()],
        [first, _, ..] => vec![format!("vs {first}"), "±".to_string()],
        _ => Vec::new(),
    }
}

/// A difference and its error, empty for the first model.
fn difference(index: usize, difference: Option<f64>, error: Option<f64>) -> Vec<String> {
    match index {
        0 => vec![String::new(), String::new()],
        _ => vec![signed(difference), optional(error, 4)],
    }
}

fn signed(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or("–".to_string(), |value| format!("{value:+.4}"))
}

fn count(number: Option<u64>) -> String {
    number.map_or("–".to_string(), grouped)
}

fn header(first: &[&str], versus: Vec<String>, last: &[&str]) -> Vec<String> {
    let own = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    [own(first), versus, own(last)].concat()
}

fn domains(report: &EvalReport, names: &[String]) -> Table {
    let columns = ["domain", "loss", "±", "perplexity", "bits/byte"];
    // Of several models the text of a domain is the same: it stands beside its name, so that the lines stay short.
    let last: &[&str] = if names.len() == 1 { &["rows", "tokens", "bytes"] } else { &[] };
    let mut table = Table::new(header(&columns, versus(names), last));
    let blocks = report.models.first().map_or(0, |model| model.domains.len());
    for block in 0..blocks {
        let of_models: Vec<&DomainReport> = report.models.iter().filter_map(|model| model.domains.get(block)).collect();
        let Some(first) = of_models.first() else { continue };
        let name = first.loss.domain.clone();
        if names.len() == 1 {
            let size = [rows(first), grouped(first.loss.tokens as i64), count(first.bytes)];
            table.row([vec![name], figures(first), size.to_vec()].concat());
            continue;
        }
        table.row([format!("{name}, {} rows", rows(first))]);
        for (index, (domain, name)) in of_models.iter().zip(names).enumerate() {
            let against = difference(index, domain.difference, domain.difference_standard_error);
            table.row([vec![format!("  {name}")], figures(domain), against].concat());
        }
    }
    table
}

/// Rows evaluated, of how many there are.
fn rows(domain: &DomainReport) -> String {
    let evaluated = grouped(domain.loss.rows as i64);
    match domain.rows_available {
        Some(available) => format!("{evaluated} of {}", grouped(available)),
        None => evaluated,
    }
}

fn figures(domain: &DomainReport) -> Vec<String> {
    let loss = &domain.loss;
    vec![
        optional(loss.loss, 4),
        optional(loss.standard_error, 4),
        optional(domain.perplexity, 2),
        optional(domain.bits_per_byte, 4),
    ]
}

fn means(report: &EvalReport, names: &[String]) -> Table {
    let columns = ["mean of the domains", "parameters", "loss", "±", "bits/byte"];
    let mut table = Table::new(header(&columns, versus(names), &[]));
    for (index, (model, name)) in report.models.iter().zip(names).enumerate() {
        let figures = vec![
            name.clone(),
            grouped(model.parameters),
            optional(model.mean_loss, 4),
            optional(model.mean_loss_standard_error, 4),
            optional(model.mean_bits_per_byte, 4),
        ];
        let against = difference(index, model.mean_difference, model.mean_difference_standard_error);
        table.row([figures, if names.len() > 1 { against } else { Vec::new() }].concat());
    }
    table
}

fn tasks(tasks: &[TaskReport], names: &[String]) -> Table {
    let first = header(&["task", "questions", "acc", "±"], versus(names), &["acc_norm", "±"]);
    let mut table = Table::new([first, versus(names)].concat());
    for task in tasks {
        let questions = task.models.first().map_or(0, |model| model.questions);
        if names.len() > 1 {
            table.row([task.task.clone(), grouped(questions as i64)]);
        }
        for (index, (model, name)) in task.models.iter().zip(names).enumerate() {
            let acc = vec![optional(model.acc, 4), optional(model.acc_stderr, 4)];
            let acc_norm = vec![optional(model.acc_norm, 4), optional(model.acc_norm_stderr, 4)];
            if names.len() == 1 {
                table.row([vec![task.task.clone(), grouped(questions as i64)], acc, acc_norm].concat());
                continue;
            }
            let against = difference(index, model.acc_difference, model.acc_difference_stderr);
            let against_norm = difference(index, model.acc_norm_difference, model.acc_norm_difference_stderr);
            let line = vec![format!("  {name}"), String::new()];
            table.row([line, acc, against, acc_norm, against_norm].concat());
        }
    }
    table
}

/// Folder names without the leading folders that all of them share.
fn short_names(names: &[&str]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = names.iter().map(|name| name.trim_end_matches('/').split('/').collect()).collect();
    let shortest = parts.iter().map(Vec::len).min().unwrap_or(0);
    let same = |index: usize| parts.windows(2).all(|pair| pair[0].get(index) == pair[1].get(index));
    let shared = (0..shortest.saturating_sub(1)).take_while(|&index| names.len() > 1 && same(index)).count();
    parts.iter().map(|parts| parts.iter().skip(shared).copied().collect::<Vec<_>>().join("/")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_all_of_them_share() {
        let names = ["runs/demo/source/model", "runs/demo/prune/pruned/", "runs/demo/recover/model"];
        assert_eq!(short_names(&names), ["source/model", "prune/pruned", "recover/model"]);
        assert_eq!(short_names(&["runs/demo/model"]), ["runs/demo/model"]);
        assert_eq!(short_names(&["a/b", "a/b"]), ["b", "b"]);
        assert_eq!(short_names(&["a", "a/b"]), ["a", "a/b"]);
    }

    #[test]
    fn differences_carry_their_sign() {
        assert_eq!(difference(1, Some(0.5), Some(0.25)), ["+0.5000", "0.2500"]);
        assert_eq!(difference(2, Some(-0.5), None), ["-0.5000", "–"]);
        assert_eq!(difference(0, None, None), ["", ""]);
    }
}
