//! Every unit of a mask file as plain numbers: its soft value and whether the cut to the target keeps it. What all
//! views of masks are made of; no tensors leave this file.
//!
//! Letters: L layers, H query heads, K key/value heads, G = H/K, F intermediate, D hidden.

use super::Error;
use shearling_masks::{MaskSet, MaskSpec, ModuleSpec, Shape, UnitKind};
use tch::{Device, Kind, Tensor};

/// A gate strictly between these is undecided.
pub const UNDECIDED: (f32, f32) = (0.05, 0.95);

/// Five times those of a 405B (126 layers of 128 heads and 53,248 MLP units).
const MOST_UNITS: i64 = 1 << 25;
/// As of a checkpoint: a hundred times the layers of the deepest models.
const MOST_LAYERS: i64 = 1 << 14;

/// The units of one module.
#[derive(Clone, Debug)]
pub struct ModuleUnits {
    /// Rows, units per row, target.
    pub spec: ModuleSpec,
    /// Soft value σ(slope·a) of every unit, row by row, in [0, 1].
    pub soft: Vec<f32>,
    /// Expected score P(z ≠ 0) of every unit: what the constraint counts.
    pub score: Vec<f32>,
    /// Whether the cut to the target keeps it.
    pub kept: Vec<bool>,
}

/// The units of all masks.
#[derive(Clone, Debug)]
pub struct Units {
    /// Which masks there are.
    pub spec: MaskSpec,
    modules: Vec<ModuleUnits>,
}

impl Units {
    /// Reads the masks once.
    ///
    /// # Errors
    /// Log-odds that are not finite; shapes far beyond any decoder.
    pub fn of(masks: &MaskSet) -> Result<Units, Error> {
        check_size(masks.spec())?;
        let (spec, cut) = (masks.spec(), masks.target_gates()?);
        let mut modules = Vec::new();
        for module in spec.modules() {
            let soft = values(&masks.soft_values(module.module)?)?;
            let score = values(&masks.expected_score(module.module)?.f_detach()?)?;
            let gates = cut.get(module.module).map(values).transpose()?.unwrap_or_default();
            let kept = gates.iter().map(|gate| *gate != 0.0).collect();
            modules.push(ModuleUnits { spec: module.clone(), soft, score, kept });
        }
        Ok(Units { spec: spec.clone(), modules })
    }

    /// The pruned modules.
    pub fn modules(&self) -> &[ModuleUnits] {
        &self.modules
    }

    /// A module, if it is pruned.
    pub fn get(&self, module: UnitKind) -> Option<&ModuleUnits> {
        self.modules.iter().find(|units| units.spec.module == module)
    }

    /// Soft value of every layer `[L]`; 1 when layers are not pruned.
    pub fn layers(&self) -> Vec<f32> {
        let layers = self.spec.source().num_hidden_layers.max(0) as usize;
        self.get(UnitKind::Layer).map_or_else(|| vec![1.0; layers], |units| units.soft.clone())
    }

    /// Whether the cut keeps each layer `[L]`.
    pub fn kept_layers(&self) -> Vec<bool> {
        let layers = self.spec.source().num_hidden_layers.max(0) as usize;
        self.get(UnitKind::Layer).map_or_else(|| vec![true; layers], |units| units.kept.clone())
    }

    /// Whether the cut keeps a layer.
    pub fn keeps_layer(&self, layer: usize) -> bool {
        self.get(UnitKind::Layer).is_none_or(|units| units.kept_at(0, layer))
    }

    /// Expected number of open units of a module in a layer; all of them when it is not pruned.
    pub fn expected_open(&self, module: UnitKind, layer: usize) -> f64 {
        let row = if module.is_per_layer() { layer } else { 0 };
        match self.get(module) {
            Some(units) => units.expected_open(row),
            None => module.size_in(self.spec.source()) as f64,
        }
    }

    /// Score of every layer `[L]`; 1 when layers are not pruned.
    pub fn layer_scores(&self) -> Vec<f64> {
        let layers = self.spec.source().num_hidden_layers.max(0) as usize;
        let scores = self.get(UnitKind::Layer).map(|units| units.score.iter().map(|score| f64::from(*score)).collect());
        scores.unwrap_or_else(|| vec![1.0; layers])
    }

    /// The shape to prune.
    pub fn source(&self) -> &Shape {
        self.spec.source()
    }

    /// Gate of every query head `[L][H]`: the product of its own, its key/value head's and its layer's.
    pub fn heads(&self) -> Vec<Vec<f32>> {
        let layers = self.layers();
        let gate = |units: Option<&ModuleUnits>, row: usize, index: usize| units.map_or(1.0, |u| u.soft_at(row, index));
        let (kv, query) = (self.get(UnitKind::KvHead), self.get(UnitKind::QueryHead));
        self.by_head(|row, group, place| {
            layers.get(row).copied().unwrap_or(1.0) * gate(kv, row, group) * gate(query, row, place)
        })
    }

    /// Whether the cut keeps each query head `[L][H]`: with its place, its key/value head and its layer.
    pub fn kept_heads(&self) -> Vec<Vec<bool>> {
        let layers = self.kept_layers();
        let kept = |units: Option<&ModuleUnits>, row: usize, index: usize| units.is_none_or(|u| u.kept_at(row, index));
        let (kv, query) = (self.get(UnitKind::KvHead), self.get(UnitKind::QueryHead));
        self.by_head(|row, group, place| {
            layers.get(row).copied().unwrap_or(true) && kept(kv, row, group) && kept(query, row, place)
        })
    }

    fn by_head<T>(&self, of: impl Fn(usize, usize, usize) -> T) -> Vec<Vec<T>> {
        let source = self.spec.source();
        let (heads, group_size) = (source.num_attention_heads.max(0) as usize, source.group_size().max(1) as usize);
        let row = |row: usize| (0..heads).map(|head| of(row, head / group_size, head % group_size)).collect();
        (0..source.num_hidden_layers.max(0) as usize).map(row).collect()
    }

    /// Mean gate of each tenth of a layer's MLP units, sorted from the most open, times the layer's gate `[L][10]`.
    pub fn intermediate_deciles(&self) -> Vec<[f32; 10]> {
        let units = self.get(UnitKind::Intermediate);
        let row = |(row, layer): (usize, &f32)| match units.and_then(|units| units.soft_row(row)) {
            Some(soft) => deciles(soft).map(|mean| mean * layer),
            None => [*layer; 10],
        };
        self.layers().iter().enumerate().map(row).collect()
    }
}

impl ModuleUnits {
    fn at(&self, row: usize, index: usize) -> usize {
        row * self.spec.size as usize + index
    }

    /// Soft value of a unit; 1 where there is none.
    pub fn soft_at(&self, row: usize, index: usize) -> f32 {
        self.soft.get(self.at(row, index)).copied().unwrap_or(1.0)
    }

    /// Whether the cut keeps a unit.
    pub fn kept_at(&self, row: usize, index: usize) -> bool {
        self.kept.get(self.at(row, index)).copied().unwrap_or(true)
    }

    /// Soft values of a row.
    pub fn soft_row(&self, row: usize) -> Option<&[f32]> {
        self.soft.chunks_exact(self.spec.size.max(1) as usize).nth(row)
    }

    /// Expected number of open units of a row, Σ score.
    pub fn expected_open(&self, row: usize) -> f64 {
        let scores = self.score.chunks_exact(self.spec.size.max(1) as usize).nth(row);
        scores.unwrap_or_default().iter().map(|score| f64::from(*score)).sum()
    }

    /// Which units of a row the cut keeps.
    pub fn kept_row(&self, row: usize) -> Option<&[bool]> {
        self.kept.chunks_exact(self.spec.size.max(1) as usize).nth(row)
    }
}

/// Units of `soft` that are undecided.
pub fn undecided(soft: &[f32]) -> usize {
    soft.iter().filter(|value| **value > UNDECIDED.0 && **value < UNDECIDED.1).count()
}

/// How many values fall into each tenth of [0, 1].
pub fn histogram(values: &[f32]) -> [u64; 10] {
    let mut bins = [0u64; 10];
    for value in values {
        if let Some(bin) = bins.get_mut(((value * 10.0) as usize).min(9)) {
            *bin += 1;
        }
    }
    bins
}

/// Means of ten equal parts of the values, sorted from the highest. With fewer than ten, parts share values.
pub fn deciles(values: &[f32]) -> [f32; 10] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let count = sorted.len();
    std::array::from_fn(|part| {
        let from = part * count / 10;
        let to = ((part + 1) * count / 10).max(from + 1);
        let part = sorted.get(from..to.min(count)).unwrap_or_default();
        part.iter().sum::<f32>() / part.len().max(1) as f32
    })
}

/// Refuses shapes whose units would not fit into memory. A dimension that is not pruned takes no room in a mask file, so
/// a small file can claim anything.
pub(super) fn check_size(spec: &MaskSpec) -> Result<(), Error> {
    let source = spec.source();
    let (layers, units) = (source.num_hidden_layers, source.num_attention_heads + source.intermediate_size);
    match layers <= MOST_LAYERS && layers.checked_mul(units).is_some_and(|all| all <= MOST_UNITS) {
        true => Ok(()),
        false => Err(Error::TooLarge { layers, units }),
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_view([-1])?;
    Ok(Vec::try_from(&flat)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_are_means_of_sorted_parts() {
        let values: Vec<f32> = (0..20).map(|i| i as f32 / 20.0).collect();
        let parts = deciles(&values);
        assert!((parts[0] - 0.925).abs() < 1e-6 && (parts[9] - 0.025).abs() < 1e-6, "{parts:?}");
        assert_eq!(deciles(&[0.25]), [0.25; 10]);
        assert_eq!(deciles(&[]), [0.0; 10]);
        let three = deciles(&[0.0, 1.0, 0.5]);
        assert_eq!((three[0], three[4], three[9]), (1.0, 0.5, 0.0));
    }

    #[test]
    fn shapes_beyond_any_decoder_are_refused_before_memory_is_taken() {
        let shape = |hidden_size, num_hidden_layers, intermediate_size| Shape {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 1,
        };
        let units = |layers, intermediate| {
            let spec = MaskSpec::new(&shape(2, layers, intermediate), &shape(1, layers, intermediate)).unwrap();
            Units::of(&MaskSet::new(spec, shearling_masks::HardConcrete::default(), 0, 0, Device::Cpu).unwrap())
        };
        for (layers, intermediate) in [(1 << 23, 1 << 23), (1 << 18, 1), (MOST_LAYERS + 1, 1), (MOST_LAYERS, 1 << 11)] {
            assert!(matches!(units(layers, intermediate), Err(Error::TooLarge { .. })), "{layers} × {intermediate}");
        }
        assert_eq!(units(MOST_LAYERS, 1).unwrap().modules().len(), 1, "the most that is taken; only `hidden` shrinks");
    }

    #[test]
    fn a_histogram_counts_both_ends() {
        assert_eq!(histogram(&[0.0, 0.05, 0.1, 0.999, 1.0]), [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(undecided(&[0.05, 0.0501, 0.5, 0.95]), 2);
    }
}
