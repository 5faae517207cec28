//! Which rows make up global batch `t`: quotas per domain, rows within the domain, positions within the batch.
//!
//! The whole state is the number of the next batch and, per domain, the rows drawn, the deficit and the proportion. Row
//! `n` of a domain is position `n mod rows` of its epoch `n / rows`, so nothing is listed and nothing replayed. Knows no
//! files and no threads; the loader reads the rows it names.

use serde::{Deserialize, Serialize};

use crate::order::EpochOrder;
use crate::permutation::Permutation;
use crate::random::key;
use crate::{Error, Result, quotas};

/// A domain as the sampler sees it.
#[derive(Debug, Clone)]
pub(crate) struct SampledDomain {
    pub(crate) name: String,
    /// First row of every row group, and the number of rows.
    pub(crate) starts: Vec<u64>,
}

impl SampledDomain {
    pub(crate) fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }
}

/// What changes from batch to batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) batch: u64,
    pub(crate) drawn: Vec<u64>,
    pub(crate) deficits: Vec<f64>,
    pub(crate) proportions: Vec<f64>,
}

impl Cursor {
    pub(crate) fn start(proportions: Vec<f64>) -> Self {
        let domains = proportions.len();
        Self { batch: 0, drawn: vec![0; domains], deficits: vec![0.0; domains], proportions }
    }
}

/// The rows of one global batch, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchPlan {
    /// Domain and row of each position.
    pub(crate) rows: Vec<(usize, u64)>,
    /// Domains that should have given rows and have none left under the cap.
    pub(crate) exhausted: Vec<usize>,
}

/// Plans batches one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    domains: Vec<SampledDomain>,
    seed: u64,
    batch_rows: usize,
    max_epochs: f64,
    /// Order of the epoch each domain is in.
    orders: Vec<Option<(u64, EpochOrder)>>,
    pub(crate) cursor: Cursor,
}

impl Sampler {
    pub(crate) fn new(
        domains: Vec<SampledDomain>,
        seed: u64,
        batch_rows: usize,
        max_epochs: f64,
        cursor: Cursor,
    ) -> Self {
        let orders = vec![None; domains.len()];
        Self { domains, seed, batch_rows, max_epochs, orders, cursor }
    }

    /// Rows that `domain` may give in all.
    fn limit(&self, domain: usize) -> u64 {
        (self.domains[domain].rows() as f64 * self.max_epochs) as u64
    }

    /// Plans the next batch and moves the cursor behind it; on an error the cursor stays.
    pub(crate) fn plan(&mut self) -> Result<BatchPlan> {
        let mut cursor = self.cursor.clone();
        let mut weights = self.weights(&cursor);
        let mut rows = Vec::with_capacity(self.batch_rows);
        for _ in 0..self.batch_rows {
            let Some(domain) = quotas::draw(&mut cursor.deficits, &weights) else {
                return Err(self.exhausted_error(&cursor));
            };
            rows.push((domain, self.row(domain, cursor.drawn[domain])));
            cursor.drawn[domain] += 1;
            if cursor.drawn[domain] >= self.limit(domain) {
                weights = self.weights(&cursor);
            }
        }
        let positions = Permutation::new(rows.len() as u64, key(self.seed, "batch", &[&cursor.batch.to_le_bytes()]));
        let rows = (0..rows.len()).map(|at| rows[positions.at(at as u64) as usize]).collect();
        let exhausted = self.exhausted(&cursor);
        cursor.batch = cursor.batch.saturating_add(1);
        self.cursor = cursor;
        Ok(BatchPlan { rows, exhausted })
    }

    /// Proportions over the domains that have rows left; all 0 when none has.
    fn weights(&self, cursor: &Cursor) -> Vec<f64> {
        let open = |domain: usize| cursor.drawn[domain] < self.limit(domain);
        let sum: f64 = (0..self.domains.len()).filter(|&d| open(d)).map(|d| cursor.proportions[d]).sum();
        let weight = |domain: usize| if open(domain) && sum > 0.0 { cursor.proportions[domain] / sum } else { 0.0 };
        (0..self.domains.len()).map(weight).collect()
    }

    fn exhausted(&self, cursor: &Cursor) -> Vec<usize> {
        let out = |&domain: &usize| cursor.proportions[domain] > 0.0 && cursor.drawn[domain] >= self.limit(domain);
        (0..self.domains.len()).filter(out).collect()
    }

    fn exhausted_error(&self, cursor: &Cursor) -> Error {
        let domains = self.exhausted(cursor).into_iter().map(|domain| self.domains[domain].name.clone());
        Error::Exhausted { domains: domains.collect(), max_epochs: self.max_epochs }
    }

    /// Row of `domain` that is drawn as its `number`-th.
    fn row(&mut self, domain: usize, number: u64) -> u64 {
        let SampledDomain { name, starts } = &self.domains[domain];
        let rows = self.domains[domain].rows();
        let (epoch, position) = (number / rows, number % rows);
        let order = match self.orders[domain].take() {
            Some((known, order)) if known == epoch => order,
            _ => EpochOrder::new(starts, self.seed, name, epoch),
        };
        let row = order.row(starts, position);
        self.orders[domain] = Some((epoch, order));
        row
    }

    /// Epochs of each domain drawn so far.
    pub(crate) fn epochs(&self) -> Vec<f64> {
        let share = |(domain, &drawn): (&SampledDomain, &u64)| drawn as f64 / domain.rows() as f64;
        self.domains.iter().zip(&self.cursor.drawn).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::group_starts;

    fn sampler(rows: &[u64], proportions: &[f64], batch_rows: usize, max_epochs: f64) -> Sampler {
        let domain = |(at, &rows): (usize, &u64)| SampledDomain {
            name: format!("d{at}"),
            starts: group_starts(std::iter::repeat_n(1, rows as usize)),
        };
        let domains = rows.iter().enumerate().map(domain).collect();
        Sampler::new(domains, 17, batch_rows, max_epochs, Cursor::start(proportions.to_vec()))
    }

    #[test]
    fn every_epoch_of_a_domain_is_exact() {
        let mut sampler = sampler(&[40, 7], &[0.75, 0.25], 6, 100.0);
        let mut drawn = [Vec::new(), Vec::new()];
        for _ in 0..100 {
            let mut plan = sampler.plan().unwrap().rows;
            plan.sort_unstable();
            plan.into_iter().for_each(|(domain, row)| drawn[domain].push(row));
        }
        // Batches are cut anywhere in an epoch, so whole epochs are compared as multisets.
        for (rows, drawn) in [40u64, 7].into_iter().zip(drawn) {
            let epochs = drawn.len() as u64 / rows;
            for row in 0..rows {
                let count = drawn.iter().filter(|&&seen| seen == row).count() as u64;
                assert!((epochs..=epochs + 1).contains(&count), "row {row} came {count} times in {epochs} epochs");
            }
        }
    }

    #[test]
    fn an_exhausted_domain_leaves_its_share_to_the_others() {
        let mut sampler = sampler(&[3, 100, 100], &[0.5, 0.25, 0.25], 4, 1.0);
        let plans: Vec<BatchPlan> = (0..40).map(|_| sampler.plan().unwrap()).collect();
        let count = |plan: &BatchPlan, domain| plan.rows.iter().filter(|row| row.0 == domain).count();
        assert_eq!(count(&plans[0], 0), 2);
        assert_eq!(plans[0].exhausted, Vec::<usize>::new());
        assert_eq!(count(&plans[1], 0), 1);
        assert_eq!(plans[1].exhausted, [0]);
        assert!(plans[2..].iter().all(|plan| count(plan, 1) == 2 && count(plan, 2) == 2 && plan.exhausted == [0]));
        assert_eq!(sampler.epochs()[0], 1.0);
    }

    #[test]
    fn all_exhausted_is_an_error_and_keeps_the_cursor() {
        let mut sampler = sampler(&[3, 5], &[1.0, 0.0], 4, 1.5);
        sampler.plan().unwrap();
        let before = sampler.cursor.clone();
        let message = sampler.plan().unwrap_err().to_string();
        assert!(message.contains("d0") && !message.contains("d1") && message.contains("1.5"), "{message}");
        assert_eq!(sampler.cursor, before);
    }

    #[test]
    fn positions_within_a_batch_are_shuffled() {
        let mut sampler = sampler(&[1000, 1000], &[0.5, 0.5], 64, 4.0);
        let plan = sampler.plan().unwrap();
        let changes = plan.rows.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
        // Alternating, as drawn, would be 63 changes; sorted would be 1.
        assert!((15..50).contains(&changes), "{changes}");
    }
}
