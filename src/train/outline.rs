//! A run as far as it can be known without its weights and without its data: shapes, masks, proportions. What `plan`
//! stands on. [`Setup`](super::Setup) is the whole of it and refuses at the first fault; an outline collects the faults.

use super::Error;
use super::decide::Intervals;
use super::loader_config::loader_config;
use super::references::{References, initial_proportions};
use super::setup::{
    Device, RandomFrame, check_data_fits, check_loads_elsewhere, check_rows_suffice, check_target_differs,
    loads_in_some_only, mixer_config, random_config, resolve_bounds,
};
use super::teacher::check_teacher;
use crate::config::{self, RunConfig, Stage, validate};
use crate::hf::{ModelConfig, RawConfig};
use crate::prune::shape;
use shearling_domains::manifest::MANIFEST_FILE;
use shearling_domains::{Dataset, Mixer};
use shearling_masks::MaskSpec;
use std::path::PathBuf;
use std::sync::Arc;

/// Tokens per row that are assumed where no data says it: the default of `data prepare`, unless the model takes fewer.
const ASSUMED_ROW_TOKENS: i64 = 4096;

/// What is known of a run before it has everything it needs.
#[derive(Debug)]
pub struct Outline {
    /// The configuration, references resolved.
    pub config: RunConfig,
    /// Which stage this is.
    pub stage: Stage,
    /// Where the run would be; it need not be here.
    pub device: Device,
    /// The model's config file.
    pub hf_config: RawConfig,
    /// Its meaning.
    pub model: ModelConfig,
    /// The teacher, if there is to be one and its shape is known.
    pub teacher: Option<ModelConfig>,
    /// Masks of a prune run whose target can be reached.
    pub spec: Option<MaskSpec>,
    /// The data, if it is there.
    pub dataset: Option<Arc<Dataset>>,
    /// Tokens per row: the data's, or assumed.
    pub row_tokens: i64,
    /// Domains with their first proportions: of the data, or as the configuration names them.
    pub domains: Vec<(String, f64)>,
    /// How the mix may move; `None` where that cannot be known yet.
    pub reach: Option<Reach>,
    /// What was found.
    pub findings: Findings,
}

/// How far the mixer may move the mix, whatever the losses are.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Updates in the run.
    pub updates: u64,
    /// Smallest and largest proportion that each domain can come to have.
    pub bounds: Vec<(f64, f64)>,
}

/// What an outline has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// For these the run would be refused.
    pub problems: Vec<String>,
    /// These may be mistakes.
    pub warnings: Vec<String>,
    /// These could not be looked at, with the reason.
    pub not_checked: Vec<String>,
    /// What the configuration names and is not there: a run here would be refused, one elsewhere may have it.
    pub absent: Vec<Absent>,
}

/// Something that a configuration names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The key.
    pub key: &'static str,
    /// What it names.
    pub path: PathBuf,
    /// What cannot be looked at without it.
    pub unknown: &'static str,
    /// How it comes to be there.
    pub remedy: &'static str,
}

impl Findings {
    /// Keeps what is right, notes what is wrong.
    fn keep<T, E: Into<Error>>(&mut self, result: Result<T, E>) -> Option<T> {
        match result.map_err(Into::into) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(&error);
                None
            }
        }
    }

    /// Notes why a run would be refused, each reason once.
    pub fn problem(&mut self, error: &Error) {
        let reasons = match error {
            Error::Config(config::Error::Invalid(reasons)) => reasons.clone(),
            other => vec![with_causes(other)],
        };
        for reason in reasons {
            if !self.problems.contains(&reason) {
                self.problems.push(reason);
            }
        }
    }
}

/// A message with what lies behind it, as the printer shows an error.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(&format!(": {said}"));
        }
        cause = error.source();
    }
    text
}

impl Outline {
    /// Of `config` on a model of `source`'s shape (`None` for `[model.random]`). `row_tokens` is the row length to
    /// assume where there is no data.
    ///
    /// # Errors
    /// Without a shape there is nothing to outline: a `config.json` that is not understood, or no vocabulary for a new
    /// model.
    pub fn new(
        mut config: RunConfig,
        stage: Stage,
        device: Device,
        source: Option<RawConfig>,
        row_tokens: Option<i64>,
    ) -> Result<Outline, Error> {
        let mut findings = Findings::default();
        findings.keep(validate(&config, stage));
        let dataset = open_data(&config, &mut findings);
        let hf_config = match source {
            Some(found) => found,
            None => new_model(&config, dataset.as_deref(), row_tokens)?,
        };
        let model = hf_config.model()?;
        let spec = mask_spec(&config, stage, &model, &mut findings);
        let written = spec.as_ref().map(|spec| shape::resized(&model, spec.target()));
        findings.keep(check_loads_elsewhere(written.as_ref().unwrap_or(&model)));
        findings.warnings.extend(loads_in_some_only(written.as_ref().unwrap_or(&model)));
        if let Some(dataset) = &dataset {
            findings.keep(check_data_fits(dataset, &model));
        }
        let teacher = teacher(&config, &model, &mut findings);
        resolve_bounds(&mut config.mixer);
        let (domains, reach) = mix(&mut config, dataset.as_deref(), &mut findings);
        let row_tokens = match &dataset {
            Some(dataset) => dataset.sequence_length() as i64,
            None => row_tokens.unwrap_or(ASSUMED_ROW_TOKENS).min(model.max_position_embeddings),
        };
        if let Some(teacher) = &teacher {
            findings.keep(check_teacher(teacher, &model, row_tokens));
        }
        Ok(Outline {
            config,
            stage,
            device,
            hf_config,
            model,
            teacher,
            spec,
            dataset,
            row_tokens,
            domains,
            reach,
            findings,
        })
    }

    /// The model that a prune run writes.
    pub fn target(&self) -> Option<ModelConfig> {
        self.spec.as_ref().map(|spec| shape::resized(&self.model, spec.target()))
    }
}

/// The shape of the teacher: the model's own where that is the one to prune, else of the folder that is named.
fn teacher(config: &RunConfig, model: &ModelConfig, findings: &mut Findings) -> Option<ModelConfig> {
    let folder = config.teacher()?;
    if Some(folder) == config.model.source.as_ref() {
        return Some(model.clone());
    }
    let path = folder.join(RawConfig::FILE_NAME);
    if !path.exists() {
        let (unknown, remedy) = ("the teacher, its memory and its FLOPs", "a Hugging Face folder is expected there");
        findings.absent.push(Absent { key: "distill.teacher", path, unknown, remedy });
        return None;
    }
    findings.keep(RawConfig::read(&path).and_then(|config| config.model()))
}

fn open_data(config: &RunConfig, findings: &mut Findings) -> Option<Arc<Dataset>> {
    let path = &config.data.path;
    if !path.exists() {
        findings.absent.push(Absent {
            key: "data.path",
            path: path.clone(),
            unknown: "vocabulary, rows and domains",
            remedy: "`shearling data prepare --out` writes such a folder",
        });
        return None;
    }
    if path.is_dir() && !path.join(MANIFEST_FILE).exists() {
        let shown = path.display();
        findings.problems.push(format!(
            "data.path: {shown} is not prepared data (it has no {MANIFEST_FILE}): expected a folder written by `shearling data \
             prepare --from {shown} --out DIR`"
        ));
        return None;
    }
    findings.keep(Dataset::open(path)).map(Arc::new)
}

/// The shape of `[model.random]`.
fn new_model(config: &RunConfig, dataset: Option<&Dataset>, row_tokens: Option<i64>) -> Result<RawConfig, Error> {
    let missing = |what: &str| Error::Mismatch(what.to_string());
    let random = config.model.random.as_ref().ok_or_else(|| missing("[model] names neither source nor random"))?;
    let frame = match (dataset, random.vocab_size) {
        (Some(dataset), _) => RandomFrame::of(dataset),
        (None, Some(vocab_size)) => {
            let sequence_length = row_tokens.unwrap_or(ASSUMED_ROW_TOKENS);
            RandomFrame { vocab_size, sequence_length, bos_token_id: None, eos_token_id: None }
        }
        (None, None) => {
            return Err(missing(
                "the vocabulary of a new model is that of its data, which is not there yet; prepare the data, or give \
                 model.random.vocab_size",
            ));
        }
    };
    random_config(random, frame)
}

fn mask_spec(config: &RunConfig, stage: Stage, model: &ModelConfig, findings: &mut Findings) -> Option<MaskSpec> {
    let target = config.target.as_ref().filter(|_| stage == Stage::Prune)?;
    // Of these the refusal of the masks names the first.
    shape::unreachable(model, target).into_iter().for_each(|error| findings.problem(&error.into()));
    let spec = findings.keep(shape::mask_spec(model, target))?;
    findings.keep(check_target_differs(&spec));
    Some(spec)
}

/// Domains with their first proportions, and how far they may move; checks the mixer's part of the configuration.
fn mix(
    config: &mut RunConfig,
    dataset: Option<&Dataset>,
    findings: &mut Findings,
) -> (Vec<(String, f64)>, Option<Reach>) {
    let Some(dataset) = dataset else {
        // Measured with the data, so it may not be here either.
        if let Some(file) = config.mixer.reference_file.as_ref().filter(|file| !file.exists()) {
            findings.absent.push(Absent {
                key: "mixer.reference_file",
                path: file.clone(),
                unknown: "reference losses",
                remedy: "`shearling eval MODEL --data DIR --write-reference FILE` measures them",
            });
        }
        let named = config.mixer.proportions.iter().flatten().map(|(name, share)| (name.clone(), *share));
        return (named.collect(), None);
    };
    let names = dataset.domain_names();
    let references = findings.keep(References::of(&mut config.mixer, names));
    let Some(shares) = findings.keep(initial_proportions(&config.mixer, names)) else { return (Vec::new(), None) };
    let mixer = references.and_then(|references| {
        let of_other_rows = references.of_other_rows(dataset, &config.eval);
        findings.warnings.extend([references.warning, references.noise, of_other_rows].into_iter().flatten());
        let losses = references.losses.unwrap_or_default();
        findings.keep(Mixer::new(mixer_config(&config.mixer), &shares, &losses))
    });
    let updates = Intervals::new(config, None).mixer_updates();
    let reach = mixer.map(|mixer| Reach { updates, bounds: mixer.reach(updates) });
    // None at all is told with its key by `validate`.
    if config.draws().1 > 0 {
        findings.keep(loader_config(config).validate());
    }
    findings.keep(check_rows_suffice(config, &shares, dataset));
    (names.iter().cloned().zip(shares).collect(), reach)
}
