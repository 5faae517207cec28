//! `shearling inspect model`: the shape of a folder, whether its weights are those of its `config.json`, and the tokens that
//! begin and end its texts.

use super::{shape_json, shape_table};
use crate::cli::Printer;
use crate::cli::arguments::InspectModel;
use crate::commands::ExitStatus;
use crate::commands::model_folder::model_folder;
use crate::hf::{Checkpoint, Tokenizer};
use crate::model::count::ParameterCount;
use crate::model::parameters::parameters;
use serde::Serialize;
use serde_json::json;

/// Answers 1 where another command would refuse the weights.
pub(super) fn model(arguments: &InspectModel) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let checkpoint = Checkpoint::open(&model_folder(&arguments.path)?)?;
    let model = checkpoint.model();
    let expected: Vec<(String, Vec<i64>)> = parameters(model).into_iter().map(|p| (p.name, p.shape)).collect();
    let report = checkpoint.check(&expected);
    let tokens = match checkpoint.tokenizer_hint() {
        Some(hint) => {
            printer.note(hint);
            None
        }
        // The weights may be looked at whatever is wrong with the tokenizer.
        None => Tokenizer::open(checkpoint.dir()).and_then(|tokenizer| SpecialTokens::of(&tokenizer)).map_or_else(
            |error| {
                printer.warn(format!("{:#}", anyhow::Error::from(error)));
                None
            },
            Some,
        ),
    };
    let text = tokens.as_ref().map(SpecialTokens::text).unwrap_or_default();
    printer.data(format!("{}\n{text}{report}\n", shape_table(&[("model", model)])), || {
        json!({
            "path": arguments.path,
            "shape": shape_json(model),
            "parameters": ParameterCount::of(model),
            "total_parameters": ParameterCount::of(model).total(),
            "bos": tokens.as_ref().map(|tokens| &tokens.bos),
            "eos": tokens.as_ref().map(|tokens| &tokens.eos),
            "complete": report.is_complete(),
            "missing": report.missing.iter().map(|missing| &missing.name).collect::<Vec<_>>(),
            "unused": report.unused.iter().map(|unused| &unused.name).collect::<Vec<_>>(),
        })
    });
    Ok(if report.is_exact() { ExitStatus::Done } else { ExitStatus::CheckFailed })
}

/// The tokens that begin and end a text, as `generate` and `eval` use them.
struct SpecialTokens {
    bos: SpecialToken,
    eos: SpecialToken,
}

/// The ids of one role.
#[derive(Serialize)]
struct SpecialToken {
    ids: Vec<i64>,
    tokens: Vec<Option<String>>,
    /// Whether it is put around every text.
    added: bool,
}

impl SpecialTokens {
    fn of(tokenizer: &Tokenizer) -> crate::files::Result<SpecialTokens> {
        let (bos_added, eos_added) = tokenizer.adds_special_tokens()?;
        let role = |ids: Vec<i64>, added| SpecialToken {
            tokens: ids.iter().map(|id| tokenizer.token(*id)).collect(),
            ids,
            added,
        };
        Ok(SpecialTokens {
            bos: role(tokenizer.bos_id().into_iter().collect(), bos_added),
            eos: role(tokenizer.eos_ids().to_vec(), eos_added),
        })
    }

    fn text(&self) -> String {
        // Documents of training data end with EOS whatever the tokenizer does with a text.
        let line = |role: &str, token: &SpecialToken, place: &str, of_data: &str| {
            let named = token.ids.iter().zip(&token.tokens).map(|(id, token)| match token {
                Some(token) => format!("{id} {token:?}"),
                None => format!("{id} (not in tokenizer.json)"),
            });
            let named = named.collect::<Vec<_>>().join(", ");
            match (named.is_empty(), token.added) {
                (true, _) => format!("{role}: none\n"),
                (false, true) => format!("{role}: {named}, put {place} each text\n"),
                (false, false) => format!("{role}: {named}, not put {place} a text{of_data}\n"),
            }
        };
        let of_data = " (`data prepare` puts it after each document)";
        format!("{}{}\n", line("BOS", &self.bos, "before", ""), line("EOS", &self.eos, "after", of_data))
    }
}
