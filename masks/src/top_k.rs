//! Soft top-k gates: exact cardinality by construction. The gates of a row are
//!
//! ```text
//! g_i = σ((a_i − τ)/t),     τ such that Σ_i g_i = k            one threshold per row, by bisection
//! ∂g_i/∂a_j = w_i (δ_ij − w_j / Σ w) / t,     w = g·(1 − g)     τ's own derivative included
//! z_i = (1 − h)·g_i + h·[i among the round(k) largest a]        h without gradient
//! ```
//!
//! which is the solution of max aᵀg + t·H(g) under Σ g = k (Lei et al. 2023, arXiv 2304.04947, equation 3). Over the stage k
//! falls from the row's size to its target, the temperature t falls, and then the hardness h rises to 1: from there on every
//! gate is exactly 0 or 1, the shape is the target's, and the last steps train the weights of the very model that is cut
//! out. No multiplier, no overshoot, no half-alive unit, no noise.
//!
//! ```text
//! p = step / steps
//! k(p) = size − (size − target)·(1 − (1 − min(1, p/p_k))³)      cubic, as in Zhu and Gupta 2017 (arXiv 1710.01878)
//! t(p) = t_0 · (t_1/t_0)^min(1, p/p_k)
//! h(p) = clamp((p − p_k)/(p_h − p_k), 0, 1)
//! ```

use crate::error::{Error, Result};
use crate::spec::ModuleSpec;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Halvings of the interval that holds the threshold: its width over 2⁵⁰ is far below what the fp32 gates resolve.
const BISECTIONS: usize = 50;
/// Beyond so many temperatures from every log-odds value a gate is 0 or 1 in fp64.
const FAR: f64 = 40.0;

/// The schedule of a mask stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopK {
    /// Steps of the stage.
    pub steps: u64,
    /// p_k: the share of the stage after which the count is the target.
    pub count_until: f64,
    /// p_h: the share of the stage after which the gates are exactly 0 and 1.
    pub hard_from: f64,
    /// t_0, in units of the log-odds.
    pub first_temperature: f64,
    /// t_1.
    pub last_temperature: f64,
}

/// The schedule at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TopKStep {
    /// The share of the way to the target that the count has come.
    pub progress: f64,
    temperature: f64,
    hardness: f64,
}

impl TopK {
    /// The default schedule of a stage of `steps`.
    pub fn over(steps: u64) -> TopK {
        TopK { steps, count_until: 0.5, hard_from: 0.75, first_temperature: 1.0, last_temperature: 0.1 }
    }

    /// Refuses a schedule without meaning.
    ///
    /// # Errors
    /// [`Error::Constant`] with the field, its value and what it must satisfy.
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("steps", self.steps as f64, self.steps > 0, "must be at least 1"),
            ("count_until", self.count_until, self.count_until > 0.0, "must be above 0"),
            ("hard_from", self.hard_from, self.hard_from >= self.count_until, "must not be below count_until"),
            ("hard_from", self.hard_from, self.hard_from <= 1.0, "must be at most 1"),
            ("last_temperature", self.last_temperature, self.last_temperature > 0.0, "must be above 0"),
            (
                "first_temperature",
                self.first_temperature,
                self.first_temperature >= self.last_temperature,
                "must not be below last_temperature",
            ),
        ];
        for (key, value, holds, requirement) in rules {
            if !(holds && value.is_finite()) {
                return Err(Error::Constant { key, value, requirement });
            }
        }
        Ok(())
    }

    /// The schedule once `finished` steps are done; a step trains with what holds when it is.
    pub(crate) fn at(&self, finished: u64) -> TopKStep {
        let done = (finished as f64 / self.steps as f64).min(1.0);
        let counted = (done / self.count_until).min(1.0);
        let span = self.hard_from - self.count_until;
        let hardness = match span > 0.0 {
            true => ((done - self.count_until) / span).clamp(0.0, 1.0),
            false => f64::from(u8::from(done >= self.hard_from)),
        };
        TopKStep {
            progress: 1.0 - (1.0 - counted).powi(3),
            temperature: self.first_temperature * (self.last_temperature / self.first_temperature).powf(counted),
            hardness,
        }
    }
}

impl TopKStep {
    /// Open units of each row of a mask, not rounded.
    pub(crate) fn count(self, spec: &ModuleSpec) -> f64 {
        spec.size as f64 - (spec.size - spec.target) as f64 * self.progress
    }

    /// Gates of a mask from its log-odds, both of shape `spec.dims()`, fp32, differentiable; each row sums to
    /// [`TopKStep::count`] (to its rounding where the gates are hard).
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn gates(self, spec: &ModuleSpec, log_alpha: &Tensor) -> Result<Tensor> {
        let (count, dims) = (self.count(spec), spec.dims());
        let rows = log_alpha.f_view([spec.rows, spec.size])?;
        // The last clause keeps a row of gates that the target leaves whole from a threshold at minus infinity.
        if count > spec.size as f64 - 1e-6 {
            return Ok(rows.f_mul_scalar(0.0)?.f_add_scalar(1.0)?.f_view(&dims[..])?);
        }
        if self.hardness >= 1.0 {
            return Ok(hard(&rows, count)?.f_view(&dims[..])?);
        }
        let soft = soft(&rows, count, self.temperature)?;
        if self.hardness == 0.0 {
            return Ok(soft.f_view(&dims[..])?);
        }
        let hard = hard(&rows, count)?.f_mul_scalar(self.hardness)?;
        Ok(soft.f_mul_scalar(1.0 - self.hardness)?.f_add(&hard)?.f_view(&dims[..])?)
    }
}

/// σ((a − τ)/t) with rows that sum to `count`; `log_alpha [rows, size]`.
fn soft(log_alpha: &Tensor, count: f64, temperature: f64) -> Result<Tensor> {
    let values = log_alpha.f_detach()?.f_to_kind(Kind::Double)?;
    let threshold = threshold(&values, count, temperature)?;
    let gates = values.f_sub(&threshold)?.f_div_scalar(temperature)?.f_sigmoid()?;
    let weights = gates.f_mul(&gates.f_rsub_scalar(1.0)?)?;
    let total = weights.f_sum_dim_intlist(&[-1i64][..], true, Kind::Double)?.f_clamp_min(f64::MIN_POSITIVE)?;
    let share = weights.f_div(&total)?.f_to_kind(Kind::Float)?;
    // A difference that is 0 in value and carries the derivative of τ.
    let moved = log_alpha.f_sub(&log_alpha.f_detach()?)?;
    let threshold_moved = share.f_mul(&moved)?.f_sum_dim_intlist(&[-1i64][..], true, Kind::Float)?;
    let distance = log_alpha.f_to_kind(Kind::Double)?.f_sub(&threshold)?.f_sub(&threshold_moved)?;
    Ok(distance.f_div_scalar(temperature)?.f_sigmoid()?.f_to_kind(Kind::Float)?)
}

/// τ of each row, `[rows, 1]`: the sum of the gates falls as τ rises.
fn threshold(values: &Tensor, count: f64, temperature: f64) -> Result<Tensor> {
    let mut low = values.f_amin([-1i64], true)?.f_sub_scalar(FAR * temperature)?;
    let mut high = values.f_amax([-1i64], true)?.f_add_scalar(FAR * temperature)?;
    for _ in 0..BISECTIONS {
        let middle = low.f_add(&high)?.f_mul_scalar(0.5)?;
        let gates = values.f_sub(&middle)?.f_div_scalar(temperature)?.f_sigmoid()?;
        let above = gates.f_sum_dim_intlist(&[-1i64][..], true, Kind::Double)?.f_gt(count)?;
        low = middle.f_where_self(&above, &low)?;
        high = high.f_where_self(&above, &middle)?;
    }
    Ok(low.f_add(&high)?.f_mul_scalar(0.5)?)
}

/// 1 for the round(`count`) largest of each row, else 0; of equal values the lower index stays. No gradient.
fn hard(log_alpha: &Tensor, count: f64) -> Result<Tensor> {
    let values = log_alpha.f_detach()?;
    let kept = count.round() as i64;
    let (_, order) = values.f_sort_stable(true, -1, true)?;
    let best = order.f_narrow(-1, 0, kept.clamp(0, values.size()[1]))?;
    Ok(values.f_zeros_like()?.f_scatter_value(-1, &best, 1.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::UnitKind;
    use tch::Device;

    fn spec(rows: i64, size: i64, target: i64) -> ModuleSpec {
        ModuleSpec { module: UnitKind::Intermediate, rows, size, target }
    }

    fn values(rows: i64, size: i64) -> Tensor {
        let normals = shearling_noise::weight_normals(5, "a", (rows * size) as usize);
        Tensor::from_slice(&normals).view([rows, size])
    }

    #[test]
    fn every_row_sums_to_the_count_at_every_step() {
        let (schedule, spec, a) = (TopK::over(40), spec(3, 50, 13), values(3, 50) * 4.0);
        for finished in 0..=50 {
            let step = schedule.at(finished);
            let gates = step.gates(&spec, &a).unwrap();
            let count = if step.hardness == 1.0 { 13.0 } else { step.count(&spec) };
            let blended = step.hardness * step.count(&spec).round() + (1.0 - step.hardness) * step.count(&spec);
            assert!((count - blended).abs() < 1e-9);
            for row in 0..3 {
                let sum = gates.get(row).sum(Kind::Double).double_value(&[]);
                assert!((sum - count).abs() < 1e-4, "step {finished}: {sum} {count}");
            }
            assert!(gates.min().double_value(&[]) >= 0.0 && gates.max().double_value(&[]) <= 1.0);
        }
    }

    #[test]
    fn a_stage_begins_whole_and_ends_in_the_largest_units() {
        let (schedule, spec, a) = (TopK::over(40), spec(2, 9, 4), values(2, 9));
        assert_eq!(schedule.at(0).gates(&spec, &a).unwrap().min().double_value(&[]), 1.0);
        for finished in [30, 35, 40, 99] {
            let gates = schedule.at(finished).gates(&spec, &a).unwrap();
            for row in 0..2 {
                let mut kept = Vec::<i64>::try_from(gates.get(row).nonzero().view([-1])).unwrap();
                let mut best = Vec::<i64>::try_from(a.get(row).topk(4, 0, true, true).1).unwrap();
                kept.sort_unstable();
                best.sort_unstable();
                assert_eq!(kept, best);
                assert_eq!(gates.get(row).sum(Kind::Float).double_value(&[]), 4.0);
            }
        }
    }

    #[test]
    fn of_equal_units_the_lower_index_stays() {
        let gates = hard(&Tensor::from_slice(&[1f32, 2.0, 1.0, 1.0, -0.0, 0.0]).view([1, 6]), 3.0).unwrap();
        assert_eq!(Vec::<f32>::try_from(gates.view([-1])).unwrap(), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let spec = spec(2, 7, 3);
        let weights = values(2, 7).flip([1]);
        for finished in [4, 11, 22] {
            let step = TopK::over(40).at(finished);
            let objective = |a: &Tensor| (step.gates(&spec, a).unwrap() * &weights).sum(Kind::Float);
            let a = values(2, 7).set_requires_grad(true);
            objective(&a).backward();
            for unit in 0..14 {
                let moved = |by: f64| {
                    let a = values(2, 7);
                    let _ = a.view([-1]).get(unit).g_add_scalar_(by);
                    objective(&a).double_value(&[])
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let found = a.grad().view([-1]).double_value(&[unit]);
                assert!((numeric - found).abs() < 2e-3, "step {finished} unit {unit}: {found} {numeric}");
            }
            // A shift of a whole row changes nothing.
            assert!(a.grad().sum_dim_intlist(&[1i64][..], false, Kind::Float).abs().max().double_value(&[]) < 1e-5);
        }
    }

    #[test]
    fn hard_gates_have_no_gradient() {
        let a = values(1, 7).set_requires_grad(true);
        let gates = TopK::over(40).at(40).gates(&spec(1, 7, 3), &a).unwrap();
        assert!(!gates.requires_grad());
    }

    #[test]
    fn counts_fall_and_temperatures_too() {
        let (schedule, spec) = (TopK::over(100), spec(1, 50, 10));
        for step in 1..=100 {
            let (before, now) = (schedule.at(step - 1), schedule.at(step));
            assert!(now.count(&spec) <= before.count(&spec) && now.temperature <= before.temperature);
            assert!(now.hardness >= before.hardness);
        }
        assert_eq!(schedule.at(50).count(&spec), 10.0);
        assert_eq!((schedule.at(50).hardness, schedule.at(75).hardness), (0.0, 1.0));
    }

    #[test]
    fn thresholds_are_exact_where_values_are_far_apart() {
        let a = Tensor::from_slice(&[1000f32, -1000.0, 3.0, 3.0]).view([1, 4]).to_device(Device::Cpu);
        let gates = soft(&a, 2.0, 0.1).unwrap();
        let gates = Vec::<f32>::try_from(gates.view([-1])).unwrap();
        for (found, expected) in gates.into_iter().zip([1.0, 0.0, 0.5, 0.5]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn a_schedule_without_meaning_is_refused_by_name() {
        type Change = fn(&mut TopK);
        let changes: [(&str, Change); 5] = [
            ("steps", |s| s.steps = 0),
            ("count_until", |s| s.count_until = 0.0),
            ("hard_from", |s| s.hard_from = 0.2),
            ("last_temperature", |s| s.last_temperature = f64::NAN),
            ("first_temperature", |s| s.first_temperature = 0.01),
        ];
        for (key, change) in changes {
            let mut schedule = TopK::over(10);
            assert!(schedule.check().is_ok());
            change(&mut schedule);
            assert!(schedule.check().unwrap_err().to_string().contains(&format!("`{key}`")), "{key}");
        }
    }
}
