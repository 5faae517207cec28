//! `shearling lte eval`: what running few experts costs, against the dense model: loss by domain with the rows that lose most, and
//! the share of units that ran.

use crate::cli::Printer;
use crate::cli::arguments::LteEval;
use crate::cli::progress::Progress;
use crate::cli::table::{Table, optional, ranges};
use crate::commands::ExitStatus;
use crate::commands::eval::{LoadedModel, load_model};
use crate::commands::model_folder::model_folder;
use crate::eval::statistics::{Estimate, mean_of, paired_difference};
use crate::eval::{Deal, EvalRows, RowLosses, row_losses};
use crate::lte::Experts;
use crate::lte::evaluate::routed_row_losses;
use crate::lte::file::{FILE_NAME, read};
use crate::lte::install::install;
use crate::lte::meter::{Densities, Meter};
use crate::model::router::RouterForward;
use crate::model::{ForwardContext, ModelGates};
use crate::native::runtime::device;
use crate::train::setup::kind;
use crate::words::counted;
use anyhow::Context;
use serde_json::{Value, json};
use shearling_domains::Dataset;
use std::path::Path;
use tch::Device;

/// Rows that are named for losing most.
const WORST_ROWS: usize = 5;
/// Rows per forward: unions of eight rows are counted.
const MICRO_BATCH: usize = 8;

/// Compares, prints, and judges where a bound is given.
pub fn run(arguments: &LteEval) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    check_bound(arguments.max_degradation)?;
    let device = device::parse(&arguments.device)?;
    let dataset = Dataset::open(&arguments.data)?;
    let rows = EvalRows::load(&dataset, arguments.rows, device)?;
    let mut lte = load_model(&arguments.model, &dataset, kind(arguments.dtype.into()), device)?;
    let experts = routed_experts(&model_folder(&arguments.model)?, &lte, device)?;
    check_layers(&arguments.dense_layers, &experts)?;
    install(&experts, &mut lte.decoder, &arguments.dense_layers);
    printer.note(format!("evaluating {}", arguments.model.display()));
    let context = ForwardContext::new(lte.decoder.model(), dataset.sequence_length() as i64, device)?;
    let mut meter = Meter::new(&experts, device)?;
    let mut show = shown(arguments);
    let taught = routed_row_losses(&lte.decoder, &context, &rows, MICRO_BATCH, &mut meter, Deal::ALONE, &mut show)?;
    let densities = meter.densities()?.context("no row was evaluated: the data has no held-out rows")?;
    let dense = dense_losses(arguments, lte, &context, &dataset, &rows, device, &printer)?;
    let report = Report::new(&taught, &dense, densities);
    printer.data(report.text(arguments), || report.json(arguments));
    Ok(verdict(&report, arguments.max_degradation, &printer))
}

fn check_bound(bound: Option<f64>) -> anyhow::Result<()> {
    match bound.filter(|bound| !bound.is_finite()) {
        Some(bound) => anyhow::bail!("--max-degradation {bound} must be a number of nats, such as 0.05"),
        None => Ok(()),
    }
}

fn check_layers(dense: &[i64], experts: &Experts) -> anyhow::Result<()> {
    let layers = experts.layers.len() as i64;
    match dense.iter().find(|layer| !(0..layers).contains(*layer)) {
        Some(layer) => anyhow::bail!("--dense-layers {layer}: the model has layers 0 to {}", layers - 1),
        None => Ok(()),
    }
}

/// What the folder says of its experts; a folder without routers has nothing to compare.
fn routed_experts(folder: &Path, model: &LoadedModel, device: Device) -> anyhow::Result<Experts> {
    let experts = read(folder, model.decoder.model(), device)?;
    let shown = folder.display();
    match experts {
        Some(experts) if experts.routed_layers() > 0 => Ok(experts),
        Some(_) => anyhow::bail!("{shown} is grouped, but has no routers yet: shearling lte train teaches them"),
        None => anyhow::bail!("{shown} has no {FILE_NAME}: it is a dense model; compare such with shearling eval"),
    }
}

/// Of `--dense`, or of the same weights with every expert running.
fn dense_losses(
    arguments: &LteEval,
    mut lte: LoadedModel,
    context: &ForwardContext,
    dataset: &Dataset,
    rows: &[EvalRows],
    device: Device,
    printer: &Printer,
) -> anyhow::Result<Vec<RowLosses>> {
    let none = ModelGates::none();
    let Some(folder) = &arguments.dense else {
        printer.note("evaluating it with every expert running");
        lte.decoder.set_routers(RouterForward::Dense, None);
        return Ok(row_losses(&lte.decoder, context, &none, rows, MICRO_BATCH, &mut shown(arguments))?);
    };
    printer.note(format!("evaluating {}", folder.display()));
    drop(lte);
    let dense = load_model(folder, dataset, kind(arguments.dtype.into()), device)?;
    let context = ForwardContext::new(dense.decoder.model(), dataset.sequence_length() as i64, device)?;
    Ok(row_losses(&dense.decoder, &context, &none, rows, MICRO_BATCH, &mut shown(arguments))?)
}

/// Progress on a terminal.
fn shown(arguments: &LteEval) -> impl FnMut(&str, usize, usize) + use<> {
    let (mut progress, model) = (Progress::default(), arguments.model.display().to_string());
    move |domain, done, of| progress.show_on_terminal(|| format!("{model}: {domain}, {done} of {of} rows"))
}

/// One domain, or one row of it.
struct Compared {
    name: String,
    dense: Option<f64>,
    taught: Option<f64>,
    difference: Option<Estimate>,
}

struct Report {
    domains: Vec<Compared>,
    mean: Compared,
    worst_rows: Vec<Compared>,
    densities: Densities,
}

impl Report {
    fn new(taught: &[RowLosses], dense: &[RowLosses], densities: Densities) -> Report {
        let mut domains: Vec<Compared> =
            taught.iter().zip(dense).map(|(taught, dense)| domain(taught, dense)).collect();
        let estimates: Vec<Estimate> = domains.iter().filter_map(|domain| domain.difference).collect();
        let mean_over = |of: fn(&Compared) -> Option<f64>| {
            let known: Vec<f64> = domains.iter().filter_map(of).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        let mean = Compared {
            name: "mean".to_string(),
            dense: mean_over(|domain| domain.dense),
            taught: mean_over(|domain| domain.taught),
            difference: mean_of(&estimates),
        };
        domains.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
        Report { domains, mean, worst_rows: worst_rows(taught, dense), densities }
    }

    fn text(&self, arguments: &LteEval) -> String {
        let mut table = Table::new(["domain", "dense", "experts", "lost", "±", "units that ran"]);
        for found in self.domains.iter().chain([&self.mean]) {
            let density = match self.densities.domains.get(&found.name) {
                Some(density) => percent(*density),
                None => percent(self.densities.mean),
            };
            table.row([
                found.name.clone(),
                optional(found.dense, 4),
                optional(found.taught, 4),
                signed(found.difference),
                optional(found.difference.and_then(|lost| lost.standard_error), 4),
                density,
            ]);
        }
        let mut rows = Table::new(["rows that lose most", "dense", "experts", "lost"]);
        for row in &self.worst_rows {
            rows.row([row.name.clone(), optional(row.dense, 4), optional(row.taught, 4), signed(row.difference)]);
        }
        format!("{table}\n{rows}\n{}\n", self.lines(arguments).join("\n"))
    }

    fn lines(&self, arguments: &LteEval) -> Vec<String> {
        let found = &self.densities;
        let unions = found.unions.iter().map(|(rows, union)| format!("{rows} rows {}", percent(*union)));
        let ends = found
            .layers
            .iter()
            .min_by(|a, b| a.1.total_cmp(b.1))
            .zip(found.layers.iter().max_by(|a, b| a.1.total_cmp(b.1)));
        let mut lines = vec![format!(
            "experts that run for > 99 % of the tokens: {}; for < 1 %: {}; scores within 0.1 of the threshold: {}",
            percent(found.always_on),
            percent(found.always_off),
            percent(found.near_threshold)
        )];
        if !found.unions.is_empty() {
            lines.push(format!("units that several rows need together: {}", unions.collect::<Vec<_>>().join(", ")));
        }
        if let Some((least, most)) = ends {
            lines.push(format!(
                "by layer: least {} (layer {}), most {} (layer {})",
                percent(*least.1),
                least.0,
                percent(*most.1),
                most.0
            ));
        }
        if !arguments.dense_layers.is_empty() {
            lines.push(format!("routers switched off in layers {}", ranges(&arguments.dense_layers)));
        }
        lines
    }

    fn json(&self, arguments: &LteEval) -> Value {
        let compared = |found: &Compared| {
            json!({
                "name": found.name, "dense_loss": found.dense, "loss": found.taught,
                "degradation": found.difference.map(|lost| lost.mean),
                "degradation_standard_error": found.difference.and_then(|lost| lost.standard_error),
                "density": self.densities.domains.get(&found.name),
            })
        };
        let found = &self.densities;
        json!({
            "model": arguments.model, "dense": arguments.dense, "data": arguments.data, "density": found.mean,
            "mean": compared(&self.mean),
            "domains": self.domains.iter().map(compared).collect::<Vec<_>>(),
            "worst_rows": self.worst_rows.iter().map(compared).collect::<Vec<_>>(),
            "layer_density": found.layers, "near_threshold": found.near_threshold, "always_on": found.always_on,
            "always_off": found.always_off, "union_density": found.unions,
            "dense_layers": arguments.dense_layers, "max_degradation": arguments.max_degradation,
        })
    }
}

fn domain(taught: &RowLosses, dense: &RowLosses) -> Compared {
    Compared {
        name: taught.domain.clone(),
        dense: dense.summary().loss,
        taught: taught.summary().loss,
        difference: paired_difference(&taught.rows, &dense.rows),
    }
}

/// The rows of all domains whose loss has grown most.
fn worst_rows(taught: &[RowLosses], dense: &[RowLosses]) -> Vec<Compared> {
    let rows = taught.iter().zip(dense).flat_map(|(taught, dense)| {
        taught.rows.iter().zip(&dense.rows).enumerate().map(|(row, (a, b))| Compared {
            name: format!("{} row {row}", taught.domain),
            dense: Some(*b),
            taught: Some(*a),
            difference: Some(Estimate { mean: a - b, standard_error: None }),
        })
    });
    let mut rows: Vec<Compared> = rows.collect();
    rows.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    rows.truncate(WORST_ROWS);
    rows
}

fn lost(found: &Compared) -> f64 {
    found.difference.map_or(f64::NEG_INFINITY, |lost| lost.mean)
}

fn signed(estimate: Option<Estimate>) -> String {
    estimate.map_or("–".to_string(), |lost| format!("{:+.4}", lost.mean))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn verdict(report: &Report, bound: Option<f64>, printer: &Printer) -> ExitStatus {
    let Some(bound) = bound else { return ExitStatus::Done };
    // A loss that is not a number is no small degradation.
    let within = |found: &&Compared| found.difference.is_some_and(|lost| lost.mean <= bound);
    let beyond: Vec<&Compared> = report.domains.iter().filter(|found| !within(found)).collect();
    match beyond.first() {
        None => {
            printer.note(format!("no domain loses more than {bound} nats"));
            ExitStatus::Done
        }
        Some(worst) => {
            let count = counted(beyond.len() as i128, "domain");
            printer.warn(format!(
                "{count} beyond --max-degradation {bound}, {} most ({} nats)",
                worst.name,
                signed(worst.difference)
            ));
            ExitStatus::CheckFailed
        }
    }
}
