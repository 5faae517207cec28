//! Answers from the masks: what was kept, whether the constraint held, when it was decided, whether the exported model
//! matches the masked one.

use super::{Answer, Verdict};
use crate::hf::KeptLayer;
use crate::inspect::columns::ends;
use crate::inspect::{ModuleSteps, RunHistory, SurvivingLayer, WrittenEquivalence};
use crate::report::figures::shape_differences;
use crate::report::number::{Unit, grouped, listed, ranges, significant};
use crate::words::{counted, thousands};
use serde_json::Value;

/// Expected and target sparsity may differ by so much; the same as for the choice of the best checkpoint.
const TOLERANCE: f64 = crate::inspect::notes::CONSTRAINT_TOLERANCE;
/// The question of what is left.
pub(super) const WHICH_KEPT: &str = "Which layers and heads were kept?";
/// Layers whose heads are named one by one.
const NAMED_LAYERS: usize = 8;

pub(super) fn survivors(history: &RunHistory) -> Answer {
    let Some(survivors) = &history.survivors else {
        return Answer::new(
            "survivors",
            WHICH_KEPT,
            Verdict::Open,
            "No mask file can be read, so this cannot be said.",
        );
    };
    let kept = indices(survivors.layers.iter().map(|layer| layer.source_layer));
    let (source, target) = (&survivors.source, &survivors.target);
    let answer = match survivors.removed_layers.is_empty() {
        true => format!("All {} layers are kept.", source.num_hidden_layers),
        false => format!("{} of {} layers are kept: {}.", kept.len(), source.num_hidden_layers, ranges(&kept)),
    };
    let mut points = Vec::new();
    if !survivors.removed_layers.is_empty() {
        points.push(format!("Removed: {}.", ranges(&indices(survivors.removed_layers.iter().copied()))));
    }
    points.push(format!(
        "Each kept layer has {} of {} query heads and {} of {} MLP units left; {} of {} hidden dimensions are kept.",
        target.num_attention_heads,
        source.num_attention_heads,
        grouped(target.intermediate_size),
        grouped(source.intermediate_size),
        grouped(survivors.hidden as i64),
        grouped(source.hidden_size)
    ));
    if target.num_attention_heads < source.num_attention_heads {
        let heads = |layer: &SurvivingLayer| heads_of(layer.source_layer, &layer.heads);
        match survivors.layers.len() <= NAMED_LAYERS {
            true => points.extend(survivors.layers.iter().map(heads)),
            false => points.push("The heads of each layer are in the table under Masks.".to_string()),
        }
    }
    points.extend(half_alive_layers(history));
    points.push(format!("From the masks of step {} ({}).", thousands(survivors.step), survivors.path));
    Answer::new("survivors", WHICH_KEPT, Verdict::Fact, answer).with(points)
}

/// Layers that the cut keeps although their gate is more closed than open: kept they are, and it costs.
fn half_alive_layers(history: &RunHistory) -> Option<String> {
    let last = history.snapshots.last()?;
    let gates = last.layers.iter().zip(&last.kept_layers).enumerate();
    let half_alive: Vec<usize> = gates.filter(|(_, (gate, kept))| **kept && **gate < 0.5).map(|(at, _)| at).collect();
    let gates = |count: usize| if count == 1 { "its gate is" } else { "their gates are" };
    (!half_alive.is_empty())
        .then(|| format!("Kept, but half-alive ({} below 0.5): {}.", gates(half_alive.len()), ranges(&half_alive)))
}

/// What a one-shot cut kept: how many of each, and which layers and query heads.
pub(super) fn one_shot(history: &RunHistory) -> Answer {
    let size = |shape: &Value, key: &str| shape[key].as_i64().map_or("?".to_string(), grouped);
    let part = |(key, name): (&str, &str)| {
        format!("{} of {} {name}", size(&history.target_shape, key), size(&history.source_shape, key))
    };
    let parts = [
        ("num_hidden_layers", "layers"),
        ("num_attention_heads", "query heads"),
        ("intermediate_size", "MLP units"),
        ("hidden_size", "hidden dimensions"),
    ];
    let answer = format!("A one-shot cut without training: it kept {}.", listed(&parts.map(part)));
    let written = history.written.as_ref();
    let mut points = written.and_then(|written| written.kept.as_deref()).map_or_else(
        || vec!["It has no masks, and which ones it kept is not on its card: an earlier version wrote it.".to_string()],
        |kept| kept_units(kept, history.source_shape["num_attention_heads"].as_u64()),
    );
    if let Some(cut) = written.and_then(|written| written.cut) {
        let rows = counted(cut.rows, "held-out row");
        points.push(format!("Loss on {rows}: {:.4} before the cut, {:.4} after.", cut.source, cut.cut));
    }
    Answer::new("survivors", WHICH_KEPT, Verdict::Fact, answer).with(points)
}

/// Layers and query heads that the card of a cut names.
fn kept_units(kept: &[KeptLayer], heads_before: Option<u64>) -> Vec<String> {
    let layers = indices(kept.iter().map(|layer| layer.source_layer));
    let mut points = vec![format!("Layers of the model that was cut: {}.", ranges(&layers))];
    if kept.iter().all(|layer| Some(layer.heads.len() as u64) == heads_before) {
        return points;
    }
    match kept.len() <= NAMED_LAYERS {
        true => points.extend(kept.iter().map(|layer| heads_of(layer.source_layer, &layer.heads))),
        false => points.push("The heads of each layer: `shearling inspect run`.".to_string()),
    }
    points
}

/// The query heads of a layer, for a sentence of their own.
fn heads_of(layer: i64, heads: &[i64]) -> String {
    format!("Layer {layer}: heads {}.", ranges(&indices(heads.iter().copied())))
}

fn indices(numbers: impl Iterator<Item = i64>) -> Vec<usize> {
    numbers.filter_map(|number| usize::try_from(number).ok()).collect()
}

pub(super) fn constraint(history: &RunHistory) -> Answer {
    const QUESTION: &str = "Did the constraint hold?";
    let known: Vec<(&ModuleSteps, f64, f64)> = history.steps.modules.iter().filter_map(last_sizes).collect();
    let Some((worst, gap)) = worst(&known) else {
        return Answer::new(
            "constraint",
            QUESTION,
            Verdict::Open,
            "No step with masks is recorded, so this cannot be said.",
        );
    };
    // The steps that are recorded count: a damaged file may end before the masks do.
    let recorded = history.steps.step.last().copied().unwrap_or(0);
    let at = thousands(recorded);
    let finished = history.planned_steps.is_some_and(|planned| recorded >= planned);
    let size = significant(gap.abs(), 2);
    let side = if gap > 0.0 { "above" } else { "below" };
    let (verdict, answer) = match (gap.abs() <= TOLERANCE, finished) {
        (true, true) => (
            Verdict::Good,
            format!(
                "Yes: every mask ended within {TOLERANCE} of its target sparsity; the largest gap is {size} ({worst})."
            ),
        ),
        (false, true) => (Verdict::Bad, format!("No: {worst} ended {size} {side} its target sparsity.")),
        (true, false) => (
            Verdict::Open,
            format!(
                "So far: at step {at}, the last recorded one, every mask is within {TOLERANCE} of its target sparsity."
            ),
        ),
        (false, false) => (
            Verdict::Open,
            format!("Not yet: at step {at}, the last recorded one, {worst} is {size} {side} its target sparsity."),
        ),
    };
    let mut points: Vec<String> =
        known.iter().map(|(module, expected, target)| module_point(module, *expected, *target)).collect();
    // Early on and with large learning rates one update moves the masks visibly.
    points.push(format!(
        "Sparsities are those of the forward pass of step {at}; Masks below shows them after its update."
    ));
    points.push(shape_point(history));
    Answer::new("constraint", QUESTION, verdict, answer).with(points)
}

fn last_sizes(module: &ModuleSteps) -> Option<(&ModuleSteps, f64, f64)> {
    Some((module, ends(&module.expected_sparsity).1?, ends(&module.target_sparsity).1?))
}

/// The module that is farthest from its target, and by how much it is above.
fn worst(known: &[(&ModuleSteps, f64, f64)]) -> Option<(String, f64)> {
    let gap = |entry: &&(&ModuleSteps, f64, f64)| (entry.1 - entry.2).abs();
    let worst = known.iter().max_by(|a, b| gap(a).total_cmp(&gap(b)))?;
    Some((worst.0.module.clone(), worst.1 - worst.2))
}

fn module_point(module: &ModuleSteps, expected: f64, target: f64) -> String {
    let row = ends(&module.worst_row_violation).1;
    // A mask over all layers has one row: the mean.
    let by_layer = !matches!(module.module.as_str(), "layer" | "hidden");
    let row = row.filter(|row| by_layer && row.abs() > (expected - target).abs());
    let row = row.map_or(String::new(), |row| format!("; the worst layer is off by {}", significant(row.abs(), 2)));
    format!("{}: {} removed, target {}{row}.", module.module, Unit::Percent.text(expected), Unit::Percent.text(target))
}

fn shape_point(history: &RunHistory) -> String {
    match shape_differences(history) {
        Some(differences) if differences.is_empty() => "The exported model has exactly the target shape.".to_string(),
        Some(differences) => format!("The exported model differs from the target shape in {}.", listed(&differences)),
        None => "There is no exported model to compare with the target shape.".to_string(),
    }
}

pub(super) fn settled(history: &RunHistory) -> Answer {
    const QUESTION: &str = "When did the masks settle?";
    if history.snapshots.len() < 2 || history.settled.is_empty() {
        let answer = "It takes at least two readable mask snapshots to say, and there are fewer.";
        return Answer::new("settled", QUESTION, Verdict::Open, answer);
    }
    let moving: Vec<String> = history
        .settled
        .iter()
        .filter(|mask| mask.same_units_from.is_none())
        .map(|mask| mask.module.to_string())
        .collect();
    let last = history.settled.iter().filter_map(|mask| mask.same_units_from).max();
    let (verdict, answer) = match (moving.is_empty(), last) {
        (true, Some(step)) => {
            let step = thousands(step);
            (Verdict::Good, format!("From step {step} on no mask changes its set of kept units by more than 1 %."))
        }
        _ => (
            Verdict::Bad,
            format!(
                "Not all did: the set of kept units was still changing at the last snapshot in {}.",
                listed(&moving)
            ),
        ),
    };
    let counted = |number: usize| thousands(number as u64);
    let point = |mask: &crate::inspect::Settled| {
        let same = match mask.same_units_from {
            Some(step) => format!("keeps the same units from step {} on", thousands(step)),
            None => "changed its units up to the last snapshot".to_string(),
        };
        let decided = match mask.decided_from {
            Some(step) => format!("under 1 % of them undecided from step {} on", thousands(step)),
            None => {
                let stay = || mask.rows.iter().filter(|row| !row.removed);
                let (undecided, units) = (stay().map(|row| row.undecided).sum(), stay().map(|row| row.units).sum());
                format!("{} of {} undecided at the last snapshot", counted(undecided), counted(units))
            }
        };
        format!("{}: {same}; {decided}.", mask.module)
    };
    let mut points: Vec<String> = history.settled.iter().map(point).collect();
    points.push(format!(
        "From {} mask snapshots. Undecided is a unit, in the layers that are kept, whose gate is between 0.05 and 0.95.",
        history.snapshots.len()
    ));
    Answer::new("settled", QUESTION, verdict, answer).with(points)
}

pub(super) fn equivalence(history: &RunHistory) -> Answer {
    // A cut at once has no masks.
    let question = match history.one_shot {
        true => "Does the exported model match the masked source?",
        false => "Does the exported model match the masked one?",
    };
    let written = history.written.as_ref();
    let Some(check) = written.and_then(|written| written.equivalence.as_ref()) else {
        return Answer::new(
            "equivalence",
            question,
            Verdict::Open,
            "No comparison is recorded: no model has been exported yet.",
        );
    };
    let pairs = [("fold", check.folded, check.folded_bound), ("as written", check.written, check.written_bound)];
    let known = pairs.into_iter().filter_map(|(name, error, bound)| Some((name, error?, bound?)));
    let points = known.map(|(name, error, bound)| {
        format!(
            "{name}: the largest difference between logits is {} of the largest logit; allowed {}.",
            Unit::Plain.text(error),
            Unit::Plain.text(bound)
        )
    });
    let mut points: Vec<String> = points.collect();
    points.extend(rounding_point(check));
    if goes_against_gates(history) {
        // A warning about the cut stands below this answer, and is no doubt of it.
        let what = "Both are cut to the target: what the cut removed is closed in both. What the cut itself changed is under \
                    Warnings, and in the gap between the held-out losses.";
        points.push(what.to_string());
    }
    let (verdict, answer) = match check.verdict() {
        None => (Verdict::Open, "The comparison is recorded without numbers."),
        Some(true) if history.one_shot => {
            (Verdict::Good, "Yes: on real rows its logits match those of the source with what was cut closed.")
        }
        Some(true) => (
            Verdict::Good,
            "Yes: on real rows its logits match those of the masked model when that is cut to the target.",
        ),
        Some(false) if history.one_shot => {
            (Verdict::Bad, "Not proven: it differs from the source with what was cut closed by more than is allowed.")
        }
        Some(false) => {
            (Verdict::Bad, "Not proven: it differs from the masked model, cut to the target, by more than is allowed.")
        }
    };
    Answer::new("equivalence", question, verdict, answer).with(points)
}

/// A smaller change of the loss is none.
const LEAST_CHANGE: f64 = 1e-4;

/// What the dtype of the files costs, in loss and next-token distribution.
fn rounding_point(check: &WrittenEquivalence) -> Option<String> {
    let (loss, kl) = (check.loss_change?, check.mean_kl?);
    let source = check
        .source_mean_kl
        .map_or(String::new(), |kl| format!(" (the same rounding of the masked model: {})", Unit::Plain.text(kl)));
    Some(format!(
        "storing the weights: changes the loss by {}, KL divergence of the next token {}{source}.",
        if loss.abs() < LEAST_CHANGE { format!("less than {LEAST_CHANGE}") } else { format!("{loss:+.4}") },
        Unit::Plain.text(kl)
    ))
}

/// Whether the cut keeps units that are nearly closed, or removes open ones, in the layers that stay.
fn goes_against_gates(history: &RunHistory) -> bool {
    let rows = history.settled.iter().flat_map(|settled| &settled.rows);
    rows.filter(|row| !row.removed).any(|row| row.half_alive > 0 || row.still_open > 0)
}
