//! fp32 tensors in two halves of 16 bits: what bf16 training keeps of a weight.
//!
//! ```text
//! bits(p) = 2¹⁶ · bits(high) + low        high = bf16(p), rounded to nearest        low in −2¹⁵ … 2¹⁵ − 1
//! ```
//!
//! Forward and backward use `high`, the optimiser both: the copy in bf16 takes no memory of its own, and no bit of the fp32
//! number is lost. Ties are rounded away from zero, not to even, since the remainder 2¹⁵ has no place in 16 bits with a
//! sign; that is as near, and concerns one number in 2¹⁷.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_join_halves(high: CTensor, low: CTensor, out: *mut CTensor, error: CError) -> c_int;
    fn shearling_split_halves(whole: CTensor, high: CTensor, low: CTensor, error: CError) -> c_int;
}

/// fp32 of the shape of `high` (bf16) and `low` (int16), in memory of its own.
///
/// # Errors
/// Other dtypes, or two shapes.
pub fn join(high: &Tensor, low: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: both live for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_join_halves(shim::pointer(high), shim::pointer(low), out, error) })
}

/// `high` (bf16) and `low` (int16) of fp32 `whole`.
///
/// # Errors
/// As [`split_into`].
pub fn split(whole: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let empty = |kind| Tensor::f_empty(whole.size(), (kind, whole.device()));
    let (high, low) = (empty(Kind::BFloat16)?, empty(Kind::Int16)?);
    split_into(whole, &high, &low)?;
    Ok((high, low))
}

/// The halves of fp32 contiguous `whole` in its own memory: all upper ones, then all lower ones. Other tensors over that memory
/// have no meaning afterwards.
///
/// # Errors
/// As [`split_into`]; a tensor that is not contiguous.
pub fn split_in_place(whole: Tensor) -> Result<(Tensor, Tensor), TchError> {
    let _no_grad = tch::no_grad_guard();
    let (high, low) = split(&whole)?;
    let memory = whole.f_detach()?.f_view([-1])?.f_view_dtype(Kind::Int16)?;
    let count = whole.numel() as i64;
    let place = |start, values: &Tensor| {
        let place = memory.f_narrow(0, start, count)?.f_view_dtype(values.kind())?.f_view(&whole.size()[..])?;
        place.shallow_clone().f_copy_(values)?;
        Ok::<Tensor, TchError>(place)
    };
    Ok((place(0, &high)?, place(count, &low)?))
}

/// Writes the halves of fp32 `whole` into `high` (bf16) and `low` (int16) of its shape. NaN loses its payload.
///
/// # Errors
/// Other dtypes, or several shapes.
pub fn split_into(whole: &Tensor, high: &Tensor, low: &Tensor) -> Result<(), TchError> {
    // SAFETY: all live for the time of the call.
    shim::check(|error| unsafe {
        shearling_split_halves(shim::pointer(whole), shim::pointer(high), shim::pointer(low), error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn of_bits(bits: &[u32]) -> Tensor {
        Tensor::from_slice(&bits.iter().map(|bits| *bits as i32).collect::<Vec<_>>()).view_dtype(Kind::Float)
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let bits: Vec<i32> = Vec::try_from(tensor.view_dtype(Kind::Int)).unwrap();
        bits.into_iter().map(|bits| bits as u32).collect()
    }

    /// Every lower half beside upper halves of both signs: zeros, denormal, the largest finite, infinity.
    #[test]
    fn no_bit_of_a_number_is_lost() {
        for upper in [0u32, 0x0001, 0x007f, 0x3f80, 0x3f81, 0x4049, 0x7f7f, 0x8000, 0xbf80, 0xc2f7, 0xff7f] {
            let all: Vec<u32> = (0..1 << 16).map(|lower| upper << 16 | lower).collect();
            let (high, low) = split(&of_bits(&all)).unwrap();
            assert_eq!(bits(&join(&high, &low).unwrap()), all, "{upper:x}");
        }
        let special = [0x7f80_0000, 0xff80_0000];
        let (high, low) = split(&of_bits(&special)).unwrap();
        assert_eq!(bits(&join(&high, &low).unwrap()), special);
    }

    #[test]
    fn the_upper_half_is_the_nearest_bf16_number() {
        let values = (Tensor::arange(100_000, (Kind::Double, Device::Cpu)) * 0.37).sin().to_kind(Kind::Float);
        let (high, _) = split(&values).unwrap();
        assert!(high.equal(&values.to_kind(Kind::BFloat16)), "no tie is among these");
        // Halfway between two: away from zero, where libtorch goes to the even one.
        let ties = of_bits(&[0x3f80_8000, 0x3f81_8000, 0xbf80_8000]);
        let (high, low) = split(&ties).unwrap();
        assert_eq!(Vec::<i16>::try_from(high.view_dtype(Kind::Int16)).unwrap(), [0x3f81, 0x3f82, 0xbf81u16 as i16]);
        assert_eq!(Vec::<i16>::try_from(low).unwrap(), [i16::MIN; 3]);
    }

    #[test]
    fn halves_take_the_place_of_the_number() {
        let whole = (Tensor::arange(15, (Kind::Float, Device::Cpu)) * 0.37).view([3, 5]);
        let (expected, memory) = (whole.copy(), whole.data_ptr());
        let (high, low) = split_in_place(whole).unwrap();
        assert_eq!((high.data_ptr(), high.size(), low.size()), (memory, vec![3, 5], vec![3, 5]));
        assert_eq!(low.data_ptr() as usize, memory as usize + 2 * 15);
        assert!(join(&high, &low).unwrap().equal(&expected));
        let transposed = Tensor::zeros([3, 5], (Kind::Float, Device::Cpu)).transpose(0, 1);
        assert!(split_in_place(transposed).is_err());
        let (high, _) = split_in_place(Tensor::zeros([0], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(high.numel(), 0);
    }

    #[test]
    fn nan_of_any_payload_and_sign_stays_nan() {
        let (high, low) = split(&of_bits(&[0x7fff_ffff, 0xffff_ffff, 0x7f80_0001])).unwrap();
        for tensor in [high.to_kind(Kind::Float), join(&high, &low).unwrap()] {
            assert!(bool::try_from(tensor.isnan().all()).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (high, low) = split(&Tensor::zeros([4], (Kind::Float, Device::Cpu))).unwrap();
        assert!(join(&low, &high).unwrap_err().to_string().contains("expected bf16 and int16"));
        assert!(join(&high.narrow(0, 0, 2), &low).unwrap_err().to_string().contains("of shapes [2] and [4]"));
        assert!(split(&high).unwrap_err().to_string().contains("expected fp32"));
    }
}
