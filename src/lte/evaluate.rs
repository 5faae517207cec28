//! Losses of a model with routers on held-out rows, and which experts ran for them.

use super::meter::Meter;
use crate::eval::{Deal, EvalRows, RowLosses, dealt_row_losses};
use crate::model::{Decoder, ForwardContext, ModelGates};
use tch::TchError;

/// As [`dealt_row_losses`], of a model whose routers decide; `meter` counts what they did.
///
/// # Errors
/// libtorch's.
pub fn routed_row_losses(
    model: &Decoder,
    context: &ForwardContext,
    domains: &[EvalRows],
    micro_batch: usize,
    meter: &mut Meter,
    deal: Deal,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<RowLosses>, TchError> {
    let mut failed = None;
    // Whose rows the forward before was about.
    let mut last: Option<String> = None;
    let mut count = |next: Option<&str>| {
        let counted = last.as_deref().map_or(Ok(()), |domain| meter.add(domain, &model.take_router_logits()));
        failed = failed.take().or(counted.err());
        last = next.map(String::from);
    };
    let mut show = |domain: &str, done: usize, of: usize| {
        count(Some(domain));
        progress(domain, done, of);
    };
    let found = dealt_row_losses(model, context, &ModelGates::none(), domains, micro_batch, deal, &mut show)?;
    count(None);
    failed.map_or(Ok(found), Err)
}
