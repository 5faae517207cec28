//! Losses of a model with routers on held-out rows, and which experts ran for them.

use super::meter::Meter;
use crate::eval::{EvalRows, RowLosses, row_losses};
use crate::model::{Decoder, ForwardContext, ModelGates};
use tch::TchError;

/// As [`row_losses`], of a model whose routers decide; `meter` counts what they did.
///
/// # Errors
/// libtorch's.
pub fn routed_row_losses(
    model: &Decoder,
    context: &ForwardContext,
    domains: &[EvalRows],
    micro_batch: usize,
    meter: &mut Meter,
) -> Result<Vec<RowLosses>, TchError> {
    let (none, mut failed) = (ModelGates::none(), None);
    let mut found = Vec::with_capacity(domains.len());
    for domain in domains {
        let name = domain.domain.as_str();
        // What the micro-batch before has left is counted before the next one.
        let count = |meter: &mut Meter| meter.add(name, &model.take_router_logits());
        let rows = row_losses(model, context, &none, std::slice::from_ref(domain), micro_batch, &mut |_, _, _| {
            failed = count(meter).err().or(failed.take());
        })?;
        count(meter)?;
        found.extend(rows);
    }
    failed.map_or(Ok(found), Err)
}
