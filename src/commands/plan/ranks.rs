//! `plan --nodes N --gpus M`: the same run by many ranks. What each holds, what goes over the wire at every step, how much
//! faster that makes it.
//!
//! ```text
//! payload      S = 4 bytes × (trained weights + log-odds and multipliers)      summed over ranks at every step
//! sent         b = 2 (n − 1) / n · S                                           by each of n ranks, and over each link
//! exchange     t = b / bandwidth of the slowest link                           after the backward, not beside it
//! step         T_n = T_1 · ⌈m / n⌉ / m + t                                     m micro-batches, dealt out in turn
//! ```

use super::places::Places;
use crate::cli::arguments::Plan;
use crate::cli::table::{bytes, duration};
use crate::commands::run_cost::RunCost;
use crate::dist::ring_bytes;
use crate::native::runtime::cards::CARDS;
use crate::train::fit::Fit;
use crate::train::{Outline, check_deal};
use crate::words::counted;
use serde_json::{Value, json};

/// A run by many ranks.
pub(super) struct RankPlan {
    nodes: usize,
    gpus: usize,
    micro_batches: usize,
    memory_bytes: f64,
    /// What is summed at every step.
    payload_bytes: f64,
    /// Bytes per second of the slowest link, if it is given.
    link: Option<f64>,
    time: Option<Time>,
    /// Why it cannot be.
    problems: Vec<String>,
}

/// Seconds of a step.
struct Time {
    /// Of one rank by itself.
    alone: f64,
    /// Of the largest share of the micro-batches.
    computing: f64,
    exchanging: f64,
    /// Of the whole run.
    run: f64,
}

impl RankPlan {
    /// What `--nodes` and `--gpus` ask for, where they do and the run takes steps; `seconds` is what one rank takes.
    pub(super) fn of(
        outline: &Outline,
        arguments: &Plan,
        places: &Places,
        cost: &RunCost,
        seconds: Option<f64>,
    ) -> Option<RankPlan> {
        let number = |given: Option<std::num::NonZeroUsize>| given.map_or(1, std::num::NonZeroUsize::get);
        let (nodes, gpus) = (number(arguments.nodes), number(arguments.gpus));
        let ranks = nodes.saturating_mul(gpus);
        if ranks == 1 || cost.one_shot.is_some() {
            return None;
        }
        let train = &outline.config.train;
        let micro_batches = train.batch_rows / train.micro_batch().max(1);
        let payload_bytes = payload_bytes(outline, places);
        let link = if nodes > 1 { arguments.network } else { arguments.link };
        let largest_share = micro_batches.div_ceil(ranks) as f64 / micro_batches.max(1) as f64;
        let time = link.zip(seconds).filter(|_| train.steps > 0).map(|(link, seconds)| {
            let (steps, evaluating) = (train.steps as f64, cost.eval_flops.unwrap_or(0.0) / cost.flops());
            let alone = seconds * (1.0 - evaluating) / steps;
            let (computing, exchanging) = (alone * largest_share, ring_bytes(payload_bytes, ranks) / link);
            let run = steps * (computing + exchanging) + seconds * evaluating / ranks as f64;
            Time { alone, computing, exchanging, run }
        });
        let mut problems: Vec<String> =
            check_deal(&outline.config, ranks).err().map(|problem| problem.to_string()).into_iter().collect();
        problems.extend(does_not_fit(places));
        let memory_bytes = places.memory.total_bytes();
        Some(RankPlan { nodes, gpus, micro_batches, memory_bytes, payload_bytes, link, time, problems })
    }

    fn ranks(&self) -> usize {
        self.nodes * self.gpus
    }

    /// Why the ranks cannot do it.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn text(&self) -> String {
        let (ranks, each) = (self.ranks(), counted(self.gpus as u64, "GPU"));
        let nodes = counted(self.nodes as u64, "node");
        let mut text = format!(
            "{ranks} ranks ({nodes} × {each}), dist.strategy = \"ddp\": each holds the whole run, {}\n\
             each step: {} dealt out, {} at most to a rank; {} of gradients summed, each rank sends {}\n",
            bytes(self.memory_bytes),
            counted(self.micro_batches as u64, "micro-batch"),
            self.micro_batches.div_ceil(ranks),
            bytes(self.payload_bytes),
            bytes(self.sent_bytes())
        );
        text.push_str(&match (&self.time, self.link) {
            (Some(time), _) => {
                let faster = time.alone / (time.computing + time.exchanging);
                format!(
                    "time on {ranks} ranks: about {}; a step {:.3} s computing and {:.3} s exchanging, {faster:.1} times as \
                     fast as one ({:.0} %)\n",
                    duration(time.run),
                    time.computing,
                    time.exchanging,
                    100.0 * faster / ranks as f64
                )
            }
            (None, None) => {
                let (option, between) = if self.nodes > 1 { ("--network", "nodes") } else { ("--link", "GPUs") };
                format!("time on {ranks} ranks: not known; give {option} RATE, the bandwidth between {between}\n")
            }
            (None, Some(_)) => format!("time on {ranks} ranks: not known, as that of one is not\n"),
        });
        text
    }

    fn sent_bytes(&self) -> f64 {
        ring_bytes(self.payload_bytes, self.ranks())
    }

    pub(super) fn json(&self) -> Value {
        let time = self.time.as_ref().map(|time| {
            json!({ "step_seconds_alone": time.alone, "computing_seconds": time.computing,
                    "exchanging_seconds": time.exchanging, "run_seconds": time.run,
                    "speedup": time.alone / (time.computing + time.exchanging) })
        });
        json!({
            "ranks": self.ranks(),
            "nodes": self.nodes,
            "gpus": self.gpus,
            "strategy": "ddp",
            "memory_bytes": self.memory_bytes,
            "micro_batches": self.micro_batches,
            "summed_bytes": self.payload_bytes,
            "sent_bytes": self.sent_bytes(),
            "link_bytes_per_second": self.link,
            "time": time,
            "problems": self.problems,
        })
    }
}

/// What is summed at every step.
fn payload_bytes(outline: &Outline, places: &Places) -> f64 {
    let masks = outline.spec.as_ref().map_or(0, |spec| spec.modules().iter().map(|module| module.units() + 2).sum());
    places.memory.gradient_bytes + 4.0 * masks as f64
}

/// Ranks that hold everything do not make room for each other.
fn does_not_fit(places: &Places) -> Option<String> {
    let (name, remedy) = places.lacking()?;
    let cards: Vec<&str> = CARDS.iter().filter(|card| places.fit(card) == Fit::Yes).map(|card| card.name).collect();
    let elsewhere = match cards.as_slice() {
        [] => "it fits no card that is known here".to_string(),
        names => format!("it fits {}", names.join(", ")),
    };
    let with = remedy.map_or(String::new(), |keys| format!("; with {} it fits here", keys.join(", ")));
    Some(format!(
        "each rank holds the whole run (dist.strategy = \"ddp\"), which does not fit in {name}: more ranks do not help; \
         {elsewhere}{with}"
    ))
}
