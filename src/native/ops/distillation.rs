//! The output layers of a student and of a frozen teacher, with the divergence of their predictions and the student's cross
//! entropy in one: the logits `[N, V]` of neither are ever all there. As in [`cross_entropy`](super::cross_entropy),
//! `chunk_rows` rows at a time become losses and, when gradients are wanted, the gradients of the student's hidden and head.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_linear_distillation(
        hidden: CTensor,
        weight: CTensor,
        teacher_hidden: CTensor,
        teacher_weight: CTensor,
        targets: CTensor,
        share: f64,
        temperature: f64,
        scale: f64,
        chunk_rows: i64,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// How the divergence from a teacher is weighed against cross entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    /// λ in 0..=1: the divergence's share of the loss, cross entropy has the rest.
    pub share: f64,
    /// T: logits of both are divided by it before the divergence is taken; cross entropy is not touched.
    pub temperature: f64,
}

impl Blend {
    /// The loss of a token, or of a mean of tokens: `(1 − λ) CE + λ T² KL`.
    pub fn of(self, cross_entropy: f64, divergence: f64) -> f64 {
        (1.0 - self.share) * cross_entropy + self.share * self.temperature * self.temperature * divergence
    }
}

/// The teacher's side of a batch: neither tensor gets a gradient.
#[derive(Clone, Copy, Debug)]
pub struct TeacherHead<'a> {
    /// Its normed residual stream `[N, D']`.
    pub hidden: &'a Tensor,
    /// Its output head `[V, D']`, of the same dtype, which need not be the student's.
    pub weight: &'a Tensor,
}

/// What [`linear_distillation`] gives.
#[derive(Debug)]
pub struct LinearDistillation {
    /// `scale · Σ ((1 − λ) CE + λ T² KL)`, a scalar to go back from: fp32, or fp64 for a student in fp64.
    pub objective: Tensor,
    /// Cross entropy of each row `[N]` in nats, 0 where ignored. It has no graph.
    pub token_losses: Tensor,
    /// KL(teacher ‖ student) of each row `[N]` in nats at temperature T, 0 where ignored. It has no graph.
    pub token_divergences: Tensor,
}

/// Cross entropy of the logits `z = hidden Wᵀ` against `targets`, and the forward KL divergence from the teacher's
/// distribution `t = softmax(z' / T)` to the student's `s = softmax(z / T)`, `Σ_v t_v (log t_v − log s_v)`, blended as
/// in Hinton et al. ([arXiv 1503.02531](https://arxiv.org/abs/1503.02531), section 2.1): T² keeps the size of the
/// gradient, which is `(1 − λ)(softmax(z) − onehot) + λ T (s − t)`.
///
/// `hidden` is `[N, D]`, `weight` `[V, D]` of the same dtype, `targets` `[N]` int64 in `0..V` or
/// [`IGNORED`](super::cross_entropy::IGNORED), where nothing is to be predicted and so nothing is distilled either.
/// Logits are held in their model's dtype, for `chunk_rows` rows; the rest is fp32 (fp64 for a student in fp64). The
/// gradient of a leaf weight is added to its buffer ([`super::gradient`]); until backward it takes an fp32 `[V, D]`.
///
/// # Errors
/// If shapes, vocabularies, dtypes or devices do not fit, λ or T is out of range, or a target on the CPU is outside the
/// vocabulary (on other devices that would cost a wait, and is undefined).
pub fn linear_distillation(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    teacher: TeacherHead,
    blend: Blend,
    scale: f64,
    chunk_rows: i64,
) -> Result<LinearDistillation, TchError> {
    let [hidden, weight, its_hidden, its_weight, targets] =
        [hidden, weight, teacher.hidden, teacher.weight, targets].map(shim::pointer);
    let Blend { share, temperature } = blend;
    // SAFETY: live tensors for the time of the call, which gives three.
    let given = shim::tensors(3, |out, error| unsafe {
        shearling_linear_distillation(
            hidden,
            weight,
            its_hidden,
            its_weight,
            targets,
            share,
            temperature,
            scale,
            chunk_rows,
            out,
            error,
        )
    })?;
    match <[Tensor; 3]>::try_from(given) {
        Ok([objective, token_losses, token_divergences]) => {
            Ok(LinearDistillation { objective, token_losses, token_divergences })
        }
        Err(other) => Err(TchError::Shape(format!("{} tensors in place of 3", other.len()))),
    }
}

#[cfg(test)]
mod tests;
