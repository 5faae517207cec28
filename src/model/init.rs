//! Random weights for training a shape from scratch: Normal(0, `initializer_range`) for matrices, ones for norms,
//! zeros for biases, each tensor from its own counter-based stream, so that the numbers depend on the seed and the
//! name alone.

use super::{ModelConfig, Parameter, parameters::parameters};
use shearling_noise::weight_normals;
use tch::{Device, Kind, TchError, Tensor};

/// Fresh fp32 weights of a model on the CPU, in the order of [`parameters`].
pub fn random_weights(model: &ModelConfig, seed: u64) -> Result<Vec<(String, Tensor)>, TchError> {
    let all = parameters(model);
    all.iter().map(|p| Ok((p.name.clone(), random_weight(p, model.initializer_range, seed)?))).collect()
}

fn random_weight(parameter: &Parameter, std: f64, seed: u64) -> Result<Tensor, TchError> {
    let (shape, options) = (&parameter.shape[..], (Kind::Float, Device::Cpu));
    if parameter.role.is_norm() {
        return Tensor::f_ones(shape, options);
    }
    if parameter.role.is_bias() {
        return Tensor::f_zeros(shape, options);
    }
    let count = shape.iter().product::<i64>() as usize;
    let normals = weight_normals(seed, &parameter.name, count);
    Tensor::f_from_slice(&normals)?.f_mul_scalar(std)?.f_view(shape)
}
