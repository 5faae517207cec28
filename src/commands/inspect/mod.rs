//! `shearling inspect model`, `inspect masks` and `inspect run`.

mod evaluation_tables;
mod expert_tables;
mod gate_map;
mod masks;
mod masks_csv;
mod model;
mod run;
mod run_csv;
mod run_tables;

use super::ExitStatus;
use super::output_file::OutputFile;
use crate::cli::Printer;
use crate::cli::arguments::Inspect;
use crate::cli::csv::Csv;
use crate::cli::table::{Table, grouped};
use crate::hf::ModelConfig;
use crate::model::count::ParameterCount;
use serde_json::{Value, json};
use std::path::Path;

/// `shearling inspect …`
pub fn run(arguments: &Inspect) -> anyhow::Result<ExitStatus> {
    match arguments {
        Inspect::Model(arguments) => model::model(arguments),
        Inspect::Masks(arguments) => masks::masks(arguments),
        Inspect::Run(arguments) => run::run_folder(arguments),
    }
}

/// Shape and parameters of models, one per column.
pub(super) fn shape_table(models: &[(&str, &ModelConfig)]) -> Table {
    let names = models.iter().map(|(name, _)| name.to_string());
    let mut table = Table::new(std::iter::once("shape".to_string()).chain(names));
    let mut line = |name: &str, value: &dyn Fn(&ModelConfig) -> String| {
        table.row(std::iter::once(name.to_string()).chain(models.iter().map(|(_, model)| value(model))));
    };
    line("architecture", &|m| m.architecture.class_name().to_string());
    line("hidden_size", &|m| grouped(m.hidden_size));
    line("intermediate_size", &|m| grouped(m.intermediate_size));
    line("num_hidden_layers", &|m| grouped(m.num_hidden_layers));
    line("num_attention_heads", &|m| grouped(m.num_attention_heads));
    line("num_key_value_heads", &|m| grouped(m.num_key_value_heads));
    line("head_dim", &|m| grouped(m.head_dim));
    line("vocab_size", &|m| grouped(m.vocab_size));
    line("tied embeddings", &|m| m.tie_word_embeddings.to_string());
    line("embedding parameters", &|m| grouped(ParameterCount::of(m).embedding));
    line("attention parameters", &|m| grouped(ParameterCount::of(m).attention));
    line("mlp parameters", &|m| grouped(ParameterCount::of(m).mlp));
    line("norm parameters", &|m| grouped(ParameterCount::of(m).norms));
    line("head parameters", &|m| grouped(ParameterCount::of(m).head));
    line("all parameters", &|m| grouped(ParameterCount::of(m).total()));
    table
}

/// The same as JSON.
pub(super) fn shape_json(model: &ModelConfig) -> Value {
    json!({
        "architecture": model.architecture.class_name(),
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
    })
}

/// Where `--csv` sends its rows.
enum CsvTarget<'a> {
    Stdout,
    File(OutputFile<'a>),
}

impl<'a> CsvTarget<'a> {
    /// Refuses what would only fail once the work is done.
    fn check(target: Option<&'a Path>, json: bool) -> anyhow::Result<Option<CsvTarget<'a>>> {
        match target {
            None => Ok(None),
            Some(target) if target != Path::new("-") => Ok(Some(CsvTarget::File(OutputFile::check("--csv", target)?))),
            Some(_) if json => anyhow::bail!("--csv - and --json both want stdout; give --csv a file"),
            Some(_) => Ok(Some(CsvTarget::Stdout)),
        }
    }

    /// Writes a CSV there; whether that was stdout, which then has its answer.
    fn write(&self, csv: &Csv, printer: &Printer) -> anyhow::Result<bool> {
        match self {
            CsvTarget::File(file) => file.write("rows", &csv.to_string(), printer).map(|()| false),
            CsvTarget::Stdout => {
                printer.data(csv, || Value::Null);
                Ok(true)
            }
        }
    }
}
