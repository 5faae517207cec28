//! What a collective sends. Gloo and NCCL pass large tensors around a ring: every rank sends a part to the next.
//!
//! ```text
//! reduced for all    2 · (n − 1) / n · S    n tensors of S bytes: parts are added around the ring, then go around once more
//! gathered               (n − 1) / n · S    a tensor of S bytes, of which each has a part
//! reduced in parts       (n − 1) / n · S    n tensors of S bytes, of whose sum each gets a part
//! ```
//!
//! That is what each of n ranks sends, and what goes over each link of the ring. (Gloo reduces in parts by reducing for all:
//! on a CPU that takes twice as much.)

/// Bytes that each of `ranks` sends to reduce a tensor of `bytes` for all.
pub fn ring_bytes(bytes: f64, ranks: usize) -> f64 {
    2.0 * pass_bytes(bytes, ranks)
}

/// Bytes that each of `ranks` sends to gather a tensor of `bytes`, or to reduce it in parts.
pub fn pass_bytes(bytes: f64, ranks: usize) -> f64 {
    let ranks = ranks.max(1) as f64;
    (ranks - 1.0) / ranks * bytes
}

#[cfg(test)]
mod tests {
    use super::{pass_bytes, ring_bytes};

    #[test]
    fn one_rank_sends_nothing_and_many_twice_the_tensor() {
        assert_eq!([1, 2, 4].map(|ranks| ring_bytes(100.0, ranks)), [0.0, 100.0, 150.0]);
        assert!((ring_bytes(100.0, 1000) - 199.8).abs() < 1e-9);
        assert_eq!([1, 2, 4].map(|ranks| pass_bytes(100.0, ranks)), [0.0, 50.0, 75.0]);
    }
}
