//! What a reader of a run should know first: what is missing or damaged, and where the run did not end as it should.
//! Judgements only; the numbers are in the history.

use super::columns::{Column, ends};
use super::evaluations::ModulePolarisation;
use super::events::Event;
use super::experts::{DENSITY_TOLERANCE, STATIC_SHARE};
use super::history::RunHistory;
use super::note::Note;
use super::recorded::Recorded;
use super::settling::Settled;
pub use crate::train::evaluation::CONSTRAINT_TOLERANCE;
use crate::words::{counted, plural, thousands};

/// Steps that a note names.
const NAMED_STEPS: usize = 5;

/// About the metrics file itself.
pub(super) fn of_lines(recorded: &Recorded) -> Vec<Note> {
    let mut notes = Vec::new();
    if recorded.damaged.count > 0 {
        let (count, lines) = (recorded.damaged.count, &recorded.damaged);
        notes.push(Note::warning(format!("metrics.jsonl: {lines} cut or damaged and left out ({count} in all)")));
    }
    if recorded.too_long.count > 0 {
        notes.push(Note::warning(format!("metrics.jsonl: {} too long and left out", recorded.too_long)));
    }
    if recorded.went_back.count > 0 {
        let lines = &recorded.went_back;
        notes.push(Note::warning(format!(
            "metrics.jsonl: {lines} went back to an earlier step; the later history counts"
        )));
    }
    if let Some(line) = recorded.cut_at_end {
        notes.push(Note::warning(format!(
            "metrics.jsonl: the last line ({line}) is cut and left out: the run is writing it, or was stopped while it \
             did"
        )));
    }
    if recorded.beyond > 0 {
        let records = counted(recorded.beyond, "record");
        notes.push(Note::warning(format!("metrics.jsonl: {records} beyond what can be shown")));
    }
    for (kind, count) in &recorded.unknown {
        let (records, are) = (counted(*count, "record"), if *count == 1 { "is" } else { "are" });
        notes.push(Note::info(format!("metrics.jsonl: {records} of the unknown type {kind:?} {are} passed over")));
    }
    notes
}

/// About the run.
pub(super) fn of_history(history: &RunHistory) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(progress(history));
    notes.extend(skipped(history));
    notes.extend(clipped(history));
    notes.extend(overshoot(history));
    for kind in ["ended", "divergence", "not_saved", "mixer", "exhausted"] {
        notes.extend(told(history, kind));
    }
    notes.extend(routine(history));
    if history.is_prune() {
        notes.extend(constraint(history));
        notes.extend(polarisation(history));
        notes.extend(settling(history));
    }
    notes.extend(density(history));
    notes.extend(fixed_experts(history));
    notes.extend(published(history));
    notes.extend(resumes(history));
    if history.evaluations.is_empty() {
        notes.push(Note::info("no evaluation is recorded"));
    }
    if history.is_prune() && history.snapshots.is_empty() {
        notes.push(Note::warning("there is no readable mask snapshot: when the masks settled is not known"));
    }
    notes
}

/// The first events of a kind that asks for attention.
fn told(history: &RunHistory, kind: &str) -> Vec<Note> {
    let of_kind = || history.events.iter().filter(|event| event.kind == kind && !event.is_routine);
    let note = |event: &Event| Note::warning(format!("step {}: {}", thousands(event.step), event.text));
    let more = of_kind().count().saturating_sub(NAMED_STEPS) as u64;
    let rest = (more > 0)
        .then(|| Note::warning(format!("{} more {} `{kind}` in the history", thousands(more), plural(more, "event"))));
    of_kind().take(NAMED_STEPS).map(note).chain(rest).collect()
}

/// What a bounded mixer at its work told, once: earlier versions tell it of every domain.
fn routine(history: &RunHistory) -> Option<Note> {
    let event = history.events.iter().find(|event| event.is_routine)?;
    Some(Note::info(format!("step {}: {}", thousands(event.step), event.text)))
}

fn progress(history: &RunHistory) -> Option<Note> {
    let going_on = history.process.map(|process| format!("the run is running (process {process})"));
    let Some(recorded) = history.steps.step.last() else {
        return Some(match going_on {
            Some(running) => Note::info(format!("{running}: no step is finished yet")),
            None => Note::warning("no finished step is recorded"),
        });
    };
    let finished = history.finished_steps;
    if *recorded < finished {
        return Some(Note::warning(format!(
            "metrics.jsonl ends at step {}, but there are masks of step {}: later records are missing",
            thousands(*recorded),
            thousands(finished)
        )));
    }
    match history.planned_steps {
        None => Some(Note::warning("the planned number of steps is not recorded")),
        Some(planned) if finished < planned => {
            let (finished, planned) = (thousands(finished), counted(planned, "step"));
            Some(match going_on {
                Some(running) => Note::info(format!("{running}: {finished} of {planned}")),
                None => Note::warning(format!("the run is not finished: {finished} of {planned}")),
            })
        }
        Some(_) => None,
    }
}

fn skipped(history: &RunHistory) -> Option<Note> {
    let steps = history.skipped_steps();
    let named = named(&steps);
    let were = if steps.len() == 1 { "was" } else { "were" };
    let (skipped, all) = (thousands(steps.len() as u64), counted(history.steps.len() as u64, "update"));
    (!steps.is_empty()).then(|| Note::warning(format!("{skipped} of {all} {were} skipped (not finite): {named}")))
}

/// Steps from which on a run of clipped ones is no beginning any more.
const MANY_STEPS: usize = 20;

/// That clipping was the rule.
fn clipped(history: &RunHistory) -> Option<Note> {
    let scales: Vec<f64> = history.steps.clip_scale.iter().flatten().copied().collect();
    let clipped: Vec<f64> = scales.iter().copied().filter(|scale| *scale < 1.0).collect();
    if scales.len() < MANY_STEPS || 10 * clipped.len() < 9 * scales.len() {
        return None;
    }
    let (least, most) =
        clipped.iter().fold((1.0_f64, 0.0_f64), |(least, most), scale| (least.min(*scale), most.max(*scale)));
    let smallest = history.steps.clip_scale.iter().position(|scale| *scale == Some(least));
    let at_step = smallest.and_then(|at| history.steps.step.get(at));
    let at_step = at_step.map_or(String::new(), |step| format!(", the smallest at step {}", thousands(*step)));
    Some(Note::info(format!(
        "{} of {} were clipped to train.clip_norm (factors {} to {}{at_step}): usual for a model that was just cut. All clipped \
         steps then have the same gradient norm. A factor far below the others is a spike of the gradient norm; it does no harm while the \
         held-out loss keeps falling",
        thousands(clipped.len() as u64),
        counted(scales.len() as u64, "step"),
        factor(least),
        factor(most)
    )))
}

/// Small ones as powers of ten: 0.00 would be a step that did nothing.
fn factor(value: f64) -> String {
    if value < 0.01 { format!("{value:.1e}") } else { format!("{value:.2}") }
}

/// Whether the expected sizes were at their targets in the last step.
fn constraint(history: &RunHistory) -> Vec<Note> {
    let last = |column: &Column| ends(column).1;
    let missed = history.steps.modules.iter().filter_map(|module| {
        let violation = last(&module.violation).filter(|violation| violation.abs() > CONSTRAINT_TOLERANCE)?;
        let target = last(&module.target_sparsity)?;
        let side = if violation > 0.0 { "too much is closed" } else { "too little is closed" };
        Some(Note::warning(format!(
            "{}: the constraint does not hold at the last step: expected sparsity {:.3}, target {target:.3} ({side})",
            module.module,
            target + violation
        )))
    });
    missed.collect()
}

/// Whether the cut goes against the gates, in the layers that stay: by the last snapshot, or, without one, by the last
/// evaluation. That the exported model is the cut one is not doubted here.
fn polarisation(history: &RunHistory) -> Option<Note> {
    let (step, modules): (u64, Vec<AgainstGates>) = if let Some(last) = history.snapshots.last() {
        (last.step, history.settled.iter().map(AgainstGates::of_mask).collect())
    } else {
        let last = history.evaluations.iter().rev().find(|evaluation| !evaluation.modules.is_empty())?;
        let of = |module: &ModulePolarisation| AgainstGates {
            module: module.module.clone(),
            half_alive: module.half_alive.unwrap_or_default(),
            still_open: module.still_open.unwrap_or_default(),
        };
        (last.step, last.modules.iter().map(of).collect())
    };
    let done = [
        counted_by_module(&modules, |module| module.half_alive, "kept with a gate below 0.5"),
        counted_by_module(&modules, |module| module.still_open, "removed with a gate above 0.5"),
    ];
    let done: Vec<String> = done.into_iter().flatten().collect();
    (!done.is_empty()).then(|| {
        Note::warning(format!(
            "at step {} the cut to the target shape goes against some gates: {}. {}`shearling inspect masks` names the units",
            thousands(step),
            done.join("; "),
            cost_of_the_cut(history, step).map_or(String::new(), |cost| format!("The cut itself changes the loss by {cost:+.4}; "))
        ))
    })
}

/// Mean loss of the model cut to its target over that of the masked one, at `step`.
fn cost_of_the_cut(history: &RunHistory, step: u64) -> Option<f64> {
    let mean = |gates: &str| {
        history.evaluations.iter().rev().find(|found| found.step == step && found.gates == gates)?.mean_loss
    };
    Some(mean("target")? - mean("expected")?)
}

/// More of the model closed than the target asks for, on the way there.
const OVERSHOOT: f64 = 0.05;

/// What was closed too early was learned twice.
fn overshoot(history: &RunHistory) -> Option<Note> {
    let steps = &history.steps;
    let target = ends(&steps.sparsity_target).1.filter(|_| history.is_finished())?;
    let known = steps.step.iter().zip(&steps.sparsity_expected).filter_map(|(step, found)| Some((*step, (*found)?)));
    let (step, most) = known.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (most > target + OVERSHOOT).then(|| {
        Note::warning(format!(
            "on its way the run closed more than was asked: {:.1} % of the prunable parameters at step {}, the target is \
             {:.1} %. masks.anti_windup = true overshoots less, masks.preset = \"top-k\" not at all",
            100.0 * most,
            thousands(step),
            100.0 * target
        ))
    })
}

/// Units of the layers that stay whose gates say otherwise than the cut.
struct AgainstGates {
    module: String,
    half_alive: u64,
    still_open: u64,
}

impl AgainstGates {
    fn of_mask(settled: &Settled) -> AgainstGates {
        let rows = || settled.rows.iter().filter(|row| !row.removed);
        AgainstGates {
            module: settled.module.to_string(),
            half_alive: rows().map(|row| row.half_alive as u64).sum(),
            still_open: rows().map(|row| row.still_open as u64).sum(),
        }
    }
}

/// `12 units are kept with a gate below 0.5 (hidden 10, layer 2)`; nothing where there are none.
fn counted_by_module(modules: &[AgainstGates], count: fn(&AgainstGates) -> u64, what: &str) -> Option<String> {
    let all = modules.iter().map(count).fold(0u64, u64::saturating_add);
    let named = modules.iter().filter(|module| count(module) > 0);
    let named: Vec<String> = named.map(|module| format!("{} {}", module.module, thousands(count(module)))).collect();
    let are = if all == 1 { "is" } else { "are" };
    (all > 0).then(|| format!("{} {are} {what} ({})", counted(all, "unit"), named.join(", ")))
}

fn settling(history: &RunHistory) -> Option<Note> {
    let moving = |settled: &&Settled| settled.same_units_from.is_none();
    let module = |settled: &Settled| {
        // The number is that of the row that agrees least.
        let row = if settled.rows.len() > 1 { " in the layer that changed most" } else { "" };
        Some(format!("{} ({:.1} % in common{row})", settled.module, 100.0 * settled.last_two_agree?))
    };
    let modules: Vec<String> = history.settled.iter().filter(moving).filter_map(module).collect();
    let finished = history.is_finished();
    (!modules.is_empty()).then(|| {
        Note::warning(format!(
            "the set of kept units was still changing {}, between the last two snapshots: {}{}",
            if finished { "at the end" } else { "at the last evaluation" },
            modules.join(", "),
            if finished { "; more train.steps let it settle" } else { "" }
        ))
    })
}

/// Whether the share of units that was asked for runs.
fn density(history: &RunHistory) -> Option<Note> {
    let experts = history.experts.as_ref().filter(|_| history.is_finished())?;
    let (density, target) = (experts.density?, experts.target?);
    ((density - target).abs() > DENSITY_TOLERANCE).then(|| {
        Note::warning(format!(
            "{:.1} % of the units run on held-out rows, {:.1} % were asked for: if the text of the two differs, this is its \
             density; else more train.steps let it settle",
            100.0 * density,
            100.0 * target
        ))
    })
}

/// Whether most experts run for all tokens or for none.
fn fixed_experts(history: &RunHistory) -> Option<Note> {
    let last = history.evaluations.iter().rev().find_map(|evaluation| evaluation.experts.as_ref())?;
    let share = last.static_share().filter(|share| *share > STATIC_SHARE)?;
    Some(Note::warning(format!(
        "{:.0} % of the experts run for all tokens or for none: such a model is cheaper pruned (shearling prune), where what \
         never runs is gone",
        100.0 * share
    )))
}

fn published(history: &RunHistory) -> Option<Note> {
    match &history.written {
        None if history.is_finished() => {
            Some(Note::warning("the run is finished but wrote no model: `shearling export` writes one"))
        }
        Some(written) if !written.exists => {
            Some(Note::warning(format!("the model that the run wrote is gone: {}", written.path)))
        }
        _ => None,
    }
}

fn resumes(history: &RunHistory) -> Option<Note> {
    let steps: Vec<u64> =
        history.events.iter().filter(|event| event.kind == "resume").map(|event| event.step).collect();
    let times = if steps.len() == 1 { "once".to_string() } else { format!("{} times", steps.len()) };
    (!steps.is_empty()).then(|| Note::info(format!("resumed {times}, after {}", named(&steps))))
}

fn named(steps: &[u64]) -> String {
    let first = steps.iter().take(NAMED_STEPS).map(|step| thousands(*step)).collect::<Vec<_>>().join(", ");
    let more = if steps.len() > NAMED_STEPS { ", …" } else { "" };
    format!("{} {first}{more}", plural(steps.len() as u64, "step"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::evaluations::Evaluation;
    use crate::inspect::settling::SettledRow;
    use shearling_masks::UnitKind;

    #[test]
    fn what_the_cut_does_against_gates_is_one_warning_of_the_modules_where_it_does() {
        let module = |name: &str, [undecided, half_alive, still_open]: [u64; 3]| ModulePolarisation {
            module: name.into(),
            units: Some(200),
            undecided: Some(undecided),
            half_alive: Some(half_alive),
            still_open: Some(still_open),
            ..ModulePolarisation::default()
        };
        let of = |modules: Vec<ModulePolarisation>| {
            let mut evaluation = Evaluation::of_json(80, serde_json::json!({}));
            evaluation.modules = modules;
            polarisation(&RunHistory { evaluations: vec![evaluation], ..RunHistory::default() })
        };
        let note = of(vec![
            module("layer", [20, 0, 0]),
            module("kv_head", [3, 1, 2]),
            module("hidden", [0, 0, 0]),
            module("intermediate", [0, 0, 7]),
        ]);
        let text = note.unwrap().text;
        assert!(text.starts_with("at step 80 the cut to the target shape goes against some gates: "), "{text}");
        assert!(text.contains("1 unit is kept with a gate below 0.5 (kv_head 1); "), "{text}");
        assert!(text.contains("9 units are removed with a gate above 0.5 (kv_head 2, intermediate 7). "), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        assert!(of(vec![module("layer", [20, 0, 0])]).is_none(), "nothing went against a gate");
    }

    #[test]
    fn clipping_that_is_the_rule_is_a_note() {
        let of = |scales: &[f64]| {
            let mut history = RunHistory::default();
            history.steps.clip_scale = scales.iter().map(|scale| Some(*scale)).collect();
            history.steps.step = (1..=scales.len() as u64).collect();
            clipped(&history).map(|note| note.text)
        };
        let text = of(&[[0.25; 18].as_slice(), &[0.00384, 0.5, 1.0]].concat()).unwrap();
        let said = "20 of 21 steps were clipped to train.clip_norm (factors 3.8e-3 to 0.50, the smallest at step 19)";
        assert!(text.starts_with(said), "{text}");
        assert!(of(&[0.25; 19]).is_none() && of(&[[0.25; 10], [1.0; 10]].concat()).is_none());
    }

    #[test]
    fn how_much_two_snapshots_agree_is_said_of_the_layer_it_is_the_number_of() {
        let row = |row: usize| SettledRow {
            row,
            removed: false,
            same_units_from: None,
            decided_from: None,
            units: 10,
            undecided: 0,
            half_alive: 0,
            still_open: 0,
        };
        let note = |module, rows: usize| {
            let settled = Settled {
                module,
                same_units_from: None,
                decided_from: None,
                last_two_agree: Some(0.974),
                rows: (0..rows).map(row).collect(),
            };
            settling(&RunHistory { settled: vec![settled], ..RunHistory::default() }).unwrap().text
        };
        let layers = note(UnitKind::KvHead, 4);
        assert!(layers.contains("the set of kept units was still changing at the last evaluation"), "{layers}");
        assert!(layers.ends_with("kv_head (97.4 % in common in the layer that changed most)"), "{layers}");
        let one = note(UnitKind::Hidden, 1);
        assert!(one.ends_with("hidden (97.4 % in common)"), "{one}");
    }
}
