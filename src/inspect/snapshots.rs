//! The masks of a run over time, from `RUN/masks/step-N.safetensors`. Each file becomes a small picture (gates by head
//! and by decile) and the sets of kept units that `settling` compares; the files themselves are not kept in memory.

use super::Error;
use super::mask_rows::{self, MaskRow};
use super::units::{Units, deciles, histogram};
use crate::run_dir::layout::{SNAPSHOTS, claimed_step};
use serde::Serialize;
use shearling_masks::{MaskSet, MaskSpec, UnitKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Device;

/// Most snapshots that are read: of a run with more, some are passed over evenly.
const MOST_SNAPSHOTS: usize = 256;

/// What a layer, a head and a row take in memory, in words of 8 bytes; a head is a value of its own in JSON.
const WORDS_PER_LAYER: usize = 16;
const WORDS_PER_HEAD: usize = 4;
const WORDS_PER_ROW: usize = 10;

/// The masks at one step. Gates are soft values σ(slope·a): what a unit is multiplied with outside training.
#[derive(Clone, Debug, Serialize)]
pub struct MaskSnapshot {
    /// Finished steps.
    pub step: u64,
    /// The file, relative to the run folder.
    pub path: String,
    /// Gate of every layer `[L]`; 1 when layers are not pruned.
    pub layers: Vec<f32>,
    /// Gate of every query head `[L][H]`: its own × its key/value head's × its layer's.
    pub heads: Vec<Vec<f32>>,
    /// Mean gate of each tenth of a layer's MLP units, sorted from the most open, × the layer's gate `[L][10]`.
    pub intermediate: Vec<[f32; 10]>,
    /// Mean gate of each tenth of the hidden dimensions, sorted from the most open; ones when they are not pruned.
    pub hidden: [f32; 10],
    /// Hidden dimensions with a gate in each tenth of [0, 1].
    pub hidden_histogram: [u64; 10],
    /// Whether the cut to the target keeps each layer `[L]`.
    pub kept_layers: Vec<bool>,
    /// Whether the cut to the target keeps each query head, with its key/value head and layer `[L][H]`.
    pub kept_heads: Vec<Vec<bool>>,
    /// Undecided units (0.05 < gate < 0.95) by module, in the layers that the cut keeps.
    pub undecided: BTreeMap<UnitKind, u64>,
    /// Sparsity of the prunable weights that the masks expect.
    pub expected_sparsity: f64,
    /// Prunable weights that they expect: all projections, without embeddings, head and norms.
    pub expected_prunable_parameters: f64,
    /// All parameters that they expect; none when no config.json in the run tells the vocabulary.
    pub expected_parameters: Option<f64>,
}

/// A mask file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Finished steps, by its name.
    pub step: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What the vocabulary adds to the parameter count: its size, and whether the output head is the embedding.
pub type Vocabulary = (i64, bool);

/// The snapshots of a run folder by step.
pub fn list(run: &Path) -> Vec<SnapshotFile> {
    let entries = std::fs::read_dir(run.join(SNAPSHOTS)).into_iter().flatten().flatten();
    let mut files: Vec<SnapshotFile> = entries.filter_map(|entry| named(entry.path())).collect();
    files.sort_by_key(|file| file.step);
    files.dedup_by_key(|file| file.step);
    files
}

fn named(path: PathBuf) -> Option<SnapshotFile> {
    let name = path.file_name()?.to_str()?.to_string();
    let step = claimed_step(&name).filter(|_| name.ends_with(".safetensors") && path.is_file())?;
    Some(SnapshotFile { step, path })
}

/// At most [`MOST_SNAPSHOTS`] of the files, evenly, with the first and the last.
pub(super) fn thinned(files: Vec<SnapshotFile>) -> Vec<SnapshotFile> {
    let count = files.len();
    if count <= MOST_SNAPSHOTS {
        return files;
    }
    let chosen = |index: usize| index * (count - 1) / (MOST_SNAPSHOTS - 1);
    (0..MOST_SNAPSHOTS).filter_map(|index| files.get(chosen(index)).cloned()).collect()
}

/// A snapshot with what `settling` and `survivors` need of it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub snapshot: MaskSnapshot,
    pub spec: MaskSpec,
    pub rows: Vec<RowState>,
}

impl Loaded {
    /// About as many words of 8 bytes as it takes to keep and to print.
    pub(super) fn words(&self) -> usize {
        let layers = self.snapshot.heads.iter().map(|heads| WORDS_PER_LAYER + WORDS_PER_HEAD * heads.len());
        let rows = self.rows.iter().map(|row| WORDS_PER_ROW + row.kept.len());
        layers.sum::<usize>() + rows.sum::<usize>()
    }
}

/// One row of one mask at one step.
#[derive(Debug)]
pub(super) struct RowState {
    pub module: UnitKind,
    pub row: usize,
    /// Units that the cut to the target keeps, a bit each.
    pub kept: Vec<u64>,
    pub size: usize,
    pub undecided: usize,
    pub half_alive: usize,
    pub still_open: usize,
}

/// Reads a mask file of a run.
pub(super) fn load(run: &Path, file: &SnapshotFile, vocabulary: Option<Vocabulary>) -> Result<Loaded, Error> {
    let masks = MaskSet::load(&file.path, Device::Cpu)?;
    let units = Units::of(&masks)?;
    let expected = masks.expected_size()?;
    let hidden = units.get(UnitKind::Hidden).map(|hidden| hidden.soft.as_slice());
    let width = units.spec.source().hidden_size.max(0) as u64;
    let relative = file.path.strip_prefix(run).unwrap_or(&file.path);
    let rows = mask_rows::rows(&units);
    let snapshot = MaskSnapshot {
        step: file.step,
        path: relative.display().to_string(),
        layers: units.layers(),
        heads: units.heads(),
        intermediate: units.intermediate_deciles(),
        hidden: hidden.map_or([1.0; 10], deciles),
        hidden_histogram: hidden.map_or([0, 0, 0, 0, 0, 0, 0, 0, 0, width], histogram),
        kept_layers: units.kept_layers(),
        kept_heads: units.kept_heads(),
        undecided: undecided(&rows),
        expected_sparsity: expected.overall_sparsity,
        expected_prunable_parameters: expected.prunable_params,
        expected_parameters: vocabulary.map(|(size, tied)| expected.total_params(size, tied)),
    };
    Ok(Loaded { snapshot, rows: states(rows), spec: units.spec })
}

/// By module; a removed layer decides nothing.
fn undecided(rows: &[MaskRow]) -> BTreeMap<UnitKind, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.module).or_insert(0) += if row.removed { 0 } else { row.undecided as u64 };
    }
    counts
}

fn states(rows: Vec<MaskRow>) -> Vec<RowState> {
    let state = |row: MaskRow| RowState {
        module: row.module,
        row: row.layer.unwrap_or(0),
        kept: bits(&row.kept),
        size: row.units,
        undecided: row.undecided,
        half_alive: row.half_alive,
        still_open: row.still_open,
    };
    rows.into_iter().map(state).collect()
}

fn bits(marks: &[bool]) -> Vec<u64> {
    let word = |marks: &[bool]| marks.iter().enumerate().fold(0, |word, (bit, mark)| word | u64::from(*mark) << bit);
    marks.chunks(64).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_step_files_are_snapshots() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list(folder.path()).is_empty());
        let masks = folder.path().join(SNAPSHOTS);
        std::fs::create_dir_all(masks.join("step-00000007.safetensors")).unwrap();
        for name in ["step-00000100.safetensors", "step-00000020.safetensors", ".step-1.partial", "step-x.safetensors"]
        {
            std::fs::write(masks.join(name), "").unwrap();
        }
        assert_eq!(list(folder.path()).iter().map(|file| file.step).collect::<Vec<_>>(), [20, 100]);
    }

    #[test]
    fn thinning_keeps_both_ends() {
        let files = |count: u64| (0..count).map(|step| SnapshotFile { step, path: PathBuf::new() }).collect::<Vec<_>>();
        assert_eq!(thinned(files(256)).len(), 256);
        let few = thinned(files(5000));
        assert_eq!((few.len(), few[0].step, few[255].step), (256, 0, 4999));
    }

    #[test]
    fn bits_keep_their_place() {
        let mut marks = vec![false; 70];
        (marks[0], marks[63], marks[69]) = (true, true, true);
        assert_eq!(bits(&marks), [1 | 1 << 63, 1 << 5]);
    }
}
