//! `shearling lte group`: units of every layer grouped into experts, written as a model that computes what it computed.

use crate::cli::Printer;
use crate::cli::arguments::{GroupingArgument, LteGroup};
use crate::cli::progress::Progress;
use crate::cli::shell::shell_word;
use crate::cli::table::Table;
use crate::commands::ExitStatus;
use crate::commands::finish::finish_at;
use crate::commands::model_folder::model_folder;
use crate::files::refuse_taken;
use crate::hf::{Checkpoint, ModelConfig};
use crate::lte::Grouping;
use crate::lte::folder::write_grouped;
use crate::lte::grouping::{Grouped, GroupingOptions, group_measured};
use crate::lte::permute::padded_units;
use crate::native::runtime::device;
use crate::prune::scores::Calibration;
use crate::train::setup::check_data_fits;
use shearling_domains::manifest::Split;
use shearling_domains::{Dataset, Loader, LoaderConfig};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Rows on which activity is watched: as many as one-shot scores read.
const ROWS: usize = 128;
/// Rows per forward.
const MICRO_BATCH: i64 = 8;
/// Bytes of a file of weights: as `checkpoint.max_shard_bytes`.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Runs it.
pub fn run(arguments: &LteGroup) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(false);
    refuse_taken(&arguments.out)?;
    let source = Checkpoint::open(&model_folder(&arguments.model)?)?;
    let device = device::parse(&arguments.device)?;
    let options = GroupingOptions {
        // More than a layer can have is refused as what it is.
        expert_size: i64::try_from(arguments.expert_size.get()).unwrap_or(i64::MAX),
        method: match arguments.method {
            GroupingArgument::KMeans => Grouping::KMeans,
            GroupingArgument::CoActivation => Grouping::CoActivation,
            GroupingArgument::Random => Grouping::Random,
        },
        seed: arguments.seed,
    };
    let rows = match (&arguments.data, options.method) {
        (Some(data), Grouping::CoActivation) => Some(calibration(data, source.model(), options.seed, device)?),
        (Some(_), _) => {
            printer.warn("--data is read by --method co-activation alone");
            None
        }
        (None, _) => None,
    };
    let mut progress = Progress::default();
    let mut show = |what: &str, done: usize, of: usize| progress.show(|| format!("{what} {}/{of}", done + 1));
    let grouped = group_measured(&source, &options, rows.as_ref(), device, &mut show)?;
    let written = write_grouped(&source, &grouped.experts, &arguments.out, SHARD_BYTES, &mut show)?;
    progress.finish();
    printer.note(table(&grouped));
    printer.note(
        "inertia: squared distance of units to the centre of their expert; of random experts beside it, less is better",
    );
    printer.note(summary(&grouped));
    let out = shell_word(&written.display().to_string());
    printer
        .note(format!("next: shearling lte train with model.source = {out} and an [lte] table (docs/guides/lte.md)"));
    finish_at(&written, &printer)
}

/// Rows of all domains alike.
fn calibration(data: &Path, model: &ModelConfig, seed: u64, device: Device) -> anyhow::Result<Calibration> {
    let dataset = Arc::new(Dataset::open(data)?);
    check_data_fits(&dataset, model)?;
    let domains = dataset.domain_names().len();
    let rows: u64 = (0..domains).map(|domain| dataset.rows(domain, Split::Train)).sum();
    let batch_rows = ROWS.min(usize::try_from(rows).unwrap_or(ROWS));
    let draws = LoaderConfig { batch_rows, seed, prefetch: 0, ..LoaderConfig::default() };
    let batch = Loader::new(dataset, draws, &vec![1.0 / domains as f64; domains])?.next_batch()?;
    let ids: Vec<i64> = batch.tokens.iter().map(|id| i64::from(*id)).collect();
    let rows = Tensor::f_from_slice(&ids)?.f_view([-1, batch.sequence_length as i64])?.f_to_device(device)?;
    Ok(Calibration { rows, micro_batch: MICRO_BATCH, compute: Kind::Float })
}

/// By layer, how much closer to each other units of an expert are than units of a random one.
fn table(grouped: &Grouped) -> Table {
    let mut table = Table::new(["layer", "inertia", "random", "of random"]);
    for (layer, (found, random)) in grouped.experts.layers.iter().zip(&grouped.random_inertia).enumerate() {
        let inertia = found.inertia.unwrap_or(*random);
        // Rows that are all alike have no inertia however they are grouped.
        let share = if *random > 0.0 { format!("{:.1} %", 100.0 * inertia / random) } else { "–".to_string() };
        table.row([layer.to_string(), format!("{inertia:.2}"), format!("{random:.2}"), share]);
    }
    table
}

fn summary(grouped: &Grouped) -> String {
    let experts = &grouped.experts;
    let padding = match padded_units(experts) - experts.living_units {
        0 => String::new(),
        some => format!("; {some} units of zeros fill the last expert of each layer up"),
    };
    let (layers, count, size) = (experts.layers.len(), experts.experts(), experts.expert_size);
    format!("{layers} layers of {count} experts of {size} units{padding}")
}
