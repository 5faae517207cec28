//! Warnings and remarks of the runs. What is said of several runs is said once, with the names of all.

use crate::inspect::{Note, Severity};
use crate::report::lineage::RunView;
use crate::report::markup::Markup;
use crate::words::counted;

/// Warnings that are not folded: enough to be alarmed, few enough to get to the figures.
const SHOWN_WARNINGS: usize = 8;

/// A note, and the runs of which it is said.
struct Said<'a> {
    runs: Vec<&'a str>,
    note: &'a Note,
}

pub(super) fn write_notes(out: &mut Markup, views: &[RunView]) {
    let (warnings, others): (Vec<Said>, Vec<Said>) =
        once(views).into_iter().partition(|said| said.note.severity == Severity::Warning);
    let several = views.len() > 1;
    out.element("ul", &[("class", &"notes")], |list| {
        if warnings.is_empty() {
            let fine = match views.iter().any(|view| view.history.process.is_some()) {
                true => "None so far: nothing is missing, and a run is going on.",
                false => "None: nothing is missing, and the runs ended as they should.",
            };
            list.text_element("li", &[("class", &"fine")], fine);
        }
        warnings.iter().take(SHOWN_WARNINGS).for_each(|said| write_note(list, said, several));
    });
    let rest: Vec<&Said> = warnings.iter().skip(SHOWN_WARNINGS).chain(&others).collect();
    if rest.is_empty() {
        return;
    }
    let folded = [(warnings.len().saturating_sub(SHOWN_WARNINGS), "more warning"), (others.len(), "remark")];
    let folded = folded.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(count as u64, what));
    out.element("details", &[("id", &"more-notes")], |out| {
        out.text_element("summary", &[], folded.collect::<Vec<_>>().join(", "));
        out.element("ul", &[("class", &"notes")], |list| {
            rest.iter().for_each(|said| write_note(list, said, several));
        });
    });
}

/// Every text once, in the order in which they are first said.
fn once<'a>(views: &'a [RunView<'a>]) -> Vec<Said<'a>> {
    let mut said: Vec<Said> = Vec::new();
    for (run, note) in views.iter().flat_map(|view| view.history.notes.iter().map(|note| (view.label.as_str(), note))) {
        match said.iter_mut().find(|known| known.note == note) {
            Some(known) if known.runs.contains(&run) => (),
            Some(known) => known.runs.push(run),
            None => said.push(Said { runs: vec![run], note }),
        }
    }
    said
}

fn write_note(list: &mut Markup, said: &Said, several: bool) {
    let class = if said.note.severity == Severity::Warning { "warning" } else { "info" };
    let text = match several {
        true => format!("{}: {}", said.runs.join(", "), said.note.text),
        false => said.note.text.clone(),
    };
    list.text_element("li", &[("class", &class)], text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::RunHistory;

    #[test]
    fn what_is_said_of_several_runs_is_said_once() {
        let run = |texts: &[&str]| RunHistory {
            notes: texts.iter().map(|text| Note { severity: Severity::Warning, text: text.to_string() }).collect(),
            ..RunHistory::default()
        };
        let runs = [run(&["lost", "torn", "torn"]), run(&["lost"]), run(&["late"])];
        let view = |(index, history)| RunView {
            history,
            label: format!("run {index}"),
            index,
            parent: None,
            tokens_before: 0.0,
        };
        let views: Vec<RunView> = runs.iter().enumerate().map(view).collect();
        let mut page = Markup::new();
        write_notes(&mut page, &views);
        let page = page.into_string();
        for text in [">run 0, run 1: lost<", ">run 0: torn<", ">run 2: late<"] {
            assert_eq!(page.matches(text).count(), 1, "{text}: {page}");
        }
        assert_eq!(page.matches("<li").count(), 3, "{page}");
    }
}
