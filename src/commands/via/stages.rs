//! A prune in several cuts: the runs that a configuration with `[[prune.via]]` stands for.
//!
//! ```text
//! source ─► DIR-via-1/pruned ─► DIR-via-1-train/model ─► … ─► DIR/pruned
//!     cut to via[0].target   trained for via[0].steps        cut to [target]
//! ```

use crate::config::{Masks, Prune, RunConfig, Via};
use crate::files::DType;
use crate::run_dir::layout::{MODEL, PRUNED};
use std::path::{Path, PathBuf};

/// One step in so many is warm-up in a training between two cuts.
const WARMUP_SHARE: u64 = 20;

/// The runs that a configuration of `prune` stands for, in order: for every `[[prune.via]]` a cut and a training, then the
/// last cut. One without `prune.via` stands for itself.
///
/// Models between two runs are written in fp32, so that nothing is rounded on the way; a teacher that is not named is the
/// first source in all of them.
pub(in crate::commands) fn stages(config: &RunConfig) -> Vec<RunConfig> {
    let mut base = config.clone();
    let vias = std::mem::take(&mut base.prune.via);
    if !vias.is_empty() {
        // Said of each cut, so that a table for the trainings is not taken for one of masks.
        base.prune.method = Some(config.prune.method());
    }
    if let (Some(distill), false) = (&mut base.distill, vias.is_empty()) {
        distill.teacher = distill.teacher.take().or(config.model.source.clone());
    }
    let mut stages = Vec::new();
    for (number, via) in (1..).zip(&vias) {
        let cut = cut_on_the_way(&base, number, via);
        let trained = trained_on_the_way(&base, number, via, cut.run.directory.join(PRUNED));
        base.model.source = Some(trained.run.directory.join(MODEL));
        stages.extend([cut, trained]);
    }
    stages.push(base);
    stages
}

fn cut_on_the_way(base: &RunConfig, number: usize, via: &Via) -> RunConfig {
    let mut cut = base.clone();
    cut.run.directory = beside(&base.run.directory, &format!("-via-{number}"));
    cut.target = Some(via.target.clone());
    cut.prune.dtype = Some(DType::F32);
    cut
}

fn trained_on_the_way(base: &RunConfig, number: usize, via: &Via, source: PathBuf) -> RunConfig {
    let mut trained = base.clone();
    trained.run.directory = beside(&base.run.directory, &format!("-via-{number}-train"));
    trained.model.source = Some(source);
    trained.target = None;
    (trained.masks, trained.prune) = (Masks::default(), Prune::default());
    trained.train.steps = via.steps;
    trained.train.learning_rate = via.learning_rate.unwrap_or(base.train.learning_rate);
    trained.train.warmup_steps = via.steps / WARMUP_SHARE;
    trained.checkpoint.export_dtype = Some(DType::F32);
    trained
}

/// A folder next to `directory` whose name goes on with `suffix`.
fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.components().as_path().as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::stages;
    use crate::config::{Stage, parse, resolved_toml};
    use crate::files::DType;
    use std::path::Path;

    const TEXT: &str = "[run]\ndirectory = 'runs/small/'\n[model]\nsource = 'big'\n[target]\nhidden_size = 64\n[data]\npath = 'd'\n\
                        [train]\nbatch_rows = 4\nlearning_rate = 1e-3\n[distill]\nweight = 0.5\n\
                        [[prune.via]]\nsteps = 100\ntarget = { hidden_size = 96, num_hidden_layers = 5 }\n\
                        [[prune.via]]\nsteps = 10\nlearning_rate = 2e-3\ntarget = { hidden_size = 80 }\n";

    #[test]
    fn a_cut_and_a_training_for_every_shape_on_the_way() {
        let config = parse(TEXT, "test", &[]).unwrap();
        let again = parse(&resolved_toml(&config).unwrap(), "again", &[]).unwrap();
        assert_eq!(again.prune.via, config.prune.via);
        let stages = stages(&config);
        let shown = |at: usize| {
            let stage = &stages[at];
            let hidden = stage.target.as_ref().and_then(|target| target.hidden_size);
            let source = stage.model.source.as_deref().unwrap().to_str().unwrap();
            (stage.run.directory.to_str().unwrap(), source, hidden, stage.train.steps)
        };
        assert_eq!(shown(0), ("runs/small-via-1", "big", Some(96), 0));
        assert_eq!(shown(1), ("runs/small-via-1-train", "runs/small-via-1/pruned", None, 100));
        assert_eq!(shown(2), ("runs/small-via-2", "runs/small-via-1-train/model", Some(80), 0));
        assert_eq!(shown(3), ("runs/small-via-2-train", "runs/small-via-2/pruned", None, 10));
        assert_eq!(shown(4), ("runs/small/", "runs/small-via-2-train/model", Some(64), 0));
        assert_eq!(stages.len(), 5);
        for stage in &stages {
            assert!(stage.prune.via.is_empty());
            assert_eq!(stage.distill.as_ref().unwrap().teacher.as_deref(), Some(Path::new("big")));
        }
        assert_eq!([Stage::of(&stages[0]), Stage::of(&stages[1])], [Stage::Prune, Stage::Pretrain]);
        assert_eq!((stages[1].train.learning_rate, stages[1].train.warmup_steps), (1e-3, 5));
        assert_eq!((stages[3].train.learning_rate, stages[3].train.warmup_steps), (2e-3, 0));
        let written = stages.iter().map(|stage| stage.prune.dtype.or(stage.checkpoint.export_dtype));
        assert_eq!(
            written.collect::<Vec<_>>(),
            [Some(DType::F32), Some(DType::F32), Some(DType::F32), Some(DType::F32), None]
        );
    }

    #[test]
    fn without_shapes_on_the_way_it_stands_for_itself() {
        let config = parse(TEXT.split("[[").next().unwrap(), "test", &[]).unwrap();
        assert_eq!(stages(&config), [config]);
    }
}
