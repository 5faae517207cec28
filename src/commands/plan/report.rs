//! The answer of `plan`, as text and as JSON.

use super::advice::{self, written_dtype};
use super::experts::ExpertPlan;
use super::mix::MixReach;
use super::places::Places;
use super::ranks::{RankPlan, Ranks};
use super::rows::{self, DomainRows};
use crate::cli::arguments::Plan;
use crate::cli::table::{Table, bytes, grouped};
use crate::commands::inspect::{shape_json, shape_table};
use crate::commands::run_cost::RunCost;
use crate::commands::speed::{CARD_UTILISATION, Place};
use crate::config::PruneMethod;
use crate::export::OneShotCost;
use crate::files::available_bytes;
use crate::hf::ModelConfig;
use crate::model::count::{ParameterCount, training_flops_per_token};
use crate::native::runtime::cards::Card;
use crate::native::runtime::device;
use crate::run_dir::STEPS_AT_ONCE;
use crate::train::Outline;
use crate::train::memory::checkpoint_bytes;
use crate::train::setup::compute_dtype;
use serde_json::{Value, json};

/// What a limit on the process has to leave room for.
const BESIDE_THE_PEAK: &str =
    "  without what the program itself takes (libtorch, mapped files): 0.1 to 0.4 GiB more where that was measured\n";

/// The answer.
pub(super) struct PlanReport {
    small: Option<ModelConfig>,
    domains: Vec<DomainRows>,
    mix: Option<MixReach>,
    experts: Option<ExpertPlan>,
    places: Places,
    checkpoint_bytes: f64,
    written_bytes: f64,
    cost: RunCost,
    seconds: Option<(f64, String)>,
    ranks: Option<RankPlan>,
    /// Of the outline and of the advice.
    pub(super) warnings: Vec<String>,
}

/// The time at the rate that this machine multiplies at, where the run would be here.
fn measured_seconds(outline: &Outline, flops: f64, busy: &mut Option<String>) -> Option<(f64, String)> {
    let place = Place::here(outline.config.run.dtype).ok().filter(|place| place.device == outline.device)?;
    let hint = if outline.config.cuts_at_once() { "" } else { "; `shearling bench step --config FILE` times steps" };
    let said = format!("{}, measured here{hint}", place.rate_said);
    busy.clone_from(&place.busy);
    Some((flops / place.flops?, said))
}

impl PlanReport {
    pub(super) fn new(outline: &Outline, arguments: &Plan, card: Option<&Card>) -> PlanReport {
        let config = &outline.config;
        let small = outline.target();
        let domains = DomainRows::of(outline);
        let cost = RunCost::of(outline);
        let mut busy = None;
        let seconds = match (arguments.tokens_per_second, arguments.tflops, card) {
            (Some(rate), ..) => {
                let training = training_flops_per_token(&outline.model, outline.row_tokens);
                let per_token = if cost.tokens > 0.0 { cost.train_flops / cost.tokens } else { training };
                Some((cost.flops() / per_token / rate, "at the given rate".to_string()))
            }
            (None, Some(tflops), _) => Some((cost.flops() / (tflops * 1e12), "at the given rate".to_string())),
            (None, None, Some(card)) => {
                let rate = CARD_UTILISATION * card.bf16_tflops;
                let said = format!(
                    "on one {} at {rate:.0} TFLOP/s, 43 % of its peak as measured with a 1.3B on an H200",
                    card.name
                );
                Some((cost.flops() / (rate * 1e12), said))
            }
            (None, None, None) => measured_seconds(outline, cost.flops(), &mut busy),
        };
        let ranks = Ranks::asked(outline, arguments);
        let shard_ranks = ranks.as_ref().map_or(1, Ranks::shard_ranks);
        let places = Places::new(outline, &cost, card, shard_ranks);
        let checkpoint_bytes = if cost.one_shot.is_some() { 0.0 } else { checkpoint_bytes(&outline.model, config) };
        let written = ParameterCount::of(small.as_ref().unwrap_or(&outline.model)).total() as f64;
        let element_bytes = written_dtype(outline).1.bytes() as i64;
        let written_bytes = written * element_bytes as f64;
        let experts = ExpertPlan::of(outline, element_bytes);
        let mut warnings = outline.findings.warnings.clone();
        let mix = MixReach::of(outline);
        warnings.extend(advice::warnings(outline, small.as_ref(), &domains, mix.as_ref()));
        warnings.extend(mix.as_ref().and_then(MixReach::warning));
        warnings.extend(places.warning());
        let alone = seconds.as_ref().map(|(seconds, _)| *seconds);
        let ranks = ranks.map(|ranks| RankPlan::new(ranks, outline, &places, &cost, alone));
        let mut report = PlanReport {
            small,
            domains,
            mix,
            experts,
            places,
            checkpoint_bytes,
            written_bytes,
            cost,
            seconds,
            ranks,
            warnings,
        };
        report.warnings.extend(busy);
        report.warnings.extend(report.full_disk(outline));
        report.warnings.extend(report.long_evaluations());
        report
    }

    /// Why many ranks cannot do it.
    pub(super) fn rank_problems(&self) -> Vec<String> {
        self.ranks.as_ref().map_or_else(Vec::new, |ranks| ranks.problems().to_vec())
    }

    /// Bytes that a run leaves on its disk at most: the last and the best checkpoint, one being written, the model; and
    /// what a cut at once needs until it is done.
    fn disk_bytes(&self) -> f64 {
        let scratch = self.cost.one_shot.map_or(0.0, |cost| cost.scratch_bytes);
        f64::from(STEPS_AT_ONCE) * self.checkpoint_bytes + self.written_bytes + scratch
    }

    fn full_disk(&self, outline: &Outline) -> Option<String> {
        let folder = &outline.config.run.directory;
        let free = folder.ancestors().find_map(|folder| available_bytes(folder).ok())?;
        ((free as f64) < self.disk_bytes()).then(|| {
            format!(
                "the run may take {} of disk, {} are free at {} (run.directory)",
                bytes(self.disk_bytes()),
                bytes(free as f64),
                folder.display()
            )
        })
    }

    fn long_evaluations(&self) -> Option<String> {
        let share = self.cost.eval_flops.filter(|_| self.cost.train_flops > 0.0)? / self.cost.train_flops;
        (share > 0.5).then(|| {
            format!(
                "evaluations take {:.0} % of the time of training; raise eval.every_steps or lower eval.rows_per_domain",
                100.0 * share
            )
        })
    }

    pub(super) fn text(&self, outline: &Outline) -> String {
        let mut text = format!("{}\n", self.shapes(outline));
        if outline.config.cuts_at_once() && self.cost.one_shot.is_none() {
            // Without a target that can be reached there is no cut to tell of.
            text.push_str(&list("prune would refuse this run", &outline.findings.problems));
            return text;
        }
        if !self.domains.is_empty() {
            text.push_str(&format!("{}\n", rows::table(&self.domains)));
        }
        text.push_str(&self.mix.as_ref().and_then(MixReach::line).unwrap_or_default());
        text.push_str(&match &self.cost.one_shot {
            Some(cost) => self.at_once(outline, cost),
            None if self.cost.tokens > 0.0 => self.training(outline),
            None => String::new(),
        });
        text.push_str(&self.experts.as_ref().map(ExpertPlan::text).unwrap_or_default());
        text.push_str(&match &self.seconds {
            Some((seconds, said)) => {
                let rate = self.cost.tokens_per_second(*seconds);
                let rate = rate.map_or(String::new(), |rate| format!(" ({} tokens/s in steps)", grouped(rate as i64)));
                format!("time: about {}{rate}, {said}\n", self.cost.time_said(*seconds))
            }
            None => "time: not known here; give --tokens-per-second, --tflops or --card\n".to_string(),
        });
        text.push_str(&match &self.cost.one_shot {
            Some(_) => {
                format!("peak memory, predicted ({}): {}\n", computed(outline), bytes(self.places.memory.total_bytes()))
            }
            None => format!("peak memory, predicted ({}): {}\n", computed(outline), self.places.memory),
        });
        if !outline.device.is_cuda() {
            text.push_str(BESIDE_THE_PEAK);
        }
        text.push_str(&self.places.text(outline.device));
        text.push_str(&self.ranks.as_ref().map(RankPlan::text).unwrap_or_default());
        text.push_str(&match &self.cost.one_shot {
            Some(cost) if cost.scratch_bytes > 0.0 => {
                format!(
                    "disk: {} for the source in its principal basis, until the cut is written\n",
                    bytes(cost.scratch_bytes)
                )
            }
            Some(_) => String::new(),
            None => format!(
                "disk: {} per checkpoint; the last and the best are kept, {STEPS_AT_ONCE} lie there while one is written\n",
                bytes(self.checkpoint_bytes)
            ),
        });
        let (_, dtype) = written_dtype(outline);
        text.push_str(&format!("written model: {}, {}\n", dtype.name(), bytes(self.written_bytes)));
        text.push_str(&list("not checked", &outline.findings.not_checked));
        let stage = outline.stage.command();
        text.push_str(&list(&format!("{stage} would refuse this run"), &outline.findings.problems));
        text
    }

    /// What a run trains and evaluates.
    fn training(&self, outline: &Outline) -> String {
        let train = &outline.config.train;
        let micro = train.batch_rows / train.micro_batch().max(1);
        let assumed = if outline.dataset.is_some() { "" } else { " (assumed)" };
        let mut text = format!(
            "{} steps × {} rows ({micro} micro-batch{} of {}) × {} tokens{assumed} = {} tokens\n",
            grouped(train.steps),
            train.batch_rows,
            if micro == 1 { "" } else { "es" },
            train.micro_batch(),
            grouped(outline.row_tokens),
            grouped(self.cost.tokens as i64)
        );
        text.push_str(&match self.cost.eval_flops {
            Some(flops) => format!(
                "FLOPs: {:.3e} training + {flops:.3e} in {} evaluations ({:.1} % of the training)\n",
                self.cost.train_flops,
                self.cost.evaluations,
                100.0 * flops / self.cost.train_flops
            ),
            None => format!("FLOPs: {:.3e} training; evaluations come on top\n", self.cost.train_flops),
        });
        if let Some(flops) = self.cost.teacher_flops {
            let share = 100.0 * flops / self.cost.train_flops;
            text.push_str(&format!("of the training FLOPs the teacher's forward takes {flops:.3e} ({share:.1} %)\n"));
        }
        text
    }

    /// What a cut at once measures and compares.
    fn at_once(&self, outline: &Outline, cost: &OneShotCost) -> String {
        let (config, table) = (&outline.config, &outline.config.prune);
        let basis = if cost.basis_flops > 0.0 { ", hidden dimensions in the principal basis" } else { "" };
        let assumed = if outline.dataset.is_some() { "" } else { " (assumed)" };
        let measured = match config.prune.method() {
            PruneMethod::Magnitude if cost.basis_flops == 0.0 => String::new(),
            _ => format!(", measured on {} rows × {} tokens{assumed}", table.calibration_rows, outline.row_tokens),
        };
        format!(
            "cut at once by {}{basis}{measured}; no step is taken, no checkpoint written\n\
             FLOPs: {:.3e} scores and loss of the source + {:.3e} basis + {:.3e} comparison in fp64, where a product takes as long as four\n",
            table.method().name(),
            cost.scoring_flops,
            cost.basis_flops,
            cost.check_flops
        )
    }

    fn shapes(&self, outline: &Outline) -> String {
        let mut models = vec![("now", &outline.model)];
        models.extend(self.small.as_ref().map(|small| ("target", small)));
        models.extend(outline.teacher.as_ref().map(|teacher| ("teacher", teacher)));
        let mut text = shape_table(&models).to_string();
        if let Some(spec) = &outline.spec {
            let (before, after) = (spec.prunable_params(), spec.target_prunable_params());
            let sparsity = 100.0 * (1.0 - after as f64 / before as f64);
            let first = if self.cost.one_shot.is_some() { "kind of unit" } else { "mask" };
            let mut table = Table::new([first, "rows", "units", "target"]);
            for module in spec.modules() {
                let numbers = [module.rows, module.size, module.target].map(grouped);
                table.row(std::iter::once(module.module.to_string()).chain(numbers));
            }
            let (before, after) = (grouped(before), grouped(after));
            text.push_str(&format!("\n{table}prunable parameters {before} → {after} (sparsity {sparsity:.1} %)\n"));
        }
        text
    }

    pub(super) fn json(&self, outline: &Outline) -> Value {
        let model = |model: &ModelConfig| {
            json!({ "shape": shape_json(model), "parameters": ParameterCount::of(model),
                    "total_parameters": ParameterCount::of(model).total() })
        };
        let (_, written) = written_dtype(outline);
        json!({
            "stage": outline.stage.name(),
            "now": model(&outline.model),
            "target": self.small.as_ref().map(model),
            "teacher": outline.teacher.as_ref().map(model),
            "masks": outline.spec.as_ref().map(|spec| spec.modules()),
            "domains": self.domains.iter().map(DomainRows::json).collect::<Vec<_>>(),
            "experts": self.experts.as_ref().map(ExpertPlan::json),
            "mixer": self.mix.as_ref().map(MixReach::json),
            "steps": outline.config.train.steps,
            "row_tokens": outline.row_tokens,
            "tokens": self.cost.tokens,
            "training_flops": self.cost.train_flops,
            "teacher_flops": self.cost.teacher_flops,
            "evaluation_flops": self.cost.eval_flops,
            "one_shot": self.cost.one_shot,
            "seconds": self.seconds.as_ref().map(|(seconds, _)| seconds),
            "device": device::name(outline.device),
            "dtype": compute_dtype(outline.config.run.dtype, outline.device),
            "memory": self.places.memory,
            "memory_bytes": self.places.memory.total_bytes(),
            "fits": self.places.json(),
            "checkpoint_bytes": self.checkpoint_bytes,
            "written_dtype": written,
            "written_bytes": self.written_bytes,
            "disk_bytes": self.disk_bytes(),
            "ranks": self.ranks.as_ref().map(RankPlan::json),
            "problems": outline.findings.problems,
            "warnings": self.warnings,
            "not_checked": outline.findings.not_checked,
        })
    }
}

fn computed(outline: &Outline) -> String {
    let place = if outline.device.is_cuda() { "GPU" } else { "CPU" };
    format!("{} on a {place}", compute_dtype(outline.config.run.dtype, outline.device).name())
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("{title}:\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>())
}
