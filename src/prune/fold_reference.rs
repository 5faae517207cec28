//! What the fold must compute, composed of whole-tensor operators in fp32, one per gate and side, and the comparison
//! with it: every role, every family, every set of gates, every pair of formats.

use super::blocks::{Workers, test_support::collect};
use super::fold::Folder;
use crate::files::DType;
use crate::hf::{Checkpoint, ShardWriter, TensorPlan};
use crate::model::{ModelConfig, Parameter, Role, parameters::parameters};
use shearling_masks::{Gates, KeepPlan, LayerKeep};
use std::path::Path;
use tch::{Device, Kind, TchError, Tensor};

/// The fold by whole-tensor operators.
pub(super) struct Reference<'a> {
    model: &'a ModelConfig,
    plan: &'a KeepPlan,
    gates: &'a Gates,
    hidden: Tensor,
}

impl<'a> Reference<'a> {
    pub(super) fn new(model: &'a ModelConfig, plan: &'a KeepPlan, gates: &'a Gates) -> Reference<'a> {
        Reference { model, plan, gates, hidden: Tensor::from_slice(&plan.hidden) }
    }

    pub(super) fn fold(&self, role: Role, kept: Option<usize>, weight: &Tensor) -> Result<Tensor, TchError> {
        let weight = weight.f_to_kind(Kind::Float)?;
        match kept.and_then(|kept| self.plan.layers.get(kept)) {
            Some(layer) => self.fold_layer(role, layer, &weight),
            None => self.fold_outer(role, &weight),
        }
    }

    fn fold_outer(&self, role: Role, weight: &Tensor) -> Result<Tensor, TchError> {
        match role {
            // A tied embedding is the head as well: it is only sliced, as the masked forward only reads it.
            Role::Embedding if !self.model.tie_word_embeddings => {
                self.columns(&scale(weight, self.gates.hidden.as_ref(), 1)?)
            }
            role if role.is_hidden_norm() => self.rows(&self.norm_gated(weight)?),
            _ => self.columns(weight),
        }
    }

    fn fold_layer(&self, role: Role, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        use Role::*;
        match role {
            QueryNorm | KeyNorm => Ok(weight.shallow_clone()),
            AttentionNorm | FeedForwardNorm | FinalNorm => self.rows(&self.norm_gated(weight)?),
            QueryWeight => select(&self.columns(weight)?, 0, &self.query_rows(layer)),
            QueryBias => select(weight, 0, &self.query_rows(layer)),
            KeyWeight => select(&self.columns(weight)?, 0, &self.kv_rows(layer)),
            KeyBias => select(weight, 0, &self.kv_rows(layer)),
            ValueWeight => select(&self.columns(&self.group_gated(layer, weight)?)?, 0, &self.kv_rows(layer)),
            ValueBias => select(&self.group_gated(layer, weight)?, 0, &self.kv_rows(layer)),
            OutputWeight => {
                let gated = self.residual_gated(layer, &self.query_gated(layer, weight)?)?;
                select(&self.rows(&gated)?, 1, &self.query_rows(layer))
            }
            OutputBias | DownBias => self.rows(&self.residual_gated(layer, weight)?),
            GateWeight => select(&self.columns(weight)?, 0, &layer.intermediate),
            GateBias => select(weight, 0, &layer.intermediate),
            UpWeight => select(&self.columns(&self.intermediate_gated(layer, weight)?)?, 0, &layer.intermediate),
            UpBias => select(&self.intermediate_gated(layer, weight)?, 0, &layer.intermediate),
            DownWeight => select(&self.rows(&self.residual_gated(layer, weight)?)?, 1, &layer.intermediate),
            Embedding | Head => self.columns(weight),
        }
    }

    /// A norm's weight times h and the gain.
    fn norm_gated(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        let gated = scale(weight, self.gates.hidden.as_ref(), 0)?;
        let gain = self.gates.norm_gain.filter(|_| self.gates.hidden.is_some());
        gain.map_or(Ok(gated.shallow_clone()), |gain| gated.f_mul_scalar(f64::from(gain)))
    }

    /// Kept hidden dimensions as rows.
    fn rows(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        weight.f_index_select(0, &self.hidden)
    }

    /// Kept hidden dimensions as columns.
    fn columns(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        weight.f_index_select(1, &self.hidden)
    }

    /// Rows of the kept query heads, whole heads in source order.
    fn query_rows(&self, layer: &LayerKeep) -> Vec<i64> {
        head_rows(layer.query_heads(self.group()).into_iter(), self.model.head_dim)
    }

    /// Rows of the kept key and value heads.
    fn kv_rows(&self, layer: &LayerKeep) -> Vec<i64> {
        head_rows(layer.kv_heads.iter().copied(), self.model.head_dim)
    }

    fn group(&self) -> i64 {
        self.model.num_attention_heads / self.model.num_key_value_heads
    }

    /// z^kv on value rows.
    fn group_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        match &self.gates.kv_head {
            Some(gates) => {
                let per_row = gates.f_select(0, layer.source_index)?.f_repeat_interleave_self_int(
                    self.model.head_dim,
                    0,
                    None,
                )?;
                scale(weight, Some(&per_row), 0)
            }
            None => Ok(weight.shallow_clone()),
        }
    }

    /// z^q on output columns: slot g of every group.
    fn query_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        match &self.gates.query_head {
            Some(gates) => {
                let per_head = gates.f_select(0, layer.source_index)?.f_repeat([self.model.num_key_value_heads])?;
                let per_column = per_head.f_repeat_interleave_self_int(self.model.head_dim, 0, None)?;
                scale(weight, Some(&per_column), 1)
            }
            None => Ok(weight.shallow_clone()),
        }
    }

    /// z^int on up rows.
    fn intermediate_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        let gates = self.gates.intermediate.as_ref().map(|gates| gates.f_select(0, layer.source_index)).transpose()?;
        scale(weight, gates.as_ref(), 0)
    }

    /// z^layer · h on what is written to the residual stream.
    fn residual_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        let gated = scale(weight, self.gates.hidden.as_ref(), 0)?;
        match &self.gates.layer {
            Some(gates) => gated.f_mul(&gates.f_select(0, layer.source_index)?),
            None => Ok(gated),
        }
    }
}

/// `weight` with `gate` multiplied along `dim`; unchanged without a gate.
fn scale(weight: &Tensor, gate: Option<&Tensor>, dim: i64) -> Result<Tensor, TchError> {
    let Some(gate) = gate else { return Ok(weight.shallow_clone()) };
    match (weight.dim(), dim) {
        (2, 0) => weight.f_mul(&gate.f_unsqueeze(1)?),
        _ => weight.f_mul(gate),
    }
}

fn select(weight: &Tensor, dim: i64, kept: &[i64]) -> Result<Tensor, TchError> {
    weight.f_index_select(dim, &Tensor::f_from_slice(kept)?)
}

fn head_rows(heads: impl Iterator<Item = i64>, head_dim: i64) -> Vec<i64> {
    heads.flat_map(|head| head * head_dim..(head + 1) * head_dim).collect()
}

/// A checkpoint of the given tensors. Its `config.json` is only there to open it.
pub(super) fn checkpoint_of(dir: &Path, tensors: &[(&str, Tensor)]) -> Checkpoint {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf/llama2-mha");
    std::fs::copy(fixture.join("config.json"), dir.join("config.json")).unwrap();
    let plan = |(name, tensor): &(&str, Tensor)| TensorPlan {
        name: name.to_string(),
        shape: tensor.size(),
        dtype: DType::from_kind(tensor.kind()).unwrap(),
    };
    let mut writer = ShardWriter::create(dir, tensors.iter().map(plan).collect(), u64::MAX).unwrap();
    tensors.iter().for_each(|(name, tensor)| writer.write(name, tensor).unwrap());
    writer.finish().unwrap();
    Checkpoint::open(dir).unwrap()
}

/// Odd sizes; grouped queries, biases, norms in heads and tied embeddings as the families have them.
fn models() -> Vec<ModelConfig> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf/llama2-mha");
    let mut plain = Checkpoint::open(&fixture).unwrap().model().clone();
    (plain.vocab_size, plain.hidden_size, plain.intermediate_size) = (19, 33, 47);
    (plain.num_hidden_layers, plain.num_attention_heads, plain.num_key_value_heads, plain.head_dim) = (3, 4, 4, 6);
    plain.sliding_window = vec![None; 3];
    let mut grouped = plain.clone();
    grouped.num_attention_heads = 12;
    (grouped.attention_bias.qkv, grouped.attention_bias.output, grouped.mlp_bias) = (true, true, true);
    let mut tied = grouped.clone();
    (tied.tie_word_embeddings, tied.qk_norm) = (true, true);
    vec![plain, grouped, tied]
}

/// Neighbours, gaps and both ends.
fn keep_plan(model: &ModelConfig) -> KeepPlan {
    let without = |size: i64, removed: &[i64]| (0..size).filter(|index| !removed.contains(index)).collect::<Vec<_>>();
    let slots = model.num_attention_heads / model.num_key_value_heads;
    let layer = |source_index: i64, kv_heads: &[i64]| LayerKeep {
        source_index,
        kv_heads: kv_heads.to_vec(),
        query_slots: if slots == 1 { vec![0] } else { vec![0, 2] },
        intermediate: without(model.intermediate_size, &[source_index, 5, 6, 30]),
    };
    KeepPlan { hidden: without(model.hidden_size, &[3, 4, 17, 32]), layers: vec![layer(0, &[1, 2]), layer(2, &[0, 3])] }
}

/// The gates whose bit is set, values all over (0, 1) and the exact 1 that most gates end at.
fn gates(model: &ModelConfig, bits: u32) -> Gates {
    let (layers, kv_heads) = (model.num_hidden_layers, model.num_key_value_heads);
    let gate = |bit: u32, shape: &[i64]| {
        let values = Tensor::rand(shape, (Kind::Float, Device::Cpu)) * 1.5;
        (bits & 1 << bit != 0).then(|| values.clamp_max(1.0))
    };
    Gates {
        layer: gate(0, &[layers]),
        kv_head: gate(1, &[layers, kv_heads]),
        query_head: gate(2, &[layers, model.num_attention_heads / kv_heads]),
        intermediate: gate(3, &[layers, model.intermediate_size]),
        hidden: gate(4, &[model.hidden_size]),
        norm_gain: Some(1.25),
        ..Gates::none()
    }
}

/// The weights that stay, with the place of their layer in the plan.
fn kept_parameters(model: &ModelConfig, plan: &KeepPlan) -> Vec<(Parameter, Option<usize>)> {
    let place = |layer: i64| plan.layers.iter().position(|kept| kept.source_index == layer);
    let kept = |parameter: Parameter| match parameter.layer {
        Some(layer) => place(layer).map(|place| (parameter, Some(place))),
        None => Some((parameter, None)),
    };
    parameters(model).into_iter().filter_map(kept).collect()
}

fn random_weights(model: &ModelConfig, kind: Kind) -> Vec<(String, Tensor)> {
    let weight = |p: Parameter| (p.name, Tensor::randn(&p.shape, (Kind::Float, Device::Cpu)).to_kind(kind));
    parameters(model).into_iter().map(weight).collect()
}

fn open(dir: &Path, weights: &[(String, Tensor)]) -> Checkpoint {
    let named: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), weight.shallow_clone())).collect();
    checkpoint_of(dir, &named)
}

#[test]
fn every_role_in_every_family_under_every_set_of_gates_is_the_reference() {
    tch::manual_seed(1);
    for model in models() {
        let (plan, dir) = (keep_plan(&model), tempfile::tempdir().unwrap());
        let checkpoint = open(dir.path(), &random_weights(&model, Kind::Float));
        for bits in 0..32 {
            let gates = gates(&model, bits);
            let folder = Folder::new(&model, &plan, &gates).unwrap();
            let reference = Reference::new(&model, &plan, &gates);
            for (parameter, kept) in kept_parameters(&model, &plan) {
                let weight = checkpoint.tensor(&parameter.name, Kind::Float, Device::Cpu).unwrap();
                let expected = reference.fold(parameter.role, kept, &weight).unwrap();
                let stored = checkpoint.stored(&parameter.name).unwrap();
                let folded = folder.fold(parameter.role, kept, stored).unwrap();
                assert_eq!(folded.size(), expected.size(), "{}", parameter.name);
                // Two factors of a row are multiplied first here, last there: one rounding apart.
                assert!(folded.allclose(&expected, 3e-7, 0.0, false), "{} under {bits:#b}", parameter.name);
                if bits == 0 {
                    assert_eq!(folded, expected, "{}", parameter.name);
                }
            }
        }
    }
}

#[test]
fn every_pair_of_formats_is_the_fp32_fold_rounded_once() {
    tch::manual_seed(2);
    let formats = [DType::F32, DType::BF16, DType::F16];
    for (source, bits) in formats.into_iter().flat_map(|source| [(source, 0), (source, 31)]) {
        let model = &models()[1];
        let (plan, gates, dir) = (keep_plan(model), gates(model, bits), tempfile::tempdir().unwrap());
        let checkpoint = open(dir.path(), &random_weights(model, source.kind()));
        let folder = Folder::new(model, &plan, &gates).unwrap();
        for (parameter, kept) in kept_parameters(model, &plan) {
            let stored = checkpoint.stored(&parameter.name).unwrap();
            let exact = folder.fold(parameter.role, kept, stored).unwrap();
            for target in formats {
                let fold = folder.bind(parameter.role, kept, stored, target).unwrap();
                assert_eq!(fold.shape(), exact.size());
                let written = collect(&mut Workers::new(), &fold).unwrap();
                let read = Tensor::from_data_size(&written, &fold.shape(), target.kind());
                assert_eq!(read, exact.to_kind(target.kind()), "{} {source:?} → {target:?}", parameter.name);
            }
        }
    }
}

#[test]
fn gates_of_another_model_are_refused() {
    let model = &models()[0];
    let plan = keep_plan(model);
    for bit in 0..5 {
        let gates = gates(&models()[1], 1 << bit);
        // Only these differ in shape between the two models.
        let same = gates.query_head.is_none();
        assert_eq!(Folder::new(model, &plan, &gates).is_ok(), same);
    }
}
