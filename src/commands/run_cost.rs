//! What a run costs in FLOPs and how long that takes: one count for `plan` and `init`, evaluations with it.

use crate::cli::table::{duration, estimated};
use crate::eval::rows_read;
use crate::export::OneShotCost;
use crate::hf::ModelConfig;
use crate::inspect::TimeTaken;
use crate::model::count::{forward_flops_per_token, training_flops_per_token};
use crate::train::Outline;
use crate::train::decide::Intervals;
use crate::train::setup::compute_dtype;
use crate::words::counted;

/// Domains that are assumed where there is no data: those of RedPajama.
const ASSUMED_DOMAINS: usize = 7;

/// The FLOPs of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunCost {
    /// Tokens that are trained on.
    pub(super) tokens: f64,
    /// FLOPs of training, a teacher's with them.
    pub(super) train_flops: f64,
    /// Those of a teacher's forward; `None` without a teacher of known shape.
    pub(super) teacher_flops: Option<f64>,
    /// How often the run evaluates.
    pub(super) evaluations: u64,
    /// FLOPs of that; `None` where the domains, and with them the rows, are not known.
    pub(super) eval_flops: Option<f64>,
    /// Of a source that is cut at once: all that there is, for nothing is trained or evaluated.
    pub(super) one_shot: Option<OneShotCost>,
    /// Of a run that learns masks, FLOPs before its first step and after its last: basis and scores to start from, and the
    /// comparison of the cut.
    pub(super) cut_flops: f64,
}

impl RunCost {
    /// Of a run.
    pub(super) fn of(outline: &Outline) -> RunCost {
        if let Some(cost) = one_shot(outline) {
            return RunCost {
                tokens: 0.0,
                train_flops: 0.0,
                teacher_flops: None,
                evaluations: 0,
                eval_flops: None,
                one_shot: Some(cost),
                cut_flops: 0.0,
            };
        }
        let train = &outline.config.train;
        let tokens = train.steps as f64 * train.batch_rows as f64 * outline.row_tokens as f64;
        let forward = |model: &ModelConfig| forward_flops_per_token(model, outline.row_tokens);
        let teacher_flops = outline.teacher.as_ref().map(|teacher| forward(teacher) * tokens);
        let own_flops = training_flops_per_token(&outline.model, outline.row_tokens) * tokens;
        let evaluations = Intervals::new(&outline.config, None).evaluations(outline.spec.is_some());
        // The teacher is evaluated once, before the first step.
        let eval_flops = evaluated_tokens(outline).map(|once| {
            forward(&outline.model) * evaluations as f64 * once + outline.teacher.as_ref().map_or(0.0, forward) * once
        });
        RunCost {
            tokens,
            train_flops: own_flops + teacher_flops.unwrap_or(0.0),
            teacher_flops,
            evaluations,
            eval_flops,
            one_shot: None,
            cut_flops: cut_cost(outline).map_or(0.0, |cost| cost.around_masks(outline.config.masks.start())),
        }
    }

    /// All FLOPs that are known.
    pub(super) fn flops(&self) -> f64 {
        let one_shot = self.one_shot.map_or(0.0, |cost| cost.flops());
        self.train_flops + self.eval_flops.unwrap_or(0.0) + one_shot + self.cut_flops
    }

    /// Tokens per second of the steps alone, where all of it takes so many seconds; `None` without steps.
    pub(super) fn tokens_per_second(&self, seconds: f64) -> Option<f64> {
        let in_steps = seconds * self.train_flops / self.flops();
        (self.tokens > 0.0 && in_steps > 0.0).then(|| self.tokens / in_steps)
    }

    /// `1 h 10 min with 8 evaluations`: so many seconds, and whether the evaluations are in them.
    pub(super) fn time_said(&self, seconds: f64) -> String {
        if self.one_shot.is_some() {
            return estimated(seconds);
        }
        let evaluations = counted(self.evaluations, "evaluation");
        let cut = if self.cut_flops > 0.0 { " and the cut" } else { "" };
        match self.eval_flops {
            Some(_) => format!("{} with {evaluations}{cut}", estimated(seconds)),
            None => format!("{} and {evaluations}, whose rows are not known yet", estimated(seconds)),
        }
    }
}

/// What cutting at once costs, where the configuration does and the target can be reached.
fn one_shot(outline: &Outline) -> Option<OneShotCost> {
    cut_cost(outline).filter(|_| outline.config.cuts_at_once())
}

/// What the cut of a prune run costs whose target can be reached.
fn cut_cost(outline: &Outline) -> Option<OneShotCost> {
    let (config, spec) = (&outline.config, outline.spec.as_ref()?);
    let small = outline.target()?;
    let check_rows = match &outline.dataset {
        Some(dataset) => rows_read(dataset, config.prune.check_rows),
        None if outline.domains.is_empty() => (ASSUMED_DOMAINS * config.prune.check_rows) as u64,
        None => (outline.domains.len() * config.prune.check_rows) as u64,
    };
    let element_bytes = compute_dtype(config.run.dtype, outline.device).bytes() as f64;
    Some(OneShotCost::new(config, &outline.model, &small, spec, outline.row_tokens, check_rows, element_bytes))
}

/// `12 min 5 s: 10 min 1 s in steps, 2 min 4 s in evaluations`: what a run took so far.
pub(super) fn time_taken(taken: TimeTaken) -> String {
    let steps = duration(taken.steps);
    match taken.evaluations {
        Some(evaluations) => {
            format!("{}: {steps} in steps, {} in evaluations", duration(taken.total()), duration(evaluations))
        }
        None => format!("{steps} in steps, without its evaluations"),
    }
}

/// Tokens of one evaluation, where the domains are known.
fn evaluated_tokens(outline: &Outline) -> Option<f64> {
    let rows_per_domain = outline.config.eval.rows_per_domain;
    let rows = match &outline.dataset {
        Some(dataset) => rows_read(dataset, rows_per_domain),
        None if outline.domains.is_empty() => return None,
        None => (outline.domains.len() * rows_per_domain) as u64,
    };
    Some(rows as f64 * outline.row_tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_say_whether_evaluations_are_in_them() {
        let cost = |eval_flops| RunCost {
            tokens: 8.0,
            train_flops: 90.0,
            teacher_flops: None,
            evaluations: 3,
            eval_flops,
            one_shot: None,
            cut_flops: 0.0,
        };
        assert_eq!((cost(Some(10.0)).flops(), cost(None).flops()), (100.0, 90.0));
        // 90 of 100 FLOPs are steps: 9 of 10 seconds.
        assert_eq!(cost(Some(10.0)).tokens_per_second(10.0), Some(8.0 / 9.0));
        assert_eq!(RunCost { tokens: 0.0, ..cost(None) }.tokens_per_second(10.0), None);
        assert_eq!(cost(Some(10.0)).time_said(65.0), "65 s with 3 evaluations");
        let cut = RunCost { cut_flops: 20.0, ..cost(Some(10.0)) };
        assert_eq!((cut.flops(), cut.time_said(65.0)), (120.0, "65 s with 3 evaluations and the cut".to_string()));
        assert_eq!(cost(None).time_said(65.0), "65 s and 3 evaluations, whose rows are not known yet");
        let taken = |evaluations| time_taken(TimeTaken { steps: 65.0, evaluations });
        assert_eq!(taken(Some(5.0)), "1 min 10 s: 1 min 5 s in steps, 5 s in evaluations");
        assert_eq!(taken(None), "1 min 5 s in steps, without its evaluations");
    }
}
