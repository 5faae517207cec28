//! Whether every number in the written files is its exact fold, rounded once: element by element, so that one row out of
//! place is found even where the check's rows never read it.

use crate::files::DType;
use crate::prune::Error;
use serde::Serialize;
use tch::{Kind, Tensor};

/// How far the written weights are from their exact fold.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WrittenWeights {
    /// Weights compared.
    pub tensors: usize,
    /// Numbers compared.
    pub elements: u64,
    /// The first number that is not its fold rounded to the dtype; `None` if there is none.
    pub wrong: Option<WrongWeight>,
}

/// A number in a file that is not what the fold gives.
#[derive(Clone, Debug, Serialize)]
pub struct WrongWeight {
    /// The weight.
    pub name: String,
    /// Where in it: row and column, or the index in a vector.
    pub index: Vec<i64>,
    /// The exact fold.
    pub expected: f64,
    /// What the file has.
    pub found: f64,
    /// How many numbers of this weight are wrong.
    pub count: i64,
}

impl WrongWeight {
    /// Whether the number is too large for the dtype, rather than wrong.
    pub fn overflows(&self) -> bool {
        self.expected.is_finite() && self.found.is_infinite()
    }

    /// Whether the source's own number is not finite.
    pub fn was_not_finite(&self) -> bool {
        !self.expected.is_finite()
    }
}

/// Largest relative error of a number that is the fold in fp32 (three roundings: two products, and a product of gates)
/// rounded to `dtype`, and the absolute error where `dtype` has no normal numbers any more.
fn rounding(dtype: DType) -> (f64, f64) {
    let fp32 = 3.0 * 2f64.powi(-24);
    match dtype {
        DType::F32 => (fp32 + 2f64.powi(-24), 2f64.powi(-149)),
        DType::F16 => (fp32 + 2f64.powi(-11), 2f64.powi(-25) * 1.001),
        // bf16 has the exponents of fp32; a value between its last two subnormals is 2^-134 from either.
        DType::BF16 => (fp32 + 2f64.powi(-8), 2f64.powi(-133)),
    }
}

impl WrittenWeights {
    /// Compares a weight as written with its exact fold (fp64, same shape). Each weight is to be compared once.
    pub(super) fn compare(&mut self, name: &str, written: &Tensor, exact: &Tensor, dtype: DType) -> Result<(), Error> {
        self.tensors += 1;
        self.elements += exact.numel() as u64;
        if self.wrong.is_some() {
            return Ok(());
        }
        let (relative, absolute) = rounding(dtype);
        let written = written.f_to_kind(Kind::Double)?;
        let error = written.f_sub(exact)?.f_abs()?;
        // Written so that a NaN on either side is wrong.
        let allowed = exact.f_abs()?.f_mul_scalar(relative)?.f_add_scalar(absolute)?;
        let wrong = error.f_le_tensor(&allowed)?.f_logical_not()?;
        let count = wrong.f_sum(Kind::Int64)?.f_int64_value(&[])?;
        if count > 0 {
            let at = wrong.f_reshape([-1])?.f_to_kind(Kind::Int)?.f_argmax(None, false)?.f_int64_value(&[])?;
            let value = |tensor: &Tensor| tensor.f_reshape([-1])?.f_double_value(&[at]);
            self.wrong = Some(WrongWeight {
                name: name.to_string(),
                index: index_of(at, &exact.size()),
                expected: value(exact)?,
                found: value(&written)?,
                count,
            });
        }
        Ok(())
    }
}

/// The index in a tensor of `shape` of its element `at` in row-major order.
fn index_of(at: i64, shape: &[i64]) -> Vec<i64> {
    match shape {
        [_, columns] => vec![at / columns.max(&1), at % columns.max(&1)],
        _ => vec![at],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn compared(written: &[f64], exact: &[f64], dtype: DType) -> Option<WrongWeight> {
        let mut weights = WrittenWeights::default();
        let tensor = |values: &[f64]| Tensor::from_slice(values).view([-1, 2]);
        weights.compare("w", &tensor(written), &tensor(exact), dtype).unwrap();
        assert_eq!((weights.tensors, weights.elements), (1, exact.len() as u64));
        weights.wrong
    }

    #[test]
    fn every_number_of_every_dtype_may_be_rounded_once_and_no_more() {
        // Numbers of all magnitudes, most of them between two of the dtype.
        let exact: Vec<f64> = (0..4000i32).map(|i| (1.0 + f64::from(i) / 4001.0) * 2f64.powi(i % 20 - 10)).collect();
        for (dtype, kind) in [(DType::F32, Kind::Float), (DType::BF16, Kind::BFloat16), (DType::F16, Kind::Half)] {
            let rounded = Tensor::from_slice(&exact).to_kind(Kind::Float).to_kind(kind).to_kind(Kind::Double);
            let mut rounded = Vec::<f64>::try_from(rounded).unwrap();
            assert!(compared(&rounded, &exact, dtype).is_none(), "{dtype:?}");
            // Three units in the last place of the dtype away.
            rounded[1001] *= 1.0
                + 3.0
                    * 2f64.powi(match dtype {
                        DType::F32 => -23,
                        DType::F16 => -10,
                        DType::BF16 => -7,
                    });
            let wrong = compared(&rounded, &exact, dtype).unwrap();
            assert_eq!((wrong.name.as_str(), wrong.index, wrong.count), ("w", vec![500, 1], 1), "{dtype:?}");
        }
    }

    #[test]
    fn overflow_and_numbers_that_are_none_are_told_apart() {
        let wrong = compared(&[1.0, f64::INFINITY], &[1.0, 7e4], DType::F16).unwrap();
        assert!(wrong.overflows() && !wrong.was_not_finite());
        let wrong = compared(&[f64::NAN, 1.0], &[f64::NAN, 1.0], DType::F32).unwrap();
        assert!(wrong.was_not_finite());
        assert_eq!(wrong.index, [0, 0]);
    }

    #[test]
    fn a_vector_has_one_index() {
        let mut weights = WrittenWeights::default();
        let exact = Tensor::ones([3], (Kind::Double, Device::Cpu));
        let written = Tensor::from_slice(&[1.0f64, 1.0, 2.0]);
        weights.compare("norm", &written, &exact, DType::BF16).unwrap();
        assert_eq!(weights.wrong.unwrap().index, [2]);
    }
}
