//! The part of `shearling plan` about the mix: how often it may move, and how far at most, whatever the losses are.

use crate::train::Outline;
use serde_json::{Value, json};
use shearling_domains::MixerKind;

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
        let span = |(name, low, high): &(String, f64, f64)| format!("{name} {:.1}–{:.1} %", 100.0 * low, 100.0 * high);
        let spans = self.domains.iter().map(span).collect::<Vec<_>>().join(", ");
        let within = if self.updates == 0 { String::new() } else { format!(", at most within {spans}") };
        Some(format!("mix ({}) {times}{within}\n", self.kind.name()))
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
