//! The top of the page: headline, the runs in a line each, the switch for light and dark, the way to the sections.

use crate::inspect::RunHistory;
use crate::report::Report;
use crate::report::figures::Section;
use crate::report::lineage::{RunView, views};
use crate::report::markup::Markup;
use crate::report::number::Unit;
use crate::words;

pub(super) fn write_header(header: &mut Markup, report: &Report, sections: &[Section], live: bool) {
    header.element("div", &[("class", &"top")], |top| {
        top.element("div", &[], |left| {
            left.text_element("h1", &[], &report.title);
            left.element("div", &[("id", &"runs"), ("class", &"muted")], |runs| {
                views(&report.runs).iter().for_each(|view| runs.text_element("p", &[], facts(view)));
            });
        });
        top.element("div", &[], |right| {
            right.text_element("button", &[("type", &"button"), ("id", &"theme"), ("hidden", &"")], "Colours: system");
            if live {
                right.text_element("p", &[("id", &"live"), ("class", &"muted"), ("role", &"status")], "Live");
            }
        });
    });
    header.element("nav", &[("id", &"sections"), ("aria-label", &"Sections")], |nav| {
        nav.element("ul", &[], |list| {
            let fixed = [("answers", "Answers"), ("warnings", "Warnings")];
            let own = sections.iter().map(|section| (section.id.as_str(), section.title.as_str()));
            for (id, title) in fixed.into_iter().chain(own).chain([("configuration", "Configuration")]) {
                list.element("li", &[], |item| item.text_element("a", &[("href", &format!("#{id}"))], title));
            }
        });
    });
}

/// Its time, and whether evaluations are in it.
fn time_taken(run: &RunHistory) -> String {
    match run.evaluation_seconds {
        Some(evaluations) => format!(
            "{} ({} of it evaluations)",
            Unit::Seconds.text(run.seconds + evaluations),
            Unit::Seconds.text(evaluations)
        ),
        None => format!("{} without evaluations", Unit::Seconds.text(run.seconds)),
    }
}

/// A run in a line.
fn facts(view: &RunView) -> String {
    let run = view.history;
    let steps = match run.planned_steps {
        Some(all) if all != run.finished_steps => {
            format!("{} of {}", words::thousands(run.finished_steps), words::counted(all, "step"))
        }
        _ => words::counted(run.finished_steps, "step"),
    };
    let trained = !run.one_shot;
    let facts = [
        if trained { run.stage.clone() } else { Some("one-shot cut".to_string()) },
        Some(steps).filter(|_| trained),
        run.tokens.map(|tokens| format!("{} tokens", Unit::Count.text(tokens))),
        Some(time_taken(run)).filter(|_| trained),
        run.device.as_deref().map(words::device),
        run.version.as_ref().map(|version| format!("shearling {version}")),
    ];
    format!("{}: {}", view.label, facts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}
