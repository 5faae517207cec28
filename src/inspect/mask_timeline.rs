//! The masks of a run from its first snapshot to its last: reads the files, compares them, and says which are missing.

use super::Error;
use super::evaluations::Evaluation;
use super::locate::{mask_files, newest};
use super::notes::Note;
use super::parameters::{model_of, models_of};
use super::settling::{Settled, settled};
use super::snapshots::{self, Loaded, MaskSnapshot, SnapshotFile, Vocabulary};
use super::survivors::Survivors;
use super::units::check_size;
use shearling_masks::{KeepPlan, MaskSet};
use std::path::Path;
use tch::Device;

/// Missing or damaged files that are named one by one.
const NAMED_FILES: usize = 5;

/// What the mask files of a run tell.
#[derive(Debug, Default)]
pub(super) struct MaskTimeline {
    pub snapshots: Vec<MaskSnapshot>,
    pub settled: Vec<Settled>,
    pub survivors: Option<Survivors>,
}

impl MaskTimeline {
    pub(super) fn read(run: &Path, evaluations: &[Evaluation], notes: &mut Vec<Note>) -> MaskTimeline {
        let files = snapshots::list(run);
        notes.extend(missing(run, evaluations));
        let all = files.len();
        let files = snapshots::thinned(files);
        if files.len() < all {
            notes.push(Note::info(format!("{} of {all} mask snapshots are shown, evenly spread", files.len())));
        }
        let loaded = of_one_spec(load_all(run, &files, notes), notes);
        let survivors = newest(mask_files(run)).and_then(|file| survivors_of(run, &file, notes));
        let settled = settled(&loaded);
        MaskTimeline { snapshots: loaded.into_iter().map(|loaded| loaded.snapshot).collect(), settled, survivors }
    }
}

fn load_all(run: &Path, files: &[SnapshotFile], notes: &mut Vec<Note>) -> Vec<Loaded> {
    let vocabulary = vocabulary(run);
    let mut broken = Vec::new();
    let mut loaded = Vec::new();
    for file in files {
        match snapshots::load(run, file, vocabulary) {
            Ok(snapshot) => loaded.push(snapshot),
            Err(error) => broken.push(error.to_string()),
        }
    }
    for problem in broken.iter().take(NAMED_FILES) {
        notes.push(Note::warning(format!("a mask snapshot is left out: {problem}")));
    }
    if broken.len() > NAMED_FILES {
        notes.push(Note::warning(format!("{} more mask snapshots are left out", broken.len() - NAMED_FILES)));
    }
    loaded
}

/// Only snapshots of the shapes of the last one can be compared.
fn of_one_spec(mut loaded: Vec<Loaded>, notes: &mut Vec<Note>) -> Vec<Loaded> {
    let Some(spec) = loaded.last().map(|last| last.spec.clone()) else { return loaded };
    let before = loaded.len();
    loaded.retain(|snapshot| snapshot.spec == spec);
    if loaded.len() < before {
        let others = before - loaded.len();
        notes.push(Note::warning(format!("{others} mask snapshots are of other shapes than the last and left out")));
    }
    loaded
}

/// Snapshots that an evaluation names and that are not there.
fn missing(run: &Path, evaluations: &[Evaluation]) -> Option<Note> {
    let named = evaluations.iter().filter_map(|evaluation| evaluation.snapshot.as_ref());
    let missing: Vec<&String> = named.filter(|name| !run.join(name).is_file()).collect();
    let first = missing.iter().take(NAMED_FILES).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let more = if missing.len() > NAMED_FILES { ", …" } else { "" };
    (!missing.is_empty()).then(|| Note::warning(format!("{} mask snapshots are missing: {first}{more}", missing.len())))
}

fn survivors_of(run: &Path, file: &SnapshotFile, notes: &mut Vec<Note>) -> Option<Survivors> {
    let plan = || -> Result<Survivors, Error> {
        let masks = MaskSet::load(&file.path, Device::Cpu)?;
        let spec = masks.spec();
        check_size(spec)?;
        let plan = KeepPlan::from_gates(spec, &masks.deterministic_target()?)?;
        let relative = file.path.strip_prefix(run).unwrap_or(&file.path).display().to_string();
        Ok(Survivors::of(&plan, spec.source(), spec.target(), file.step, relative))
    };
    plan().map_err(|error| notes.push(Note::warning(format!("what survives cannot be told: {error}")))).ok()
}

/// Vocabulary and tying of the run's model, from any config.json in it.
fn vocabulary(run: &Path) -> Option<Vocabulary> {
    let model = models_of(run).iter().find_map(|folder| model_of(folder))?;
    Some((model.vocab_size, model.tie_word_embeddings))
}
