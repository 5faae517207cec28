//! Agreement with the original's own modules, to 1e-5 relative to max(1, |x|); see `fixtures/llm-shearing/README.md`.

use crate::{set_log_alpha, set_parameter, values};
use safetensors::SafeTensors;
use serde_json::Value;
use shearling_masks::{Gates, HardConcrete, KeepPlan, MaskSet, MaskSpec, Shape, UnitKind};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

const REFERENCE: &str = include_str!("../fixtures/llm-shearing/reference.json");
const TENSORS: &[u8] = include_bytes!("../fixtures/llm-shearing/reference.safetensors");
const MODULES: [(UnitKind, &str); 4] = [
    (UnitKind::Layer, "layer"),
    (UnitKind::KvHead, "head"),
    (UnitKind::Intermediate, "intermediate"),
    (UnitKind::Hidden, "hidden"),
];

/// The original's masks, rebuilt, with everything that was recorded about them.
struct Golden {
    reference: Value,
    tensors: HashMap<String, Tensor>,
    masks: MaskSet,
}

impl Golden {
    fn load() -> Golden {
        let reference: Value = serde_json::from_str(REFERENCE).unwrap();
        let config = &reference["config"];
        let spec =
            MaskSpec::new(&shape(config, &config["head_dim"]), &shape(&config["target"], &config["head_dim"])).unwrap();
        let warmup_steps = config["lagrangian_warmup_steps"].as_u64().unwrap();
        let masks = MaskSet::new(spec, HardConcrete::llm_shearing(), warmup_steps, 0, Device::Cpu).unwrap();
        let golden = Golden { tensors: tensors(), masks, reference };
        for (module, name) in MODULES {
            set_log_alpha(&golden.masks, module, golden.tensor(&format!("log_alpha.{name}")));
            for lambda in ["lambda_1", "lambda_2"] {
                let value = golden.reference["lambdas"][format!("{lambda}_{name}")].as_f64().unwrap() as f32;
                set_parameter(
                    golden.masks.multiplier_parameters(),
                    &format!("{lambda}.{module}"),
                    &Tensor::from(value),
                );
            }
        }
        golden
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name}"))
    }

    fn gates(&self, kind: &str) -> Gates {
        let mut gates = Gates::none();
        for (module, name) in MODULES {
            gates.set(module, Some(self.tensor(&format!("{kind}.{name}")).shallow_clone()));
        }
        gates
    }

    fn assert_gates(&self, found: &Gates, kind: &str) {
        for (module, name) in MODULES {
            assert_close(found.get(module).unwrap(), self.tensor(&format!("{kind}.{name}")), &format!("{kind}.{name}"));
        }
        assert!(found.query_head.is_none());
    }

    fn gradient(&self, module: UnitKind) -> Tensor {
        let parameters = self.masks.log_alpha_parameters();
        parameters.into_iter().find(|(name, _)| *name == format!("log_alpha.{module}")).unwrap().1.grad()
    }
}

fn shape(config: &Value, head_dim: &Value) -> Shape {
    let value = |key: &str| config[key].as_i64().unwrap();
    Shape {
        hidden_size: value("hidden_size"),
        intermediate_size: value("intermediate_size"),
        num_hidden_layers: value("num_hidden_layers"),
        num_attention_heads: value("num_attention_heads"),
        num_key_value_heads: value("num_attention_heads"),
        head_dim: head_dim.as_i64().unwrap(),
    }
}

fn tensors() -> HashMap<String, Tensor> {
    let file = SafeTensors::deserialize(TENSORS).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let dims: Vec<i64> = view.shape().iter().map(|&dim| dim as i64).collect();
        (name, Tensor::from_data_size(view.data(), &dims, Kind::Float))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    for (at, (found, expected)) in values(found).into_iter().zip(values(expected)).enumerate() {
        assert_near(found.into(), expected.into(), &format!("{what}[{at}]"));
    }
}

fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{what}: found {found}, expected {expected}");
}

#[test]
fn sampled_gates_and_their_gradients() {
    let golden = Golden::load();
    let gates = golden.masks.gates_for_uniform(&golden.gates("uniform")).unwrap();
    golden.assert_gates(&gates, "sampled");
    for (module, name) in MODULES {
        let gate = gates.get(module).unwrap();
        let weights = Tensor::arange_start(1, gate.numel() as i64 + 1, (Kind::Float, Device::Cpu)).view_as(gate);
        (gate * weights).sum(Kind::Float).backward();
        assert_close(&golden.gradient(module), golden.tensor(&format!("sampled_grad.{name}")), name);
    }
}

#[test]
fn deterministic_gates() {
    let golden = Golden::load();
    golden.assert_gates(&golden.masks.target_gates().unwrap(), "deterministic_target");
    golden.assert_gates(&golden.masks.expected_gates().unwrap(), "deterministic_expected");
}

#[test]
fn expected_scores_and_sparsity() {
    let golden = Golden::load();
    for (module, name) in MODULES {
        assert_close(
            &golden.masks.expected_score(module).unwrap(),
            golden.tensor(&format!("expected_score.{name}")),
            name,
        );
        assert_close(
            &golden.masks.expected_sparsity(module).unwrap(),
            golden.tensor(&format!("expected_sparsity.{name}")),
            name,
        );
    }
}

#[test]
fn targets_of_every_module() {
    let golden = Golden::load();
    for (module, name) in MODULES {
        let (spec, expected) = (golden.masks.spec().get(module).unwrap(), &golden.reference["masks"][name]);
        assert_eq!(spec.target, expected["target_mask_size"].as_i64().unwrap());
        assert_near(spec.target_sparsity(), expected["target_sparsity"].as_f64().unwrap(), name);
        let dims: Vec<i64> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(spec.dims(), dims);
    }
}

#[test]
fn lagrangian_at_five_steps() {
    let golden = Golden::load();
    let records = golden.reference["lagrangian"].as_array().unwrap();
    assert_eq!(records.len(), 5);
    for record in records {
        // Fresh leaves per step, so that gradients do not add up.
        let golden = Golden::load();
        let step = record["step"].as_u64().unwrap();
        let lagrangian = golden.masks.lagrangian(step).unwrap();
        lagrangian.loss.backward();
        assert_near(
            lagrangian.loss.double_value(&[]),
            record["loss"].as_f64().unwrap(),
            &format!("loss at step {step}"),
        );
        for (name, leaf) in golden.masks.multiplier_parameters() {
            let key = name.replace(".kv_head", "_head").replace('.', "_");
            let expected = record["lambda_grad"][&key].as_f64().unwrap();
            assert_near(leaf.grad().double_value(&[]), expected, &format!("gradient of {key} at step {step}"));
        }
        let summary = values(&lagrangian.summary().unwrap());
        let states = lagrangian.constraints_from(&summary).unwrap();
        assert_near(states.iter().map(|state| state.loss).sum(), record["loss"].as_f64().unwrap(), "sum of the shares");
        for ((module, name), state) in MODULES.into_iter().zip(states) {
            let what = format!("lagrangian_grad.step{step}.{name}");
            assert_close(&golden.gradient(module), golden.tensor(&what), &what);
            assert_eq!(state.module, module);
            assert_near(state.expected_sparsity, record[format!("expected_{name}_sparsity")].as_f64().unwrap(), name);
            assert_near(state.target_sparsity, record[format!("target_{name}_sparsity")].as_f64().unwrap(), name);
        }
        let overall = record["expected_sparsity"].as_f64().unwrap();
        assert_near(lagrangian.expected(&summary).unwrap().overall_sparsity, overall, "overall, from the summary");
        assert_near(golden.masks.expected_size().unwrap().overall_sparsity, overall, "overall, from the scores");
        assert_near(golden.masks.overall_target_sparsity(step), record["target_sparsity"].as_f64().unwrap(), "overall");
    }
}

#[test]
fn parameter_counts_and_kept_layers() {
    let golden = Golden::load();
    let spec = golden.masks.spec();
    assert_eq!(spec.prunable_params(), golden.reference["prunable_params"].as_i64().unwrap());
    assert_eq!(spec.target_prunable_params(), golden.reference["prunable_target_params"].as_i64().unwrap());
    let expected = golden.reference["expected_params"].as_f64().unwrap();
    assert_near(golden.masks.expected_size().unwrap().prunable_params, expected, "expected_params");
    let plan = KeepPlan::from_gates(spec, &golden.masks.target_gates().unwrap()).unwrap();
    let layers: Vec<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
    let expected: Vec<i64> = serde_json::from_value(golden.reference["kept_layers"].clone()).unwrap();
    assert_eq!(layers, expected);
}
