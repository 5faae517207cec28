//! The constraint and its summary: that few kernels for all masks give what each mask by itself gives.

use crate::{gqa_masks, gqa_spec, set_log_alpha, set_parameter, values};
use shearling_masks::{Error, ExpectedSize, Gates, HardConcrete, MaskSet, MaskSpec, Shape, UnitKind};
use tch::{Device, Kind, Tensor};

/// Masks whose every unit and multiplier differs.
fn mixed(spec: MaskSpec) -> MaskSet {
    let masks = MaskSet::new(spec, HardConcrete::default(), 20, 1, Device::Cpu).unwrap();
    for (salt, module) in masks.spec().modules().iter().enumerate() {
        let log_alpha: Vec<f32> =
            (0..module.units()).map(|unit| ((unit * 37 + salt as i64 * 11) % 91) as f32 / 10.0 - 4.5).collect();
        set_log_alpha(&masks, module.module, &Tensor::from_slice(&log_alpha).view(&module.dims()[..]));
        for (name, value) in [("lambda_1", -0.7), ("lambda_2", 1.9)] {
            let value = Tensor::from((value * (salt + 1) as f64) as f32);
            set_parameter(masks.multiplier_parameters(), &format!("{name}.{}", module.module), &value);
        }
    }
    masks
}

/// Every subset of the dimensions of a GQA model pruned.
fn specs() -> Vec<MaskSpec> {
    let (source, target) = (gqa_spec().source().clone(), gqa_spec().target().clone());
    let subset = |bits: u32| {
        let chosen = |bit: u32, full: i64, cut: i64| if bits >> bit & 1 == 1 { cut } else { full };
        let kv_heads = chosen(1, source.num_key_value_heads, target.num_key_value_heads);
        let shape = Shape {
            num_hidden_layers: chosen(0, source.num_hidden_layers, target.num_hidden_layers),
            num_attention_heads: kv_heads * chosen(2, source.group_size(), target.group_size()),
            num_key_value_heads: kv_heads,
            intermediate_size: chosen(3, source.intermediate_size, target.intermediate_size),
            hidden_size: chosen(4, source.hidden_size, target.hidden_size),
            head_dim: source.head_dim,
        };
        MaskSpec::new(&source, &shape).unwrap()
    };
    (0..32).map(subset).collect()
}

fn gradients(masks: &MaskSet) -> Vec<(String, Vec<f32>)> {
    let leaves = masks.log_alpha_parameters().into_iter().chain(masks.multiplier_parameters());
    let taken = leaves.map(|(name, mut leaf)| {
        let gradient = values(&leaf.grad());
        leaf.zero_grad();
        (name, gradient)
    });
    taken.collect()
}

/// The formula, module by module.
fn loss_by_module(masks: &MaskSet, step: u64) -> Vec<Tensor> {
    let lambda = |name: &str, module: UnitKind| {
        let name = format!("{name}.{module}");
        masks.multiplier_parameters().into_iter().find(|(found, _)| *found == name).unwrap().1
    };
    let loss = |module: UnitKind| {
        let excess = masks.expected_sparsity(module).unwrap() - masks.target_sparsity(module, step);
        lambda("lambda_1", module) * excess.mean(Kind::Float)
            + lambda("lambda_2", module) * excess.square().mean(Kind::Float)
    };
    masks.spec().modules().iter().map(|spec| loss(spec.module)).collect()
}

#[test]
fn loss_shares_and_gradients_are_the_sums_over_single_masks() {
    for spec in specs().into_iter().filter(|spec| !spec.modules().is_empty()) {
        let masks = mixed(spec);
        for step in [0, 7, 500] {
            let single = loss_by_module(&masks, step);
            single.iter().fold(Tensor::from(0f32), |sum, loss| sum + loss).backward();
            let expected = gradients(&masks);
            let lagrangian = masks.lagrangian(step).unwrap();
            lagrangian.loss.backward();
            for ((name, found), (_, expected)) in gradients(&masks).into_iter().zip(expected) {
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!((found - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{name}: {found} {expected}");
                }
            }
            let states = lagrangian.constraints_from(&values(&lagrangian.summary().unwrap())).unwrap();
            assert_eq!(states.len(), single.len());
            for (state, loss) in states.iter().zip(&single) {
                let loss = loss.double_value(&[]);
                assert!((state.loss - loss).abs() < 1e-6 * loss.abs().max(1.0), "{state:?} {loss}");
                let rows = values(&masks.expected_sparsity(state.module).unwrap());
                let excess: Vec<f64> = rows.iter().map(|&row| f64::from(row) - state.target_sparsity).collect();
                let mean = excess.iter().sum::<f64>() / excess.len() as f64;
                assert!((state.violation - mean).abs() < 1e-6, "{state:?} {mean}");
                assert!((state.expected_sparsity - state.target_sparsity - mean).abs() < 1e-6);
                assert_eq!(state.target_sparsity, masks.target_sparsity(state.module, step));
                let worst = excess.iter().fold(0f64, |worst, e| worst.max(e.abs()));
                assert!((state.worst_row_violation - worst).abs() < 1e-6, "{state:?} {worst}");
            }
            let total = states.iter().map(|state| state.loss).sum::<f64>();
            assert!((lagrangian.loss.double_value(&[]) - total).abs() < 1e-6 * total.abs().max(1.0));
        }
    }
}

#[test]
fn the_summary_gives_the_size_that_the_scores_give() {
    // Rows as long as in a 7B model as well: their sums are taken in fp32.
    let wide = |hidden_size, intermediate_size| Shape {
        hidden_size,
        intermediate_size,
        num_hidden_layers: 3,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 1,
    };
    let wide = MaskSpec::new(&wide(4096, 11008), &wide(2560, 6912)).unwrap();
    for spec in specs().into_iter().chain([wide]) {
        let masks = mixed(spec);
        let lagrangian = masks.lagrangian(3).unwrap();
        let found = lagrangian.expected(&values(&lagrangian.summary().unwrap())).unwrap();
        let expected = masks.expected_size().unwrap();
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-6 * expected.abs();
        assert!(close(found.prunable_params, expected.prunable_params), "{found:?} {expected:?}");
        assert!((found.overall_sparsity - expected.overall_sparsity).abs() < 1e-6);
        for tied in [true, false] {
            assert!(close(found.total_params(50, tied), expected.total_params(50, tied)), "{found:?} {expected:?}");
        }
    }
}

#[test]
fn the_summary_is_of_the_forward_and_not_of_later_updates() {
    let mut masks = mixed(gqa_spec());
    let lagrangian = masks.lagrangian(3).unwrap();
    let summary = lagrangian.summary().unwrap();
    assert_eq!((summary.size(), summary.kind()), (vec![lagrangian.summary_len() as i64], Kind::Float));
    assert!(!summary.requires_grad());
    let before = values(&summary);
    for (_, mut leaf) in masks.log_alpha_parameters().into_iter().chain(masks.multiplier_parameters()) {
        tch::no_grad(|| _ = leaf.fill_(9.0));
    }
    masks.clamp().unwrap();
    assert_eq!(values(&lagrangian.summary().unwrap()), before);
}

#[test]
fn a_summary_of_another_length_is_refused() {
    let lagrangian = gqa_masks().lagrangian(3).unwrap();
    let summary = values(&lagrangian.summary().unwrap());
    for wrong in [&summary[1..], &[], &[summary.clone(), vec![0.0]].concat()] {
        assert!(matches!(lagrangian.constraints_from(wrong), Err(Error::SummaryLength { .. })));
        let message = lagrangian.expected(wrong).unwrap_err().to_string();
        assert!(message.contains(&format!("{} were given", wrong.len())), "{message}");
    }
}

#[test]
fn a_mask_that_diverged_shows_in_its_own_constraint_and_in_the_size() {
    let masks = mixed(gqa_spec());
    let mut kv_head = vec![0f32; 16];
    kv_head[7] = f32::NAN;
    set_log_alpha(&masks, UnitKind::KvHead, &Tensor::from_slice(&kv_head).view([4, 4]));
    let lagrangian = masks.lagrangian(3).unwrap();
    let summary = values(&lagrangian.summary().unwrap());
    for state in lagrangian.constraints_from(&summary).unwrap() {
        let fields = [state.expected_sparsity, state.violation, state.worst_row_violation, state.loss];
        assert!(fields.iter().all(|field| field.is_nan() == (state.module == UnitKind::KvHead)), "{state:?}");
    }
    assert!(lagrangian.expected(&summary).unwrap().prunable_params.is_nan());
    assert!(lagrangian.loss.double_value(&[]).is_nan());
}

#[test]
fn nothing_to_prune_is_a_loss_of_zero_and_an_empty_summary() {
    let source = gqa_spec().source().clone();
    let masks = mixed(MaskSpec::new(&source, &source).unwrap());
    let lagrangian = masks.lagrangian(5).unwrap();
    assert_eq!(lagrangian.loss.double_value(&[]), 0.0);
    assert_eq!((lagrangian.summary().unwrap().size(), lagrangian.summary_len()), (vec![0], 0));
    assert!(lagrangian.constraints_from(&[]).unwrap().is_empty());
    let whole = ExpectedSize::of_scores(masks.spec(), &Gates::none()).unwrap();
    assert_eq!(lagrangian.expected(&[]).unwrap(), whole);
}
