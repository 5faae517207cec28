//! The second moments of the residual stream as the norms see it: `C = Σ x̂ᵀx̂` with `x̂ = x / rms(x)`, over all tokens of the
//! calibration rows and the input of every norm. Normalised, because that is what the layers read, and because a few tokens
//! of real models are a thousand times larger than the rest.

use super::super::Error;
use super::super::scores::walk::{Visitor, walk};
use super::super::scores::{Calibration, Progress};
use crate::hf::Checkpoint;
use crate::model::probe::Site;
use tch::{Device, Kind, TchError, Tensor};

/// C `[D, D]`, fp64, on `device`; its trace is D times the number of vectors.
pub(super) fn covariance(
    source: &Checkpoint,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let size = source.model().hidden_size;
    let sum = Tensor::f_zeros([size, size], (Kind::Double, device))?;
    let mut moments = Moments { sum, eps: source.model().rms_norm_eps };
    let streams = walk(source, calibration, device, &mut moments, "measuring the stream in layer", progress)?;
    // What the final norm reads.
    streams.iter().try_for_each(|x| moments.add(x))?;
    Ok(moments.sum)
}

/// Sums over all tokens that it was shown.
struct Moments {
    /// `[D, D]`, fp64.
    sum: Tensor,
    eps: f64,
}

impl Moments {
    /// Adds what a norm sees of the residual stream `x [B, T, D]`.
    fn add(&mut self, x: &Tensor) -> Result<(), TchError> {
        let x = x.f_to_kind(Kind::Float)?.f_reshape([-1, self.sum.size()[0]])?;
        let mean_square = x.f_square()?.f_mean_dim(&[-1i64][..], true, Kind::Float)?;
        let normed = x.f_mul(&mean_square.f_add_scalar(self.eps)?.f_rsqrt()?)?;
        let _ = self.sum.f_add_(&normed.f_transpose(0, 1)?.f_matmul(&normed)?.f_to_kind(Kind::Double)?)?;
        Ok(())
    }
}

impl Visitor for Moments {
    fn inside(&mut self, _layer: i64, site: Site, seen: &Tensor) -> Result<(), TchError> {
        match site {
            Site::AttentionInput | Site::FeedForwardInput => self.add(seen),
            Site::AttentionNorm | Site::Heads | Site::FeedForwardNorm | Site::Intermediate => Ok(()),
        }
    }
}
