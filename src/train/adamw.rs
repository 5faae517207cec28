//! AdamW (Loshchilov & Hutter) with a state of our own, so that it can be saved and resumed exactly.
//!
//! ```text
//! m ← β₁m + (1−β₁)g     v ← β₂v + (1−β₂)g²
//! p ← p(1 − lr·wd) − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//! ```
//!
//! Masters, moments and accumulated gradients are fp32. In bf16 training each master has a bf16 working copy that
//! forward and backward use; its gradients are added up in fp32 after every micro-batch.

use crate::config::Train;
use std::collections::BTreeMap;
use tch::{Kind, TchError, Tensor};

/// One trained tensor with its optimiser state.
#[derive(Debug)]
pub struct Slot {
    /// Name, unique in its group; Hugging Face's for weights.
    pub name: String,
    /// fp32 values. The leaf of the graph itself when there is no working copy.
    pub master: Tensor,
    working: Option<Tensor>,
    accumulated: Option<Tensor>,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decays: bool,
}

impl Slot {
    fn new(name: String, master: Tensor, working_kind: Kind, decays: bool) -> Result<Slot, TchError> {
        let (exp_avg, exp_avg_sq) = (master.f_zeros_like()?, master.f_zeros_like()?);
        let mut slot = Slot { name, master, working: None, accumulated: None, exp_avg, exp_avg_sq, decays };
        if working_kind == Kind::Float {
            slot.master = slot.master.f_set_requires_grad(true)?;
        } else {
            let working = tch::no_grad(|| slot.master.f_to_kind(working_kind))?;
            slot.working = Some(working.f_set_requires_grad(true)?);
            slot.accumulated = Some(slot.master.f_zeros_like()?);
        }
        Ok(slot)
    }

    /// The tensor that forward uses.
    pub fn leaf(&self) -> Tensor {
        self.working.as_ref().unwrap_or(&self.master).shallow_clone()
    }

    /// Moves the gradient of a micro-batch out of the bf16 working copy.
    fn collect(&mut self) -> Result<(), TchError> {
        if let (Some(working), Some(accumulated)) = (&self.working, &mut self.accumulated) {
            let mut gradient = working.grad();
            if gradient.defined() {
                let _ = accumulated.f_add_(&gradient.f_to_kind(Kind::Float)?)?;
                let _ = gradient.f_zero_()?;
            }
        }
        Ok(())
    }

    /// The accumulated gradient; `None` when no graph reached this tensor.
    fn gradient(&self) -> Option<Tensor> {
        let gradient = match &self.accumulated {
            Some(accumulated) => accumulated.shallow_clone(),
            None => self.master.grad(),
        };
        gradient.defined().then_some(gradient)
    }

    fn update(&mut self, rule: &Rule, learning_rate: f64, count: u64) -> Result<(), TchError> {
        let Some(gradient) = self.gradient() else { return Ok(()) };
        let _ = self.exp_avg.f_lerp_(&gradient, 1.0 - rule.beta1)?;
        let _ = self.exp_avg_sq.f_lerp_(&gradient.f_square()?, 1.0 - rule.beta2)?;
        let (bias1, bias2) = (1.0 - rule.beta1.powi(count as i32), 1.0 - rule.beta2.powi(count as i32));
        let mut denominator = self.exp_avg_sq.f_sqrt()?;
        let _ = denominator.f_mul_scalar_(1.0 / bias2.sqrt())?.f_add_scalar_(rule.eps)?;
        if self.decays && rule.weight_decay > 0.0 {
            let _ = self.master.f_mul_scalar_(1.0 - learning_rate * rule.weight_decay)?;
        }
        let step = self.exp_avg.f_div(&denominator)?.f_mul_scalar(-learning_rate / bias1)?;
        let _ = self.master.f_add_(&step)?;
        if let Some(working) = &mut self.working {
            working.f_copy_(&self.master)?;
        }
        Ok(())
    }
}

/// Constants of the update.
#[derive(Clone, Copy, Debug)]
struct Rule {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

/// Whether a group goes down its gradient or, like the multipliers, up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Minimise.
    Descent,
    /// Maximise.
    Ascent,
}

/// Tensors that share a learning rate.
#[derive(Debug)]
pub struct Group {
    /// `weights`, `masks` or `multipliers`.
    pub name: &'static str,
    /// Peak learning rate.
    pub learning_rate: f64,
    direction: Direction,
    rule: Rule,
    slots: Vec<Slot>,
    updates: u64,
}

impl Group {
    /// A group over fp32 `tensors`. With a `working_kind` other than fp32, [`Slot::leaf`] is a copy of that kind.
    /// Matrices decay when `train.weight_decay` says so; vectors (norms, biases) and masks never do.
    pub fn new(
        name: &'static str,
        learning_rate: f64,
        direction: Direction,
        train: &Train,
        tensors: Vec<(String, Tensor)>,
        working_kind: Kind,
    ) -> Result<Group, TchError> {
        let decays = |tensor: &Tensor| direction == Direction::Descent && name == "weights" && tensor.dim() > 1;
        let slots = tensors.into_iter().map(|(name, tensor)| {
            let decays = decays(&tensor);
            Slot::new(name, tensor, working_kind, decays)
        });
        let rule = Rule { beta1: train.beta1, beta2: train.beta2, eps: train.eps, weight_decay: train.weight_decay };
        Ok(Group { name, learning_rate, direction, rule, slots: slots.collect::<Result<_, _>>()?, updates: 0 })
    }

    /// Its tensors.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Call after every backward pass.
    pub fn collect(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.slots.iter_mut().try_for_each(Slot::collect)
    }

    /// Squared L2 norm of all gradients, a scalar on the device (no synchronisation).
    pub fn squared_norm(&self) -> Result<Option<Tensor>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let squares = self.slots.iter().filter_map(Slot::gradient).map(|g| g.f_square()?.f_sum(Kind::Float));
        let squares = squares.collect::<Result<Vec<_>, _>>()?;
        if squares.is_empty() {
            return Ok(None);
        }
        Ok(Some(Tensor::f_stack(&squares, 0)?.f_sum(Kind::Float)?))
    }

    /// One update with gradients times `scale` and the peak learning rate times `factor`.
    pub fn update(&mut self, scale: f64, factor: f64) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.updates += 1;
        let sign = if self.direction == Direction::Ascent { -1.0 } else { 1.0 };
        for slot in &mut self.slots {
            if let Some(mut gradient) = slot.gradient().filter(|_| scale * sign != 1.0) {
                let _ = gradient.f_mul_scalar_(scale * sign)?;
            }
            slot.update(&self.rule, self.learning_rate * factor, self.updates)?;
        }
        Ok(())
    }

    /// Forgets the gradients; call after every step, taken or skipped.
    pub fn zero_gradients(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for slot in &self.slots {
            if let Some(mut gradient) = slot.gradient() {
                let _ = gradient.f_zero_()?;
            }
        }
        Ok(())
    }

    /// Number of updates so far (t of the bias corrections).
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moments by name: `exp_avg.NAME`, `exp_avg_sq.NAME`.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let pair = |slot: &Slot| {
            [
                (format!("exp_avg.{}", slot.name), slot.exp_avg.shallow_clone()),
                (format!("exp_avg_sq.{}", slot.name), slot.exp_avg_sq.shallow_clone()),
            ]
        };
        self.slots.iter().flat_map(pair).collect()
    }

    /// Restores moments and the update count; says what is missing or has another shape.
    pub fn restore(&mut self, moments: &mut BTreeMap<String, Tensor>, updates: u64) -> Result<(), String> {
        for slot in &mut self.slots {
            for (prefix, tensor) in [("exp_avg", &mut slot.exp_avg), ("exp_avg_sq", &mut slot.exp_avg_sq)] {
                let name = format!("{prefix}.{}", slot.name);
                let saved = moments.remove(&name).ok_or_else(|| format!("{name} is missing"))?;
                if saved.size() != tensor.size() {
                    return Err(format!("{name} has shape {:?}, expected {:?}", saved.size(), tensor.size()));
                }
                tensor.f_copy_(&saved).map_err(|error| error.to_string())?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(weight_decay: f64) -> Train {
        let text = format!("steps = 1\nbatch_rows = 1\nlearning_rate = 0.1\nweight_decay = {weight_decay}");
        toml::from_str(&text).unwrap()
    }

    fn group(direction: Direction, weight_decay: f64, kind: Kind) -> Group {
        let start = Tensor::from_slice(&[1.0f32, -2.0, 3.0, 0.5]).view([2, 2]);
        Group::new("weights", 0.1, direction, &train(weight_decay), vec![("w".into(), start)], kind).unwrap()
    }

    fn take_steps(group: &mut Group, steps: usize) -> Vec<f32> {
        for _ in 0..steps {
            let w = group.slots()[0].leaf();
            w.square().sum(Kind::Float).backward();
            group.collect().unwrap();
            group.update(1.0, 1.0).unwrap();
            group.zero_gradients().unwrap();
        }
        Vec::try_from(group.slots()[0].master.detach().view([-1])).unwrap()
    }

    /// The update in plain f64 arithmetic.
    fn reference(steps: usize, sign: f64, weight_decay: f64) -> Vec<f64> {
        let (b1, b2, eps, lr) = (0.9f64, 0.95f64, 1e-8, 0.1);
        [1.0f64, -2.0, 3.0, 0.5]
            .map(|start| {
                let (mut p, mut m, mut v) = (start, 0.0, 0.0);
                for t in 1..=steps as i32 {
                    let g = sign * 2.0 * p;
                    m = b1 * m + (1.0 - b1) * g;
                    v = b2 * v + (1.0 - b2) * g * g;
                    p *= 1.0 - lr * weight_decay;
                    p -= lr * (m / (1.0 - b1.powi(t))) / ((v / (1.0 - b2.powi(t))).sqrt() + eps);
                }
                p
            })
            .to_vec()
    }

    #[test]
    fn matches_the_equations_down_and_up_with_and_without_decay() {
        for (direction, sign) in [(Direction::Descent, 1.0), (Direction::Ascent, -1.0)] {
            for decay in [0.0, 0.1] {
                let found = take_steps(&mut group(direction, decay, Kind::Float), 7);
                // Ascent groups (multipliers) never decay.
                let expected = reference(7, sign, if sign < 0.0 { 0.0 } else { decay });
                for (a, b) in found.iter().zip(&expected) {
                    assert!((*a as f64 - b).abs() < 1e-5, "{found:?} {expected:?}");
                }
            }
        }
    }

    #[test]
    fn bf16_working_copies_follow_fp32_masters() {
        let mut group = group(Direction::Descent, 0.0, Kind::BFloat16);
        take_steps(&mut group, 3);
        let slot = &group.slots()[0];
        assert_eq!(slot.master.kind(), Kind::Float);
        assert_eq!(slot.leaf().kind(), Kind::BFloat16);
        let apart = (slot.leaf().to_kind(Kind::Float) - &slot.master).abs().max().double_value(&[]);
        assert!(apart > 0.0 && apart < 0.02, "{apart}");
    }

    #[test]
    fn restored_moments_continue_exactly() {
        let mut whole = group(Direction::Descent, 0.1, Kind::Float);
        take_steps(&mut whole, 3);
        let master = whole.slots()[0].master.detach().copy();
        let mut moments: BTreeMap<String, Tensor> =
            whole.moments().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
        let expected = take_steps(&mut whole, 2);
        let mut resumed =
            Group::new("weights", 0.1, Direction::Descent, &train(0.1), vec![("w".into(), master)], Kind::Float)
                .unwrap();
        resumed.restore(&mut moments, 3).unwrap();
        assert_eq!(take_steps(&mut resumed, 2), expected);
        let missing = resumed.restore(&mut BTreeMap::new(), 3).unwrap_err();
        assert!(missing.contains("exp_avg.w"));
    }

    #[test]
    fn the_norm_is_that_of_all_gradients() {
        let group = group(Direction::Descent, 0.0, Kind::Float);
        group.slots()[0].leaf().square().sum(Kind::Float).backward();
        let expected = 4.0 * (1.0 + 4.0 + 9.0 + 0.25);
        let found = group.squared_norm().unwrap().unwrap().double_value(&[]);
        assert!((found - expected).abs() < 1e-4);
    }
}
