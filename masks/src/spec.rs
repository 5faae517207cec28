//! Which masks exist: derived from the dimensions in which the source and the target shape differ.
//!
//! With G = H/K queries per group, a target (H_T, K_T) is reached by keeping K_T groups and, in each, the same G_T = H_T/K_T
//! places; so K_T ≤ K and G_T ≤ G is all that is asked of it. First step of a pruning run: everything else takes its sizes from here.

use crate::error::{Error, Result};
use crate::shape::{Shape, UnitKind};
use serde::Serialize;

/// One mask: `rows` independent rows of `size` units, of which each row keeps `target`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleSpec {
    /// What a unit is.
    pub module: UnitKind,
    /// 1 for `layer` and `hidden`, else the number of layers of the source.
    pub rows: i64,
    /// Units per row in the source.
    pub size: i64,
    /// Units per row to keep.
    pub target: i64,
}

impl ModuleSpec {
    fn new(module: UnitKind, source: &Shape, target: &Shape) -> ModuleSpec {
        let rows = if module.is_per_layer() { source.num_hidden_layers } else { 1 };
        ModuleSpec { module, rows, size: module.size_in(source), target: module.size_in(target) }
    }

    /// Shape of the mask's tensors: `[size]` for `layer` and `hidden`, else `[rows, size]`.
    pub fn dims(&self) -> Vec<i64> {
        if self.module.is_per_layer() { vec![self.rows, self.size] } else { vec![self.size] }
    }

    /// What makes a norm over the kept dimensions of a stream give what it gave over all: √(size/target), see
    /// [`Gates::norm_gain`](crate::Gates::norm_gain). Of the `hidden` mask.
    pub fn norm_gain(&self) -> f32 {
        (self.size as f64 / self.target as f64).sqrt() as f32
    }

    /// Number of units in all rows.
    pub fn units(&self) -> i64 {
        self.rows * self.size
    }

    /// The share of each row that must go, 1 − target/size.
    pub fn target_sparsity(&self) -> f64 {
        1.0 - self.target as f64 / self.size as f64
    }
}

/// All masks that lead from one shape to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskSpec {
    source: Shape,
    target: Shape,
    modules: Vec<ModuleSpec>,
    prunable_params: i64,
    target_prunable_params: i64,
}

impl MaskSpec {
    /// The masks from `source` to `target`; none where they agree.
    ///
    /// # Errors
    /// A dimension out of range, heads that do not divide, another `head_dim`, a target larger than the source in any
    /// dimension or in queries per group. Each names the key, both values and what to change.
    pub fn new(source: &Shape, target: &Shape) -> Result<MaskSpec> {
        source.check("source")?;
        if let Some(first) = unreachable(source, target).into_iter().next() {
            return Err(first);
        }
        let all = UnitKind::ALL.map(|module| ModuleSpec::new(module, source, target));
        Ok(MaskSpec {
            source: source.clone(),
            target: target.clone(),
            modules: all.into_iter().filter(|spec| spec.target < spec.size).collect(),
            prunable_params: source.prunable_params("source")?,
            target_prunable_params: target.prunable_params("target")?,
        })
    }

    /// Everything for which [`MaskSpec::new`] would refuse a target, not only the first; empty if it would not.
    pub fn problems(source: &Shape, target: &Shape) -> Vec<Error> {
        match source.check("source") {
            Err(error) => vec![error],
            Ok(()) => unreachable(source, target),
        }
    }

    /// The masks, in the order of [`UnitKind::ALL`].
    pub fn modules(&self) -> &[ModuleSpec] {
        &self.modules
    }

    /// The shape to prune.
    pub fn source(&self) -> &Shape {
        &self.source
    }

    /// The shape to reach.
    pub fn target(&self) -> &Shape {
        &self.target
    }

    /// The mask of a module, if that dimension is pruned.
    pub fn get(&self, module: UnitKind) -> Option<&ModuleSpec> {
        self.modules.iter().find(|spec| spec.module == module)
    }

    /// Rows and sizes of any module, pruned or not.
    pub(crate) fn layout(&self, module: UnitKind) -> ModuleSpec {
        ModuleSpec::new(module, &self.source, &self.target)
    }

    /// Projection weights of the source, L·D·(2·d_h·H + 2·d_h·K + 3·F).
    pub fn prunable_params(&self) -> i64 {
        self.prunable_params
    }

    /// Projection weights of the target.
    pub fn target_prunable_params(&self) -> i64 {
        self.target_prunable_params
    }
}

/// Why masks on `source`, which is fine in itself, cannot reach `target`: every reason.
fn unreachable(source: &Shape, target: &Shape) -> Vec<Error> {
    let mut problems: Vec<Error> = target.check("target").err().into_iter().collect();
    if source.head_dim != target.head_dim {
        problems.push(Error::HeadDim { source_value: source.head_dim, target_value: target.head_dim });
    }
    for ((key, source_value), (_, target_value)) in source.dimensions().into_iter().zip(target.dimensions()) {
        // That one must be the same.
        if target_value > source_value && key != "head_dim" {
            problems.push(Error::TargetLarger { key, source_value, target_value });
        }
    }
    // Without whole groups there is nothing to compare.
    if problems.is_empty() && target.group_size() > source.group_size() {
        problems.push(Error::GroupLarger {
            heads: target.num_attention_heads,
            kv_heads: target.num_key_value_heads,
            target_group: target.group_size(),
            source_group: source.group_size(),
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: [i64; 6]) -> Shape {
        let [hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim] =
            dims;
        Shape { hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim }
    }

    /// Llama-3.1-like in miniature: 8 query heads over 4 key/value heads.
    fn gqa() -> Shape {
        shape([64, 96, 6, 8, 4, 8])
    }

    fn refusal(target: [i64; 6]) -> String {
        MaskSpec::new(&gqa(), &shape(target)).unwrap_err().to_string()
    }

    #[test]
    fn every_combination_of_smaller_dimensions_gives_exactly_its_masks() {
        for bits in 0..32u32 {
            let smaller = |bit: u32, full: i64, cut: i64| if bits >> bit & 1 == 1 { cut } else { full };
            let (kv, group) = (smaller(1, 4, 2), smaller(2, 2, 1));
            let target = shape([smaller(4, 64, 48), smaller(3, 96, 32), smaller(0, 6, 5), kv * group, kv, 8]);
            let spec = MaskSpec::new(&gqa(), &target).unwrap();
            let expected: Vec<UnitKind> =
                UnitKind::ALL.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, m)| m).collect();
            let found: Vec<UnitKind> = spec.modules().iter().map(|module| module.module).collect();
            assert_eq!(found, expected, "{target:?}");
            for module in UnitKind::ALL {
                assert_eq!(spec.get(module).is_some(), expected.contains(&module));
            }
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_target_is_told() {
        let told = |target| -> Vec<String> {
            MaskSpec::problems(&gqa(), &shape(target)).iter().map(ToString::to_string).collect()
        };
        let found = told([65, 97, 6, 5, 3, 8]);
        assert_eq!(found.len(), 3, "{found:?}");
        for (said, key) in found.iter().zip(["num_attention_heads = 5", "hidden_size = 65", "intermediate_size = 97"]) {
            assert!(said.contains(key), "{found:?}");
        }
        assert_eq!(found[0], refusal([65, 97, 6, 5, 3, 8]), "the first is what refuses");
        assert!(told([64, 96, 6, 8, 4, 8]).is_empty() && told([64, 96, 6, 8, 2, 8]).len() == 1);
    }

    #[test]
    fn sizes_of_each_mask() {
        let spec = MaskSpec::new(&gqa(), &shape([48, 32, 5, 3, 3, 8])).unwrap();
        let found: Vec<_> = spec.modules().iter().map(|m| (m.module, m.rows, m.size, m.target, m.dims())).collect();
        assert_eq!(
            found,
            [
                (UnitKind::Layer, 1, 6, 5, vec![6]),
                (UnitKind::KvHead, 6, 4, 3, vec![6, 4]),
                (UnitKind::QueryHead, 6, 2, 1, vec![6, 2]),
                (UnitKind::Intermediate, 6, 96, 32, vec![6, 96]),
                (UnitKind::Hidden, 1, 64, 48, vec![64]),
            ]
        );
    }

    #[test]
    fn a_single_layer_keeps_its_row_dimension() {
        let spec = MaskSpec::new(&shape([8, 8, 1, 4, 4, 2]), &shape([8, 8, 1, 2, 2, 2])).unwrap();
        assert_eq!(spec.modules().len(), 1);
        assert_eq!(spec.modules()[0].dims(), [1, 4]);
    }

    #[test]
    fn refusals_name_key_values_and_fix() {
        let cases = [
            ([128, 96, 6, 8, 4, 8], "hidden_size = 128 is larger than the source's 64"),
            ([64, 97, 6, 8, 4, 8], "set intermediate_size to at most 96"),
            ([64, 96, 7, 8, 4, 8], "num_hidden_layers = 7"),
            ([64, 96, 6, 8, 8, 8], "num_key_value_heads = 8 is larger"),
            ([64, 96, 6, 16, 4, 8], "num_attention_heads = 16 is larger"),
            ([64, 96, 6, 8, 2, 8], "4 queries per group"),
            ([64, 96, 6, 8, 2, 8], "at most 4"),
            ([64, 96, 6, 7, 3, 8], "target num_attention_heads = 7 is not a multiple of num_key_value_heads = 3"),
            ([64, 96, 6, 8, 4, 4], "set head_dim = 8"),
            ([64, 0, 6, 8, 4, 8], "target intermediate_size = 0 is not between 1"),
            ([64, 96, -1, 8, 4, 8], "target num_hidden_layers = -1"),
            ([i64::MAX, 96, 6, 8, 4, 8], "correct `hidden_size`"),
        ];
        for (target, expected) in cases {
            let message = refusal(target);
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let source = shape([64, 96, 6, 8, 3, 8]);
        let message = MaskSpec::new(&source, &source).unwrap_err().to_string();
        assert!(message.starts_with("source num_attention_heads = 8"), "{message}");
    }

    #[test]
    fn counts_too_large_for_64_bits_are_refused() {
        let huge = shape([1 << 24, 1 << 24, 1 << 24, 1, 1, 1]);
        assert!(matches!(MaskSpec::new(&huge, &huge), Err(Error::TooManyParameters { side: "source" })));
    }

    #[test]
    fn llama_2_7b_counts() {
        let source = shape([4096, 11008, 32, 32, 32, 128]);
        let targets = [
            ([2560, 6912, 32, 20, 20, 128], 2_537_553_920, 0.60816),
            ([2048, 5504, 24, 16, 16, 128], 1_214_251_008, 0.81250),
            ([1024, 2816, 24, 8, 8, 128], 308_281_344, 0.95240),
        ];
        for (dims, params, sparsity) in targets {
            let spec = MaskSpec::new(&source, &shape(dims)).unwrap();
            assert_eq!(spec.prunable_params(), 6_476_005_376);
            assert_eq!(spec.target_prunable_params(), params);
            let overall = 1.0 - params as f64 / spec.prunable_params() as f64;
            assert!((overall - sparsity).abs() < 5e-6);
        }
        let spec = MaskSpec::new(&source, &shape([2048, 5504, 24, 16, 16, 128])).unwrap();
        assert_eq!(spec.modules().iter().map(ModuleSpec::units).sum::<i64>(), 357_408);
    }
}
