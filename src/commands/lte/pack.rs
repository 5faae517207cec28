//! `shearling lte pack`: the inference layout of what `lte train` wrote.

use crate::cli::Printer;
use crate::cli::arguments::LtePack;
use crate::cli::table::bytes;
use crate::commands::ExitStatus;
use crate::commands::model_folder::model_folder;
use crate::files::refuse_taken;
use crate::hf::Checkpoint;
use crate::lte::file;
use crate::lte::pack::{self, Packed};
use crate::prune::convert::require_complete;
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
    let packed = pack::write(&checkpoint, &experts, &arguments.out, &mut |done, all| {
        printer.note(format!("packed layer {done} of {all}"));
    })?;
    printer.note(summary(&packed));
    Ok(ExitStatus::Done)
}

fn summary(packed: &Packed) -> String {
    let dense = match packed.dense_layers {
        0 => String::new(),
        count => format!(", {count} without a router as they were"),
    };
    format!(
        "wrote {}: {} layers of experts, {}{dense}; next: shearling generate {0}",
        packed.folder.display(),
        packed.packed_layers,
        bytes(packed.expert_bytes as f64),
    )
}
