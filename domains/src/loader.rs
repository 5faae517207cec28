//! Global batches of token rows, mixed by proportions that may change while training runs.
//!
//! A thread plans and reads batches ahead of their use. Each prefetched batch carries the state after it, so a change of
//! proportions simply throws the prefetched batches away and starts again behind the last batch handed out: what the
//! training sees never depends on how far ahead the thread was. [`LoaderState`] is a few numbers per domain, and a
//! loader resumed from it hands out exactly the batches that would have followed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::manifest::Split;
use crate::sampler::{Cursor, SampledDomain, Sampler};
use crate::{Dataset, Error, Result, proportions};

/// Version of [`LoaderState`].
const STATE_VERSION: u64 = 1;
/// Batches are held in memory, so absurd sizes are refused rather than tried.
const MAX_BATCH_ROWS: usize = 1 << 24;
const MAX_PREFETCH: usize = 1024;

/// How batches are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Rows in a global batch.
    pub batch_rows: usize,
    /// Seed of the order of rows.
    pub seed: u64,
    /// How often a domain's rows may be seen before it is dropped from the mix; 1 forbids repetition.
    pub max_epochs: f64,
    /// Batches read ahead in a thread; 0 reads them when they are asked for.
    pub prefetch: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { batch_rows: 32, seed: 0, max_epochs: 4.0, prefetch: 2 }
    }
}

impl LoaderConfig {
    /// Checks the values by themselves.
    ///
    /// # Errors
    /// [`Error::Config`] names the first that cannot be used.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_BATCH_ROWS).contains(&self.batch_rows) {
            return Err(Error::config("batch_rows", self.batch_rows, format!("expected 1 to {MAX_BATCH_ROWS} rows")));
        }
        if self.prefetch > MAX_PREFETCH {
            return Err(Error::config("prefetch", self.prefetch, format!("expected at most {MAX_PREFETCH} batches")));
        }
        if !self.max_epochs.is_finite() || self.max_epochs <= 0.0 {
            return Err(Error::config("max_epochs", self.max_epochs, "expected a number above 0"));
        }
        Ok(())
    }
}

/// One global batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of the batch, from 0.
    pub index: u64,
    /// Token ids, row after row: `[rows * sequence_length]`.
    pub tokens: Vec<u32>,
    /// Rows in the batch.
    pub rows: usize,
    /// Tokens per row.
    pub sequence_length: usize,
    /// Domain of each row: `[rows]`.
    pub domain: Vec<usize>,
    /// Index of each row in its domain's train split: `[rows]`.
    pub row: Vec<u64>,
    /// Domains that have a proportion but no rows left under the cap on epochs; the others took their share.
    pub exhausted: Vec<String>,
}

/// Everything needed to continue a loader, independent of the size of the dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Version of this record.
    pub version: u64,
    /// Seed of the order of rows.
    pub seed: u64,
    /// [`Dataset::fingerprint`] of the data.
    pub fingerprint: String,
    /// Names of the domains, in the order of the lists below.
    pub domains: Vec<String>,
    /// Number of the next batch.
    pub batch: u64,
    /// Rows drawn from each domain.
    pub drawn: Vec<u64>,
    /// Rows each domain is owed.
    pub deficits: Vec<f64>,
    /// Proportions in effect.
    pub proportions: Vec<f64>,
}

/// Hands out batches.
#[derive(Debug)]
pub struct Loader {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    /// Stands behind the last batch handed out.
    sampler: Sampler,
    worker: Option<Worker>,
}

impl Loader {
    /// A loader at the start of the data.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Proportions`] for values that cannot be used.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig, proportions: &[f64]) -> Result<Self> {
        let proportions = proportions::checked(proportions, dataset.domain_names().len())?;
        Self::at(dataset, config, Cursor::start(proportions))
    }

    /// A loader that continues behind the batch after which `state` was taken. `batch_rows` may differ from before: no
    /// row is then repeated or left out, but the batches are cut in other places.
    ///
    /// # Errors
    /// [`Error::State`] when the state is of other data, another seed, or damaged.
    pub fn resume(dataset: Arc<Dataset>, config: LoaderConfig, state: LoaderState) -> Result<Self> {
        check_state(&dataset, &config, &state)?;
        let LoaderState { batch, drawn, deficits, proportions, .. } = state;
        // Checked but not scaled again: the numbers must stay what they were, bit for bit.
        proportions::checked(&proportions, dataset.domain_names().len())?;
        Self::at(dataset, config, Cursor { batch, drawn, deficits, proportions })
    }

    fn at(dataset: Arc<Dataset>, config: LoaderConfig, cursor: Cursor) -> Result<Self> {
        config.validate()?;
        let domain = |(at, name): (usize, &String)| SampledDomain {
            name: name.clone(),
            starts: dataset.train_group_starts(at).to_vec(),
        };
        let domains = dataset.domain_names().iter().enumerate().map(domain).collect();
        let sampler = Sampler::new(domains, config.seed, config.batch_rows, config.max_epochs, cursor);
        Ok(Self { dataset, config, sampler, worker: None })
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when the rows left under the cap on epochs do not fill a batch, and those of
    /// [`Dataset::read_row`]. The loader stays where it was and may be asked again.
    pub fn next_batch(&mut self) -> Result<Batch> {
        if self.config.prefetch == 0 {
            let before = self.sampler.cursor.clone();
            let batch = read_batch(&self.dataset, &mut self.sampler);
            if batch.is_err() {
                self.sampler.cursor = before;
            }
            return batch;
        }
        if self.worker.is_none() {
            self.worker = Some(Worker::start(Arc::clone(&self.dataset), self.sampler.clone(), self.config.prefetch)?);
        }
        let next = self.worker.as_ref().map(Worker::next);
        match next {
            Some(Some(Ok((batch, cursor)))) => {
                self.sampler.cursor = cursor;
                Ok(batch)
            }
            Some(Some(Err(error))) => {
                self.rewind();
                Err(error)
            }
            _ => Err(self.worker.take().map_or_else(stopped, Worker::failure)),
        }
    }

    /// Changes the mix from the next batch on.
    ///
    /// # Errors
    /// [`Error::Proportions`] when they are no distribution over the domains; the old ones then stay.
    pub fn set_proportions(&mut self, proportions: &[f64]) -> Result<()> {
        let proportions = proportions::checked(proportions, self.dataset.domain_names().len())?;
        if proportions != self.sampler.cursor.proportions {
            self.rewind();
            self.sampler.cursor.proportions = proportions;
        }
        Ok(())
    }

    /// The proportions in effect.
    pub fn proportions(&self) -> &[f64] {
        &self.sampler.cursor.proportions
    }

    /// State behind the last batch handed out.
    pub fn state(&self) -> LoaderState {
        let Cursor { batch, drawn, deficits, proportions } = self.sampler.cursor.clone();
        LoaderState {
            version: STATE_VERSION,
            seed: self.config.seed,
            fingerprint: self.dataset.fingerprint().to_string(),
            domains: self.dataset.domain_names().to_vec(),
            batch,
            drawn,
            deficits,
            proportions,
        }
    }

    /// How often each domain's rows have been handed out: 1.5 is once all and once half of them.
    pub fn epochs(&self) -> Vec<f64> {
        self.sampler.epochs()
    }

    /// The data.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Forgets what was prefetched.
    fn rewind(&mut self) {
        self.worker = None;
    }
}

fn check_state(dataset: &Dataset, config: &LoaderConfig, state: &LoaderState) -> Result<()> {
    let domains = dataset.domain_names();
    let same = [
        ("version", STATE_VERSION.to_string(), state.version.to_string()),
        ("domains", domains.join(", "), state.domains.join(", ")),
        ("fingerprint of the dataset", dataset.fingerprint().to_string(), state.fingerprint.clone()),
        ("seed", config.seed.to_string(), state.seed.to_string()),
        ("number of row counts", domains.len().to_string(), state.drawn.len().to_string()),
        ("number of deficits", domains.len().to_string(), state.deficits.len().to_string()),
    ];
    for (field, expected, found) in same {
        if expected != found {
            return Err(Error::State { what: "loader state", field, expected, found });
        }
    }
    if let Some(found) = state.deficits.iter().find(|deficit| !deficit.is_finite()) {
        let (expected, found) = ("a finite number".to_string(), found.to_string());
        return Err(Error::State { what: "loader state", field: "deficits", expected, found });
    }
    Ok(())
}

fn read_batch(dataset: &Dataset, sampler: &mut Sampler) -> Result<Batch> {
    let index = sampler.cursor.batch;
    let plan = sampler.plan()?;
    let sequence_length = dataset.sequence_length();
    let mut tokens = Vec::with_capacity(plan.rows.len() * sequence_length);
    for &(domain, row) in &plan.rows {
        dataset.read_row(domain, Split::Train, row, &mut tokens)?;
    }
    let (domain, row): (Vec<usize>, Vec<u64>) = plan.rows.into_iter().unzip();
    let exhausted = plan.exhausted.iter().map(|&domain| dataset.domain_names()[domain].clone()).collect();
    Ok(Batch { index, tokens, rows: row.len(), sequence_length, domain, row, exhausted })
}

type Prefetched = Result<(Batch, Cursor)>;

/// The prefetching thread. Dropping it ends and joins the thread.
#[derive(Debug)]
struct Worker {
    /// `None` only while it is dropped.
    batches: Option<Receiver<Prefetched>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(dataset: Arc<Dataset>, sampler: Sampler, prefetch: usize) -> Result<Self> {
        // The thread holds one finished batch while it waits for room in the channel.
        let (sender, batches) = sync_channel(prefetch - 1);
        let thread = std::thread::Builder::new().name("prefetch".to_string());
        let thread = thread.spawn(move || run(&dataset, sampler, &sender));
        let thread = thread.map_err(Error::io("start a thread to read", std::path::Path::new("the dataset")))?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    fn next(&self) -> Option<Prefetched> {
        self.batches.as_ref()?.recv().ok()
    }

    /// Why the thread ended without an error of its own.
    fn failure(mut self) -> Error {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(payload)) => Error::panicked("the loader", payload),
            _ => stopped(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread notices the closed channel at its next batch.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic was either reported by `failure` or belongs to batches nobody asked for.
            let _ = thread.join();
        }
    }
}

fn run(dataset: &Dataset, mut sampler: Sampler, batches: &SyncSender<Prefetched>) {
    loop {
        let next = read_batch(dataset, &mut sampler).map(|batch| (batch, sampler.cursor.clone()));
        let failed = next.is_err();
        if batches.send(next).is_err() || failed {
            return;
        }
    }
}

fn stopped() -> Error {
    Error::Panicked { operation: "the loader", message: "its thread ended early".to_string() }
}
