//! Whose a measured model is: eval and latency files name models by folder, runs know which folders they wrote and
//! started from, and the card of an exported model which run it is of. Folders are told apart by where they lie on the disk;
//! only a folder that is not there any more is recognised by the end of its path, and only where no other of the given runs
//! has one that ends alike.

use super::lineage::{RunView, parts, source_of};
use crate::files::sha256_of_text;
use crate::hf::ModelCard;
use crate::run_dir::layout::{MODEL, PRUNED};
use std::path::{Path, PathBuf};

/// What a model is to a line of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What the first run of the line started from.
    Source,
    /// What one of the runs wrote.
    Written,
}

/// Folders in which a run publishes; the run's own name stands for the model in it.
const PUBLISHED: [&str; 3] = [MODEL, PRUNED, ""];
/// So many parts of a path have to agree where the folder itself is gone: the run's name and its model's folder.
const MOVED_PARTS: usize = 2;

/// What the model that was measured in `folder` is to `line`, one of the lines of `all`; none when it is no model of it.
/// `parameters` is its size, where it was recorded.
pub fn part_in(line: &[&RunView], all: &[RunView], folder: &str, parameters: Option<f64>) -> Option<Part> {
    let place = Place::of(Path::new(folder));
    let claims: Vec<Claim> = all.iter().flat_map(claims).collect();
    let here: Vec<&Claim> = claims.iter().filter(|claim| claim.place.is(&place)).collect();
    if here.is_empty() && place.real.is_some() {
        return exported_from(line, Path::new(folder)).then_some(Part::Written);
    }
    // A folder that is there is itself, whatever its name resembles.
    let found = if here.is_empty() { moved(&claims, folder, parameters) } else { here };
    found.into_iter().filter_map(|claim| claim.part_in(line)).max()
}

/// Whether `shearling export` wrote a folder from one of these runs: its card names the configuration that it was made
/// under.
fn exported_from(line: &[&RunView], folder: &Path) -> bool {
    let card = ModelCard::read(folder).ok().flatten();
    let Some(digest) = card.and_then(|card| card.config_digest) else { return false };
    let own = |run: &&RunView| run.history.config.as_deref().is_some_and(|config| sha256_of_text(config) == digest);
    line.iter().any(own)
}

/// A folder, by where it lies and by its name.
#[derive(Debug)]
struct Place {
    real: Option<PathBuf>,
    given: PathBuf,
}

impl Place {
    /// Relative paths are those of the working directory.
    fn of(path: &Path) -> Place {
        Place { real: path.canonicalize().ok(), given: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) }
    }

    fn is(&self, other: &Place) -> bool {
        match (&self.real, &other.real) {
            (Some(own), Some(other)) => own == other,
            _ => self.given == other.given,
        }
    }

    /// How many parts the ends of two paths have in common.
    fn common_end(&self, path: &str) -> usize {
        let own = self.real.as_ref().unwrap_or(&self.given).to_string_lossy();
        parts(&own).iter().rev().zip(parts(path).iter().rev()).take_while(|(a, b)| a == b).count()
    }
}

/// That a folder is a run's.
#[derive(Debug)]
struct Claim {
    run: usize,
    part: Part,
    place: Place,
    parameters: Option<u64>,
    /// Said by another run, which started from it: holds for that very folder only.
    hearsay: bool,
}

impl Claim {
    fn part_in(&self, line: &[&RunView]) -> Option<Part> {
        let first = line.first()?;
        let in_line = line.iter().any(|run| run.index == self.run);
        match self.part {
            Part::Written if in_line => Some(Part::Written),
            Part::Written if first.parent == Some(self.run) => Some(Part::Source),
            Part::Source if first.index == self.run => Some(Part::Source),
            _ => None,
        }
    }
}

/// The folders that a run wrote, and the one that it started from: its parent's, where that is among the runs.
fn claims(run: &RunView) -> Vec<Claim> {
    let home = Path::new(&run.history.path);
    let written = run.history.written.as_ref();
    let own = |folder: &str| Claim {
        run: run.index,
        part: Part::Written,
        place: Place::of(&home.join(folder)),
        parameters: written.and_then(|written| written.parameters_after),
        hearsay: false,
    };
    let source = source_of(run.history).filter(|source| !source.is_empty()).map(|source| Claim {
        run: run.parent.unwrap_or(run.index),
        part: if run.parent.is_some() { Part::Written } else { Part::Source },
        place: Place::of(Path::new(&source)),
        parameters: written.and_then(|written| written.parameters_before),
        hearsay: run.parent.is_some(),
    });
    let recorded = written.map(|written| written.path.as_str());
    PUBLISHED.into_iter().chain(recorded).map(own).chain(source).collect()
}

/// For folders that were measured elsewhere or moved since: the claims whose path ends most alike, if they are of one
/// folder, and of a model of the same size.
fn moved<'a>(claims: &'a [Claim], folder: &str, parameters: Option<f64>) -> Vec<&'a Claim> {
    let same_size = |claim: &Claim| claim.parameters.zip(parameters).is_none_or(|(own, found)| own as f64 == found);
    let alike: Vec<(usize, &Claim)> = claims
        .iter()
        .filter(|claim| !claim.hearsay && same_size(claim))
        .map(|claim| (claim.place.common_end(folder), claim))
        .filter(|(common, _)| *common >= MOVED_PARTS)
        .collect();
    let most = alike.iter().map(|(common, _)| *common).max().unwrap_or(0);
    let best: Vec<&Claim> = alike.into_iter().filter(|(common, _)| *common == most).map(|(_, claim)| claim).collect();
    let one = best.first().is_some_and(|first| best.iter().all(|claim| claim.place.is(&first.place)));
    if one { best } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{RunHistory, WrittenModel};
    use crate::report::lineage::{lines, views};

    /// A pruning run and what continued it, in `folder`.
    fn pair(folder: &str, source: &str) -> [RunHistory; 2] {
        let run = |name: &str, stage: &str, source: &str, written: &str| RunHistory {
            name: name.into(),
            path: format!("{folder}/{name}"),
            stage: Some(stage.into()),
            written: Some(WrittenModel { path: written.into(), parameters_after: Some(10), ..WrittenModel::default() }),
            model_source: Some(source.into()),
            ..RunHistory::default()
        };
        let pruned = format!("{folder}/prune/pruned");
        [run("prune", "prune", source, "pruned"), run("recover", "pretrain", &pruned, "model")]
    }

    /// What each line makes of a measured folder.
    fn parts_of(runs: &[RunHistory], folder: &str, parameters: Option<f64>) -> Vec<Option<Part>> {
        let views = views(runs);
        lines(&views).iter().map(|line| part_in(line, &views, folder, parameters)).collect()
    }

    #[test]
    fn a_model_belongs_to_the_line_that_wrote_it_or_began_with_it() {
        let runs = [pair("w/a", "models/one"), pair("w/b", "models/two")].concat();
        let whose = |folder: &str| parts_of(&runs, folder, None);
        assert_eq!(whose("w/a/recover/model"), [Some(Part::Written), None]);
        assert_eq!(whose("./w/b/prune/pruned/"), [None, Some(Part::Written)]);
        assert_eq!(whose("w/b/prune"), [None, Some(Part::Written)]);
        assert_eq!(whose("models/two"), [None, Some(Part::Source)]);
        assert_eq!(whose("models/three"), [None, None]);
        assert_eq!(whose(""), [None, None]);
    }

    #[test]
    fn a_folder_that_is_gone_is_known_by_its_end_if_no_other_run_fits() {
        let one = pair("w/a", "models/one");
        assert_eq!(parts_of(&one, "/elsewhere/recover/model", Some(10.0)), [Some(Part::Written)]);
        assert_eq!(parts_of(&one, "/elsewhere/recover/model", Some(11.0)), [None], "of another size");
        assert_eq!(parts_of(&one, "/elsewhere/model", None), [None]);
        let two = [one, pair("w/b", "models/one")].concat();
        assert_eq!(parts_of(&two, "/elsewhere/recover/model", None), [None, None], "either could be meant");
        assert_eq!(parts_of(&two, "/elsewhere/b/recover/model", None), [None, Some(Part::Written)]);
        assert_eq!(parts_of(&two, "/elsewhere/models/one", None), [Some(Part::Source); 2], "one folder, of both");
    }

    #[test]
    fn a_folder_that_is_there_is_no_other_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("recover/model");
        std::fs::create_dir_all(&other).unwrap();
        let runs = pair("w/a", "models/one");
        assert_eq!(parts_of(&runs, &other.display().to_string(), Some(10.0)), [None]);
        std::fs::create_dir_all(folder.path().join("new")).unwrap();
        let home = folder.path().join("new/..").display().to_string();
        assert_eq!(parts_of(&pair(&home, "models/one"), &other.display().to_string(), None), [Some(Part::Written)]);
    }
}
