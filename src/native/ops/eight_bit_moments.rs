//! AdamW's moments in 8 bits each, by plain operators: what an update in 8 bits is compared with. `cu/moments.h` has the
//! format and its reasons.
//!
//! ```text
//! v = 0, or 2^e · (1 + f/4)       e in −56 … 7, f in 0 … 3                                   uint8
//! m = B · √v · ±(k/127)²          B = (1−β₁) / √((1−β₂)(1−β₁²/β₂)), plus an eighth           int8
//! ```
//!
//! B bounds |m|/√v by Cauchy and Schwarz, for any gradients, where β₁² < β₂; the eighth is for the rounding of v.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_from_eight_bits(
        first: CTensor,
        second: CTensor,
        beta1: f64,
        beta2: f64,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
    #[allow(clippy::too_many_arguments)]
    fn shearling_to_eight_bits(
        first: CTensor,
        second: CTensor,
        beta1: f64,
        beta2: f64,
        key: u32,
        place: i64,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// m and v in fp32, of `first` (int8) and `second` (uint8).
///
/// # Errors
/// As libtorch's operators.
pub fn from_eight_bits(first: &Tensor, second: &Tensor, betas: [f64; 2]) -> Result<[Tensor; 2], TchError> {
    // SAFETY: both live for the time of the call, which gives two tensors.
    let both = shim::tensors(2, |out, error| unsafe {
        shearling_from_eight_bits(shim::pointer(first), shim::pointer(second), betas[0], betas[1], out, error)
    });
    pair(both?)
}

/// m as int8 and v as uint8, of fp32 `first` and `second`; the chance by which they are rounded follows from `key` and the
/// numbers' places, the first of which is at `place`.
///
/// # Errors
/// As libtorch's operators.
pub fn to_eight_bits(
    first: &Tensor,
    second: &Tensor,
    betas: [f64; 2],
    key: u32,
    place: i64,
) -> Result<[Tensor; 2], TchError> {
    let (first, second) = (shim::pointer(first), shim::pointer(second));
    // SAFETY: both live for the time of the call, which gives two tensors.
    let both = shim::tensors(2, |out, error| unsafe {
        shearling_to_eight_bits(first, second, betas[0], betas[1], key, place, out, error)
    });
    pair(both?)
}

fn pair(both: Vec<Tensor>) -> Result<[Tensor; 2], TchError> {
    both.try_into().map_err(|_| TchError::Torch("expected two tensors".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const BETAS: [f64; 2] = [0.9, 0.95];
    const BOUND: f64 = 1.125 * 1.164_964_745_021_435_6;

    fn of(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float)).unwrap()
    }

    #[test]
    fn codes_are_numbers_of_the_format() {
        let seconds = Tensor::arange(256, (Kind::Uint8, Device::Cpu));
        let [_, v] = from_eight_bits(&seconds.zeros_like().to_kind(Kind::Int8), &seconds, BETAS).unwrap();
        for (code, v) in values(&v).into_iter().enumerate() {
            let (exponent, fraction) = ((code as i32 - 1).div_euclid(4), (code as i32 - 1).rem_euclid(4));
            let expected = 2f64.powi(exponent - 56) * (1.0 + f64::from(fraction) / 4.0);
            assert_eq!(f64::from(v), if code == 0 { 0.0 } else { expected }, "{code}");
        }
        let firsts = Tensor::arange_start(-127, 128, (Kind::Int8, Device::Cpu));
        let quarter = Tensor::full([255], 1 + 4 * 54, (Kind::Uint8, Device::Cpu));
        let [m, _] = from_eight_bits(&firsts, &quarter, BETAS).unwrap();
        for (k, m) in (-127..128).zip(values(&m)) {
            let share = f64::from(k) / 127.0;
            let expected = BOUND * 0.5 * share * share.abs();
            assert!((f64::from(m) - expected).abs() < 1e-6, "{k}: {m} {expected}");
        }
    }

    #[test]
    fn numbers_of_the_format_stay_as_they_are() {
        let seconds = Tensor::arange(256, (Kind::Uint8, Device::Cpu));
        let firsts = seconds.zeros_like().to_kind(Kind::Int8);
        let [m, v] = from_eight_bits(&firsts, &seconds, BETAS).unwrap();
        for key in 0..20 {
            let [first, second] = to_eight_bits(&m, &v, BETAS, key * 77, 5).unwrap();
            assert!(first.equal(&firsts) && second.equal(&seconds));
        }
    }

    /// Rounded many times with other keys, each number is itself in the mean, and never further off than a level.
    #[test]
    fn rounding_is_right_in_the_mean() {
        let m = of(&[0.01, -0.3, 0.0005, 1e-6, -0.07, 0.0]);
        let v = of(&[0.09, 0.11, 1e-5, 3e-9, 0.02, 0.7]);
        let rounds = 20_000;
        let (mut sum_m, mut sum_v) = (m.zeros_like(), v.zeros_like());
        for key in 0..rounds {
            let [first, second] = to_eight_bits(&m, &v, BETAS, key, 0).unwrap();
            let [m_again, v_again] = from_eight_bits(&first, &second, BETAS).unwrap();
            let off = values(&((&v_again - &v).abs() / &v));
            assert!(off.iter().all(|off| *off < 0.25), "{off:?}");
            (sum_m, sum_v) = (sum_m + m_again, sum_v + v_again);
        }
        let mean = |sum: &Tensor| values(&(sum / f64::from(rounds)));
        for (found, expected) in mean(&sum_v).into_iter().zip(values(&v)) {
            assert!((found / expected - 1.0).abs() < 0.004, "v: {found} {expected}");
        }
        for (found, expected) in mean(&sum_m).into_iter().zip(values(&m)) {
            assert!((found - expected).abs() <= 0.004 * expected.abs(), "m: {found} {expected}");
        }
    }

    /// The first moment never needs more than its bound: gradients of the worst kind come near to it.
    #[test]
    fn the_bound_holds_for_any_gradients() {
        let (mut m, mut v, mut largest): (f64, f64, f64) = (0.0, 0.0, 0.0);
        // g ∝ (β₁/β₂)^(steps to go) is where Cauchy and Schwarz meet.
        for step in 0..400 {
            let g = (BETAS[0] / BETAS[1]).powi(400 - step);
            m = BETAS[0] * m + (1.0 - BETAS[0]) * g;
            v = BETAS[1] * v + (1.0 - BETAS[1]) * g * g;
            largest = largest.max(m / v.sqrt());
        }
        let bound = BOUND / 1.125;
        assert!(largest < bound * (1.0 + 1e-9) && largest > 0.99 * bound, "{largest} {bound}");
    }

    #[test]
    fn zero_stays_zero_and_extremes_are_met() {
        let m = of(&[0.0, 1e-20, 5.0, -5.0, 3e4]);
        let v = of(&[0.0, 1e-36, 1e-3, 1e-3, 1e9]);
        let [first, second] = to_eight_bits(&m, &v, BETAS, 9, 0).unwrap();
        assert_eq!(values(&second)[..2], [0.0, 1.0]);
        assert_eq!(values(&second)[4], 255.0);
        assert_eq!(values(&first), [0.0, 0.0, 127.0, -127.0, 127.0]);
    }

    #[test]
    fn parts_of_a_tensor_are_rounded_as_the_whole() {
        let m = (Tensor::arange(1000, (Kind::Double, Device::Cpu)) * 0.7).sin().to_kind(Kind::Float) * 0.01;
        let v = m.square() + 1e-3;
        let whole = to_eight_bits(&m, &v, BETAS, 4, 0).unwrap();
        let part = to_eight_bits(&m.narrow(0, 300, 500), &v.narrow(0, 300, 500), BETAS, 4, 300).unwrap();
        for (whole, part) in whole.iter().zip(&part) {
            assert!(whole.narrow(0, 300, 500).equal(part));
        }
    }
}
