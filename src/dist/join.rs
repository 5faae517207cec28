//! How the processes of a run find each other: a store, a roll-call in it, then connections among all.

use super::board::Board;
use super::error::first_line;
use super::world::World;
use super::{Error, Place};
use crate::native::c10d::{ProcessGroup, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, TchError};

/// How often is asked whether the others have come.
const PAUSE: Duration = Duration::from_millis(20);

/// Joins the others as `place` says; tensors of collectives are on `device`. Whoever does not come within `timeout` is
/// named, and a collective that takes longer fails.
///
/// # Errors
/// A store that cannot be reached, ranks that do not come, connections that cannot be made.
pub fn join(place: &Place, device: Device, timeout: Duration) -> Result<World, Error> {
    let (host, port) = (place.address.as_str(), place.port);
    let (action, store) = match place.serves() {
        true => ("serve", Store::serve(host, port, timeout)),
        false => ("reach", Store::connect(host, port, timeout)),
    };
    let unreachable = |problem: TchError| Error::Store {
        rank: place.rank,
        size: place.size,
        action,
        address: host.to_string(),
        port,
        problem: first_line(&problem),
    };
    let store = store.map_err(unreachable)?;
    // The server of the store lives as long as its first handle.
    let prefix = format!("{}/shearling", place.agent_prefix.as_deref().unwrap_or_default());
    let under = store.under(&prefix).map_err(unreachable)?;
    roll_call(place, &under, timeout).map_err(|failed| match failed {
        Absence::Ranks(missing) => Error::Absent { missing, size: place.size, seconds: timeout.as_secs() },
        Absence::Store(problem) => unreachable(problem),
    })?;
    let connection =
        |problem: TchError| Error::Connection { rank: place.rank, size: place.size, problem: first_line(&problem) };
    let group =
        under.under("group").and_then(|keys| ProcessGroup::connect(&keys, place.rank, place.size, device, timeout));
    let group = group.map_err(connection)?;
    Ok(World::of(place.clone(), device, group, Board::new(Arc::new(under), store, place)))
}

enum Absence {
    Ranks(Vec<usize>),
    Store(TchError),
}

impl From<TchError> for Absence {
    fn from(problem: TchError) -> Absence {
        Absence::Store(problem)
    }
}

/// Every rank says that it is here; rank 0 waits for all, the others for its word.
fn roll_call(place: &Place, store: &Store, timeout: Duration) -> Result<(), Absence> {
    let here = |rank: usize| format!("here/{rank}");
    store.set(&here(place.rank), "")?;
    let mut missing: Vec<usize> = (0..place.size).collect();
    let begun = Instant::now();
    loop {
        let complete = if place.rank == 0 {
            missing = still_missing(store, &missing, &here)?;
            missing.is_empty()
        } else {
            store.has("complete")?
        };
        if complete {
            break;
        }
        if begun.elapsed() > timeout {
            let missing = still_missing(store, &missing, &here)?;
            return Err(Absence::Ranks(missing));
        }
        std::thread::sleep(PAUSE);
    }
    if place.rank == 0 {
        store.set("complete", "")?;
    }
    Ok(())
}

fn still_missing(store: &Store, ranks: &[usize], key: &dyn Fn(usize) -> String) -> Result<Vec<usize>, TchError> {
    let mut missing = Vec::new();
    for rank in ranks {
        if !store.has(&key(*rank))? {
            missing.push(*rank);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::c10d::Reduction;
    use tch::{Kind, Tensor};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Runs `body` as ranks would, each on a thread.
    fn ranks(size: usize, body: impl Fn(World) + Sync) {
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        std::thread::scope(|scope| {
            for rank in 0..size {
                let (body, port) = (&body, served.port());
                scope.spawn(move || body(join(&Place::of_thread(rank, size, port), Device::Cpu, PATIENCE).unwrap()));
            }
        });
    }

    #[test]
    fn ranks_tell_each_other_texts_numbers_and_decisions() {
        ranks(3, |world| {
            let rank = world.rank();
            assert_eq!(world.texts(&"ü".repeat(rank)).unwrap(), ["", "ü", "üü"]);
            assert_eq!(world.numbers(&[rank as f64, 0.1]).unwrap(), [[0.0, 0.1], [1.0, 0.1], [2.0, 0.1]]);
            assert_eq!(world.sums(&[rank as f64, 0.5]).unwrap(), [3.0, 1.5]);
            assert_eq!(world.raised([rank == 1, false]).unwrap(), [Some(1), None]);
            let told = world.told(|| Ok::<_, Error>(vec![rank, 7])).unwrap();
            assert_eq!(told, [0, 7], "rank 0 alone does it");
            world.same(&[("a", "x".to_string())], "").unwrap();
            let differs =
                world.same(&[("a", "x".to_string()), ("b", format!("1\n{}", rank / 2))], "Look.").unwrap_err();
            assert_eq!(differs.to_string(), "rank 2 has another b than rank 0: \"1\", where rank 0 has \"0\". Look.");
            let blocks =
                world.reduce_scatter(&Tensor::ones([3, 2], (Kind::Float, Device::Cpu)), Reduction::Sum).unwrap();
            assert_eq!(Vec::<f32>::try_from(blocks).unwrap(), [3.0, 3.0]);
            let wrong = world.reduce_scatter(&Tensor::ones([2, 2], (Kind::Float, Device::Cpu)), Reduction::Sum);
            assert!(wrong.unwrap_err().to_string().contains("not one block for each of 3 ranks"));
            let gaps = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).slice(1, 0, 4, 2);
            assert!(world.all_reduce(&gaps, Reduction::Sum).unwrap_err().to_string().contains("not contiguous"));
            world.barrier().unwrap();
        });
    }

    #[test]
    fn an_error_of_rank_0_is_one_of_all_and_that_of_another_is_found() {
        ranks(2, |world| {
            let failed = world.told(|| Err::<(), _>(Error::Garbled("no room".to_string()))).unwrap_err().to_string();
            assert!(failed.contains("no room"), "{failed}");
            assert_eq!(failed.starts_with("rank 0 ended: "), world.rank() == 1, "{failed}");
            if world.rank() == 1 {
                return world.leave("out of memory");
            }
            let found = world.barrier().unwrap_err().to_string();
            assert_eq!(found, "rank 1 ended: out of memory");
        });
    }

    #[test]
    fn whoever_goes_without_a_word_is_named_by_all() {
        ranks(3, |world| {
            // All are connected.
            world.barrier().unwrap();
            if world.rank() == 1 {
                return;
            }
            let found = world.barrier().unwrap_err().to_string();
            assert!(found.starts_with("rank 1 of 3 no longer answers"), "{found}");
        });
    }

    /// Rank 2 computes for longer than rank 0 waits for words, and comes when rank 0 has given up.
    #[test]
    fn whoever_is_busy_is_not_taken_for_the_one_that_is_gone() {
        ranks(3, |world| {
            let rank = world.rank();
            world.barrier().unwrap();
            if rank == 1 {
                return;
            }
            if rank == 2 {
                std::thread::sleep(PATIENCE / 10);
            }
            let found = world.barrier().unwrap_err().to_string();
            assert!(found.starts_with("rank 1 of 3 no longer answers"), "rank {rank}: {found}");
        });
    }

    /// Rank 0 has given up, but what it had begun keeps its connections: rank 2 waits for nobody else.
    #[test]
    fn whoever_waits_for_one_that_has_given_up_is_told() {
        ranks(3, |world| {
            world.barrier().unwrap();
            if world.rank() == 1 {
                return std::thread::sleep(Duration::from_secs(2));
            }
            let begun = Instant::now();
            if world.rank() == 0 {
                return world.leave("no room");
            }
            assert_eq!(world.barrier().unwrap_err().to_string(), "rank 0 ended: no room");
            assert!(begun.elapsed() < PATIENCE / 2, "nobody waited for the timeout");
        });
    }

    #[test]
    fn whoever_never_comes_is_named() {
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        let failed = join(&Place::of_thread(0, 2, served.port()), Device::Cpu, Duration::from_millis(200)).unwrap_err();
        assert_eq!(failed.to_string(), "rank 1 of 2 did not come within 0 s (dist.timeout_seconds)");
        let nobody = Place { port: 1, ..Place::of_thread(1, 2, 0) };
        let failed = join(&nobody, Device::Cpu, Duration::from_millis(500)).unwrap_err().to_string();
        assert!(failed.contains("rank 1 of 2 cannot reach the store at 127.0.0.1:1"), "{failed}");
    }
}
