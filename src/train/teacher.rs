//! The frozen model that a run learns from beside its text (`[distill]`): what it must be like, and its part of a step.
//!
//! ```text
//! setup opens its folder ─► Teacher::load, once, in distill.dtype ─► per micro-batch, before the model's own forward:
//!   ids [B, T] ─► its normed stream [B, T, D'] ─► the loss takes it to logits with its head, a few rows at a time
//! ```
//!
//! It has no gates, no gradients and no noise: the same rows give the same predictions, in a resumed run too. So that this
//! holds, a checkpoint names the teacher by the hash of what is in its folder.

use super::Error;
use super::weight_stream::decoder_over;
use crate::eval::{Deal, EvalRows, RowLosses, dealt_row_losses};
use crate::files::{sha256_of_file, sha256_of_text};
use crate::hf::{Checkpoint, ModelConfig};
use crate::lte::{self, install::install};
use crate::model::count::forward_flops_per_token;
use crate::model::loss::{Blend, TeacherHead};
use crate::model::parameters::parameters;
use crate::model::{Decoder, ForwardContext, ModelGates};
use tch::{Device, Kind, TchError, Tensor};

/// A teacher on the device of a run.
#[derive(Debug)]
pub(super) struct Teacher {
    decoder: Decoder,
    context: ForwardContext,
    row_tokens: i64,
    /// How its predictions are weighed against the text.
    pub(super) blend: Blend,
    /// The hash of its configuration and weights.
    pub(super) fingerprint: String,
}

impl Teacher {
    /// Takes the weights of `source` to `device` in `kind`, for rows of `tokens`.
    ///
    /// # Errors
    /// A file that cannot be read, or a weight that is not a finite number.
    pub(super) fn load(
        source: &Checkpoint,
        kind: Kind,
        blend: Blend,
        tokens: i64,
        device: Device,
    ) -> Result<Teacher, Error> {
        let _no_grad = tch::no_grad_guard();
        let fingerprint = fingerprint(source)?;
        let load = |name: String| source.finite_tensor(&name, kind, device).map(|weight| (name, weight));
        let weights: Vec<(String, Tensor)> =
            parameters(source.model()).into_iter().map(|p| load(p.name)).collect::<Result<_, _>>()?;
        source.release();
        let named = weights.iter().map(|(name, weight)| (name.as_str(), weight.shallow_clone()));
        let mut decoder = decoder_over(source.model(), named)?;
        // Of a folder with routers the model is what they let run.
        if let Some(experts) = lte::file::read(source.dir(), source.model(), device)? {
            install(&experts, &mut decoder, &[]);
        }
        let context = ForwardContext::new(source.model(), tokens, device)?;
        Ok(Teacher { decoder, context, row_tokens: tokens, blend, fingerprint })
    }

    /// The masked model without its gates, whose weights are frozen: `decoder` is over the same tensors. `source` is where
    /// they came from.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn sharing(
        source: &Checkpoint,
        decoder: Decoder,
        blend: Blend,
        tokens: i64,
        device: Device,
    ) -> Result<Teacher, Error> {
        let context = ForwardContext::new(source.model(), tokens, device)?;
        Ok(Teacher { decoder, context, row_tokens: tokens, blend, fingerprint: fingerprint(source)? })
    }

    /// Its normed residual stream `[B, T, D']` of `ids [B, T]`, without a graph.
    pub(super) fn stream(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        let _no_grad = tch::no_grad_guard();
        self.decoder.normed_stream(ids, &self.context, &ModelGates::none())
    }

    /// Its side of the loss, from its normed stream.
    pub(super) fn head<'a>(&'a self, stream: &'a Tensor) -> TeacherHead<'a> {
        self.decoder.as_teacher(stream)
    }

    /// What it loses itself on held-out rows, in the micro-batches of `deal`: how good a model the run learns from.
    pub(super) fn held_out_losses(
        &self,
        rows: &[EvalRows],
        micro_batch: usize,
        deal: Deal,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<RowLosses>, TchError> {
        let (none, mut show) = (ModelGates::none(), |_: &str, done: usize, of: usize| progress(done, of));
        dealt_row_losses(&self.decoder, &self.context, &none, rows, micro_batch, deal, &mut show)
    }

    /// FLOPs that it takes for a token: it goes forward only.
    pub(super) fn flops_per_token(&self) -> f64 {
        forward_flops_per_token(self.decoder.model(), self.row_tokens)
    }

    /// Refuses to resume with a teacher that differs from the one in the checkpoint, whose fingerprint is `saved`.
    pub(super) fn require_same(&self, saved: Option<&str>) -> Result<(), Error> {
        if saved == Some(self.fingerprint.as_str()) {
            return Ok(());
        }
        Err(Error::Mismatch(
            "distill.teacher holds another configuration or other weights than when this run began; put the old files \
             back (they may be elsewhere: give the folder as distill.teacher), or start a new run"
                .to_string(),
        ))
    }
}

/// Refuses a teacher whose predictions cannot be compared with the model's, token by token.
///
/// # Errors
/// Another vocabulary, or rows that are longer than it takes.
pub(super) fn check_teacher(teacher: &ModelConfig, model: &ModelConfig, row_tokens: i64) -> Result<(), Error> {
    if teacher.vocab_size != model.vocab_size {
        return Err(Error::Mismatch(format!(
            "the teacher has a vocabulary of {}, the model one of {} (vocab_size): their predictions cannot be compared \
             token by token; give as distill.teacher a model with the same tokenizer and vocabulary, such as the model that \
             this one was cut from",
            teacher.vocab_size, model.vocab_size
        )));
    }
    if row_tokens > teacher.max_position_embeddings {
        return Err(Error::Mismatch(format!(
            "the data has rows of {row_tokens} tokens, the teacher takes at most {} (max_position_embeddings); prepare \
             the data with a shorter --sequence-length, or give another distill.teacher",
            teacher.max_position_embeddings
        )));
    }
    Ok(())
}

/// The hash of what makes a model what it is: its configuration and its weight files, wherever they lie.
fn fingerprint(source: &Checkpoint) -> Result<String, Error> {
    let mut files: Vec<_> = source.weight_files().collect();
    files.sort();
    let hashes = files.into_iter().map(sha256_of_file).collect::<Result<Vec<_>, _>>()?;
    Ok(sha256_of_text(&format!("{}\n{}", source.config().to_json(), hashes.join("\n"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_of_another_vocabulary_or_of_short_rows_is_refused() {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        let model = crate::hf::RawConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap();
        check_teacher(&model, &model, 4096).unwrap();
        let other = ModelConfig { vocab_size: 32_001, ..model.clone() };
        let message = check_teacher(&other, &model, 4096).unwrap_err().to_string();
        assert!(message.contains("vocabulary of 32001, the model one of 32000"), "{message}");
        let message = check_teacher(&model, &model, 4097).unwrap_err().to_string();
        assert!(message.contains("rows of 4097 tokens, the teacher takes at most 4096"), "{message}");
    }
}
