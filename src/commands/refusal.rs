//! What a user can do when the check refuses a cut: the run is never lost, and there is always a way to the model.

use crate::prune::{Equivalence, Fault};
use std::path::{Path, PathBuf};

/// Where the cut came from, so that the advice names commands that work there.
pub(super) enum Origin {
    /// A step of a run, which is kept: `RUN` or `RUN@STEP`.
    Run(PathBuf),
    /// The source as it was: there is no run to export from.
    OneShot,
}

/// Why nothing was published, and the ways on.
pub(super) fn refusal(equivalence: &Equivalence, origin: &Origin) -> String {
    let mut text = format!("{equivalence}. Nothing was published");
    match origin {
        Origin::Run(run) => text.push_str(&format!("; the run is kept in {}", folder(run).display())),
        Origin::OneShot => text.push_str("; the source is unchanged"),
    }
    for (when, command) in ways(equivalence, origin) {
        text.push_str(&format!("\n  {when}: {command}"));
    }
    text
}

fn ways(equivalence: &Equivalence, origin: &Origin) -> Vec<(&'static str, String)> {
    let export = |run: &Path, options: &str| format!("shearling export {} {options} --out DIR", run.display());
    let prune = |key: &str| format!("shearling prune with --set {key}");
    let in_fp32 = match origin {
        Origin::Run(run) => export(run, "--dtype fp32"),
        Origin::OneShot => prune("prune.dtype=fp32"),
    };
    let as_it_is = match origin {
        Origin::Run(run) => export(run, "--unproven"),
        Origin::OneShot => prune("prune.unproven=true"),
    };
    let mut ways = Vec::new();
    match (equivalence.fault(), origin) {
        (Some(Fault::NotFinite), Origin::Run(run)) => {
            let command = format!("shearling export {}@STEP --out DIR", folder(run).display());
            ways.push(("an earlier step of the run", command));
        }
        (Some(Fault::Rounding | Fault::Weights), _) => ways.push(("without rounding", in_fp32)),
        _ => {}
    }
    ways.push(("as it is, marked in its card", as_it_is));
    ways
}

/// The run folder of `RUN` or `RUN@STEP`.
fn folder(run: &Path) -> PathBuf {
    let text = run.to_string_lossy();
    match text.rsplit_once('@') {
        Some((folder, step)) if step.parse::<u64>().is_ok() => folder.into(),
        _ => run.to_path_buf(),
    }
}
