//! Runs masked and pruned model side by side and compares them: layer by layer, then position by position.

use super::rounding::{EffectSum, Rounding, rounded_anew};
use super::streams::{Stream, placed};
use super::weights::WrittenWeights;
use super::{ARITHMETIC_BOUND, Apart, Equivalence, LayerDifference, NAMED_POSITIONS, Position};
use crate::hf::Checkpoint;
use crate::model::parameters::parameters;
use crate::model::{Head, Parameter};
use crate::prune::Error;
use crate::prune::conversion::{Conversion, source_parameter};
use crate::prune::fold::Folder;
use shearling_masks::Gates;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use tch::{Kind, Tensor};

/// Elements of logits that exist at a time, per model.
pub const LOGITS_AT_ONCE: i64 = 1 << 25;

/// Compares the source under the gates `masked` with the `pruned` checkpoint that `conversion` wrote, on its check rows.
/// `masked` are the gates that were trained, which `conversion` folded.
///
/// # Errors
/// A file that cannot be read, or a device without room. A difference is no error: see [`Equivalence::fault`].
pub fn check(
    conversion: &Conversion,
    masked: &Gates,
    pruned: &Checkpoint,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Equivalence, Error> {
    let _no_grad = tch::no_grad_guard();
    let device = conversion.device;
    let (source, source_model, pruned_model) = (conversion.source, conversion.source.model(), pruned.model());
    let folder = Folder::new(source_model, conversion.plan, conversion.gates)?;
    let origins: HashMap<String, Parameter> =
        parameters(pruned_model).into_iter().map(|p| (p.name.clone(), p)).collect();
    let exact_fold = |name: &str| -> Result<Tensor, Error> {
        let parameter = &origins[name];
        let origin = source_parameter(parameter, conversion.plan);
        let kept = parameter.layer.map(|layer| layer as usize);
        let weight = source.tensor(&origin.name, source.dtype(&origin.name)?.kind(), device)?;
        folder.fold_exactly(parameter.role, kept, &weight)
    };
    let weights = RefCell::new(WrittenWeights::default());
    // A tied embedding is asked for twice.
    let compared = RefCell::new(HashSet::new());
    let dtype = conversion.dtype;
    let input_ids = conversion.check_rows.ids.f_to_device(device)?;
    let start = |model, gates: &Gates, weight| Stream::start(model, gates, &input_ids, weight);

    let mut reference = start(
        source_model,
        &placed(masked, Kind::Double, device)?,
        Box::new(|name| Ok(source.tensor(name, Kind::Double, device)?)),
    )?;
    let mut folded = start(pruned_model, &Gates::none(), Box::new(|name| exact_fold(name)))?;
    let mut written = start(
        pruned_model,
        &Gates::none(),
        Box::new(|name| {
            let weight = pruned.tensor(name, Kind::Float, device)?;
            if compared.borrow_mut().insert(name.to_string()) {
                weights.borrow_mut().compare(name, &weight, &exact_fold(name)?, conversion.dtype)?;
            }
            Ok(weight)
        }),
    )?;
    let mut rounded = start(
        source_model,
        &placed(masked, Kind::Float, device)?,
        Box::new(|name| Ok(rounded_anew(&source.tensor(name, Kind::Float, device)?, dtype)?)),
    )?;

    let kept_hidden = Tensor::f_from_slice(&conversion.plan.hidden)?.f_to_device(device)?;
    let mut layers = vec![difference(None, None, &kept_hidden, &reference.x, &folded.x)?];
    let mut kept = 0;
    for source_layer in 0..source_model.num_hidden_layers {
        reference.advance(source_layer)?;
        rounded.advance(source_layer)?;
        if conversion.plan.layers.get(kept).is_some_and(|layer| layer.source_index == source_layer) {
            folded.advance(kept as i64)?;
            written.advance(kept as i64)?;
            layers.push(difference(Some(kept), Some(source_layer), &kept_hidden, &reference.x, &folded.x)?);
            kept += 1;
        }
        // The layer's weights are where they are used; without this the whole source would become resident.
        source.release();
        pruned.release();
        progress("comparing layers", source_layer as usize + 1, source_model.num_hidden_layers as usize);
    }
    let heads = [reference.head()?, folded.head()?, written.head()?, rounded.head()?];
    let streams = [&reference, &folded, &written, &rounded];
    let logits = Comparison::default().run(streams, &heads, &input_ids, progress)?;
    drop((reference, folded, written, rounded));

    let position = |row: i64, token: i64| Position {
        row: conversion.check_rows.names.get(row as usize).cloned().unwrap_or_else(|| format!("row {row}")),
        token,
    };
    let scale = logits.largest.max(f64::MIN_POSITIVE);
    let apart = |(difference, row, token): &(f64, i64, i64)| Apart {
        position: position(*row, *token),
        difference: difference / scale,
    };
    let [rows, tokens] = [0, 1].map(|dim| input_ids.size()[dim]);
    let targets = (rows * (tokens - 1)) as f64;
    Ok(Equivalence {
        rows,
        tokens,
        max_logit: logits.largest,
        folded: logits.worst.first().map_or(f64::NAN, |(difference, _, _)| difference / scale),
        folded_bound: ARITHMETIC_BOUND,
        worst: logits.worst.iter().map(apart).collect(),
        layers,
        weights: weights.into_inner(),
        rounding: Rounding {
            dtype: conversion.dtype,
            masked_loss: logits.masked_loss / targets,
            written: logits.written.finish(position),
            source: logits.rounded.finish(position),
        },
    })
}

/// What the heads' outputs add up to.
#[derive(Default)]
struct Comparison {
    /// Largest |logit| of the masked model; NaN if one is.
    largest: f64,
    /// The positions that are farthest apart, as (difference, row, token), farthest first.
    worst: Vec<(f64, i64, i64)>,
    /// Sum of the masked model's losses.
    masked_loss: f64,
    written: EffectSum,
    rounded: EffectSum,
}

impl Comparison {
    fn run(
        mut self,
        streams: [&Stream; 4],
        heads: &[Head; 4],
        input_ids: &Tensor,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Comparison, Error> {
        let (rows, tokens) = input_ids.size2()?;
        let vocab = heads[0].vocab_size();
        let chunk = (LOGITS_AT_ONCE / vocab.max(1)).clamp(1, tokens);
        for row in 0..rows {
            let ids = input_ids.f_select(0, row)?;
            for from in (0..tokens).step_by(chunk as usize) {
                let count = chunk.min(tokens - from);
                let targets = ids.f_narrow(0, from + 1, count.min(tokens - from - 1))?;
                self.add(streams, heads, row, from, count, &targets)?;
            }
            self.written.end_row();
            self.rounded.end_row();
            progress("comparing rows", row as usize + 1, rows as usize);
        }
        Ok(self)
    }

    fn add(
        &mut self,
        [reference, folded, written, rounded]: [&Stream; 4],
        heads: &[Head; 4],
        row: i64,
        from: i64,
        count: i64,
        targets: &Tensor,
    ) -> Result<(), Error> {
        let logits = reference.logits(&heads[0], row, from, count)?;
        self.largest = worse(self.largest, largest(&logits)?);
        let apart = logits.f_sub(&folded.logits(&heads[1], row, from, count)?)?.f_abs()?;
        self.note_worst(&apart.f_amax(&[-1i64][..], false)?, row, from)?;
        let reference = logits.f_log_softmax(-1, Kind::Double)?;
        let chosen = reference.f_narrow(0, 0, targets.size()[0])?.f_gather(1, &targets.f_unsqueeze(1)?, false)?;
        self.masked_loss -= chosen.f_sum(Kind::Double)?.f_double_value(&[])?;
        for (stream, head, sum) in [(written, &heads[2], &mut self.written), (rounded, &heads[3], &mut self.rounded)] {
            let other = stream.logits(head, row, from, count)?.f_log_softmax(-1, Kind::Double)?;
            sum.add(row, from, &reference, &other, targets)?;
        }
        Ok(())
    }

    /// Keeps the largest of `apart [t]`, which belong to positions `from..` of `row`.
    fn note_worst(&mut self, apart: &Tensor, row: i64, from: i64) -> Result<(), Error> {
        let count = (NAMED_POSITIONS as i64).min(apart.size()[0]);
        let (values, places) = apart.f_topk(count, 0, true, true)?;
        let (values, places) = (Vec::<f64>::try_from(values)?, Vec::<i64>::try_from(places)?);
        self.worst.extend(values.into_iter().zip(places).map(|(value, place)| (value, row, from + place)));
        // NaN counts as the largest, so that it is seen and fails.
        let rank = |value: f64| if value.is_nan() { f64::INFINITY } else { value };
        self.worst.sort_by(|a, b| rank(b.0).total_cmp(&rank(a.0)));
        self.worst.truncate(NAMED_POSITIONS);
        Ok(())
    }
}

/// The larger of two; a NaN stays one, so that it fails the check.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn difference(
    layer: Option<usize>,
    source_layer: Option<i64>,
    kept_hidden: &Tensor,
    masked: &Tensor,
    folded: &Tensor,
) -> Result<LayerDifference, Error> {
    let masked = masked.f_index_select(-1, kept_hidden)?;
    let value = largest(&masked)?;
    let apart = largest(&masked.f_sub(folded)?)?;
    Ok(LayerDifference { layer, source_layer, folded: apart / value.max(f64::MIN_POSITIVE), largest: value })
}

fn largest(x: &Tensor) -> Result<f64, Error> {
    Ok(x.f_abs()?.f_max()?.f_double_value(&[])?)
}
