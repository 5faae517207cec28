//! What an `lte` run came to: how many of its experts ran, whether they are the same for all tokens, and what that cost in
//! loss. Read from the steps and evaluations of a history; `inspect run`, `report` and the notes say it.
//!
//! ```text
//! dense, step 0 (`plain`) ─► end of stage 1: `soft` beside `experts` ─► last evaluation (`experts`)
//! ```

use super::columns::{Steps, ends};
use super::evaluations::Evaluation;
use super::expert_history::{ExpertHistory, ExpertLoss};
use super::history::RunHistory;
use crate::eval::statistics::{Estimate, mean_of, paired_difference};

/// Experts that run for all tokens or for none, as a share of all, from which on choosing by token is in vain.
pub const STATIC_SHARE: f64 = 0.5;
/// Density at the last evaluation and the asked one may differ by so much: the one is of held-out rows, the other is held on
/// training rows.
pub const DENSITY_TOLERANCE: f64 = 0.03;

/// Of a history whose steps and evaluations are read; none where no routers are.
pub(super) fn of_run(history: &RunHistory) -> Option<ExpertHistory> {
    let (steps, evaluations) = (&history.steps, &history.evaluations);
    let routed = || evaluations.iter().filter(|evaluation| evaluation.experts.is_some());
    if routed().next().is_none() && ends(&steps.router_density).1.is_none() {
        return None;
    }
    let router_steps = stage_1(steps);
    let in_stage_1 = |evaluation: &&Evaluation| router_steps.is_none_or(|until| evaluation.step <= until);
    let switch = routed().rfind(in_stage_1).filter(|_| router_steps.is_some());
    let soft = evaluations.iter().rfind(|evaluation| evaluation.is_soft() && in_stage_1(evaluation));
    let dense = evaluations.iter().find(|evaluation| evaluation.step == 0 && evaluation.gates == "plain");
    let last = routed().next_back();
    let density = last.and_then(|last| last.experts.as_ref()?.density).or(ends(&steps.router_density).1);
    let cost = dense.zip(last).and_then(|(dense, last)| Some(last.mean_loss? - dense.mean_loss?));
    let paired = dense.zip(last).and_then(|(dense, last)| paired_cost(dense, last));
    Some(ExpertHistory {
        density,
        target: last.map_or(ends(&steps.router_density_target).1, |last| target_after(steps, last.step)),
        router_steps,
        dense: dense.and_then(loss_of),
        soft: soft.and_then(loss_of),
        switch: switch.and_then(loss_of),
        last: last.and_then(loss_of),
        cost,
        cost_standard_error: paired.and_then(|paired| paired.standard_error),
    })
}

fn loss_of(evaluation: &Evaluation) -> Option<ExpertLoss> {
    Some(ExpertLoss { step: evaluation.step, loss: evaluation.mean_loss? })
}

/// The last step in which routers trained, where one after it is recorded.
fn stage_1(steps: &Steps) -> Option<u64> {
    let frozen = steps.router_stage.iter().position(|stage| *stage == Some(2.0))?;
    steps.step.get(frozen).map(|step| step.saturating_sub(1))
}

/// The density asked for of the model after `step` steps: that of the step that runs next, or of the last one.
pub fn target_after(steps: &Steps, step: u64) -> Option<f64> {
    let next = steps.step.partition_point(|known| *known <= step);
    let at = |index: usize| steps.router_density_target.get(index).copied().flatten();
    at(next).or_else(|| at(steps.len().checked_sub(1)?))
}

/// `last` − `dense` over the domains, row by row, where the rows of both are recorded.
fn paired_cost(dense: &Evaluation, last: &Evaluation) -> Option<Estimate> {
    let of_domain = |name: &str| domain_cost(dense, last, name);
    let estimates = last.domains.iter().map(|domain| of_domain(&domain.domain)).collect::<Option<Vec<_>>>()?;
    mean_of(&estimates)
}

fn domain_cost(dense: &Evaluation, last: &Evaluation, name: &str) -> Option<Estimate> {
    paired_difference(&last.domain(name)?.row_losses, &dense.domain(name)?.row_losses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::record::{Record, What};
    use serde_json::{Value, json};

    fn eval(step: u64, gates: &str, rows: [f64; 2], density: Option<f64>) -> Evaluation {
        let mean = (rows[0] + rows[1]) / 2.0;
        let experts = density.map(|density| json!({ "density": density, "always_on": 0.25, "always_off": 0.125 }));
        let domain = json!({ "loss": mean, "row_losses": rows });
        Evaluation::of_json(
            step,
            json!({ "gates": gates, "mean_loss": mean, "domains": { "a": domain }, "experts": experts }),
        )
    }

    fn history(evaluations: Vec<Evaluation>) -> RunHistory {
        let mut history = RunHistory { evaluations, ..RunHistory::default() };
        for step in 1..=4u64 {
            let stage = if step <= 2 { 1 } else { 2 };
            let target = [1.0, 0.75, 0.5, 0.5][step as usize - 1];
            let fields: Value = json!({ "type": "step", "step": step,
                "routers": { "density": 0.9, "target": target, "near_threshold": 0.1, "stage": stage } });
            let What::Step(record) = Record::from(fields).what else { panic!("a step") };
            history.steps.push(step, &record);
        }
        history
    }

    #[test]
    fn losses_are_told_apart_by_how_the_model_was_run() {
        let whole = history(vec![
            eval(0, "plain", [1.0, 3.0], None),
            eval(1, "experts", [5.0, 5.0], Some(0.8)),
            eval(1, "soft", [4.0, 4.0], None),
            eval(2, "experts", [4.0, 4.0], Some(0.6)),
            eval(2, "soft", [2.0, 3.0], None),
            eval(4, "experts", [1.1, 3.3], Some(0.503)),
        ]);
        let found = of_run(&whole).unwrap();
        let at = |step: u64, loss: f64| Some(ExpertLoss { step, loss });
        assert_eq!((found.dense, found.soft), (at(0, 2.0), at(2, 2.5)));
        assert_eq!((found.switch, found.last, found.router_steps), (at(2, 4.0), at(4, 2.2), Some(2)));
        // Differences 0.1 and 0.3: mean 0.2, standard error 0.1.
        assert!((found.cost.unwrap() - 0.2).abs() < 1e-12 && (found.cost_standard_error.unwrap() - 0.1).abs() < 1e-12);
        let sentence = found.sentence().unwrap();
        let told = "runs 50.3 % of its units (asked: 50.0 %); loss +0.200 ± 0.100 over the dense model it began with";
        assert_eq!(sentence, told);
        let at_1 = of_run(&history(vec![eval(1, "experts", [5.0, 5.0], Some(0.8))])).unwrap();
        assert_eq!((at_1.target, at_1.cost), (Some(0.75), None), "asked for of the step that comes next");
    }

    #[test]
    fn a_run_without_routers_has_no_experts() {
        let plain = RunHistory { evaluations: vec![eval(0, "plain", [1.0, 2.0], None)], ..RunHistory::default() };
        assert_eq!(of_run(&plain), None);
        let mut trains = history(vec![]);
        trains.steps.router_stage = vec![Some(1.0); 4];
        let found = of_run(&trains).unwrap();
        assert_eq!((found.density, found.router_steps, found.switch), (Some(0.9), None, None));
        assert_eq!(found.sentence().unwrap(), "runs 90.0 % of its units (asked: 50.0 %)");
    }

    #[test]
    fn shares_of_a_strange_record_do_no_harm() {
        let strange = json!({ "experts": { "density": "half", "layers": { "0": [], "1\n": 0.5 }, "unions": 3 } });
        let found = Evaluation::of_json(1, strange).experts.unwrap();
        assert_eq!((found.density, found.static_share(), found.unions.len()), (None, None, 0));
        assert_eq!((found.layers[0].density, found.layers[1].name.as_str()), (None, "1\u{fffd}"));
    }
}
