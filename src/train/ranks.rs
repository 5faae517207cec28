//! That the ranks of a run are one run: what must be the same is compared before anything is loaded, what was loaded is made
//! the same, and at every evaluation it is checked that it has stayed so.
//!
//! | when | compared |
//! |---|---|
//! | before loading | version and size of the program, command, configuration, data, names and sizes of weight files |
//! | after loading | norms of weights, masks and routers, to rounding; then all take those of rank 0 |
//! | at evaluations | counters, place in the data, state of the mixer, norms: to the bit |

use super::Error;
use super::setup::Setup;
use super::trainer::Trainer;
use crate::config;
use crate::dist::Error as RankError;
use crate::hf::Checkpoint;
use crate::native::ops::gradient_norm::squared_norm_reference;
use serde_json::json;
use tch::{TchError, Tensor};

/// How far norms may differ after loading: another machine may round a rotation of the weights otherwise.
const ROUNDING: f64 = 1e-6;

/// Refuses ranks that were not given the same.
pub(super) fn check_same(setup: &Setup) -> Result<(), Error> {
    if setup.world.is_alone() {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::metadata).map_or(0, |program| program.len());
    let mut config = setup.config.clone();
    // These may suit each machine.
    (config.run.device, config.run.threads) = (String::new(), None);
    let fields = [
        ("program", format!("shearling {}, {program} bytes", env!("CARGO_PKG_VERSION"))),
        ("command", setup.stage.command().to_string()),
        ("configuration", config::resolved_toml(&config)?),
        ("data (data.path)", setup.dataset.fingerprint().to_string()),
        ("model (model.source)", setup.source.as_ref().map_or(Ok(String::new()), files_of)?),
        ("teacher (distill.teacher)", setup.teacher.as_ref().map_or(Ok(String::new()), files_of)?),
    ];
    Ok(setup.world.same(&fields, "All ranks of a run need the same program, command, configuration and files")?)
}

/// What a model's folder has: its configuration, and names and sizes of its weight files.
fn files_of(model: &Checkpoint) -> Result<String, Error> {
    let mut lines = vec![model.config().to_json().to_string()];
    for path in model.weight_files() {
        let found = std::fs::metadata(path);
        let found = found.map_err(|source| Error::Io { action: "look at", path: path.to_path_buf(), source })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        lines.push(format!("{name}: {} bytes", found.len()));
    }
    lines.sort();
    Ok(lines.join("\n"))
}

impl Trainer {
    /// All ranks take weights, masks and routers of rank 0, from which theirs must not differ by more than rounding.
    pub(super) fn agree_on_start(&mut self) -> Result<(), Error> {
        let world = self.exchange.world.clone();
        if world.is_alone() {
            return Ok(());
        }
        self.check_replicas(false)?;
        let mut own = self.squared_sizes()?;
        own.push(frozen_size(self)?);
        own.extend(self.weights.shards.as_ref().map(|shards| shards.loaded_squares));
        let all = world.numbers(&own)?;
        let near = |a: f64, b: f64| a == b || (a - b).abs() <= ROUNDING * a.abs().max(b.abs());
        let same = |there: &Vec<f64>| all[0].iter().zip(there).all(|(a, b)| near(*a, *b));
        if let Some(rank) = all.iter().position(|there| !same(there)) {
            return Err(RankError::Differs {
                what: "model (squared norms of weights, masks, routers)".to_string(),
                rank,
                here: format!("{:?}", all[0]),
                there: format!("{:?}", all[rank]),
                remedy: "Compare the weight files of model.source, or of the checkpoint, on both machines",
            }
            .into());
        }
        let _no_grad = tch::no_grad_guard();
        let frozen: Vec<Tensor> = self.weights.frozen().map(Tensor::shallow_clone).collect();
        for weight in &frozen {
            world.broadcast(weight)?;
        }
        // Sharded weights were taken from rank 0 as they were loaded.
        let sharded = usize::from(self.weights.shards.is_some());
        for slot in self.groups().skip(sharded).flat_map(|group| group.slots_mut()) {
            let master = slot.master()?;
            world.broadcast(&master)?;
            slot.set_master(&master)?;
        }
        Ok(())
    }

    /// Checks that all ranks stand at the same place; with `tensors` also that what they train has the same bits.
    pub(super) fn check_replicas(&mut self, tensors: bool) -> Result<(), Error> {
        let world = self.exchange.world.clone();
        if world.is_alone() {
            return Ok(());
        }
        let counters = &self.counters;
        let counted = json!([counters.step, counters.tokens, counters.domain_rows, counters.skipped, counters.best]);
        let mut fields = vec![
            ("step", counters.step.to_string()),
            ("counters", counted.to_string()),
            ("mix", json!(self.mixer.state()).to_string()),
            ("place in the data", json!(self.loader.state()).to_string()),
        ];
        if tensors {
            let sizes = self.squared_sizes()?;
            fields.push(("model (squared norms of weights, masks, routers)", format!("{sizes:?}")));
        }
        Ok(world.same(&fields, "The ranks have drifted apart, which is a fault of the program or of a machine")?)
    }

    /// Squared norms of all that is trained, by group.
    fn squared_sizes(&mut self) -> Result<Vec<f64>, Error> {
        let device = self.device;
        let sizes = self.groups().map(|group| group.squared_size()?.f_to_device(device));
        let sizes = sizes.collect::<Result<Vec<_>, TchError>>()?;
        if let Some(shards) = &self.weights.shards {
            shards.sum(&sizes[0])?;
        }
        Ok(sizes.iter().map(|size| size.f_double_value(&[])).collect::<Result<_, _>>()?)
    }
}

fn frozen_size(trainer: &Trainer) -> Result<f64, TchError> {
    let mut sum = 0.0;
    for weight in trainer.weights.frozen() {
        sum += squared_norm_reference(&[weight.shallow_clone()])?.f_double_value(&[])?;
    }
    Ok(sum)
}
