//! What the ranks of a run send in a step, by how they hold its state: what `plan --nodes N --gpus M` tells.
//!
//! ```text
//! ddp      gradients reduced for all                                    those of layers beside the last backward
//! fsdp     layers gathered for each forward and each backward, their    beside the passes, in every micro-batch;
//!          gradients reduced in parts; the rest once in a step          the rest after them
//! hybrid   the same within each machine; between machines a rank's      after them
//!          part of the gradients reduced for all that have it
//! ```

use crate::config::Strategy;
use crate::dist::{pass_bytes, ring_bytes};

/// What a run has to exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Payload {
    /// Parameters of the layers.
    pub layers: f64,
    /// Parameters outside of the layers.
    pub outside: f64,
    /// Parameters that are never sharded: masks, multipliers, routers.
    pub replicated: f64,
    /// Bytes of a parameter in the dtype of the computation.
    pub element: f64,
    /// Whether the weights train.
    pub trains: bool,
}

/// The ranks of a run, and what each does of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// How they hold its state.
    pub strategy: Strategy,
    /// Machines.
    pub nodes: usize,
    /// Ranks on each.
    pub gpus: usize,
    /// Micro-batches of one rank.
    pub micro_batches: usize,
}

/// Bytes that a rank sends in a step over one kind of link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// While the passes go on.
    pub beside: f64,
    /// When they are over.
    pub after: f64,
}

/// Bytes that a rank sends in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Over the links within a machine.
    pub within: Sent,
    /// Over the network between machines.
    pub across: Sent,
}

impl Traffic {
    /// Of a step.
    pub fn of(ranks: Ranks, payload: &Payload) -> Traffic {
        let all = ranks.nodes * ranks.gpus;
        let gradient = if payload.trains { 4.0 } else { 0.0 };
        let replicated = ring_bytes(4.0 * payload.replicated, all);
        // A ring of all ranks is as slow as its slowest link.
        let over_all = |sent: Sent| match ranks.nodes {
            1 => Traffic { within: sent, across: Sent::default() },
            _ => Traffic { within: Sent::default(), across: sent },
        };
        match ranks.strategy {
            Strategy::Ddp => over_all(Sent {
                beside: ring_bytes(gradient * payload.layers, all),
                after: ring_bytes(gradient * payload.outside, all) + replicated,
            }),
            Strategy::Fsdp => {
                let sent = sharded(payload, gradient, all, ranks.micro_batches);
                over_all(Sent { after: sent.after + replicated, ..sent })
            }
            Strategy::Hybrid => {
                let own = gradient * (payload.layers + payload.outside) / ranks.gpus.max(1) as f64;
                let across = Sent { beside: 0.0, after: ring_bytes(own, ranks.nodes) + replicated };
                Traffic { within: sharded(payload, gradient, ranks.gpus, ranks.micro_batches), across }
            }
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.within.beside + self.within.after + self.across.beside + self.across.after
    }
}

/// Of weights that are sharded over `ranks`: layers are gathered for a forward and again for its backward, and their gradients reduced
/// in parts, in every micro-batch; the rest once in a step.
fn sharded(payload: &Payload, gradient: f64, ranks: usize, micro_batches: usize) -> Sent {
    let of_layers = (2.0 * payload.element + gradient) * payload.layers;
    let of_rest = (payload.element + gradient) * payload.outside;
    Sent { beside: micro_batches as f64 * pass_bytes(of_layers, ranks), after: pass_bytes(of_rest, ranks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: Payload = Payload { layers: 1000.0, outside: 100.0, replicated: 10.0, element: 2.0, trains: true };

    fn traffic(strategy: Strategy, nodes: usize, gpus: usize, micro_batches: usize) -> Traffic {
        Traffic::of(Ranks { strategy, nodes, gpus, micro_batches }, &PAYLOAD)
    }

    #[test]
    fn one_rank_sends_nothing() {
        for strategy in [Strategy::Ddp, Strategy::Fsdp, Strategy::Hybrid] {
            assert_eq!(traffic(strategy, 1, 1, 4).total(), 0.0);
        }
    }

    #[test]
    fn replicated_weights_are_summed_once_a_step_and_sharded_ones_pass_in_every_micro_batch() {
        let ddp = traffic(Strategy::Ddp, 1, 2, 4);
        assert_eq!(ddp.within, Sent { beside: 4000.0, after: 440.0 });
        let fsdp = traffic(Strategy::Fsdp, 1, 2, 4);
        // Half of 1,000 elements of 2 bytes twice and of 4 bytes once, four times.
        assert_eq!(fsdp.within, Sent { beside: 4.0 * 4000.0, after: 300.0 + 40.0 });
        assert_eq!(fsdp.across, Sent::default());
        assert_eq!(traffic(Strategy::Fsdp, 2, 1, 4).across, fsdp.within);
    }

    #[test]
    fn machines_that_each_hold_everything_send_each_other_one_share_of_the_gradients() {
        let hybrid = traffic(Strategy::Hybrid, 2, 4, 1);
        assert_eq!(hybrid.within, Sent { beside: 0.75 * 8000.0, after: 0.75 * 600.0 });
        assert_eq!(hybrid.across, Sent { beside: 0.0, after: 1100.0 + 70.0 });
        assert!(hybrid.across.after < traffic(Strategy::Ddp, 2, 4, 1).across.beside);
    }
}
