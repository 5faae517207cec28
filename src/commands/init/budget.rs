//! How long to prune and to continue, and in which batches, for so many FLOPs or tokens.
//!
//! Known points: Sheared-LLaMA prunes a 7B for 3,200 steps of 131 K tokens at 1e-4 and continues for 48,000 of 1.05 M at
//! 1e-4; a 135M was pruned well enough in 300 steps of 16 K at 5e-4 and continued at 1e-3. Between them:
//!
//! - A cut at once costs next to nothing: all of it continues. Where masks are learned, a third of the compute prunes, at
//!   most the published 0.42 B tokens; at least 300 steps under the published preset, below which masks do not settle
//!   (`train::settling`).
//! - A batch is as large as leaves 600 steps, at most the published one: more steps help masks and mixer more than
//!   less noise does.
//! - Learning rates go with a power of the source's parameters, through both points. That of the continuation also goes
//!   with the square root of a batch that is smaller than the smallest of them: with 1,024 tokens a step 1e-3 first undid
//!   what pruning had kept, where 2e-4 recovered.

use crate::model::ModelConfig;
use crate::model::count::{ParameterCount, training_flops_per_token};

/// Tokens of the published pruning, and per step.
const PRUNE_TOKENS: f64 = 0.42e9;
const PRUNE_STEP_TOKENS: f64 = 131_072.0;
/// Tokens per step of the published continuation.
const CONTINUE_STEP_TOKENS: f64 = 1_048_576.0;
/// Share of the compute that prunes.
const PRUNE_SHARE: f64 = 1.0 / 3.0;
/// Steps that a stage has at least, and that a batch should leave.
pub(in crate::commands) const LEAST_PRUNE_STEPS: u64 = 300;
/// Of masks with an exact count, which have decided after any number of steps.
pub(in crate::commands) const LEAST_TOP_K_STEPS: u64 = 40;
pub(in crate::commands) const LEAST_CONTINUE_STEPS: u64 = 100;
const WANTED_STEPS: f64 = 600.0;
/// Rows per step at least.
const LEAST_ROWS: usize = 4;
/// Parameters of the published source, whose learning rate is 1e-4 in both stages.
const PUBLISHED_PARAMETERS: f64 = 6.74e9;
/// Powers of the parameters that the learning rates fall with: 5e-4 and 1e-3 at 135 M.
const PRUNE_RATE_POWER: f64 = 0.41;
const CONTINUE_RATE_POWER: f64 = 0.59;
/// Tokens per step of the smallest batch for which the learning rate of the continuation is known.
const KNOWN_STEP_TOKENS: f64 = 16_384.0;
/// What evaluations and checkpoints take of a budget beside the steps; the files are told what they really do.
const OVERHEAD: f64 = 1.2;

/// Part of the budget that a cut at once may take, and the fewest rows that it is left with to keep to that: of still fewer the
/// scores are a matter of chance, and without a row of each domain nothing is compared.
pub(in crate::commands) const CUT_SHARE: f64 = 0.25;
const LEAST_CALIBRATION_ROWS: usize = 32;
const LEAST_CHECK_ROWS: usize = 1;

/// Rows that a cut at once reads: in all to score units, and of each domain to compare the result with its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) struct CutRows {
    pub(in crate::commands) calibration: usize,
    pub(in crate::commands) check: usize,
}

impl CutRows {
    /// The next fewer ones, if there are any: first of the comparison, which is in fp64 and takes the most.
    pub(in crate::commands) fn fewer(self) -> Option<CutRows> {
        if self.check > LEAST_CHECK_ROWS {
            return Some(CutRows { check: (self.check / 2).max(LEAST_CHECK_ROWS), ..self });
        }
        let calibration = (self.calibration / 2).max(LEAST_CALIBRATION_ROWS);
        (calibration < self.calibration).then_some(CutRows { calibration, ..self })
    }
}

/// What there is to spend on both stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::commands) enum Budget {
    /// FLOPs on the device.
    Flops(f64),
    /// Tokens.
    Tokens(f64),
}

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::commands) struct Stage {
    pub(in crate::commands) steps: u64,
    pub(in crate::commands) batch_rows: usize,
    pub(in crate::commands) learning_rate: f64,
    pub(in crate::commands) flops: f64,
}

impl Stage {
    pub(in crate::commands) fn rows(&self) -> u64 {
        self.steps * self.batch_rows as u64
    }
}

/// Both stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::commands) struct Stages {
    pub(in crate::commands) prune: Stage,
    pub(in crate::commands) next: Stage,
    /// Whether the budget was less than the fewest steps take.
    pub(in crate::commands) exceeded: bool,
}

impl Stages {
    /// For a source that is cut at once with `calibration_rows` rows: the whole budget continues.
    pub(in crate::commands) fn after_a_cut(
        source: &ModelConfig,
        target: &ModelConfig,
        tokens: i64,
        budget: Budget,
        calibration_rows: usize,
    ) -> Stages {
        let stages = Stages::split(source, target, tokens, budget, 0.0, 0);
        let prune = Stage { steps: 1, batch_rows: calibration_rows, learning_rate: 0.0, flops: 0.0 };
        Stages { prune, ..stages }
    }

    /// Of a source and a target with rows of `tokens`, masks being learned.
    pub(in crate::commands) fn new(
        source: &ModelConfig,
        target: &ModelConfig,
        tokens: i64,
        budget: Budget,
        least_steps: u64,
    ) -> Stages {
        Stages::split(source, target, tokens, budget, PRUNE_SHARE, least_steps)
    }

    /// `share` of the budget prunes.
    fn split(
        source: &ModelConfig,
        target: &ModelConfig,
        tokens: i64,
        budget: Budget,
        share: f64,
        least_steps: u64,
    ) -> Stages {
        let per_token = |model| training_flops_per_token(model, tokens);
        let (of_source, of_target) = (per_token(source), per_token(target));
        let (prune_tokens, next_tokens) = match budget {
            Budget::Tokens(all) => {
                let first = (all * share).min(PRUNE_TOKENS);
                (first, all - first)
            }
            Budget::Flops(all) => {
                let all = all / OVERHEAD;
                let first = (all * share / of_source).min(PRUNE_TOKENS);
                (first, (all - first * of_source) / of_target)
            }
        };
        let parameters = ParameterCount::of(source).total() as f64;
        let tokens = tokens as f64;
        let stage = |all_tokens: f64, step_tokens: f64, least: u64, learning_rate: f64, flops: f64| {
            let batch_rows = batch_rows(all_tokens / tokens, step_tokens / tokens);
            let steps = all_tokens / tokens / batch_rows as f64;
            let steps = round(steps.max(least as f64));
            let flops = steps as f64 * batch_rows as f64 * tokens * flops;
            Stage { steps, batch_rows, learning_rate, flops }
        };
        let rates = [PRUNE_RATE_POWER, CONTINUE_RATE_POWER].map(|power| learning_rate(parameters, power));
        let prune = stage(prune_tokens, PRUNE_STEP_TOKENS, least_steps, rates[0], of_source);
        let mut next = stage(next_tokens, CONTINUE_STEP_TOKENS, LEAST_CONTINUE_STEPS, rates[1], of_target);
        let small = (next.batch_rows as f64 * tokens / KNOWN_STEP_TOKENS).min(1.0).sqrt();
        next.learning_rate = one_digit(next.learning_rate * small);
        let affordable = |all: f64, stage: &Stage| all / tokens / stage.batch_rows as f64;
        let exceeded = affordable(prune_tokens, &prune) < 0.9 * least_steps as f64
            || affordable(next_tokens, &next) < 0.9 * LEAST_CONTINUE_STEPS as f64;
        Stages { prune, next, exceeded }
    }
}

/// Peak learning rates that a continuation of a model with so many parameters usually has, from low to high: `init` chooses
/// between them, less for small batches.
pub(in crate::commands) fn usual_rates(parameters: f64) -> [f64; 2] {
    let chosen = learning_rate(parameters, CONTINUE_RATE_POWER);
    [chosen / 30.0, chosen * 5.0].map(one_digit)
}

fn learning_rate(parameters: f64, power: f64) -> f64 {
    one_digit(1e-4 * (PUBLISHED_PARAMETERS / parameters).max(1.0).powf(power)).min(2e-3)
}

/// The largest power of two that leaves the wanted steps, between the fewest rows and the published batch.
fn batch_rows(rows: f64, published: f64) -> usize {
    let mut batch = LEAST_ROWS;
    while (2 * batch) as f64 * WANTED_STEPS <= rows && (2 * batch) as f64 <= published {
        batch *= 2;
    }
    batch
}

/// Two digits, so that a measured rate leaves no false precision.
fn round(steps: f64) -> u64 {
    let unit = 10f64.powf(steps.log10().floor() - 1.0).max(1.0);
    ((steps / unit).round() * unit) as u64
}

fn one_digit(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.log10().floor());
    // Through text, so that 5 · 1e-4 is what is read as 5e-4.
    format!("{}e{}", (rate / unit).round(), unit.log10().round()).parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_rates_hold_what_is_known_to_work() {
        // The published continuation, ours of a 135M, tiny models of the tests.
        for (parameters, rates) in
            [(1.3e9, [1e-4, 1e-4]), (6.74e9, [1e-4, 3e-4]), (135e6, [2e-4, 1e-3]), (26e3, [1e-3, 3e-3])]
        {
            let [low, high] = usual_rates(parameters);
            assert!(rates.iter().all(|rate| low <= *rate && *rate <= high), "{parameters}: {low} to {high}");
            assert!(high < 0.05 && low > 1e-6);
        }
        assert_eq!(usual_rates(6.74e9), [3e-6, 5e-4]);
    }

    use crate::hf::RawConfig;
    use std::path::Path;

    fn llama2_7b() -> ModelConfig {
        let config = include_str!("../../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        RawConfig::from_raw(raw, Path::new("config.json")).model().unwrap()
    }

    fn small(model: &ModelConfig) -> ModelConfig {
        let mut small = model.clone();
        (small.hidden_size, small.intermediate_size, small.num_hidden_layers) = (576, 1536, 30);
        (small.num_attention_heads, small.num_key_value_heads, small.head_dim) = (9, 3, 64);
        (small.vocab_size, small.tie_word_embeddings) = (49_152, true);
        small.sliding_window.truncate(30);
        small
    }

    #[test]
    fn a_large_budget_is_the_published_recipe() {
        let model = llama2_7b();
        let stages = Stages::new(&model, &small(&model), 4096, Budget::Tokens(50e9), LEAST_PRUNE_STEPS);
        assert_eq!((stages.prune.steps, stages.prune.batch_rows, stages.prune.learning_rate), (3200, 32, 1e-4));
        assert_eq!((stages.next.batch_rows, stages.next.learning_rate), (256, 1e-4));
        assert!((47_000..=48_000).contains(&stages.next.steps), "{stages:?}");
        assert!(!stages.exceeded);
    }

    #[test]
    fn a_small_model_has_high_rates_and_a_small_budget_small_batches() {
        let source = small(&llama2_7b());
        let stages = Stages::new(&source, &source, 1024, Budget::Flops(0.5e12 * 3600.0), LEAST_PRUNE_STEPS);
        assert_eq!((stages.prune.batch_rows, stages.next.batch_rows), (4, 4));
        // Half of 1e-3: a quarter of the tokens per step.
        assert_eq!((stages.prune.learning_rate, stages.next.learning_rate), (5e-4, 5e-4));
        let known = Stages::new(&source, &source, 1024, Budget::Tokens(40e6), LEAST_PRUNE_STEPS);
        assert_eq!((known.prune.batch_rows, known.next.batch_rows), (16, 32));
        assert_eq!((known.prune.learning_rate, known.next.learning_rate), (5e-4, 1e-3));
        assert!(stages.prune.steps >= 300 && stages.prune.steps < 400, "{stages:?}");
        let all = (stages.prune.flops + stages.next.flops) * OVERHEAD / 0.5e12;
        assert!((0.5..2.0).contains(&(all / 3600.0)), "{all}");
    }

    #[test]
    fn a_cut_at_once_leaves_the_budget_to_what_comes_after() {
        let model = llama2_7b();
        let budget = Budget::Flops(1e19);
        let (learned, cut) = (
            Stages::new(&model, &small(&model), 4096, budget, LEAST_PRUNE_STEPS),
            Stages::after_a_cut(&model, &small(&model), 4096, budget, 128),
        );
        assert_eq!((cut.prune.rows(), cut.prune.flops, cut.exceeded), (128, 0.0, false));
        let tokens = |stage: Stage| stage.rows() as f64;
        assert!(tokens(cut.next) > 1.4 * tokens(learned.next), "{cut:?} {learned:?}");
    }

    #[test]
    fn a_cut_that_takes_too_much_reads_fewer_rows() {
        let rows = std::iter::successors(Some(CutRows { calibration: 128, check: 2 }), |rows| rows.fewer());
        let rows: Vec<(usize, usize)> = rows.map(|rows| (rows.calibration, rows.check)).collect();
        assert_eq!(rows, [(128, 2), (128, 1), (64, 1), (32, 1)]);
        assert_eq!(CutRows { calibration: 20, check: 1 }.fewer(), None, "never more");
    }

    #[test]
    fn masks_have_their_steps_whatever_the_budget() {
        let model = llama2_7b();
        let stages = Stages::new(&model, &small(&model), 4096, Budget::Flops(1e15), LEAST_PRUNE_STEPS);
        assert_eq!((stages.prune.steps, stages.prune.batch_rows, stages.next.steps), (300, 4, 100));
        assert!(stages.exceeded);
    }

    #[test]
    fn numbers_have_as_many_digits_as_they_deserve() {
        assert_eq!([1234.5, 299.6, 47.2].map(round), [1200, 300, 47]);
        assert_eq!([4.97e-4, 1.02e-4, 9.9e-4].map(one_digit), [5e-4, 1e-4, 1e-3]);
    }
}
