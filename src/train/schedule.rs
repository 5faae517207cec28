//! Learning-rate schedule: linear warm-up, then a cosine to a floor; one factor for all groups.
//!
//! ```text
//! factor(s) = (s+1)/W                                           s < W
//!           = f + (1−f)·½(1 + cos(π (s−W)/(N−W)))               W ≤ s < N
//! ```
//!
//! The original's first step has factor 0 and does nothing; ours starts at 1/W.

use crate::config::Train;
use std::f64::consts::PI;

/// Shape of the schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// W.
    pub warmup_steps: u64,
    /// N.
    pub steps: u64,
    /// f.
    pub final_fraction: f64,
}

impl Schedule {
    /// The schedule of a configuration.
    pub fn of(train: &Train) -> Schedule {
        let Train { warmup_steps, steps, final_lr_fraction: final_fraction, .. } = *train;
        Schedule { warmup_steps, steps, final_fraction }
    }

    /// Factor on the peak learning rate of the step with 0-based index `step`.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_ends_at_the_floor() {
        let schedule = Schedule { warmup_steps: 10, steps: 110, final_fraction: 0.1 };
        assert_eq!(schedule.factor(0), 0.1);
        assert_eq!(schedule.factor(9), 1.0);
        assert_eq!(schedule.factor(10), 1.0);
        assert!((schedule.factor(60) - 0.55).abs() < 1e-12);
        assert!((schedule.factor(110) - 0.1).abs() < 1e-12);
        assert!((schedule.factor(1000) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        assert_eq!(Schedule { warmup_steps: 0, steps: 5, final_fraction: 0.0 }.factor(0), 1.0);
    }
}
