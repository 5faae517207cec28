//! Whether a prune run leaves its masks time to decide.
//!
//! Adam moves a log-odds value by about its learning rate a step. Once the target has stopped growing, the rates of the
//! steps that are left say how often a value could cross its whole range:
//!
//! ```text
//! crossings = Σ_{W ≤ s < N} masks.learning_rate · factor(s)  /  (clamp_high − clamp_low)
//! ```
//!
//! It has to do so many times, back and forth: gate noise blurs every step, and the constraint overshoots and returns.

use super::schedule::Schedule;
use crate::config::RunConfig;
use shearling_masks::Gating;

/// Fewer crossings than this leave many units undecided. Measured: 80 steps at rate 1 (3.4 crossings) left 55 % of the
/// kept intermediate units half-alive, 300 (13) left 9 %; the published recipe has 138.
pub const ENOUGH_CROSSINGS: f64 = 12.0;
/// Crossings of a drawn gate that one of a gate without noise is worth: three suffice on the toy of
/// `masks/tests/integration/deterministic.rs`.
const UNDISTURBED: f64 = 4.0;

/// How often a log-odds value can cross its range after the target's warm-up.
pub fn crossings(config: &RunConfig) -> f64 {
    let train = &config.train;
    let (warmup_steps, steps, final_fraction) = (train.warmup_steps, train.steps, train.final_lr_fraction);
    let schedule = Schedule { warmup_steps, steps, final_fraction };
    let factors: f64 = (config.masks.target_warmup(steps)..steps).map(|step| schedule.factor(step)).sum();
    match config.masks.gating(steps) {
        Gating::HardConcrete(constants) => {
            config.masks.peak_learning_rate(steps) * factors / (constants.clamp_high - constants.clamp_low)
        }
        // From open to closed; nothing draws such a gate back and forth.
        Gating::Deterministic(_) => config.masks.peak_learning_rate(steps) * factors * UNDISTURBED,
        // Decided by the schedule, whatever the rates.
        Gating::TopK(_) => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: u64, masks: &str) -> f64 {
        let text = format!(
            "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
             [train]\nsteps = {steps}\nbatch_rows = 2\nlearning_rate = 0.1\nwarmup_steps = {}\n[masks]\n{masks}",
            steps / 10
        );
        crossings(&crate::config::parse(&text, "test", &[]).unwrap())
    }

    #[test]
    fn the_published_recipe_has_plenty_and_a_handful_of_steps_has_none() {
        assert!((135.0..140.0).contains(&of(3200, "")), "{}", of(3200, ""));
        assert!((3.0..4.0).contains(&of(80, "")), "{}", of(80, ""));
        assert!(of(300, "") > ENOUGH_CROSSINGS && of(240, "") < ENOUGH_CROSSINGS);
    }

    #[test]
    fn a_small_rate_and_a_long_warm_up_take_it_away() {
        assert!((of(3200, "learning_rate = 0.1") * 10.0 - of(3200, "")).abs() < 1e-9);
        assert_eq!(of(100, "warmup_steps = 100"), 0.0);
        for steps in [60, 300, 3000] {
            assert!(of(steps, "preset = 'deterministic'") > ENOUGH_CROSSINGS, "the default rate follows the steps");
        }
        assert!(of(300, "preset = 'deterministic'\nlearning_rate = 0.001") < ENOUGH_CROSSINGS);
    }
}
