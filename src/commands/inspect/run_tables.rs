//! The tables of `inspect run`. Long histories are sampled at about ten places, always with the first and the last; a
//! curve beside them shows what lies between.

use crate::cli::sparkline::sparkline;
use crate::cli::table::{Table, grouped, optional};
use crate::inspect::columns::ends;
use crate::inspect::{Column, HeldOutLoss, RunHistory};

/// Places of a history that a table shows.
pub(super) const SAMPLES: usize = 10;
/// Fewest, however narrow the terminal is.
pub(super) const LEAST_SAMPLES: usize = 3;
/// Events that are listed.
const LISTED_EVENTS: usize = 20;

/// Curves of the multipliers.
const OF_MULTIPLIERS: [&str; 2] = ["loss, Lagrangian", "… multipliers"];
/// Violations that are shown as 0.0000 have no trend.
const LEAST_VIOLATION: f64 = 5e-5;

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
        [(named("λ1"), &module.lambda_1), (named("λ2"), &module.lambda_2)].into_iter().filter(|(_, c)| !is_unused(c))
    });
    // A sum of one part is that part.
    let sums = [
        ("loss, total", steps.loss_total == steps.loss_cross_entropy),
        ("… weights", steps.gradient_norm_weights == steps.gradient_norm_total),
    ];
    // Masks with an exact count have no multipliers; their records hold zeros.
    let unused = |name: &str, column: &Column| OF_MULTIPLIERS.contains(&name) && is_unused(column);
    let told = |name: &str| !sums.contains(&(name, true));
    let columns = columns
        .into_iter()
        .filter(|(name, column)| told(name) && !unused(name, column))
        .map(|(name, column)| (name.to_string(), column));
    let columns = columns.chain(domains).chain(multipliers);
    for (name, column) in columns.filter(|(_, column)| column.iter().any(Option::is_some)) {
        table.row(std::iter::once(name).chain(range(column)).chain([sparkline(column, width)]));
    }
    table
}

/// Whether nothing but zeros is recorded.
pub(super) fn is_unused(column: &Column) -> bool {
    column.iter().flatten().all(|value| *value == 0.0)
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

pub(super) fn step(step: &u64) -> String {
    grouped(i128::from(*step))
}

/// What happened to each domain.
pub(super) fn stories(history: &RunHistory) -> Table {
    // Errors of two means that are taken as independent are larger than those of the differences row by row.
    let paired = history.stories.iter().all(|story| story.paired || story.degradation_tenths().is_none());
    let mut table = Table::new([
        "domain",
        "source",
        "just cut",
        if paired { "degraded by" } else { "degraded by (unpaired)" },
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
            story.degradation_tenths().map_or("–".to_string(), |errors| format!("{errors:+.1} SE")),
            loss(story.last),
            story.recovered.map_or("–".to_string(), |share| format!("{:.0} %", 100.0 * share)),
            story.first_proportion.map_or("–".to_string(), |share| format!("{:.1} %", 100.0 * share)),
            story.last_proportion.map_or("–".to_string(), |share| format!("{:.1} %", 100.0 * share)),
            story.rows.map_or("–".to_string(), |rows| grouped(rows as i128)),
            optional(story.epochs, 3),
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

/// The constraint by mask.
pub(super) fn constraints(history: &RunHistory, width: usize) -> Table {
    with_trends(width, |trend| constraints_with(history, trend))
}

fn constraints_with(history: &RunHistory, width: usize) -> Table {
    let mut table = Table::new(["mask", "expected", "target", "violation", "worst row", "λ1", "λ2", "trend"]);
    let last = |column: &Column| optional(ends(column).1, 4);
    let multiplier = |column: &Column| if is_unused(column) { "–".to_string() } else { last(column) };
    for module in &history.steps.modules {
        let violated = module.violation.iter().flatten().any(|value| value.abs() >= LEAST_VIOLATION);
        table.row([
            module.module.clone(),
            last(&module.expected_sparsity),
            last(&module.target_sparsity),
            last(&module.violation),
            last(&module.worst_row_violation),
            multiplier(&module.lambda_1),
            multiplier(&module.lambda_2),
            if violated { sparkline(&module.violation, width) } else { String::new() },
        ]);
    }
    table.without_empty_columns()
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
    use super::super::evaluation_tables::validation;
    use super::*;
    use crate::inspect::{DomainSteps, Evaluation, ModuleSteps};

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
    fn multipliers_that_are_never_used_are_not_shown() {
        let mut history = long();
        let constrained = constraints(&history, 100).to_string();
        assert!(constrained.contains("λ1") && constrained.contains("trend"), "{constrained}");
        let count = history.steps.len();
        history.steps.loss_lagrangian = vec![Some(0.0); count];
        let module = &mut history.steps.modules[0];
        (module.lambda_1, module.lambda_2) = (vec![Some(0.0); count], vec![Some(0.0); count]);
        module.violation = vec![Some(8e-8); count];
        let text = curves(&history, 100).to_string() + &constraints(&history, 100).to_string();
        for shown in ["λ", "Lagrangian", "▁▁"] {
            assert!(!constraints(&history, 100).to_string().contains(shown), "{shown} in {text}");
        }
        assert!(!text.contains("λ") && !text.contains("Lagrangian"), "{text}");
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
