//! Gate noise made where the masks live: Philox4x32-10 of the crate `shearling-noise` as tensor operations, for the units of all masks at once.
//!
//! The same keys, counters and mapping to (0, 1) as [`Stream::uniforms`], so the same bits on every device; what does not
//! change from forward to forward is put on the device once. A call sends nothing there but scalar arguments of kernels:
//! no copy, no synchronisation, about ninety small kernels whatever the number of masks.
//!
//! Words are unsigned 32-bit numbers in int64 tensors. Both multipliers m exceed 2³¹, so with m' = m − 2³² the product
//!
//! ```text
//! m·w = m'·w + 2³²·w,      |m'·w| < 2⁶²,      high(m·w) = ⌊m'·w / 2³²⌋ + w,      low(m·w) = m'·w mod 2³²
//! ```
//!
//! never leaves the signed range: `>>` is the floor, `&` the remainder. Letters: M masks, N blocks of four numbers.

use crate::error::Result;
use crate::gates::Gates;
use crate::spec::ModuleSpec;
use shearling_noise::{
    CELLS_LOG2, KEY_INCREMENTS, MULTIPLIERS, NoiseKey, Purpose, ROUNDS, Stream, WORDS_PER_BLOCK, counter,
};
use tch::{Device, Kind, Tensor};

const WORD_BITS: i64 = 32;
const WORD_MASK: i64 = (1 << WORD_BITS) - 1;

/// The constant part of the noise of a set of masks, on its device.
#[derive(Debug)]
pub(crate) struct DeviceNoise {
    device: Device,
    places: Vec<Place>,
    /// Words 0 and 2 of every block's counter, `[2, N]`.
    even: Tensor,
    /// Words 1 and 3, `[2, N]`.
    odd: Tensor,
    /// Which mask a block belongs to, `[N]`.
    mask_of_block: Tensor,
    /// m' of words 2 and 0, `[2, 1]`.
    multipliers: Tensor,
    /// What each round adds to the key, `[10, 2, 1]`.
    key_offsets: Tensor,
}

/// Where the numbers of a mask begin; it starts with a fresh block.
#[derive(Debug)]
struct Place {
    spec: ModuleSpec,
    start: i64,
}

impl DeviceNoise {
    /// Prepares the noise of these masks.
    ///
    /// # Errors
    /// libtorch's, when the device has no room.
    pub(crate) fn new(specs: &[ModuleSpec], device: Device) -> Result<DeviceNoise> {
        let (mut places, mut blocks, mut mask_of_block) = (Vec::new(), Vec::new(), Vec::new());
        for (mask, spec) in specs.iter().enumerate() {
            places.push(Place { spec: spec.clone(), start: (blocks.len() * WORDS_PER_BLOCK) as i64 });
            let count = (spec.units() as u64).div_ceil(WORDS_PER_BLOCK as u64);
            blocks.extend((0..count).map(|block| counter(block, 0).map(i64::from)));
            mask_of_block.extend((0..count).map(|_| mask as i64));
        }
        let on_device = |values: &[i64], dims: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view(dims)?.f_to_device(device)?)
        };
        let rows = |words: [usize; 2]| -> Result<Tensor> {
            let values: Vec<i64> = words.iter().flat_map(|&word| blocks.iter().map(move |block| block[word])).collect();
            on_device(&values, &[2, -1])
        };
        Ok(DeviceNoise {
            device,
            places,
            even: rows([0, 2])?,
            odd: rows([1, 3])?,
            mask_of_block: on_device(&mask_of_block, &[-1])?,
            multipliers: on_device(&[reduced(MULTIPLIERS[1]), reduced(MULTIPLIERS[0])], &[2, 1])?,
            key_offsets: on_device(&key_offsets(), &[ROUNDS as i64, 2, 1])?,
        })
    }

    /// Uniforms in [ε, 1−ε] for every mask, fp32, in the places of their gates.
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn uniforms(&self, key: &NoiseKey, epsilon: f32) -> Result<Gates> {
        let values = to_uniforms(&self.words(&self.keys(key)?)?, epsilon)?;
        let mut uniforms = Gates::none();
        for Place { spec, start } in &self.places {
            let own = values.f_narrow(0, *start, spec.units())?.f_view(&spec.dims()[..])?;
            uniforms.set(spec.module, Some(own));
        }
        Ok(uniforms)
    }

    /// The stream keys of all masks, `[2, M]`: filled in as scalars, for a copy from the host would wait for the device.
    fn keys(&self, key: &NoiseKey) -> Result<Tensor> {
        let keys = Tensor::f_empty([2, self.places.len() as i64], (Kind::Int64, self.device))?;
        for (mask, place) in self.places.iter().enumerate() {
            let words = Stream::new(key, Purpose::Gates, place.spec.module.name()).key();
            for (half, word) in words.into_iter().enumerate() {
                let _ = keys.f_select(0, half as i64)?.f_select(0, mask as i64)?.f_fill_(i64::from(word))?;
            }
        }
        Ok(keys)
    }

    /// The random words of all blocks under these keys `[2, M]`, in the order of the stream, `[4·N]`.
    fn words(&self, keys: &Tensor) -> Result<Tensor> {
        let round_keys = keys.f_add(&self.key_offsets)?.f_bitwise_and(WORD_MASK)?;
        let round_keys = round_keys.f_index_select(2, &self.mask_of_block)?;
        let (mut even, mut odd) = (self.even.shallow_clone(), self.odd.shallow_clone());
        for index in 0..ROUNDS {
            (even, odd) = self.round(&even, &odd, &round_keys.f_select(0, index as i64)?)?;
        }
        let interleaved = Tensor::f_stack(&[even.f_transpose(0, 1)?, odd.f_transpose(0, 1)?], -1)?;
        Ok(interleaved.f_reshape([-1])?)
    }

    /// One round: the high halves of the swapped products, mixed with the odd words and the key, become the even words; the
    /// low halves become the odd ones. All `[2, N]`.
    fn round(&self, even: &Tensor, odd: &Tensor, key: &Tensor) -> Result<(Tensor, Tensor)> {
        let swapped = even.f_flip([0])?;
        let mut product = swapped.f_mul(&self.multipliers)?;
        let mut high = product.f_bitwise_right_shift_tensor_scalar(WORD_BITS)?;
        let high = high.f_add_(&swapped)?.f_bitwise_xor_tensor_(odd)?.f_bitwise_xor_tensor_(key)?;
        Ok((high, product.f_bitwise_and_(WORD_MASK)?))
    }
}

/// m − 2³².
fn reduced(multiplier: u32) -> i64 {
    i64::from(multiplier) - (1 << WORD_BITS)
}

/// What the key has grown by at each round, for its two words.
fn key_offsets() -> Vec<i64> {
    let at_round = |round: usize| KEY_INCREMENTS.map(|increment| i64::from(increment.wrapping_mul(round as u32)));
    (0..ROUNDS).flat_map(at_round).collect()
}

/// The mapping of `noise::uniform`; every step but the clamp is exact in fp32.
fn to_uniforms(words: &Tensor, epsilon: f32) -> Result<Tensor> {
    let cells = words.f_bitwise_right_shift_tensor_scalar(WORD_BITS - i64::from(CELLS_LOG2))?;
    let mut values = cells.f_to_kind(Kind::Float)?.f_add_scalar_(0.5)?;
    let mut values = values.f_mul_scalar_(1.0 / f64::from(1u32 << CELLS_LOG2))?;
    Ok(values.f_clamp_(f64::from(epsilon), f64::from(1.0 - epsilon))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::cpu_values;
    use crate::shape::UnitKind;
    use shearling_noise::philox4x32_10;

    const EPSILON: f32 = 1e-6;

    /// Every kind of unit; only `intermediate` fills whole blocks, `layer` less than one.
    fn specs() -> Vec<ModuleSpec> {
        let spec = |module, rows, size| ModuleSpec { module, rows, size, target: 1 };
        vec![
            spec(UnitKind::Layer, 1, 3),
            spec(UnitKind::KvHead, 3, 7),
            spec(UnitKind::QueryHead, 3, 3),
            spec(UnitKind::Intermediate, 3, 4 * 101),
            spec(UnitKind::Hidden, 1, 1025),
        ]
    }

    /// The CPU, and a GPU if this process has one.
    fn devices() -> Vec<Device> {
        let mut devices = vec![Device::Cpu, Device::cuda_if_available()];
        devices.dedup();
        devices
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn assert_equals_streams(noise: &DeviceNoise, specs: &[ModuleSpec], key: &NoiseKey, epsilon: f32) {
        let found = noise.uniforms(key, epsilon).unwrap();
        for spec in specs {
            let tensor = found.get(spec.module).unwrap();
            assert_eq!((tensor.size(), tensor.kind(), tensor.device()), (spec.dims(), Kind::Float, noise.device));
            let stream = Stream::new(key, Purpose::Gates, spec.module.name());
            let expected = stream.uniforms(spec.units() as usize, epsilon);
            assert_eq!(bits(&cpu_values(tensor).unwrap()), bits(&expected), "{key:?} {}", spec.module);
        }
    }

    #[test]
    fn every_number_has_the_bits_of_the_scalar_stream() {
        let large = [0, 1, 2, 1 << 31, u64::from(u32::MAX), 1 << 32, (1 << 32) + 7, (7 << 40) + 5, u64::MAX];
        for device in devices() {
            let noise = DeviceNoise::new(&specs(), device).unwrap();
            for (at, &value) in large.iter().enumerate() {
                let [other, third] = [large[(at + 3) % large.len()], large[(at + 5) % large.len()]];
                let key = NoiseKey { seed: value, step: other, micro_batch: third };
                assert_equals_streams(&noise, &specs(), &key, EPSILON);
            }
        }
    }

    #[test]
    fn any_number_of_masks_and_units_and_any_epsilon() {
        let key = NoiseKey { seed: 5, step: (3 << 32) + 1, micro_batch: 2 };
        for (index, spec) in specs().into_iter().enumerate() {
            for size in 1..10 {
                let specs = [ModuleSpec { size, ..spec.clone() }];
                let epsilon = [1e-7, 1e-6, 0.1, 0.49][index % 4];
                assert_equals_streams(&DeviceNoise::new(&specs, Device::Cpu).unwrap(), &specs, &key, epsilon);
            }
        }
    }

    #[test]
    fn words_of_any_counter_and_key_are_those_of_philox() {
        // Corners of the 32-bit range, where a signed product would go wrong, and counters spread by Philox itself.
        let corners = [0, 1, (1 << 31) - 1, 1 << 31, u32::MAX - 1, u32::MAX];
        let spread = (0..500).map(|index| philox4x32_10([index, 0, 0, 0], [1, 2]));
        let mixed = (0..36).map(|index| [corners[index % 6], corners[index / 6], corners[5 - index % 6], corners[0]]);
        let counters: Vec<[u32; 4]> = corners.iter().map(|&word| [word; 4]).chain(mixed).chain(spread).collect();
        let row = |words: [usize; 2]| {
            let values = words.iter().flat_map(|&word| counters.iter().map(move |c| i64::from(c[word])));
            Tensor::from_slice(&values.collect::<Vec<i64>>()).view([2, -1])
        };
        let units = (counters.len() * WORDS_PER_BLOCK) as i64;
        let specs = [ModuleSpec { module: UnitKind::Hidden, rows: 1, size: units, target: 1 }];
        let noise = DeviceNoise::new(&specs, Device::Cpu).unwrap();
        let noise = DeviceNoise { even: row([0, 2]), odd: row([1, 3]), ..noise };
        for key in [[0; 2], [u32::MAX; 2], [0xa409_3822, 0x299f_31d0], [1 << 31, 1]] {
            let keys = Tensor::from_slice(&key.map(i64::from)).view([2, 1]);
            let found = Vec::<i64>::try_from(noise.words(&keys).unwrap()).unwrap();
            let expected: Vec<i64> = counters.iter().flat_map(|&c| philox4x32_10(c, key)).map(i64::from).collect();
            assert_eq!(found, expected, "{key:?}");
        }
    }
}
