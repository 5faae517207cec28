//! What the kernels' tests share: numbers, and the comparison with a reference in f64.

use super::autograd::backward;
use crate::native::kernels::{Path, compute_by};
use tch::{Device, Kind, Tensor};

/// Runs a test with the CPU's kernels and with those of a GPU.
pub(super) fn on_every_backend(test: impl Fn()) {
    for path in [Path::Own, Path::DeviceKernels] {
        let _path = compute_by(path);
        test();
    }
}

/// Numbers between -2 and 2 that look random, are the same in every run, and are exact in bf16.
pub(super) fn sample(shape: &[i64], seed: i64) -> Tensor {
    let count: i64 = shape.iter().product();
    let angles = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + seed * 78;
    let numbers = (angles.sin() * 43758.5453).frac() * 2.0;
    numbers.view(shape).to_kind(Kind::BFloat16).to_kind(Kind::Float)
}

/// A leaf of these values that requires a gradient.
pub(super) fn as_leaf(values: &Tensor) -> Tensor {
    values.detach().copy().set_requires_grad(true)
}

/// Whether every element is NaN.
pub(super) fn all_nan(tensor: &Tensor) -> bool {
    tensor.isnan().all().int64_value(&[]) == 1
}

/// Shapes are equal, and every element is within `tolerance` of its own size plus the mean size.
pub(super) fn assert_close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), expected.size(), "{name}");
    let (got, expected) = (got.detach().to_kind(Kind::Double), expected.detach().to_kind(Kind::Double));
    let allowed = (expected.abs() + expected.abs().mean(Kind::Double)) * tolerance;
    let differs = (&got - &expected).abs();
    let fits = differs.le_tensor(&allowed).all().int64_value(&[]) == 1;
    assert!(
        fits,
        "{name} is off by up to {:?}, of sizes around {:?}",
        differs.max(),
        expected.abs().mean(Kind::Double)
    );
}

/// Values and gradients of all `inputs`, the function with the kernels of either against its reference on the same numbers in f64. The kernel's outputs and gradients must have the dtypes of its inputs.
pub(super) fn compare(
    inputs: &[Tensor],
    tolerance: f64,
    kernel: impl Fn(&[Tensor]) -> Vec<Tensor>,
    reference: impl Fn(&[Tensor]) -> Vec<Tensor>,
) {
    let wide: Vec<Tensor> = inputs.iter().map(|input| input.to_kind(Kind::Double)).collect();
    let expected = evaluate(&wide, reference);
    on_every_backend(|| compare_with(inputs, tolerance, &kernel, &expected));
}

fn compare_with(
    inputs: &[Tensor],
    tolerance: f64,
    kernel: impl Fn(&[Tensor]) -> Vec<Tensor>,
    (expected_values, expected_gradients): &(Vec<Tensor>, Vec<Tensor>),
) {
    let (values, gradients) = evaluate(inputs, kernel);
    for (i, (value, expected)) in values.iter().zip(expected_values).enumerate() {
        assert_eq!(value.kind(), inputs[0].kind());
        assert_close(&format!("output {i} of {:?}", inputs[0]), value, expected, tolerance);
    }
    for (i, (gradient, expected)) in gradients.iter().zip(expected_gradients).enumerate() {
        assert_eq!(gradient.kind(), inputs[i].kind());
        assert_close(&format!("gradient {i} of {:?}", inputs[0]), gradient, expected, tolerance);
    }
}

/// Outputs, and the inputs' gradients for fixed gradients of the outputs.
fn evaluate(inputs: &[Tensor], function: impl Fn(&[Tensor]) -> Vec<Tensor>) -> (Vec<Tensor>, Vec<Tensor>) {
    let leaves: Vec<Tensor> = inputs.iter().map(as_leaf).collect();
    let outputs = function(&leaves);
    let given: Vec<Tensor> =
        outputs.iter().zip(100..).map(|(output, seed)| sample(&output.size(), seed).to_kind(output.kind())).collect();
    backward(&outputs, &given).unwrap();
    (outputs, leaves.iter().map(Tensor::grad).collect())
}
