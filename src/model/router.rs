//! The router of a feed-forward layer: which of its experts (groups of neighbouring intermediate units) run for a token.
//!
//! ```text
//! z = b W_rᵀ + β                 [B, T, N]   b: the normed input that gate and up projection see        (LTE, eq. 1)
//! soft:              every unit of expert e is multiplied by σ(z_e)                                   (LTE, eq. 3)
//! hard:              by 1 where z_e > 0, which is σ(z_e) > ½, else by 0                               (LTE, eq. 2)
//! straight-through:  by the hard mask; the gradient is that of σ(z_e)
//!
//! penalty = η · mean G² + λ · mean 1 / ((G − ½)² + ε)     G = σ(z), over experts, layers and tokens   (LTE, eq. 4–6)
//! ```
//!
//! Weights, logits and scores are fp32 whatever the model computes in: near the threshold bf16 has steps of 2⁻⁸. The ε is ours:
//! the paper's penalty is infinite where a score meets the threshold.

use crate::native::ops::autograd::attach_loss;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, TchError, Tensor};

/// Score above which an expert runs.
const THRESHOLD: f64 = 0.5;

/// The router of one layer.
#[derive(Debug)]
pub struct Router {
    /// W_r `[N, D]`, fp32.
    pub weight: Tensor,
    /// β `[N]`, fp32; the paper has none.
    pub bias: Option<Tensor>,
}

impl Router {
    /// N.
    pub fn experts(&self) -> i64 {
        self.weight.size()[0]
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> Router {
        Router { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
    }

    /// The same, with a bias of zeros where it has none.
    ///
    /// # Errors
    /// libtorch's.
    pub fn with_bias(&self, device: Device) -> Result<Router, TchError> {
        let Router { weight, bias } = self.shallow_clone();
        let zeros = || Tensor::f_zeros([self.experts()], (Kind::Float, device));
        Ok(Router { weight, bias: Some(bias.map_or_else(zeros, Ok)?) })
    }

    /// The same on `device`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn to_device(&self, device: Device) -> Result<Router, TchError> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_device(device)).transpose()?;
        Ok(Router { weight: self.weight.f_to_device(device)?, bias })
    }

    /// z `[.., N]` of the normed input `[.., D]`, fp32.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor, TchError> {
        normed.f_to_kind(Kind::Float)?.f_linear(&self.weight, self.bias.as_ref())
    }
}

/// How scores act on the units of their experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterForward {
    /// Units are multiplied by the score.
    Soft,
    /// Experts run or do not; backward as if scores had multiplied.
    StraightThrough,
    /// Experts run or do not; routers get no gradient.
    Hard,
    /// Every expert runs: the dense model.
    Dense,
}

/// What scores cost in training, beside the loss of the tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// η, of the mean squared score.
    pub efficiency: f64,
    /// λ, of the mean inverse squared distance from the threshold.
    pub separability: f64,
    /// ε in that distance.
    pub epsilon: f64,
    /// What a sum over the scores of a layer is multiplied by to become its part of the mean over layers, experts and all
    /// tokens of a batch.
    pub scale: f64,
}

impl Penalty {
    /// Its value for scores `[.., N]` of one layer and some tokens.
    pub fn of(&self, scores: &Tensor) -> Result<Tensor, TchError> {
        let mut loss = Tensor::f_zeros([], (Kind::Float, scores.device()))?;
        // A term that is switched off is left out: 0 · ∞ would be no number.
        if self.efficiency != 0.0 {
            loss = loss.f_add(&scores.f_square()?.f_sum(Kind::Float)?.f_mul_scalar(self.efficiency)?)?;
        }
        if self.separability != 0.0 {
            let distance = scores.f_sub_scalar(THRESHOLD)?.f_square()?.f_add_scalar(self.epsilon)?;
            let inverse = distance.f_reciprocal()?.f_sum(Kind::Float)?;
            loss = loss.f_add(&inverse.f_mul_scalar(self.separability)?)?;
        }
        loss.f_mul_scalar(self.scale)
    }
}

/// A router at work in a feed-forward layer.
#[derive(Debug)]
pub struct Routed {
    /// The router.
    pub router: Router,
    /// Units of an expert.
    pub expert_size: i64,
    /// How scores act.
    pub forward: RouterForward,
    /// What scores cost where a gradient is taken.
    pub penalty: Option<Penalty>,
    pub(super) trace: Trace,
}

/// Where the last forward left its logits `[B, T, N]`, for who counts the experts that ran.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Option<Tensor>>>);

impl Trace {
    fn leave(&self, logits: &Tensor) -> Result<(), TchError> {
        let logits = logits.f_detach()?;
        if let Ok(mut place) = self.0.lock() {
            *place = Some(logits);
        }
        Ok(())
    }

    /// The logits, which are then gone from here.
    pub fn take(&self) -> Option<Tensor> {
        self.0.lock().ok().and_then(|mut place| place.take())
    }
}

impl Routed {
    /// A router whose experts have `expert_size` units each.
    pub fn new(router: Router, expert_size: i64, forward: RouterForward) -> Routed {
        Routed { router, expert_size, forward, penalty: None, trace: Trace::default() }
    }

    /// Intermediate units `inner [B, T, F]` as the experts that run for `normed [B, T, D]` leave them.
    pub(super) fn apply(&self, normed: &Tensor, inner: &Tensor) -> Result<Tensor, TchError> {
        if self.forward == RouterForward::Dense {
            return Ok(inner.shallow_clone());
        }
        let logits = self.router.logits(normed)?;
        self.trace.leave(&logits)?;
        let gate = self.gate(&logits)?.f_to_kind(inner.f_kind()?)?;
        let size = inner.size();
        let mut grouped = size.clone();
        grouped.pop();
        grouped.extend([self.router.experts(), self.expert_size]);
        inner.f_view(&grouped[..])?.f_mul(&gate.f_unsqueeze(-1)?)?.f_view(&size[..])
    }

    /// What the units of each expert are multiplied by `[.., N]`, fp32.
    fn gate(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let hard = || logits.f_gt(0.0)?.f_to_kind(Kind::Float);
        let scores = match self.forward {
            RouterForward::Hard => return hard(),
            _ => logits.f_sigmoid()?,
        };
        let penalty = self.penalty.filter(|_| scores.requires_grad());
        let scores = match penalty {
            Some(penalty) => attach_loss(&scores, &penalty.of(&scores)?)?,
            None => scores,
        };
        match self.forward {
            RouterForward::StraightThrough => hard()?.f_add(&scores.f_sub(&scores.f_detach()?)?),
            _ => Ok(scores),
        }
    }

    /// The same tensors and the same trace again.
    pub fn shallow_clone(&self) -> Routed {
        Routed {
            router: self.router.shallow_clone(),
            expert_size: self.expert_size,
            forward: self.forward,
            penalty: self.penalty,
            trace: self.trace.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(shape: &[i64], at: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7 + at).sin().view(shape)
    }

    fn routed(forward: RouterForward) -> Routed {
        let router = Router { weight: sample(&[3, 4], 0.1), bias: Some(sample(&[3], 0.4) * 0.1) };
        Routed::new(router, 2, forward)
    }

    #[test]
    fn hard_and_straight_through_agree_and_soft_at_infinity_is_dense() {
        let (normed, inner) = (sample(&[2, 5, 4], 1.0), sample(&[2, 5, 6], 2.0));
        let of = |forward| routed(forward).apply(&normed, &inner).unwrap();
        assert!(of(RouterForward::Hard).equal(&of(RouterForward::StraightThrough)));
        let everything = |value: f64, forward| {
            let mut routed = routed(forward);
            routed.router.bias = Some(Tensor::full([3], value, (Kind::Float, Device::Cpu)));
            routed.apply(&normed, &inner).unwrap()
        };
        for forward in [RouterForward::Soft, RouterForward::Hard] {
            assert!(everything(1e4, forward).equal(&inner));
            assert_eq!(everything(-1e4, forward).abs().sum(Kind::Float).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn a_logit_of_zero_does_not_run() {
        let mut routed = routed(RouterForward::Hard);
        routed.router.weight = Tensor::zeros([3, 4], (Kind::Float, Device::Cpu));
        routed.router.bias = Some(Tensor::from_slice(&[0.0f32, 1e-6, -1e-6]));
        let out = routed.apply(&sample(&[1, 1, 4], 0.0), &Tensor::ones([1, 1, 6], (Kind::Float, Device::Cpu)));
        assert_eq!(Vec::<f32>::try_from(out.unwrap().view([-1])).unwrap(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn penalties_are_the_papers_and_finite_at_the_threshold() {
        let penalty = Penalty { efficiency: 2.0, separability: 0.5, epsilon: 0.01, scale: 0.25 };
        let scores = Tensor::from_slice(&[0.5f32, 0.75, 1.0, 0.0]);
        let efficiency = 2.0 * (0.25 + 0.5625 + 1.0);
        let separability = 0.5 * (1.0 / 0.01 + 1.0 / 0.0725 + 2.0 / 0.26);
        let found = penalty.of(&scores).unwrap().double_value(&[]);
        assert!((found - 0.25 * (efficiency + separability)).abs() < 1e-4, "{found}");
        let off = Penalty { separability: 0.0, epsilon: 0.0, ..penalty };
        assert!((off.of(&scores).unwrap().double_value(&[]) - 0.25 * efficiency).abs() < 1e-6);
    }

    /// d/dW of Σ out ⊙ weight + penalty by autograd, against finite differences of the same sum.
    #[test]
    fn soft_scores_and_penalties_have_the_gradients_of_their_sum() {
        let (normed, inner, weight) = (sample(&[1, 3, 4], 1.0), sample(&[1, 3, 6], 2.0), sample(&[1, 3, 6], 3.0));
        let penalty = Penalty { efficiency: 0.7, separability: 0.02, epsilon: 0.05, scale: 0.5 };
        let objective = |w: &Tensor| {
            let mut routed = routed(RouterForward::Soft);
            (routed.router.weight, routed.penalty) = (w.shallow_clone(), Some(penalty));
            let scores = routed.router.logits(&normed).unwrap().sigmoid();
            let out = routed.apply(&normed, &inner).unwrap();
            ((out * &weight).sum(Kind::Float), penalty.of(&scores).unwrap())
        };
        let leaf = sample(&[3, 4], 0.1).set_requires_grad(true);
        objective(&leaf).0.backward();
        let found = leaf.grad();
        let (start, step) = (sample(&[3, 4], 0.1), 1e-2);
        for (row, column) in [(0, 0), (1, 2), (2, 3)] {
            let moved = |by: f64| {
                let w = start.copy();
                let _ = w.get(row).get(column).g_add_scalar_(by);
                let (sum, penalty) = objective(&w);
                sum.double_value(&[]) + penalty.double_value(&[])
            };
            let expected = (moved(step) - moved(-step)) / (2.0 * step);
            let found = found.double_value(&[row, column]);
            assert!((found - expected).abs() < 2e-3 * expected.abs().max(1.0), "{found} {expected}");
        }
    }
}
