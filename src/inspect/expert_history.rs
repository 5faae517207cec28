//! What an `lte` run came to, as data: how many of its experts ran and what that cost in loss. How it is put together is in
//! [`experts`](super::experts).

use serde::Serialize;

/// An evaluation as one of the losses of an `lte` run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExpertLoss {
    /// Finished steps.
    pub step: u64,
    /// Mean over the domains, nats per target token.
    pub loss: f64,
}

/// What an `lte` run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExpertHistory {
    /// Share of intermediate units that ran at the last evaluation; before the first one, in the last step.
    pub density: Option<f64>,
    /// The share asked for then; none under the paper's penalties, which ask for none.
    pub target: Option<f64>,
    /// Steps of stage 1; none while routers still train.
    pub router_steps: Option<u64>,
    /// The model that the run began with, all units running.
    pub dense: Option<ExpertLoss>,
    /// At the last evaluation of stage 1, experts multiplied by their scores; only where stage 1 trains that.
    pub soft: Option<ExpertLoss>,
    /// At the last evaluation of stage 1, only the chosen experts running.
    pub switch: Option<ExpertLoss>,
    /// At the last evaluation, only the chosen experts running.
    pub last: Option<ExpertLoss>,
    /// `last` − `dense`.
    pub cost: Option<f64>,
    /// Its standard error, over the rows that both evaluated.
    pub cost_standard_error: Option<f64>,
}

impl ExpertHistory {
    /// `runs 50.3 % of its units (asked: 50 %); loss +0.020 ± 0.003 over the dense model it began with`.
    pub fn sentence(&self) -> Option<String> {
        let asked = self.target.map_or(String::new(), |target| format!(" (asked: {:.1} %)", 100.0 * target));
        let units = format!("runs {:.1} % of its units{asked}", 100.0 * self.density?);
        let Some(cost) = self.cost else { return Some(units) };
        let error = self.cost_standard_error.map_or(String::new(), |error| format!(" ± {error:.3}"));
        Some(format!("{units}; loss {cost:+.3}{error} over the dense model it began with"))
    }
}
