//! Decoding with whole models: first the dense one, then, when its memory is free again, the sparse one at every density.
//! Their weights are random, and so is what they say; which experts run differs by token and layer.

use super::clock::timed;
use super::report::{Measured, Row};
use super::weights::{Source, bias_for, experts_of};
use crate::cli::Printer;
use crate::lte::experts::EXPERT_SIZE;
use crate::model::count::{cache_bytes, decoding_weight_bytes};
use crate::model::parameters::parameters;
use crate::model::{Decoder, KvCache, ModelConfig};
use crate::native::runtime::allocator;
use crate::native::runtime::bandwidth::Bandwidth;
use tch::{Device, Kind, TchError, Tensor};

/// Tokens before those that are timed.
const CONTEXT: i64 = 16;
/// Readings of the bandwidth at each model.
const READINGS: usize = 3;

/// Tokens at all densities; as many of the dense model.
pub(super) fn measure(
    model: &ModelConfig,
    densities: &[f64],
    tokens: usize,
    (kind, device): (Kind, Device),
    printer: &Printer,
) -> anyhow::Result<Measured> {
    let source = Source::new(model.initializer_range, kind, device)?;
    let mut rates = Vec::new();
    printer.note("loading the dense model");
    let dense = decode(&decoder(&source, model, None)?, tokens, &source)?;
    read_bandwidth(&mut rates, device)?;
    allocator::release_unused();
    printer.note("loading the sparse model");
    let biases = (0..model.num_hidden_layers).map(|_| Tensor::f_zeros([experts_of(model)], (Kind::Float, device)));
    let mut biases = biases.collect::<Result<Vec<_>, TchError>>()?;
    let sparse = decoder(&source, model, Some(&biases))?;
    let element = kind.elt_size_in_bytes() as i64;
    let context = (CONTEXT + tokens as i64 / 2) as f64;
    let dense_bytes = decoding_weight_bytes(model, element) + cache_bytes(model, context, element);
    let row = |density, bytes, seconds: Vec<f64>| Row { density, bytes, seconds, dense_seconds: dense.clone() };
    let mut rows = vec![row(None, dense_bytes, dense.clone())];
    for density in densities {
        for bias in &mut biases {
            let _ = bias.f_fill_(bias_for(*density)?)?;
        }
        let seconds = decode(&sparse, tokens, &source)?;
        read_bandwidth(&mut rates, device)?;
        let numbers = model.num_hidden_layers * model.hidden_size;
        let skipped = (1.0 - density) * (numbers * 3 * EXPERT_SIZE * experts_of(model)) as f64;
        let routers = (numbers * experts_of(model)) as f64;
        rows.push(row(Some(*density), dense_bytes + (routers - skipped) * element as f64, seconds));
    }
    Ok(Measured { rows, bandwidth: rates })
}

/// A model of random weights; sparse with the routers' biases.
fn decoder(source: &Source, model: &ModelConfig, biases: Option<&[Tensor]>) -> Result<Decoder, TchError> {
    let all = parameters(model);
    let mut packed = |layer: i64| {
        let bias = biases.and_then(|biases| biases.get(layer as usize));
        bias.map(|bias| source.packed(model, bias)).transpose()
    };
    Decoder::build_packed(model, &mut packed, &mut |name| {
        let parameter = all.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or_else(|| TchError::Shape(format!("no parameter {name}")))?;
        match parameter.role.is_norm() {
            true => source.ones(&parameter.shape),
            false => source.weight(&parameter.shape),
        }
    })
}

/// Seconds of each token after a short text.
fn decode(decoder: &Decoder, tokens: usize, source: &Source) -> anyhow::Result<Vec<f64>> {
    let model = decoder.model();
    let mut cache = KvCache::new(model, 1, CONTEXT + tokens as i64 + 1, source.kind, source.device)?;
    let ids = Tensor::f_arange(CONTEXT, (Kind::Int64, source.device))?.f_unsqueeze(0)?;
    let _ = decoder.next_logits(&ids, &mut cache)?;
    let mut seconds = Vec::new();
    // The first token is a warm-up.
    for token in 0..=tokens as i64 {
        let ids = Tensor::f_from_slice(&[(7 * token + 1) % model.vocab_size])?.f_unsqueeze(0)?;
        let ids = ids.f_to_device(source.device)?;
        seconds.push(timed(source.device, || Ok(decoder.next_logits(&ids, &mut cache)?))?.0);
    }
    Ok(seconds.split_off(1))
}

/// Made and dropped each time, so that the buffer does not stand beside a model for longer.
fn read_bandwidth(rates: &mut Vec<f64>, device: Device) -> anyhow::Result<()> {
    let bandwidth = Bandwidth::in_huge_pages(device)?;
    for _ in 0..READINGS {
        let (seconds, _) = timed(device, || Ok(bandwidth.measure()?))?;
        rates.push(bandwidth.bytes() as f64 / seconds);
    }
    Ok(())
}
