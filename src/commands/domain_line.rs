//! Domains on a line of a run's log: all of them where they are few, else those that matter most with the number of the
//! others, so that the line fits a terminal. Everything is in `metrics.jsonl`, and `inspect run` shows it.

use crate::cli::table::optional;
use crate::eval::DomainLoss;
use crate::train::evaluation::EvalReport;
use std::collections::BTreeMap;

/// So many domains are all shown.
const ALL: usize = 4;
/// Of more, so many are.
pub(super) const SHOWN: usize = 2;

/// Whether lines leave domains out.
pub(super) fn is_shortened(domains: usize) -> bool {
    domains > ALL
}

/// The domains of evaluations, with what is remembered to tell which ones changed.
#[derive(Debug, Default)]
pub(super) struct DomainLine {
    /// Loss at the first evaluation.
    first: BTreeMap<String, f64>,
}

impl DomainLine {
    /// The domains of an evaluation: of many those furthest above their reference; without references those that rose most,
    /// or fell least, since the first evaluation; at the first one those with the highest loss.
    pub(super) fn of(&mut self, report: &EvalReport) -> String {
        let begins = self.first.is_empty();
        if begins {
            let known = report.domains.iter().filter_map(|domain| Some((domain.domain.clone(), domain.loss?)));
            self.first.extend(known);
        }
        let excess = |at: usize| report.excess.as_ref().and_then(|excess| excess.get(at).copied().flatten());
        let by_reference = (0..report.domains.len()).any(|at| excess(at).is_some());
        let change = |domain: &DomainLoss| Some(domain.loss? - self.first.get(&domain.domain)?);
        let (said, concern): (&str, Vec<Option<f64>>) = if by_reference {
            ("furthest above reference: ", (0..report.domains.len()).map(excess).collect())
        } else if begins {
            ("highest: ", report.domains.iter().map(|domain| domain.loss).collect())
        } else {
            ("worst since the start: ", report.domains.iter().map(change).collect())
        };
        let text = |at: usize| domain_text(&report.domains[at], report.proportions.get(at).copied());
        shortened(said, &concern, "  ", most_shown(concern.len()), text)
    }
}

/// The losses of a step in at most `room` characters: of many domains, and where there is no room for all, the highest and
/// how many are left.
pub(super) fn step_losses(losses: &[(&str, f64)], room: usize) -> String {
    let concern: Vec<Option<f64>> = losses.iter().map(|(_, loss)| Some(*loss)).collect();
    let of = |shown: usize| {
        let text = |at: usize| format!("{} {:.3}", losses[at].0, losses[at].1);
        format!("[{}]", shortened("highest: ", &concern, " ", shown, text))
    };
    (1..=most_shown(losses.len())).rev().map(of).find(|text| text.chars().count() <= room).unwrap_or_default()
}

/// How many of so many domains are shown.
fn most_shown(domains: usize) -> usize {
    if is_shortened(domains) { SHOWN } else { domains }
}

/// All entries in their order where all are to be `shown`; else so many of greatest concern (what is no number first) behind
/// `said`, and how many are left.
fn shortened(
    said: &str,
    concern: &[Option<f64>],
    between: &str,
    shown: usize,
    text: impl Fn(usize) -> String,
) -> String {
    if shown >= concern.len() {
        return (0..concern.len()).map(text).collect::<Vec<_>>().join(between);
    }
    let rank = |at: &usize| concern[*at].map_or(f64::NEG_INFINITY, |c| if c.is_nan() { f64::INFINITY } else { c });
    let mut order: Vec<usize> = (0..concern.len()).collect();
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    let named = order.iter().take(shown).map(|at| text(*at)).collect::<Vec<_>>().join(between);
    format!("{said}{named}{between}+{} more", concern.len() - shown)
}

/// `code 4.1234±0.012 (9 %)`
fn domain_text(domain: &DomainLoss, share: Option<f64>) -> String {
    let error = domain.standard_error.filter(|error| error.is_finite());
    let error = error.map_or(String::new(), |error| format!("±{error:.3}"));
    let share = share.map_or(String::new(), |share| format!(" ({:.0} %)", 100.0 * share));
    format!("{} {}{error}{share}", domain.domain, optional(domain.loss, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(losses: &[f64], excess: Option<Vec<Option<f64>>>) -> EvalReport {
        let domain = |(at, loss): (usize, &f64)| json!({ "domain": format!("d{at}"), "loss": loss, "standard_error": 0.0125, "rows": 8, "tokens": 800 });
        let domains = losses.iter().enumerate().map(domain).collect::<Vec<_>>();
        let share = vec![1.0 / losses.len() as f64; losses.len()];
        serde_json::from_value(json!({
            "step": 10, "gates": "plain", "domains": domains, "row_losses": null, "mean": 1.0, "excess": excess,
            "proportions": share, "mixer_updated": false, "row_sparsity": {}, "masks": null,
        }))
        .unwrap()
    }

    #[test]
    fn few_domains_are_all_there() {
        let line = DomainLine::default().of(&report(&[3.0, 2.5], None));
        assert_eq!(line, "d0 3.0000±0.013 (50 %)  d1 2.5000±0.013 (50 %)");
        assert_eq!(step_losses(&[("a", 1.0), ("b", 2.0)], 80), "[a 1.000 b 2.000]");
        assert_eq!(step_losses(&[], 80), "");
    }

    #[test]
    fn of_many_domains_the_worst_are_named_and_the_others_counted() {
        let mut losses = [3.0; 11];
        (losses[4], losses[7]) = (5.0, 4.0);
        let mut line = DomainLine::default();
        let first = line.of(&report(&losses, None));
        assert_eq!(first, "highest: d4 5.0000±0.013 (9 %)  d7 4.0000±0.013 (9 %)  +9 more");
        (losses[2], losses[9]) = (3.5, 3.25);
        let later = line.of(&report(&losses, None));
        assert!(later.starts_with("worst since the start: d2 3.5000±0.013 (9 %)  d9 3.25"), "{later}");
        let mut excess = vec![Some(0.0); 11];
        (excess[1], excess[3], excess[5]) = (Some(0.5), None, Some(0.75));
        let above = line.of(&report(&losses, Some(excess)));
        assert!(above.starts_with("furthest above reference: d5 ") && above.contains("  d1 "), "{above}");
        assert!([first, later, above].iter().all(|line| line.chars().count() < 90));
    }

    #[test]
    fn domains_that_find_no_room_are_counted_and_none_is_cut() {
        let losses = [("code", 1.0), ("wiki", 3.0), ("web", 2.0)];
        let told = |room: usize| step_losses(&losses, room);
        assert_eq!(told(34), "[code 1.000 wiki 3.000 web 2.000]");
        assert_eq!(told(32), "[highest: wiki 3.000 +2 more]", "two of them need 39");
        assert_eq!(told(10), "", "rather none than half of one");
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_left_out() {
        let losses: Vec<(&str, f64)> = vec![("a", 1.0), ("b", 9.0), ("c", 2.0), ("d", f64::NAN), ("e", 3.0)];
        assert_eq!(step_losses(&losses, usize::MAX), "[highest: d NaN b 9.000 +3 more]");
    }
}
