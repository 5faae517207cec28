//! The proof that the pruned model is the masked model: both run on the same real rows, one layer of each in memory
//! at a time, and must agree.
//!
//! Three streams go through the layers side by side, all computed in fp32:
//!
//! ```text
//! masked    source weights and gates            ─┐ must agree within 1e-4 of max |logit|:
//! folded    the fold in fp32, never rounded     ─┘ the arithmetic of fold and slice
//! written   the weights read back from the staged files: within a bound for the kind they were rounded to
//! ```
//!
//! The residual streams are compared after every layer (on the kept hidden dimensions), so a difference names the
//! layer where it starts.

use super::Error;
use super::convert::{Conversion, source_parameter};
use super::fold::Folder;
use crate::checkpoint::Checkpoint;
use crate::config::Dtype;
use crate::model::parameters::parameters;
use crate::model::{Block, Embedding, ForwardContext, Head, HfModel, Parameter};
use serde::Serialize;
use shearling_masks::Gates;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Largest accepted difference of logits, relative to the largest |logit|, between masked and folded model in fp32.
pub const FOLD_TOLERANCE: f64 = 1e-4;

/// Largest accepted relative difference for weights written as `dtype`: a weight's rounding error (2⁻⁹ for bf16,
/// 2⁻¹² for fp16) accumulated over the layers of a deep model, with room.
pub fn written_tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Fp32 => FOLD_TOLERANCE,
        Dtype::Fp16 => 1e-2,
        Dtype::Bf16 => 5e-2,
    }
}

/// Difference of the residual streams after one layer, relative to the largest |value| of the masked stream.
#[derive(Clone, Debug, Serialize)]
pub struct LayerDifference {
    /// Layer of the pruned model; `None` for the embedding.
    pub layer: Option<usize>,
    /// Layer of the source it comes from.
    pub source_layer: Option<i64>,
    /// Masked against folded in fp32.
    pub folded: f64,
    /// Masked against the written weights.
    pub written: f64,
}

/// Result of the check.
#[derive(Clone, Debug, Serialize)]
pub struct Equivalence {
    /// Rows compared.
    pub rows: i64,
    /// Tokens per row.
    pub tokens: i64,
    /// Largest |logit| of the masked model.
    pub max_logit: f64,
    /// Largest |difference| of logits, masked against folded, over `max_logit`.
    pub folded: f64,
    /// Largest |difference| of logits, masked against written, over `max_logit`.
    pub written: f64,
    /// Bound on `written`.
    pub written_tolerance: f64,
    /// After the embedding and after every kept layer.
    pub layers: Vec<LayerDifference>,
}

impl Equivalence {
    /// Whether both bounds hold; a NaN never passes.
    pub fn passed(&self) -> bool {
        self.folded <= FOLD_TOLERANCE && self.written <= self.written_tolerance
    }

    /// One line for model cards and tables.
    pub fn summary(&self) -> String {
        format!(
            "max |masked − pruned| / max |logit| = {:.2e} (fold in fp32, bound {:.0e}), {:.2e} (as written, bound \
             {:.0e}), on {} rows of {} tokens",
            self.folded, FOLD_TOLERANCE, self.written, self.written_tolerance, self.rows, self.tokens
        )
    }

    /// Where the streams part first: the first layer over its bound, else the head.
    pub fn first_difference(&self) -> String {
        let apart = |d: &&LayerDifference| !(d.folded <= FOLD_TOLERANCE && d.written <= self.written_tolerance);
        match self.layers.iter().find(apart) {
            Some(LayerDifference { layer: Some(layer), source_layer: Some(source), .. }) => {
                format!("layer {layer} (layer {source} of the source)")
            }
            Some(_) => "the embedding".to_string(),
            None => "the final norm or the output head".to_string(),
        }
    }
}

impl std::fmt::Display for Equivalence {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if self.passed() {
            return write!(f, "masked and pruned model agree: {}", self.summary());
        }
        write!(f, "masked and pruned model differ from {} on: {}", self.first_difference(), self.summary())
    }
}

/// Hands out a model's weights by name.
type Weights<'a> = Box<dyn FnMut(&str) -> Result<Tensor, Error> + 'a>;

/// One of the three models that are compared: where its weights come from and what runs through it.
struct Stream<'a> {
    model: HfModel,
    context: ForwardContext,
    weight: Weights<'a>,
    /// Residual stream `[N, T, D]`.
    x: Tensor,
}

impl Stream<'_> {
    fn embed(&mut self, input_ids: &Tensor) -> Result<(), Error> {
        let embedding = Embedding::build(&self.model, &mut *self.weight)?;
        self.x = embedding.forward(input_ids, &self.context)?;
        Ok(())
    }

    fn head(&mut self) -> Result<Head, Error> {
        Head::build(&self.model, None, &mut *self.weight)
    }

    fn advance(&mut self, layer: i64) -> Result<(), Error> {
        let block = Block::build(&self.model, layer, &mut *self.weight)?;
        // Row by row: what a layer needs for itself is many times the residual stream.
        let context = self.context.layer(&self.model, layer, self.x.size()[1])?;
        let rows = (0..self.x.size()[0]).map(|row| block.forward(&self.x.f_narrow(0, row, 1)?, &context));
        self.x = Tensor::f_cat(&rows.collect::<Result<Vec<_>, _>>()?, 0)?;
        Ok(())
    }

    /// Logits `[1, T, V]` of one row.
    fn logits(&self, head: &Head, row: i64) -> Result<Tensor, Error> {
        Ok(head.forward(&self.model, &self.x.f_narrow(0, row, 1)?, &self.context)?)
    }
}

/// Compares the masked source with the staged `pruned` checkpoint.
pub(super) fn check(
    conversion: &Conversion,
    pruned: &Checkpoint,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Equivalence, Error> {
    let (rows, tokens) = (conversion.check_rows.size()[0], conversion.check_rows.size()[1]);
    let input_ids = conversion.check_rows.f_to_device(conversion.device)?;
    let source_model = conversion.source.model();
    let pruned_model = pruned.model();
    let folder = Folder::new(source_model, conversion.plan, conversion.gates)?;
    let origins: HashMap<String, Parameter> =
        parameters(pruned_model).into_iter().map(|p| (p.name.clone(), p)).collect();
    let device = conversion.device;

    let context = |model: &HfModel, gates: Gates| ForwardContext::new(model, tokens, device, &gates);
    let load = |checkpoint: &Checkpoint, name: &str| Ok(checkpoint.tensor(name, Kind::Float, device)?);
    let mut masked = Stream {
        context: context(source_model, conversion.gates.to_device(device)?)?,
        model: source_model.clone(),
        weight: Box::new(|name| load(conversion.source, name)),
        x: Tensor::new(),
    };
    let mut folded = Stream {
        context: context(pruned_model, Gates::none())?,
        model: pruned_model.clone(),
        weight: Box::new(|name| {
            let parameter = &origins[name];
            let origin = source_parameter(parameter, conversion.plan);
            let kept = parameter.layer.map(|layer| layer as usize);
            let weight = folder.fold(parameter.role, kept, conversion.source.stored(&origin.name)?)?;
            Ok(weight.f_to_device(device)?)
        }),
        x: Tensor::new(),
    };
    let mut written = Stream {
        context: context(pruned_model, Gates::none())?,
        model: pruned_model.clone(),
        weight: Box::new(|name| load(pruned, name)),
        x: Tensor::new(),
    };

    [&mut masked, &mut folded, &mut written].into_iter().try_for_each(|stream| stream.embed(&input_ids))?;
    let kept_hidden = Tensor::f_from_slice(&conversion.plan.hidden)?.f_to_device(device)?;
    let mut layers = vec![difference(None, None, &kept_hidden, [&masked.x, &folded.x, &written.x])?];
    let mut kept = 0;
    for source_layer in 0..source_model.num_hidden_layers {
        masked.advance(source_layer)?;
        if conversion.plan.layers.get(kept).is_some_and(|layer| layer.source_index == source_layer) {
            folded.advance(kept as i64)?;
            written.advance(kept as i64)?;
            let streams = [&masked.x, &folded.x, &written.x];
            layers.push(difference(Some(kept), Some(source_layer), &kept_hidden, streams)?);
            kept += 1;
        }
        // The layer's weights are where they are used; without this the whole source would become resident.
        conversion.source.release();
        pruned.release();
        progress("checking", source_layer as usize + 1, source_model.num_hidden_layers as usize);
    }
    let heads = [masked.head()?, folded.head()?, written.head()?];
    let mut logits = LogitDifference::default();
    for row in 0..rows {
        let reference = masked.logits(&heads[0], row)?;
        logits.add(&reference, &folded.logits(&heads[1], row)?, &written.logits(&heads[2], row)?)?;
    }
    let scale = logits.largest.max(f64::MIN_POSITIVE);
    Ok(Equivalence {
        rows,
        tokens,
        max_logit: logits.largest,
        folded: logits.folded / scale,
        written: logits.written / scale,
        written_tolerance: written_tolerance(conversion.dtype),
        layers,
    })
}

/// Running maxima over the rows.
#[derive(Default)]
struct LogitDifference {
    largest: f64,
    folded: f64,
    written: f64,
}

impl LogitDifference {
    fn add(&mut self, reference: &Tensor, folded: &Tensor, written: &Tensor) -> Result<(), Error> {
        self.largest = worse(self.largest, largest(reference)?);
        self.folded = worse(self.folded, largest(&reference.f_sub(folded)?)?);
        self.written = worse(self.written, largest(&reference.f_sub(written)?)?);
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
    [masked, folded, written]: [&Tensor; 3],
) -> Result<LayerDifference, Error> {
    let masked = masked.f_index_select(-1, kept_hidden)?;
    let scale = largest(&masked)?.max(f64::MIN_POSITIVE);
    Ok(LayerDifference {
        layer,
        source_layer,
        folded: largest(&masked.f_sub(folded)?)? / scale,
        written: largest(&masked.f_sub(written)?)? / scale,
    })
}

fn largest(x: &Tensor) -> Result<f64, Error> {
    Ok(x.f_abs()?.f_max()?.f_double_value(&[])?)
}
