//! The trainable state of a pruning run: log-odds per unit and two multipliers per module, all fp32 whatever the model's type.
//!
//! One call of [`MaskSet::sample`] per forward gives the gates, [`MaskSet::lagrangian`] the loss of the constraint; the caller's
//! optimiser updates the leaves it got from `*_parameters` and then calls [`MaskSet::clamp`]. For evaluation and export the
//! deterministic gates close exactly the units that are to go and leave the others at their soft value.
//!
//! How log-odds become gates is the [`Gating`]'s matter. Soft top-k gates depend on how far the stage has come: the caller
//! tells with [`MaskSet::finish_step`].

use crate::constraint_rows::ConstraintRows;
use crate::device_noise::DeviceNoise;
use crate::error::Result;
use crate::expected_size::ExpectedSize;
use crate::gates::{Gates, HiddenMean, finite_values, to_tensor};
use crate::gating::Gating;
use crate::lagrangian::{Lagrangian, warmed_up};
use crate::prior;
use crate::selection::top_k_per_row;
use crate::shape::UnitKind;
use crate::spec::{MaskSpec, ModuleSpec};
use crate::top_k::TopKStep;
use shearling_noise::{NoiseKey, Purpose, Stream};
use tch::{Device, Kind, Tensor};

/// Masks with their multipliers.
#[derive(Debug)]
pub struct MaskSet {
    pub(crate) spec: MaskSpec,
    pub(crate) gating: Gating,
    pub(crate) warmup_steps: u64,
    /// Finished steps of the stage.
    pub(crate) finished: u64,
    device: Device,
    masks: Vec<Mask>,
    rows: ConstraintRows,
    /// Makes the noise, unless the masks are on the CPU, where the scalar stream is faster.
    noise: Option<DeviceNoise>,
}

/// The leaves of one module.
#[derive(Debug)]
pub(crate) struct Mask {
    pub spec: ModuleSpec,
    /// Log-odds a, of the shape `spec.dims()`.
    pub log_alpha: Tensor,
    /// Multiplier of the linear term, a scalar.
    pub lambda_1: Tensor,
    /// Multiplier of the quadratic term, a scalar.
    pub lambda_2: Tensor,
}

impl Mask {
    /// Leaves on a device from values on the CPU.
    pub(crate) fn new(spec: &ModuleSpec, log_alpha: &[f32], lambdas: [f32; 2], device: Device) -> Result<Mask> {
        let scalar = |value: f32| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&[value])?.f_reshape([0i64; 0])?.f_to_device(device)?.f_set_requires_grad(true)?)
        };
        Ok(Mask {
            spec: spec.clone(),
            log_alpha: to_tensor(spec, log_alpha, device)?.f_set_requires_grad(true)?,
            lambda_1: scalar(lambdas[0])?,
            lambda_2: scalar(lambdas[1])?,
        })
    }
}

impl MaskSet {
    /// Fresh masks that know nothing: log-odds from Normal(init_mean, init_std) by the run's seed, clamped at once, for
    /// hard-concrete gates, from Normal(0, 1) for top-k ones; deterministic gates around 1; multipliers at 0.
    ///
    /// `warmup_steps` is how long the targets of a Lagrangian take to rise from 0; 0 for no warm-up.
    ///
    /// # Errors
    /// Meaningless constants, or libtorch's when the device has no room.
    pub fn new(
        spec: MaskSpec,
        gating: impl Into<Gating>,
        warmup_steps: u64,
        seed: u64,
        device: Device,
    ) -> Result<MaskSet> {
        let gating = gating.into();
        let key = NoiseKey { seed, step: 0, micro_batch: 0 };
        let initial = |spec: &ModuleSpec| -> Result<Vec<f32>> {
            let normals = Stream::new(&key, Purpose::Init, spec.module.name()).normals(spec.units() as usize);
            Ok(normals.iter().map(|normal| gating.initial(*normal)).collect())
        };
        MaskSet::starting_from(spec, gating.clone(), warmup_steps, device, initial)
    }

    /// Masks whose log-odds start from `scores`, which hold a tensor in the place of each gate: `strength` is the distance
    /// of a standard deviation of their logarithms, in log-odds.
    ///
    /// # Errors
    /// Meaningless constants; scores that are missing, of another shape or not finite; libtorch's.
    pub fn from_scores(
        spec: MaskSpec,
        gating: impl Into<Gating>,
        warmup_steps: u64,
        scores: &Gates,
        strength: f64,
        device: Device,
    ) -> Result<MaskSet> {
        let gating = gating.into();
        let initial = |spec: &ModuleSpec| prior::initial_log_alpha(spec, &gating, scores, strength);
        MaskSet::starting_from(spec, gating.clone(), warmup_steps, device, initial)
    }

    fn starting_from(
        spec: MaskSpec,
        gating: Gating,
        warmup_steps: u64,
        device: Device,
        initial: impl Fn(&ModuleSpec) -> Result<Vec<f32>>,
    ) -> Result<MaskSet> {
        gating.check()?;
        let mask = |spec: &ModuleSpec| Mask::new(spec, &initial(spec)?, [0.0, 0.0], device);
        let masks = spec.modules().iter().map(mask).collect::<Result<Vec<Mask>>>()?;
        MaskSet::from_masks(spec, gating, warmup_steps, 0, device, masks)
    }

    /// Puts a set together from its leaves.
    pub(crate) fn from_masks(
        spec: MaskSpec,
        gating: Gating,
        warmup_steps: u64,
        finished: u64,
        device: Device,
        masks: Vec<Mask>,
    ) -> Result<MaskSet> {
        let rows = ConstraintRows::new(&spec, device)?;
        let away = device != Device::Cpu && !masks.is_empty() && matches!(gating, Gating::HardConcrete(_));
        let noise = away.then(|| DeviceNoise::new(spec.modules(), device)).transpose()?;
        Ok(MaskSet { spec, gating, warmup_steps, finished, device, masks, rows, noise })
    }

    /// The same masks on their way to a smaller target: of every row the best units stay, fewer of them.
    ///
    /// # Errors
    /// [`crate::Error::NotLearned`] for a dimension without a mask, or of which more should stay than the masks were trained to keep.
    pub fn retargeted(self, spec: MaskSpec) -> Result<MaskSet> {
        for kind in UnitKind::ALL {
            let [learned, asked] = [&self.spec, &spec].map(|spec| spec.layout(kind));
            let same_units = (asked.size, asked.rows) == (learned.size, learned.rows);
            let has_mask = spec.get(kind).is_none() || self.spec.get(kind).is_some();
            if !same_units || !has_mask || asked.target > learned.target {
                let (size, learned, asked) = (learned.size, learned.target, asked.target);
                return Err(crate::Error::NotLearned { module: kind.name(), size, learned, asked });
            }
        }
        let masks = self.masks.into_iter().filter_map(|mask| {
            let module = spec.get(mask.spec.module)?.clone();
            Some(Mask { spec: module, ..mask })
        });
        let masks = masks.collect();
        MaskSet::from_masks(spec, self.gating, self.warmup_steps, self.finished, self.device, masks)
    }

    /// Which masks there are.
    pub fn spec(&self) -> &MaskSpec {
        &self.spec
    }

    /// How log-odds become gates.
    pub fn gating(&self) -> &Gating {
        &self.gating
    }

    /// Says that a step is done: gates that follow a schedule are those of `finished` steps from here on.
    pub fn finish_step(&mut self, finished: u64) {
        self.finished = finished;
    }

    /// Where the schedule of top-k gates is; `None` for hard-concrete ones.
    fn top_k(&self, finished: u64) -> Option<TopKStep> {
        match &self.gating {
            Gating::TopK(schedule) => Some(schedule.at(finished)),
            Gating::HardConcrete(_) | Gating::Deterministic(_) => None,
        }
    }

    /// Whether a Lagrangian holds the masks to their targets; top-k gates meet them by construction.
    pub fn is_constrained(&self) -> bool {
        self.gating.is_constrained()
    }

    /// Steps over which the targets rise.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// Where the leaves live.
    pub fn device(&self) -> Device {
        self.device
    }

    pub(crate) fn masks(&self) -> &[Mask] {
        &self.masks
    }

    fn mask(&self, module: UnitKind) -> Option<&Mask> {
        self.masks.iter().find(|mask| mask.spec.module == module)
    }

    /// The gates of one training forward, differentiable in the log-odds: the same for the same key.
    ///
    /// # Errors
    /// libtorch's.
    pub fn sample(&self, key: &NoiseKey) -> Result<Gates> {
        match self.top_k(key.step + 1) {
            Some(step) => self.top_k_gates(step),
            None => self.gates_for_uniform(&self.noise_at(key)?),
        }
    }

    /// The noise of a forward, uniform in [ε, 1−ε], one fp32 tensor per mask in the place of its gate: made on the masks'
    /// device, with the same bits on every device. Only hard-concrete gates have any.
    ///
    /// # Errors
    /// libtorch's.
    pub fn uniforms(&self, key: &NoiseKey) -> Result<Gates> {
        let Gating::HardConcrete(constants) = &self.gating else { return Ok(Gates::none()) };
        let epsilon = constants.epsilon as f32;
        if let Some(noise) = &self.noise {
            return noise.uniforms(key, epsilon);
        }
        let mut uniforms = Gates::none();
        for spec in self.spec.modules() {
            let stream = Stream::new(key, Purpose::Gates, spec.module.name());
            let values = stream.uniforms(spec.units() as usize, epsilon);
            uniforms.set(spec.module, Some(to_tensor(spec, &values, self.device)?));
        }
        Ok(uniforms)
    }

    /// The noise of a forward, as far from ½ as the options leave it; what is to have none draws none.
    fn noise_at(&self, key: &NoiseKey) -> Result<Gates> {
        let share = match &self.gating {
            Gating::HardConcrete(constants) => constants.options.noise_at(key.step),
            Gating::Deterministic(_) | Gating::TopK(_) => 1.0,
        };
        if share == 1.0 {
            return self.uniforms(key);
        }
        let drawn = if share > 0.0 { self.uniforms(key)? } else { Gates::none() };
        let mut noise = Gates::none();
        for spec in self.spec.modules() {
            let values = match drawn.get(spec.module) {
                Some(uniform) => uniform.f_sub_scalar(0.5)?.f_mul_scalar(share)?.f_add_scalar(0.5)?,
                None => Tensor::f_full(spec.dims(), 0.5, (Kind::Float, self.device))?,
            };
            noise.set(spec.module, Some(values));
        }
        Ok(noise)
    }

    /// The gates for given uniform noise in (0, 1), one tensor per mask in the place of its gate. Gates without noise are
    /// those of the finished steps.
    ///
    /// # Errors
    /// Noise that is missing or of another shape.
    pub fn gates_for_uniform(&self, uniform: &Gates) -> Result<Gates> {
        let Gating::HardConcrete(constants) = &self.gating else { return self.noiseless_gates() };
        let mut gates = Gates::none();
        for mask in &self.masks {
            let noise = uniform.require(&mask.spec)?;
            gates.set(mask.spec.module, Some(constants.sample(&mask.log_alpha, noise)?));
        }
        Ok(gates)
    }

    /// Gates that are functions of the trained numbers and the finished steps.
    fn noiseless_gates(&self) -> Result<Gates> {
        match &self.gating {
            Gating::TopK(schedule) => self.top_k_gates(schedule.at(self.finished)),
            Gating::Deterministic(constants) => {
                let mut gates = Gates::none();
                for mask in &self.masks {
                    gates.set(mask.spec.module, Some(constants.gates(&mask.log_alpha)?));
                }
                Ok(gates)
            }
            Gating::HardConcrete(_) => Ok(Gates::none()),
        }
    }

    fn top_k_gates(&self, step: TopKStep) -> Result<Gates> {
        let mut gates = Gates { hidden_mean: HiddenMean::Weighted, ..Gates::none() };
        for mask in &self.masks {
            gates.set(mask.spec.module, Some(step.gates(&mask.spec, &mask.log_alpha)?));
        }
        Ok(gates)
    }

    /// Gates of an evaluation that follows the present expectation. Under a Lagrangian `round(size − Σ score)` units per row
    /// are closed, the others keep their soft value; at least one hidden dimension stays, for a norm over none is
    /// undefined. Top-k: those of the finished steps.
    ///
    /// # Errors
    /// Log-odds that are not finite.
    pub fn expected_gates(&self) -> Result<Gates> {
        match &self.gating {
            Gating::HardConcrete(_) | Gating::Deterministic(_) => self.cut(|mask| self.expected_survivors(mask)),
            Gating::TopK(_) => self.noiseless_gates()?.detach(),
        }
    }

    /// Gates with exactly the target's number of open units in every row. Of equal log-odds the lower index stays.
    ///
    /// A kept unit is never 0, however small its soft value; under top-k it is 1. Rows of removed layers are treated like
    /// the others.
    ///
    /// # Errors
    /// Log-odds that are not finite.
    pub fn target_gates(&self) -> Result<Gates> {
        self.cut(|mask| Ok(vec![mask.spec.target; mask.spec.rows as usize]))
    }

    /// The best units of every row at their soft value, as many as `survivors` says, the others at 0.
    fn cut(&self, survivors: impl Fn(&Mask) -> Result<Vec<i64>>) -> Result<Gates> {
        let mut gates = Gates { norm_gain: self.norm_gain(), ..Gates::none() };
        for mask in &self.masks {
            let kept = top_k_per_row(&mask.spec, &finite_values(&mask.spec, &mask.log_alpha)?, &survivors(mask)?);
            let factors: Vec<f32> = kept.into_iter().map(|kept| if kept { 1.0 } else { 0.0 }).collect();
            let factors = to_tensor(&mask.spec, &factors, self.device)?;
            let gate = match &self.gating {
                Gating::TopK(_) => factors,
                Gating::HardConcrete(_) | Gating::Deterministic(_) => {
                    self.soft(mask)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_mul(&factors)?
                }
            };
            gates.set(mask.spec.module, Some(gate));
        }
        Ok(gates)
    }

    /// What makes a mean over the target's hidden dimensions the weighted one that top-k gates train with.
    fn norm_gain(&self) -> Option<f32> {
        let hidden = self.spec.get(UnitKind::Hidden)?;
        (!self.is_constrained()).then(|| hidden.norm_gain())
    }

    /// The value of every unit outside training, without graph: σ(slope·a), the gate itself where it is deterministic, or the
    /// top-k gate of the finished steps.
    pub(crate) fn soft(&self, mask: &Mask) -> Result<Tensor> {
        let log_alpha = mask.log_alpha.f_detach()?;
        match &self.gating {
            Gating::HardConcrete(constants) => constants.soft(&log_alpha),
            Gating::Deterministic(constants) => constants.gates(&log_alpha),
            Gating::TopK(schedule) => schedule.at(self.finished).gates(&mask.spec, &log_alpha),
        }
    }

    /// How open every unit is, in [0, 1], for reports: its value outside training, or where that has no upper limit its score.
    pub(crate) fn openness(&self, mask: &Mask) -> Result<Tensor> {
        match &self.gating {
            Gating::Deterministic(_) => self.score(mask),
            Gating::HardConcrete(_) | Gating::TopK(_) => self.soft(mask),
        }
    }

    /// The share of itself that every unit is expected to be open, with graph: P(z ≠ 0), s(m), or the top-k gate.
    fn score_of(&self, mask: &Mask) -> Result<Tensor> {
        match &self.gating {
            Gating::HardConcrete(constants) => constants.score(&mask.log_alpha),
            Gating::Deterministic(constants) => constants.score(&mask.log_alpha, self.finished),
            Gating::TopK(schedule) => schedule.at(self.finished).gates(&mask.spec, &mask.log_alpha),
        }
    }

    /// As `score_of`, without graph.
    pub(crate) fn score(&self, mask: &Mask) -> Result<Tensor> {
        Ok(self.score_of(mask)?.f_detach()?)
    }

    /// The value of every unit of a module outside training, `[rows, size]` or `[size]`; ones if it is not pruned.
    ///
    /// # Errors
    /// libtorch's.
    pub fn soft_values(&self, module: UnitKind) -> Result<Tensor> {
        match self.mask(module) {
            Some(mask) => self.soft(mask),
            None => Ok(Tensor::f_ones(&self.spec.layout(module).dims()[..], (Kind::Float, self.device))?),
        }
    }

    /// How many units of each row the present expectation keeps.
    pub(crate) fn expected_survivors(&self, mask: &Mask) -> Result<Vec<i64>> {
        let spec = &mask.spec;
        let scores = finite_values(spec, &self.score(mask)?)?;
        let least = i64::from(spec.module == UnitKind::Hidden);
        let survivors = |row: &[f32]| {
            let open: f64 = row.iter().map(|&score| f64::from(score)).sum();
            spec.size - ((spec.size as f64 - open).round_ties_even() as i64).clamp(0, spec.size - least)
        };
        Ok(scores.chunks_exact(spec.size as usize).map(survivors).collect())
    }

    /// Expected scores P(z ≠ 0) of a module, `[rows, size]` or `[size]`, with graph; ones if it is not pruned.
    ///
    /// # Errors
    /// libtorch's.
    pub fn expected_score(&self, module: UnitKind) -> Result<Tensor> {
        match self.mask(module) {
            Some(mask) => self.score_of(mask),
            None => Ok(Tensor::f_ones(&self.spec.layout(module).dims()[..], (Kind::Float, self.device))?),
        }
    }

    /// Expected sparsity 1 − Σ score / size of each row, `[rows]`, with graph; zeros if the module is not pruned.
    ///
    /// # Errors
    /// libtorch's.
    pub fn expected_sparsity(&self, module: UnitKind) -> Result<Tensor> {
        let spec = self.spec.layout(module);
        let scores = self.expected_score(module)?.f_view([spec.rows, spec.size])?;
        Ok(scores.f_mean_dim(-1, false, Kind::Float)?.f_rsub_scalar(1.0)?)
    }

    /// Target sparsity of a module at a step; 0 if it is not pruned.
    pub fn target_sparsity(&self, module: UnitKind, step: u64) -> f64 {
        self.spec.get(module).map_or(0.0, |spec| spec.target_sparsity() * self.progress(step))
    }

    /// Target of the overall sparsity at a step. Its warm-up is linear too, while the modules' targets multiply: during the
    /// warm-up it differs from what they imply.
    pub fn overall_target_sparsity(&self, step: u64) -> f64 {
        let target = 1.0 - self.spec.target_prunable_params() as f64 / self.spec.prunable_params() as f64;
        target * self.progress(step)
    }

    /// The share of the targets that holds at a step.
    fn progress(&self, step: u64) -> f64 {
        match self.top_k(step + 1) {
            Some(step) => step.progress,
            None => warmed_up(1.0, step, self.warmup_steps),
        }
    }

    /// The size of the model that the masks expect now. It copies all scores to the host: a training step has
    /// [`Lagrangian::expected`].
    ///
    /// # Errors
    /// Log-odds that are not finite.
    pub fn expected_size(&self) -> Result<ExpectedSize> {
        let mut scores = Gates::none();
        for mask in &self.masks {
            scores.set(mask.spec.module, Some(self.score(mask)?));
        }
        ExpectedSize::of_scores(&self.spec, &scores)
    }

    /// The constraint at a step: its loss with graph, and its state for logs. The scores of all masks are computed at once.
    ///
    /// # Errors
    /// libtorch's.
    pub fn lagrangian(&self, step: u64) -> Result<Lagrangian> {
        if self.masks.is_empty() {
            return Lagrangian::of_nothing(&self.spec, self.device);
        }
        let scores = self.all_scores(step)?;
        let lambdas = self.masks.iter().map(|mask| &mask.lambda_1).chain(self.masks.iter().map(|mask| &mask.lambda_2));
        let multipliers = Tensor::f_stack(&lambdas.collect::<Vec<_>>(), 0)?.f_view([2, -1])?;
        let rows = self.is_constrained().then_some(&self.rows);
        Lagrangian::new(&self.spec, rows, &scores, &multipliers, self.progress(step))
    }

    /// Scores of all masks in one vector `[U]`, as a step trains with them; with graph only where a loss needs it.
    fn all_scores(&self, step: u64) -> Result<Tensor> {
        let flat = |mask: &Mask| -> Result<Tensor> {
            let values = match self.top_k(step + 1) {
                None => mask.log_alpha.shallow_clone(),
                Some(step) => step.gates(&mask.spec, &mask.log_alpha.f_detach()?)?,
            };
            Ok(values.f_view([-1])?)
        };
        let flat = Tensor::f_cat(&self.masks.iter().map(flat).collect::<Result<Vec<_>>>()?, 0)?;
        match &self.gating {
            Gating::HardConcrete(constants) => constants.score(&flat),
            Gating::Deterministic(constants) => constants.score(&flat, step + 1),
            Gating::TopK(_) => Ok(flat),
        }
    }

    /// The log-odds, named `log_alpha.<module>`: clones that share storage and gradient, for an optimiser that minimises.
    pub fn log_alpha_parameters(&self) -> Vec<(String, Tensor)> {
        let named = |mask: &Mask| (format!("log_alpha.{}", mask.spec.module), mask.log_alpha.shallow_clone());
        self.masks.iter().map(named).collect()
    }

    /// The multipliers, named `lambda_1.<module>` and `lambda_2.<module>`: clones that share storage and gradient, for an
    /// optimiser that maximises (negate their gradients).
    pub fn multiplier_parameters(&self) -> Vec<(String, Tensor)> {
        let named = |mask: &Mask| {
            [("lambda_1", &mask.lambda_1), ("lambda_2", &mask.lambda_2)]
                .map(|(name, value)| (format!("{name}.{}", mask.spec.module), value.shallow_clone()))
        };
        self.masks.iter().flat_map(named).collect()
    }

    /// Halves every λ1 that pushes beyond its target, judged by the constraint of the step, where the options ask for it. To be
    /// called after each optimiser step. Without it λ1 has to be integrated back to 0 before the masks turn, and the
    /// longer the approach took, the further they overshoot.
    ///
    /// # Errors
    /// libtorch's.
    pub fn unwind(&mut self, constraint: &Lagrangian) -> Result<()> {
        if !self.gating.unwinds() {
            return Ok(());
        }
        let Some(violations) = constraint.violations(&self.rows)? else { return Ok(()) };
        tch::no_grad(|| {
            for (mask, violation) in self.masks.iter_mut().zip(violations.f_unbind(0)?) {
                let pushes_beyond = mask.lambda_1.f_mul(&violation)?.f_lt(0.0)?.f_to_kind(Kind::Float)?;
                let _ = mask.lambda_1.f_mul_(&pushes_beyond.f_mul_scalar(-0.5)?.f_add_scalar(1.0)?)?;
            }
            Ok(())
        })
    }

    /// Brings the log-odds back into their range. To be called after each optimiser step, on the masters: a clamp inside the
    /// forward may act on a copy, and the masters then drift until units cannot come back. Top-k has no range: only
    /// differences count there.
    ///
    /// # Errors
    /// libtorch's.
    pub fn clamp(&mut self) -> Result<()> {
        let Some((low, high)) = self.gating.range() else { return Ok(()) };
        tch::no_grad(|| {
            for mask in &mut self.masks {
                let _ = mask.log_alpha.f_clamp_(low, high)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hard_concrete::HardConcrete;
    use crate::shape::Shape;

    #[test]
    fn noise_of_the_device_gives_the_gates_of_noise_of_the_host() {
        let source = Shape {
            hidden_size: 37,
            intermediate_size: 22,
            num_hidden_layers: 3,
            num_attention_heads: 10,
            num_key_value_heads: 5,
            head_dim: 2,
        };
        let target = Shape {
            hidden_size: 20,
            intermediate_size: 21,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 3,
            head_dim: 2,
        };
        let masks = MaskSet::new(MaskSpec::new(&source, &target).unwrap(), HardConcrete::default(), 0, 1, Device::Cpu);
        let mut masks = masks.unwrap();
        let key = NoiseKey { seed: 3, step: (5 << 32) + 1, micro_batch: 31 };
        assert!(masks.noise.is_none(), "the CPU keeps the scalar stream");
        let host = masks.sample(&key).unwrap();
        masks.noise = Some(DeviceNoise::new(masks.spec.modules(), Device::Cpu).unwrap());
        let device = masks.sample(&key).unwrap();
        assert_eq!(masks.spec.modules().len(), UnitKind::ALL.len());
        for module in UnitKind::ALL {
            assert_eq!(host.get(module).unwrap(), device.get(module).unwrap(), "{module}");
        }
    }
}
