//! Random weights in huge pages, and a router that lets a chosen share of the experts run.

use crate::lte::experts::EXPERT_SIZE;
use crate::model::ModelConfig;
use crate::native::ops::sparse_feed_forward::PackedExperts;
use crate::native::runtime::memory::prefer_huge_pages;
use tch::{Device, Kind, TchError, Tensor};

/// Random numbers that fill all weights, over and over: their values do not matter to the time.
const NOISE: i64 = 1 << 20;
/// A logit that no input reaches.
const FAR: f64 = 1e6;

/// Where weights come from.
pub(super) struct Source {
    noise: Tensor,
    pub(super) kind: Kind,
    pub(super) device: Device,
}

impl Source {
    pub(super) fn new(std: f64, kind: Kind, device: Device) -> Result<Source, TchError> {
        tch::manual_seed(0);
        let noise = Tensor::f_randn([NOISE], (Kind::Float, Device::Cpu))?.f_mul_scalar(std)?.f_to_kind(kind)?;
        Ok(Source { noise: noise.f_to_device(device)?, kind, device })
    }

    /// A weight of `shape`.
    pub(super) fn weight(&self, shape: &[i64]) -> Result<Tensor, TchError> {
        let count: i64 = shape.iter().product();
        let weight = Tensor::f_empty([count], (self.kind, self.device))?;
        prefer_huge_pages(&weight);
        for start in (0..count).step_by(NOISE as usize) {
            let part = NOISE.min(count - start);
            weight.f_narrow(0, start, part)?.f_copy_(&self.noise.f_narrow(0, 0, part)?)?;
        }
        weight.f_view(shape)
    }

    pub(super) fn ones(&self, shape: &[i64]) -> Result<Tensor, TchError> {
        Tensor::f_ones(shape, (self.kind, self.device))
    }

    /// Packed experts of a layer whose logits, for inputs that a norm without weights gives, are normal with the mean
    /// `bias [1]`, which may be changed later.
    pub(super) fn packed(&self, model: &ModelConfig, bias: &Tensor) -> Result<PackedExperts, TchError> {
        let (count, dim) = (experts_of(model), model.hidden_size);
        let router = Tensor::f_randn([count, dim], (Kind::Float, Device::Cpu))?.f_div_scalar((dim as f64).sqrt())?;
        Ok(PackedExperts {
            experts: self.weight(&[count, 3 * EXPERT_SIZE, dim])?,
            router: Some(router.f_to_kind(self.kind)?.f_to_device(self.device)?),
            router_bias: Some(bias.shallow_clone()),
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        })
    }
}

/// N of a shape.
pub(super) fn experts_of(model: &ModelConfig) -> i64 {
    model.intermediate_size / EXPERT_SIZE
}

/// The mean of standard normal logits of which the share `density` is above 0.
pub(super) fn bias_for(density: f64) -> Result<f64, TchError> {
    if density <= 0.0 || density >= 1.0 {
        return Ok(if density >= 1.0 { FAR } else { -FAR });
    }
    let inverse = Tensor::from_slice(&[2.0 * density - 1.0]).f_erfinv()?;
    Ok(inverse.f_double_value(&[0])? * std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::latency::contestant::llama;
    use crate::commands::bench::shapes::NamedShape;
    use crate::native::ops::sparse_feed_forward::running_experts;

    #[test]
    fn the_router_lets_the_asked_share_run() {
        let model = llama(&NamedShape::named("small").unwrap().model()).unwrap();
        let source = Source::new(0.02, Kind::Float, Device::Cpu).unwrap();
        for density in [0.0, 0.1, 0.3, 0.5, 1.0] {
            let bias = Tensor::from_slice(&[bias_for(density).unwrap() as f32]).expand([experts_of(&model)], false);
            let packed = source.packed(&model, &bias.contiguous()).unwrap();
            let x = Tensor::randn([200, model.hidden_size], (Kind::Float, Device::Cpu));
            let found = running_experts(&x, &packed).unwrap().mean(Kind::Double).double_value(&[]);
            assert!((found - density).abs() < 0.03, "{density}: {found}");
        }
    }

    #[test]
    fn a_weight_is_filled_to_its_end() {
        let weight = Source::new(1.0, Kind::BFloat16, Device::Cpu).unwrap().weight(&[3, NOISE / 2 + 1]).unwrap();
        assert_eq!(weight.narrow(0, 2, 1).narrow(1, NOISE / 2 - 8, 8).count_nonzero(None::<i64>).int64_value(&[]), 8);
    }
}
