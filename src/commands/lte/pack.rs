//! `shearling lte pack`: the inference layout of what `lte train` wrote.

use crate::cli::Printer;
use crate::cli::arguments::LtePack;
use crate::cli::progress::Progress;
use crate::cli::table::bytes;
use crate::commands::ExitStatus;
use crate::commands::finish::finish_at;
use crate::commands::model_folder::model_folder;
use crate::files::refuse_taken;
use crate::hf::Checkpoint;
use crate::lte::file;
use crate::lte::pack::{self, Packed};
use crate::prune::convert::require_complete;
use crate::words::counted;
use anyhow::Context;
use tch::Device;

/// Runs it.
pub fn run(arguments: &LtePack) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(false);
    refuse_taken(&arguments.out)?;
    let folder = model_folder(&arguments.model)?;
    let checkpoint = Checkpoint::open(&folder)?;
    require_complete(&checkpoint, checkpoint.model())?;
    let experts = file::read(&folder, checkpoint.model(), Device::Cpu)?;
    let experts = experts.with_context(|| {
        format!("{} has no {}: give a folder that `lte train` wrote", folder.display(), file::FILE_NAME)
    })?;
    let mut progress = Progress::default();
    let mut show = |done: usize, all: usize| progress.show_on_terminal(|| format!("packed layer {done} of {all}"));
    let packed = pack::write(&checkpoint, &experts, &arguments.out, &mut show)?;
    progress.finish();
    printer.note(summary(&packed));
    finish_at(&packed.folder, &printer)
}

fn summary(packed: &Packed) -> String {
    let dense = match packed.dense_layers {
        0 => String::new(),
        count => format!(", {count} without a router as they were"),
    };
    format!(
        "{} of experts, {}{dense}; next: shearling generate {}",
        counted(packed.packed_layers as i128, "layer"),
        bytes(packed.expert_bytes as f64),
        packed.folder.display(),
    )
}
