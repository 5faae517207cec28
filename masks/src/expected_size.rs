//! How many parameters a masked model is expected to have, from the expected scores of its units.
//!
//! Units are taken as independent, so expectations multiply. With A_l the score of layer l,
//!
//! ```text
//! N̂ = Σ_j h_j · Σ_l A_l · [ 2·d_h·Σ z^kv_l · Σ z^q_l  +  2·d_h·Σ z^kv_l  +  3·Σ z^int_l ]
//! ```
//!
//! (q and o; k and v; gate, up and down). A dimension without a mask counts in full. Gates of 0 and 1 give the count of the
//! model that they describe. Only the layers' scores are needed one by one, of everything else the sum of each row: a training
//! step takes these from the summary of its constraint (`lagrangian`).

use crate::error::Result;
use crate::gates::Gates;
use crate::shape::UnitKind;
use crate::spec::MaskSpec;

/// Expected sizes of a masked model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedSize {
    /// Projection weights, N̂.
    pub prunable_params: f64,
    /// Sparsity over all projections, 1 − N̂ / N.
    pub overall_sparsity: f64,
    hidden: f64,
    layers: f64,
}

impl ExpectedSize {
    /// The sizes for the given scores (or gates of 0 and 1), one tensor per mask in the place of its gate.
    ///
    /// # Errors
    /// A module of the spec that is missing, of another shape or not finite.
    pub fn of_scores(spec: &MaskSpec, scores: &Gates) -> Result<ExpectedSize> {
        let values = |module: UnitKind| scores.values(spec, module);
        let row_sums = |module: UnitKind| -> Result<Vec<f64>> {
            Ok(values(module)?.chunks_exact(spec.layout(module).size as usize).map(sum).collect())
        };
        let layers: Vec<f64> = values(UnitKind::Layer)?.into_iter().map(f64::from).collect();
        Ok(ExpectedSize::new(
            spec,
            &layers,
            [row_sums(UnitKind::KvHead)?, row_sums(UnitKind::QueryHead)?, row_sums(UnitKind::Intermediate)?],
            row_sums(UnitKind::Hidden)?.iter().sum(),
        ))
    }

    /// From the scores of the layers `[L]`, the sums over each layer's key/value heads, places and MLP dimensions `[L]`, and
    /// the sum over hidden.
    pub(crate) fn new(spec: &MaskSpec, layers: &[f64], per_layer: [Vec<f64>; 3], hidden: f64) -> ExpectedSize {
        let [kv_heads, group_sizes, intermediate] = per_layer;
        let head_dim = spec.source().head_dim as f64;
        let attention = kv_heads.iter().zip(&group_sizes).map(|(heads, group)| 2.0 * head_dim * heads * (group + 1.0));
        let widths = attention.zip(&intermediate).map(|(attention, units)| attention + 3.0 * units);
        let prunable_params = hidden * layers.iter().zip(widths).map(|(open, width)| open * width).sum::<f64>();
        ExpectedSize {
            prunable_params,
            overall_sparsity: 1.0 - prunable_params / spec.prunable_params() as f64,
            hidden,
            layers: layers.iter().sum(),
        }
    }

    /// All parameters: projections, the norms of the residual stream, the embedding, and the output layer unless it is `tied`
    /// to the embedding. Biases and norms inside heads are not counted.
    pub fn total_params(&self, vocab_size: i64, tied: bool) -> f64 {
        let tables = if tied { 1.0 } else { 2.0 };
        let norms = self.hidden * (2.0 * self.layers + 1.0);
        self.prunable_params + norms + tables * vocab_size as f64 * self.hidden
    }
}

fn sum(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use tch::{Device, Kind, Tensor};

    fn llama_7b() -> Shape {
        Shape {
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
        }
    }

    fn ones(spec: &MaskSpec) -> Gates {
        let mut gates = Gates::none();
        for module in spec.modules() {
            gates.set(module.module, Some(Tensor::ones(&module.dims()[..], (Kind::Float, Device::Cpu))));
        }
        gates
    }

    #[test]
    fn open_masks_count_the_whole_llama_2_7b() {
        let source = llama_7b();
        let target = Shape {
            hidden_size: 2048,
            intermediate_size: 5504,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 128,
        };
        let spec = MaskSpec::new(&source, &target).unwrap();
        assert_eq!(ExpectedSize::of_scores(&spec, &ones(&spec)).unwrap().prunable_params, 6_476_005_376.0);
        assert_eq!(ExpectedSize::of_scores(&spec, &ones(&spec)).unwrap().total_params(32_000, false), 6_738_415_616.0);
        assert_eq!(ExpectedSize::of_scores(&spec, &ones(&spec)).unwrap().total_params(32_000, true), 6_607_343_616.0);
        for (shape, total) in [(&source, 6_738_415_616.0), (&target, 1_345_423_360.0)] {
            let unmasked = MaskSpec::new(shape, shape).unwrap();
            assert_eq!(ExpectedSize::of_scores(&unmasked, &Gates::none()).unwrap().total_params(32_000, false), total);
        }
    }

    /// Adds up the weights of every projection element by element, each weighted with the units it hangs on.
    fn brute_force(shape: &Shape, gate: &dyn Fn(UnitKind, i64, i64) -> f64) -> f64 {
        let (mut total, group_size) = (0.0, shape.group_size());
        for layer in 0..shape.num_hidden_layers {
            let mut of_layer = 0.0;
            for hidden in 0..shape.hidden_size {
                let column = gate(UnitKind::Hidden, 0, hidden);
                for _ in 0..shape.head_dim {
                    for head in 0..shape.num_attention_heads {
                        let group = gate(UnitKind::KvHead, layer, head / group_size);
                        of_layer += 2.0 * column * group * gate(UnitKind::QueryHead, layer, head % group_size);
                    }
                    for kv_head in 0..shape.num_key_value_heads {
                        of_layer += 2.0 * column * gate(UnitKind::KvHead, layer, kv_head);
                    }
                }
                for unit in 0..shape.intermediate_size {
                    of_layer += 3.0 * column * gate(UnitKind::Intermediate, layer, unit);
                }
            }
            total += of_layer * gate(UnitKind::Layer, 0, layer);
        }
        total
    }

    #[test]
    fn grouped_counts_agree_with_a_brute_force_sum() {
        let source = Shape {
            hidden_size: 12,
            intermediate_size: 10,
            num_hidden_layers: 3,
            num_attention_heads: 12,
            num_key_value_heads: 4,
            head_dim: 5,
        };
        let all = Shape {
            hidden_size: 7,
            intermediate_size: 4,
            num_hidden_layers: 2,
            num_attention_heads: 6,
            num_key_value_heads: 3,
            head_dim: 5,
        };
        let only_places = Shape { num_attention_heads: 8, ..source.clone() };
        let only_groups = Shape { num_attention_heads: 6, num_key_value_heads: 2, ..source.clone() };
        for target in [all, only_places, only_groups] {
            let spec = MaskSpec::new(&source, &target).unwrap();
            let mut gates = Gates::none();
            for (salt, module) in spec.modules().iter().enumerate() {
                let values: Vec<f32> = (0..module.units()).map(|i| ((i * 7 + salt as i64) % 5) as f32 / 4.0).collect();
                gates.set(module.module, Some(Tensor::from_slice(&values).view(&module.dims()[..])));
            }
            let gate = |module: UnitKind, row: i64, index: i64| match gates.get(module) {
                None => 1.0,
                Some(values) => values.view([-1]).double_value(&[row * spec.layout(module).size + index]),
            };
            let expected = brute_force(&source, &gate);
            let found = ExpectedSize::of_scores(&spec, &gates).unwrap().prunable_params;
            assert!((found - expected).abs() < 1e-9 * expected, "{target:?}: {found} {expected}");
        }
    }

    #[test]
    fn missing_and_misshapen_scores_are_refused() {
        let spec = MaskSpec::new(&llama_7b(), &Shape { num_hidden_layers: 24, ..llama_7b() }).unwrap();
        let message = ExpectedSize::of_scores(&spec, &Gates::none()).unwrap_err().to_string();
        assert!(message.contains("`layer`") && message.contains("[32]"), "{message}");
        let short = Gates { layer: Some(Tensor::ones([31], (Kind::Float, Device::Cpu))), ..Gates::none() };
        assert!(ExpectedSize::of_scores(&spec, &short).unwrap_err().to_string().contains("[31]"));
    }
}
