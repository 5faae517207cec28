//! What a collective sends. Gloo and NCCL reduce large tensors around a ring: every rank sends a part to the next, which adds
//! its own, until each part is complete somewhere, and then the complete parts go around once more.
//!
//! ```text
//! bytes that a rank sends, and that go over each link of the ring:   2 · (n − 1) / n · S     of a tensor of S bytes
//! ```

/// Bytes that each of `ranks` sends to reduce a tensor of `bytes`.
pub fn ring_bytes(bytes: f64, ranks: usize) -> f64 {
    let ranks = ranks.max(1) as f64;
    2.0 * (ranks - 1.0) / ranks * bytes
}

#[cfg(test)]
mod tests {
    use super::ring_bytes;

    #[test]
    fn one_rank_sends_nothing_and_many_twice_the_tensor() {
        assert_eq!([1, 2, 4].map(|ranks| ring_bytes(100.0, ranks)), [0.0, 100.0, 150.0]);
        assert!((ring_bytes(100.0, 1000) - 199.8).abs() < 1e-9);
    }
}
