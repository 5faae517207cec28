//! Faults of the cut that the check must see, planted one by one: in the fold (which the fp64 comparison sees), and in
//! the files (which the comparison of every number sees). `cargo bench --bench planted_faults` plants the same in a
//! real model.

use super::support::{families, load, write_model};
use shearling::config::Target;
use shearling::files::DType;
use shearling::hf::{Checkpoint, ShardWriter, TensorPlan};
use shearling::prune::equivalence::check;
use shearling::prune::{CheckRows, Conversion, Equivalence, Fault, shape, write_model as write_pruned};
use shearling_masks::{Gates, HardConcrete, KeepPlan, MaskSet, MaskSpec, UnitKind};
use shearling_noise::weight_normals;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// A grouped-query model, its masks cut to a target, and the plan of the cut.
struct Cut {
    folder: tempfile::TempDir,
    source: Checkpoint,
    spec: MaskSpec,
    gates: Gates,
    plan: KeepPlan,
}

impl Cut {
    fn new() -> Cut {
        let (_, config) = families().into_iter().find(|(name, _)| *name == "qwen2").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        write_model(&path, &config, 3);
        let target = Target {
            hidden_size: Some(20),
            intermediate_size: Some(30),
            num_hidden_layers: Some(2),
            num_attention_heads: Some(2),
            num_key_value_heads: Some(2),
            head_dim: None,
        };
        let spec = shape::mask_spec(&load(&path).model, &target).unwrap();
        let masks = MaskSet::new(spec.clone(), HardConcrete::default(), 10, 5, Device::Cpu).unwrap();
        tch::no_grad(|| {
            for (name, mut log_alpha) in masks.log_alpha_parameters() {
                let noise = Tensor::from_slice(&weight_normals(5, &name, log_alpha.numel()));
                log_alpha.copy_(&(noise.view(&log_alpha.size()[..]) * 2.0));
            }
        });
        let gates = masks.target_gates().unwrap().detach().unwrap();
        let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
        Cut { source: Checkpoint::open(&path).unwrap(), folder, spec, gates, plan }
    }

    /// Writes the model of `plan` and `gates` in `dtype`, lets `tamper` at the folder, and compares it with the model
    /// under the true gates.
    fn check(&self, plan: &KeepPlan, gates: &Gates, dtype: DType, tamper: impl FnOnce(&Path)) -> Equivalence {
        let ids: Vec<i64> = (0..48).map(|i| (i * 29 + 7) % 64).collect();
        let conversion = Conversion {
            source: &self.source,
            companions: self.source.dir(),
            spec: &self.spec,
            gates,
            plan,
            dtype,
            max_shard_bytes: 1 << 30,
            check_rows: &CheckRows::unnamed(Tensor::from_slice(&ids).view([3, 16])),
            device: Device::Cpu,
            unproven: false,
        };
        let out = tempfile::tempdir_in(self.folder.path()).unwrap();
        write_pruned(&conversion, out.path(), &mut |_, _, _| {}).unwrap();
        tamper(out.path());
        check(&conversion, &self.gates, &Checkpoint::open(out.path()).unwrap(), &mut |_, _, _| {}).unwrap()
    }

    /// A fault of the fold: written as it was computed.
    fn folded(&self, plan: &KeepPlan, gates: &Gates) -> Equivalence {
        self.check(plan, gates, DType::BF16, |_| {})
    }

    /// The gates with one changed.
    fn with_gate(&self, module: UnitKind, row: usize, unit: i64, change: impl Fn(f64) -> f64) -> Gates {
        let mut gates = self.gates.shallow_clone();
        let changed = self.gates.get(module).unwrap().copy();
        let place = changed.get(row as i64).get(unit);
        let _ = place.shallow_clone().fill_(change(place.double_value(&[])));
        gates.set(module, Some(changed));
        gates
    }
}

fn assert_arithmetic(equivalence: &Equivalence, kept_layer: usize) {
    assert_eq!(equivalence.fault(), Some(Fault::Arithmetic), "{equivalence}");
    assert!(equivalence.weights.wrong.is_none(), "the files hold what was folded: {equivalence}");
    let text = equivalence.to_string();
    assert!(text.contains(&format!("first differ at layer {kept_layer} ")), "{text}");
    assert!(text.contains("at row "), "the farthest positions are named: {text}");
}

#[test]
fn the_right_cut_passes_in_every_dtype() {
    let cut = Cut::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let equivalence = cut.check(&cut.plan, &cut.gates, dtype, |_| {});
        assert!(equivalence.passed() && equivalence.folded < 1e-12, "{equivalence}");
    }
}

#[test]
fn a_wrong_head_is_seen_in_its_layer() {
    let cut = Cut::new();
    let mut plan = cut.plan.clone();
    let kept = &mut plan.layers[1].kv_heads;
    let other = (0..4).find(|head| !kept.contains(head)).unwrap();
    kept[0] = other;
    kept.sort_unstable();
    // The wrong head has a gate of 0, with which it would be folded away: give it that of the right one.
    let source_layer = plan.layers[1].source_index as usize;
    let gates = cut.with_gate(UnitKind::KvHead, source_layer, other, |_| 0.8);
    assert_arithmetic(&cut.folded(&plan, &gates), 1);
}

#[test]
fn a_gate_that_is_not_folded_is_seen_in_its_layer() {
    let cut = Cut::new();
    let layer = &cut.plan.layers[1];
    for (module, unit) in [(UnitKind::Intermediate, layer.intermediate[3]), (UnitKind::QueryHead, layer.query_slots[0])]
    {
        let gates = cut.with_gate(module, layer.source_index as usize, unit, |_| 1.0);
        assert_arithmetic(&cut.folded(&cut.plan, &gates), 1);
    }
}

#[test]
fn one_row_off_by_one_is_seen_in_its_layer() {
    let cut = Cut::new();
    let mut plan = cut.plan.clone();
    let kept = plan.layers[0].intermediate.clone();
    let moved = (0..kept.len()).find(|at| !kept.contains(&(kept[*at] + 1)) && kept[*at] < 47).unwrap();
    plan.layers[0].intermediate[moved] += 1;
    let source_layer = plan.layers[0].source_index as usize;
    let gates = cut.with_gate(UnitKind::Intermediate, source_layer, kept[moved] + 1, |_| 0.8);
    assert_arithmetic(&cut.folded(&plan, &gates), 0);
}

#[test]
fn a_head_that_is_scaled_twice_is_seen_in_its_layer() {
    let cut = Cut::new();
    let layer = &cut.plan.layers[0];
    let gates = cut.with_gate(UnitKind::KvHead, layer.source_index as usize, layer.kv_heads[0], |gate| 0.999 * gate);
    assert_arithmetic(&cut.folded(&cut.plan, &gates), 0);
}

/// Writes a folder's weights again, one of them changed.
fn rewrite(folder: &Path, name: &str, change: impl Fn(&Tensor) -> Tensor) {
    let (weights, plan): (Vec<(String, Tensor)>, Vec<TensorPlan>) = {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let names: Vec<String> = checkpoint.names().map(str::to_string).collect();
        let dtype = |name: &str| checkpoint.dtype(name).unwrap();
        let read = |name: &String| checkpoint.tensor(name, dtype(name).kind(), Device::Cpu).unwrap();
        let weights: Vec<(String, Tensor)> = names.iter().map(|name| (name.clone(), read(name))).collect();
        let plan = weights.iter().map(|(name, weight)| TensorPlan {
            name: name.clone(),
            shape: weight.size(),
            dtype: DType::from_kind(weight.kind()).unwrap(),
        });
        (weights.iter().map(|(name, weight)| (name.clone(), weight.shallow_clone())).collect(), plan.collect())
    };
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut writer = ShardWriter::create(folder, plan, 1 << 30).unwrap();
    for (other, weight) in &weights {
        let weight = if other == name { change(weight) } else { weight.shallow_clone() };
        writer.write(other, &weight).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_number_in_the_files_that_is_not_its_fold_is_seen_and_named() {
    let cut = Cut::new();
    let name = "model.layers.1.self_attn.v_proj.weight";
    let swap = |weight: &Tensor| weight.roll([1i64], [0i64]);
    let one_bit = |weight: &Tensor| {
        let changed = weight.copy();
        let place = changed.get(2).get(3);
        let _ = place.shallow_clone().fill_(place.double_value(&[]) * 1.02);
        changed
    };
    for (change, index) in [(&swap as &dyn Fn(&Tensor) -> Tensor, None), (&one_bit, Some(vec![2, 3]))] {
        let found = cut.check(&cut.plan, &cut.gates, DType::BF16, |folder| rewrite(folder, name, change));
        assert_eq!(found.fault(), Some(Fault::Weights), "{found}");
        let wrong = found.weights.wrong.as_ref().unwrap();
        assert_eq!(wrong.name, name);
        assert!(index.is_none_or(|index| wrong.index == index), "{found}");
        assert!(found.to_string().contains(name), "{found}");
    }
}

#[test]
fn what_a_dtype_cannot_hold_is_named_with_its_weight() {
    let mut cut = Cut::new();
    let path: PathBuf = cut.source.dir().to_path_buf();
    let name = format!("model.layers.{}.mlp.down_proj.weight", cut.plan.layers[0].source_index);
    rewrite(&path, &name, |weight| weight.full_like(1e9));
    cut.source = Checkpoint::open(&path).unwrap();
    let found = cut.check(&cut.plan, &cut.gates, DType::F16, |_| {});
    assert_eq!(found.fault(), Some(Fault::Weights), "{found}");
    assert!(found.to_string().contains("too large for fp16"), "{found}");
    assert!(cut.check(&cut.plan, &cut.gates, DType::BF16, |_| {}).passed());
}

#[test]
fn weights_that_are_no_numbers_are_blamed_on_the_model() {
    let mut cut = Cut::new();
    let path: PathBuf = cut.source.dir().to_path_buf();
    rewrite(&path, "model.norm.weight", |weight| weight * f64::NAN);
    cut.source = Checkpoint::open(&path).unwrap();
    let found = cut.check(&cut.plan, &cut.gates, DType::F32, |_| {});
    assert_eq!(found.fault(), Some(Fault::NotFinite), "{found}");
    assert_eq!(found.to_string().matches("not finite").count(), 1, "{found}");
}
