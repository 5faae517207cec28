//! The optimiser's state by group: fp32 masters, their gradients, AdamW's moments; saved and resumed exactly.
//!
//! The update itself is [`native::adamw`](crate::native::ops::adamw), which has the equations. In bf16 training a master
//! lies in [two halves](crate::native::ops::halves), of which forward and backward use the upper one, a bf16 number. Every
//! tensor has one fp32 gradient for the whole run, and backward adds to it, also from a bf16 leaf: micro-batches are summed
//! in fp32 by themselves, and no gradient exists twice.
//!
//! Neither the norm nor the update waits for the device. Whether an update was applied is known there first; the host
//! says so with [`Group::finish`] when it has read it.

use crate::config::{MomentKind, Train};
use crate::native::ops::adamw::{AdamwRule, AdamwTensor, adamw};
use crate::native::ops::gradient::set_gradient_buffer;
use crate::native::ops::gradient_norm::squared_norm;
use crate::native::ops::halves;
use crate::native::runtime::memory::host_zeros;
use shearling_noise::{NoiseKey, Purpose, Stream};
use tch::{Device, Kind, TchError, Tensor};

/// One trained tensor with its optimiser state.
#[derive(Debug)]
pub struct Slot {
    /// Name, unique in its group; Hugging Face's for weights.
    pub name: String,
    /// What forward uses: fp32 values, or their upper halves in bf16.
    leaf: Tensor,
    /// The lower halves, int16.
    low: Option<Tensor>,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight_decay: f64,
    /// Where it is a part of a tensor that is sharded over ranks.
    part: Option<Part>,
}

/// Which part of a tensor a slot is.
#[derive(Clone, Debug)]
struct Part {
    whole: Vec<i64>,
    start: i64,
}

/// A rank's part of a weight: its name, the shape of the whole, the first element; fp32 values or their halves, and the sums
/// of their gradients, all `[n]`.
pub(super) struct OwnPart {
    pub(super) name: String,
    pub(super) whole: Vec<i64>,
    pub(super) start: i64,
    pub(super) values: Tensor,
    pub(super) low: Option<Tensor>,
    pub(super) gradient: Tensor,
}

/// AdamW's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    First,
    Second,
}

impl Moment {
    pub(super) const BOTH: [Moment; 2] = [Moment::First, Moment::Second];

    /// Under which name a checkpoint has that of a tensor.
    pub(super) fn of(self, name: &str) -> String {
        match self {
            Moment::First => format!("exp_avg.{name}"),
            Moment::Second => format!("exp_avg_sq.{name}"),
        }
    }
}

impl Slot {
    fn new(
        name: String,
        master: Tensor,
        working_kind: Kind,
        moments: Moments,
        weight_decay: f64,
    ) -> Result<Slot, TchError> {
        let (values, low) = match working_kind {
            Kind::Float => (master, None),
            _ => halves::split_in_place(master).map(|(high, low)| (high, Some(low)))?,
        };
        let gradient = Tensor::f_zeros(values.size(), (Kind::Float, values.device()))?;
        let [exp_avg, exp_avg_sq] = moments.zeros(&values)?;
        let leaf = values.f_set_requires_grad(true)?;
        set_gradient_buffer(&leaf, &gradient)?;
        Ok(Slot { name, leaf, low, gradient, exp_avg, exp_avg_sq, weight_decay, part: None })
    }

    fn of_part(own: OwnPart, moments: Moments, weight_decay: f64) -> Result<Slot, TchError> {
        let OwnPart { name, whole, start, values, low, gradient } = own;
        let [exp_avg, exp_avg_sq] = moments.zeros(&values)?;
        let part = Some(Part { whole, start });
        Ok(Slot { name, leaf: values, low, gradient, exp_avg, exp_avg_sq, weight_decay, part })
    }

    /// Its shape.
    pub fn size(&self) -> Vec<i64> {
        self.leaf.size()
    }

    /// Its number of elements.
    pub fn numel(&self) -> usize {
        self.leaf.numel()
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.leaf.device()
    }

    /// The fp32 values, outside of the graph: the leaf's own memory, or where they lie in halves memory of their own.
    pub fn master(&self) -> Result<Tensor, TchError> {
        match &self.low {
            Some(low) => halves::join(&self.leaf, low),
            None => self.leaf.f_detach(),
        }
    }

    /// Takes up fp32 values.
    pub(super) fn set_master(&mut self, values: &Tensor) -> Result<(), TchError> {
        match &self.low {
            Some(low) => halves::split_into(values, &self.leaf, low),
            None => self.leaf.f_detach()?.f_copy_(values),
        }
    }

    /// A moment.
    pub(super) fn moment(&self, moment: Moment) -> &Tensor {
        match moment {
            Moment::First => &self.exp_avg,
            Moment::Second => &self.exp_avg_sq,
        }
    }

    /// Takes up a saved moment of the whole tensor; says what does not fit.
    fn restore(&mut self, moment: Moment, saved: &Tensor) -> Result<(), String> {
        let own = self.moment(moment);
        let expected = self.part.as_ref().map_or_else(|| own.size(), |part| part.whole.clone());
        if saved.size() != expected || saved.kind() != own.kind() {
            let (found, expected) = ((saved.kind(), saved.size()), (own.kind(), expected));
            return Err(format!("{} is {found:?}, expected {expected:?}", moment.of(&self.name)));
        }
        let copy = || -> Result<(), TchError> {
            let mut own = own.shallow_clone();
            match &self.part {
                None => own.f_copy_(saved),
                Some(part) => own.f_copy_(&saved.f_flatten(0, -1)?.f_narrow(0, part.start, own.numel() as i64)?),
            }
        };
        copy().map_err(|error| error.to_string())
    }

    /// The tensor that forward uses.
    pub fn leaf(&self) -> Tensor {
        self.leaf.shallow_clone()
    }

    /// The fp32 gradient of the leaf: what backward has added since the last update.
    pub fn gradient(&self) -> &Tensor {
        &self.gradient
    }

    /// Gives the gradient another place: zeros of its shape, contiguous fp32 on its device.
    pub(super) fn move_gradient(&mut self, place: Tensor) -> Result<(), TchError> {
        set_gradient_buffer(&self.leaf(), &place)?;
        self.gradient = place;
        Ok(())
    }

    /// For update number `updates` of a run with this seed.
    fn view(&self, seed: u64, updates: u64) -> AdamwTensor<'_> {
        let key = match self.exp_avg.kind() {
            Kind::Int8 => {
                let key = NoiseKey { seed, step: updates, micro_batch: 0 };
                Stream::new(&key, Purpose::Rounding, &self.name).key()[0]
            }
            _ => 0,
        };
        AdamwTensor {
            values: &self.leaf,
            low: self.low.as_ref(),
            gradient: &self.gradient,
            exp_avg: &self.exp_avg,
            exp_avg_sq: &self.exp_avg_sq,
            weight_decay: self.weight_decay,
            first: self.part.as_ref().map_or(0, |part| part.start),
            key,
        }
    }
}

/// How moments are kept.
#[derive(Clone, Copy, Debug)]
struct Moments {
    kind: MomentKind,
    on_host: bool,
}

impl Moments {
    /// As the configuration asks for the weights; the few numbers of masks and multipliers stay fp32 on the device.
    fn of(name: &str, train: &Train) -> Moments {
        match name {
            "weights" => Moments { kind: train.moments, on_host: train.moments_on_host },
            _ => Moments { kind: MomentKind::Fp32, on_host: false },
        }
    }

    /// In which dtype one of the two is.
    fn dtype(self, moment: Moment) -> Kind {
        match (self.kind, moment) {
            (MomentKind::Fp32, _) => Kind::Float,
            (MomentKind::Bf16, _) => Kind::BFloat16,
            (MomentKind::EightBit, Moment::First) => Kind::Int8,
            (MomentKind::EightBit, Moment::Second) => Kind::Uint8,
        }
    }

    /// Both of `values`, in the order of [`Moment::BOTH`].
    fn zeros(self, values: &Tensor) -> Result<[Tensor; 2], TchError> {
        let zeros = |moment| match self.on_host && values.device() != Device::Cpu {
            true => host_zeros(values, self.dtype(moment)),
            false => Tensor::f_zeros(values.size(), (self.dtype(moment), values.device())),
        };
        let [first, second] = Moment::BOTH;
        Ok([zeros(first)?, zeros(second)?])
    }
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
    /// The constants; learning rate and count are filled in at each update.
    rule: AdamwRule,
    slots: Vec<Slot>,
    moments: Moments,
    /// Of the run: 8-bit moments are rounded by chance.
    seed: u64,
    updates: u64,
}

impl Group {
    /// A group over contiguous fp32 `tensors`. With a `working_kind` of bf16 they are kept in halves, and [`Slot::leaf`] is
    /// the upper one. Matrices decay when `train.weight_decay` says so; vectors (norms, biases) and masks never do.
    pub fn new(
        name: &'static str,
        learning_rate: f64,
        direction: Direction,
        train: &Train,
        tensors: Vec<(String, Tensor)>,
        working_kind: Kind,
    ) -> Result<Group, TchError> {
        let decays = |tensor: &Tensor| direction == Direction::Descent && name == "weights" && tensor.dim() > 1;
        let moments = Moments::of(name, train);
        let slots = tensors.into_iter().map(|(name, tensor)| {
            let weight_decay = if decays(&tensor) { train.weight_decay } else { 0.0 };
            Slot::new(name, tensor, working_kind, moments, weight_decay)
        });
        Ok(Group::over(name, learning_rate, direction, train, slots.collect::<Result<_, _>>()?))
    }

    /// The weights' group over this rank's parts of them.
    pub(super) fn of_parts(train: &Train, parts: Vec<OwnPart>) -> Result<Group, TchError> {
        let (name, moments) = ("weights", Moments::of("weights", train));
        let slots = parts.into_iter().map(|part| {
            let weight_decay = if part.whole.len() > 1 { train.weight_decay } else { 0.0 };
            Slot::of_part(part, moments, weight_decay)
        });
        let slots = slots.collect::<Result<_, _>>()?;
        Ok(Group::over(name, train.learning_rate, Direction::Descent, train, slots))
    }

    fn over(name: &'static str, learning_rate: f64, direction: Direction, train: &Train, slots: Vec<Slot>) -> Group {
        let rule = AdamwRule {
            learning_rate,
            beta1: train.beta1,
            beta2: train.beta2,
            eps: train.eps,
            step: 0,
            maximize: direction == Direction::Ascent,
        };
        Group { name, learning_rate, rule, slots, moments: Moments::of(name, train), seed: 0, updates: 0 }
    }

    /// The same in a run with this seed.
    pub(super) fn seeded(self, seed: u64) -> Group {
        Group { seed, ..self }
    }

    /// The dtype of one of its moments.
    pub(super) fn moment_dtype(&self, moment: Moment) -> Kind {
        self.moments.dtype(moment)
    }

    /// Its tensors.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Its tensors, to move their gradients.
    pub(super) fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.slots
    }

    /// Squared L2 norm of all gradients, fp64 of shape `[]` on their device (no synchronisation). A group without
    /// tensors has a zero on the CPU.
    pub fn squared_norm(&self) -> Result<Tensor, TchError> {
        let gradients: Vec<Tensor> = self.slots.iter().map(|slot| slot.gradient.shallow_clone()).collect();
        squared_norm(&gradients)
    }

    /// Squared L2 norm of all masters, as that of the gradients; one master at a time, which may be in halves.
    pub fn squared_size(&self) -> Result<Tensor, TchError> {
        let mut sum = squared_norm(&[])?;
        for slot in &self.slots {
            sum = squared_norm(&[slot.master()?])?.f_add(&sum.f_to_device(slot.device())?)?;
        }
        Ok(sum)
    }

    /// One update with gradients times `scale` and the peak learning rate times `factor`, unless `skip` is other than
    /// zero; both are one number on the device, which is not waited for. The gradients are zero afterwards in any case.
    /// Call [`Group::finish`] before the next one.
    pub fn update(&mut self, scale: &Tensor, skip: &Tensor, factor: f64) -> Result<(), TchError> {
        let step = self.updates + 1;
        let views: Vec<AdamwTensor> = self.slots.iter().map(|slot| slot.view(self.seed, step)).collect();
        let rule = AdamwRule { learning_rate: self.learning_rate * factor, step, ..self.rule };
        adamw(&views, &rule, scale, skip)
    }

    /// Counts the last update if it was `applied`, that is, not skipped.
    pub fn finish(&mut self, applied: bool) {
        self.updates += u64::from(applied);
    }

    /// Number of applied updates so far (t of the bias corrections).
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moments by name: `exp_avg.NAME`, `exp_avg_sq.NAME`.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let pair =
            |slot: &Slot| Moment::BOTH.map(|moment| (moment.of(&slot.name), slot.moment(moment).shallow_clone()));
        self.slots.iter().flat_map(pair).collect()
    }

    /// Restores moments, which `saved` gives by name, and the update count; says what is missing or has another shape or
    /// kind.
    pub fn restore(
        &mut self,
        saved: &mut dyn FnMut(&str) -> Result<Option<Tensor>, String>,
        updates: u64,
    ) -> Result<(), String> {
        for slot in &mut self.slots {
            for moment in Moment::BOTH {
                let name = moment.of(&slot.name);
                let saved = saved(&name)?.ok_or_else(|| format!("{name} is missing"))?;
                slot.restore(moment, &saved)?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tch::Device;

    fn train(extra: &str) -> Train {
        toml::from_str(&format!("steps = 1\nbatch_rows = 1\nlearning_rate = 0.1\n{extra}")).unwrap()
    }

    fn start() -> Vec<(String, Tensor)> {
        vec![("w".into(), Tensor::from_slice(&[1.0f32, -2.0, 3.0, 0.5]).view([2, 2]))]
    }

    fn group(direction: Direction, extra: &str, kind: Kind) -> Group {
        Group::new("weights", 0.1, direction, &train(extra), start(), kind).unwrap()
    }

    /// Adds the gradient of Σ w² to that of the group.
    fn backward(group: &Group) {
        group.slots()[0].leaf().square().sum(Kind::Float).backward();
    }

    fn update(group: &mut Group, scale: f64, skip: bool) {
        let skip_flag = Tensor::from(f32::from(u8::from(skip)));
        group.update(&Tensor::from(scale as f32), &skip_flag, 1.0).unwrap();
        group.finish(!skip);
    }

    fn take_steps(group: &mut Group, steps: usize) -> Vec<f32> {
        for _ in 0..steps {
            backward(group);
            update(group, 1.0, false);
        }
        master(group)
    }

    fn master(group: &Group) -> Vec<f32> {
        Vec::try_from(group.slots()[0].master().unwrap().view([-1])).unwrap()
    }

    fn gradient(group: &Group) -> Vec<f32> {
        Vec::try_from(group.slots()[0].gradient().view([-1])).unwrap()
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
                let found = take_steps(&mut group(direction, &format!("weight_decay = {decay}"), Kind::Float), 7);
                // Ascent groups (multipliers) never decay.
                let expected = reference(7, sign, if sign < 0.0 { 0.0 } else { decay });
                for (a, b) in found.iter().zip(&expected) {
                    assert!((*a as f64 - b).abs() < 1e-5, "{found:?} {expected:?}");
                }
            }
        }
    }

    #[test]
    fn a_bf16_leaf_is_half_of_an_fp32_master() {
        let mut group = group(Direction::Descent, "", Kind::BFloat16);
        take_steps(&mut group, 3);
        let slot = &mut group.slots_mut()[0];
        let master = slot.master().unwrap();
        assert_eq!((master.kind(), slot.leaf().kind()), (Kind::Float, Kind::BFloat16));
        assert!(slot.leaf().equal(&master.to_kind(Kind::BFloat16)));
        assert!(!slot.leaf().to_kind(Kind::Float).equal(&master));
        slot.set_master(&(&master * 1.1)).unwrap();
        assert!(slot.master().unwrap().equal(&(&master * 1.1)));
        assert!(slot.leaf().requires_grad());
    }

    #[test]
    fn micro_batches_add_up_in_one_fp32_gradient() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut group = group(Direction::Descent, "", kind);
            let address = group.slots()[0].gradient().data_ptr();
            for _ in 0..2 {
                // 256 + 1 is no bf16 number.
                for factor in [256.0, 1.0] {
                    (group.slots()[0].leaf() * factor).sum(Kind::Float).backward();
                }
                assert_eq!(gradient(&group), [257.0; 4]);
                update(&mut group, 1.0, false);
                assert_eq!(gradient(&group), [0.0; 4]);
            }
            assert_eq!(group.slots()[0].leaf().grad().data_ptr(), address);
        }
    }

    #[test]
    fn a_skipped_update_leaves_no_trace() {
        let mut clean = group(Direction::Descent, "", Kind::BFloat16);
        let mut skipping = group(Direction::Descent, "", Kind::BFloat16);
        take_steps(&mut clean, 1);
        take_steps(&mut skipping, 1);
        (skipping.slots()[0].leaf() * f64::NAN).sum(Kind::Float).backward();
        assert!(skipping.squared_norm().unwrap().double_value(&[]).is_nan());
        update(&mut skipping, f64::NAN, true);
        assert_eq!((skipping.updates(), gradient(&skipping)), (1, vec![0.0; 4]));
        assert_eq!(take_steps(&mut skipping, 2), take_steps(&mut clean, 2));
    }

    #[test]
    fn the_scale_is_a_factor_on_the_gradients() {
        let mut scaled = group(Direction::Descent, "", Kind::Float);
        let mut plain = group(Direction::Descent, "", Kind::Float);
        for _ in 0..3 {
            backward(&scaled);
            update(&mut scaled, 0.25, false);
            (plain.slots()[0].leaf().square().sum(Kind::Float) * 0.25).backward();
            update(&mut plain, 1.0, false);
        }
        assert_eq!(master(&scaled), master(&plain));
        assert!(scaled.moments()[0].1.equal(&plain.moments()[0].1));
    }

    #[test]
    fn restored_moments_continue_exactly() {
        for extra in ["weight_decay = 0.1", "moments = 'bf16'", "moments = '8bit'"] {
            let mut whole = group(Direction::Descent, extra, Kind::Float);
            take_steps(&mut whole, 3);
            let tensors = vec![("w".into(), whole.slots()[0].master().unwrap().copy())];
            let mut moments: BTreeMap<String, Tensor> =
                whole.moments().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
            let expected = take_steps(&mut whole, 2);
            let train = train(extra);
            let mut resumed = Group::new("weights", 0.1, Direction::Descent, &train, tensors, Kind::Float).unwrap();
            resumed.restore(&mut |name| Ok(moments.remove(name)), 3).unwrap();
            assert_eq!(take_steps(&mut resumed, 2), expected);
        }
    }

    #[test]
    fn moments_that_do_not_fit_are_refused() {
        let mut group = group(Direction::Descent, "", Kind::Float);
        assert!(group.restore(&mut |_| Ok(None), 3).unwrap_err().contains("exp_avg.w is missing"));
        for wrong in
            [Tensor::zeros([2], (Kind::Float, Device::Cpu)), Tensor::zeros([2, 2], (Kind::BFloat16, Device::Cpu))]
        {
            let problem = group.restore(&mut |_| Ok(Some(wrong.shallow_clone())), 3).unwrap_err();
            assert!(problem.contains("expected (Float, [2, 2])"), "{problem}");
        }
        assert_eq!(group.updates(), 0);
    }

    #[test]
    fn fewer_bits_are_for_moments_of_weights_and_come_as_near_to_a_minimum() {
        let away = |extra: &str| {
            let mut group =
                Group::new("weights", 0.02, Direction::Descent, &train(extra), start(), Kind::Float).unwrap();
            take_steps(&mut group, 300).iter().map(|value| value.abs()).fold(0.0, f32::max)
        };
        for moments in ["fp32", "bf16", "8bit"] {
            let away = away(&format!("moments = '{moments}'"));
            assert!(away < 0.05, "{moments}: {away}");
        }
        for (moments, kinds) in [("bf16", [Kind::BFloat16; 2]), ("8bit", [Kind::Int8, Kind::Uint8])] {
            let train = train(&format!("moments = '{moments}'\nmoments_on_host = true"));
            for (name, kinds) in [("weights", kinds), ("masks", [Kind::Float; 2]), ("multipliers", [Kind::Float; 2])] {
                let group = Group::new(name, 0.1, Direction::Descent, &train, start(), Kind::Float).unwrap();
                let found: Vec<Kind> = group.moments().iter().map(|(_, moment)| moment.kind()).collect();
                assert_eq!(found, kinds, "{name}");
            }
        }
    }

    /// The chance of 8-bit moments depends on seed, tensor and update alone.
    #[test]
    fn eight_bit_moments_are_those_of_their_seed() {
        let after = |seed: u64| {
            let mut group = group(Direction::Descent, "moments = '8bit'", Kind::BFloat16).seeded(seed);
            take_steps(&mut group, 30);
            group.moments().into_iter().map(|(_, moment)| moment.copy()).collect::<Vec<Tensor>>()
        };
        assert_eq!(after(1), after(1));
        assert_ne!(after(1), after(2));
    }

    #[test]
    fn the_norm_is_that_of_all_gradients() {
        let group = group(Direction::Descent, "", Kind::Float);
        backward(&group);
        let expected = 4.0 * (1.0 + 4.0 + 9.0 + 0.25);
        let found = group.squared_norm().unwrap().double_value(&[]);
        assert!((found - expected).abs() < 1e-4);
    }
}
