//! Tests of the crate from outside, in one binary: golden values, statistics, convergence, files, plans and reports.

// clippy.toml allows these in tests; it does not see that all of this crate is one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod constraint;
mod convergence;
mod deterministic;
mod golden;
mod mask_file;
mod plans;
mod report;
mod sampling;
mod top_k;
mod toy;

use shearling_masks::{HardConcrete, MaskSet, MaskSpec, Shape, UnitKind};
use tch::{Device, Tensor};

/// Four query heads over two key/value heads, every dimension pruned.
fn gqa_spec() -> MaskSpec {
    let source = Shape {
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 4,
        num_attention_heads: 12,
        num_key_value_heads: 4,
        head_dim: 4,
    };
    let target = Shape {
        hidden_size: 10,
        intermediate_size: 9,
        num_hidden_layers: 3,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 4,
    };
    MaskSpec::new(&source, &target).unwrap()
}

fn gqa_masks() -> MaskSet {
    MaskSet::new(gqa_spec(), HardConcrete::default(), 20, 1, Device::Cpu).unwrap()
}

/// Overwrites the log-odds of a module in place, as an optimiser would.
fn set_log_alpha(masks: &MaskSet, module: UnitKind, values: &Tensor) {
    set_parameter(masks.log_alpha_parameters(), &format!("log_alpha.{module}"), values);
}

fn set_parameter(parameters: Vec<(String, Tensor)>, name: &str, values: &Tensor) {
    let (_, mut leaf) = parameters.into_iter().find(|(found, _)| found == name).unwrap();
    assert_eq!(leaf.size(), values.size(), "{name}");
    tch::no_grad(|| leaf.copy_(values));
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().flatten(0, -1)).unwrap()
}
