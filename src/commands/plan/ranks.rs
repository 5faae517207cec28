//! `plan --nodes N --gpus M`: the same run by many ranks. What each holds, what goes over the wire at every step, how much
//! faster that makes it.
//!
//! ```text
//! sent         by each rank in a step, beside its passes and after them           train::traffic has the formulas
//! exchange     t = bytes / bandwidth of the link they go over
//! ddp          T_n = T_1 · ⌈m / n⌉ / m + max(0, t_beside − a backward) + t_after   m micro-batches, dealt out in turn
//! fsdp, hybrid T_n = max(T_1 · ⌈m / n⌉ / m, t_beside) + t_after
//! ```

use super::places::Places;
use crate::cli::arguments::Plan;
use crate::cli::table::{bytes, estimated};
use crate::commands::run_cost::RunCost;
use crate::config::Strategy;
use crate::model::count::ParameterCount;
use crate::model::routed_count::RoutedCount;
use crate::native::runtime::cards::CARDS;
use crate::train::fit::{Fit, Sharing};
use crate::train::memory::MemoryEstimate;
use crate::train::setup::compute_dtype;
use crate::train::traffic::{self, Payload, Sent, Traffic};
use crate::train::{Outline, check_deal};
use crate::words::counted;
use serde_json::{Value, json};

/// Share of a micro-batch that is its backward, with nothing computed again.
const BACKWARD: f64 = 2.0 / 3.0;
/// The most ranks that are tried to say how many would do.
const MOST_RANKS: usize = 4096;

/// The ranks that a plan is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranks {
    strategy: Strategy,
    nodes: usize,
    gpus: usize,
    /// Bandwidths, bytes per second, where they are given.
    link: Option<f64>,
    network: Option<f64>,
}

impl Ranks {
    /// What `--nodes` and `--gpus` ask for, where they do and the run takes steps.
    pub(super) fn asked(outline: &Outline, arguments: &Plan) -> Option<Ranks> {
        let number = |given: Option<std::num::NonZeroUsize>| given.map_or(1, std::num::NonZeroUsize::get);
        let (nodes, gpus) = (number(arguments.nodes), number(arguments.gpus));
        let strategy = outline.config.dist.strategy;
        let ranks = Ranks { strategy, nodes, gpus, link: arguments.link, network: arguments.network };
        (ranks.all() > 1 && !outline.config.cuts_at_once()).then_some(ranks)
    }

    /// How they share the run.
    pub(super) fn sharing(&self) -> Sharing {
        Sharing { ranks: self.all(), shard_ranks: self.shard_ranks() }
    }

    fn all(&self) -> usize {
        self.nodes.saturating_mul(self.gpus)
    }

    /// Over how many of them the state of the run is sharded.
    pub(super) fn shard_ranks(&self) -> usize {
        self.strategy.shard_ranks(self.all(), self.gpus)
    }

    /// Seconds that `sent` takes; `None` where a bandwidth is missing that it needs.
    fn seconds(&self, within: f64, across: f64) -> Option<f64> {
        let over = |bytes: f64, rate: Option<f64>| if bytes > 0.0 { rate.map(|rate| bytes / rate) } else { Some(0.0) };
        Some(over(within, self.link)? + over(across, self.network)?)
    }
}

/// A run by many ranks.
pub(super) struct RankPlan {
    ranks: Ranks,
    micro_batches: usize,
    memory_bytes: f64,
    traffic: Traffic,
    /// Bytes of gradients that are summed at every step.
    summed_bytes: f64,
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
    /// What of the exchange is not hidden behind that.
    exchanging: f64,
    /// Of the whole run.
    run: f64,
}

impl RankPlan {
    /// `seconds` is what one rank takes for the run.
    pub(super) fn new(
        ranks: Ranks,
        outline: &Outline,
        places: &Places,
        cost: &RunCost,
        seconds: Option<f64>,
    ) -> RankPlan {
        let train = &outline.config.train;
        let micro_batches = train.batch_rows / train.micro_batch().max(1);
        let payload = payload(outline);
        let own = micro_batches.div_ceil(ranks.all());
        let (strategy, nodes, gpus) = (ranks.strategy, ranks.nodes, ranks.gpus);
        let traffic = Traffic::of(traffic::Ranks { strategy, nodes, gpus, micro_batches: own }, &payload);
        let exchange = ranks.seconds(traffic.within.beside, traffic.across.beside);
        let exchange = exchange.zip(ranks.seconds(traffic.within.after, traffic.across.after));
        let time = exchange.zip(seconds).filter(|_| train.steps > 0).map(|((beside, after), seconds)| {
            let (steps, evaluating) = (train.steps as f64, cost.eval_flops.unwrap_or(0.0) / cost.flops());
            let alone = seconds * (1.0 - evaluating) / steps;
            let computing = alone * own as f64 / micro_batches.max(1) as f64;
            let hidden = match strategy {
                Strategy::Ddp => BACKWARD * computing / own.max(1) as f64,
                Strategy::Fsdp | Strategy::Hybrid => computing,
            };
            let exchanging = (beside - hidden).max(0.0) + after;
            let run = steps * (computing + exchanging) + seconds * evaluating / ranks.all() as f64;
            Time { alone, computing, exchanging, run }
        });
        let mut problems: Vec<String> =
            check_deal(&outline.config, ranks.all()).err().map(|problem| problem.to_string()).into_iter().collect();
        problems.extend(does_not_fit(ranks, outline, places));
        let gradient = if payload.trains { 4.0 } else { 0.0 };
        let summed_bytes = gradient * (payload.layers + payload.outside) + 4.0 * payload.replicated;
        let memory_bytes = places.memory.total_bytes();
        RankPlan { ranks, micro_batches, memory_bytes, traffic, summed_bytes, time, problems }
    }

    /// Why the ranks cannot do it.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn text(&self) -> String {
        let (all, each) = (self.ranks.all(), counted(self.ranks.gpus as u64, "GPU"));
        let nodes = counted(self.ranks.nodes as u64, "node");
        let holds = match self.ranks.strategy {
            Strategy::Ddp => "each holds the whole run",
            Strategy::Fsdp => "each holds its shard",
            Strategy::Hybrid => "sharded within each machine",
        };
        let mut text = format!(
            "{all} ranks ({nodes} × {each}), dist.strategy = \"{}\": {holds}, {}\n\
             each step: {} dealt out, {} at most to a rank; {} of gradients summed, each rank sends {}\n",
            self.ranks.strategy.name(),
            bytes(self.memory_bytes),
            counted(self.micro_batches as u64, "micro-batch"),
            self.micro_batches.div_ceil(all),
            bytes(self.summed_bytes),
            self.sent(),
        );
        text.push_str(&match (&self.time, self.lacks_rate()) {
            (Some(time), _) => {
                let faster = time.alone / (time.computing + time.exchanging);
                format!(
                    "time on {all} ranks: about {}; a step {:.3} s computing and {:.3} s waiting for the exchange, {faster:.1} \
                     times as fast as one ({:.0} %)\n",
                    estimated(time.run),
                    time.computing,
                    time.exchanging,
                    100.0 * faster / all as f64
                )
            }
            (None, Some((option, between))) => {
                format!("time on {all} ranks: not known; give {option} RATE, the bandwidth between {between}\n")
            }
            (None, None) => format!("time on {all} ranks: not known, as that of one is not\n"),
        });
        text
    }

    /// What a rank sends, and over which links where there are two kinds.
    fn sent(&self) -> String {
        let [within, across] = [self.traffic.within, self.traffic.across].map(|sent| sent.beside + sent.after);
        match (within > 0.0, across > 0.0) {
            (true, true) => format!("{} within its machine and {} to others", bytes(within), bytes(across)),
            _ => bytes(within + across),
        }
    }

    /// The option that is missing for a time, and between what it is the bandwidth.
    fn lacks_rate(&self) -> Option<(&'static str, &'static str)> {
        let needs = |sent: Sent| sent.beside + sent.after > 0.0;
        if needs(self.traffic.across) && self.ranks.network.is_none() {
            return Some(("--network", "nodes"));
        }
        (needs(self.traffic.within) && self.ranks.link.is_none()).then_some(("--link", "GPUs"))
    }

    pub(super) fn json(&self) -> Value {
        let time = self.time.as_ref().map(|time| {
            json!({ "step_seconds_alone": time.alone, "computing_seconds": time.computing,
                    "exchanging_seconds": time.exchanging, "run_seconds": time.run,
                    "speedup": time.alone / (time.computing + time.exchanging) })
        });
        let sent = |sent: Sent| json!({ "beside_bytes": sent.beside, "after_bytes": sent.after });
        json!({
            "ranks": self.ranks.all(),
            "nodes": self.ranks.nodes,
            "gpus": self.ranks.gpus,
            "strategy": self.ranks.strategy,
            "memory_bytes": self.memory_bytes,
            "micro_batches": self.micro_batches,
            "summed_bytes": self.summed_bytes,
            "sent_bytes": self.traffic.total(),
            "sent_within_machine": sent(self.traffic.within),
            "sent_across_machines": sent(self.traffic.across),
            "link_bytes_per_second": self.ranks.link,
            "network_bytes_per_second": self.ranks.network,
            "time": time,
            "problems": self.problems,
        })
    }
}

/// What the run has to exchange.
fn payload(outline: &Outline) -> Payload {
    let (model, config) = (&outline.model, &outline.config);
    let count = ParameterCount::of(model);
    let outside = (count.embedding + count.head + model.hidden_size) as f64;
    let masks: i64 =
        outline.spec.as_ref().map_or(0, |spec| spec.modules().iter().map(|module| module.units() + 2).sum());
    let routers = config.lte.as_ref().map_or(0, |lte| {
        let layers = (0..model.num_hidden_layers).filter(|layer| lte.routes(*layer)).count();
        RoutedCount::new(model, layers as i64, lte.expert_size).parameters
    });
    Payload {
        layers: count.total() as f64 - outside,
        outside,
        replicated: masks as f64 + routers as f64,
        element: compute_dtype(config.run.dtype, outline.device).bytes() as f64,
        trains: !config.freezes_weights(),
    }
}

/// Why a rank's share does not fit, and what would.
fn does_not_fit(ranks: Ranks, outline: &Outline, places: &Places) -> Option<String> {
    let (name, remedy) = places.lacking()?;
    let with = remedy.map_or(String::new(), |keys| format!("; with {} it fits here", keys.join(", ")));
    let (_, bytes) = places.device()?;
    let fits = |shard_ranks: usize| {
        let (model, config, device) = (&outline.model, &outline.config, outline.device);
        let whole = MemoryEstimate::new(model, outline.teacher.as_ref(), config, outline.row_tokens, device);
        Fit::of(&whole.sharded(shard_ranks, model, config, device), bytes, device) == Fit::Yes
    };
    let other = |strategy: Strategy| format!("dist.strategy = \"{}\" does", strategy.name());
    let all = ranks.all();
    let remedy = match ranks.strategy {
        Strategy::Ddp | Strategy::Hybrid if fits(all) => other(Strategy::Fsdp),
        _ => match (1..).map(|power| all << power).take_while(|more| *more <= MOST_RANKS).find(|more| fits(*more)) {
            Some(more) => format!("\"fsdp\" on {more} ranks does"),
            None => elsewhere(places),
        },
    };
    let holds = match ranks.strategy {
        Strategy::Ddp => "each rank holds the whole run",
        Strategy::Fsdp | Strategy::Hybrid => "each rank holds its shard, and whole layers while they run",
    };
    Some(format!(
        "{holds} (dist.strategy = \"{}\"), which does not fit in {name}: {remedy}{with}",
        ranks.strategy.name()
    ))
}

/// The cards that a rank would fit.
fn elsewhere(places: &Places) -> String {
    let cards: Vec<&str> = CARDS.iter().filter(|card| places.fit(card) == Fit::Yes).map(|card| card.name).collect();
    match cards.as_slice() {
        [] => "more ranks do not help, and it fits no card that is known here".to_string(),
        names => format!("more ranks do not help; it fits {}", names.join(", ")),
    }
}
