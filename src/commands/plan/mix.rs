//! The part of `shearling plan` about the mix: how often it may move, and how far at most, whatever the losses are.

use crate::train::Outline;
use serde_json::{Value, json};
use shearling_domains::MixerKind;

/// So many domains are named.
const SHOWN: usize = 4;

/// What the mixer may do over a run.
pub struct MixReach {
    kind: MixerKind,
    updates: u64,
    capped: bool,
    domains: Vec<(String, f64, f64)>,
}

impl MixReach {
    /// For a run; `None` where its domains or references are not known.
    pub fn of(outline: &Outline) -> Option<MixReach> {
        let reach = outline.reach.as_ref()?;
        let names = outline.domains.iter().map(|(name, _)| name.clone());
        let domains = names.zip(&reach.bounds).map(|(name, (low, high))| (name, *low, *high)).collect();
        let mixer = &outline.config.mixer;
        let capped = mixer.cap.or(mixer.max_drift).is_some();
        Some(MixReach { kind: mixer.kind, updates: reach.updates, capped, domains })
    }

    /// The most that a domain can come to have.
    pub fn highest(&self, domain: &str) -> f64 {
        self.domains.iter().find(|(name, ..)| name == domain).map_or(1.0, |(_, _, high)| *high)
    }

    /// A line of the plan; none where the mix does not move.
    pub fn line(&self) -> Option<String> {
        if self.kind == MixerKind::Static {
            return None;
        }
        let times = match self.updates {
            0 => "never moves in so few steps".to_string(),
            1 => "moves once".to_string(),
            updates => format!("moves {updates} times"),
        };
        let within = if self.updates == 0 { String::new() } else { format!(", at most within {}", self.spans()) };
        Some(format!("mix ({}) {times}{within}\n", self.kind.name()))
    }

    /// What each domain can come to have: said once where that is alike; of many domains those that can move furthest.
    fn spans(&self) -> String {
        let span = |low: f64, high: f64| format!("{:.1}–{:.1} %", 100.0 * low, 100.0 * high);
        let spans: Vec<String> = self.domains.iter().map(|(_, low, high)| span(*low, *high)).collect();
        if let [first, others @ ..] = spans.as_slice()
            && others.len() >= SHOWN
            && others.iter().all(|other| other == first)
        {
            return format!("{first} for each of the {} domains", spans.len());
        }
        let named = |at: &usize| format!("{} {}", self.domains[*at].0, spans[*at]);
        let mut order: Vec<usize> = (0..spans.len()).collect();
        if order.len() <= SHOWN {
            return order.iter().map(named).collect::<Vec<_>>().join(", ");
        }
        let width = |at: &usize| self.domains[*at].2 - self.domains[*at].1;
        order.sort_by(|a, b| width(b).total_cmp(&width(a)));
        let shown = order.iter().take(SHOWN).map(named).collect::<Vec<_>>().join(", ");
        format!("{shown}, +{} more", order.len() - SHOWN)
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        let domain = |(name, low, high): &(String, f64, f64)| json!({ "domain": name, "lowest": low, "highest": high });
        json!({ "kind": self.kind, "updates": self.updates, "domains": self.domains.iter().map(domain).collect::<Vec<_>>() })
    }

    /// What to say of a mixer that nothing bounds.
    pub fn warning(&self) -> Option<String> {
        let free = matches!(self.kind, MixerKind::Dynamic | MixerKind::Signed) && !self.capped && self.updates > 0;
        free.then(|| {
            format!(
                "mixer.kind = \"{}\" may give nearly all of the mix to one domain; mixer.cap or mixer.max_drift bounds it, \
                 mixer.kind = \"bounded\" does by itself",
                self.kind.name()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(bounds: &[(f64, f64)]) -> String {
        let named = |(at, (low, high)): (usize, &(f64, f64))| (format!("d{at}"), *low, *high);
        let domains = bounds.iter().enumerate().map(named).collect();
        MixReach { kind: MixerKind::Bounded, updates: 6, capped: false, domains }.line().unwrap()
    }

    #[test]
    fn many_domains_are_told_in_one_line() {
        let alike = reach(&[(0.053, 0.15); 11]);
        assert_eq!(alike, "mix (bounded) moves 6 times, at most within 5.3–15.0 % for each of the 11 domains\n");
        let mut bounds = [(0.05, 0.1); 11];
        (bounds[7], bounds[2]) = ((0.1, 0.5), (0.0, 0.2));
        let unlike = reach(&bounds);
        assert!(
            unlike.contains("within d7 10.0–50.0 %, d2 0.0–20.0 %, ") && unlike.ends_with(", +7 more\n"),
            "{unlike}"
        );
        assert_eq!(
            reach(&[(0.2, 0.5), (0.5, 0.8)]),
            "mix (bounded) moves 6 times, at most within d0 20.0–50.0 %, d1 50.0–80.0 %\n"
        );
    }
}
