//! The page: one HTML file with everything in it. The answers first, then warnings, then the figures; readable without
//! script, and closed to the outside: its policy allows our one script and our one style by their hashes, and nothing
//! else from anywhere.

mod blocks;
mod header;
mod notes;

use super::Report;
use super::answers::{Answer, Verdict};
use super::data::{data, embedded};
use super::figures::Section;
use super::lineage::views;
use super::markup::Markup;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use blocks::{write_figure, write_named_table, write_slider};
use header::write_header;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

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

fn write_main(main: &mut Markup, report: &Report, sections: &[Section]) {
    section(main, "answers", "Answers", |out| {
        report.not_joined().iter().for_each(|text| out.text_element("p", &[("class", &"muted")], text));
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
    section(main, "warnings", "Warnings", |out| notes::write_notes(out, &views(&report.runs)));
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

fn write_answer(out: &mut Markup, answer: &Answer) {
    out.element("article", &[("class", &"answer")], |out| {
        out.text_element("h3", &[], answer.question);
        let class = match answer.verdict {
            Verdict::Good => "verdict good",
            Verdict::Bad => "verdict bad",
            Verdict::Open => "verdict open",
            Verdict::Fact => "verdict fact",
        };
        out.text_element("p", &[("class", &class)], unbroken(&answer.answer));
        if !answer.points.is_empty() {
            out.element("ul", &[], |list| {
                answer.points.iter().for_each(|point| list.text_element("li", &[], unbroken(point)))
            });
        }
    });
}

/// A number and its per cent sign stay on one line.
fn unbroken(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
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
