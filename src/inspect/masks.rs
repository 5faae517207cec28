//! One mask file in numbers: what survives in each layer, what is undecided, what the cut makes of the expectation,
//! and how much another mask agrees. Data of `inspect masks`; printing is the command's.

use super::Error;
use super::agreement::Agreement;
use super::mask_rows::{MaskRow, rows};
use super::parameters::{Parameters, model_near};
use super::units::{Units, deciles, histogram};
use crate::run_dir::layout::{CHECKPOINTS, SNAPSHOTS};
use serde::Serialize;
use shearling_masks::{KeepPlan, MaskReport, MaskSet, Shape, UnitKind};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use tch::Device;

/// More than any text has that is taken for masks.
const LARGEST_TEXT_BYTES: u64 = 1 << 20;

/// A mask file, cut to its target.
#[derive(Debug, Serialize)]
pub struct MaskInspection {
    /// The mask file.
    pub path: String,
    /// Finished steps, where the file's name or the run tells.
    pub step: Option<u64>,
    /// Shape of the source.
    pub source: Shape,
    /// Shape after the cut.
    pub target: Shape,
    /// Sparsity of the prunable weights that the masks expect now.
    pub expected_sparsity: f64,
    /// Sparsity of the target.
    pub target_sparsity: f64,
    /// Parameters by part.
    pub parameters: Parameters,
    /// State of every mask.
    pub report: MaskReport,
    /// Every row of every mask.
    pub rows: Vec<MaskRow>,
    /// Every layer of the source.
    pub layers: Vec<LayerInspection>,
    /// The dimensions of the residual stream.
    pub hidden: HiddenInspection,
    /// How much another mask agrees, if one was given.
    pub agreement: Option<Agreement>,
    /// Units that stay when the masks are cut to the target.
    pub plan: KeepPlan,
}

/// A layer of the source. Gates are soft values σ(slope·a).
#[derive(Debug, Serialize)]
pub struct LayerInspection {
    /// Its index in the source.
    pub layer: usize,
    /// Its index in the small model; none when it is removed.
    pub becomes: Option<usize>,
    /// Its own gate; 1 when layers are not pruned.
    pub gate: f32,
    /// Gate of every query head `[H]`: its own × its key/value head's × the layer's.
    pub head_gates: Vec<f32>,
    /// Query heads that stay; none of a removed layer.
    pub heads: Vec<i64>,
    /// Query heads that expect to be open, Σ over heads of the products of their scores, given the layer.
    pub expected_heads: f64,
    /// Mean gate of each tenth of the MLP units, sorted from the most open, × the layer's.
    pub intermediate_gates: [f32; 10],
    /// MLP units that stay; 0 of a removed layer.
    pub intermediate: usize,
    /// MLP units that expect to be open, Σ score, given the layer.
    pub expected_intermediate: f64,
}

/// The residual stream.
#[derive(Debug, Serialize)]
pub struct HiddenInspection {
    /// Mean gate of each tenth of the dimensions, sorted from the most open.
    pub gates: [f32; 10],
    /// Dimensions with a gate in each tenth of [0, 1].
    pub histogram: [u64; 10],
    /// Dimensions that stay.
    pub kept: usize,
    /// Dimensions that expect to be open, Σ score.
    pub expected: f64,
}

impl MaskInspection {
    /// Reads a mask file; `against` is another one to compare it with.
    ///
    /// # Errors
    /// A file that is no mask file or does not agree with its own description; two masks of different sources.
    pub fn read(path: &Path, step: Option<u64>, against: Option<&Path>) -> Result<MaskInspection, Error> {
        let masks = load(path)?;
        let units = Units::of(&masks)?;
        let other = against.map(|path| Ok::<_, Error>((path, Units::of(&load(path)?)?)));
        let agreement =
            other.transpose()?.map(|(path, other)| Agreement::of(&units, &other, path.display().to_string()));
        let spec = masks.spec();
        let plan = KeepPlan::from_gates(spec, &masks.target_gates()?)?;
        Ok(MaskInspection {
            path: path.display().to_string(),
            step,
            source: spec.source().clone(),
            target: spec.target().clone(),
            expected_sparsity: masks.expected_size()?.overall_sparsity,
            target_sparsity: 1.0 - spec.target_prunable_params() as f64 / spec.prunable_params() as f64,
            parameters: Parameters::of(&units, model_near(path).as_ref()),
            report: MaskReport::new(&masks)?,
            rows: rows(&units),
            layers: layers(&units, &plan),
            hidden: hidden(&units, &plan),
            agreement: agreement.transpose()?,
            plan,
        })
    }
}

fn load(path: &Path) -> Result<MaskSet, Error> {
    MaskSet::load(path, Device::Cpu).map_err(|error| match other_kind(path) {
        Some(kind) => Error::NoMasks {
            path: path.to_path_buf(),
            problem: format!(
                "it is {kind} and no mask file; masks are safetensors files in {SNAPSHOTS}/ and {CHECKPOINTS}/ of a pruning \
                 run: give the folder of the run"
            ),
        },
        None => error.into(),
    })
}

/// What a file that holds no masks is, where it is a text of ours.
fn other_kind(path: &Path) -> Option<&'static str> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LARGEST_TEXT_BYTES).read_to_string(&mut text).ok()?;
    let first_line = || text.lines().next().unwrap_or_default();
    if serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object()) {
        return Some("a JSON file");
    }
    if serde_json::from_str::<serde_json::Value>(first_line()).is_ok_and(|value| value.is_object()) {
        return Some("a file of JSON lines, as metrics.jsonl is,");
    }
    text.parse::<toml::Table>().is_ok_and(|table| !table.is_empty()).then_some("a configuration (TOML)")
}

fn layers(units: &Units, plan: &KeepPlan) -> Vec<LayerInspection> {
    let group_size = units.source().group_size();
    let (gates, tenths) = (units.layers(), units.intermediate_deciles());
    let places: BTreeMap<i64, usize> =
        plan.layers.iter().enumerate().map(|(at, kept)| (kept.source_index, at)).collect();
    let layer = |(layer, head_gates): (usize, Vec<f32>)| {
        let becomes = places.get(&(layer as i64)).copied();
        let kept = becomes.and_then(|becomes| plan.layers.get(becomes));
        let expected = |module: UnitKind| units.expected_open(module, layer);
        LayerInspection {
            layer,
            becomes,
            gate: gates.get(layer).copied().unwrap_or(1.0),
            head_gates,
            heads: kept.map_or_else(Vec::new, |kept| kept.query_heads(group_size)),
            expected_heads: expected(UnitKind::KvHead) * expected(UnitKind::QueryHead),
            intermediate_gates: tenths.get(layer).copied().unwrap_or([1.0; 10]),
            intermediate: kept.map_or(0, |kept| kept.intermediate.len()),
            expected_intermediate: expected(UnitKind::Intermediate),
        }
    };
    units.heads().into_iter().enumerate().map(layer).collect()
}

fn hidden(units: &Units, plan: &KeepPlan) -> HiddenInspection {
    let soft = match units.get(UnitKind::Hidden) {
        Some(hidden) => hidden.soft.clone(),
        None => vec![1.0; units.source().hidden_size.max(0) as usize],
    };
    HiddenInspection {
        gates: deciles(&soft),
        histogram: histogram(&soft),
        kept: plan.hidden.len(),
        expected: units.expected_open(UnitKind::Hidden, 0),
    }
}
