//! Whether all numbers of a stored tensor are finite, read off its bytes.
//!
//! An exponent of ones is an infinity or a NaN in every one of the formats, so a number is judged by its bits alone. That is one
//! pass over bytes that are about to be copied anyway, and brings them into memory: on one core some gigabytes a second, a
//! second or two for a 7B in bf16, where reading it from a disk takes longer.

use super::DType;

/// Numbers that are looked at together: enough for vector instructions, few enough that a damaged file is left early.
const BLOCK: usize = 1 << 14;

/// What is not finite in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NonFinite {
    /// Numbers that are NaN.
    pub(crate) nan: usize,
    /// Numbers that are infinite.
    pub(crate) infinite: usize,
    /// Index of the first of them, in row-major order.
    pub(crate) first: usize,
}

/// The numbers that are not finite; `None` where all are. `bytes` are whole numbers of `dtype`, little endian.
pub(crate) fn non_finite(bytes: &[u8], dtype: DType) -> Option<NonFinite> {
    match dtype {
        DType::F32 => scan(bytes, u32::from_le_bytes, 0x7f80_0000, 0x007f_ffff),
        DType::BF16 => scan(bytes, u16::from_le_bytes, 0x7f80, 0x007f),
        DType::F16 => scan(bytes, u16::from_le_bytes, 0x7c00, 0x03ff),
    }
}

/// `exponent` and `mantissa` are the masks of a number's bits.
fn scan<const N: usize, B>(bytes: &[u8], bits: impl Fn([u8; N]) -> B, exponent: B, mantissa: B) -> Option<NonFinite>
where
    B: Copy + Default + PartialEq + std::ops::BitAnd<Output = B>,
{
    let (numbers, _) = bytes.as_chunks::<N>();
    let special = |number: &[u8; N]| bits(*number) & exponent == exponent;
    let mut found: Option<NonFinite> = None;
    for (block, numbers) in numbers.chunks(BLOCK).enumerate() {
        // Without a branch per number, so that it vectorises.
        if !numbers.iter().fold(false, |any, number| any | special(number)) {
            continue;
        }
        for (index, number) in numbers.iter().enumerate().filter(|(_, number)| special(number)) {
            let first = block * BLOCK + index;
            let all = found.get_or_insert(NonFinite { nan: 0, infinite: 0, first });
            let infinite = bits(*number) & mantissa == B::default();
            *(if infinite { &mut all.infinite } else { &mut all.nan }) += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::bytes;
    use tch::Tensor;

    #[test]
    fn what_is_not_finite_is_counted_in_every_format_and_place() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let stored = |numbers: &[f32]| bytes(&Tensor::from_slice(numbers).to_kind(dtype.kind())).to_vec();
            let largest = if dtype == DType::F16 { 65504.0 } else { 3.3e38 };
            assert_eq!(non_finite(&stored(&[0.0, -0.0, 1e-40, largest, -largest]), dtype), None);
            assert_eq!(non_finite(&[], dtype), None);
            for place in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 16] {
                let mut numbers = vec![1.0; 2 * BLOCK + 17];
                numbers[place] = f32::NAN;
                let one = NonFinite { nan: 1, infinite: 0, first: place };
                assert_eq!(non_finite(&stored(&numbers), dtype), Some(one));
            }
            let many = stored(&[1.0, f32::INFINITY, -f32::NAN, f32::NEG_INFINITY]);
            assert_eq!(non_finite(&many, dtype), Some(NonFinite { nan: 1, infinite: 2, first: 1 }));
        }
        // Too large for the format that it was written in.
        let over = bytes(&Tensor::from_slice(&[7e4f32]).to_kind(tch::Kind::Half)).to_vec();
        assert_eq!(non_finite(&over, DType::F16).map(|found| found.infinite), Some(1));
    }
}
