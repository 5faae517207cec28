//! `shearling report`: reads runs, writes the page and the pictures, or serves the page while a run goes on.

use super::ExitStatus;
use super::output_file::OutputFile;
use crate::cli::Printer;
use crate::cli::arguments;
use crate::cli::interrupt::{self, Listening};
use crate::cli::table::bytes;
use crate::inspect::Severity;
use crate::report::serve::{Live, Page};
use crate::report::{Report, side_files};
use crate::run_dir::layout::{CHECKPOINTS, METRICS, MODEL, PRUNED, RESOLVED_CONFIG, SNAPSHOTS};
use crate::words::counted;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `shearling report`
pub fn run(arguments: &arguments::Report) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let out = OutputFile::check_optional("--out", arguments.out.as_deref())?;
    if let Some(port) = arguments.serve {
        return serve(arguments, port, out, printer);
    }
    let report = read(arguments)?;
    let notes = report.runs.iter().flat_map(|run| &run.notes);
    // As in the page: what is said of several runs is one warning.
    let warnings: BTreeSet<&str> =
        notes.filter(|note| note.severity == Severity::Warning).map(|note| note.text.as_str()).collect();
    if let Some(out) = &out {
        let page = report.html();
        let warnings = counted(warnings.len() as u64, "warning");
        let what = format!("the report ({}, {warnings})", bytes(page.len() as f64));
        out.write(&what, &page, &printer)?;
    }
    let mut files: Vec<PathBuf> = arguments.out.iter().cloned().collect();
    if let Some(folder) = &arguments.svg {
        files.extend(report.write_svg(folder)?);
    }
    if let Some(folder) = &arguments.png {
        files.extend(report.write_png(folder)?);
    }
    let names = files.iter().map(|file| format!("{}\n", file.display())).collect::<String>();
    printer.data(names, || report.data());
    Ok(ExitStatus::Done)
}

fn read(arguments: &arguments::Report) -> anyhow::Result<Report> {
    let mut report = Report::read(&arguments.runs, arguments.title.clone())?;
    report.eval = arguments.eval.as_deref().map(side_files::read_eval).transpose()?;
    report.latency = arguments.latency.as_deref().map(side_files::read_latency).transpose()?;
    Ok(report)
}

fn serve(
    arguments: &arguments::Report,
    port: u16,
    out: Option<OutputFile<'_>>,
    printer: Printer,
) -> anyhow::Result<ExitStatus> {
    // A run that cannot be read is an error now, not at the first request.
    let first = read(arguments)?;
    let live = Live::bind(port)?;
    // A second signal does not wait for anything.
    let _listening = Listening::begin(None);
    printer.data(format!("http://{}/\n", live.address()), || serde_json::Value::Null);
    printer.note("serving to this machine only; Ctrl-C ends it");
    if let Some(out) = &out {
        out.write("the report", &first.html(), &printer)?;
    }
    let mut known: Option<Page> = None;
    let page = || -> Result<Page, String> {
        let version = version(arguments);
        match &known {
            Some(page) if page.version == version => Ok(page.clone()),
            _ => {
                let html = read(arguments).map_err(|error| format!("{error:#}"))?.live_html();
                let page = Page { html, version };
                known = Some(page.clone());
                Ok(page)
            }
        }
    };
    live.run(page, interrupt::requested)?;
    printer.note("stopped");
    Ok(ExitStatus::Done)
}

/// Changes when a file that the report reads does: names, sizes and times of what the run folders hold.
fn version(arguments: &arguments::Report) -> String {
    let mut state = Vec::new();
    for run in &arguments.runs {
        for part in ["", METRICS, RESOLVED_CONFIG, SNAPSHOTS, CHECKPOINTS, PRUNED, MODEL] {
            state.extend(stamp(&run.join(part)));
        }
    }
    for file in arguments.eval.iter().chain(&arguments.latency) {
        state.extend(stamp(file));
    }
    state.iter().map(|(bytes, nanoseconds)| format!("{bytes:x}.{nanoseconds:x}")).collect::<Vec<_>>().join("-")
}

fn stamp(path: &Path) -> Option<(u64, u128)> {
    let about = std::fs::metadata(path).ok()?;
    let changed = about.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some((about.len(), changed.as_nanos()))
}
