//! GPUs by name: what `plan` and `init` know of a card that is not here.

/// A GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// As its maker calls it.
    pub name: &'static str,
    /// As `--card` takes it.
    pub id: &'static str,
    /// Memory as its driver reports it.
    mebibytes: u64,
    /// Dense bf16 products, TFLOP/s, as its maker says.
    pub bf16_tflops: f64,
    /// How fast its memory is read, GB/s, as its maker says.
    gigabytes_per_second: u64,
}

impl Card {
    const fn new(
        name: &'static str,
        id: &'static str,
        mebibytes: u64,
        bf16_tflops: f64,
        gigabytes_per_second: u64,
    ) -> Card {
        Card { name, id, mebibytes, bf16_tflops, gigabytes_per_second }
    }

    /// The card of that name, in either spelling.
    pub fn named(name: &str) -> Option<&'static Card> {
        let plain = |name: &str| name.to_lowercase().replace([' ', '_'], "-");
        CARDS.iter().find(|card| [card.id, &plain(card.name)].contains(&plain(name).as_str()))
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> f64 {
        (self.mebibytes << 20) as f64
    }

    /// Bytes per second that its memory gives at most.
    pub fn bandwidth(&self) -> f64 {
        self.gigabytes_per_second as f64 * 1e9
    }
}

/// From the smallest to the largest; all have bf16 in hardware. Rates are those of NVIDIA's data sheets, of the SXM form where
/// there are several (A100, H100, H200, B200).
pub const CARDS: [Card; 8] = [
    Card::new("RTX 4090", "rtx4090", 24_564, 165.0, 1_008),
    Card::new("RTX 5090", "rtx5090", 32_607, 209.0, 1_792),
    Card::new("A100 40GB", "a100-40", 40_960, 312.0, 1_555),
    Card::new("L40S", "l40s", 46_068, 362.0, 864),
    Card::new("H100", "h100", 81_559, 989.0, 3_350),
    Card::new("A100 80GB", "a100-80", 81_920, 312.0, 2_039),
    Card::new("H200", "h200", 143_771, 989.0, 4_800),
    Card::new("B200", "b200", 183_359, 2250.0, 8_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_by_either_of_its_names() {
        for card in &CARDS {
            assert_eq!(Card::named(card.id), Some(card));
            assert_eq!(Card::named(card.name), Some(card), "{}", card.name);
        }
        assert_eq!(Card::named("RTX4090").map(|card| card.name), Some("RTX 4090"));
        assert_eq!(Card::named("abacus"), None);
        assert!(CARDS.windows(2).all(|pair| pair[0].memory_bytes() < pair[1].memory_bytes()));
    }
}
