//! The README of a published checkpoint: where it comes from, what was done to it, and how sure we are that the export is exact.
//!
//! Everything is optional; what is not known is left out rather than guessed. The same data is written as `shearling.json`, so
//! that the next stage can tell the whole history and not only its own part.

use super::ModelConfig;
use crate::files::{Error, Result, json, publish};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A model's dimensions, for the table of source and result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardShape {
    /// D.
    pub hidden_size: i64,
    /// F.
    pub intermediate_size: i64,
    /// L.
    pub num_hidden_layers: i64,
    /// H.
    pub num_attention_heads: i64,
    /// K.
    pub num_key_value_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// V.
    pub vocab_size: i64,
    /// All parameters, if counted.
    pub parameters: Option<u64>,
}

impl CardShape {
    /// The shape of a resolved configuration.
    pub fn of(model: &ModelConfig, parameters: Option<u64>) -> CardShape {
        CardShape {
            hidden_size: model.hidden_size,
            intermediate_size: model.intermediate_size,
            num_hidden_layers: model.num_hidden_layers,
            num_attention_heads: model.num_attention_heads,
            num_key_value_heads: model.num_key_value_heads,
            head_dim: model.head_dim,
            vocab_size: model.vocab_size,
            parameters,
        }
    }

    fn rows(&self) -> [(&'static str, Option<u64>); 8] {
        let size = |n: i64| u64::try_from(n).ok();
        [
            ("hidden size", size(self.hidden_size)),
            ("intermediate size", size(self.intermediate_size)),
            ("layers", size(self.num_hidden_layers)),
            ("attention heads", size(self.num_attention_heads)),
            ("key/value heads", size(self.num_key_value_heads)),
            ("head dimension", size(self.head_dim)),
            ("vocabulary", size(self.vocab_size)),
            ("parameters", self.parameters),
        ]
    }
}

/// File with the card's data, for the next stage.
pub const HISTORY_NAME: &str = "shearling.json";

/// How far the written model was from the masked one when it was exported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalence {
    /// Largest difference of a logit, relative to the largest logit: of the fold in fp64 where `dtype` is given, of the
    /// written weights in cards of earlier versions.
    pub error: f64,
    /// What was allowed.
    pub bound: f64,
    /// Dtype of the written weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// What rounding to it changed the loss by, nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_change: Option<f64>,
    /// Mean KL divergence of the next token that it caused, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_kl: Option<f64>,
    /// Why the check refused the model, where it was published all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven: Option<String>,
}

/// What a cut at once did to the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutLoss {
    /// Held-out rows that both losses are of.
    pub rows: u64,
    /// Of the source, nats per token.
    pub source: f64,
    /// Of the written model.
    pub cut: f64,
}

/// The loss of a model on held-out rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Rows of all domains.
    pub rows: u64,
    /// Mean over the domains, nats per token.
    pub loss: f64,
    /// Of that mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// By domain.
    pub domains: Vec<(String, f64)>,
    /// The mean of the run's reference losses, where they are of the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
}

/// A layer that a cut kept, in the indices of the model that was cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptLayer {
    /// Of the layer.
    pub source_layer: i64,
    /// Of its query heads that stay.
    pub heads: Vec<i64>,
}

/// What a model card can say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// Heading.
    pub title: String,
    /// The folder that the first stage started from.
    pub source: Option<String>,
    /// The shape before pruning.
    pub source_shape: Option<CardShape>,
    /// The shape of this checkpoint.
    pub target_shape: Option<CardShape>,
    /// Stages that made it, in order, with their optimiser steps and tokens: `("prune", 3200, 420_000_000)`.
    pub stages: Vec<(String, u64, u64)>,
    /// Domains with their share of the last stage's tokens, 0 to 1.
    pub domains: Vec<(String, f64)>,
    /// What the run of the last stage measured of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// Exactness of the export.
    pub equivalence: Option<Equivalence>,
    /// What the cut did to the loss, where the source was cut at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutLoss>,
    /// Which layers and query heads the last cut kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<KeptLayer>>,
    /// SHA-256 of the resolved configuration.
    pub config_digest: Option<String>,
    /// Programs and their versions: `("shearling", "0.1.0")`.
    pub versions: Vec<(String, String)>,
}

impl ModelCard {
    /// A heading that says which model it was and what became of it: `SmolLM2-135M pruned to 67.5M parameters (24 layers,
    /// hidden size 384)`. `source` is the folder that the first stage started from, `before` its shape if it was pruned.
    pub fn title_of(source: Option<&str>, before: Option<&CardShape>, shape: &CardShape) -> String {
        let dimensions = format!("{} layers, hidden size {}", shape.num_hidden_layers, shape.hidden_size);
        let size = match shape.parameters {
            Some(parameters) => format!("{} parameters ({dimensions})", rounded(parameters)),
            None => dimensions,
        };
        match (source.and_then(model_name), before) {
            (Some(name), Some(_)) => format!("{name} pruned to {size}"),
            (None, Some(_)) => format!("Model pruned to {size}"),
            (Some(name), None) => format!("{name} trained further, {size}"),
            (None, None) => format!("Model of {size}"),
        }
    }

    /// A heading for the model of the folder `source` with its intermediate units grouped into experts.
    pub fn grouped_title(source: &str) -> String {
        format!("{}, intermediate units grouped into experts", model_name(source).unwrap_or("Model"))
    }

    /// A folder as a card names it: its last two parts, since what is above them is of this machine alone.
    pub fn folder_name(folder: &Path) -> String {
        let parts: Vec<_> = folder.components().collect();
        parts[parts.len().saturating_sub(2)..].iter().collect::<PathBuf>().display().to_string()
    }

    /// The README's content.
    pub fn render(&self) -> String {
        let sections = [
            Some(self.front_matter()),
            Some(format!("# {}\n", one_line(&self.title))),
            self.source.as_ref().map(|source| format!("Source: {}\n", one_line(source))),
            self.shapes(),
            self.training(),
            self.mixture(),
            self.loss(),
            self.cost_of_the_cut(),
            self.exactness(),
            self.provenance(),
        ];
        sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    /// Writes it as `README.md` and as `shearling.json` into a folder, atomically.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let history = serde_json::to_value(self).unwrap_or(Value::Null);
        publish::write_atomic(&dir.join(HISTORY_NAME), format!("{history:#}\n").as_bytes())?;
        publish::write_atomic(&dir.join("README.md"), self.render().as_bytes())
    }

    /// What an earlier stage wrote into a folder; `None` for folders of other origin.
    ///
    /// # Errors
    /// There is such a file, and it is damaged.
    pub fn read(dir: &Path) -> Result<Option<ModelCard>> {
        let path = dir.join(HISTORY_NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let raw = json::parse_object(&json::read_bounded(&path)?, &path)?;
        let card = serde_json::from_value(Value::Object(raw));
        card.map(Some).map_err(|source| Error::Json { path, source })
    }

    fn front_matter(&self) -> String {
        let tags = "tags:\n- shearling\n- structured-pruning\n";
        format!("---\nlibrary_name: transformers\npipeline_tag: text-generation\n{tags}---\n")
    }

    fn shapes(&self) -> Option<String> {
        let target = self.target_shape?;
        let mut text = match self.source_shape {
            Some(_) => "## Shape\n\n| | source | this model |\n|---|---:|---:|\n".to_owned(),
            None => "## Shape\n\n| | this model |\n|---|---:|\n".to_owned(),
        };
        for (index, (name, after)) in target.rows().into_iter().enumerate() {
            let Some(after) = after else { continue };
            let before = self.source_shape.map(|source| source.rows()[index].1);
            let before = before.map(|n| format!(" {} |", n.map_or(String::new(), grouped))).unwrap_or_default();
            let _ = writeln!(text, "| {name} |{before} {} |", grouped(after));
        }
        Some(text)
    }

    fn training(&self) -> Option<String> {
        let rows = self
            .stages
            .iter()
            .map(|(name, steps, tokens)| format!("| {} | {} | {} |\n", cell(name), grouped(*steps), grouped(*tokens)));
        section("## Training\n\n| stage | steps | tokens |\n|---|---:|---:|\n", rows)
    }

    fn mixture(&self) -> Option<String> {
        let rows = self.domains.iter().map(|(name, share)| format!("| {} | {:.4} |\n", cell(name), share));
        let of = match self.stages.last() {
            Some((stage, _, tokens)) if self.stages.len() > 1 => {
                format!("Of the last stage, {} ({} tokens).\n\n", one_line(stage), grouped(*tokens))
            }
            _ => String::new(),
        };
        section(&format!("## Data\n\n{of}| domain | share of tokens |\n|---|---:|\n"), rows)
    }

    fn loss(&self) -> Option<String> {
        let HeldOut { rows, loss, standard_error, domains, reference } = self.held_out.as_ref()?;
        let error = standard_error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        let of = format!("{} held-out {}", grouped(*rows), if *rows == 1 { "row" } else { "rows" });
        let rows: String = domains.iter().map(|(name, loss)| format!("| {} | {loss:.4} |\n", cell(name))).collect();
        let reference = reference.map_or(String::new(), |mean| {
            format!(" The reference loss on the same rows is {mean:.4} (mean over the domains).")
        });
        Some(format!(
            "## Loss\n\n{loss:.4}{error} nats per token on {of}, mean over the domains; measured in training, before the weights \
             were stored.{reference}\n\n| domain | loss |\n|---|---:|\n{rows}"
        ))
    }

    fn cost_of_the_cut(&self) -> Option<String> {
        let CutLoss { rows, source, cut } = self.cut?;
        let since = if self.trained_since_cut() { ", before the training that followed" } else { "" };
        let rows = format!("{} held-out {}", grouped(rows), if rows == 1 { "row" } else { "rows" });
        Some(format!(
            "## Cost of the cut\n\nLoss on {rows}: {source:.4} nats per token before the cut, {cut:.4} after it{since}.\n"
        ))
    }

    fn exactness(&self) -> Option<String> {
        let Equivalence { error, bound, dtype, loss_change, mean_kl, unproven } = self.equivalence.as_ref()?;
        let mut text = "## Exactness\n\n".to_string();
        if let Some(reason) = unproven {
            let _ = writeln!(text, "**Not proven equal to the masked model**: {}.\n", one_line(reason));
        }
        // What was trained on after the cut is another model than the one that was compared.
        let (when, which, its) = match self.trained_since_cut() {
            true => ("As it was cut, before the training that followed: l", "the pruned model", "its"),
            false => ("L", "this model", "the"),
        };
        let computed = if dtype.is_some() { ", computed in fp64" } else { "" };
        let _ = writeln!(
            text,
            "{when}argest difference between the logits of {which} and of the masked source on real batches, relative to the \
             largest logit{computed}: {error:.2e} (bound {bound:.0e})."
        );
        if let (Some(dtype), Some(loss), Some(kl)) = (dtype, loss_change, mean_kl) {
            // No sign on a zero.
            let loss = if loss.abs() < 5e-5 { 0.0 } else { *loss };
            let _ = writeln!(
                text,
                "Storing {its} weights in {dtype} changed the loss by {loss:+.4} nats per token (KL divergence of the next token \
                 {kl:.1e} nats)."
            );
        }
        Some(text)
    }

    fn trained_since_cut(&self) -> bool {
        let mut since = self.stages.iter().rev().take_while(|(name, ..)| !name.starts_with("pruning"));
        // Grouped units compute what they computed.
        since.any(|(name, ..)| !name.starts_with("grouping"))
    }

    fn provenance(&self) -> Option<String> {
        let digest =
            self.config_digest.iter().map(|digest| format!("- SHA-256 of the configuration: `{}`\n", one_line(digest)));
        let versions =
            self.versions.iter().map(|(name, version)| format!("- {}: {}\n", one_line(name), one_line(version)));
        section("## Made with\n\n", digest.chain(versions))
    }
}

/// The part of a folder's path that names the model: not what runs call the folder they write, nor the revision in the
/// hub's cache.
fn model_name(folder: &str) -> Option<&str> {
    let parts = folder.split(['/', '\\']).filter(|part| !part.is_empty() && !part.starts_with('.'));
    let is_revision = |part: &str| part.len() == 40 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut named = parts.rev().filter(|part| !["model", "pruned", "snapshots"].contains(part) && !is_revision(part));
    let name = named.next()?;
    // The cache calls its folders models--ORG--NAME.
    let id = name.strip_prefix("models--").and_then(|id| id.split_once("--"));
    Some(id.map_or(name, |(_, name)| name))
}

/// 67_512_345 → 67.5M.
fn rounded(parameters: u64) -> String {
    let scaled = |unit: f64, suffix: &str| format!("{:.1}{suffix}", parameters as f64 / unit);
    match parameters {
        0..1_000 => parameters.to_string(),
        1_000..999_950 => scaled(1e3, "K"),
        999_950..999_950_000 => scaled(1e6, "M"),
        _ => scaled(1e9, "B"),
    }
}

/// A heading with its rows; nothing without rows.
fn section(heading: &str, rows: impl Iterator<Item = String>) -> Option<String> {
    let rows: String = rows.collect();
    if rows.is_empty() { None } else { Some(format!("{heading}{rows}")) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}

/// 1234567 → 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CardShape = CardShape {
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 128,
        vocab_size: 32000,
        parameters: Some(6_738_415_616),
    };

    #[test]
    fn an_empty_card_is_front_matter_and_title() {
        let card = ModelCard { title: "tiny".into(), ..ModelCard::default() };
        let text = card.render();
        assert!(text.starts_with("---\nlibrary_name: transformers\n") && text.ends_with("# tiny\n"));
        assert!(!text.contains("##"));
    }

    #[test]
    fn a_full_card_says_all_it_knows() {
        let card = ModelCard {
            title: "pruned\nmodel".into(),
            source: Some("a local copy".into()),
            source_shape: Some(SHAPE),
            target_shape: Some(CardShape { hidden_size: 2048, parameters: None, ..SHAPE }),
            stages: vec![("prune".into(), 3200, 419_430_400)],
            domains: vec![("c4".into(), 0.67), ("a|b".into(), 0.33)],
            held_out: Some(HeldOut {
                rows: 1,
                loss: 2.5,
                standard_error: Some(0.05),
                domains: vec![("c4".into(), 2.25), ("a|b".into(), 2.75)],
                reference: Some(2.125),
            }),
            equivalence: Some(Equivalence { error: 1.25e-12, bound: 1e-9, ..Equivalence::default() }),
            cut: Some(CutLoss { rows: 22, source: 2.87264, cut: 6.4394 }),
            kept: Some(vec![KeptLayer { source_layer: 3, heads: vec![0, 2] }]),
            config_digest: Some("abc".into()),
            versions: vec![("libtorch".into(), "2.11.0".into())],
        };
        let dir = tempfile::tempdir().unwrap();
        card.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
        for part in [
            "# pruned model\n",
            "| hidden size | 4,096 | 2,048 |",
            "| prune | 3,200 | 419,430,400 |",
            "| c4 | 0.6700 |",
            "| a\\|b | 0.3300 |",
            "2.5000 ± 0.0500 nats per token on 1 held-out row, mean over the domains; measured in training",
            "The reference loss on the same rows is 2.1250 (mean over the domains).\n",
            "| c4 | 2.2500 |\n| a\\|b | 2.7500 |",
            "1.25e-12 (bound 1e-9)",
            "Loss on 22 held-out rows: 2.8726 nats per token before the cut, 6.4394 after it",
            "- libtorch: 2.11.0",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(ModelCard::read(dir.path()).unwrap(), Some(card));
        assert!(!text.contains("| parameters |"));
        assert_eq!(text.matches("---\n").count(), 2);
    }

    #[test]
    fn a_model_that_was_not_proven_says_so_first() {
        let measured = Equivalence { error: 3e-3, bound: 1e-9, ..Equivalence::default() };
        let dtype = Some("bf16".to_string());
        let unproven = Some("masked and pruned model first differ at layer 3".to_string());
        let equivalence =
            Equivalence { dtype, loss_change: Some(0.25), mean_kl: Some(0.5), unproven, ..measured.clone() };
        let text = |equivalence| ModelCard { equivalence: Some(equivalence), ..ModelCard::default() }.render();
        let marked = text(equivalence);
        assert!(marked.contains("**Not proven equal to the masked model**: masked and pruned model first differ"));
        assert!(marked.contains("in bf16 changed the loss by +0.2500 nats") && marked.contains("in fp64: 3.00e-3"));
        assert!(!text(measured).contains("proven"));
        // A card of an earlier version.
        let old: Equivalence = serde_json::from_str("{\"error\": 1e-5, \"bound\": 1e-4}").unwrap();
        assert_eq!(old, Equivalence { error: 1e-5, bound: 1e-4, ..Equivalence::default() });
    }

    #[test]
    fn a_grouped_model_is_still_the_one_that_was_compared() {
        let text = |stages: &[&str]| {
            let stages = stages.iter().map(|name| (name.to_string(), 0, 0)).collect();
            ModelCard { stages, equivalence: Some(Equivalence::default()), ..ModelCard::default() }.render()
        };
        let trained = "before the training that followed";
        assert!(!text(&["pruning (learned)", "grouping (k-means, experts of 32)"]).contains(trained));
        let card = |stages: &[&str]| ModelCard {
            stages: stages.iter().map(|name| (name.to_string(), 2, 512)).collect(),
            domains: vec![("c4".into(), 1.0)],
            ..ModelCard::default()
        };
        assert!(
            card(&["pruning", "LTE"]).render().contains("## Data\n\nOf the last stage, LTE (512 tokens).\n\n| domain")
        );
        assert!(card(&["LTE"]).render().contains("## Data\n\n| domain"));
        assert!(text(&["pruning (learned)", "training", "grouping (k-means, experts of 32)"]).contains(trained));
        assert!(!text(&["training", "pruning (learned)"]).contains(trained));
        assert_eq!(ModelCard::grouped_title("models/SmolLM2"), "SmolLM2, intermediate units grouped into experts");
    }

    #[test]
    fn a_title_names_the_model_and_what_it_became() {
        let small = CardShape { num_hidden_layers: 24, hidden_size: 384, parameters: Some(67_512_345), ..SHAPE };
        let title = |source, before| ModelCard::title_of(source, before, &small);
        let size = "67.5M parameters (24 layers, hidden size 384)";
        for source in ["SmolLM2", "/models/SmolLM2/", "runs/SmolLM2/pruned", "hub/models--org--SmolLM2/snapshots/"] {
            assert_eq!(title(Some(source), Some(&SHAPE)), format!("SmolLM2 pruned to {size}"));
        }
        let revision = format!("models--org--SmolLM2/snapshots/{}", "0a".repeat(20));
        assert_eq!(title(Some(&revision), None), format!("SmolLM2 trained further, {size}"));
        assert_eq!(title(Some("./model"), Some(&SHAPE)), format!("Model pruned to {size}"));
        assert_eq!(title(None, None), format!("Model of {size}"));
        let counts = [(999, "999"), (1_000, "1.0K"), (999_949, "999.9K"), (999_950, "1.0M"), (6_738_415_616, "6.7B")];
        counts.iter().for_each(|(count, text)| assert_eq!(rounded(*count), *text));
    }

    #[test]
    fn a_damaged_history_names_its_file_and_none_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ModelCard::read(dir.path()).unwrap(), None);
        for wrong in ["{", "[]", "{\"title\": 3}", "{\"title\": \"x\"}"] {
            std::fs::write(dir.path().join(HISTORY_NAME), wrong).unwrap();
            assert!(ModelCard::read(dir.path()).unwrap_err().to_string().contains(HISTORY_NAME), "{wrong}");
        }
        assert_eq!((grouped(0), grouped(999), grouped(1000)), ("0".into(), "999".into(), "1,000".into()));
    }
}
