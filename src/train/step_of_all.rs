//! The part of a step that ranks do together: whether all have their batch, and the sums of what each found.

use super::Error;
use super::objective::RowSums;
use super::sharding::Shards;
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
        let _no_grad = tch::no_grad_guard();
        self.weights.shards.as_ref().map_or(Ok(()), Shards::finish_step)?;
        let exchange = &self.exchange;
        if exchange.world.is_alone() {
            return Ok(rows);
        }
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

#[cfg(test)]
mod tests {
    use super::super::setup::{Device, Setup};
    use super::super::weight_stream::{Weight, stored_weights};
    use super::*;
    use crate::config::{Stage, Strategy, parse};
    use crate::dist::{Place, join};
    use crate::native::c10d::Store;
    use std::path::Path;
    use std::time::Duration;
    use tch::Kind;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// Ranks as threads of one process, each with a trainer of the small model of the fixtures.
    fn ranks(size: usize, body: impl Fn(usize, &mut Trainer) + Sync) {
        ranks_from(size, Strategy::Ddp, |_, _| (), body);
    }

    /// The same under a strategy, from weights that `change` may change.
    fn ranks_from(
        size: usize,
        strategy: Strategy,
        change: impl Fn(usize, &mut Vec<Weight>) + Sync,
        body: impl Fn(usize, &mut Trainer) + Sync,
    ) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
        let text = format!(
            "[run]\ndirectory = 'none'\n[model]\nsource = '{0}/source/model'\n[data]\npath = '{0}/data'\nmax_epochs = 100\n\
             [train]\nsteps = 4\nbatch_rows = 4\nmicro_batch_rows = 1\nlearning_rate = 1e-3\n",
            fixtures.display()
        );
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        std::thread::scope(|scope| {
            for rank in 0..size {
                let (body, change, text, port) = (&body, &change, &text, served.port());
                scope.spawn(move || {
                    let place = Place::of_thread(rank, size, port);
                    let world = join(&place, Device::Cpu, PATIENCE).unwrap();
                    let sets = [format!("dist.strategy={}", strategy.name())];
                    let config = parse(text, "test", &sets).unwrap();
                    let setup = Setup::new(config, Stage::Pretrain, Device::Cpu).unwrap();
                    let setup = setup.among(world.clone()).unwrap();
                    let source = setup.source.as_ref().unwrap();
                    let weights = stored_weights(source, &setup.model, Kind::Float, Device::Cpu);
                    let mut weights = weights.collect::<Result<Vec<_>, Error>>().unwrap();
                    change(rank, &mut weights);
                    let mut trainer = Trainer::with_weights(&setup, weights).unwrap();
                    body(rank, &mut trainer);
                    world.barrier().unwrap();
                });
            }
        });
    }

    fn first_weight(trainer: &Trainer) -> Tensor {
        trainer.weights.group.slots()[0].master().unwrap().copy()
    }

    #[test]
    fn a_number_that_is_not_finite_in_one_rank_skips_the_step_in_all() {
        for strategy in [Strategy::Ddp, Strategy::Fsdp] {
            one_rank_is_not_finite(strategy);
        }
    }

    fn one_rank_is_not_finite(strategy: Strategy) {
        ranks_from(
            2,
            strategy,
            |_, _| (),
            |rank, trainer| {
                let before = first_weight(trainer);
                if rank == 1 {
                    let _ = trainer.weights.group.slots()[3].gradient().shallow_clone().fill_(f64::NAN);
                }
                let report = trainer.step().unwrap();
                assert!(!report.applied && report.norms.total.is_nan(), "rank {rank}");
                assert!(first_weight(trainer).equal(&before), "rank {rank}");
                let report = trainer.step().unwrap();
                assert!(report.applied && report.cross_entropy.is_finite(), "rank {rank}");
                assert!(!first_weight(trainer).equal(&before), "rank {rank}");
                trainer.check_replicas(true).unwrap();
            },
        );
    }

    #[test]
    fn a_rank_with_other_weights_is_found_at_the_start() {
        for strategy in [Strategy::Ddp, Strategy::Fsdp] {
            let change = |rank: usize, weights: &mut Vec<Weight>| {
                if rank == 1 {
                    weights[5].1 = &weights[5].1 * 1.01;
                }
            };
            ranks_from(2, strategy, change, |_, trainer| {
                let message = trainer.agree_on_start().unwrap_err().to_string();
                assert!(message.contains("rank 1 has another model (squared norms"), "{strategy:?}: {message}");
            });
        }
    }

    /// A checkpoint that rank 0 cannot write costs the others nothing, who take part in its all-gathers.
    #[test]
    fn a_failed_save_of_sharded_state_leaves_no_rank_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let run = crate::run_dir::RunDir::create(&folder.path().join("run")).unwrap();
        let run = &std::sync::Mutex::new(run);
        ranks_from(
            2,
            Strategy::Fsdp,
            |_, _| (),
            |rank, trainer| {
                // The second one is refused: the step is there.
                for fits in [true, false] {
                    match rank {
                        0 => {
                            let saved = trainer.save(&run.lock().unwrap(), u64::MAX, "pretrain", false);
                            assert_eq!(saved.is_ok(), fits, "{saved:?}");
                        }
                        _ => trainer.save_shards().unwrap(),
                    }
                }
                assert!(trainer.step().unwrap().applied, "rank {rank}");
            },
        );
    }

    #[test]
    fn ranks_that_have_drifted_apart_are_found() {
        ranks(2, |rank, trainer| {
            trainer.step().unwrap();
            if rank == 1 {
                let weight = &mut trainer.weights.group.slots_mut()[0];
                let ones = weight.master().unwrap().ones_like();
                weight.set_master(&ones).unwrap();
            }
            let message = trainer.check_replicas(true).unwrap_err().to_string();
            assert!(message.contains("rank 1 has another model (squared norms"), "{message}");
        });
    }

    #[test]
    fn all_stop_where_one_is_asked_to() {
        ranks(2, |rank, trainer| {
            trainer.step().unwrap();
            assert!(!trainer.all_stop());
            trainer.ask_to_stop(rank == 1);
            trainer.step().unwrap();
            assert!(trainer.all_stop(), "rank {rank}");
        });
    }

    /// Whatever rank 0 has is what all have.
    #[test]
    fn all_begin_with_what_rank_0_has() {
        ranks(2, |rank, trainer| {
            if rank == 1 {
                // Within rounding: no other model.
                let weight = &mut trainer.weights.group.slots_mut()[1];
                let changed = weight.master().unwrap().copy();
                let _ = changed.flatten(0, -1).get(0).g_add_scalar_(1e-7);
                weight.set_master(&changed).unwrap();
            }
            trainer.agree_on_start().unwrap();
            trainer.check_replicas(true).unwrap();
            assert_eq!(trainer.weights.group.slots()[1].master().unwrap().kind(), Kind::Float);
        });
    }
}
