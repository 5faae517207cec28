//! The three float formats of weights as they lie in files: read to fp32, rounded to nearest even when written.
//!
//! Everything is a choice between integer expressions, never a branch, so that loops over rows become vector code on
//! any target; neither Rust's stable library nor every processor has 16-bit floats.

/// The bytes of one number.
pub(super) trait NumberBytes: Copy + Default {
    /// A row as numbers; an incomplete one at the end is left out.
    fn split(row: &[u8]) -> &[Self];

    /// The same, to be written.
    fn split_mut(row: &mut [u8]) -> &mut [Self];
}

impl<const N: usize> NumberBytes for [u8; N]
where
    [u8; N]: Default,
{
    fn split(row: &[u8]) -> &[[u8; N]] {
        row.as_chunks().0
    }

    fn split_mut(row: &mut [u8]) -> &mut [[u8; N]] {
        row.as_chunks_mut().0
    }
}

/// One number of a weight file, little endian.
pub(super) trait Element {
    /// Its bytes.
    type Bytes: NumberBytes;

    /// See [`NumberBytes::split`].
    fn split(row: &[u8]) -> &[Self::Bytes] {
        Self::Bytes::split(row)
    }

    /// See [`NumberBytes::split_mut`].
    fn split_mut(row: &mut [u8]) -> &mut [Self::Bytes] {
        Self::Bytes::split_mut(row)
    }

    /// Its value; exact.
    fn load(bytes: Self::Bytes) -> f32;

    /// The nearest number of this format; ties to even, beyond the largest infinity, NaN a quiet NaN.
    fn store(value: f32) -> Self::Bytes;
}

/// IEEE single precision.
pub(super) struct F32;
/// bfloat16: the upper half of a single.
pub(super) struct BF16;
/// IEEE half precision.
pub(super) struct F16;

/// Bits of the smallest fp32 that is infinite.
const INFINITE: u32 = 0x7f80_0000;

impl Element for F32 {
    type Bytes = [u8; 4];

    #[inline(always)]
    fn load(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn store(value: f32) -> [u8; 4] {
        value.to_le_bytes()
    }
}

impl Element for BF16 {
    type Bytes = [u8; 2];

    #[inline(always)]
    fn load(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }

    #[inline(always)]
    fn store(value: f32) -> [u8; 2] {
        let bits = value.to_bits();
        // Half of the last place, less one where that place is even; a carry into the exponent is right.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x0040;
        let kept = if bits & !SIGN > INFINITE { quiet } else { rounded };
        (kept as u16).to_le_bytes()
    }
}

const SIGN: u32 = 0x8000_0000;
/// 2^112: the difference of the two exponents' biases.
const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
/// Bits of 2^-14, the smallest normal half.
const HALF_NORMAL: u32 = (127 - 14) << 23;
/// Bits of 65520, which rounds beyond the largest half.
const HALF_OVERFLOW: u32 = 0x477f_f000;

impl Element for F16 {
    type Bytes = [u8; 2];

    #[inline(always)]
    fn load(bytes: [u8; 2]) -> f32 {
        let half = u32::from(u16::from_le_bytes(bytes));
        let shifted = (half & 0x7fff) << 13;
        let finite = (f32::from_bits(shifted) * REBIAS).to_bits();
        let magnitude = if shifted >= 0x7c00 << 13 { shifted | INFINITE } else { finite };
        f32::from_bits(magnitude | (half & 0x8000) << 16)
    }

    #[inline(always)]
    fn store(value: f32) -> [u8; 2] {
        let sign = (value.to_bits() & SIGN) >> 16;
        let magnitude = value.to_bits() & !SIGN;
        let normal = (magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13).wrapping_sub(112 << 10);
        // Next to 0.5 the last place of a single is that of a subnormal half: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < HALF_NORMAL { subnormal } else { normal };
        let bounded = if magnitude >= HALF_OVERFLOW { 0x7c00 } else { finite };
        let kept = if magnitude > INFINITE { 0x7e00 } else { bounded };
        ((sign | kept) as u16).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    /// fp32 numbers of all exponents, with every pattern of the bits at which 16-bit formats round, and both signs.
    fn samples() -> Vec<f32> {
        let tails =
            [0u32, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000, 0x7f_ffff];
        let bits = (0..512u32).flat_map(|top| tails.map(|tail| top << 23 | tail));
        bits.map(f32::from_bits).filter(|value| !value.is_nan()).collect()
    }

    fn check_stores<E: Element<Bytes = [u8; 2]>>(kind: Kind) {
        let values = samples();
        let expected = Tensor::from_slice(&values).to_kind(kind);
        let mut bytes = vec![0u8; values.len() * 2];
        expected.copy_data_u8(&mut bytes, values.len());
        for (value, expected) in values.iter().zip(E::split(&bytes)) {
            assert_eq!(E::store(*value), *expected, "{value:e} {:#x}", value.to_bits());
        }
    }

    fn check_loads<E: Element<Bytes = [u8; 2]>>(kind: Kind) {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let tensor = Tensor::from_data_size(&bytes, &[1 << 16], kind).to_kind(Kind::Float);
        let expected = Vec::<f32>::try_from(tensor).unwrap();
        for (bytes, expected) in E::split(&bytes).iter().zip(expected) {
            let value = E::load(*bytes);
            assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{bytes:?}");
            // There and back is the same number.
            assert!(E::store(value) == *bytes || value.is_nan(), "{bytes:?}");
        }
    }

    #[test]
    fn rounding_is_libtorchs() {
        check_stores::<BF16>(Kind::BFloat16);
        check_stores::<F16>(Kind::Half);
    }

    #[test]
    fn every_16_bit_number_reads_as_in_libtorch() {
        check_loads::<BF16>(Kind::BFloat16);
        check_loads::<F16>(Kind::Half);
    }

    #[test]
    fn nan_stays_nan_whatever_its_payload() {
        for bits in [0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff, 0xff80_0001, 0xffff_ffff] {
            let nan = f32::from_bits(bits);
            assert!(BF16::load(BF16::store(nan)).is_nan(), "{bits:#x}");
            assert!(F16::load(F16::store(nan)).is_nan(), "{bits:#x}");
            assert!(F32::load(F32::store(nan)).is_nan(), "{bits:#x}");
        }
    }
}
