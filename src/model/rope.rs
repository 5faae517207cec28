//! Rotary position embedding ("rotate half" layout): tables in fp32, rotation in fp32.
//!
//! ```text
//! inv_freq_i = θ^(−2i/E)            angle(t, i) = t · inv_freq_i
//! q' = q⊙cos + rotate_half(q)⊙sin   rotate_half([a, b]) = [−b, a]
//! ```
//!
//! `llama3` rescales the low frequencies (Llama 3.1): wavelengths beyond the original context are stretched by
//! `factor`, short ones kept, and those in between blended. The rotation is the same for a pruned model because
//! `head_dim` and the order inside a head never change.

use crate::hf::{Rope, RopeKind};
use crate::native::ops::cached_heads::{TokenHeads, place_token};
use crate::native::ops::rope::rope;
use std::f64::consts::PI;
use tch::{Device, Kind, TchError, Tensor};

/// Cosine and sine tables `[T, E]` in fp32.
#[derive(Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Tables for positions `0..tokens` of heads of size `head_dim`.
    pub fn new(rope: &Rope, head_dim: i64, tokens: i64, device: Device) -> Result<RopeTable, TchError> {
        let frequencies: Vec<f32> = inverse_frequencies(rope, head_dim).iter().map(|f| *f as f32).collect();
        let frequencies = Tensor::f_from_slice(&frequencies)?;
        let positions = Tensor::f_arange(tokens, (Kind::Float, Device::Cpu))?;
        let half = positions.f_outer(&frequencies)?;
        let angles = Tensor::f_cat(&[&half, &half], -1)?;
        Ok(RopeTable { cos: angles.f_cos()?.f_to_device(device)?, sin: angles.f_sin()?.f_to_device(device)? })
    }

    /// Rotates heads `x [B, T, H, E]` by their positions; the result has x's dtype.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor, TchError> {
        rope(x, &self.cos, &self.sin)
    }

    /// Tables for positions `start..start + tokens` of these.
    pub fn narrow(&self, start: i64, tokens: i64) -> Result<RopeTable, TchError> {
        Ok(RopeTable { cos: self.cos.f_narrow(0, start, tokens)?, sin: self.sin.f_narrow(0, start, tokens)? })
    }

    /// Puts key and value of a token to the position in `position` (`[1]`, int64, on the device) of a cache; the query, turned.
    pub(super) fn place(
        &self,
        heads: TokenHeads,
        position: &Tensor,
        cache: (&Tensor, &Tensor),
    ) -> Result<Tensor, TchError> {
        place_token(heads, (&self.cos, &self.sin), position, cache)
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> RopeTable {
        RopeTable { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }
}

/// Inverse frequencies `[E/2]`, rescaled as the config says.
pub fn inverse_frequencies(rope: &Rope, head_dim: i64) -> Vec<f64> {
    let plain = (0..head_dim / 2).map(|i| rope.theta.powf(-2.0 * i as f64 / head_dim as f64));
    plain.map(|frequency| rescale(frequency, &rope.kind)).collect()
}

fn rescale(frequency: f64, kind: &RopeKind) -> f64 {
    match kind {
        RopeKind::Default => frequency,
        RopeKind::Linear { factor } => frequency / factor,
        RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f64;
            let wavelength = 2.0 * PI / frequency;
            if wavelength < original / high_freq_factor {
                return frequency;
            }
            if wavelength > original / low_freq_factor {
                return frequency / factor;
            }
            let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_frequencies_are_powers_of_theta() {
        let rope = Rope { theta: 10000.0, kind: RopeKind::Default };
        let frequencies = inverse_frequencies(&rope, 8);
        let expected = [1.0, 0.1, 0.01, 0.001];
        assert!(frequencies.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn llama3_keeps_high_and_stretches_low_frequencies() {
        let kind = RopeKind::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let rope = Rope { theta: 500000.0, kind };
        let plain = inverse_frequencies(&Rope { theta: 500000.0, kind: RopeKind::Default }, 128);
        let scaled = inverse_frequencies(&rope, 128);
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-9);
        let middle = scaled.iter().zip(&plain).filter(|(s, p)| **s < **p && **s > **p / 8.0 + 1e-15).count();
        assert!(middle > 0, "some frequencies are blended");
    }

    #[test]
    fn rotation_keeps_norms_and_leaves_position_zero_alone() {
        let rope = Rope { theta: 10000.0, kind: RopeKind::Default };
        let table = RopeTable::new(&rope, 8, 5, Device::Cpu).unwrap();
        let x = Tensor::arange(80, (Kind::Float, Device::Cpu)).view([1, 5, 2, 8]) / 80.0;
        let y = table.rotate(&x).unwrap();
        let norms = |t: &Tensor| t.square().sum_dim_intlist(&[-1i64][..], false, Kind::Float);
        assert!((norms(&x) - norms(&y)).abs().max().double_value(&[]) < 1e-5);
        assert!((x.select(1, 0) - y.select(1, 0)).abs().max().double_value(&[]) < 1e-7);
        assert!((x.select(1, 3) - y.select(1, 3)).abs().max().double_value(&[]) > 1e-2);
    }
}
