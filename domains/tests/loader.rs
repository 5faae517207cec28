//! The loader: what is handed out depends on the data, the seed and the proportions, and on nothing else.

use std::sync::Arc;

use crate::common::{message, prepared};
use shearling_domains::{Batch, Dataset, Error, Loader, LoaderConfig, LoaderState, Split};

const PROPORTIONS: [f64; 3] = [0.5, 0.3, 0.2];

fn dataset() -> (tempfile::TempDir, Arc<Dataset>) {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = prepared(root.path());
    (root, Arc::new(Dataset::open(folder).unwrap()))
}

fn config(prefetch: usize) -> LoaderConfig {
    LoaderConfig { batch_rows: 10, seed: 3, max_epochs: 1000.0, prefetch }
}

/// Proportions that a run might set before batch `index`.
fn change(index: u64) -> Option<[f64; 3]> {
    (index % 7 == 5).then(|| {
        let first = 0.1 + 0.01 * (index % 40) as f64;
        [first, 0.7 - first, 0.3]
    })
}

/// `count` batches, with changes of proportions on the way.
fn run(loader: &mut Loader, from: u64, count: u64) -> Vec<Batch> {
    (from..from + count)
        .map(|index| {
            if let Some(proportions) = change(index) {
                loader.set_proportions(&proportions).unwrap();
            }
            loader.next_batch().unwrap()
        })
        .collect()
}

#[test]
fn batches_hold_the_rows_they_name_in_the_right_mix() {
    let (_root, dataset) = dataset();
    let mut loader = Loader::new(Arc::clone(&dataset), config(2), &PROPORTIONS).unwrap();
    let mut counts = [0.0; 3];
    for index in 0..50 {
        let batch = loader.next_batch().unwrap();
        assert_eq!((batch.index, batch.rows, batch.sequence_length), (index, 10, 32));
        assert_eq!(batch.tokens.len(), 320);
        for (at, (&domain, &row)) in batch.domain.iter().zip(&batch.row).enumerate() {
            assert_eq!(batch.tokens[at * 32..(at + 1) * 32], dataset.train_rows(domain, &[row]).unwrap());
            counts[domain] += 1.0;
        }
        let rows = (index + 1) as f64 * 10.0;
        assert!(counts.iter().zip(PROPORTIONS).all(|(count, share): (&f64, f64)| (count - share * rows).abs() < 2.0));
    }
    let epochs = loader.epochs();
    assert!((epochs[2] - 100.0 / dataset.rows(2, Split::Train) as f64).abs() < 1e-9);
}

#[test]
fn prefetching_changes_nothing() {
    let (_root, dataset) = dataset();
    let batches = |prefetch: usize| {
        let mut loader = Loader::new(Arc::clone(&dataset), config(prefetch), &PROPORTIONS).unwrap();
        (run(&mut loader, 0, 60), loader.state())
    };
    let expected = batches(0);
    for prefetch in [1, 2, 7] {
        assert!(batches(prefetch) == expected, "prefetch {prefetch}");
    }
}

#[test]
fn resuming_anywhere_continues_exactly() {
    let (_root, dataset) = dataset();
    let mut whole = Loader::new(Arc::clone(&dataset), config(3), &PROPORTIONS).unwrap();
    let expected = run(&mut whole, 0, 80);
    for stop in [0, 1, 5, 6, 13, 40, 79] {
        let mut first = Loader::new(Arc::clone(&dataset), config(3), &PROPORTIONS).unwrap();
        run(&mut first, 0, stop);
        let text = serde_json::to_string(&first.state()).unwrap();
        assert!(text.len() < 600, "{text}");
        let state: LoaderState = serde_json::from_str(&text).unwrap();
        assert_eq!(state, first.state());
        let mut second = Loader::resume(Arc::clone(&dataset), config(1), state).unwrap();
        assert!(run(&mut second, stop, 80 - stop) == expected[stop as usize..], "stopped at {stop}");
        assert_eq!(second.state(), whole.state());
    }
}

#[test]
fn other_data_seeds_and_broken_states_are_refused() {
    let (_root, dataset) = dataset();
    let loader = Loader::new(Arc::clone(&dataset), config(0), &PROPORTIONS).unwrap();
    let attempt = |config: LoaderConfig, change: &dyn Fn(&mut LoaderState)| {
        let mut state = loader.state();
        change(&mut state);
        message(Loader::resume(Arc::clone(&dataset), config, state))
    };
    let other_seed = LoaderConfig { seed: 4, ..config(0) };
    assert!(attempt(other_seed, &|_| {}).contains("seed is 3 there, and 4 here"));
    assert!(attempt(config(0), &|s| s.fingerprint = "x".to_string()).contains("fingerprint"));
    assert!(attempt(config(0), &|s| s.domains.swap(0, 1)).contains("domains is code, stories, records there"));
    assert!(attempt(config(0), &|s| s.version = 9).contains("version is 9"));
    assert!(attempt(config(0), &|s| s.drawn.truncate(2)).contains("number of row counts"));
    assert!(attempt(config(0), &|s| s.deficits[0] = f64::NAN).contains("deficits"));
    assert!(attempt(config(0), &|s| s.proportions[0] = 0.9).contains("sum to"));
}

#[test]
fn wrong_proportions_and_settings_are_refused() {
    let (_root, dataset) = dataset();
    let new =
        |config: LoaderConfig, proportions: &[f64]| message(Loader::new(Arc::clone(&dataset), config, proportions));
    assert!(new(config(0), &[0.5, 0.5]).contains("2 were given for 3 domains"));
    assert!(new(config(0), &[0.5, 0.4, 0.2]).contains("sum to 1.1"));
    assert!(new(LoaderConfig { batch_rows: 0, ..config(0) }, &PROPORTIONS).contains("batch_rows = 0"));
    assert!(new(LoaderConfig { batch_rows: usize::MAX, ..config(0) }, &PROPORTIONS).contains("batch_rows = 1844"));
    assert!(new(config(usize::MAX), &PROPORTIONS).contains("prefetch = 1844"));
    assert!(new(LoaderConfig { max_epochs: 0.0, ..config(0) }, &PROPORTIONS).contains("max_epochs = 0"));
    let mut loader = Loader::new(Arc::clone(&dataset), config(2), &PROPORTIONS).unwrap();
    let first = loader.next_batch().unwrap();
    assert!(loader.set_proportions(&[1.0, 1.0, 1.0]).is_err());
    let second = loader.next_batch().unwrap();
    assert_eq!((first.index, second.index), (0, 1));
    assert_eq!(loader.proportions(), PROPORTIONS);
}

#[test]
fn the_cap_on_epochs_drops_domains_and_then_stops() {
    let (_root, dataset) = dataset();
    for prefetch in [0, 2] {
        let config = LoaderConfig { max_epochs: 2.0, ..config(prefetch) };
        let mut loader = Loader::new(Arc::clone(&dataset), config, &PROPORTIONS).unwrap();
        let mut seen = vec![0u32; dataset.rows(2, Split::Train) as usize];
        let mut dropped = Vec::new();
        let error = loop {
            match loader.next_batch() {
                Ok(batch) => {
                    let rows = batch.domain.iter().zip(&batch.row).filter(|(domain, _)| **domain == 2);
                    rows.for_each(|(_, &row)| seen[row as usize] += 1);
                    dropped = batch.exhausted;
                }
                Err(error) => break error,
            }
        };
        assert!(seen.iter().all(|&count| count == 2), "every row of the small domain comes twice");
        assert!(!dropped.is_empty());
        assert!(matches!(&error, Error::Exhausted { domains, .. } if domains.len() == 3), "{error}");
        assert!(loader.epochs().iter().all(|&epochs| epochs <= 2.0));
        // Asking again gives the same answer.
        assert!(matches!(loader.next_batch(), Err(Error::Exhausted { .. })));
    }
}

#[test]
fn damage_met_while_prefetching_comes_out_as_an_error() {
    let (_root, dataset) = dataset();
    let path = dataset.root().join("code/train-00000.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for prefetch in [0, 3] {
        let mut loader = Loader::new(Arc::clone(&dataset), config(prefetch), &PROPORTIONS).unwrap();
        for _ in 0..2 {
            assert!(message(loader.next_batch()).contains("code/train-00000.parquet is damaged"));
        }
        assert_eq!(loader.state().batch, 0);
        loader.set_proportions(&[0.6, 0.0, 0.4]).unwrap();
        loader.next_batch().unwrap();
    }
}

#[test]
fn a_small_cache_gives_the_same_rows() {
    let (_root, dataset) = dataset();
    let mut loader = Loader::new(Arc::clone(&dataset), config(0), &PROPORTIONS).unwrap();
    let expected = run(&mut loader, 0, 10);
    // One row group per domain here, so a roomy cache decodes three in all.
    assert_eq!(dataset.groups_decoded(), 3);
    dataset.set_cache_bytes(1);
    let mut loader = Loader::new(Arc::clone(&dataset), config(0), &PROPORTIONS).unwrap();
    assert!(run(&mut loader, 0, 10) == expected);
    assert!(dataset.groups_decoded() > 10);
}
