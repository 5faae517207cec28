//! The tables of `inspect run` over the evaluations: losses on held-out rows and what lies above the references. Both show
//! the same evaluations, sampled like the tables of [`run_tables`](super::run_tables).

use super::run_tables::{LEAST_SAMPLES, SAMPLES, sampled, step};
use crate::cli::table::{Table, optional};
use crate::eval::statistics::{Estimate, mean_of};
use crate::inspect::{DomainEval, Evaluation, RunHistory};

/// A row per domain and a column per evaluation, so that many domains make a table longer and not wider.
fn by_domain(history: &RunHistory, evaluations: &[&Evaluation], last: &[&str]) -> Table {
    let column = |evaluation: &&Evaluation| match evaluation.gates.as_str() {
        "" | "plain" => step(&evaluation.step),
        gates => format!("{} {gates}", step(&evaluation.step)),
    };
    let columns = evaluations.iter().map(column).chain(last.iter().map(|name| name.to_string()));
    let names = std::iter::once(if history.domains.is_empty() { "" } else { "domain, at step" }.to_string());
    Table::new(names.chain(columns))
}

/// Losses on held-out rows at about ten evaluations.
pub(super) fn validation(history: &RunHistory, width: usize) -> Table {
    validation_at(history, evaluations_within(history, width))
}

/// So many evaluations as leave both tables of them within `width`: they show the same ones.
fn evaluations_within(history: &RunHistory, width: usize) -> usize {
    let fits = |most: &usize| [validation_at, excess_at].iter().all(|table| table(history, *most).width() <= width);
    (LEAST_SAMPLES..=SAMPLES).rev().find(fits).unwrap_or(LEAST_SAMPLES)
}

/// `; 9 of 11 evaluations`, where the table leaves some out.
pub(super) fn sampled_said(history: &RunHistory, width: usize) -> String {
    let (all, shown) = (history.evaluations.len(), evaluations_within(history, width));
    if all > shown { format!("; {shown} of {all} evaluations") } else { String::new() }
}

/// What the words beside the steps mean, of those that there are.
pub(super) fn gates_said(history: &RunHistory) -> String {
    let known = [
        ("expected", "as many units open as the masks expect"),
        ("target", "cut to the target shape"),
        ("experts", "the chosen experts run"),
        ("soft", "experts multiplied by their scores"),
    ];
    let occurs = |gates: &str| history.evaluations.iter().any(|evaluation| evaluation.gates == gates);
    known.iter().filter(|(gates, _)| occurs(gates)).map(|(gates, what)| format!("; {gates}: {what}")).collect()
}

fn validation_at(history: &RunHistory, most: usize) -> Table {
    let evaluations = picked(history.evaluations.iter().collect(), most);
    let mut table = by_domain(history, &evaluations, &["± of last"]);
    if evaluations.is_empty() {
        return table;
    }
    let means = evaluations.iter().map(|evaluation| optional(evaluation.mean_loss, 4));
    let error = evaluations.last().and_then(|last| error_of_mean(last));
    table.row(std::iter::once("mean".to_string()).chain(means).chain([optional(error, 3)]));
    for name in &history.domains {
        let losses = evaluations.iter().map(|e| optional(e.domain(name).and_then(|domain| domain.loss), 4));
        let error = evaluations.last().and_then(|last| last.domain(name)?.standard_error);
        table.row(std::iter::once(name.clone()).chain(losses).chain([optional(error, 3)]));
    }
    table
}

/// Standard error of the mean over the domains, each counting alike, where all of them have one.
fn error_of_mean(evaluation: &Evaluation) -> Option<f64> {
    let estimate = |domain: &DomainEval| Some(Estimate { mean: domain.loss?, standard_error: domain.standard_error });
    let known: Vec<Estimate> = evaluation.domains.iter().map(estimate).collect::<Option<_>>()?;
    mean_of(&known)?.standard_error
}

/// About `most` of the evaluations; of steps with two of them both are of interest only at the end.
fn picked(evaluations: Vec<&Evaluation>, most: usize) -> Vec<&Evaluation> {
    sampled(evaluations.len(), most).into_iter().filter_map(|index| evaluations.get(index).copied()).collect()
}

/// Loss − reference at about ten evaluations; empty without references.
pub(super) fn excess(history: &RunHistory, width: usize) -> Table {
    excess_at(history, evaluations_within(history, width))
}

fn excess_at(history: &RunHistory, most: usize) -> Table {
    let known = |evaluation: &&Evaluation| evaluation.domains.iter().any(|domain| domain.excess.is_some());
    let evaluations = picked(history.evaluations.iter().filter(known).collect(), most);
    let mut table = by_domain(history, &evaluations, &[]);
    if evaluations.is_empty() {
        return table;
    }
    let moved = evaluations.iter().map(|evaluation| if evaluation.mixer_updated { "yes" } else { "no" }.to_string());
    table.row(std::iter::once("the mix moved".to_string()).chain(moved));
    for name in &history.domains {
        let excess = evaluations.iter().map(|e| optional(e.domain(name).and_then(|domain| domain.excess), 4));
        table.row(std::iter::once(name.clone()).chain(excess));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_evaluations_show_the_same_steps_and_say_how_many() {
        let evaluations = vec![Evaluation::default(); 20];
        let mut history = RunHistory { evaluations, ..RunHistory::default() };
        for (index, evaluation) in history.evaluations.iter_mut().enumerate() {
            (evaluation.step, evaluation.mean_loss) = (100 * index as u64, Some(12.5));
            evaluation.gates = "plain".into();
            evaluation.domains = ["a", "b"]
                .map(|name| DomainEval {
                    domain: name.into(),
                    loss: Some(12.5),
                    standard_error: Some(0.3),
                    excess: Some(-0.25),
                    ..DomainEval::default()
                })
                .to_vec();
        }
        history.domains = vec!["a".into(), "b".into()];
        for width in [60, 80, 100, 200] {
            let steps = |table: Table| -> Vec<String> {
                let heading = table.to_string().lines().next().unwrap_or_default().to_string();
                heading
                    .split_whitespace()
                    .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
                    .map(String::from)
                    .collect()
            };
            let shown = steps(validation(&history, width));
            assert_eq!(shown, steps(excess(&history, width)), "{width}");
            assert_eq!(sampled_said(&history, width), format!("; {} of 20 evaluations", shown.len()));
        }
        // √(0.09 + 0.09) / 2.
        let table = validation(&history, 100).to_string();
        let mean = table.lines().find(|line| line.starts_with("mean")).unwrap();
        assert!(mean.ends_with("0.212"), "{table}");
        assert_eq!(gates_said(&history), "");
        history.evaluations[3].gates = "target".into();
        assert_eq!(gates_said(&history), "; target: cut to the target shape");
    }
}
