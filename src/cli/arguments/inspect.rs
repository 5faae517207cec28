//! Arguments of `inspect`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `inspect`
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// Shape and parameters of a Hugging Face folder, and whether its weights are complete.
    Model(InspectModel),
    /// What the masks have learned: kept units by layer, undecided units, expected and actual size, a map of all gates.
    ///
    /// The map has a line per layer, with a cell per query head and ten for the MLP units (sorted from the most open);
    /// what the cut to the target removes is crossed out. Colours are used on a terminal, unless NO_COLOR is set.
    /// docs/guides/inspect.md explains every number.
    Masks(InspectMasks),
    /// What happened in a run: losses, the constraint, masks, proportions, skipped steps, and what is missing.
    ///
    /// Works on a run that is still running, was cut short or lost files: notes say what is missing, warnings come first.
    /// docs/guides/inspect.md explains every table.
    Run(InspectRun),
}

/// `inspect model`
#[derive(Debug, Args)]
pub struct InspectModel {
    /// A Hugging Face folder, or a run folder, whose model/ or pruned/ is then used.
    pub path: PathBuf,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `inspect masks`
#[derive(Debug, Args)]
pub struct InspectMasks {
    /// A mask file, a run (its newest masks) or RUN@STEP (a checkpoint, or the snapshot of an evaluation).
    #[arg(value_name = "RUN|RUN@STEP|FILE")]
    pub target: String,
    /// Compare with these masks: how many kept units both have, over those that either has (Jaccard), by module and
    /// layer.
    #[arg(long, value_name = "RUN|RUN@STEP|FILE")]
    pub against: Option<String>,
    /// Also write a row per mask row (module and layer) as CSV; `-` is stdout, instead of the tables. Missing folders are
    /// created.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// One JSON object instead of tables, with every gate of every layer, head and decile, and the keep-plan.
    #[arg(long)]
    pub json: bool,
}

/// `inspect run`
#[derive(Debug, Args)]
pub struct InspectRun {
    /// The run folder.
    #[arg(value_name = "RUN")]
    pub path: PathBuf,
    /// Also write a row per step as CSV, with a column per quantity, domain and mask; `-` is stdout, instead of the
    /// tables. Missing folders are created.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// One JSON object instead of tables: the whole history, as columns.
    #[arg(long)]
    pub json: bool,
}
