//! The loss of a step's weights on held-out rows, as the run measured it there: for the model card.

use crate::config::Stage;
use crate::eval::statistics::{Estimate, mean_of};
use crate::hf::HeldOut;
use crate::run_dir::StepDir;
use crate::run_dir::layout::METRICS;
use crate::run_dir::record::{DomainEval, Eval, What};
use crate::train::metrics;

/// What the run of `step` measured after that step of the model that `stage` writes; `None` if it was not evaluated there. A
/// card does without it rather than fail.
pub(super) fn held_out(step: &StepDir, stage: Stage) -> Option<HeldOut> {
    let run = step.path().parent()?.parent()?;
    let at_step =
        metrics::records(&run.join(METRICS)).ok()?.into_iter().filter(|record| record.step == Some(step.step()));
    let mut evaluations = at_step.filter_map(|record| match record.what {
        What::Eval(eval) => Some(eval),
        _ => None,
    });
    let is_written = |eval: &Eval| if stage == Stage::Prune { eval.is_cut() } else { eval.is_as_run() };
    let last = evaluations.rfind(|eval| is_written(eval))?;
    of(&last)
}

fn of(eval: &Eval) -> Option<HeldOut> {
    let estimate = |domain: &DomainEval| Some(Estimate { mean: domain.loss?, standard_error: domain.standard_error });
    let domains: Vec<(String, Estimate)> =
        eval.domains.iter().filter_map(|(name, domain)| Some((name.to_string(), estimate(domain)?))).collect();
    let estimates: Vec<Estimate> = domains.iter().map(|(_, estimate)| *estimate).collect();
    let mean = mean_of(&estimates)?;
    Some(HeldOut {
        rows: eval.domains.iter().filter_map(|(_, domain)| domain.rows).sum(),
        loss: mean.mean,
        standard_error: mean.standard_error,
        domains: domains.into_iter().map(|(name, estimate)| (name, estimate.mean)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_mean_is_that_of_the_domains() {
        let domain = |loss: f64| json!({ "loss": loss, "standard_error": 0.3, "rows": 4 });
        let line =
            json!({ "type": "eval", "step": 8, "gates": "plain", "domains": { "a": domain(2.0), "b": domain(3.0) } });
        let What::Eval(eval) = crate::run_dir::record::Record::from(&line).what else { panic!("an evaluation") };
        let found = of(&eval).unwrap();
        assert_eq!((found.rows, found.loss), (8, 2.5));
        assert!((found.standard_error.unwrap() - 0.3 / 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.domains, [("a".to_string(), 2.0), ("b".to_string(), 3.0)]);
        assert_eq!(of(&Eval::default()), None);
    }
}
