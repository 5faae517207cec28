//! The part of a step that ranks do together: whether all have their batch, and the sums of what each found.

use super::Error;
use super::objective::RowSums;
use super::trainer::Trainer;
use crate::dist::Reduction;
use shearling_domains::Batch;
use tch::Tensor;

impl Trainer {
    /// Asks all ranks to stop after the next step.
    pub fn ask_to_stop(&mut self, asked: bool) {
        self.exchange.asked = asked;
    }

    /// Whether a rank was asked to stop before the last step; the same for all.
    pub fn all_stop(&self) -> bool {
        self.exchange.stops
    }

    /// Whether this rank is the one that writes.
    pub(super) fn is_first(&self) -> bool {
        self.exchange.world.is_first()
    }

    /// Bytes of gradients that a rank gives to the others at every step; 0 alone.
    pub fn exchanged_bytes(&self) -> u64 {
        self.exchange.gradient_bytes()
    }

    /// The next batch, once all ranks have it.
    pub(super) fn agreed_batch(&mut self) -> Result<Batch, Error> {
        let batch = self.loader.next_batch();
        let exchange = &mut self.exchange;
        if exchange.world.is_alone() {
            return Ok(batch?);
        }
        let [stop, unread] = exchange.world.raised([exchange.asked, batch.is_err()])?;
        exchange.stops = stop.is_some();
        match (batch, unread) {
            (Ok(_), Some(rank)) => Err(Error::DataElsewhere { rank }),
            (batch, _) => Ok(batch?),
        }
    }

    /// Sums over all ranks: gradients, losses by row, counts of routers. `rows` has zeros for rows of other ranks.
    pub(super) fn exchange_sums(&mut self, rows: RowSums, batch: &Batch) -> Result<RowSums, Error> {
        let exchange = &self.exchange;
        if exchange.world.is_alone() {
            return Ok(rows);
        }
        let _no_grad = tch::no_grad_guard();
        exchange.sum_gradients()?;
        let counts = self.routers.as_ref().and_then(|routers| routers.seen());
        let parts: Vec<&Tensor> =
            [Some(&rows.losses), rows.divergences.as_ref(), counts].into_iter().flatten().collect();
        let numbers = Tensor::f_cat(&parts, 0)?;
        exchange.world.all_reduce(&numbers, Reduction::Sum)?;
        let count = batch.rows as i64;
        let losses = numbers.f_narrow(0, 0, count)?;
        let divergences = rows.divergences.as_ref().map(|_| numbers.f_narrow(0, count, count)).transpose()?;
        let counted = counts.map(Tensor::numel);
        if let (Some(routers), Some(counted)) = (&mut self.routers, counted) {
            let counted = counted as i64;
            let sums = numbers.f_narrow(0, numbers.numel() as i64 - counted, counted)?;
            routers.set_seen(sums, batch.tokens.len());
        }
        Ok(RowSums { losses, divergences })
    }
}
