//! A folder that is evaluated: opened and checked first, loaded only when it is its turn.

use super::questions::Questions;
use crate::cli::progress::Progress;
use crate::commands::model_folder::model_folder;
use crate::eval::multiple_choice::Answering;
use crate::eval::report::ModelResult;
use crate::eval::{EvalRows, RowLosses, row_losses};
use crate::hf::{Checkpoint, Tokenizer};
use crate::lte::install::install;
use crate::lte::pack::is_packed;
use crate::lte::{Experts, file};
use crate::model::count::ParameterCount;
use crate::model::{Decoder, ForwardContext, ModelGates};
use crate::prune::convert::require_complete;
use crate::train::setup::{check_data_fits, other_tokenizer};
use anyhow::Context;
use shearling_domains::Dataset;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// A folder with all that its evaluation needs; its weights are still in their files.
pub(super) struct Subject {
    name: String,
    checkpoint: Checkpoint,
    /// Only where there are questions.
    tokenizer: Option<Tokenizer>,
    /// Of a folder that runs only some experts.
    experts: Option<Experts>,
}

/// Opens all folders, or tells what is wrong with every one that cannot be evaluated.
pub(super) fn open_all(
    paths: &[PathBuf],
    dataset: Option<&Dataset>,
    with_tokenizer: bool,
) -> anyhow::Result<Vec<Subject>> {
    let (mut subjects, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match Subject::open(path, dataset, with_tokenizer) {
            Ok(subject) => subjects.push(subject),
            Err(error) => problems.push(error),
        }
    }
    match problems.len() {
        0 => Ok(subjects),
        1 => Err(problems.remove(0)),
        count => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  - {problem:#}")).collect();
            anyhow::bail!("{count} of {} models cannot be evaluated:{}", paths.len(), lines.concat())
        }
    }
}

impl Subject {
    /// Opens a folder and checks that it is whole and goes with the data.
    pub(super) fn open(path: &Path, dataset: Option<&Dataset>, with_tokenizer: bool) -> anyhow::Result<Subject> {
        let open = || -> anyhow::Result<Subject> {
            if is_packed(path) {
                anyhow::bail!(
                    "it is a packed folder, which generate and bench latency take: give the folder that lte pack was given, \
                     which computes the same"
                );
            }
            let path = &model_folder(path)?;
            let checkpoint = Checkpoint::open(path)?;
            require_complete(&checkpoint, checkpoint.model())?;
            if let Some(dataset) = dataset {
                check_data_fits(dataset, checkpoint.model())?;
            }
            let tokenizer = with_tokenizer.then(|| Tokenizer::open(path)).transpose()?;
            // Reads all weights, which takes seconds where the evaluation takes minutes: a damaged second model must not
            // cost the evaluation of the first.
            checkpoint.require_finite()?;
            let experts = file::read(path, checkpoint.model(), Device::Cpu)?;
            Ok(Subject { name: path.display().to_string(), checkpoint, tokenizer, experts })
        };
        open().with_context(|| format!("cannot evaluate {}", path.display()))
    }

    /// What may be wrong with it, but is not for certain.
    pub(super) fn warning(&self, dataset: Option<&Dataset>) -> Option<String> {
        other_tokenizer(dataset?, self.checkpoint.dir())
    }

    /// What a reader of its losses should know.
    pub(super) fn note(&self) -> Option<String> {
        let experts = self.experts.as_ref().filter(|experts| experts.routed_layers() > 0)?;
        let layers = experts.routed_layers();
        Some(format!("{} has routers in {layers} layers: only the experts run that they choose", self.name))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn parameters(&self) -> i64 {
        ParameterCount::of(self.checkpoint.model()).total()
    }

    pub(super) fn decoder(&self, compute: Kind, device: Device) -> anyhow::Result<Decoder> {
        let mut decoder = self.dense_decoder(compute, device)?;
        if let Some(experts) = &self.experts {
            install(&experts.to_device(device)?, &mut decoder, &[]);
        }
        Ok(decoder)
    }

    /// Without its routers, if it has any.
    pub(super) fn dense_decoder(&self, compute: Kind, device: Device) -> anyhow::Result<Decoder> {
        let weight = &mut |name: &str| self.checkpoint.finite_tensor(name, compute, device);
        let decoder = Decoder::build(self.checkpoint.model(), weight)?;
        self.checkpoint.release();
        Ok(decoder)
    }

    /// Losses on `rows` of `dataset`, with progress on stderr.
    pub(super) fn row_losses(
        &self,
        decoder: &Decoder,
        dataset: &Dataset,
        rows: &[EvalRows],
        micro_batch: usize,
        device: Device,
    ) -> anyhow::Result<Vec<RowLosses>> {
        let context = ForwardContext::new(decoder.model(), dataset.sequence_length() as i64, device)?;
        let mut progress = Progress::default();
        let mut show = |domain: &str, done: usize, of: usize| {
            progress.show(|| format!("{}: {done} of {of} rows ({domain})", self.name));
        };
        Ok(row_losses(decoder, &context, &ModelGates::none(), rows, micro_batch, &mut show)?)
    }

    /// All that is asked, with progress on stderr.
    pub(super) fn evaluate(&self, questions: &Questions) -> anyhow::Result<ModelResult> {
        let Questions { rows, micro_batch, device, .. } = questions;
        let decoder = self.decoder(questions.compute, *device)?;
        let domains = match &questions.dataset {
            Some(dataset) => self.row_losses(&decoder, dataset, rows, *micro_batch, *device)?,
            None => Vec::new(),
        };
        let mut answers = Vec::new();
        if let Some(tokenizer) = &self.tokenizer {
            let model = Answering { decoder: &decoder, tokenizer, device: *device, batch: *micro_batch };
            let mut progress = Progress::default();
            for task in &questions.tasks {
                let mut show = |done: usize, all: usize| {
                    progress.show(|| format!("{}: {}, {done} of {all} choices scored", self.name, task.name));
                };
                let found = model.answers(task, &mut show);
                answers.push(found.with_context(|| format!("cannot ask {} about {}", self.name, task.name))?);
            }
        }
        Ok(ModelResult { model: self.name.clone(), parameters: self.parameters(), domains, answers })
    }
}
