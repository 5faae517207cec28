//! Per-domain cross entropy with its standard error, on a small fixed set of validation rows (the first of each
//! domain's held-out split), so that evaluations are cheap and comparable along a run.

use super::statistics::estimate;
use crate::model::{Decoder, ForwardContext, ModelGates, loss};
use serde::{Deserialize, Serialize};
use shearling_domains::{Dataset, Split};
use std::cell::Cell;
use tch::{Device, TchError, Tensor};

/// The rows a domain is evaluated on.
#[derive(Debug)]
pub struct EvalRows {
    /// Domain.
    pub domain: String,
    /// `[N, T]` int64 on the device of the model.
    pub rows: Tensor,
}

impl EvalRows {
    /// Up to `rows_per_domain` validation rows of every domain.
    pub fn load(
        dataset: &Dataset,
        rows_per_domain: usize,
        device: Device,
    ) -> Result<Vec<EvalRows>, shearling_domains::Error> {
        let tokens = dataset.sequence_length();
        let load = |(index, domain): (usize, &String)| {
            let ids = dataset.validation_rows(index, rows_per_domain as u64)?;
            let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
            let rows = Tensor::from_slice(&ids).view([-1, tokens as i64]);
            Ok(EvalRows { domain: domain.clone(), rows: rows.to_device(device) })
        };
        dataset.domain_names().iter().enumerate().map(load).collect()
    }
}

/// Rows that one evaluation of all domains reads.
pub fn rows_read(dataset: &Dataset, rows_per_domain: usize) -> u64 {
    let read = |domain| dataset.rows(domain, Split::Validation).min(rows_per_domain as u64);
    (0..dataset.domain_names().len()).map(read).sum()
}

/// Losses of the rows of one domain.
#[derive(Clone, Debug, PartialEq)]
pub struct RowLosses {
    /// Domain.
    pub domain: String,
    /// Mean cross entropy of each row, nats per target token.
    pub rows: Vec<f64>,
    /// Target tokens of a row.
    pub targets_per_row: usize,
}

impl RowLosses {
    /// The domain as a whole.
    pub fn summary(&self) -> DomainLoss {
        let mean = estimate(&self.rows);
        DomainLoss {
            domain: self.domain.clone(),
            loss: mean.map(|mean| mean.mean),
            standard_error: mean.and_then(|mean| mean.standard_error),
            rows: self.rows.len(),
            tokens: self.rows.len() * self.targets_per_row,
        }
    }
}

/// Loss of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainLoss {
    /// Domain.
    pub domain: String,
    /// Mean cross entropy, nats per target token; `None` without rows.
    pub loss: Option<f64>,
    /// Standard error of the mean over rows; `None` with fewer than two rows.
    pub standard_error: Option<f64>,
    /// Rows evaluated.
    pub rows: usize,
    /// Target tokens evaluated.
    pub tokens: usize,
}

/// Evaluates `decoder` under `gates` on all domains, `micro_batch` rows at a time, telling `progress` the domain, how many
/// rows of all domains are done, and of how many.
pub fn row_losses(
    decoder: &Decoder,
    context: &ForwardContext,
    gates: &ModelGates,
    domains: &[EvalRows],
    micro_batch: usize,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<RowLosses>, TchError> {
    dealt_row_losses(decoder, context, gates, domains, micro_batch, Deal::ALONE, progress)
}

/// Which micro-batches of an evaluation, by their index over all domains, a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deal<'a> {
    /// Its number.
    pub rank: usize,
    /// How many there are.
    pub ranks: usize,
    /// Whether all go through the model together, since its weights are sharded over them.
    pub together: bool,
    /// Once true, no more micro-batches are done, and whoever asked for that throws away what there is.
    pub stop: Option<&'a Cell<bool>>,
}

impl Deal<'_> {
    /// A process by itself.
    pub const ALONE: Deal<'static> = Deal { rank: 0, ranks: 1, together: false, stop: None };

    fn takes(self, index: usize) -> bool {
        index % self.ranks == self.rank && !self.is_stopped()
    }

    /// Whether it ended early. Ranks that go through the model together do not: one that left would let the others wait.
    pub fn is_stopped(self) -> bool {
        !self.together && self.stop.is_some_and(Cell::get)
    }

    /// Whether this rank has a micro-batch less than others, with which it has to go through the model all the same.
    fn lacks_one(self, micro_batches: usize) -> bool {
        let rest = micro_batches % self.ranks;
        self.together && rest > 0 && self.rank >= rest
    }
}

/// The same of the micro-batches that `deal` says; rows of the others, and of those after a stop, have a loss of 0.
pub fn dealt_row_losses(
    decoder: &Decoder,
    context: &ForwardContext,
    gates: &ModelGates,
    domains: &[EvalRows],
    micro_batch: usize,
    deal: Deal,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<RowLosses>, TchError> {
    let _no_grad = tch::no_grad_guard();
    let counts: Vec<usize> = domains.iter().map(|domain| domain.rows.size()[0] as usize).collect();
    let micro_batches = counts.iter().map(|count| count.div_ceil(micro_batch.max(1))).sum();
    if let (true, Some(domain)) =
        (deal.lacks_one(micro_batches), domains.iter().find(|domain| domain.rows.size()[0] > 0))
    {
        let _ = decoder.residual_stream(&domain.rows.f_narrow(0, 0, 1)?, context, gates)?;
        // Nobody asked what the experts did there.
        drop(decoder.take_router_logits());
    }
    let (all, mut before, mut index) = (counts.iter().sum(), 0, 0..);
    let mut found = Vec::with_capacity(domains.len());
    for (domain, count) in domains.iter().zip(&counts) {
        let mut show = |done: usize| progress(&domain.domain, before + done, all);
        let mut takes_next = || index.next().is_some_and(|index| deal.takes(index));
        found.push(domain_row_losses(decoder, context, gates, domain, micro_batch, &mut takes_next, &mut show)?);
        before += count;
    }
    Ok(found)
}

fn domain_row_losses(
    decoder: &Decoder,
    context: &ForwardContext,
    gates: &ModelGates,
    domain: &EvalRows,
    micro_batch: usize,
    takes_next: &mut dyn FnMut() -> bool,
    progress: &mut dyn FnMut(usize),
) -> Result<RowLosses, TchError> {
    let (count, tokens) = (domain.rows.size()[0], domain.rows.size()[1]);
    let mut sums: Vec<f64> = Vec::with_capacity(count as usize);
    for start in (0..count).step_by(micro_batch.max(1)) {
        let here = (micro_batch as i64).min(count - start);
        if !takes_next() {
            sums.resize((start + here) as usize, 0.0);
            continue;
        }
        progress(sums.len());
        let rows = domain.rows.f_narrow(0, start, here)?;
        let x = decoder.residual_stream(&rows, context, gates)?;
        let losses = decoder.losses(&x, &rows, 1.0, gates)?.rows()?;
        let losses: Vec<f64> = Vec::try_from(losses.f_to_kind(tch::Kind::Double)?.f_to_device(Device::Cpu)?)?;
        sums.extend(losses);
    }
    let targets_per_row = loss::targets_per_row(tokens as usize);
    let rows = sums.into_iter().map(|sum| sum / targets_per_row.max(1) as f64).collect();
    Ok(RowLosses { domain: domain.domain.clone(), rows, targets_per_row })
}

/// Mean over the domains, each counting alike; `None` when no domain has a loss.
pub fn mean_loss(losses: &[DomainLoss]) -> Option<f64> {
    let known: Vec<f64> = losses.iter().filter_map(|loss| loss.loss).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(domain: &str, rows: &[f64]) -> DomainLoss {
        RowLosses { domain: domain.to_string(), rows: rows.to_vec(), targets_per_row: 10 }.summary()
    }

    #[test]
    fn mean_and_standard_error_over_rows() {
        let loss = rows("a", &[1.0, 2.0, 3.0]);
        assert_eq!(loss.loss, Some(2.0));
        assert!((loss.standard_error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((loss.rows, loss.tokens), (3, 30));
    }

    #[test]
    fn ranks_of_a_sharded_model_go_through_it_equally_often() {
        for (micro_batches, ranks) in [(1, 4), (4, 4), (7, 3), (9, 2), (2, 5)] {
            for rank in 0..ranks {
                let deal = Deal { rank, ranks, together: true, stop: None };
                let own = (0..micro_batches).filter(|index| deal.takes(*index)).count();
                let passes = own + usize::from(deal.lacks_one(micro_batches));
                assert_eq!(passes, micro_batches.div_ceil(ranks), "{micro_batches} to {rank} of {ranks}");
                assert!(!Deal { together: false, ..deal }.lacks_one(micro_batches));
            }
        }
        assert!(Deal::ALONE.takes(5) && !Deal::ALONE.lacks_one(5));
    }

    #[test]
    fn a_stop_ends_the_micro_batches_except_of_ranks_that_go_together() {
        let stop = Cell::new(false);
        let deal = Deal { stop: Some(&stop), ..Deal::ALONE };
        assert!(deal.takes(5) && !deal.is_stopped());
        stop.set(true);
        assert!(!deal.takes(5) && deal.is_stopped());
        let together = Deal { together: true, ..deal };
        assert!(together.takes(5) && !together.is_stopped());
    }

    #[test]
    fn no_rows_is_no_loss_and_not_a_nan() {
        let none = rows("a", &[]);
        assert_eq!((none.loss, none.standard_error), (None, None));
        let some = rows("b", &[0.5]);
        assert_eq!(some.standard_error, None);
        assert_eq!(mean_loss(&[none.clone(), some]), Some(0.5));
        assert_eq!(mean_loss(&[none]), None);
    }
}
