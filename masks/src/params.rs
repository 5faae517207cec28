//! How many parameters a masked model is expected to have, from the expected scores of its units.
//!
//! Units are taken as independent, so expectations multiply. With A_l the score of layer l,
//!
//! ```text
//! N̂ = Σ_j h_j · Σ_l A_l · [ 2·d_h·Σ z^kv_l · Σ z^q_l  +  2·d_h·Σ z^kv_l  +  3·Σ z^int_l ]
//! ```
//!
//! (q and o; k and v; gate, up and down). A dimension without a mask counts in full. Gates of 0 and 1 give the count of the
//! model that they describe.

use crate::error::Result;
use crate::gates::Gates;
use crate::shape::Module;
use crate::spec::MaskSpec;

/// Expected sizes of every part of a model.
struct ExpectedSizes {
    hidden: f64,
    layers: Vec<ExpectedLayer>,
}

struct ExpectedLayer {
    open: f64,
    kv_heads: f64,
    group_size: f64,
    intermediate: f64,
}

impl ExpectedSizes {
    fn new(spec: &MaskSpec, scores: &Gates) -> Result<ExpectedSizes> {
        let open = scores.values(spec, Module::Layer)?;
        let kv_heads = row_sums(spec, scores, Module::KvHead)?;
        let group_sizes = row_sums(spec, scores, Module::QueryHead)?;
        let intermediate = row_sums(spec, scores, Module::Intermediate)?;
        let layer = |l: usize| ExpectedLayer {
            open: f64::from(open[l]),
            kv_heads: kv_heads[l],
            group_size: group_sizes[l],
            intermediate: intermediate[l],
        };
        Ok(ExpectedSizes {
            hidden: row_sums(spec, scores, Module::Hidden)?.iter().sum(),
            layers: (0..open.len()).map(layer).collect(),
        })
    }

    fn prunable_params(&self, head_dim: i64) -> f64 {
        let width = |layer: &ExpectedLayer| {
            let attention = 2.0 * head_dim as f64 * layer.kv_heads * (layer.group_size + 1.0);
            layer.open * (attention + 3.0 * layer.intermediate)
        };
        self.hidden * self.layers.iter().map(width).sum::<f64>()
    }

    fn norm_params(&self) -> f64 {
        self.hidden * (2.0 * self.layers.iter().map(|layer| layer.open).sum::<f64>() + 1.0)
    }
}

/// Expected number of projection weights for the given scores (or gates of 0 and 1).
///
/// # Errors
/// A module of the spec that is missing, of another shape or not finite.
pub fn expected_prunable_params(spec: &MaskSpec, scores: &Gates) -> Result<f64> {
    Ok(ExpectedSizes::new(spec, scores)?.prunable_params(spec.source().head_dim))
}

/// Expected number of all parameters: projections, the norms of the residual stream, the embedding, and the output layer
/// unless it is `tied` to the embedding. Biases and norms inside heads are not counted.
///
/// # Errors
/// As [`expected_prunable_params`].
pub fn expected_total_params(spec: &MaskSpec, scores: &Gates, vocab_size: i64, tied: bool) -> Result<f64> {
    let sizes = ExpectedSizes::new(spec, scores)?;
    let tables = if tied { 1.0 } else { 2.0 };
    let embeddings = tables * vocab_size as f64 * sizes.hidden;
    Ok(embeddings + sizes.norm_params() + sizes.prunable_params(spec.source().head_dim))
}

/// The sum of each row, in double precision.
fn row_sums(spec: &MaskSpec, scores: &Gates, module: Module) -> Result<Vec<f64>> {
    let values = scores.values(spec, module)?;
    let rows = values.chunks_exact(spec.layout(module).size as usize);
    Ok(rows.map(|row| row.iter().map(|&value| f64::from(value)).sum()).collect())
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
        assert_eq!(expected_prunable_params(&spec, &ones(&spec)).unwrap(), 6_476_005_376.0);
        assert_eq!(expected_total_params(&spec, &ones(&spec), 32_000, false).unwrap(), 6_738_415_616.0);
        assert_eq!(expected_total_params(&spec, &ones(&spec), 32_000, true).unwrap(), 6_607_343_616.0);
        for (shape, total) in [(&source, 6_738_415_616.0), (&target, 1_345_423_360.0)] {
            let unmasked = MaskSpec::new(shape, shape).unwrap();
            assert_eq!(expected_total_params(&unmasked, &Gates::none(), 32_000, false).unwrap(), total);
        }
    }

    /// Adds up the weights of every projection element by element, each weighted with the units it hangs on.
    fn brute_force(shape: &Shape, gate: &dyn Fn(Module, i64, i64) -> f64) -> f64 {
        let (mut total, group_size) = (0.0, shape.group_size());
        for layer in 0..shape.num_hidden_layers {
            let mut of_layer = 0.0;
            for hidden in 0..shape.hidden_size {
                let column = gate(Module::Hidden, 0, hidden);
                for _ in 0..shape.head_dim {
                    for head in 0..shape.num_attention_heads {
                        let group = gate(Module::KvHead, layer, head / group_size);
                        of_layer += 2.0 * column * group * gate(Module::QueryHead, layer, head % group_size);
                    }
                    for kv_head in 0..shape.num_key_value_heads {
                        of_layer += 2.0 * column * gate(Module::KvHead, layer, kv_head);
                    }
                }
                for unit in 0..shape.intermediate_size {
                    of_layer += 3.0 * column * gate(Module::Intermediate, layer, unit);
                }
            }
            total += of_layer * gate(Module::Layer, 0, layer);
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
            let gate = |module: Module, row: i64, index: i64| match gates.get(module) {
                None => 1.0,
                Some(values) => values.view([-1]).double_value(&[row * spec.layout(module).size + index]),
            };
            let expected = brute_force(&source, &gate);
            let found = expected_prunable_params(&spec, &gates).unwrap();
            assert!((found - expected).abs() < 1e-9 * expected, "{target:?}: {found} {expected}");
        }
    }

    #[test]
    fn missing_and_misshapen_scores_are_refused() {
        let spec = MaskSpec::new(&llama_7b(), &Shape { num_hidden_layers: 24, ..llama_7b() }).unwrap();
        let message = expected_prunable_params(&spec, &Gates::none()).unwrap_err().to_string();
        assert!(message.contains("`layer`") && message.contains("[32]"), "{message}");
        let short = Gates { layer: Some(Tensor::ones([31], (Kind::Float, Device::Cpu))), ..Gates::none() };
        assert!(expected_prunable_params(&spec, &short).unwrap_err().to_string().contains("[31]"));
    }
}
