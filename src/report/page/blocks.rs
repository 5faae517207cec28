//! The building blocks of the page: a figure with legend, plot and its numbers, the slider over mask snapshots, tables.
//! Everything has a name that `report.js` finds again when a served page is replaced.

use crate::report::chart::{DataTable, Figure, Form, LegendEntry, Switch};
use crate::report::figures::{NamedTable, Slider};
use crate::report::markup::Markup;
use crate::report::number::Unit;

pub(super) fn write_slider(out: &mut Markup, slider: &Slider) {
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

pub(super) fn write_figure(out: &mut Markup, figure: &Figure) {
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
            let selection = figure.selection().map_or(String::new(), |part| format!(": {part}"));
            out.text_element("summary", &[], format!("Numbers{selection}"));
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
                            if let Some(glyph) = entry.glyph {
                                let place = [
                                    ("class", &"glyph" as _),
                                    ("d", &glyph as _),
                                    ("transform", &"translate(12 5)" as _),
                                ];
                                group.leaf("path", &place);
                            }
                        });
                    });
                    out.text(&entry.label);
                },
            );
        }
    });
}

pub(super) fn write_named_table(out: &mut Markup, table: &NamedTable, id: &str) {
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
    let class = |column: usize| if is_words(table, column) { "words" } else { "number" };
    // It scrolls by itself, so that the page does not.
    out.element("div", &[("class", &"scroll"), ("tabindex", &0), ("role", &"region"), ("aria-label", &title)], |out| {
        out.element("table", &[], |out| {
            out.element("thead", &[], |head| {
                head.element("tr", &[], |row| {
                    for (column, cell) in table.header.iter().enumerate() {
                        row.text_element("th", &[("scope", &"col"), ("class", &class(column))], cell);
                    }
                });
            });
            out.element("tbody", &[], |body| table.rows.iter().for_each(|cells| write_row(body, table, cells)));
        });
    });
}

fn write_row(body: &mut Markup, table: &DataTable, cells: &[String]) {
    body.element("tr", &[], |row| {
        for (column, cell) in cells.iter().enumerate() {
            match column {
                0 => row.text_element("th", &[("scope", &"row")], cell),
                _ if is_words(table, column) => row.text_element("td", &[("class", &"words")], cell),
                _ => row.text_element("td", &[], cell),
            }
        }
    });
}

/// Whether most cells of a column begin with a letter: sentences stand to the left, numbers to the right.
fn is_words(table: &DataTable, column: usize) -> bool {
    let words =
        table.rows.iter().filter_map(|row| row.get(column)?.chars().next()).filter(|first| first.is_alphabetic());
    2 * words.count() > table.rows.len()
}
