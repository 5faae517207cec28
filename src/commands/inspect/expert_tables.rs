//! The tables of `inspect run` for a run of `lte train`: how many experts run, for whom, and what that costs in loss.

use super::run_tables::{SAMPLES, sampled, short, step};
use crate::cli::table::{Table, grouped, optional};
use crate::inspect::experts::target_after;
use crate::inspect::{Column, EvaluatedExperts, Evaluation, ExpertLoss, NamedShare, RunHistory};

/// Layers in a row of the table.
const LAYERS_IN_ROW: usize = 8;

fn percent(share: Option<f64>) -> String {
    let text = optional(share.map(|share| 100.0 * share), 1);
    if text == "–" { text } else { format!("{text} %") }
}

/// Evaluations that say which experts ran.
fn routed(history: &RunHistory) -> Vec<(&Evaluation, &EvaluatedExperts)> {
    history.evaluations.iter().filter_map(|evaluation| Some((evaluation, evaluation.experts.as_ref()?))).collect()
}

/// Density over about ten evaluations.
pub(super) fn evaluations(history: &RunHistory) -> Table {
    let routed = routed(history);
    let unions: Vec<&str> = routed.last().map_or(vec![], |(_, last)| last.unions.iter().map(name).collect());
    let names = ["after step", "density", "asked", "near threshold", "always on", "always off"].map(String::from);
    let unions_of = unions.iter().map(|rows| format!("{rows} rows"));
    let mut table = Table::new(names.into_iter().chain(unions_of));
    for (evaluation, experts) in
        sampled(routed.len(), SAMPLES).into_iter().filter_map(|index| routed.get(index).copied())
    {
        let union = |rows: &&str| experts.unions.iter().find(|union| union.name == **rows).and_then(|u| u.density);
        let numbers = [
            experts.density,
            target_after(&history.steps, evaluation.step),
            experts.near_threshold,
            experts.always_on,
            experts.always_off,
        ];
        let shares = numbers.into_iter().chain(unions.iter().map(union)).map(percent);
        table.row(std::iter::once(step(&evaluation.step)).chain(shares));
    }
    table
}

fn name(share: &NamedShare) -> &str {
    &share.name
}

/// The losses that an `lte` run is judged by, in their order.
pub(super) fn losses(history: &RunHistory) -> Table {
    let mut table = Table::new(["held-out loss", "after step", "mean", "over dense"]);
    let Some(experts) = &history.experts else { return table };
    let rows = [
        ("dense, as it began", experts.dense),
        ("end of stage 1, experts times scores", experts.soft),
        ("end of stage 1, chosen experts", experts.switch),
        ("last, chosen experts", experts.last),
    ];
    let over = |loss: ExpertLoss| experts.dense.map(|dense| format!("{:+.4}", loss.loss - dense.loss));
    for (what, loss) in rows.into_iter().filter_map(|(what, loss)| Some((what, loss?))) {
        let over = over(loss).filter(|_| Some(loss) != experts.dense).unwrap_or("–".to_string());
        table.row([what.to_string(), step(&loss.step), optional(Some(loss.loss), 4), over]);
    }
    table
}

/// Density by layer at the last evaluation, several layers in a row.
pub(super) fn layers(history: &RunHistory) -> Table {
    let last = routed(history).last().map_or(&[] as &[NamedShare], |(_, last)| &last.layers);
    let columns = LAYERS_IN_ROW.min(last.len());
    let header = std::iter::once("from layer".to_string()).chain((0..columns).map(|column| format!("+{column}")));
    let mut table = Table::new(header);
    for row in last.chunks(LAYERS_IN_ROW) {
        let first = row.first().map_or(String::new(), |layer| layer.name.clone());
        table.row(std::iter::once(first).chain(row.iter().map(|layer| percent(layer.density))));
    }
    table
}

/// By domain: the loss of the dense model and of the chosen experts, the density, and the text that was trained on.
pub(super) fn domains(history: &RunHistory) -> Table {
    let mut table =
        Table::new(["domain", "dense", "last", "cost", "density", "share first", "share last", "rows", "epochs"]);
    let routed = routed(history);
    let Some((last, experts)) = routed.last() else { return table };
    let dense = history.evaluations.iter().find(|evaluation| evaluation.step == 0 && evaluation.runs_all_units());
    for story in &history.stories {
        let loss = |evaluation: Option<&Evaluation>| evaluation?.domain(&story.domain)?.loss;
        let (dense, last) = (loss(dense), loss(Some(last)));
        let cost = dense.zip(last).map_or("–".to_string(), |(dense, last)| format!("{:+.4}", last - dense));
        table.row([
            story.domain.clone(),
            optional(dense, 4),
            optional(last, 4),
            cost,
            percent(experts.domain(&story.domain)),
            optional(story.first_proportion, 3),
            optional(story.last_proportion, 3),
            story.rows.map_or("–".to_string(), |rows| grouped(rows as i128)),
            optional(story.epochs, 2),
        ]);
    }
    table
}

/// Steps with what the routers and their optimiser saw.
pub(super) fn sampled_steps(history: &RunHistory) -> Table {
    let steps = &history.steps;
    let mut table = Table::new([
        "step",
        "tokens",
        "cross entropy",
        "density",
        "asked",
        "near threshold",
        "stage",
        "norm, weights",
        "norm, routers",
        "rate, weights",
        "rate, routers",
        "tokens/s",
    ]);
    for index in sampled(steps.len(), SAMPLES) {
        let at = |column: &Column| column.get(index).copied().flatten();
        let whole = |value: Option<f64>| value.map_or("–".to_string(), |value| grouped(value.round() as i128));
        let skipped = if steps.applied.get(index) == Some(&false) { " skipped" } else { "" };
        table.row([
            format!("{}{skipped}", steps.step.get(index).map_or("0".to_string(), step)),
            whole(at(&steps.tokens)),
            optional(at(&steps.loss_cross_entropy), 4),
            percent(at(&steps.router_density)),
            percent(at(&steps.router_density_target)),
            percent(at(&steps.router_near_threshold)),
            whole(at(&steps.router_stage)),
            optional(at(&steps.gradient_norm_weights), 3),
            optional(at(&steps.gradient_norm_routers), 3),
            short(at(&steps.learning_rate_weights)),
            short(at(&steps.learning_rate_routers)),
            whole(at(&steps.tokens_per_second)),
        ]);
    }
    table
}
