//! Work spread over threads whose results come back in the order of the input.
//!
//! One thread produces items, several transform them, the caller's thread consumes the results in order. The number of
//! items on the way is bounded by tickets, so a slow item or a slow consumer holds the producer back instead of
//! filling the memory. The outcome never depends on timing: of several errors, the first in input order is returned.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

/// Items on the way per thread.
const ITEMS_PER_THREAD: usize = 4;

/// Number of threads meant by `threads`, where 0 stands for one per core.
pub(crate) fn thread_count(threads: usize) -> usize {
    if threads > 0 {
        return threads;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Sends every item that `items` yields through `work` on `threads` threads, and hands the results to `sink` in order.
pub(crate) fn map_in_order<I, O, W, S>(
    operation: &'static str,
    threads: usize,
    items: impl Iterator<Item = Result<I>> + Send,
    work: W,
    mut sink: S,
) -> Result<()>
where
    I: Send,
    O: Send,
    W: Fn(I) -> Result<O> + Sync,
    S: FnMut(O) -> Result<()>,
{
    let threads = thread_count(threads);
    let (ticket_out, ticket_in) = channel::<()>();
    let (job_out, job_in) = channel::<(u64, Result<I>)>();
    let (result_out, result_in) = channel::<(u64, Result<O>)>();
    let jobs = Arc::new(Mutex::new(job_in));
    for _ in 0..threads * ITEMS_PER_THREAD {
        // The receiver is alive, so this cannot fail.
        let _ = ticket_out.send(());
    }
    std::thread::scope(|scope| {
        scope.spawn(move || produce(operation, items, &ticket_in, &job_out));
        for _ in 0..threads {
            let (jobs, results, work) = (Arc::clone(&jobs), result_out.clone(), &work);
            scope.spawn(move || transform(operation, &jobs, &results, work));
        }
        drop(result_out);
        // These ends are dropped on return: the producer then finds no ticket, the workers no job, and the scope joins.
        consume(result_in, ticket_out, &mut sink)
    })
}

fn produce<I>(
    operation: &'static str,
    mut items: impl Iterator<Item = Result<I>>,
    tickets: &Receiver<()>,
    jobs: &Sender<(u64, Result<I>)>,
) {
    for number in 0.. {
        if tickets.recv().is_err() {
            return;
        }
        let item = match catch_unwind(AssertUnwindSafe(|| items.next())) {
            Ok(None) => return,
            Ok(Some(item)) => item,
            Err(payload) => Err(Error::panicked(operation, payload)),
        };
        let failed = item.is_err();
        if jobs.send((number, item)).is_err() || failed {
            return;
        }
    }
}

fn transform<I, O>(
    operation: &'static str,
    jobs: &Mutex<Receiver<(u64, Result<I>)>>,
    results: &Sender<(u64, Result<O>)>,
    work: &(impl Fn(I) -> Result<O> + Sync),
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, item)) = job else { return };
        let result = item.and_then(|item| {
            catch_unwind(AssertUnwindSafe(|| work(item)))
                .unwrap_or_else(|payload| Err(Error::panicked(operation, payload)))
        });
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

fn consume<O>(
    results: Receiver<(u64, Result<O>)>,
    tickets: Sender<()>,
    sink: &mut impl FnMut(O) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Ok((number, result)) = results.recv() {
        early.insert(number, result);
        while let Some(result) = early.remove(&next) {
            sink(result?)?;
            next += 1;
            // A producer that has finished takes no more tickets.
            let _ = tickets.send(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubled(threads: usize, count: u64) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        let work = |item: u64| {
            // Uneven work, so that results overtake each other.
            std::hint::black_box((0..(item * 7919) % 5000).sum::<u64>());
            if item == 70 { panic!("seventy") } else { Ok(item * 2) }
        };
        map_in_order("a test", threads, (0..count).map(Ok), work, |item| {
            out.push(item);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn keeps_the_order() {
        for threads in [1, 2, 5] {
            assert!(doubled(threads, 70).unwrap().into_iter().eq((0..70).map(|item| item * 2)));
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(doubled(3, 500).unwrap_err().to_string().contains("seventy"));
    }

    #[test]
    fn the_first_error_in_order_wins_and_stops_the_work() {
        let fail = |number: u64| Error::config("n", number, "bad");
        for _ in 0..20 {
            let work = |item: u64| if item >= 40 { Err(fail(item)) } else { Ok(item) };
            let endless = (0..).map(Ok);
            let error = map_in_order("a test", 3, endless, work, |_| Ok(())).unwrap_err();
            assert_eq!(error.to_string(), "n = 40: bad");
            let sink = |item| if item == 10 { Err(fail(item)) } else { Ok(()) };
            let error = map_in_order("a test", 3, (0..).map(Ok), Ok, sink).unwrap_err();
            assert_eq!(error.to_string(), "n = 10: bad");
            let items = (0..).map(|item| if item == 5 { Err(fail(item)) } else { Ok(item) });
            assert_eq!(map_in_order("a test", 3, items, Ok, |_| Ok(())).unwrap_err().to_string(), "n = 5: bad");
        }
    }
}
