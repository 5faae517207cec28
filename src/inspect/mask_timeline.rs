//! The masks of a run from its first snapshot to its last: reads the files, compares them, and says which are missing.

use super::Error;
use super::evaluations::Evaluation;
use super::locate::{mask_files, newest};
use super::note::Note;
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

/// Most words of 8 bytes that all snapshots take together. Of a 405B (126 layers of 128 heads and 53,248 MLP units) 256
/// snapshots have 45 million; but a dimension that is not pruned takes no room in a file, so small files can claim more.
const MOST_WORDS: usize = 1 << 26;

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
            notes.push(Note::info(format!("{} of {all} mask snapshots are shown, evenly spaced", files.len())));
        }
        let loaded = of_one_spec(load_all(run, &files, MOST_WORDS, notes), notes);
        let survivors = newest(mask_files(run)).and_then(|file| survivors_of(run, &file, notes));
        let settled = settled(&loaded);
        MaskTimeline { snapshots: loaded.into_iter().map(|loaded| loaded.snapshot).collect(), settled, survivors }
    }
}

/// Reads the newest first: where `most_words` are not enough for all, the end of the story is told.
fn load_all(run: &Path, files: &[SnapshotFile], most_words: usize, notes: &mut Vec<Note>) -> Vec<Loaded> {
    let vocabulary = vocabulary(run);
    let (mut loaded, mut broken, mut words) = (Vec::new(), Vec::new(), 0);
    for file in files.iter().rev() {
        match snapshots::load(run, file, vocabulary) {
            Ok(snapshot) => {
                words += snapshot.words();
                if words > most_words && !loaded.is_empty() {
                    break;
                }
                loaded.push(snapshot);
            }
            Err(error) => broken.push(error.to_string()),
        }
    }
    loaded.reverse();
    broken.reverse();
    let left = files.len() - loaded.len() - broken.len();
    if left > 0 {
        notes.push(Note::warning(format!(
            "the oldest {} left out: they are large, and all together would not fit into memory",
            if left == 1 { "mask snapshot is".to_string() } else { format!("{left} mask snapshots are") }
        )));
    }
    for problem in broken.iter().take(NAMED_FILES) {
        notes.push(Note::warning(format!("a mask snapshot is left out: {problem}")));
    }
    if broken.len() > NAMED_FILES {
        let more = broken.len() - NAMED_FILES;
        let are = if more == 1 { "mask snapshot is" } else { "mask snapshots are" };
        notes.push(Note::warning(format!("{more} more {are} left out")));
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
        let are = if others == 1 { "mask snapshot is of another shape" } else { "mask snapshots are of other shapes" };
        notes.push(Note::warning(format!("{others} {are} than the last and left out")));
    }
    loaded
}

/// Snapshots that an evaluation names and that are not there.
fn missing(run: &Path, evaluations: &[Evaluation]) -> Option<Note> {
    let named = evaluations.iter().filter_map(|evaluation| evaluation.snapshot.as_ref());
    let missing: Vec<&String> = named.filter(|name| !run.join(name).is_file()).collect();
    let first = missing.iter().take(NAMED_FILES).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let more = if missing.len() > NAMED_FILES { ", …" } else { "" };
    let are = if missing.len() == 1 { "mask snapshot is" } else { "mask snapshots are" };
    (!missing.is_empty()).then(|| Note::warning(format!("{} {are} missing: {first}{more}", missing.len())))
}

fn survivors_of(run: &Path, file: &SnapshotFile, notes: &mut Vec<Note>) -> Option<Survivors> {
    let plan = || -> Result<Survivors, Error> {
        let masks = MaskSet::load(&file.path, Device::Cpu)?;
        let spec = masks.spec();
        check_size(spec)?;
        let plan = KeepPlan::from_gates(spec, &masks.target_gates()?)?;
        let relative = file.path.strip_prefix(run).unwrap_or(&file.path).display().to_string();
        Ok(Survivors::of(&plan, spec.source(), spec.target(), file.step, relative))
    };
    plan().map_err(|error| notes.push(Note::warning(format!("which units are kept is not known: {error}")))).ok()
}

/// Vocabulary and tying of the run's model, from any config.json in it.
fn vocabulary(run: &Path) -> Option<Vocabulary> {
    let model = models_of(run).iter().find_map(|folder| model_of(folder))?;
    Some((model.vocab_size, model.tie_word_embeddings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::layout::{SNAPSHOTS, snapshot_name};
    use shearling_masks::{HardConcrete, MaskSpec, Shape};

    #[test]
    fn of_snapshots_that_do_not_fit_the_newest_are_read() {
        let shape = |hidden_size| Shape {
            hidden_size,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
        };
        let spec = MaskSpec::new(&shape(16), &shape(8)).unwrap();
        let masks = MaskSet::new(spec, HardConcrete::default(), 0, 0, Device::Cpu).unwrap();
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir(run.path().join(SNAPSHOTS)).unwrap();
        for step in 1..=5 {
            masks.save(run.path().join(SNAPSHOTS).join(snapshot_name(step))).unwrap();
        }
        let files = snapshots::list(run.path());
        let read = |most_words: usize| {
            let mut notes = Vec::new();
            let steps = load_all(run.path(), &files, most_words, &mut notes).iter().map(|l| l.snapshot.step).collect();
            (steps, notes.iter().map(|note| note.text.clone()).collect::<String>())
        };
        let one = snapshots::load(run.path(), &files[0], None).unwrap().words();
        assert_eq!(read(5 * one), (vec![1, 2, 3, 4, 5], String::new()));
        let (steps, said) = read(3 * one - 1);
        assert!(steps == [4, 5] && said.starts_with("the oldest 3 mask snapshots are left out"), "{steps:?} {said}");
        assert_eq!(read(0).0, [5], "one is always shown");
    }
}
