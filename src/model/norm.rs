//! RMSNorm, plain and over the hidden dimensions that a mask leaves alive.
//!
//! With hidden gates h and R = { j : h_j ≠ 0 } (Sheared-LLaMA's masked norm):
//!
//! ```text
//! v = (1/|R|) Σ_{j∈R} x_j²        y_j = h_j · w_j · x_j · (v + ε)^(−1/2)
//! ```
//!
//! so that dropping the dimensions outside R and storing w⊙h gives the same numbers. Statistics are in fp32.

use tch::{Kind, TchError, Tensor};

/// The hidden gates of one forward, with what every norm needs of them computed once.
#[derive(Debug)]
pub struct HiddenGate {
    /// Gates h `[D]`, fp32.
    pub gate: Tensor,
    /// 1 where h ≠ 0, else 0, divided by |R|: the weights of the mean of squares, `[D]`, fp32, no gradient.
    mean_weights: Tensor,
}

impl HiddenGate {
    /// Prepares gates `[D]`. |R| carries no gradient; an all-zero mask counts as one dimension.
    pub fn new(gate: &Tensor) -> Result<HiddenGate, TchError> {
        let alive = gate.f_detach()?.f_ne(0.0)?.f_to_kind(Kind::Float)?;
        let count = alive.f_sum(Kind::Float)?.f_clamp_min(1.0)?;
        Ok(HiddenGate { gate: gate.shallow_clone(), mean_weights: alive.f_div(&count)? })
    }
}

/// Normalises `x [.., D]` with weight `[D]`, under `hidden` when that mask exists. The result has x's kind.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, hidden: Option<&HiddenGate>) -> Result<Tensor, TchError> {
    let kind = x.f_kind()?;
    let wide = x.f_to_kind(Kind::Float)?;
    let squares = wide.f_square()?;
    let mean = match hidden {
        Some(hidden) => squares.f_matmul(&hidden.mean_weights)?.f_unsqueeze(-1)?,
        None => squares.f_mean_dim(&[-1i64][..], true, Kind::Float)?,
    };
    let normed = wide.f_mul(&mean.f_add_scalar(eps)?.f_rsqrt()?)?;
    match hidden {
        Some(hidden) => normed.f_mul(&weight.f_to_kind(Kind::Float)?.f_mul(&hidden.gate)?)?.f_to_kind(kind),
        None => normed.f_to_kind(kind)?.f_mul(weight),
    }
}
