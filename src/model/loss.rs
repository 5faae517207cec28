//! Next-token cross entropy, per token and per row, in fp32. Document boundaries inside a packed row count like
//! any other token, BOS and EOS are predicted too.

use tch::{Kind, Reduction, TchError, Tensor};

/// Cross entropy (nats) of predicting token t+1 from position t: `[B, T]`, 0 at the last position, which has no
/// target. `logits [B, T, V]`, `input_ids [B, T]`.
pub fn token_losses(logits: &Tensor, input_ids: &Tensor) -> Result<Tensor, TchError> {
    let size = logits.size();
    let (rows, tokens, vocab) = (size[0], size[1], size[2]);
    let next = input_ids.f_narrow(1, 1, tokens - 1)?;
    let none = Tensor::f_full([rows, 1], IGNORED, (Kind::Int64, input_ids.device()))?;
    let targets = Tensor::f_cat(&[&next, &none], 1)?.f_view([-1])?;
    let flat = logits.f_view([rows * tokens, vocab])?.f_to_kind(Kind::Float)?;
    let no_weights = None::<&Tensor>;
    flat.f_cross_entropy_loss(&targets, no_weights, Reduction::None, IGNORED, 0.0)?.f_view([rows, tokens])
}

const IGNORED: i64 = -100;

/// Sum of [`token_losses`] over each row: `[B]`.
pub fn row_losses(logits: &Tensor, input_ids: &Tensor) -> Result<Tensor, TchError> {
    token_losses(logits, input_ids)?.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)
}

/// How many targets a row of `tokens` has.
pub fn targets_per_row(tokens: usize) -> usize {
    tokens.saturating_sub(1)
}
