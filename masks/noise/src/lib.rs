//! Random numbers of gates, of initial weights, of drawn tokens and of groups of units: Philox4x32-10 (Salmon et al.,
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a pure function from (key, counter) to four random words.
//!
//! Nothing here has state: the noise of a forward follows from its [`NoiseKey`] and the mask's name alone, so a resumed run
//! sees the same gates, and the masks compute the same numbers on another device. To keep that possible to the bit, a
//! uniform is made with exact fp32 operations only (no rounding until the clamp). The scalar code here serves the CPU.

use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Multipliers of a round.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by from round to round.
pub const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds of the function.
pub const ROUNDS: usize = 10;
/// Random words, and so uniforms, per counter.
pub const WORDS_PER_BLOCK: usize = 4;
/// Uniforms are midpoints of 2²³ cells: the most that leaves a midpoint exact in fp32.
pub const CELLS_LOG2: u32 = 23;

/// Which forward the noise is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseKey {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u64,
    /// Micro-batch inside the step (unique over ranks, if there are several).
    pub micro_batch: u64,
}

/// What noise is for; part of the key, so that no two uses share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial log-odds.
    Init,
    /// Gates of a forward.
    Gates,
    /// Initial weights of a model.
    Weights,
    /// Tokens that are drawn from a model.
    Tokens,
    /// How intermediate units are grouped into experts.
    Grouping,
    /// To which neighbour 8-bit moments are rounded.
    Rounding,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Purpose::Init => "mask-init",
            Purpose::Gates => "mask-gates",
            Purpose::Weights => "weights",
            Purpose::Tokens => "tokens",
            Purpose::Grouping => "grouping",
            Purpose::Rounding => "moment-rounding",
        }
    }
}

/// An endless sequence of numbers for one purpose, name and forward; element i depends on the key and i only.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
}

impl Stream {
    /// The stream's key is chained through Philox itself: the seed keys the label, the result keys (step, micro-batch).
    pub fn new(key: &NoiseKey, purpose: Purpose, name: &str) -> Stream {
        let label = fnv_1a(&[purpose.label(), "/", name]);
        let labelled = first_words(philox4x32_10(counter(label, 0), halves(key.seed)));
        Stream { key: first_words(philox4x32_10(counter(key.step, key.micro_batch), labelled)) }
    }

    /// The Philox key of this stream; block b of its words is the value at `counter(b, 0)`.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The first `count` uniforms, each in [ε, 1−ε].
    pub fn uniforms(&self, count: usize, epsilon: f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + WORDS_PER_BLOCK - 1);
        for block in 0..count.div_ceil(WORDS_PER_BLOCK) {
            let words = philox4x32_10(counter(block as u64, 0), self.key);
            values.extend(words.map(|word| uniform(word, epsilon)));
        }
        values.truncate(count);
        values
    }

    /// The first `count` standard normals, by the Box–Muller transform.
    pub fn normals(&self, count: usize) -> Vec<f64> {
        let uniforms = self.uniforms(2 * count, f32::MIN_POSITIVE);
        let transform = |pair: &[f32]| (-2.0 * f64::from(pair[0]).ln()).sqrt() * (TAU * f64::from(pair[1])).cos();
        uniforms.chunks_exact(2).map(transform).collect()
    }
}

/// `count` standard normals for the initial value of the weight called `name`: the same for the same seed and name.
pub fn weight_normals(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let key = NoiseKey { seed, step: 0, micro_batch: 0 };
    Stream::new(&key, Purpose::Weights, name).normals(count).into_iter().map(|value| value as f32).collect()
}

/// The uniform in (0, 1) that chooses token number `step` of text number `text`: the same for the same seed.
pub fn token_uniform(seed: u64, text: u64, step: u64) -> f64 {
    let key = NoiseKey { seed, step, micro_batch: text };
    let drawn = Stream::new(&key, Purpose::Tokens, "next").uniforms(1, f32::MIN_POSITIVE);
    drawn.first().copied().map_or(0.5, f64::from)
}

/// The midpoint of a cell of (0, 1), exact in fp32, then clamped to [ε, 1−ε].
fn uniform(word: u32, epsilon: f32) -> f32 {
    const CELL: f32 = 1.0 / (1u32 << CELLS_LOG2) as f32;
    (((word >> (u32::BITS - CELLS_LOG2)) as f32 + 0.5) * CELL).clamp(epsilon, 1.0 - epsilon)
}

/// Ten rounds of Philox on a 128-bit counter under a 64-bit key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut words, mut key) = (counter, key);
    for _ in 0..ROUNDS {
        words = round(words, key);
        key = [key[0].wrapping_add(KEY_INCREMENTS[0]), key[1].wrapping_add(KEY_INCREMENTS[1])];
    }
    words
}

fn round(words: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [low_0, high_0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(words[0]));
    let [low_1, high_1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(words[2]));
    [high_1 ^ words[1] ^ key[0], low_1, high_0 ^ words[3] ^ key[1], low_0]
}

/// Low and high 32 bits.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The 128-bit counter of two 64-bit numbers.
pub fn counter(low: u64, high: u64) -> [u32; 4] {
    let ([a, b], [c, d]) = (halves(low), halves(high));
    [a, b, c, d]
}

fn first_words(words: [u32; 4]) -> [u32; 2] {
    [words[0], words[1]]
}

/// FNV-1a, 64 bit: turns a label into a counter.
fn fnv_1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NoiseKey = NoiseKey { seed: 7, step: 3, micro_batch: 1 };

    fn draw(key: NoiseKey, purpose: Purpose, name: &str) -> Vec<f32> {
        Stream::new(&key, purpose, name).uniforms(64, 1e-6)
    }

    /// The known-answer vectors of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn a_key_always_gives_the_same_bits_and_any_part_of_it_matters() {
        let base = draw(KEY, Purpose::Gates, "hidden");
        assert_eq!(base, draw(KEY, Purpose::Gates, "hidden"));
        let others = [
            draw(NoiseKey { seed: 8, ..KEY }, Purpose::Gates, "hidden"),
            draw(NoiseKey { step: 4, ..KEY }, Purpose::Gates, "hidden"),
            draw(NoiseKey { micro_batch: 2, ..KEY }, Purpose::Gates, "hidden"),
            draw(NoiseKey { step: 1, micro_batch: 3, ..KEY }, Purpose::Gates, "hidden"),
            draw(NoiseKey { seed: 7 << 32, ..KEY }, Purpose::Gates, "hidden"),
            draw(KEY, Purpose::Init, "hidden"),
            draw(KEY, Purpose::Gates, "layer"),
        ];
        for other in others {
            assert!(base.iter().zip(&other).all(|(a, b)| a != b));
        }
    }

    /// Fixes the stream itself: a change of key derivation or of the mapping to (0, 1) would break the resume of old runs.
    /// The bits were computed by a second implementation, in Python.
    #[test]
    fn the_stream_is_a_fixed_function() {
        let found: Vec<u32> = draw(KEY, Purpose::Gates, "hidden").iter().take(4).map(|value| value.to_bits()).collect();
        assert_eq!(found, [0x3d53_7d90, 0x3e74_131c, 0x3e1e_ec4c, 0x3ed8_c2c2]);
    }

    #[test]
    fn an_element_does_not_depend_on_how_many_are_drawn() {
        let stream = Stream::new(&KEY, Purpose::Gates, "hidden");
        let long = stream.uniforms(1001, 1e-6);
        for count in [0, 1, 3, 4, 5, 999] {
            assert_eq!(stream.uniforms(count, 1e-6), long[..count]);
        }
    }

    #[test]
    fn uniforms_stay_off_the_borders_and_fill_the_interval() {
        assert_eq!(uniform(0, 1e-6), 1e-6);
        assert_eq!(uniform(u32::MAX, 1e-6), 1.0 - 1e-6);
        assert_eq!(uniform(1 << 31, 1e-6), 0.5 + 0.5 / (1u32 << 23) as f32);
        let values = Stream::new(&KEY, Purpose::Gates, "intermediate").uniforms(200_000, 1e-6);
        let mut bins = [0u32; 20];
        for value in values {
            assert!((1e-6..=1.0 - 1e-6).contains(&value));
            bins[(value * 20.0) as usize] += 1;
        }
        // 10,000 expected per bin, standard deviation 97: six of them.
        assert!(bins.iter().all(|count| count.abs_diff(10_000) < 600), "{bins:?}");
    }

    #[test]
    fn every_token_of_every_text_has_a_number_of_its_own() {
        let mut drawn: Vec<f64> = Vec::new();
        for (seed, text) in [(1, 0), (1, 1), (2, 0)] {
            drawn.extend((0..1000).map(|step| token_uniform(seed, text, step)));
        }
        assert_eq!(drawn[..1000], (0..1000).map(|step| token_uniform(1, 0, step)).collect::<Vec<_>>());
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
        drawn.sort_by(f64::total_cmp);
        // 2²³ cells: a few of 3,000 may meet.
        assert!(drawn.windows(2).filter(|pair| pair[0] == pair[1]).count() < 10);
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let values = Stream::new(&KEY, Purpose::Init, "hidden").normals(100_000);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!(values.iter().all(|value| value.is_finite()));
    }
}
