//! What a user should hear of the mix: that a bound holds a domain back, that one takes more than half, that one is
//! nearly gone or nearly alone. Each is said once per domain, with the key that bounds it; that the steps of the mix are
//! bounded is said once in all, for it is how such a mixer works. What was said before a resume is read from the metrics.

use crate::run_dir::record::{Items, MAX_CHANGE, Mixed, Record, What};
use shearling_domains::{Bound, Mixer, MixerConfig, MixerUpdate};
use std::collections::BTreeSet;

/// Of more domains that a bound holds those are named which it holds back most.
const NAMED: usize = 3;
/// A domain with less than this is nearly gone.
const NEARLY_GONE: f64 = 1e-3;
/// A domain with more than this is nearly alone.
const NEARLY_ALONE: f64 = 0.95;

/// What to do about a mix that moves in bounded steps.
const STEP_BY_STEP: &str = ". The odds of a domain change by that factor at most, by less where part of its gap may be noise \
                            or others move the same way; the mix goes on at the next evaluations. Nothing is to be done; a \
                            larger mixer.max_change moves it faster";

/// Something to know about the mix.
#[derive(Clone, Debug, PartialEq)]
pub struct MixNotice {
    /// `max_change`, `max_drift`, `floor`, `cap` (a bound that holds), `half`, `nearly_gone` or `nearly_alone`.
    pub reason: &'static str,
    /// The domains it is about.
    pub domains: Vec<String>,
    /// The sentence.
    pub text: String,
}

impl MixNotice {
    /// Whether it tells of a bounded mixer at its work, and of nothing that went wrong.
    pub fn is_routine(&self) -> bool {
        self.fields().is_routine()
    }

    /// Fields of its record.
    pub fn fields(&self) -> Mixed {
        Mixed {
            reason: Some(self.reason.to_string()),
            domains: Items(self.domains.clone()),
            text: Some(self.text.clone()),
        }
    }
}

/// Remembers what was said.
#[derive(Clone, Debug, Default)]
pub struct MixWatch {
    said: BTreeSet<(String, String)>,
}

impl MixWatch {
    /// Takes note of what a record of these notices said, when a run resumes.
    pub fn remember(&mut self, record: &Record) {
        let What::Mixer(told) = &record.what else { return };
        for domain in &told.domains.0 {
            self.is_new(told.reason.as_deref().unwrap_or_default(), domain);
        }
    }

    /// What is new after an update that changed the proportions from `before`.
    pub fn look(&mut self, names: &[String], mixer: &Mixer, before: &[f64], update: &MixerUpdate) -> Vec<MixNotice> {
        let mut notices = Vec::new();
        for bound in [Bound::MaxChange, Bound::MaxDrift, Bound::Floor, Bound::Cap] {
            notices.extend(self.held(bound, names, mixer, before, update));
        }
        for (index, name) in names.iter().enumerate() {
            notices.extend(self.share(name, mixer, index));
        }
        notices
    }

    /// The domains that a bound keeps from what the rule asked for.
    fn held(
        &mut self,
        bound: Bound,
        names: &[String],
        mixer: &Mixer,
        before: &[f64],
        update: &MixerUpdate,
    ) -> Option<MixNotice> {
        let reason = key(bound);
        let held = (0..names.len()).filter(|index| update.held.get(*index).copied().flatten() == Some(bound));
        let told = bound == Bound::MaxChange && self.said.iter().any(|(said, _)| said == reason);
        let new: Vec<usize> = held.filter(|index| self.is_new(reason, &names[*index])).collect();
        let of = |index: &usize| {
            let at = |values: &[f64]| values.get(*index).copied().map_or("?".to_string(), percent);
            let (now, name) = (at(&update.proportions), &names[*index]);
            match bound {
                Bound::MaxChange => {
                    let asked = at(&update.wanted);
                    format!("{name} {} → {now}{} (unbounded: {asked})", at(before), odds_factor(before, update, *index))
                }
                Bound::MaxDrift => format!("{name} {now} (began with {})", at(mixer.initial())),
                Bound::Floor | Bound::Cap => format!("{name} {now}"),
            }
        };
        let far = |index: &usize| {
            let at = |values: &[f64]| values.get(*index).copied().unwrap_or(0.0);
            (at(&update.wanted) - at(&update.proportions)).abs()
        };
        let mut named = new.clone();
        if named.len() > NAMED {
            named.sort_by(|a, b| far(b).total_cmp(&far(a)));
        }
        let more = named.len().saturating_sub(NAMED);
        let mut list = named.iter().take(NAMED).map(of).collect::<Vec<_>>().join(", ");
        if more > 0 {
            list.push_str(&format!(", +{more} more"));
        }
        let (means, advice) = match bound {
            Bound::MaxChange => ("bounds how far one update moves the mix", STEP_BY_STEP),
            Bound::MaxDrift => ("lets the mix go no further from where it began", ""),
            Bound::Floor => ("lets it fall no lower", ""),
            Bound::Cap => ("lets it rise no higher", ""),
        };
        let text = format!("mixer.{reason} = {} {means}: {list}{advice}", value(bound, mixer.config()));
        let domains = new.iter().map(|index| names[*index].clone()).collect();
        (!new.is_empty() && !told).then_some(MixNotice { reason, domains, text })
    }

    /// Whether a domain has come to have more than half, nearly everything or nearly nothing.
    fn share(&mut self, name: &str, mixer: &Mixer, index: usize) -> Option<MixNotice> {
        let (now, began) = (*mixer.proportions().get(index)?, *mixer.initial().get(index)?);
        let (reason, what) = if now > NEARLY_ALONE && began <= NEARLY_ALONE {
            self.is_new("half", name);
            ("nearly_alone", "is nearly all of the mix")
        } else if now > 0.5 && began <= 0.5 {
            ("half", "is more than half of the mix")
        } else if now < NEARLY_GONE && began >= NEARLY_GONE {
            ("nearly_gone", "is nearly gone from the mix")
        } else {
            return None;
        };
        let text = format!(
            "{name} {what}: {} (began with {}); {}",
            percent(now),
            percent(began),
            remedy(mixer.config(), reason == "nearly_gone")
        );
        self.is_new(reason, name).then(|| MixNotice { reason, domains: vec![name.to_string()], text })
    }

    fn is_new(&mut self, reason: &str, domain: &str) -> bool {
        self.said.insert((reason.to_string(), domain.to_string()))
    }
}

/// `, odds × 1.06`: what a domain's odds w / (1 − w) were multiplied by.
fn odds_factor(before: &[f64], update: &MixerUpdate, index: usize) -> String {
    let odds = |shares: &[f64]| shares.get(index).map(|share| share / (1.0 - share));
    let factor = odds(before).zip(odds(&update.proportions)).map(|(before, now)| now / before);
    factor.filter(|factor| factor.is_finite()).map_or(String::new(), |factor| format!(", odds × {factor:.2}"))
}

/// Which keys keep a domain from going on like this.
fn remedy(config: &MixerConfig, low: bool) -> String {
    let side = if low { "mixer.floor" } else { "mixer.cap" };
    if config.max_drift().is_some() {
        return format!("mixer.max_drift and {side} bound it");
    }
    let given = if low { config.floor > 0.0 } else { config.cap.is_some() };
    if given { format!("{side} bounds it") } else { format!("set {side}, or mixer.kind = \"bounded\"") }
}

fn key(bound: Bound) -> &'static str {
    match bound {
        Bound::MaxChange => MAX_CHANGE,
        Bound::MaxDrift => "max_drift",
        Bound::Floor => "floor",
        Bound::Cap => "cap",
    }
}

fn value(bound: Bound, config: &MixerConfig) -> f64 {
    let value = match bound {
        Bound::MaxChange => config.max_change(),
        Bound::MaxDrift => config.max_drift(),
        Bound::Floor => Some(config.floor),
        Bound::Cap => config.cap,
    };
    value.unwrap_or(f64::NAN)
}

fn percent(share: f64) -> String {
    if share < NEARLY_GONE { format!("{:.1e} %", 100.0 * share) } else { format!("{:.1} %", 100.0 * share) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shearling_domains::MixerKind;

    fn names() -> Vec<String> {
        ["code", "wiki", "book", "web"].map(String::from).to_vec()
    }

    fn mixer(kind: MixerKind, cap: Option<f64>) -> Mixer {
        Mixer::new(MixerConfig { kind, cap, ..MixerConfig::default() }, &[0.25; 4], &[2.0; 4]).unwrap()
    }

    fn updates(mixer: &mut Mixer, watch: &mut MixWatch, count: usize) -> Vec<MixNotice> {
        let once = |_| {
            let before = mixer.proportions().to_vec();
            let update = mixer.update(&[Some(5.0), Some(2.0), Some(2.0), Some(2.0)]);
            watch.look(&names(), mixer, &before, &update)
        };
        (0..count).flat_map(once).collect()
    }

    #[test]
    fn a_mix_that_runs_away_is_told_once_per_domain_with_the_key_that_bounds_it() {
        let notices = updates(&mut mixer(MixerKind::Dynamic, None), &mut MixWatch::default(), 12);
        let told: Vec<(&str, &str)> = notices.iter().map(|n| (n.reason, n.domains[0].as_str())).collect();
        let gone = ["wiki", "book", "web"].map(|name| ("nearly_gone", name));
        assert_eq!(told, [vec![("half", "code"), ("nearly_alone", "code")], gone.to_vec()].concat());
        assert_eq!(
            notices[0].text,
            "code is more than half of the mix: 87.0 % (began with 25.0 %); set mixer.cap, or mixer.kind = \"bounded\""
        );
        assert!(notices[2].text.contains("set mixer.floor"), "{}", notices[2].text);
    }

    #[test]
    fn of_many_domains_that_are_held_the_furthest_are_named_and_all_are_remembered() {
        let names: Vec<String> = (0..11).map(|at| format!("d{at}")).collect();
        let before = [1.0 / 11.0; 11];
        let config = MixerConfig { kind: MixerKind::Bounded, ..MixerConfig::default() };
        let mixer = Mixer::new(config, &before, &[2.0; 11]).unwrap();
        // All are held; d6 is asked for most, d2 for nearly nothing.
        let mut wanted = vec![0.08; 11];
        (wanted[6], wanted[2]) = (0.27, 0.01);
        let held = vec![Some(Bound::MaxChange); 11];
        let update = MixerUpdate { proportions: before.to_vec(), excess: vec![None; 11], wanted, held };
        let mut watch = MixWatch::default();
        let notices = watch.look(&names, &mixer, &before, &update);
        let held = &notices[0];
        assert!(
            held.domains.len() == 11 && held.text.contains(": d6 ") && held.text.contains(", d2 "),
            "{}",
            held.text
        );
        assert!(held.text.contains(", +8 more. ") && held.is_routine(), "{}", held.text);
        assert!(held.text.chars().count() < 460, "{}", held.text);
        assert!(watch.look(&names, &mixer, &before, &update).is_empty(), "told once, also of those not named");
    }

    #[test]
    fn bounds_are_told_when_they_hold() {
        let notices = updates(&mut mixer(MixerKind::Bounded, None), &mut MixWatch::default(), 40);
        let reasons: Vec<&str> = notices.iter().map(|notice| notice.reason).collect();
        // Once "code" may rise no further the others are held by the bound on one update: that was said.
        assert_eq!(reasons, ["max_change", "half", "max_drift"]);
        assert_eq!(notices.iter().map(MixNotice::is_routine).collect::<Vec<_>>(), [true, false, false]);
        let begins = "mixer.max_change = 1.1 bounds how far one update moves the mix: code 25.0 % → 26.8 %, odds × 1.10 \
                      (unbounded: 87.0 %). ";
        assert!(notices[0].text.starts_with(begins), "{}", notices[0].text);
        assert!(notices[0].text.contains("Nothing is to be done"), "{}", notices[0].text);
        assert_eq!(
            notices[2].text,
            "mixer.max_drift = 6 lets the mix go no further from where it began: code 66.7 % (began with 25.0 %)"
        );
        let capped = updates(&mut mixer(MixerKind::Dynamic, Some(0.4)), &mut MixWatch::default(), 3);
        assert_eq!(capped[0].text, "mixer.cap = 0.4 lets it rise no higher: code 40.0 %");
    }

    #[test]
    fn what_was_said_before_a_resume_is_not_said_again() {
        let (mut mixer, mut watch) = (mixer(MixerKind::Dynamic, None), MixWatch::default());
        let notices = updates(&mut mixer, &mut watch, 12);
        let mut resumed = MixWatch::default();
        for notice in &notices {
            resumed.remember(&Record::new(1, What::Mixer(notice.fields())));
        }
        assert_eq!(resumed.said, watch.said);
        assert!(updates(&mut mixer, &mut resumed, 5).is_empty());
    }
}
