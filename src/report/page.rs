//! The page: one HTML file with everything in it. Warnings first, then the answers, then the figures; readable without
//! script, and closed to the outside: its policy allows our one script and our one style by their hashes, and nothing
//! else from anywhere.

use super::Report;
use super::answers::{Answer, Verdict};
use super::chart::{DataTable, Figure, Form, LegendEntry, Switch};
use super::data::{data, embedded};
use super::figures::{NamedTable, Section, Slider};
use super::lineage::views;
use super::markup::Markup;
use super::number::Unit;
use crate::inspect::{Note, Severity};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page/report.css");
const SCRIPT: &str = include_str!("page/report.js");
/// Warnings that are not folded: enough to be alarmed, few enough to get to the answers.
const SHOWN_WARNINGS: usize = 8;

/// The report as an HTML file. A `live` one asks its server for news.
pub fn html(report: &Report, live: bool) -> String {
    let sections = report.sections();
    let mut page = Markup::new();
    page.verbatim("<!doctype html>\n");
    page.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |head| write_head(head, report, live));
        let body: &[(&'static str, &dyn std::fmt::Display)] = if live { &[("data-live", &"yes")] } else { &[] };
        html.element("body", body, |body| {
            body.text_element("a", &[("class", &"skip"), ("href", &"#main")], "To the report");
            body.element("header", &[], |header| write_header(header, report, &sections, live));
            body.element("main", &[("id", &"main"), ("tabindex", &"-1")], |main| write_main(main, report, &sections));
            body.element("footer", &[], |footer| footer.text(made_with()));
            body.text_element("p", &[("id", &"heard"), ("class", &"heard"), ("aria-live", &"polite")], "");
            body.element("script", &[("type", &"application/json"), ("id", &"report-data")], |script| {
                script.verbatim(&embedded(&data(report)));
            });
            body.element("script", &[], |script| script.verbatim(SCRIPT));
        });
    });
    page.into_string()
}

fn made_with() -> String {
    format!("Made by shearling {}. This file needs no network and sends nothing.", env!("CARGO_PKG_VERSION"))
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn write_head(head: &mut Markup, report: &Report, live: bool) {
    head.leaf("meta", &[("charset", &"utf-8")]);
    // The icon is an empty one of our own. A file talks to nobody, a served page to its own server.
    let connect = if live { "'self'" } else { "'none'" };
    let policy = format!(
        "default-src 'none'; img-src data:; script-src {}; style-src {}; connect-src {connect}; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    head.leaf("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
    head.leaf("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
    // Browsers ask for an icon otherwise.
    head.leaf("link", &[("rel", &"icon"), ("href", &"data:,")]);
    head.text_element("title", &[], &report.title);
    head.element("style", &[], |style| style.verbatim(STYLE));
}

fn write_header(header: &mut Markup, report: &Report, sections: &[Section], live: bool) {
    header.element("div", &[("class", &"top")], |top| {
        top.element("div", &[], |left| {
            left.text_element("h1", &[], &report.title);
            for view in views(&report.runs) {
                let run = view.history;
                let planned =
                    run.planned_steps.map_or(String::new(), |steps| format!(" of {}", Unit::Count.text(steps as f64)));
                let facts = [
                    run.stage.clone(),
                    Some(format!("{}{planned} steps", Unit::Count.text(run.finished_steps as f64))),
                    run.tokens.map(|tokens| format!("{} tokens", Unit::Count.text(tokens))),
                    Some(Unit::Seconds.text(run.seconds)),
                    run.device.clone(),
                    run.version.as_ref().map(|version| format!("shearling {version}")),
                ];
                let facts = facts.into_iter().flatten().collect::<Vec<_>>().join(", ");
                left.text_element("p", &[("class", &"muted")], format!("{}: {facts}", view.label));
            }
        });
        top.element("div", &[], |right| {
            right.text_element("button", &[("type", &"button"), ("id", &"theme"), ("hidden", &"")], "Colours: system");
            if live {
                right.text_element("p", &[("id", &"live"), ("class", &"muted"), ("role", &"status")], "Live");
            }
        });
    });
    header.element("nav", &[("aria-label", &"Sections")], |nav| {
        nav.element("ul", &[], |list| {
            let fixed = [("warnings", "Warnings"), ("answers", "Answers")];
            let own = sections.iter().map(|section| (section.id.as_str(), section.title.as_str()));
            for (id, title) in fixed.into_iter().chain(own).chain([("configuration", "Configuration")]) {
                list.element("li", &[], |item| item.text_element("a", &[("href", &format!("#{id}"))], title));
            }
        });
    });
}

fn write_main(main: &mut Markup, report: &Report, sections: &[Section]) {
    section(main, "warnings", "Warnings", |out| write_notes(out, report));
    section(main, "answers", "Answers", |out| {
        let groups = report.answers();
        for (run, answers) in &groups {
            if groups.len() > 1 {
                out.text_element("h3", &[], run);
            }
            out.element("div", &[("class", &"answers")], |out| {
                answers.iter().for_each(|answer| write_answer(out, answer))
            });
        }
    });
    for part in sections {
        section(main, &part.id, &part.title, |out| write_section(out, part));
    }
    section(main, "configuration", "Configuration", |out| write_configurations(out, report));
}

fn section(out: &mut Markup, id: &str, title: &str, content: impl FnOnce(&mut Markup)) {
    let heading = format!("{id}-heading");
    out.element("section", &[("id", &id), ("aria-labelledby", &heading)], |out| {
        out.text_element("h2", &[("id", &heading)], title);
        content(out);
    });
}

fn write_notes(out: &mut Markup, report: &Report) {
    let views = views(&report.runs);
    let notes: Vec<(&str, &Note)> =
        views.iter().flat_map(|view| view.history.notes.iter().map(|note| (view.label.as_str(), note))).collect();
    let (warnings, others): (Vec<_>, Vec<_>) =
        notes.into_iter().partition(|(_, note)| note.severity == Severity::Warning);
    out.element("ul", &[("class", &"notes")], |list| {
        if warnings.is_empty() {
            list.text_element(
                "li",
                &[("class", &"fine")],
                "None: nothing is missing, and the runs ended as they should.",
            );
        }
        warnings.iter().take(SHOWN_WARNINGS).for_each(|(run, note)| write_note(list, run, note, views.len() > 1));
    });
    let rest: Vec<_> = warnings.iter().skip(SHOWN_WARNINGS).chain(&others).collect();
    if !rest.is_empty() {
        out.element("details", &[("id", &"more-notes")], |out| {
            let more = warnings.len().saturating_sub(SHOWN_WARNINGS);
            out.text_element("summary", &[], format!("{more} more warnings, {} remarks", others.len()));
            out.element("ul", &[("class", &"notes")], |list| {
                rest.iter().for_each(|(run, note)| write_note(list, run, note, views.len() > 1));
            });
        });
    }
}

fn write_note(list: &mut Markup, run: &str, note: &Note, several: bool) {
    let class = if note.severity == Severity::Warning { "warning" } else { "info" };
    let text = if several { format!("{run}: {}", note.text) } else { note.text.clone() };
    list.text_element("li", &[("class", &class)], text);
}

fn write_answer(out: &mut Markup, answer: &Answer) {
    out.element("article", &[("class", &"answer")], |out| {
        out.text_element("h3", &[], answer.question);
        let class = match answer.verdict {
            Verdict::Good => "verdict good",
            Verdict::Bad => "verdict bad",
            Verdict::Open => "verdict open",
            Verdict::Fact => "verdict fact",
        };
        out.text_element("p", &[("class", &class)], &answer.answer);
        if !answer.points.is_empty() {
            out.element("ul", &[], |list| answer.points.iter().for_each(|point| list.text_element("li", &[], point)));
        }
    });
}

fn write_section(out: &mut Markup, part: &Section) {
    out.text_element("p", &[("class", &"muted")], &part.about);
    if let Some(slider) = &part.slider {
        write_slider(out, slider);
    }
    out.element("div", &[("class", &"figures")], |out| {
        part.figures.iter().for_each(|figure| write_figure(out, figure))
    });
    for (index, table) in part.tables.iter().enumerate() {
        write_named_table(out, table, &format!("{}-table-{index}", part.id));
    }
}

fn write_slider(out: &mut Markup, slider: &Slider) {
    let maps = slider.maps.join(" ");
    out.element("div", &[("class", &"slider"), ("data-maps", &maps)], |out| {
        let last = slider.frames.saturating_sub(1);
        out.element("label", &[("for", &slider.id)], |label| {
            label.text("Mask snapshot: ");
            label.text_element(
                "output",
                &[("for", &slider.id)],
                format!("step {}", Unit::Count.text(slider.last_step as f64)),
            );
        });
        out.leaf(
            "input",
            &[
                ("type", &"range"),
                ("id", &slider.id),
                ("min", &0),
                ("max", &last),
                ("value", &last),
                ("disabled", &""),
                ("autocomplete", &"off"),
            ],
        );
        out.element("dl", &[("class", &"numbers")], |list| {
            for (name, text) in &slider.numbers {
                list.element("div", &[], |pair| {
                    pair.text_element("dt", &[], name);
                    pair.text_element("dd", &[], text);
                });
            }
        });
    });
}

fn write_figure(out: &mut Markup, figure: &Figure) {
    let caption = figure.caption();
    out.element("figure", &[("id", &format!("fig-{}", caption.id)), ("data-figure", &caption.id)], |out| {
        out.element("figcaption", &[], |out| {
            out.text_element("h3", &[], &caption.title);
            out.text_element("p", &[], &caption.about);
        });
        write_legend(out, &caption.id, &figure.legend());
        let label = format!("{}: arrow keys read the values", caption.title);
        let plot = format!("plot-{}", caption.id);
        out.element(
            "div",
            &[("class", &"plot"), ("id", &plot), ("tabindex", &0), ("role", &"group"), ("aria-label", &label)],
            |out| {
                out.append(&figure.svg(Form::Page));
                out.text_element("div", &[("class", &"tip"), ("hidden", &"")], "");
            },
        );
        out.element("details", &[("id", &format!("numbers-{}", caption.id))], |out| {
            out.text_element("summary", &[], "Numbers");
            write_table(out, &figure.table(), &caption.title);
        });
    });
}

fn write_legend(out: &mut Markup, figure: &str, legend: &[LegendEntry]) {
    if legend.len() < 2 {
        return;
    }
    out.element("div", &[("class", &"legend"), ("role", &"group"), ("aria-label", &"Show or hide")], |out| {
        for entry in legend {
            let switch = match entry.switch {
                Switch::Name => "name",
                Switch::Run => "run",
            };
            let id = format!("switch-{figure}-{switch}-{}", entry.index);
            out.element(
                "button",
                &[
                    ("type", &"button"),
                    ("id", &id),
                    ("aria-pressed", &"true"),
                    ("data-switch", &switch),
                    ("data-index", &entry.index),
                ],
                |out| {
                    out.element("svg", &[("viewBox", &"0 0 24 10"), ("aria-hidden", &"true")], |svg| {
                        svg.element("g", &[("class", &entry.classes)], |group| {
                            group.leaf("path", &[("class", &"line"), ("d", &"M0 5h24")]);
                        });
                    });
                    out.text(&entry.label);
                },
            );
        }
    });
}

fn write_named_table(out: &mut Markup, table: &NamedTable, id: &str) {
    if table.folded {
        out.element("details", &[("id", &id)], |out| {
            out.text_element("summary", &[], &table.title);
            write_table(out, &table.table, &table.title);
        });
    } else {
        out.text_element("h4", &[], &table.title);
        write_table(out, &table.table, &table.title);
    }
}

fn write_table(out: &mut Markup, table: &DataTable, title: &str) {
    // It scrolls by itself, so that the page does not.
    out.element("div", &[("class", &"scroll"), ("tabindex", &0), ("role", &"region"), ("aria-label", &title)], |out| {
        out.element("table", &[], |out| {
            out.element("thead", &[], |head| {
                head.element("tr", &[], |row| {
                    table.header.iter().for_each(|cell| row.text_element("th", &[("scope", &"col")], cell));
                });
            });
            out.element("tbody", &[], |body| {
                for cells in &table.rows {
                    body.element("tr", &[], |row| {
                        for (index, cell) in cells.iter().enumerate() {
                            match index {
                                0 => row.text_element("th", &[("scope", &"row")], cell),
                                _ => row.text_element("td", &[], cell),
                            }
                        }
                    });
                }
            });
        });
    });
}

fn write_configurations(out: &mut Markup, report: &Report) {
    for view in views(&report.runs) {
        out.element("details", &[("id", &format!("configuration-{}", view.index))], |out| {
            out.text_element("summary", &[], format!("{}: resolved.toml", view.label));
            match &view.history.config {
                Some(config) => out.text_element("pre", &[("tabindex", &0)], config),
                None => out.text_element("p", &[], "resolved.toml is missing or cannot be read."),
            }
        });
    }
}
