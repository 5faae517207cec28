//! What is proposed: shapes, costs, the table to paste and the command for it; as text and as JSON.

use super::bandwidth::Rate;
use super::costs::Costs;
use super::rank::{self, Trial};
use super::target::{sizes, target_table};
use super::training::{Training, fit, smallest_card};
use crate::cli::shell::shell_word;
use crate::cli::table::{Table, bytes, grouped};
use crate::commands::inspect::shape_json;
use crate::commands::shapes::{Need, Proposal, Serving, milliseconds};
use crate::files::DType;
use crate::hf::ModelConfig;
use crate::native::runtime::cards::{CARDS, Card};
use crate::prune::shape::resized;
use crate::train::fit::Fit;
use crate::train::memory::MemoryEstimate;
use crate::words::counted;
use serde_json::{Value, json};
use shearling_masks::Shape;
use std::path::PathBuf;

/// The proposals with all that is said of them.
pub(super) struct ProposedShapes {
    /// The source, as `init` takes it.
    pub(super) path: PathBuf,
    pub(super) model: ModelConfig,
    pub(super) need: Need,
    pub(super) dtype: DType,
    pub(super) serving: Serving,
    pub(super) rate: Option<Rate>,
    pub(super) card: Option<&'static Card>,
    pub(super) training: Training,
    /// Of the source: learning masks on it, and serving it as it is.
    pub(super) pruning: MemoryEstimate,
    pub(super) of_source: Costs,
    pub(super) proposals: Vec<Proposal>,
    /// Of each proposal.
    pub(super) costs: Vec<Costs>,
    /// Index of the one whose table is printed.
    pub(super) picked: usize,
    /// Those that were tried, the best first.
    pub(super) trials: Vec<Trial>,
    /// Tokens that each was trained on.
    pub(super) tried_tokens: u64,
}

impl ProposedShapes {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.shapes(), self.numbers());
        text.push_str(&self.notes());
        if !self.trials.is_empty() {
            text.push_str(&rank::table(&self.trials, self.tried_tokens));
        }
        let (row, why) = (self.picked + 1, &self.proposals[self.picked].why);
        let as_init = self.picked == 0 && matches!(self.need, Need::Parameters(_));
        let default = match self.trials.first() {
            Some(best) if best.row == self.picked => ", the best that was tried",
            _ if as_init => ", as init takes it",
            _ => "",
        };
        text.push_str(&format!("\nrow {row} ({why}){default}:\n\n{}\n{}\n", self.target_table(), self.init_command()));
        text
    }

    fn shapes(&self) -> Table {
        let mut table = Table::new(["shape", "hidden", "MLP", "layers", "heads/kv", "parameters", "of source"]);
        let mut line = |name: String, shape: [i64; 5], costs: &Costs| {
            let share = costs.parameters.total() as f64 / self.of_source.parameters.total() as f64;
            let [hidden, width, layers, heads, kv] = shape;
            let sizes = [grouped(hidden), grouped(width), layers.to_string(), format!("{heads}/{kv}")];
            let counts = [grouped(costs.parameters.total()), format!("{:.1} %", 100.0 * share)];
            table.row(std::iter::once(name).chain(sizes).chain(counts));
        };
        let model = &self.model;
        let of_source = [
            model.hidden_size,
            model.intermediate_size,
            model.num_hidden_layers,
            model.num_attention_heads,
            model.num_key_value_heads,
        ];
        line("source".to_string(), of_source, &self.of_source);
        for (row, (proposal, costs)) in self.proposals.iter().zip(&self.costs).enumerate() {
            line(format!("{} {}", row + 1, proposal.why), sizes(&proposal.shape).map(|(_, size)| size), costs);
        }
        table
    }

    fn numbers(&self) -> Table {
        let mut table = Table::new([
            "row",
            "weights",
            "cache/1k",
            "to serve",
            "ms/token",
            "tokens/s",
            "FLOPs",
            "to continue",
            "fits in",
        ]);
        let mut line = |name: String, costs: &Costs| {
            let rate = |of: fn(f64) -> String| costs.seconds_per_step.map_or("?".to_string(), of);
            let card = smallest_card(&costs.continuing).map_or("none", |card| card.name);
            table.row([
                name,
                bytes(costs.weight_bytes),
                bytes(costs.cache_bytes_per_1000),
                bytes(costs.serve_bytes),
                rate(|seconds| milliseconds(seconds).trim_end_matches(" ms").to_string()),
                rate(|seconds| format!("{:.1}", 1.0 / seconds)),
                format!("{:.2}", costs.flops_per_token / self.of_source.flops_per_token),
                bytes(costs.continuing.total_bytes()),
                card.to_string(),
            ]);
        };
        line("source".to_string(), &self.of_source);
        for (row, costs) in self.costs.iter().enumerate() {
            line((row + 1).to_string(), costs);
        }
        table
    }

    /// What the numbers hold for.
    fn notes(&self) -> String {
        let Serving { context, batch, .. } = self.serving;
        let rows = counted(batch, "row");
        let dtype = self.dtype.name();
        let mut text =
            format!("to serve: weights and cache in {dtype}, {rows} of {} tokens; nothing else\n", grouped(context));
        text.push_str(&match &self.rate {
            Some(Rate { bytes_per_second, said, .. }) => format!(
                "ms/token, tokens/s (of a row): an estimate, what a step of {rows} cannot but read (weights once, full caches) at {} \
                 GB/s {said}; shearling bench latency measures\n",
                // 8.4, but 3350.
                (bytes_per_second / 1e8).round() / 10.0
            ),
            None => "ms/token, tokens/s: not known, the memory could not be measured; give --bandwidth or --card\n".to_string(),
        });
        text.push_str("FLOPs: of a token, over the source's\n");
        text.push_str(&format!("to continue: {}; fits in: the smallest card\n", self.training.said()));
        text.push_str(&format!(
            "to learn masks on the source, whatever the shape: {}, {}; to cut it at once takes far less\n",
            bytes(self.pruning.total_bytes()),
            self.fits()
        ));
        text
    }

    /// Where the source can be pruned.
    fn fits(&self) -> String {
        if let Some(card) = self.card {
            let verdict = match fit(&self.pruning, card) {
                Fit::Yes => "fits in",
                Fit::Tight => "only just fits in",
                Fit::No => "does not fit in",
            };
            return format!("{verdict} one {}", card.name);
        }
        match smallest_card(&self.pruning) {
            Some(card) => format!("fits in {}", card.name),
            None => "fits in no card".to_string(),
        }
    }

    /// `[target]`, every size.
    fn target_table(&self) -> String {
        target_table(self.shape())
    }

    /// The command that writes configurations for the shape.
    fn init_command(&self) -> String {
        let model = shell_word(&self.path.display().to_string());
        let card = self.card.map_or(String::new(), |card| format!(" --card {}", card.id));
        if let (Need::Parameters(count), 0) = (self.need, self.picked) {
            return format!("shearling init {model} --target-params {count}{card}");
        }
        let shape = self.shape();
        format!(
            "shearling init {model} --hidden-size {} --intermediate-size {} --layers {} --heads {} --kv-heads {}{card}",
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
            shape.num_key_value_heads
        )
    }

    fn shape(&self) -> &Shape {
        &self.proposals[self.picked].shape
    }

    pub(super) fn json(&self) -> Value {
        let model = &self.model;
        let proposals = self.proposals.iter().zip(&self.costs).map(|(proposal, costs)| {
            json!({ "why": proposal.why, "shape": shape_json(&resized(model, &proposal.shape)),
                    "costs": costs.json(&self.of_source) })
        });
        let cards =
            CARDS.iter().map(|card| json!({ "card": card.name, "id": card.id, "fits": fit(&self.pruning, card) }));
        let (kind, value) = match self.need {
            Need::Parameters(count) => ("parameters", json!(count)),
            Need::Memory { bytes, .. } => ("memory_bytes", json!(bytes)),
            Need::Latency { seconds, .. } => ("seconds_per_token", json!(seconds)),
        };
        json!({
            "need": { "kind": kind, "value": value },
            "now": { "shape": shape_json(model), "costs": self.of_source.json(&self.of_source) },
            "dtype": self.dtype,
            "context_tokens": self.serving.context,
            "batch_rows": self.serving.batch,
            "bandwidth_bytes_per_second": self.rate.as_ref().map(|rate| rate.bytes_per_second),
            "training": self.training.said(),
            "prune_memory_bytes": self.pruning.total_bytes(),
            "prune_fits": cards.collect::<Vec<_>>(),
            "proposals": proposals.collect::<Vec<_>>(),
            "ranked": rank::json(&self.trials),
            "picked": self.picked + 1,
            "target": self.target_table(),
            "init": self.init_command(),
        })
    }
}
