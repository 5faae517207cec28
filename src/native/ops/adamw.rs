//! AdamW (Loshchilov & Hutter) over many tensors in one pass, with everything that decides about it on the device.
//!
//! ```text
//! g ← ± scale · g          (− goes up the gradient)
//! m ← β₁m + (1−β₁)g        v ← β₂v + (1−β₂)g²
//! p ← p(1 − lr·wd) − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//! g ← 0
//! ```
//!
//! p is fp32, or fp32 in [two halves](super::halves), of which the upper one is the bf16 number that forward and backward
//! use.
//!
//! `scale` and `skip` are tensors, so that a step on a GPU needs no answer from it: clipping decides the one, a
//! non-finite loss or norm the other. A skipped update leaves everything as it was but the gradients, which are cleared
//! all the same: a NaN must not live on in them.
//!
//! bf16 moments take half the memory. They are read into fp32 and rounded to nearest when stored, with a relative error
//! of up to 2⁻⁹: the first moment stops following a gradient that is within 2⁻⁹/(1−β₁) of it (2 % for β₁ = 0.9), the
//! second, for β₂ = 0.95, one within 4 % of it, of which the step feels half. Where 1−β₂ is below 2⁻⁸ the second could
//! not fall at all. [8-bit moments](super::eight_bit_moments) take a quarter, and are rounded by chance: right in the mean,
//! for any β₂ above β₁².
//!
//! Kernels of ours touch each tensor once, on the CPU and on a GPU that has them. Elsewhere libtorch's fused kernel runs
//! over all tensors in one launch, and what it cannot take (halves, moments in fewer bits or on the host) is brought to
//! fp32 on the device one tensor after the other.

use super::eight_bit_moments::{from_eight_bits, to_eight_bits};
use super::halves;
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Kind, TchError, Tensor};

/// What is the same for all tensors of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct AdamwRule {
    /// lr.
    pub learning_rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// t, counted from 1: the number of this update.
    pub step: u64,
    /// Whether to go up the gradient.
    pub maximize: bool,
}

/// One trained tensor with its state: all of one shape and contiguous.
#[derive(Clone, Copy, Debug)]
pub struct AdamwTensor<'a> {
    /// p, fp32; with `low`, its upper half, bf16.
    pub values: &'a Tensor,
    /// The lower half of p, int16.
    pub low: Option<&'a Tensor>,
    /// g, fp32, on the device of the values; zero afterwards.
    pub gradient: &'a Tensor,
    /// m, fp32, bf16 or int8; on the device of the values or on the host.
    pub exp_avg: &'a Tensor,
    /// v, like m; uint8 beside int8.
    pub exp_avg_sq: &'a Tensor,
    /// wd.
    pub weight_decay: f64,
    /// The place of the first number in a tensor of which this may be a part.
    pub first: i64,
    /// Of the chance by which 8-bit moments are rounded: another one for each update.
    pub key: u32,
}

/// What a tensor has of its own besides tensors, as the C++ side takes it.
#[repr(C)]
struct Own {
    weight_decay: f64,
    first: i64,
    key: u32,
}

unsafe extern "C" {
    fn shearling_adamw(
        values: *const CTensor,
        lows: *const CTensor,
        gradients: *const CTensor,
        exp_avgs: *const CTensor,
        exp_avg_sqs: *const CTensor,
        own: *const Own,
        count: usize,
        rule: *const AdamwRule,
        scale: CTensor,
        skip: CTensor,
        kernel: c_int,
        error: CError,
    ) -> c_int;
}

/// One update of all `tensors`, which are on one device. `scale` is the factor on the gradients; with a `skip` other
/// than zero nothing is updated. Both are one number on that device, and it is not waited for, except for moments that
/// are on the host.
///
/// # Errors
/// A dtype, shape, layout or device other than described; nothing is changed then.
pub fn adamw(tensors: &[AdamwTensor], rule: &AdamwRule, scale: &Tensor, skip: &Tensor) -> Result<(), TchError> {
    call(tensors, rule, scale, skip, true)
}

/// The same by libtorch's fused kernel on every device: what [`adamw`] does where there is no kernel of ours.
///
/// # Errors
/// As [`adamw`].
pub fn adamw_libtorch(
    tensors: &[AdamwTensor],
    rule: &AdamwRule,
    scale: &Tensor,
    skip: &Tensor,
) -> Result<(), TchError> {
    call(tensors, rule, scale, skip, false)
}

fn call(
    tensors: &[AdamwTensor],
    rule: &AdamwRule,
    scale: &Tensor,
    skip: &Tensor,
    kernel: bool,
) -> Result<(), TchError> {
    let values = shim::pointers(tensors.iter().map(|tensor| tensor.values));
    let lows: Vec<CTensor> = tensors.iter().map(|tensor| shim::optional(tensor.low)).collect();
    let gradients = shim::pointers(tensors.iter().map(|tensor| tensor.gradient));
    let exp_avgs = shim::pointers(tensors.iter().map(|tensor| tensor.exp_avg));
    let exp_avg_sqs = shim::pointers(tensors.iter().map(|tensor| tensor.exp_avg_sq));
    let own = |tensor: &AdamwTensor| Own { weight_decay: tensor.weight_decay, first: tensor.first, key: tensor.key };
    let own: Vec<Own> = tensors.iter().map(own).collect();
    // SAFETY: all arrays have `tensors.len()` entries, of tensors that live for the time of the call; only those of
    // `lows` may be null. `AdamwRule` and `Own` are laid out as their C++ twins.
    shim::check(|error| unsafe {
        shearling_adamw(
            values.as_ptr(),
            lows.as_ptr(),
            gradients.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            own.as_ptr(),
            tensors.len(),
            rule,
            shim::pointer(scale),
            shim::pointer(skip),
            c_int::from(kernel),
            error,
        )
    })
}

/// The same of plain operators, tensor by tensor; waits for the device.
///
/// # Errors
/// As libtorch's operators.
pub fn adamw_reference(
    tensors: &[AdamwTensor],
    rule: &AdamwRule,
    scale: &Tensor,
    skip: &Tensor,
) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    let (scale, skip) = (scale.f_double_value(&[])?, skip.f_double_value(&[])? != 0.0);
    for tensor in tensors {
        if !skip {
            update(tensor, rule, scale)?;
        }
        let _ = tensor.gradient.shallow_clone().f_zero_()?;
    }
    Ok(())
}

fn update(tensor: &AdamwTensor, rule: &AdamwRule, scale: f64) -> Result<(), TchError> {
    let AdamwRule { learning_rate, beta1, beta2, eps, step, maximize } = *rule;
    let gradient = tensor.gradient.f_mul_scalar(if maximize { -scale } else { scale })?;
    let before = match tensor.low {
        Some(low) => halves::join(tensor.values, low)?,
        None => tensor.values.shallow_clone(),
    };
    let [exp_avg, exp_avg_sq] = moments(tensor, rule)?;
    let exp_avg = exp_avg.f_lerp(&gradient, 1.0 - beta1)?;
    let exp_avg_sq = exp_avg_sq.f_lerp(&gradient.f_square()?, 1.0 - beta2)?;
    let (bias1, bias2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
    let denominator = exp_avg_sq.f_sqrt()?.f_div_scalar(bias2.sqrt())?.f_add_scalar(eps)?;
    let kept = before.f_mul_scalar(1.0 - learning_rate * tensor.weight_decay)?;
    let after = kept.f_sub(&exp_avg.f_div(&denominator)?.f_mul_scalar(learning_rate / bias1)?)?;
    set_moments(tensor, rule, [exp_avg, exp_avg_sq])?;
    match tensor.low {
        Some(low) => halves::split_into(&after, tensor.values, low),
        None => tensor.values.shallow_clone().f_copy_(&after),
    }
}

/// m and v in fp32 on the device of the values.
fn moments(tensor: &AdamwTensor, rule: &AdamwRule) -> Result<[Tensor; 2], TchError> {
    let device = tensor.values.device();
    if tensor.exp_avg.kind() == Kind::Int8 {
        let moved = |moment: &Tensor| moment.f_to_device(device);
        return from_eight_bits(&moved(tensor.exp_avg)?, &moved(tensor.exp_avg_sq)?, [rule.beta1, rule.beta2]);
    }
    let moved = |moment: &Tensor| moment.f_to_device_(device, Kind::Float, false, true);
    Ok([moved(tensor.exp_avg)?, moved(tensor.exp_avg_sq)?])
}

fn set_moments(tensor: &AdamwTensor, rule: &AdamwRule, moments: [Tensor; 2]) -> Result<(), TchError> {
    let [first, second] = match tensor.exp_avg.kind() {
        Kind::Int8 => to_eight_bits(&moments[0], &moments[1], [rule.beta1, rule.beta2], tensor.key, tensor.first)?,
        _ => moments,
    };
    tensor.exp_avg.shallow_clone().f_copy_(&first)?;
    tensor.exp_avg_sq.shallow_clone().f_copy_(&second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::kernels::{Path, compute_by};
    use tch::Device;

    type Update = fn(&[AdamwTensor], &AdamwRule, &Tensor, &Tensor) -> Result<(), TchError>;

    const RULE: AdamwRule =
        AdamwRule { learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, maximize: false };

    /// As a GPU does it, on the CPU.
    fn adamw_of_gpu(tensors: &[AdamwTensor], rule: &AdamwRule, scale: &Tensor, skip: &Tensor) -> Result<(), TchError> {
        let _path = compute_by(Path::DeviceKernels);
        adamw(tensors, rule, scale, skip)
    }

    struct State {
        values: Tensor,
        low: Option<Tensor>,
        gradient: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
    }

    impl State {
        fn new(size: &[i64], moments: Kind, in_halves: bool, device: Device) -> State {
            let whole = numbers(size, 0.7).to_device(device);
            let zeros = |kind| Tensor::zeros(size, (kind, device));
            let (values, low) = match in_halves {
                true => halves::split(&whole).map(|(high, low)| (high, Some(low))).unwrap(),
                false => (whole, None),
            };
            let second = if moments == Kind::Int8 { Kind::Uint8 } else { moments };
            State { values, low, gradient: zeros(Kind::Float), exp_avg: zeros(moments), exp_avg_sq: zeros(second) }
        }

        /// p in fp32.
        fn whole(&self) -> Tensor {
            let low = self.low.as_ref();
            low.map_or_else(|| self.values.shallow_clone(), |low| halves::join(&self.values, low).unwrap())
        }

        fn view(&self, weight_decay: f64) -> AdamwTensor<'_> {
            AdamwTensor {
                values: &self.values,
                low: self.low.as_ref(),
                gradient: &self.gradient,
                exp_avg: &self.exp_avg,
                exp_avg_sq: &self.exp_avg_sq,
                weight_decay,
                first: 0,
                key: 0,
            }
        }

        fn all(&self) -> Vec<Tensor> {
            let state = [&self.whole(), &self.gradient, &self.exp_avg, &self.exp_avg_sq];
            state.into_iter().map(Tensor::copy).collect()
        }
    }

    /// Numbers that look random and are the same for every caller, on any thread.
    fn numbers(size: &[i64], stretch: f64) -> Tensor {
        let count = size.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) * stretch + stretch).sin().to_kind(Kind::Float).view(size)
    }

    /// One element, odd sizes, more than one range of the kernel, no elements.
    fn states(moments: Kind, in_halves: bool, device: Device) -> Vec<State> {
        [vec![1], vec![7], vec![3, 31], vec![70_003], vec![0]]
            .iter()
            .map(|size| State::new(size, moments, in_halves, device))
            .collect()
    }

    fn number(value: f64) -> Tensor {
        Tensor::from(value as f32)
    }

    /// Takes `steps` updates, each with its own gradients.
    fn train(states: &[State], rule: AdamwRule, steps: u64, scale: f64, update: Update) {
        let device = states[0].values.device();
        for step in 1..=steps {
            for state in states {
                state.gradient.shallow_clone().copy_(&numbers(&state.values.size(), step as f64 + 0.3));
            }
            // Weights with and without decay in one list.
            let views = states.iter().enumerate().map(|(i, state)| AdamwTensor {
                first: 3 * i as i64,
                key: 1000 * step as u32 + i as u32,
                ..state.view([0.1, 0.0][i % 2])
            });
            let views: Vec<AdamwTensor> = views.collect();
            let (scale, skip) = (number(scale).to_device(device), number(0.0).to_device(device));
            update(&views, &AdamwRule { step, ..rule }, &scale, &skip).unwrap();
        }
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        if a.numel() == 0 {
            return 0.0;
        }
        let (a, b) = (a.to_device(Device::Cpu).to_kind(Kind::Double), b.to_device(Device::Cpu).to_kind(Kind::Double));
        ((&a - &b).abs() / (b.abs() + 1.0)).max().double_value(&[])
    }

    fn agree(found: &[State], expected: &[State], tolerance: f64) {
        for (found, expected) in found.iter().zip(expected) {
            for (i, (a, b)) in found.all().iter().zip(expected.all()).enumerate() {
                assert!(apart(a, &b) <= tolerance, "{i} of {:?}: {} apart", b.size(), apart(a, &b));
            }
            assert_eq!(found.gradient.abs().sum(Kind::Float).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn the_kernel_and_libtorch_compute_the_reference() {
        for (in_halves, maximize, scale) in [(false, false, 1.0), (true, false, 0.3), (true, true, 1.0)] {
            let rule = AdamwRule { maximize, ..RULE };
            let expected = states(Kind::Float, in_halves, Device::Cpu);
            train(&expected, rule, 5, scale, adamw_reference);
            for update in [adamw as Update, adamw_libtorch, adamw_of_gpu] {
                let found = states(Kind::Float, in_halves, Device::Cpu);
                train(&found, rule, 5, scale, update);
                agree(&found, &expected, 2e-6);
            }
        }
    }

    #[test]
    fn bf16_moments_are_rounded_only_when_stored() {
        let expected = states(Kind::BFloat16, true, Device::Cpu);
        train(&expected, RULE, 1, 0.3, adamw_reference);
        for update in [adamw as Update, adamw_libtorch, adamw_of_gpu] {
            let found = states(Kind::BFloat16, true, Device::Cpu);
            train(&found, RULE, 1, 0.3, update);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(apart(&found.whole(), &expected.whole()) < 2e-6);
                // A value on the edge between two bf16 numbers may fall either way; no other does.
                for (a, b) in [(&found.exp_avg, &expected.exp_avg), (&found.exp_avg_sq, &expected.exp_avg_sq)] {
                    assert!(a.ne_tensor(b).to_kind(Kind::Double).sum(Kind::Double).double_value(&[]) <= 20.0);
                    assert!(apart(a, b) < 0.005);
                }
            }
        }
    }

    /// Halves are another place for the same numbers: no bit of the result differs.
    #[test]
    fn an_update_in_halves_is_that_of_whole_numbers() {
        for update in [adamw as Update, adamw_libtorch, adamw_of_gpu, adamw_reference] {
            let [whole, halved] = [false, true].map(|in_halves| {
                let states = states(Kind::Float, in_halves, Device::Cpu);
                train(&states, RULE, 4, 0.3, update);
                states
            });
            for (whole, halved) in whole.iter().zip(&halved) {
                assert!(whole.all().iter().zip(halved.all()).all(|(a, b)| a.equal(&b)));
            }
        }
    }

    /// The same chance on every path: codes differ only where fp32 rounds the last place of a threshold otherwise.
    #[test]
    fn eight_bit_moments_are_rounded_alike_everywhere() {
        for in_halves in [false, true] {
            let expected = states(Kind::Int8, in_halves, Device::Cpu);
            train(&expected, RULE, 1, 0.3, adamw_reference);
            for update in [adamw as Update, adamw_libtorch, adamw_of_gpu] {
                let found = states(Kind::Int8, in_halves, Device::Cpu);
                train(&found, RULE, 1, 0.3, update);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(apart(&found.whole(), &expected.whole()) < 2e-6);
                    for (a, b) in [(&found.exp_avg, &expected.exp_avg), (&found.exp_avg_sq, &expected.exp_avg_sq)] {
                        let others = a.ne_tensor(b).to_kind(Kind::Double).sum(Kind::Double).double_value(&[]);
                        assert!(others <= 0.001 * a.numel() as f64, "{others} of {}", a.numel());
                    }
                }
            }
        }
    }

    /// With gradients that change at each update, weights after 60 updates are within a small share of the way they went.
    #[test]
    fn eight_bit_moments_lead_the_same_way() {
        let away = |moments: Kind| {
            let state = [State::new(&[5000], moments, true, Device::Cpu)];
            train(&state, RULE, 60, 0.01, adamw);
            state[0].whole() - numbers(&[5000], 0.7)
        };
        let (exact, rounded) = (away(Kind::Float), away(Kind::Int8));
        let size = |way: &Tensor| way.square().mean(Kind::Double).sqrt().double_value(&[]);
        let off = size(&(&rounded - &exact)) / size(&exact);
        assert!(off < 0.1, "{off}");
    }

    #[test]
    fn a_skipped_update_only_clears_the_gradients() {
        for moments in [Kind::Float, Kind::BFloat16, Kind::Int8] {
            for update in [adamw as Update, adamw_libtorch, adamw_of_gpu, adamw_reference] {
                let states = states(moments, true, Device::Cpu);
                train(&states, RULE, 2, 1.0, update);
                let before: Vec<Vec<Tensor>> = states.iter().map(State::all).collect();
                for state in &states {
                    let _ = state.gradient.shallow_clone().fill_(f64::NAN);
                }
                let views: Vec<_> = states.iter().map(|state| state.view(0.1)).collect();
                let rule = AdamwRule { step: 3, ..RULE };
                // Any number but zero, and a scale that is no number.
                update(&views, &rule, &number(f64::NAN), &number(2.0)).unwrap();
                for (state, before) in states.iter().zip(&before) {
                    assert!(state.all().iter().zip(before).all(|(now, before)| now.equal(before)));
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let threads = tch::get_num_threads();
        let results = [1, 3].map(|threads| {
            tch::set_num_threads(threads);
            let states = states(Kind::BFloat16, true, Device::Cpu);
            train(&states, RULE, 3, 0.7, adamw);
            states
        });
        tch::set_num_threads(threads);
        for (one, three) in results[0].iter().zip(&results[1]) {
            assert!(one.all().iter().zip(three.all()).all(|(a, b)| a.equal(&b)));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let break_it: [fn(&mut State); 8] = [
            |state| state.values = state.values.to_kind(Kind::Float),
            |state| state.low = None,
            |state| state.low = Some(Tensor::zeros([4], (Kind::Int16, Device::Cpu))),
            |state| state.gradient = state.gradient.to_kind(Kind::BFloat16),
            |state| state.gradient = Tensor::zeros([4, 3], (Kind::Float, Device::Cpu)).transpose(0, 1),
            |state| state.exp_avg = Tensor::zeros([12], (Kind::Float, Device::Cpu)),
            |state| state.exp_avg_sq = state.exp_avg_sq.to_kind(Kind::BFloat16),
            |state| state.exp_avg = state.exp_avg.to_kind(Kind::Int8),
        ];
        for (case, break_it) in break_it.into_iter().enumerate() {
            let fine = State::new(&[3, 4], Kind::Float, true, Device::Cpu);
            let mut broken = State::new(&[3, 4], Kind::Float, true, Device::Cpu);
            break_it(&mut broken);
            let before = fine.all();
            let views = [fine.view(0.1), broken.view(0.1)];
            for update in [adamw as Update, adamw_libtorch, adamw_of_gpu] {
                let problem = update(&views, &RULE, &number(1.0), &number(0.0)).unwrap_err().to_string();
                assert!(problem.contains("adamw"), "{case}: {problem}");
            }
            assert!(fine.all().iter().zip(&before).all(|(now, before)| now.equal(before)));
        }
        let fine = State::new(&[3], Kind::Float, false, Device::Cpu);
        let two = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert!(adamw(&[fine.view(0.0)], &RULE, &two, &number(0.0)).is_err());
        adamw(&[], &RULE, &number(1.0), &number(0.0)).unwrap();
    }

    /// More tensors than one launch takes, and one that does not begin at a multiple of 16 bytes.
    #[test]
    fn a_gpu_takes_tensors_by_the_dozen() {
        let many = || -> Vec<State> {
            (0..110).map(|i| State::new(&[8 + 4 * (i % 7)], Kind::Float, i % 3 == 0, Device::Cpu)).collect()
        };
        let (mut expected, mut found) = (many(), many());
        for states in [&mut expected, &mut found] {
            let whole = numbers(&[17], 0.9);
            let zeros = || Tensor::zeros([16], (Kind::Float, Device::Cpu));
            let state = &mut states[60];
            (state.values, state.low) = (whole.narrow(0, 1, 16), None);
            (state.gradient, state.exp_avg, state.exp_avg_sq) = (zeros(), zeros(), zeros());
        }
        train(&expected, RULE, 2, 0.3, adamw_reference);
        train(&found, RULE, 2, 0.3, adamw_of_gpu);
        agree(&found, &expected, 2e-6);
    }

    #[test]
    fn a_graph_that_wants_the_old_values_notices() {
        let state = State::new(&[5], Kind::Float, false, Device::Cpu);
        let leaf = state.values.shallow_clone().set_requires_grad(true);
        let loss = leaf.square().sum(Kind::Float);
        adamw(&[state.view(0.0)], &RULE, &number(1.0), &number(0.0)).unwrap();
        let problem = loss.f_backward().unwrap_err().to_string();
        assert!(problem.contains("modified by an inplace operation"), "{problem}");
    }

    #[test]
    fn cuda_agrees_with_the_cpu() {
        if !tch::Cuda::is_available() {
            eprintln!("skipped: no CUDA device");
            return;
        }
        let expected = states(Kind::Float, true, Device::Cpu);
        train(&expected, RULE, 5, 0.3, adamw_reference);
        let mut found = states(Kind::Float, true, Device::Cuda(0));
        train(&found, RULE, 5, 0.3, adamw);
        agree(&found, &expected, 1e-5);
        // Moments on the host are streamed.
        found = states(Kind::Float, true, Device::Cuda(0));
        for state in &mut found {
            let host = || crate::native::runtime::memory::host_zeros(&state.values, Kind::Float).unwrap();
            (state.exp_avg, state.exp_avg_sq) = (host(), host());
        }
        train(&found, RULE, 5, 0.3, adamw);
        agree(&found, &expected, 1e-5);
    }
}
