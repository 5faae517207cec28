//! RMSNorm, plain and over the hidden dimensions that a mask leaves alive.
//!
//! With hidden gates h and R = { j : h_j ≠ 0 } (Sheared-LLaMA's masked norm):
//!
//! ```text
//! v = (1/|R|) Σ_{j∈R} x_j²        y_j = h_j · w_j · x_j · (v + ε)^(−1/2)
//! ```
//!
//! so that dropping the dimensions outside R and storing w⊙h gives the same numbers. Soft top-k gates take the mean over all
//! D dimensions, `v = (1/D) Σ h_j x_j²`, and their cut stores `w ⊙ h ⊙ √(D/|R|)` (`Gates::norm_gain`). The mask costs nothing
//! here: it is part of the weight, and R part of the weights of the mean.

use crate::native::ops::rms_norm;
use shearling_masks::{Gates, HiddenMean};
use tch::{TchError, Tensor};

/// The hidden gates of one forward, with what every norm needs of them computed once.
#[derive(Debug)]
pub struct HiddenGate {
    /// Gates h `[D]`, fp32; fp64 for an fp64 forward.
    pub gate: Tensor,
    /// Factor on the norms' weights.
    gain: f64,
    /// 1 where h ≠ 0, else 0, divided by |R|: the weights of the mean of squares, `[D]`, the gates' dtype, no gradient.
    mean_weights: Tensor,
}

impl HiddenGate {
    /// Prepares gates `[D]` with the mean and gain of `gates`. |R| carries no gradient; an all-zero mask counts as one
    /// dimension.
    pub fn new(gate: &Tensor, gates: &Gates) -> Result<HiddenGate, TchError> {
        let (dtype, plain) = (gate.f_kind()?, gate.f_detach()?);
        let mean_weights = match gates.hidden_mean {
            HiddenMean::Weighted => plain.f_div_scalar(plain.numel() as f64)?,
            HiddenMean::Open => {
                let alive = plain.f_ne(0.0)?.f_to_kind(dtype)?;
                alive.f_div(&alive.f_sum(dtype)?.f_clamp_min(1.0)?)?
            }
        };
        Ok(HiddenGate { gate: gate.shallow_clone(), gain: gates.norm_gain.map_or(1.0, f64::from), mean_weights })
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> HiddenGate {
        HiddenGate { gate: self.gate.shallow_clone(), gain: self.gain, mean_weights: self.mean_weights.shallow_clone() }
    }
}

/// Normalises `x [.., D]` with weight `[D]`, under `hidden` when that mask exists: the normed tensor, and `x` again.
/// Whoever goes on with that second x as the residual stream gets both gradients added in one pass.
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    hidden: Option<&HiddenGate>,
) -> Result<(Tensor, Tensor), TchError> {
    match hidden {
        None => rms_norm::rms_norm(x, weight, None, eps),
        Some(hidden) => {
            let weight = weight.f_to_kind(hidden.gate.f_kind()?)?.f_mul(&hidden.gate)?;
            // A factor of 1 is left out: not a kernel more for masks that have none.
            let weight = if hidden.gain == 1.0 { weight } else { weight.f_mul_scalar(hidden.gain)? };
            rms_norm::rms_norm(x, &weight, Some(&hidden.mean_weights), eps)
        }
    }
}
