//! Which values of a record of `metrics.jsonl` go under which tag. TensorBoard groups by what stands before the first
//! slash; docs/formats/tensorboard.md lists the tags.
//!
//! A number that is absent or null (not finite, or there is none) gives no point.

use super::proto::{Datum, Dimension, Histogram, Metadata, Plugin, STRING, Shape, StringTensor, Tagged};
use crate::run_dir::record::{
    Constraint, DomainEval, DomainStep, Eval, ExpertState, MaskState, ModuleMasks, Record, Step, What,
};

/// Where a number stands in a record.
type Number<R> = fn(&R) -> Option<f64>;

fn whole(number: Option<u64>) -> Option<f64> {
    number.map(|number| number as f64)
}

/// Numbers of a step.
const STEP: [(&str, Number<Step>); 29] = [
    ("loss/total", |r| r.loss.total),
    ("loss/cross_entropy", |r| r.loss.cross_entropy),
    ("loss/perplexity", |r| r.loss.perplexity),
    ("loss/distillation", |r| r.loss.distillation),
    ("loss/lagrangian", |r| r.loss.lagrangian),
    ("gradient_norm/clip_scale", |r| r.clip_scale),
    ("sparsity/expected/all", |r| r.sparsity.as_ref()?.expected),
    ("sparsity/target/all", |r| r.sparsity.as_ref()?.target),
    ("sparsity/expected_parameters", |r| r.sparsity.as_ref()?.expected_parameters),
    ("progress/tokens", |r| whole(r.tokens)),
    ("progress/applied", |r| r.applied.map(f64::from)),
    ("progress/skipped", |r| whole(r.skipped)),
    ("throughput/seconds", |r| r.seconds),
    ("throughput/tokens_per_second", |r| r.tokens_per_second),
    ("throughput/model_flops_per_second", |r| r.model_flops_per_second),
    ("memory/peak_bytes", |r| whole(r.peak_memory_bytes)),
    ("learning_rate/weights", |r| r.learning_rate.weights),
    ("learning_rate/masks", |r| r.learning_rate.masks),
    ("learning_rate/multipliers", |r| r.learning_rate.multipliers),
    ("learning_rate/routers", |r| r.learning_rate.routers),
    ("gradient_norm/total", |r| r.gradient_norm.total),
    ("gradient_norm/weights", |r| r.gradient_norm.weights),
    ("gradient_norm/masks", |r| r.gradient_norm.masks),
    ("gradient_norm/multipliers", |r| r.gradient_norm.multipliers),
    ("gradient_norm/routers", |r| r.gradient_norm.routers),
    ("routers/density", |r| r.routers.as_ref()?.density),
    ("routers/density_target", |r| r.routers.as_ref()?.target),
    ("routers/near_threshold", |r| r.routers.as_ref()?.near_threshold),
    ("routers/stage", |r| whole(r.routers.as_ref()?.stage)),
];

/// Numbers of a domain in a step.
const STEP_DOMAIN: [(&str, Number<DomainStep>); 6] = [
    ("loss/domain", |r| r.loss),
    ("proportion", |r| r.proportion),
    ("rows", |r| whole(r.rows)),
    ("rows_total", |r| whole(r.rows_total)),
    ("rows_left", |r| whole(r.rows_left)),
    ("epochs", |r| r.epochs),
];

/// Numbers of a module's constraint in a step.
const CONSTRAINT: [(&str, Number<Constraint>); 7] = [
    ("sparsity/expected", |r| r.expected_sparsity),
    ("sparsity/target", |r| r.target_sparsity),
    ("constraint/violation", |r| r.violation),
    ("constraint/worst_row_violation", |r| r.worst_row_violation),
    ("constraint/loss", |r| r.loss),
    ("multipliers/lambda_1", |r| r.lambda_1),
    ("multipliers/lambda_2", |r| r.lambda_2),
];

/// Numbers of the experts in an evaluation.
const EXPERTS: [(&str, Number<ExpertState>); 4] = [
    ("experts/density_mean", |r| r.density),
    ("experts/near_threshold", |r| r.near_threshold),
    ("experts/always_on", |r| r.always_on),
    ("experts/always_off", |r| r.always_off),
];

/// Numbers of a domain in an evaluation, below `eval`, `eval_cut` or `eval_soft`.
const EVAL_DOMAIN: [(&str, Number<DomainEval>); 5] = [
    ("loss", |r| r.loss),
    ("standard_error", |r| r.standard_error),
    ("perplexity", |r| r.perplexity),
    ("reference", |r| r.reference),
    ("excess", |r| r.over_reference()),
];

/// Numbers of a module's masks in an evaluation.
const MASKS: [(&str, Number<ModuleMasks>); 2] =
    [("masks/half_alive", |r| whole(r.half_alive.count)), ("masks/still_open", |r| whole(r.still_open.count))];

/// The values of a record; none for a line that has nothing to show.
pub(super) fn values(record: &Record) -> Vec<Tagged> {
    match &record.what {
        What::Step(fields) => step(fields),
        What::Eval(fields) => evaluation(fields),
        _ if record.kind().is_empty() => Vec::new(),
        _ => vec![text(&format!("events/{}", record.kind()), &fields(record))],
    }
}

/// A text as Markdown that keeps its lines as they are.
pub(super) fn text(tag: &str, lines: &str) -> Tagged {
    let code = lines.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let shape = Shape { dimensions: vec![Dimension { size: 1 }] };
    let tensor = StringTensor { dtype: STRING, shape: Some(shape), values: vec![code.into_bytes()] };
    let metadata = Metadata { plugin: Some(Plugin { name: "text".to_string() }) };
    Tagged { tag: tag.to_string(), datum: Some(Datum::Tensor(tensor)), metadata: Some(metadata) }
}

fn step(record: &Step) -> Vec<Tagged> {
    let mut found = Vec::new();
    pick(record, &STEP, |tag| tag.to_string(), &mut found);
    for (name, domain) in record.domains.iter() {
        pick(domain, &STEP_DOMAIN, |tag| format!("{tag}/{name}"), &mut found);
    }
    for constraint in record.constraints.iter().flat_map(|constraints| &constraints.0) {
        let Some(module) = &constraint.module else { continue };
        pick(constraint, &CONSTRAINT, |tag| format!("{tag}/{module}"), &mut found);
    }
    found
}

fn evaluation(record: &Eval) -> Vec<Tagged> {
    let mut found = Vec::new();
    // The cut is another model than the one in training: its losses are another curve.
    let cut = record.is_cut();
    let group = match (cut, record.is_soft()) {
        (true, _) => "eval_cut",
        // The same model with experts times scores: not how it is run.
        (false, true) => "eval_soft",
        (false, false) => "eval",
    };
    found.extend(scalar(format!("{group}/mean_loss"), record.mean_loss));
    for (name, domain) in record.domains.iter() {
        pick(domain, &EVAL_DOMAIN, |tag| format!("{group}/{tag}/{name}"), &mut found);
    }
    // With the cut the masks are those of the evaluation before it, of the same step.
    if !cut {
        masks(record, &mut found);
    }
    found.extend(record.experts.iter().flat_map(experts));
    found
}

fn experts(record: &ExpertState) -> Vec<Tagged> {
    let mut found = Vec::new();
    pick(record, &EXPERTS, |tag| tag.to_string(), &mut found);
    found.extend(record.domains.iter().filter_map(|(name, share)| scalar(format!("experts/density/{name}"), *share)));
    let layers = record.layers.iter().map(|(layer, share)| (format!("experts/layer/{layer:0>3}"), *share));
    let unions = record.unions.iter().map(|(rows, share)| (format!("experts/union/{rows}"), *share));
    found.extend(layers.chain(unions).filter_map(|(tag, share)| scalar(tag, share)));
    found
}

fn masks(record: &Eval, found: &mut Vec<Tagged>) {
    let removed = record.masks.as_ref().map(MaskState::removed).unwrap_or_default();
    for report in record.masks.iter().flat_map(|masks| &masks.modules.0) {
        let Some(module) = &report.module else { continue };
        pick(report, &MASKS, |tag| format!("{tag}/{module}"), found);
        let undecided = report.undecided_in_kept(&removed).unwrap_or(0);
        found.extend(scalar(format!("masks/undecided/{module}"), Some(undecided as f64)));
        let counts: Vec<f64> = report.histogram.iter().flatten().map(|count| *count as f64).collect();
        found.extend(gate_histogram(module, &counts));
    }
    for (module, rows) in record.row_sparsity.iter() {
        for (row, sparsity) in rows.iter().enumerate() {
            found.extend(scalar(format!("row_sparsity/{module}/{row:03}"), *sparsity));
        }
    }
}

fn pick<R>(record: &R, numbers: &[(&str, Number<R>)], tag: impl Fn(&str) -> String, found: &mut Vec<Tagged>) {
    found.extend(numbers.iter().filter_map(|(name, number)| scalar(tag(name), number(record))));
}

fn scalar(tag: String, number: Option<f64>) -> Option<Tagged> {
    let number = number? as f32;
    number.is_finite().then_some(Tagged { tag, datum: Some(Datum::Scalar(number)), metadata: None })
}

/// Soft gate values, counted in equal parts of [0, 1]. Sums are those of values in the middle of their part.
fn gate_histogram(module: &str, counts: &[f64]) -> Option<Tagged> {
    let first = counts.iter().position(|count| *count > 0.0)?;
    let last = counts.iter().rposition(|count| *count > 0.0)?;
    let width = 1.0 / counts.len() as f64;
    let middle = |part: usize| (part as f64 + 0.5) * width;
    let moment = |power: i32| counts.iter().enumerate().map(|(part, count)| count * middle(part).powi(power)).sum();
    let histogram = Histogram {
        // Readers take these for the outer edges of the first and the last part that holds anything.
        min: first as f64 * width,
        max: (last + 1) as f64 * width,
        num: moment(0),
        sum: moment(1),
        sum_squares: moment(2),
        bucket_limit: (1..=counts.len()).map(|part| part as f64 * width).collect(),
        bucket: counts.to_vec(),
    };
    Some(Tagged { tag: format!("gates/{module}"), datum: Some(Datum::Histogram(histogram)), metadata: None })
}

/// The fields of an event that are its own, one a line; what it does not say is left out.
fn fields(record: &Record) -> String {
    let said = record.fields().into_iter().filter(|(_, value)| !value.is_null());
    said.map(|(key, value)| format!("{key}: {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn scalars(record: &Value) -> Vec<(String, f32)> {
        let scalar = |value: Tagged| match value.datum {
            Some(Datum::Scalar(number)) => Some((value.tag, number)),
            _ => None,
        };
        values(&Record::from(record)).into_iter().filter_map(scalar).collect()
    }

    #[test]
    fn a_step_gives_a_point_for_every_number_it_has() {
        let record = json!({
            "type": "step", "step": 3, "tokens": 96, "applied": false, "skipped": 1,
            "loss": { "total": 2.5, "cross_entropy": 2.0, "perplexity": null, "distillation": 0.25, "lagrangian": 0.5 },
            "domains": { "a/b": { "loss": null, "rows": 0, "proportion": 0.25 } },
            "learning_rate": { "weights": 0.5, "masks": 1.0 },
            "gradient_norm": { "total": 3.0, "multipliers": null },
            "constraints": [{ "module": "hidden", "violation": -0.125, "lambda_1": 0.75 }, { "violation": 1.0 }],
            "sparsity": { "expected": 0.5, "target": 0.25 },
        });
        let expected = [
            ("loss/total", 2.5),
            ("loss/cross_entropy", 2.0),
            ("loss/distillation", 0.25),
            ("loss/lagrangian", 0.5),
            ("sparsity/expected/all", 0.5),
            ("sparsity/target/all", 0.25),
            ("progress/tokens", 96.0),
            ("progress/applied", 0.0),
            ("progress/skipped", 1.0),
            ("learning_rate/weights", 0.5),
            ("learning_rate/masks", 1.0),
            ("gradient_norm/total", 3.0),
            ("proportion/a/b", 0.25),
            ("rows/a/b", 0.0),
            ("constraint/violation/hidden", -0.125),
            ("multipliers/lambda_1/hidden", 0.75),
        ];
        assert_eq!(scalars(&record), expected.map(|(tag, number)| (tag.to_string(), number)));
    }

    #[test]
    fn the_cut_has_curves_of_its_own() {
        let record = |gates: &str| {
            json!({
                "type": "eval", "step": 4, "gates": gates, "mean_loss": 1.5,
                "domains": { "wiki": { "loss": 1.25, "excess": null } },
                "row_sparsity": { "layer": [0.25] },
                "masks": { "modules": [{ "module": "layer", "undecided": [1, 2], "histogram": [2, 0, 0, 1, 0] }] },
            })
        };
        let expected = [
            ("eval/mean_loss", 1.5),
            ("eval/loss/wiki", 1.25),
            ("masks/undecided/layer", 3.0),
            ("row_sparsity/layer/000", 0.25),
        ];
        assert_eq!(scalars(&record("expected")), expected.map(|(tag, number)| (tag.to_string(), number)));
        let cut = [("eval_cut/mean_loss".to_string(), 1.5), ("eval_cut/loss/wiki".to_string(), 1.25)];
        assert_eq!(scalars(&record("target")), cut);
    }

    #[test]
    fn routers_and_experts_have_curves() {
        let step = json!({ "type": "step", "step": 3, "learning_rate": { "routers": 0.5 }, "gradient_norm": { "routers": 2.0 },
                           "routers": { "density": 0.75, "target": null, "near_threshold": 0.125, "stage": 1 } });
        let expected = [
            ("learning_rate/routers", 0.5),
            ("gradient_norm/routers", 2.0),
            ("routers/density", 0.75),
            ("routers/near_threshold", 0.125),
            ("routers/stage", 1.0),
        ];
        assert_eq!(scalars(&step), expected.map(|(tag, number)| (tag.to_string(), number)));
        let experts = json!({ "density": 0.5, "always_on": 0.25, "layers": { "7": 0.75, "11": null },
                              "domains": { "wiki": 0.375 }, "unions": { "2": 0.625 } });
        let eval = |gates: &str, experts: &Value| {
            scalars(&json!({ "type": "eval", "step": 3, "gates": gates, "mean_loss": 1.5, "experts": experts }))
        };
        let expected = [
            ("eval/mean_loss", 1.5),
            ("experts/density_mean", 0.5),
            ("experts/always_on", 0.25),
            ("experts/density/wiki", 0.375),
            ("experts/layer/007", 0.75),
            ("experts/union/2", 0.625),
        ];
        assert_eq!(eval("experts", &experts), expected.map(|(tag, number)| (tag.to_string(), number)));
        assert_eq!(eval("soft", &json!(null)), [("eval_soft/mean_loss".to_string(), 1.5)]);
    }

    #[test]
    fn gates_are_a_histogram_from_the_first_part_in_use_to_the_last() {
        let Some(Datum::Histogram(found)) = gate_histogram("hidden", &[0.0, 3.0, 0.0, 1.0, 0.0]).unwrap().datum else {
            panic!("a histogram");
        };
        assert!((found.min - 0.2).abs() < 1e-12 && (found.max - 0.8).abs() < 1e-12);
        assert_eq!((found.num, found.bucket.len(), found.bucket_limit.len()), (4.0, 5, 5));
        assert!((found.sum - (3.0 * 0.3 + 0.7)).abs() < 1e-12);
        assert!((found.sum_squares - (3.0 * 0.09 + 0.49)).abs() < 1e-12);
        assert!(gate_histogram("hidden", &[0.0; 10]).is_none() && gate_histogram("hidden", &[]).is_none());
    }

    #[test]
    fn other_events_are_texts_and_broken_records_nothing() {
        let found = values(&json!({ "type": "skip", "step": 9, "in_row": 2 }).into());
        let Some(Datum::Tensor(tensor)) = &found[0].datum else { panic!("a text") };
        assert_eq!(found[0].tag, "events/skip");
        assert_eq!(tensor.values, [b"    in_row: 2\n".to_vec()]);
        for broken in [json!(null), json!([]), json!({ "step": 1 }), json!({ "type": "step", "domains": 3 })] {
            assert_eq!(values(&broken.into()), []);
        }
    }
}
