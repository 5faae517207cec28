//! The tables of `inspect run`. Long histories are sampled at about ten places, always with the first and the last; a
//! curve beside them shows what lies between.

use crate::cli::sparkline::sparkline;
use crate::cli::table::{Table, grouped, optional};
use crate::eval::statistics::{Estimate, mean_of};
use crate::inspect::columns::ends;
use crate::inspect::{Column, DomainEval, Evaluation, HeldOutLoss, RunHistory};

/// Places of a history that a table shows.
pub(super) const SAMPLES: usize = 10;
/// Fewest, however narrow the terminal is.
const LEAST_SAMPLES: usize = 3;
/// Events that are listed.
const LISTED_EVENTS: usize = 20;

/// Columns of a trend.
const TREND: std::ops::RangeInclusive<usize> = 5..=40;

/// Of the trend beside a row of shares.
const PROPORTION_TREND: usize = 10;

/// A table with trends as wide as leaves it within `width`.
fn with_trends(width: usize, build: impl Fn(usize) -> Table) -> Table {
    let without = build(1).width().saturating_sub("trend".len());
    build(width.saturating_sub(without).clamp(*TREND.start(), *TREND.end()))
}

/// A table of places of a history, of so many as leave it within `width`.
fn with_places(width: usize, build: impl Fn(usize) -> Table) -> Table {
    let fits = (LEAST_SAMPLES..=SAMPLES).rev().map(&build).find(|table| table.width() <= width);
    fits.unwrap_or_else(|| build(LEAST_SAMPLES))
}

/// Quantities over all steps: where they began and ended, their range, and their trend.
pub(super) fn curves(history: &RunHistory, width: usize) -> Table {
    with_trends(width, |trend| curves_with(history, trend))
}

fn curves_with(history: &RunHistory, width: usize) -> Table {
    let steps = &history.steps;
    let mut table = Table::new(["quantity", "first", "last", "min", "max", "trend"]);
    let columns: [(&str, &Column); 20] = [
        ("loss, total", &steps.loss_total),
        ("loss, cross entropy", &steps.loss_cross_entropy),
        ("loss, distillation", &steps.loss_distillation),
        ("loss, Lagrangian", &steps.loss_lagrangian),
        ("sparsity expected", &steps.sparsity_expected),
        ("sparsity target", &steps.sparsity_target),
        ("expected parameters", &steps.expected_parameters),
        ("density", &steps.router_density),
        ("density asked", &steps.router_density_target),
        ("scores near threshold", &steps.router_near_threshold),
        ("gradient norm", &steps.gradient_norm_total),
        ("… weights", &steps.gradient_norm_weights),
        ("… masks", &steps.gradient_norm_masks),
        ("… multipliers", &steps.gradient_norm_multipliers),
        ("… routers", &steps.gradient_norm_routers),
        ("clip scale", &steps.clip_scale),
        ("learning rate, weights", &steps.learning_rate_weights),
        ("learning rate, masks", &steps.learning_rate_masks),
        ("learning rate, routers", &steps.learning_rate_routers),
        ("tokens/s in each step", &steps.tokens_per_second),
    ];
    let domains = steps.domains.iter().map(|domain| (format!("loss, {}", domain.domain), &domain.loss));
    let multipliers = steps.modules.iter().flat_map(|module| {
        let named = |name: &str| format!("{name}, {}", module.module);
        [(named("λ1"), &module.lambda_1), (named("λ2"), &module.lambda_2)]
    });
    // A sum of one part is that part.
    let sums = [
        ("loss, total", steps.loss_total == steps.loss_cross_entropy),
        ("… weights", steps.gradient_norm_weights == steps.gradient_norm_total),
    ];
    let told = |name: &str| !sums.contains(&(name, true));
    let columns = columns.into_iter().filter(|(name, _)| told(name)).map(|(name, column)| (name.to_string(), column));
    let columns = columns.chain(domains).chain(multipliers);
    for (name, column) in columns.filter(|(_, column)| column.iter().any(Option::is_some)) {
        table.row(std::iter::once(name).chain(range(column)).chain([sparkline(column, width)]));
    }
    table
}

fn range(column: &Column) -> [String; 4] {
    let known = || column.iter().copied().flatten();
    let (first, last) = ends(column);
    [first, last, known().reduce(f64::min), known().reduce(f64::max)].map(short)
}

/// A number of any size in few characters.
pub(super) fn short(value: Option<f64>) -> String {
    match value {
        Some(value) if value != 0.0 && value.abs() < 1e-3 => format!("{value:.1e}"),
        Some(value) if value.abs() >= 1e4 => grouped(value.round() as i128),
        _ => optional(value, 4),
    }
}

/// About `most` of `count` indices, with the first and the last.
pub(super) fn sampled(count: usize, most: usize) -> Vec<usize> {
    let places = most.min(count);
    let mut indices: Vec<usize> =
        (0..places).map(|place| if places == 1 { 0 } else { place * (count - 1) / (places - 1) }).collect();
    indices.dedup();
    indices
}

/// Steps with what the optimiser saw.
pub(super) fn sampled_steps(history: &RunHistory) -> Table {
    let steps = &history.steps;
    let mut table = Table::new([
        "step",
        "tokens",
        "cross entropy",
        "Lagrangian",
        "sparsity",
        "target",
        "gradient norm",
        "learning rate",
        "tokens/s",
    ]);
    for index in sampled(steps.len(), SAMPLES) {
        let at = |column: &Column| column.get(index).copied().flatten();
        let skipped = steps.applied.get(index) == Some(&false);
        table.row([
            format!("{}{}", steps.step.get(index).map_or("0".to_string(), step), if skipped { " skipped" } else { "" }),
            at(&steps.tokens).map_or("–".to_string(), |tokens| grouped(tokens as i128)),
            optional(at(&steps.loss_cross_entropy), 4),
            optional(at(&steps.loss_lagrangian), 4),
            optional(at(&steps.sparsity_expected), 4),
            optional(at(&steps.sparsity_target), 4),
            optional(at(&steps.gradient_norm_total), 3),
            short(at(&steps.learning_rate_weights)),
            at(&steps.tokens_per_second).map_or("–".to_string(), |rate| grouped(rate.round() as i128)),
        ]);
    }
    table.without_empty_columns()
}

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

pub(super) fn step(step: &u64) -> String {
    grouped(i128::from(*step))
}

/// What happened to each domain.
pub(super) fn stories(history: &RunHistory) -> Table {
    let mut table = Table::new([
        "domain",
        "source",
        "just cut",
        "degraded by",
        "last",
        "recovered",
        "first share",
        "last share",
        "rows",
        "epochs",
    ]);
    let loss = |loss: Option<HeldOutLoss>| optional(loss.map(|loss| loss.loss), 4);
    for story in &history.stories {
        table.row([
            story.domain.clone(),
            loss(story.source),
            loss(story.cut),
            story.degradation.map_or("–".to_string(), |degradation| format!("{degradation:+.1} SE")),
            loss(story.last),
            story.recovered.map_or("–".to_string(), |share| format!("{:.0} %", 100.0 * share)),
            optional(story.first_proportion, 3),
            optional(story.last_proportion, 3),
            story.rows.map_or("–".to_string(), |rows| grouped(rows as i128)),
            optional(story.epochs, 2),
        ]);
    }
    table.without_empty_columns()
}

/// The mix over time; empty where it never moved, for the domains' table has the shares.
pub(super) fn proportions(history: &RunHistory, width: usize) -> Table {
    let moved = history.steps.domains.iter().any(|domain| {
        let mut shares = domain.proportion.iter().flatten();
        let first = shares.next();
        shares.any(|share| Some(share) != first)
    });
    if !moved {
        return Table::default();
    }
    with_places(width, |most| proportions_at(history, most))
}

fn proportions_at(history: &RunHistory, most: usize) -> Table {
    let (steps, width) = (&history.steps, PROPORTION_TREND);
    let places = sampled(steps.len(), most);
    let numbers = places.iter().filter_map(|index| steps.step.get(*index)).map(step);
    let names = std::iter::once("domain, at step".to_string());
    let mut table = Table::new(names.chain(numbers).chain(["trend".to_string()]));
    for domain in &steps.domains {
        let shares = places.iter().map(|index| optional(domain.proportion.get(*index).copied().flatten(), 3));
        let trend = sparkline(&domain.proportion, width);
        table.row(std::iter::once(domain.domain.clone()).chain(shares).chain([trend]));
    }
    table
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

/// The constraint by mask.
pub(super) fn constraints(history: &RunHistory, width: usize) -> Table {
    with_trends(width, |trend| constraints_with(history, trend))
}

fn constraints_with(history: &RunHistory, width: usize) -> Table {
    let mut table = Table::new(["mask", "expected", "target", "violation", "worst row", "λ1", "λ2", "trend"]);
    let last = |column: &Column| optional(ends(column).1, 4);
    for module in &history.steps.modules {
        table.row([
            module.module.clone(),
            last(&module.expected_sparsity),
            last(&module.target_sparsity),
            last(&module.violation),
            last(&module.worst_row_violation),
            last(&module.lambda_1),
            last(&module.lambda_2),
            sparkline(&module.violation, width),
        ]);
    }
    table
}

/// Units between open and closed, at about ten snapshots.
pub(super) fn polarisation(history: &RunHistory) -> Table {
    let snapshots = &history.snapshots;
    let modules: Vec<_> = snapshots.last().map(|last| last.undecided.keys().copied().collect()).unwrap_or_default();
    let names = modules.iter().map(|module| module.to_string());
    let mut table =
        Table::new(std::iter::once("step".to_string()).chain(names).chain(["expected sparsity".to_string()]));
    for snapshot in sampled(snapshots.len(), SAMPLES).into_iter().filter_map(|index| snapshots.get(index)) {
        let counts =
            modules.iter().map(|module| snapshot.undecided.get(module).map_or("–".to_string(), |n| grouped(*n)));
        let sparsity = format!("{:.4}", snapshot.expected_sparsity);
        table.row(std::iter::once(step(&snapshot.step)).chain(counts).chain([sparsity]));
    }
    table
}

/// When each mask had found its units.
pub(super) fn settled(history: &RunHistory) -> Table {
    let mut table =
        Table::new(["mask", "keeps the same units from step", "under 1 % undecided from step", "undecided at the end"]);
    let from = |from: Option<u64>| from.map_or("none so far".to_string(), |from| step(&from));
    for settled in &history.settled {
        let undecided: usize = settled.rows.iter().filter(|row| !row.removed).map(|row| row.undecided).sum();
        table.row([
            settled.module.to_string(),
            from(settled.same_units_from),
            from(settled.decided_from),
            grouped(undecided as i64),
        ]);
    }
    table
}

/// The first events, a line each; checkpoints are in the headline already.
pub(super) fn events(history: &RunHistory) -> String {
    let told: Vec<_> = history.events.iter().filter(|event| event.kind != "save").collect();
    let mut text: String = told
        .iter()
        .take(LISTED_EVENTS)
        .map(|event| format!("step {:>7}  {}\n", step(&event.step), event.text))
        .collect();
    if told.len() > LISTED_EVENTS {
        text.push_str(&format!("{} more in --json\n", told.len() - LISTED_EVENTS));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{DomainSteps, ModuleSteps};

    /// A long prune run over eleven domains with long names, whose mix moves.
    fn long() -> RunHistory {
        let count = 2000;
        let column = |value: &dyn Fn(u64) -> f64| -> Column { (0..count).map(|at| Some(value(at))).collect() };
        let names: Vec<String> = (0..11).map(|at| format!("stackexchange{at}")).collect();
        let mut history = RunHistory { domains: names.clone(), ..RunHistory::default() };
        let steps = &mut history.steps;
        steps.step = (0..count).map(|at| 1_000_000 + at).collect();
        steps.loss_cross_entropy = column(&|at| 12.0 - at as f64 / 1e3);
        steps.loss_total = column(&|at| 14.0 - at as f64 / 1e3);
        steps.expected_parameters = column(&|at| 134_515_008.0 - at as f64);
        steps.domains = names
            .iter()
            .map(|name| DomainSteps {
                domain: name.clone(),
                proportion: column(&|at| 0.09 + 1e-5 * at as f64),
                ..DomainSteps::default()
            })
            .collect();
        let module = ModuleSteps {
            module: "intermediate".into(),
            expected_sparsity: column(&|at| at as f64 / 4e3),
            violation: column(&|at| -0.1 + at as f64 / 4e4),
            lambda_1: column(&|_| -131.0629),
            ..ModuleSteps::default()
        };
        steps.modules = vec![module];
        let empty = Evaluation::default();
        let evaluation = |at: u64| {
            let mut evaluation = empty.clone();
            (evaluation.step, evaluation.mean_loss) = (1_000_000 + 100 * at, Some(12.5));
            evaluation
        };
        history.evaluations = (0..20).map(evaluation).collect();
        history
    }

    #[test]
    fn tables_keep_within_the_terminal_and_use_it() {
        let history = long();
        for width in [80, 100, 140] {
            for table in [
                curves(&history, width),
                validation(&history, width),
                proportions(&history, width),
                constraints(&history, width),
            ] {
                assert!(!table.is_empty() && table.width() <= width, "{} of {width}:\n{table}", table.width());
            }
            assert!(curves(&history, width).width() + 30 > width, "trends take what is left");
        }
        let wide = validation(&history, 1000).to_string();
        let heading = wide.lines().next().unwrap();
        assert!(heading.contains("1,000,000") && heading.contains("1,001,900"), "{heading}");
        let narrow = validation(&history, 80).to_string();
        assert!(narrow.lines().next().unwrap().contains("1,001,900"), "the last one is always there: {narrow}");
    }

    #[test]
    fn the_tables_of_evaluations_show_the_same_steps_and_say_how_many() {
        let mut history = long();
        for evaluation in &mut history.evaluations {
            evaluation.step -= 1_000_000;
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

    #[test]
    fn a_mix_that_never_moved_and_columns_without_numbers_are_left_out() {
        let mut history = long();
        history.steps.domains.iter_mut().for_each(|domain| domain.proportion.fill(Some(0.1)));
        assert!(proportions(&history, 100).is_empty());
        let steps = sampled_steps(&history).to_string();
        let heading = steps.lines().next().unwrap();
        assert!(heading.contains("cross entropy") && !heading.contains("tokens/s") && !heading.contains("target"));
        let same = history.steps.loss_total.clone();
        assert!(curves(&history, 100).to_string().contains("loss, total"));
        history.steps.loss_cross_entropy = same;
        assert!(!curves(&history, 100).to_string().contains("loss, total"), "a sum of one part");
    }
}
