//! Asks one model the questions of a task.
//!
//! All choices of all questions are sorted by length, longest first, so that a batch has little padding and memory runs
//! out at once or never. Padding is on the right, where a causal model does not see it. Only the positions before a
//! target get logits.

use super::accuracy::ScoredQuestion;
use super::file::{Question, Task};
use super::request::{Encoder, Request, Unfit};
use crate::eval::{Error, Result};
use crate::hf::Tokenizer;
use crate::model::{Decoder, ForwardContext, ModelGates};
use tch::{Device, Kind, TchError, Tensor};

/// A model that answers.
#[derive(Debug)]
pub struct Answering<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Where the model is.
    pub device: Device,
    /// Choices in one forward.
    pub batch: usize,
}

impl Answering<'_> {
    /// Answers every question, telling `progress` how many of how many choices are scored.
    ///
    /// # Errors
    /// A choice that the tokenizer or the model cannot take, and a model whose log-likelihoods are not finite.
    pub fn answers(&self, task: &Task, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<ScoredQuestion>> {
        let model = self.decoder.model();
        let encoder = Encoder::new(self.tokenizer, model.max_position_embeddings, model.vocab_size)?;
        let mut requests = Vec::new();
        for question in &task.questions {
            for (index, choice) in question.choices.iter().enumerate() {
                let request = encoder.request(&question.context, &format!(" {choice}"));
                requests.push(request.map_err(|unfit| unfit_choice(task, question, index, unfit))?);
            }
        }
        let scores = self.log_likelihoods(&requests, progress)?;
        let mut scores = scores.into_iter();
        let answer = |question: &Question| {
            let scores: Vec<f64> = scores.by_ref().take(question.choices.len()).collect();
            match scores.iter().all(|score| score.is_finite()) {
                true => Ok(ScoredQuestion::new(question, scores)),
                false => {
                    let reason = "its weights are damaged, or too large for this kind of computation";
                    Err(at(task, question, format!("the model's log-likelihoods are {scores:?}: {reason}")))
                }
            }
        };
        task.questions.iter().map(answer).collect()
    }

    fn log_likelihoods(&self, requests: &[Request], progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<f64>> {
        let _no_grad = tch::no_grad_guard();
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(requests[index].ids.len()));
        let longest = requests.iter().map(|request| request.ids.len()).max().unwrap_or(0);
        let context = ForwardContext::new(self.decoder.model(), longest as i64, self.device)?;
        let mut scores = vec![0.0; requests.len()];
        for (done, batch) in order.chunks(self.batch.max(1)).enumerate() {
            progress(done * self.batch.max(1), requests.len());
            let chosen: Vec<&Request> = batch.iter().map(|&index| &requests[index]).collect();
            for (&index, score) in batch.iter().zip(self.batch_scores(&chosen, &context)?) {
                scores[index] = score;
            }
        }
        Ok(scores)
    }

    /// The sums over each request's targets, longest request first.
    fn batch_scores(&self, requests: &[&Request], context: &ForwardContext) -> Result<Vec<f64>, TchError> {
        let width = requests.iter().map(|request| request.ids.len()).max().unwrap_or(1).saturating_sub(1);
        let mut input = Vec::with_capacity(requests.len() * width);
        let (mut positions, mut targets) = (Vec::new(), Vec::new());
        for (row, Request { ids, targets: count }) in requests.iter().enumerate() {
            let Some((_, read)) = ids.split_last() else { continue };
            input.extend_from_slice(read);
            input.resize((row + 1) * width, 0);
            let first = ids.len() - count;
            positions.extend((first - 1..read.len()).map(|position| (row * width + position) as i64));
            targets.extend_from_slice(&ids[first..]);
        }
        let on_device = |ids: &[i64]| Tensor::f_from_slice(ids)?.f_to_device(self.device);
        let input = on_device(&input)?.f_view([requests.len() as i64, width as i64])?;
        let gates = ModelGates::none();
        let x = self.decoder.residual_stream(&input, context, &gates)?;
        let losses = self.decoder.target_losses(&x, &on_device(&positions)?, &on_device(&targets)?, &gates)?;
        let losses: Vec<f64> = Vec::try_from(losses.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?;
        let mut losses = losses.into_iter();
        Ok(requests.iter().map(|request| -losses.by_ref().take(request.targets).sum::<f64>()).collect())
    }
}

fn unfit_choice(task: &Task, question: &Question, index: usize, unfit: Unfit) -> Error {
    match unfit {
        Unfit::Tokenizer(error) => Error::Checkpoint(error),
        Unfit::Text(problem) => at(task, question, format!("choice {index}: {problem}")),
    }
}

fn at(task: &Task, question: &Question, problem: String) -> Error {
    Error::Question { path: task.path.clone(), line: question.line, problem }
}
