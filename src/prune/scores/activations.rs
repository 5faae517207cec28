//! Scores by activations, as in Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2), one layer of weights in
//! memory at a time: a 7B is scored in minutes on whatever holds one of its layers and the residual stream.
//!
//! ```text
//! hidden j        Σ_norms ‖ mean_t |norm(x)_j| ‖₂ over rows, as a sum of squares
//! intermediate i  ‖ mean_t |input of the down projection|_i ‖₂
//! head h          ‖ mean_t ‖output of head h at t‖₂ ‖₂;   a group or slot has the sum of squares over its heads
//! layer l         1 − mean_t cos(x before l, x after l)
//! ```
//!
//! mean_t is over the tokens of a row, ‖·‖₂ over rows. Norms are those before attention and feed-forward of every layer; the
//! final norm is left out, as there. The squares are kept: only the order within a row counts.

use super::super::Error;
use super::walk::{Visitor, walk};
use super::{Calibration, Progress};
use crate::hf::Checkpoint;
use crate::model::ModelConfig;
use crate::model::probe::Site;
use shearling_masks::{Gates, MaskSpec, UnitKind};
use tch::{Device, Kind, TchError, Tensor};

/// What keeps a cosine finite where a stream is all zeros.
const LEAST_NORM: f64 = 1e-8;

/// Scores of every unit of the masks in `spec`.
pub(super) fn scores(
    source: &Checkpoint,
    spec: &MaskSpec,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Gates, Error> {
    let mut sums = Sums::new(source.model(), device)?;
    walk(source, calibration, device, &mut sums, "scoring layer", progress)?;
    sums.into_scores(spec)
}

/// Sums over rows of squared means over tokens.
struct Sums {
    /// `[D]`.
    hidden: Tensor,
    /// `[L, F]`.
    intermediate: Tensor,
    /// `[L, H]`.
    heads: Tensor,
    /// `[L]`.
    layer: Tensor,
    num_key_value_heads: i64,
    head_dim: i64,
}

impl Sums {
    fn new(model: &ModelConfig, device: Device) -> Result<Sums, TchError> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Float, device));
        let layers = model.num_hidden_layers;
        Ok(Sums {
            hidden: zeros(&[model.hidden_size])?,
            intermediate: zeros(&[layers, model.intermediate_size])?,
            heads: zeros(&[layers, model.num_attention_heads])?,
            layer: zeros(&[layers])?,
            num_key_value_heads: model.num_key_value_heads,
            head_dim: model.head_dim,
        })
    }

    fn into_scores(self, spec: &MaskSpec) -> Result<Gates, Error> {
        let layers = self.layer.size()[0];
        let grouped = self.heads.f_view([layers, self.num_key_value_heads, -1])?;
        let over = |dim: i64| grouped.f_sum_dim_intlist(&[dim][..], false, Kind::Float);
        let mut scores = Gates {
            layer: Some(self.layer),
            kv_head: Some(over(2)?),
            query_head: Some(over(1)?),
            intermediate: Some(self.intermediate),
            hidden: Some(self.hidden),
            ..Gates::none()
        };
        for unit in UnitKind::ALL {
            if spec.get(unit).is_none() {
                scores.set(unit, None);
            }
        }
        Ok(scores)
    }
}

impl Visitor for Sums {
    fn inside(&mut self, layer: i64, site: Site, seen: &Tensor) -> Result<(), TchError> {
        let mut sum = match site {
            Site::AttentionInput | Site::FeedForwardInput => return Ok(()),
            Site::AttentionNorm | Site::FeedForwardNorm => self.hidden.shallow_clone(),
            Site::Intermediate => self.intermediate.f_select(0, layer)?,
            Site::Heads => self.heads.f_select(0, layer)?,
        };
        let size = match site {
            Site::Heads => {
                let heads = seen.f_view([seen.size()[0], seen.size()[1], -1, self.head_dim])?;
                heads.f_norm_scalaropt_dim_dtype(2.0, [-1i64], false, Kind::Float)?
            }
            _ => seen.f_abs()?,
        };
        let mean = size.f_mean_dim(&[1i64][..], false, Kind::Float)?;
        let _ = sum.f_add_(&mean.f_square()?.f_sum_dim_intlist(&[0i64][..], false, Kind::Float)?)?;
        Ok(())
    }

    /// How far the layer turns the stream.
    fn passed(&mut self, layer: i64, before: &Tensor, after: &Tensor) -> Result<(), TchError> {
        let (before, after) = (before.f_to_kind(Kind::Float)?, after.f_to_kind(Kind::Float)?);
        let turned = Tensor::f_cosine_similarity(&before, &after, -1, LEAST_NORM)?.f_rsub_scalar(1.0)?;
        let of_rows = turned.f_mean_dim(&[1i64][..], false, Kind::Float)?.f_sum(Kind::Float)?;
        let _ = self.layer.f_select(0, layer)?.f_add_(&of_rows)?;
        Ok(())
    }
}
