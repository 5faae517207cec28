//! The JSON in the metadata of `lte.safetensors`: everything that is no tensor, and whether it can be.

use super::super::experts::{Experts, Grouping, Stage};
use crate::files::{Error, Result};
use crate::hf::ModelConfig;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version that is written, and the only one that is read.
const FORMAT_VERSION: u64 = 1;
/// The key of the JSON in the header.
pub(super) const METADATA_KEY: &str = "shearling_lte";

/// What the metadata holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    version: u64,
    pub(super) expert_size: i64,
    pub(super) living_units: i64,
    pub(super) grouping: Grouping,
    pub(super) seed: u64,
    pub(super) stage: Stage,
    pub(super) density: Option<f64>,
    pub(super) layers: Vec<LayerDescription>,
}

/// What it holds of a layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerDescription {
    pub(super) inertia: Option<f64>,
    pub(super) density: Option<f64>,
    /// `None`: the layer is dense.
    pub(super) router: Option<RouterDescription>,
}

/// What it holds of a router.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterDescription {
    /// Whether it has a bias.
    pub(super) bias: bool,
}

/// Read first: a later format may have other fields.
#[derive(Deserialize)]
struct FormatVersion {
    version: u64,
}

impl Description {
    /// Of experts.
    pub(super) fn of(experts: &Experts) -> Description {
        let layers = experts.layers.iter().map(|layer| LayerDescription {
            inertia: layer.inertia,
            density: layer.density,
            router: layer.router.as_ref().map(|router| RouterDescription { bias: router.bias.is_some() }),
        });
        Description {
            version: FORMAT_VERSION,
            expert_size: experts.expert_size,
            living_units: experts.living_units,
            grouping: experts.grouping,
            seed: experts.seed,
            stage: experts.stage,
            density: experts.density,
            layers: layers.collect(),
        }
    }

    /// The text for the header of `path`, which [`Description::parse`] would take.
    pub(super) fn to_text(&self, path: &Path) -> Result<String> {
        self.check(path)?;
        serde_json::to_string(self).map_err(|error| problem(path, "", error.to_string()))
    }

    /// From the header of `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Description> {
        let malformed = |error: serde_json::Error| problem(path, "", format!("is malformed: {error}"));
        let FormatVersion { version } = serde_json::from_str(text).map_err(malformed)?;
        if version != FORMAT_VERSION {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                key: format!("{METADATA_KEY}.version"),
                found: version.to_string(),
                supported: format!("{FORMAT_VERSION}; a newer version of shearling may read it"),
            });
        }
        let description: Description = serde_json::from_str(text).map_err(malformed)?;
        description.check(path)?;
        Ok(description)
    }

    /// Whether each number can be what it says it is.
    fn check(&self, path: &Path) -> Result<()> {
        if self.living_units < 1 {
            return Err(problem(path, "living_units", format!("is {}, expected at least 1", self.living_units)));
        }
        if !(1..=self.living_units).contains(&self.expert_size) {
            let expected = format!("expected 1 to living_units = {}", self.living_units);
            return Err(problem(path, "expert_size", format!("is {}, {expected}", self.expert_size)));
        }
        share(path, "density", self.density)?;
        for (index, layer) in self.layers.iter().enumerate() {
            share(path, &format!("layers.{index}.density"), layer.density)?;
            if let Some(inertia) = layer.inertia.filter(|inertia| !inertia.is_finite() || *inertia < 0.0) {
                let wrong = format!("is {inertia}, expected a finite number, not below 0");
                return Err(problem(path, &format!("layers.{index}.inertia"), wrong));
            }
            if self.stage == Stage::Grouped && layer.router.is_some() {
                let wrong = "is there, but the stage is `grouped`, which has no routers".to_string();
                return Err(problem(path, &format!("layers.{index}.router"), wrong));
            }
        }
        Ok(())
    }

    /// Whether it is of `model`, whose weights lie beside it.
    pub(super) fn check_model(&self, path: &Path, model: &ModelConfig) -> Result<()> {
        let wrong = |key: &str, text: String| Err(problem(path, key, text));
        if self.layers.len() as i64 != model.num_hidden_layers {
            let (found, expected) = (self.layers.len(), model.num_hidden_layers);
            return wrong("layers", format!("are {found}, config.json has {expected} (num_hidden_layers)"));
        }
        let units = model.intermediate_size;
        if self.living_units > units {
            return wrong("living_units", format!("is {}, config.json has {units} units", self.living_units));
        }
        // Cannot overflow: neither is above the units of a model.
        let padded = self.experts() * self.expert_size;
        if padded != units {
            let experts = format!("{} living units in experts of {}", self.living_units, self.expert_size);
            return wrong(
                "expert_size",
                format!("{experts} make {padded} units, config.json has {units} (intermediate_size)"),
            );
        }
        Ok(())
    }

    /// N.
    pub(super) fn experts(&self) -> i64 {
        (self.living_units - 1) / self.expert_size + 1
    }
}

fn share(path: &Path, key: &str, value: Option<f64>) -> Result<()> {
    match value.filter(|value| !(0.0..=1.0).contains(value)) {
        None => Ok(()),
        Some(found) => Err(problem(path, key, format!("is {found}, expected a share from 0 to 1"))),
    }
}

/// A problem of one key of the metadata, or of all of it.
pub(super) fn problem(path: &Path, key: &str, problem: String) -> Error {
    let key = if key.is_empty() { METADATA_KEY.to_string() } else { format!("{METADATA_KEY}.{key}") };
    Error::Key { path: path.to_owned(), key, problem }
}
