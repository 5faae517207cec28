//! Next-token cross entropy per token and per row. Document boundaries inside a packed row count like any other
//! token, BOS and EOS are predicted too. Output head and loss are one operation, so that logits of a few rows of
//! tokens exist at a time and never all of them.

use crate::native::ops::cross_entropy::{IGNORED, LinearCrossEntropy, linear_cross_entropy};
pub use crate::native::ops::distillation::{Blend, TeacherHead};
use crate::native::ops::distillation::{LinearDistillation, linear_distillation};
use tch::{Kind, TchError, Tensor};

/// Memory that logits may take at a time.
pub const LOGITS_BYTES: i64 = 128 << 20;

/// Losses of a batch of rows.
#[derive(Debug)]
pub struct BatchLosses {
    /// Scalar with graph: the sum of all losses times the caller's scale.
    pub objective: Tensor,
    /// Cross entropy (nats) of predicting token t+1 from position t, no graph: `[B, T]`, 0 at the last position,
    /// which has no target.
    pub tokens: Tensor,
    /// KL(teacher ‖ model) (nats) of the same predictions, in the same way; `None` without a teacher.
    pub divergences: Option<Tensor>,
}

impl BatchLosses {
    /// The sum of each row, no graph: `[B]`.
    pub fn rows(&self) -> Result<Tensor, TchError> {
        row_sums(&self.tokens)
    }

    /// The sum of each row's divergences, no graph: `[B]`.
    pub fn row_divergences(&self) -> Result<Option<Tensor>, TchError> {
        self.divergences.as_ref().map(row_sums).transpose()
    }
}

fn row_sums(tokens: &Tensor) -> Result<Tensor, TchError> {
    tokens.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)
}

/// Losses of `input_ids [B, T]` given the normed residual stream `x [B, T, D]` and the output head `[V, D]`.
pub fn next_token_losses(x: &Tensor, head: &Tensor, input_ids: &Tensor, scale: f64) -> Result<BatchLosses, TchError> {
    let (flat, targets) = (by_token(x)?, next_tokens(input_ids)?);
    let chunk = chunk_tokens(head.size()[0], bytes_of(head)?, flat.size()[0]);
    let LinearCrossEntropy { objective, token_losses } = linear_cross_entropy(&flat, head, &targets, scale, chunk)?;
    Ok(BatchLosses { objective, tokens: token_losses.f_view(&input_ids.size()[..])?, divergences: None })
}

/// The same beside a teacher, whose `hidden` is its own normed residual stream `[B, T, D']` of these tokens: the
/// objective is the blend of cross entropy and divergence ([`linear_distillation`]). The position without a target has
/// no divergence either.
pub fn distilled_losses(
    x: &Tensor,
    head: &Tensor,
    input_ids: &Tensor,
    scale: f64,
    teacher: TeacherHead,
    blend: Blend,
) -> Result<BatchLosses, TchError> {
    let (flat, targets, its) = (by_token(x)?, next_tokens(input_ids)?, by_token(teacher.hidden)?);
    let chunk = chunk_tokens(head.size()[0], bytes_of(head)? + bytes_of(teacher.weight)?, flat.size()[0]);
    let teacher = TeacherHead { hidden: &its, ..teacher };
    let LinearDistillation { objective, token_losses, token_divergences } =
        linear_distillation(&flat, head, &targets, teacher, blend, scale, chunk)?;
    let size = &input_ids.size()[..];
    Ok(BatchLosses {
        objective,
        tokens: token_losses.f_view(size)?,
        divergences: Some(token_divergences.f_view(size)?),
    })
}

/// `[B, T, D]` to `[B·T, D]`.
fn by_token(x: &Tensor) -> Result<Tensor, TchError> {
    let size = x.size();
    x.f_reshape([size[0] * size[1], size[2]])
}

/// What each of the B·T tokens is followed by; nothing at the end of a row.
fn next_tokens(input_ids: &Tensor) -> Result<Tensor, TchError> {
    let (rows, tokens) = (input_ids.size()[0], input_ids.size()[1]);
    let next = input_ids.f_narrow(1, 1, tokens - 1)?;
    let none = Tensor::f_full([rows, 1], IGNORED, (Kind::Int64, input_ids.device()))?;
    Tensor::f_cat(&[&next, &none], 1)?.f_view([-1])
}

/// Bytes of one of its numbers, and so of one of its logits.
fn bytes_of(head: &Tensor) -> Result<i64, TchError> {
    Ok(head.f_kind()?.elt_size_in_bytes() as i64)
}

/// Cross entropy (nats) `[N]`, fp32, of `targets [N]` given the normed rows `x [N, D]` that are to predict them and the
/// output head `[V, D]`: for a few chosen targets, where [`next_token_losses`] takes every token.
pub fn target_losses(x: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
    let chunk = chunk_tokens(head.size()[0], bytes_of(head)?, targets.numel() as i64);
    Ok(linear_cross_entropy(x, head, targets, 1.0, chunk)?.token_losses)
}

/// How many tokens have logits of so many bytes each at a time (of two models: of both together): chunks of one size within
/// [`LOGITS_BYTES`].
pub fn chunk_tokens(vocab_size: i64, bytes_each: i64, tokens: i64) -> i64 {
    let most = (LOGITS_BYTES / (vocab_size * bytes_each).max(1)).max(64);
    let chunks = (tokens + most - 1) / most;
    (tokens + chunks - 1) / chunks.max(1)
}

/// How many targets a row of `tokens` has.
pub fn targets_per_row(tokens: usize) -> usize {
    tokens.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_targets_have_the_losses_that_they_have_among_all() {
        let noise = |name: &str, size: &[i64]| {
            Tensor::from_slice(&shearling_noise::weight_normals(3, name, size.iter().product::<i64>() as usize))
                .view(size)
        };
        let (x, head) = (noise("x", &[2, 5, 8]), noise("head", &[11, 8]));
        let ids = Tensor::from_slice(&[3i64, 1, 4, 1, 5, 9, 2, 6, 5, 10]).view([2, 5]);
        let all = next_token_losses(&x, &head, &ids, 1.0).unwrap().tokens.view([-1]);
        let positions = Tensor::from_slice(&[7i64, 0, 2]);
        let targets = Tensor::from_slice(&[5i64, 1, 1]);
        let chosen = x.view([-1, 8]).index_select(0, &positions);
        let found = target_losses(&chosen, &head, &targets).unwrap();
        let apart = (found - all.index_select(0, &positions)).abs().max().double_value(&[]);
        assert!(apart < 1e-6, "{apart}");
    }

    #[test]
    fn chunks_are_even_and_within_the_limit() {
        assert_eq!(chunk_tokens(32_000, 4, 8192), 1024);
        assert_eq!(chunk_tokens(32_000, 2, 8192), 2048);
        assert_eq!(chunk_tokens(100, 4, 30), 30);
        assert_eq!(chunk_tokens(10_000_000, 4, 130), 44);
    }
}
