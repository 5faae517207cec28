//! Fold and slice is exact: for every combination of pruned dimensions, soft masks, grouped queries, tied embeddings,
//! biases, q/k norms and sliding windows, the written model's logits are the masked model's.

use super::support::{apart, families, load, logits, write_model};
use shearling::config::Target;
use shearling::files::DType;
use shearling::hf::Checkpoint;
use shearling::prune::principal;
use shearling::prune::scores::{Calibration, magnitude};
use shearling::prune::{CheckRows, Conversion, Equivalence, Error, Fault, convert, shape};
use shearling_masks::{Deterministic, Gates, Gating, HardConcrete, KeepPlan, MaskSet, MaskSpec, UnitKind};
use shearling_noise::weight_normals;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Every subset of the five dimensions; bit 3 (queries per group) only where there are groups.
fn targets(grouped: bool) -> Vec<Target> {
    let subsets = (1u32..32).filter(|bits| grouped || bits & 8 == 0);
    let target = |bits: u32| {
        let pruned = |bit: u32, value: i64| (bits & bit != 0).then_some(value);
        let (kv, group) = match grouped {
            true => (if bits & 4 != 0 { 2 } else { 4 }, if bits & 8 != 0 { 1 } else { 2 }),
            false => (if bits & 4 != 0 { 2 } else { 4 }, 1),
        };
        Target {
            hidden_size: pruned(1, 20),
            intermediate_size: pruned(2, 30),
            num_hidden_layers: pruned(16, 2),
            num_attention_heads: Some(kv * group),
            num_key_value_heads: Some(kv),
            head_dim: None,
        }
    };
    subsets.map(target).collect()
}

/// Masks far from converged: soft values all over (0, 1), then cut to the target.
fn soft_masks(spec: &MaskSpec, seed: u64) -> MaskSet {
    drawn_masks(spec, HardConcrete::default(), seed, 0.0, 2.0)
}

/// Masks of a parametrisation whose numbers are drawn from Normal(mean, deviation).
fn drawn_masks(spec: &MaskSpec, gating: impl Into<Gating>, seed: u64, mean: f64, deviation: f64) -> MaskSet {
    let masks = MaskSet::new(spec.clone(), gating, 10, seed, Device::Cpu).unwrap();
    tch::no_grad(|| {
        for (name, mut leaf) in masks.log_alpha_parameters() {
            let noise = Tensor::from_slice(&weight_normals(seed, &name, leaf.numel()));
            leaf.copy_(&(noise.view(&leaf.size()[..]) * deviation + mean));
        }
    });
    masks
}

fn rows() -> Tensor {
    let ids: Vec<i64> = (0..48).map(|i| (i * 29 + 7) % 64).collect();
    Tensor::from_slice(&ids).view([3, 16])
}

fn cut(
    source: &Path,
    spec: &MaskSpec,
    gates: &Gates,
    plan: &KeepPlan,
    dtype: DType,
    out: &Path,
) -> Result<Equivalence, Error> {
    let conversion = Conversion {
        source: &Checkpoint::open(source).unwrap(),
        companions: source,
        spec,
        gates,
        plan,
        dtype,
        max_shard_bytes: 1 << 30,
        check_rows: &CheckRows::unnamed(rows()),
        device: Device::Cpu,
        unproven: false,
    };
    Ok(convert(&conversion, out, Default::default(), &mut |_, _, _| {})?.equivalence)
}

#[test]
fn every_combination_in_every_family_is_exact() {
    let mut checked = 0;
    for (family, config) in families() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        write_model(&source, &config, 3);
        let loaded = load(&source);
        let grouped = config["num_attention_heads"] != config["num_key_value_heads"];
        for (number, target) in targets(grouped).iter().enumerate() {
            let spec = shape::mask_spec(&loaded.model, target).unwrap();
            let gates = soft_masks(&spec, number as u64).target_gates().unwrap().detach().unwrap();
            let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
            let out = folder.path().join(format!("pruned-{number}"));
            let equivalence = cut(&source, &spec, &gates, &plan, DType::F32, &out).unwrap();
            assert!(equivalence.folded < 1e-12, "{family} {target:?}: {equivalence}");
            assert!(equivalence.rounding.written.mean_kl.abs() < 1e-9, "{family} {target:?}: {equivalence}");

            // The check's own arithmetic is not trusted: the folder is loaded as any user would.
            let pruned = load(&out);
            assert_eq!(shape::source_shape(&pruned.model), *spec.target(), "{family} {target:?}");
            let masked = logits(&loaded, &rows(), gates);
            let difference = apart(&masked, &logits(&pruned, &rows(), Gates::none()));
            let scale = masked.abs().max().double_value(&[]);
            assert!(difference < 2e-5 * scale, "{family} {target:?}: {difference} of {scale}");
            checked += 1;
        }
    }
    assert_eq!(checked, 15 + 4 * 31);
}

#[test]
fn gates_above_one_are_folded_like_any_other() {
    for (family, config) in families() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        write_model(&source, &config, 3);
        let grouped = config["num_attention_heads"] != config["num_key_value_heads"];
        let everything = targets(grouped).pop().unwrap();
        let spec = shape::mask_spec(&load(&source).model, &everything).unwrap();
        let masks = drawn_masks(&spec, Deterministic::over(10), 4, 1.0, 0.4);
        let gates = masks.target_gates().unwrap().detach().unwrap();
        for module in spec.modules() {
            let largest = gates.get(module.module).unwrap().max().double_value(&[]);
            assert!(largest > 1.1, "{family} {}: {largest}", module.module);
        }
        let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
        let equivalence = cut(&source, &spec, &gates, &plan, DType::F32, &folder.path().join("pruned")).unwrap();
        assert!(equivalence.folded < 1e-12, "{family}: {equivalence}");
    }
}

#[test]
fn per_layer_windows_follow_the_kept_layers() {
    let (_, config) = families().into_iter().find(|(name, _)| *name == "qwen2").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_model(&source, &config, 3);
    let loaded = load(&source);
    assert_eq!(loaded.model.sliding_window, [None, Some(6), Some(6)]);
    let target = Target { num_hidden_layers: Some(2), ..Default::default() };
    let spec = shape::mask_spec(&loaded.model, &target).unwrap();
    for (gates, windows) in [([0.0, 0.7, 0.9], [Some(6), Some(6)]), ([0.7, 0.0, 0.9], [None, Some(6)])] {
        let gates = Gates { layer: Some(Tensor::from_slice(&gates.map(|gate: f64| gate as f32))), ..Gates::none() };
        let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
        let out = folder.path().join(format!("pruned-{}", plan.layers[0].source_index));
        cut(&source, &spec, &gates, &plan, DType::F32, &out).unwrap();
        assert_eq!(load(&out).model.sliding_window, windows);
    }
}

#[test]
fn rounding_to_bf16_costs_what_it_costs_the_source_and_the_fold_stays_exact() {
    let (_, config) = families().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_model(&source, &config, 3);
    let target = targets(false).pop().unwrap();
    let spec = shape::mask_spec(&load(&source).model, &target).unwrap();
    let gates = soft_masks(&spec, 9).target_gates().unwrap().detach().unwrap();
    let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
    let out = folder.path().join("pruned");
    let equivalence = cut(&source, &spec, &gates, &plan, DType::BF16, &out).unwrap();
    assert!(equivalence.folded < 1e-12, "{equivalence}");
    let (written, source) = (&equivalence.rounding.written, &equivalence.rounding.source);
    assert!(written.mean_kl > 1e-8 && written.worst_kl >= written.mean_kl, "rounding shows: {equivalence}");
    assert!(written.mean_kl < 4.0 * source.mean_kl && written.loss_change.abs() < 1e-2, "{equivalence}");
    let written = Checkpoint::open(&out).unwrap();
    assert!(written.names().all(|name| written.dtype(name).unwrap().bytes() == 2));
}

#[test]
fn a_wrong_cut_names_its_layer_and_publishes_nothing() {
    let (_, config) = families().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_model(&source, &config, 3);
    let target = Target { intermediate_size: Some(30), ..Default::default() };
    let spec = shape::mask_spec(&load(&source).model, &target).unwrap();
    let gates = soft_masks(&spec, 1).target_gates().unwrap().detach().unwrap();
    let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
    // The masked model still uses a unit of layer 1 that the plan drops.
    let dropped = (0..48).find(|unit| !plan.layers[1].intermediate.contains(unit)).unwrap();
    let _ = gates.intermediate.as_ref().unwrap().get(1).get(dropped).fill_(0.9);
    let out = folder.path().join("pruned");
    let error = cut(&source, &spec, &gates, &plan, DType::F32, &out).unwrap_err();
    let Error::NotEqual(equivalence) = &error else { panic!("{error}") };
    assert_eq!(equivalence.fault(), Some(Fault::Arithmetic));
    assert!(error.to_string().contains("layer 1 (layer 1 of the source)"), "{error}");
    assert!(!out.exists(), "nothing is published");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["source"], "nothing is left behind");
}

#[test]
fn the_magnitude_cut_keeps_the_largest_units_and_is_exact() {
    let (_, config) = families().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_model(&source, &config, 3);
    let checkpoint = Checkpoint::open(&source).unwrap();
    let target = targets(false).pop().unwrap();
    let spec = shape::mask_spec(checkpoint.model(), &target).unwrap();
    let scores = magnitude::scores(&checkpoint, &spec, Device::Cpu).unwrap();
    let (plan, gates) = KeepPlan::from_scores(&spec, &scores).unwrap();

    let norm = |name: &str, dim: i64| {
        let weight = checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
        weight.square().sum_dim_intlist(&[dim][..], false, Kind::Float)
    };
    let layer = plan.layers[0].source_index;
    let mlp = |part: &str| format!("model.layers.{layer}.mlp.{part}_proj.weight");
    let scores = norm(&mlp("gate"), 1) + norm(&mlp("up"), 1) + norm(&mlp("down"), 0);
    let mut best = Vec::<i64>::try_from(scores.topk(30, 0, true, true).1).unwrap();
    best.sort_unstable();
    assert_eq!(plan.layers[0].intermediate, best);

    let out = folder.path().join("pruned");
    let equivalence = cut(&source, &spec, &gates, &plan, DType::F32, &out).unwrap();
    assert!(equivalence.folded < 1e-12, "{equivalence}");
}

/// The source in its principal basis is the same function, and its cut is exact.
#[test]
fn a_rotated_source_computes_the_same_and_is_cut_exactly() {
    for (name, mut config) in families() {
        let folder = tempfile::tempdir().unwrap();
        let (source, rotated) = (folder.path().join("source"), folder.path().join("rotated"));
        // With a tied head the final norm's weight has to be a constant for the rotation to be exact.
        config["tie_word_embeddings"] = serde_json::json!(false);
        write_model(&source, &config, 3);
        let checkpoint = Checkpoint::open(&source).unwrap();
        let calibration = Calibration { rows: rows(), micro_batch: 2, compute: Kind::Float };
        let basis = principal::basis(&checkpoint, &calibration, Device::Cpu, &mut |_, _, _| ()).unwrap();
        std::fs::create_dir(&rotated).unwrap();
        principal::rotate(&checkpoint, &basis, &rotated, 1 << 30, Device::Cpu, &mut |_, _, _| ()).unwrap();
        let (before, after) = (load(&source), load(&rotated));
        let difference = apart(&logits(&before, &rows(), Gates::none()), &logits(&after, &rows(), Gates::none()));
        assert!(difference < 2e-4, "{name}: {difference}");

        // Dropping half of a stream loses least in this basis.
        let spec =
            shape::mask_spec(checkpoint.model(), &Target { hidden_size: Some(20), ..Target::default() }).unwrap();
        let scores = Gates { hidden: Some(basis.energy.shallow_clone()), ..Gates::none() };
        let (plan, mut gates) = KeepPlan::from_scores(&spec, &scores).unwrap();
        gates.norm_gain = Some(spec.get(UnitKind::Hidden).unwrap().norm_gain());
        let out = folder.path().join("pruned");
        let equivalence = cut(&rotated, &spec, &gates, &plan, DType::F32, &out).unwrap();
        assert!(equivalence.folded < 1e-12, "{name}: {equivalence}");
        assert_eq!(plan.hidden, (0..20).collect::<Vec<i64>>(), "energies fall");
    }
}
