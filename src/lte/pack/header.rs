//! What the file of packed experts says about itself, and the names in it.

use super::PackError;
use crate::files::Result;
use crate::files::mapped::MappedFile;
use crate::hf::Checkpoint;
use crate::model::Role;
use crate::model::parameters::Parameter;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The file beside `config.json` that makes a folder a packed one.
pub const EXPERTS_FILE: &str = "experts.safetensors";
/// Metadata key of the header.
pub(super) const KEY: &str = "shearling_lte_pack";
/// Format version that is written and read.
pub(super) const VERSION: u64 = 1;
/// Bytes of each ordinary tensor that the fingerprint looks at.
const FINGERPRINT_BYTES: usize = 64 << 10;

/// What is packed of a layer.
pub(super) const MATRICES: [Role; 3] = [Role::GateWeight, Role::UpWeight, Role::DownWeight];

/// Whether a parameter is among the matrices that are packed in the layers of `packed`.
pub(super) fn is_packed_matrix(parameter: &Parameter, packed: impl Fn(usize) -> bool) -> bool {
    MATRICES.contains(&parameter.role) && parameter.layer.is_some_and(|layer| packed(layer as usize))
}

/// The header's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u64,
    /// m.
    pub(super) expert_size: i64,
    /// [`fingerprint`] of the ordinary weights.
    pub(super) weights: String,
    /// Mean share of units that ran at the end of training, if known.
    pub(super) density: Option<f64>,
    /// The same by layer; 1 for a layer that is not packed.
    pub(super) layer_density: Vec<Option<f64>>,
}

/// The version alone: read first, since the rest may mean something else in another.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Header {
    pub(super) fn read(file: &MappedFile) -> Result<Header, PackError> {
        let path = file.path();
        let problem = |problem: String| PackError::Header { path: path.to_owned(), key: KEY, problem };
        let metadata = file.header_metadata();
        let text =
            metadata.get(KEY).ok_or_else(|| problem("not there, so this is no file of packed experts".into()))?;
        let Versioned { version } = serde_json::from_str(text).map_err(|error| problem(error.to_string()))?;
        if version != VERSION {
            return Err(PackError::Version { path: path.to_owned(), found: version, expected: VERSION });
        }
        let header: Header = serde_json::from_str(text).map_err(|error| problem(error.to_string()))?;
        if header.expert_size < 1 {
            return Err(problem(format!("expert_size is {}, expected at least 1", header.expert_size)));
        }
        Ok(header)
    }
}

/// Names of a layer's tensors.
pub(super) struct Names {
    /// `[N, 3m, D]`.
    pub(super) experts: String,
    /// `[N, D]`.
    pub(super) router: String,
    /// `[N]`, fp32; not of every router.
    pub(super) router_bias: String,
}

impl Names {
    pub(super) fn of(layer: i64) -> Names {
        let name = |suffix: &str| format!("layers.{layer}.{suffix}");
        Names { experts: name("experts"), router: name("router.weight"), router_bias: name("router.bias") }
    }
}

/// SHA-256 over name, dtype, shape and first bytes of every ordinary tensor: whether two files are of one model, without
/// reading gigabytes.
pub(super) fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    let mut hash = Sha256::new();
    for name in checkpoint.names() {
        let stored = checkpoint.stored(name)?;
        hash.update(format!("{name} {} {:?}\n", stored.dtype().name(), stored.shape()));
        hash.update(&stored.bytes()[..stored.bytes().len().min(FINGERPRINT_BYTES)]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
