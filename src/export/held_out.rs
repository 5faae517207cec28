//! The loss of a step's weights on held-out rows, as the run measured it there: for the model card.

use crate::config::Stage;
use crate::eval::statistics::{Estimate, mean_of};
use crate::hf::HeldOut;
use crate::run_dir::StepDir;
use crate::run_dir::layout::METRICS;
use crate::run_dir::record::{DomainEval, Eval, Record, Start, What};
use crate::train::metrics;

/// What the run of `step` measured after that step of the model that `stage` writes; `None` if it was not evaluated there. A
/// card does without it rather than fail.
pub(super) fn held_out(step: &StepDir, stage: Stage) -> Option<HeldOut> {
    let run = step.path().parent()?.parent()?;
    of_records(metrics::records(&run.join(METRICS)).ok()?, step.step(), stage)
}

fn of_records(records: Vec<Record>, step: u64, stage: Stage) -> Option<HeldOut> {
    let is_written = |eval: &Eval| if stage == Stage::Prune { eval.is_cut() } else { eval.is_as_run() };
    let (mut last, mut begun) = (None, None);
    for record in records {
        match record.what {
            What::Eval(eval) if record.step == Some(step) && is_written(&eval) => last = Some(eval),
            // A run that goes on has the losses in its configuration, and no longer on what they were measured.
            What::Start(start) | What::Resume(start) if begun.is_none() => begun = Some(start),
            _ => (),
        }
    }
    let last = last?;
    let reference = begun.and_then(|begun| reference(&last, &begun));
    Some(HeldOut { reference, ..of(&last)? })
}

/// The mean of the reference losses, if they are known to be of the rows that were evaluated.
fn reference(eval: &Eval, begun: &Start) -> Option<f64> {
    let measured = begun.references.as_ref()?;
    if measured.data_fingerprint.is_none() || measured.data_fingerprint != begun.data_fingerprint {
        return None;
    }
    let of_domain = |(name, domain): (&str, &DomainEval)| {
        let (_, rows) = measured.domains.iter().find(|(measured, _)| *measured == name)?;
        domain.reference.filter(|_| rows.rows.is_some() && rows.rows == domain.rows)
    };
    let evaluated = eval.domains.iter().filter(|(_, domain)| domain.loss.is_some());
    let losses: Vec<f64> = evaluated.map(of_domain).collect::<Option<_>>()?;
    (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
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
        reference: None,
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
        let What::Eval(eval) = Record::from(&line).what else { panic!("an evaluation") };
        let found = of(&eval).unwrap();
        assert_eq!((found.rows, found.loss), (8, 2.5));
        assert!((found.standard_error.unwrap() - 0.3 / 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.domains, [("a".to_string(), 2.0), ("b".to_string(), 3.0)]);
        assert_eq!(of(&Eval::default()), None);
    }

    #[test]
    fn reference_losses_count_where_they_are_of_the_same_rows() {
        let domain = |reference: f64| json!({ "loss": 3.0, "rows": 4, "reference": reference });
        let domains = json!({ "a": domain(2.0), "b": domain(2.5) });
        let eval = json!({ "type": "eval", "step": 8, "gates": "plain", "domains": domains });
        let of = |fingerprint: &str, rows: u64| {
            let measured =
                json!({ "data_fingerprint": fingerprint, "domains": { "a": { "rows": 4 }, "b": { "rows": rows } } });
            let start = json!({ "type": "start", "step": 0, "data_fingerprint": "x", "references": measured });
            // What a run that goes on writes: the losses alone.
            let resume = json!({ "type": "resume", "step": 4, "data_fingerprint": "x" });
            let records = [&start, &resume, &eval].map(Record::from).into();
            of_records(records, 8, Stage::Pretrain).unwrap().reference
        };
        assert_eq!(of("x", 4), Some(2.25));
        assert_eq!((of("x", 5), of("y", 4)), (None, None));
    }
}
