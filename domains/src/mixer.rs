//! New proportions from losses per domain: dynamic batch loading (Sheared-LLaMA, Algorithm 1), and its bounded kin.
//!
//! At an evaluation with loss ℓ_i, reference loss r_i and current proportion w_i of domain i of k:
//!
//! ```text
//! Δ_i = max(ℓ_i − r_i, 0)            kind = dynamic: the paper; kind = bounded
//! Δ_i = ℓ_i − r_i                    kind = signed: the code released with it
//! g_i = η·Δ_i                        dynamic, signed
//! g_i = t·clip(η·d, ± ln f)          bounded: d = Δ_i − m, m = mean of all Δ, f = max_change,
//!                                    t = d²/(d² + s² + m²), s the standard error of ℓ_i
//! α_i = w_i·exp(g_i) / Σ_j w_j·exp(g_j)
//! w_i ← (1 − c)·α_i + c/k
//! ```
//!
//! A domain that is further above its reference than the others gains. `ln w` integrates the gaps, so the interval
//! between evaluations acts as a learning rate, and nothing pulls the weights back. `bounded` therefore counts a gap only
//! in as far as it stands out of what cannot be told from it (its own error, and the excess that all domains share), and
//! keeps every domain in a box ([`Bound`]); for the other kinds the sides of the box are there when they are asked for.
//!
//! **Missing losses.** A domain without a finite loss keeps the proportion it has; the rule is applied to the others,
//! which share what they had together (mass M among m domains: `w_i ← (1 − c)·α_i·M + c·M/m`). Its weight so neither
//! grows nor shrinks on no evidence, and a NaN reaches no weight. Only a floor or cap that binds can still move it.

use serde::{Deserialize, Serialize};

use crate::mix_bounds::{Bound, Span, bounded, reachable};
use crate::mixer_config::{MixerConfig, MixerKind};
use crate::{Error, Result, proportions};

/// Version of [`MixerState`].
const STATE_VERSION: u64 = 1;
/// Largest |η·Δ|: its exponential already decides everything, and sums with it stay finite.
const MAX_LOG_STEP: f64 = 1e6;

/// What an evaluation found of a domain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Mean loss, nats per token.
    pub loss: f64,
    /// Standard error of that mean over rows; `None` where it is not known.
    pub standard_error: Option<f64>,
}

impl From<f64> for Measured {
    fn from(loss: f64) -> Self {
        Measured { loss, standard_error: None }
    }
}

/// What an update decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixerUpdate {
    /// The new proportions, which sum to 1.
    pub proportions: Vec<f64>,
    /// Δ per domain as the rule used it; `None` without a finite loss or without a reference loss.
    pub excess: Vec<Option<f64>>,
    /// What the rule asked for; of `bounded`, what `dynamic` would have made of it.
    pub wanted: Vec<f64>,
    /// What kept each domain from that.
    pub held: Vec<Option<Bound>>,
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
    initial: Vec<f64>,
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
        let state = MixerState { version: STATE_VERSION, proportions: checked.clone(), updates: 0 };
        Ok(Self { config, reference_losses: reference_losses.to_vec(), initial: checked, state })
    }

    /// A mixer that began with the proportions `initial` and continues from `state`.
    ///
    /// # Errors
    /// Those of [`Self::new`] for its settings, and [`Error::State`] for a state of another version or other domains.
    pub fn resume(config: MixerConfig, initial: &[f64], reference_losses: &[f64], state: MixerState) -> Result<Self> {
        if state.version != STATE_VERSION {
            let (expected, found) = (STATE_VERSION.to_string(), state.version.to_string());
            return Err(Error::State { what: "mixer state", field: "version", expected, found });
        }
        if initial.len() != state.proportions.len() {
            let (expected, found) = (initial.len().to_string(), state.proportions.len().to_string());
            return Err(Error::State { what: "mixer state", field: "number of domains", expected, found });
        }
        Self::new(config.clone(), &state.proportions, reference_losses)?;
        let mut mixer = Self::new(config, initial, reference_losses)?;
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

    /// The proportions it began with `[k]`.
    pub fn initial(&self) -> &[f64] {
        &self.initial
    }

    /// Its settings.
    pub fn config(&self) -> &MixerConfig {
        &self.config
    }

    /// The smallest and the largest proportion that each domain can have after `updates` more updates, whatever the
    /// losses are.
    pub fn reach(&self, updates: u64) -> Vec<(f64, f64)> {
        if self.config.kind == MixerKind::Static || updates == 0 {
            return self.state.proportions.iter().map(|weight| (*weight, *weight)).collect();
        }
        reachable(&self.spans(updates as f64))
    }

    fn spans(&self, updates: f64) -> Vec<Span> {
        let pairs = self.initial.iter().zip(&self.state.proportions);
        pairs.map(|(initial, present)| Span::new(&self.config, *initial, *present, updates)).collect()
    }

    /// Changes the proportions according to what was measured `[k]`; a domain that was not measured is `None`. Losses for
    /// another number of domains change nothing: missing ones count as not measured, further ones are ignored.
    pub fn update<M: Into<Measured> + Copy>(&mut self, measured: &[Option<M>]) -> MixerUpdate {
        let measured: Vec<Option<Measured>> = measured.iter().map(|domain| domain.map(Into::into)).collect();
        let excess: Vec<Option<f64>> = (0..self.state.proportions.len()).map(|at| self.excess(at, &measured)).collect();
        let present = self.state.proportions.clone();
        let (wanted, held) = match self.config.kind {
            MixerKind::Static => (present.clone(), vec![None; present.len()]),
            _ => self.move_by(&excess, &measured),
        };
        self.state.updates += 1;
        MixerUpdate { proportions: self.state.proportions.clone(), excess, wanted, held }
    }

    /// Moves the proportions; what the paper's rule wanted (or the rule of the kind), and what kept each domain from it.
    fn move_by(&mut self, excess: &[Option<f64>], measured: &[Option<Measured>]) -> (Vec<f64>, Vec<Option<Bound>>) {
        let present = &self.state.proportions;
        let (eta, smoothing) = (self.config.eta, self.config.smoothing);
        let mut spans = self.spans(1.0);
        let wanted = reweighted(present, excess, eta, smoothing);
        if self.config.kind != MixerKind::Bounded {
            let held = wanted.iter().zip(&spans).map(|(wanted, span)| span.against(*wanted)).collect();
            self.state.proportions = bounded(wanted.clone(), &spans);
            return (wanted, held);
        }
        for (domain, span) in spans.iter_mut().enumerate().filter(|(domain, _)| excess[*domain].is_none()) {
            *span = Span::still(present[domain]);
        }
        let step = self.config.max_change().map_or(f64::INFINITY, f64::ln);
        let pulls: Vec<Option<Pull>> = standing_out(excess, measured);
        let pulled: Vec<Option<f64>> = pulls.iter().map(|pull| pull.map(|pull| pull.bounded(eta, step))).collect();
        let moved = reweighted(present, &pulled, 1.0, smoothing);
        let held = |domain: usize| {
            let clear = pulls[domain].is_some_and(|pull| pull.is_clear() && pull.apart.abs() * eta > step);
            spans[domain].against(moved[domain]).or(clear.then_some(Bound::MaxChange))
        };
        let held = (0..moved.len()).map(held).collect();
        self.state.proportions = bounded(moved, &spans);
        (wanted, held)
    }

    fn excess(&self, domain: usize, measured: &[Option<Measured>]) -> Option<f64> {
        let loss = measured.get(domain).copied().flatten().map(|domain| domain.loss).filter(|loss| loss.is_finite())?;
        let gap = loss - self.reference_losses.get(domain)?;
        let clamped = matches!(self.config.kind, MixerKind::Dynamic | MixerKind::Bounded);
        let gap = if clamped { gap.max(0.0) } else { gap };
        gap.is_finite().then_some(gap)
    }
}

/// How far the excess of a domain lies from the mean of all.
#[derive(Debug, Clone, Copy)]
struct Pull {
    /// The distance, in nats.
    apart: f64,
    /// In as far as it stands out, from 0 to 1.
    trust: f64,
}

impl Pull {
    /// What it does to the logarithm of the weight, `step` at most.
    fn bounded(&self, eta: f64, step: f64) -> f64 {
        self.trust * (eta * self.apart).clamp(-step, step)
    }

    /// Whether most of it stands out.
    fn is_clear(&self) -> bool {
        self.trust > 0.5
    }
}

/// The excess of each domain over the mean of all, in as far as it stands out of what may be mistaken for it: the error of
/// its own loss (the rows are the same at every evaluation, so a sample that is hard by chance would count again and
/// again), and the excess that all share (while masks or a cut have just made everything worse, that some domain is hit
/// harder says little of what data it lacks).
fn standing_out(excess: &[Option<f64>], measured: &[Option<Measured>]) -> Vec<Option<Pull>> {
    let limited = |excess: f64| excess.min(MAX_LOG_STEP);
    let known: Vec<f64> = excess.iter().flatten().map(|excess| limited(*excess)).collect();
    let common = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let error = |domain: usize| {
        let error = measured.get(domain).copied().flatten().and_then(|domain| domain.standard_error);
        error.filter(|error| error.is_finite()).unwrap_or(0.0)
    };
    let pull = |(domain, excess): (usize, &Option<f64>)| {
        let apart = limited((*excess)?) - common;
        let noise = error(domain).powi(2) + common.powi(2);
        let trust = if apart == 0.0 { 0.0 } else { apart.powi(2) / (apart.powi(2) + noise) };
        Some(Pull { apart, trust })
    };
    excess.iter().enumerate().map(pull).collect()
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
            assert_eq!(mixer.update::<f64>(&[]).proportions, before);
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
    fn impossible_settings_are_refused() {
        let new = |config, proportions: &[f64], losses: &[f64]| Mixer::new(config, proportions, losses).unwrap_err();
        let default = MixerConfig::default;
        let half = [0.5, 0.5];
        for (error, word) in [
            (new(MixerConfig { floor: 0.6, ..default() }, &half, &[1.0, 1.0]), "floor = 0.6"),
            (new(MixerConfig { cap: Some(0.4), ..default() }, &half, &[1.0, 1.0]), "cap = 0.4"),
            (new(MixerConfig { floor: 0.2, ..default() }, &[0.9, 0.1], &[1.0, 1.0]), "outside of floor"),
            (new(MixerConfig { eta: f64::NAN, ..default() }, &half, &[1.0, 1.0]), "eta"),
            (new(MixerConfig { max_change: Some(1.0), ..default() }, &half, &[1.0, 1.0]), "max_change = 1"),
            (new(MixerConfig { max_drift: Some(f64::NAN), ..default() }, &half, &[1.0, 1.0]), "max_drift"),
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
        let mut second = Mixer::resume(MixerConfig::default(), &[0.5, 0.3, 0.2], &[2.0; 3], state.clone()).unwrap();
        let losses = [Some(2.3), Some(2.2), None];
        assert_eq!(first.update(&losses), second.update(&losses));
        assert!(Mixer::resume(MixerConfig::default(), &[0.5; 2], &[2.0; 2], state).is_err());
    }
}
