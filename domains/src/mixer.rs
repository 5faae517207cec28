//! New proportions from losses per domain: dynamic batch loading (Sheared-LLaMA, Algorithm 1).
//!
//! At an evaluation with loss ℓ_i, reference loss r_i and current proportion w_i of domain i of k:
//!
//! ```text
//! Δ_i = max(ℓ_i − r_i, 0)            kind = dynamic: the paper
//! Δ_i = ℓ_i − r_i                    kind = signed: the code released with it
//! α_i = w_i·exp(η·Δ_i) / Σ_j w_j·exp(η·Δ_j)
//! w_i ← (1 − c)·α_i + c/k
//! ```
//!
//! A domain that is further above its reference than the others gains. `ln w` integrates the gaps, so the interval
//! between evaluations acts as a learning rate, and nothing pulls the weights back: a floor and a cap keep a domain from
//! vanishing or taking all.
//!
//! **Missing losses.** A domain without a finite loss keeps the proportion it has; the rule is applied to the others,
//! which share what they had together (mass M among m domains: `w_i ← (1 − c)·α_i·M + c·M/m`). Its weight so neither
//! grows nor shrinks on no evidence, and a NaN reaches no weight. Only a floor or cap that binds can still move it.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, proportions};

/// Version of [`MixerState`].
const STATE_VERSION: u64 = 1;
/// Largest |η·Δ|: its exponential already decides everything, and sums with it stay finite.
const MAX_LOG_STEP: f64 = 1e6;

/// How proportions follow losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixerKind {
    /// They stay what they are.
    Static,
    /// The paper's rule: a domain below its reference counts as being at it.
    #[default]
    Dynamic,
    /// The rule of the released code: a domain below its reference is weighted down.
    Signed,
}

/// Settings of a [`Mixer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixerConfig {
    /// The rule.
    pub kind: MixerKind,
    /// η: weight of a gap of one nat.
    pub eta: f64,
    /// c: share of the weight that is spread evenly after each update; 0 switches it off.
    pub smoothing: f64,
    /// No proportion falls below this.
    pub floor: f64,
    /// No proportion rises above this.
    pub cap: Option<f64>,
}

impl Default for MixerConfig {
    fn default() -> Self {
        Self { kind: MixerKind::default(), eta: 1.0, smoothing: 1e-4, floor: 0.0, cap: None }
    }
}

impl MixerConfig {
    /// Checks the values by themselves and for `domains` domains.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value that cannot be used, a floor or cap that no proportions can meet included.
    pub fn validate(&self, domains: usize) -> Result<()> {
        if !self.eta.is_finite() || self.eta < 0.0 {
            return Err(Error::config("eta", self.eta, "expected a number of at least 0"));
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            return Err(Error::config("smoothing", self.smoothing, "expected a number from 0 to 1"));
        }
        let even = 1.0 / domains as f64;
        // A floor of exactly 1/k, typed in decimal, may be a hair above it.
        if !(0.0..=even * (1.0 + 1e-9)).contains(&self.floor) {
            let problem = format!("{domains} domains can each have from 0 to {even}");
            return Err(Error::config("floor", self.floor, problem));
        }
        if let Some(cap) = self.cap.filter(|cap| !(even * (1.0 - 1e-9)..=1.0).contains(cap)) {
            return Err(Error::config("cap", cap, format!("{domains} domains need a cap from {even} to 1")));
        }
        Ok(())
    }
}

/// What an update decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixerUpdate {
    /// The new proportions, which sum to 1.
    pub proportions: Vec<f64>,
    /// Δ per domain as the rule used it; `None` without a finite loss or without a reference loss.
    pub excess: Vec<Option<f64>>,
}

/// What a mixer must remember across a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixerState {
    /// Version of this record.
    pub version: u64,
    /// Current proportions.
    pub proportions: Vec<f64>,
    /// Updates made so far.
    pub updates: u64,
}

/// Holds the proportions and changes them after evaluations.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixer {
    config: MixerConfig,
    reference_losses: Vec<f64>,
    state: MixerState,
}

impl Mixer {
    /// A mixer that starts from `proportions` `[k]`, with `reference_losses` `[k]` in nats per token. `static` takes an
    /// empty list of reference losses too.
    ///
    /// # Errors
    /// [`Error::Proportions`] when the proportions are no distribution, or break the floor or the cap;
    /// [`Error::Losses`] for unusable reference losses; [`Error::Config`] for unusable settings.
    pub fn new(config: MixerConfig, proportions: &[f64], reference_losses: &[f64]) -> Result<Self> {
        let checked = proportions::checked(proportions, proportions.len())?;
        config.validate(checked.len())?;
        let (low, high) = (config.floor * (1.0 - 1e-9) - 1e-12, config.cap.unwrap_or(1.0) * (1.0 + 1e-9) + 1e-12);
        if let Some(bad) = checked.iter().find(|value| !(low..=high).contains(*value)) {
            let problem =
                format!("{bad} lies outside of floor and cap ({} to {})", config.floor, config.cap.unwrap_or(1.0));
            return Err(Error::Proportions { proportions: proportions.to_vec(), problem });
        }
        check_reference(config.kind, reference_losses, checked.len())?;
        let state = MixerState { version: STATE_VERSION, proportions: checked, updates: 0 };
        Ok(Self { config, reference_losses: reference_losses.to_vec(), state })
    }

    /// A mixer that continues from `state`.
    ///
    /// # Errors
    /// Those of [`Self::new`] for its settings, and [`Error::State`] for a state of another version or other domains.
    pub fn resume(config: MixerConfig, reference_losses: &[f64], state: MixerState) -> Result<Self> {
        if state.version != STATE_VERSION {
            let (expected, found) = (STATE_VERSION.to_string(), state.version.to_string());
            return Err(Error::State { what: "mixer state", field: "version", expected, found });
        }
        if !reference_losses.is_empty() && reference_losses.len() != state.proportions.len() {
            let (expected, found) = (reference_losses.len().to_string(), state.proportions.len().to_string());
            return Err(Error::State { what: "mixer state", field: "number of domains", expected, found });
        }
        let mut mixer = Self::new(config, &state.proportions, reference_losses)?;
        // Not scaled again: the numbers must stay what they were, bit for bit.
        mixer.state = state;
        Ok(mixer)
    }

    /// Current proportions `[k]`.
    pub fn proportions(&self) -> &[f64] {
        &self.state.proportions
    }

    /// What to save for [`Self::resume`].
    pub fn state(&self) -> &MixerState {
        &self.state
    }

    /// Changes the proportions according to `losses` `[k]`, in nats per token; a domain that was not measured is `None`.
    /// Losses for another number of domains change nothing: missing ones count as not measured, further ones are ignored.
    pub fn update(&mut self, losses: &[Option<f64>]) -> MixerUpdate {
        let excess: Vec<Option<f64>> = (0..self.state.proportions.len()).map(|at| self.excess(at, losses)).collect();
        if self.config.kind != MixerKind::Static {
            let moved = reweighted(&self.state.proportions, &excess, self.config.eta, self.config.smoothing);
            self.state.proportions = bounded(moved, self.config.floor, self.config.cap.unwrap_or(1.0));
        }
        self.state.updates += 1;
        MixerUpdate { proportions: self.state.proportions.clone(), excess }
    }

    fn excess(&self, domain: usize, losses: &[Option<f64>]) -> Option<f64> {
        let loss = losses.get(domain).copied().flatten().filter(|loss| loss.is_finite())?;
        let gap = loss - self.reference_losses.get(domain)?;
        let gap = if self.config.kind == MixerKind::Dynamic { gap.max(0.0) } else { gap };
        gap.is_finite().then_some(gap)
    }
}

fn check_reference(kind: MixerKind, losses: &[f64], domains: usize) -> Result<()> {
    let what = "reference losses";
    if losses.is_empty() && kind == MixerKind::Static {
        return Ok(());
    }
    if losses.len() != domains {
        return Err(Error::Losses { what, problem: format!("{} were given for {domains} domains", losses.len()) });
    }
    match losses.iter().find(|loss| !loss.is_finite() || **loss < 0.0) {
        Some(bad) => Err(Error::Losses { what, problem: format!("{bad} is not a number of at least 0") }),
        None => Ok(()),
    }
}

/// The rule above, on the domains that have an excess loss.
fn reweighted(weights: &[f64], excess: &[Option<f64>], eta: f64, smoothing: f64) -> Vec<f64> {
    let measured: Vec<usize> = (0..weights.len()).filter(|&domain| excess[domain].is_some()).collect();
    let mass: f64 = measured.iter().map(|&domain| weights[domain]).sum();
    let logit = |domain: usize| {
        let step = eta * excess[domain].unwrap_or(0.0);
        weights[domain].ln() + step.clamp(-MAX_LOG_STEP, MAX_LOG_STEP)
    };
    let highest = measured.iter().map(|&domain| logit(domain)).fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        // Nothing was measured, or only domains without weight, which no factor can raise.
        return weights.to_vec();
    }
    let total: f64 = measured.iter().map(|&domain| (logit(domain) - highest).exp()).sum();
    let mut moved = weights.to_vec();
    for &domain in &measured {
        let share = (logit(domain) - highest).exp() / total;
        moved[domain] = mass * ((1.0 - smoothing) * share + smoothing / measured.len() as f64);
    }
    let sum: f64 = moved.iter().sum();
    moved.iter_mut().for_each(|weight| *weight /= sum);
    moved
}

/// Moves `weights` into `[floor, cap]` with their sum kept at 1: all are scaled by one factor and clamped, and the
/// factor is the one for which the sum comes out right. Domains strictly inside keep their ratios to each other.
fn bounded(weights: Vec<f64>, floor: f64, cap: f64) -> Vec<f64> {
    if weights.iter().all(|weight| (floor..=cap).contains(weight)) {
        return weights;
    }
    let at = |factor: f64| -> Vec<f64> { weights.iter().map(|weight| (weight * factor).clamp(floor, cap)).collect() };
    let sum = |factor: f64| at(factor).iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < 1.0 && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if sum(middle) < 1.0 { low = middle } else { high = middle }
    }
    settle(at(high), floor, cap)
}

/// Spreads what is missing to a sum of 1 (rounding, or the room that domains of weight 0 must fill when the others are
/// at the cap) evenly over the domains that have room for it.
fn settle(mut weights: Vec<f64>, floor: f64, cap: f64) -> Vec<f64> {
    for _ in 0..weights.len() {
        let missing = 1.0 - weights.iter().sum::<f64>();
        let room = |weight: f64| if missing > 0.0 { weight < cap } else { weight > floor };
        let open = weights.iter().filter(|weight| room(**weight)).count();
        if missing == 0.0 || open == 0 {
            break;
        }
        for weight in weights.iter_mut().filter(|weight| room(**weight)) {
            *weight = (*weight + missing / open as f64).clamp(floor, cap);
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixer(config: MixerConfig) -> Mixer {
        Mixer::new(config, &[0.5, 0.3, 0.2], &[2.0, 2.0, 2.0]).unwrap()
    }

    fn sum(values: &[f64]) -> f64 {
        values.iter().sum()
    }

    #[test]
    fn a_constant_added_to_all_gaps_changes_nothing() {
        let config = MixerConfig { kind: MixerKind::Signed, ..MixerConfig::default() };
        let near = mixer(config.clone()).update(&[Some(2.1), Some(2.3), Some(2.2)]).proportions;
        let far = mixer(config).update(&[Some(7.1), Some(7.3), Some(7.2)]).proportions;
        near.iter().zip(&far).for_each(|(near, far)| assert!((near - far).abs() < 1e-12));
    }

    #[test]
    fn below_the_reference_differs_between_the_rules() {
        let losses = [Some(1.0), Some(2.0), Some(2.0)];
        let config = MixerConfig { smoothing: 0.0, ..MixerConfig::default() };
        let update = mixer(config.clone()).update(&losses);
        assert_eq!(update.excess, [Some(0.0); 3]);
        update.proportions.iter().zip([0.5, 0.3, 0.2]).for_each(|(new, old)| assert!((new - old).abs() < 1e-15));
        let update = mixer(MixerConfig { kind: MixerKind::Signed, ..config }).update(&losses);
        assert_eq!(update.excess[0], Some(-1.0));
        assert!(update.proportions[0] < 0.3);
    }

    #[test]
    fn what_was_not_measured_keeps_its_proportion() {
        for missing in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
            let mut mixer = mixer(MixerConfig::default());
            let update = mixer.update(&[missing, Some(2.5), Some(2.1)]);
            assert_eq!(update.excess[0], None);
            assert!((update.proportions[0] - 0.5).abs() < 1e-15);
            assert!(update.proportions[1] > 0.3);
            assert!((sum(&update.proportions) - 1.0).abs() < 1e-15);
            let before = mixer.proportions().to_vec();
            assert_eq!(mixer.update(&[missing, missing, None]).proportions, before);
            assert_eq!(mixer.update(&[]).proportions, before);
        }
    }

    #[test]
    fn huge_losses_stay_finite() {
        let mut mixer = mixer(MixerConfig { eta: 1e10, ..MixerConfig::default() });
        let update = mixer.update(&[Some(f64::MAX), Some(3.0), Some(2.0)]);
        assert!(update.proportions.iter().all(|value| value.is_finite()));
        assert!((sum(&update.proportions) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn floor_and_cap_hold_exactly() {
        let config = MixerConfig { floor: 0.05, cap: Some(0.6), ..MixerConfig::default() };
        let mut mixer = mixer(config);
        for turn in 0..200 {
            let update = mixer.update(&[Some(2.0), Some(2.0 + f64::from(turn % 7)), Some(4.0)]);
            assert!((sum(&update.proportions) - 1.0).abs() < 1e-15, "{update:?}");
            assert!(update.proportions.iter().all(|value| (0.05..=0.6).contains(value)), "{update:?}");
        }
    }

    #[test]
    fn bounds_keep_ratios_inside_and_fill_up_from_zero() {
        let new = bounded(vec![0.8, 0.12, 0.08], 0.0, 0.5);
        assert!((new[1] / new[2] - 1.5).abs() < 1e-12 && new[0] == 0.5, "{new:?}");
        assert_eq!(bounded(vec![1.0, 0.0, 0.0], 0.0, 0.5), [0.5, 0.25, 0.25]);
        assert_eq!(bounded(vec![1.0, 0.0], 0.5, 1.0), [0.5, 0.5]);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let new = |config, proportions: &[f64], losses: &[f64]| Mixer::new(config, proportions, losses).unwrap_err();
        let default = MixerConfig::default;
        let half = [0.5, 0.5];
        for (error, word) in [
            (new(MixerConfig { floor: 0.6, ..default() }, &half, &[1.0, 1.0]), "floor = 0.6"),
            (new(MixerConfig { cap: Some(0.4), ..default() }, &half, &[1.0, 1.0]), "cap = 0.4"),
            (new(MixerConfig { floor: 0.2, ..default() }, &[0.9, 0.1], &[1.0, 1.0]), "outside of floor"),
            (new(MixerConfig { eta: f64::NAN, ..default() }, &half, &[1.0, 1.0]), "eta"),
            (new(default(), &[0.5, 0.6], &[1.0, 1.0]), "sum to 1.1"),
            (new(default(), &half, &[1.0]), "1 were given for 2"),
            (new(default(), &half, &[1.0, f64::NAN]), "NaN"),
        ] {
            assert!(error.to_string().contains(word), "{error}");
        }
        let fixed = MixerConfig { kind: MixerKind::Static, ..default() };
        assert_eq!(Mixer::new(fixed, &half, &[]).unwrap().update(&[Some(1.0)]).proportions, half);
    }

    #[test]
    fn state_comes_back_bit_for_bit() {
        let mut first = mixer(MixerConfig::default());
        first.update(&[Some(2.5), Some(2.1), Some(2.9)]);
        let text = serde_json::to_string(first.state()).unwrap();
        let state: MixerState = serde_json::from_str(&text).unwrap();
        let mut second = Mixer::resume(MixerConfig::default(), &[2.0; 3], state.clone()).unwrap();
        let losses = [Some(2.3), Some(2.2), None];
        assert_eq!(first.update(&losses), second.update(&losses));
        assert!(Mixer::resume(MixerConfig::default(), &[2.0; 2], state).is_err());
    }
}
