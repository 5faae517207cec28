//! A folder to decode with: an ordinary Hugging Face folder, one with routers beside the weights, or one that `lte pack`
//! wrote. The folder itself says which.

use crate::files::DType;
use crate::hf::Checkpoint;
use crate::lte::install::install;
use crate::lte::pack::{Pack, is_packed};
use crate::lte::{Experts, file};
use crate::model::{Decoder, ModelConfig};
use crate::prune::convert::require_complete;
use std::path::Path;
use tch::{Device, Kind};

/// An open folder whose weights are whole.
pub(super) enum DecoderFolder {
    /// As transformers reads it; with routers beside the weights, each token runs the experts that they choose, computed
    /// densely and masked.
    Plain(Box<Checkpoint>, Option<Box<Experts>>),
    /// Experts packed for inference.
    Packed(Box<Pack>),
}

impl DecoderFolder {
    /// Opens a folder and checks that nothing is missing.
    pub(super) fn open(folder: &Path) -> anyhow::Result<DecoderFolder> {
        if is_packed(folder) {
            return Ok(DecoderFolder::Packed(Box::new(Pack::open(folder)?)));
        }
        let checkpoint = Checkpoint::open(folder)?;
        require_complete(&checkpoint, checkpoint.model())?;
        let experts = file::read(folder, checkpoint.model(), Device::Cpu)?;
        Ok(DecoderFolder::Plain(Box::new(checkpoint), experts.map(Box::new)))
    }

    pub(super) fn model(&self) -> &ModelConfig {
        match self {
            DecoderFolder::Plain(checkpoint, _) => checkpoint.model(),
            DecoderFolder::Packed(pack) => pack.model(),
        }
    }

    /// The format of the weights: what config.json says, or that of packed experts, which are then read in place.
    pub(super) fn dtype(&self) -> Option<DType> {
        match self {
            DecoderFolder::Plain(checkpoint, _) => checkpoint.model().dtype,
            DecoderFolder::Packed(pack) => pack.dtype(),
        }
    }

    /// All weights, on a device.
    pub(super) fn decoder(&self, kind: Kind, device: Device) -> anyhow::Result<Decoder> {
        match self {
            DecoderFolder::Plain(checkpoint, experts) => {
                let weights = &mut |name: &str| checkpoint.finite_tensor(name, kind, device);
                let mut decoder = Decoder::build(checkpoint.model(), weights)?;
                if let Some(experts) = experts {
                    install(&experts.to_device(device)?, &mut decoder, &[]);
                }
                Ok(decoder)
            }
            DecoderFolder::Packed(pack) => Ok(pack.decoder(kind, device)?),
        }
    }

    /// Numbers that a token is expected not to read, because their experts do not run, less those of the routers; 0 for an
    /// ordinary folder.
    pub(super) fn skipped_numbers(&self) -> f64 {
        match self {
            DecoderFolder::Plain(..) => 0.0,
            DecoderFolder::Packed(pack) => {
                let (experts, routers) = pack.packed_numbers();
                experts as f64 * (1.0 - pack.density().unwrap_or(1.0)) - routers as f64
            }
        }
    }

    /// What is worth saying about it.
    pub(super) fn note(&self) -> Option<String> {
        let pack = match self {
            DecoderFolder::Packed(pack) => pack,
            DecoderFolder::Plain(_, experts) => {
                let experts = experts.as_ref().filter(|experts| experts.routed_layers() > 0)?;
                let ran = experts.density.map_or(String::new(), |density| {
                    format!("; {:.0} % of the units ran at the end of training", 100.0 * density)
                });
                let (routed, layers) = (experts.routed_layers(), experts.layers.len());
                return Some(format!(
                    "routers choose the experts of each token in {routed} of {layers} layers{ran}; computed in full and masked \
                     (shearling lte pack writes the layout that is faster)"
                ));
            }
        };
        Some(match pack.density() {
            Some(density) => {
                format!("packed experts: {:.0} % of the units ran at the end of training", 100.0 * density)
            }
            None => "packed experts".to_string(),
        })
    }
}
