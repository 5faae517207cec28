//! What `bench` runs on: a run's own configuration, or a shape by name with generated text and random weights.

use super::shapes::{NamedShape, SHAPES};
use crate::cli::arguments::{BenchStep, Switch};
use crate::commands::execute::use_threads;
use crate::commands::run::load;
use crate::config::{PruneMethod, RunConfig, Stage, parse};
use crate::files::DType;
use crate::model::Parameter;
use crate::model::parameters::parameters;
use crate::prune::shape::mask_spec;
use crate::train::setup::Device;
use crate::train::{Error, Setup, Trainer};
use anyhow::Context;
use shearling_domains::{PrepareConfig, Silent, TokenizerSource, prepare, synthetic};
use shearling_staging::StagedFolder;
use std::path::Path;
use tch::{Kind, TchError, Tensor};

/// Steps over which `bench step` warms up the learning rate of a named shape. AdamW's first updates move every weight by the
/// whole rate, all the same way: at its peak at once they overshoot, and a loss that then rises says nothing.
const RATE_WARMUP_STEPS: u64 = 10;

/// A set-up that trains, and the generated data it reads.
pub(super) struct Subject {
    pub(super) setup: Setup,
    /// Whether every step is taken on the same rows, under a warm-up: then the loss has to fall.
    pub(super) repeats_rows: bool,
    /// Removed when the bench is over.
    _data: Option<StagedFolder>,
}

impl Subject {
    /// As the command line asks.
    pub(super) fn new(arguments: &BenchStep, device: Device) -> anyhow::Result<Subject> {
        if arguments.config.config.is_some() {
            return Ok(Subject { setup: configured(arguments, device)?, repeats_rows: false, _data: None });
        }
        let shape = NamedShape::named(&arguments.shape).with_context(|| {
            let names = SHAPES.map(|shape| shape.name).join(", ");
            format!("--shape {:?} is not known; there are {names}", arguments.shape)
        })?;
        let tokens = arguments.tokens.map_or(shape.tokens, Into::into);
        let config = step_config(arguments, &shape)?;
        let subject = Subject::generated(shape, config, tokens, arguments.masks == Switch::On, device)?;
        Ok(Subject { repeats_rows: true, ..subject })
    }

    /// The smallest shape with masks in fp32.
    pub(super) fn tiny(device: Device) -> anyhow::Result<Subject> {
        let shape = SHAPES[0];
        let mut config = blank_config()?;
        config.model.random = Some(shape.model());
        config.train.batch_rows = shape.rows;
        Subject::generated(shape, config, shape.tokens, true, device)
    }

    /// A shape with one row a step, and what is set besides.
    pub(super) fn counted(shape: NamedShape, masks: bool, set: impl FnOnce(&mut RunConfig)) -> anyhow::Result<Subject> {
        let mut config = blank_config()?;
        config.model.random = Some(shape.model());
        config.train.batch_rows = shape.rows;
        set(&mut config);
        Subject::generated(shape, config, shape.tokens, masks, Device::Cpu)
    }

    fn generated(
        shape: NamedShape,
        mut config: RunConfig,
        tokens: usize,
        masks: bool,
        device: Device,
    ) -> anyhow::Result<Subject> {
        let folder = StagedFolder::scratch("shearling-bench").context("cannot make a folder for generated data")?;
        config.data.path = folder.path().join("data");
        generate_data(folder.path(), &config.data.path, tokens)?;
        let mut setup = Setup::new(config, Stage::Pretrain, device)?;
        if masks {
            let target = shape.target();
            setup.spec = Some(mask_spec(&setup.model, &target)?);
            setup.config.target = Some(target);
            setup.config.prune.method = Some(PruneMethod::Learned);
        }
        Ok(Subject { setup, repeats_rows: false, _data: Some(folder) })
    }

    /// A trainer at its start.
    pub(super) fn trainer(&self) -> Result<Trainer, Error> {
        match self.setup.source {
            Some(_) => Trainer::new(&self.setup),
            None => Trainer::with_weights(&self.setup, self.normal_weights(self.setup.device)?),
        }
    }

    /// Random weights made where they are used: a benchmark needs no particular ones.
    pub(super) fn normal_weights(&self, device: Device) -> Result<Vec<(String, Tensor)>, TchError> {
        tch::manual_seed(0);
        let std = self.setup.model.initializer_range;
        let weight = |parameter: Parameter| {
            let (shape, options) = (&parameter.shape[..], (Kind::Float, device));
            let weight = match parameter.role.is_norm() {
                true => Tensor::f_ones(shape, options)?,
                false => Tensor::f_empty(shape, options)?.f_normal_(0.0, std)?,
            };
            Ok((parameter.name, weight))
        };
        parameters(&self.setup.model).into_iter().map(weight).collect()
    }
}

/// The set-up of a run's own configuration.
fn configured(arguments: &BenchStep, device: Device) -> anyhow::Result<Setup> {
    let mut config = load(&arguments.config)?;
    config.run.threads = arguments.threads.threads.or(config.run.threads);
    use_threads(&config);
    let stage = if config.target.is_some() { Stage::Prune } else { Stage::Pretrain };
    if config.cuts_at_once() {
        anyhow::bail!(
            "prune.method = \"{}\" takes no step, there is nothing to time; give the configuration that continues, or prune.method = \"learned\"",
            config.prune.method().name()
        );
    }
    Ok(Setup::new(config, stage, device)?)
}

fn step_config(arguments: &BenchStep, shape: &NamedShape) -> anyhow::Result<RunConfig> {
    let mut config = blank_config()?;
    config.run.dtype = DType::from(arguments.dtype).into();
    config.model.random = Some(shape.model());
    let train = &mut config.train;
    train.batch_rows = arguments.rows.map_or(shape.rows, Into::into);
    train.micro_batch_rows = arguments.micro_rows.map(|rows| rows.get().into());
    train.activation_checkpointing = arguments.activation_checkpointing;
    train.selective_recomputation = arguments.selective_recomputation;
    train.moments = arguments.moments.into();
    train.moments_on_host = arguments.moments_on_host;
    train.warmup_steps = RATE_WARMUP_STEPS;
    // Nothing is read ahead that is not drawn.
    config.data.prefetch = 0;
    Ok(config)
}

/// Far more steps and epochs than are taken: the schedule never ends and the data never runs out.
fn blank_config() -> anyhow::Result<RunConfig> {
    let text = "[run]\ndirectory = 'bench'\n[model]\n[data]\npath = ''\nmax_epochs = 1e9\n\
                [train]\nsteps = 1000000\nbatch_rows = 1\nlearning_rate = 1e-4\n[eval]\nrows_per_domain = 1\n";
    Ok(parse(text, "bench", &[])?)
}

/// A few hundred thousand tokens; their number does not matter to the time of a step.
fn generate_data(folder: &Path, data: &Path, tokens: usize) -> anyhow::Result<()> {
    let bytes_per_domain = (64 * tokens as u64).max(200_000);
    let domains = synthetic::write_domains(&folder.join("text"), bytes_per_domain, 0)?;
    let config = PrepareConfig::new(domains, data, TokenizerSource::Train(1024), tokens);
    prepare(&config, &Silent)?;
    Ok(())
}
