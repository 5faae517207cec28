//! The domains: what the cut did to each, what training recovered, and where the data went.

use super::{NamedTable, Over, Section, add, by_run, domain_names, eval_series, rows_each, run_dash, step_series};
use crate::inspect::{Column, DomainStory, HeldOutLoss, Later};
use crate::report::chart::{Axis, Caption, DataTable, Figure, LineSpec, RowChart, RowEntry, RowMark, Series, reach};
use crate::report::from_eval;
use crate::report::lineage::{RunView, line_name, lines};
use crate::report::number::{Unit, decimals, significant};
use crate::report::side_files::EvalFile;

pub(super) fn section(runs: &[RunView], eval: Option<&EvalFile>) -> Section {
    let mut figures = Vec::new();
    let mut tables = Vec::new();
    let lines = lines(runs);
    for (number, line) in lines.iter().enumerate() {
        let stories = from_eval::recorded(line, runs, eval);
        let name = if lines.len() > 1 { format!(" ({})", line_name(line, &lines)) } else { String::new() };
        let suffix = if lines.len() > 1 { format!("-{number}") } else { String::new() };
        figures.extend(losses(&stories, &suffix, &name));
        figures.extend(shares(&stories, &suffix, &name));
        tables.extend(table(&stories, &name));
    }
    let about = "From which domains the batches are drawn; a step is an evaluation at which the mix moved. A mixer that is not static \
         moves towards those farthest above their reference.";
    let caption = Caption::new("proportions", "Proportions", about);
    let lines = by_domain(runs);
    add(
        &mut figures,
        LineSpec::new(caption, "step", "share of the batch", Unit::Percent).include(&[0.0]).stepped(),
        lines,
        vec![],
    );

    let about = "Held-out loss − the domain's reference, at every evaluation; below zero the model is better than the \
                 reference. It is what the mixer acts on: the kinds dynamic and bounded on what lies above zero, signed on \
                 all of it.";
    let caption = Caption::new("excess", "Excess loss", about);
    add(
        &mut figures,
        LineSpec::new(caption, "step", "nats above reference", Unit::Plain).include(&[0.0]),
        excess(runs),
        vec![],
    );
    Section {
        id: "domains".into(),
        title: "Domains".into(),
        about: "On which text pruning degraded the model, what it recovered, and what it was trained on.".into(),
        figures,
        tables,
        ..Section::default()
    }
}

/// Source, just cut, now; where a later run evaluated other rows, its own two losses beside them.
fn losses(stories: &[DomainStory], suffix: &str, name: &str) -> Option<Figure> {
    type Choose = fn(&DomainStory) -> Option<HeldOutLoss>;
    let entry = |name: &str, colour: usize, choose: Choose| RowEntry {
        name: name.to_string(),
        colour,
        values: stories.iter().map(|story| choose(story).map(|held| (held.loss, held.standard_error))).collect(),
    };
    let other: Choose = |story| story.continued_from.filter(|_| story.later == Later::OtherRows);
    let entries = vec![
        entry("source", 0, |s| s.source),
        entry("just cut", 1, |s| s.cut),
        // Right after the cut there is no third loss yet.
        entry("now", 2, |s| s.last.filter(|_| s.later == Later::SameRows)),
        entry("just cut, on the later run's rows", 4, other),
        entry("now, on the later run's rows", 3, |s| s.last.filter(|_| s.later == Later::OtherRows)),
    ];
    let values = reach(&entries);
    let axis = Axis::fit("held-out loss, nats per token", Unit::Plain, false, &[], values.into_iter());
    let mut about =
        "Per domain: the source before pruning, the model just cut to its target, and the last evaluation. Whiskers \
                     are standard errors. A dot back at the source's loss has recovered."
            .to_string();
    let held_out = stories.iter().filter_map(|story| story.last.or(story.cut)?.held_out_rows());
    about.push_str(&format!(" Losses are of held-out rows{}.", rows_each(held_out)));
    if stories.iter().any(|story| story.evaluated) {
        about.push_str(
            " Where no run evaluated source and cut on the same rows, the losses are those given with --eval.",
        );
    }
    let bare =
        |story: &DomainStory| !story.evaluated && story.source.is_some_and(|source| source.standard_error.is_none());
    if stories.iter().any(bare) {
        about.push_str(" The source is a reference loss, whose error is not recorded: it has no whiskers.");
    }
    if let Some(rows) = stories.iter().find_map(DomainStory::reference_rows) {
        about.push_str(&format!(" The reference losses are {rows}."));
    }
    if stories.iter().any(|story| story.later == Later::OtherRows) {
        about.push_str(" The later run evaluated other rows: its losses compare with one another only.");
    }
    let caption = Caption::new(format!("domain-losses{suffix}"), format!("Degraded and recovered{name}"), about);
    let rows = stories.iter().map(|story| story.domain.clone()).collect();
    RowChart::build(caption, axis, RowMark::Dot, rows, entries).map(Figure::Rows)
}

/// Part of all rows that each domain gave.
fn shares(stories: &[DomainStory], suffix: &str, name: &str) -> Option<Figure> {
    let all: f64 = stories.iter().filter_map(|story| story.rows).sum();
    let share = |story: &DomainStory| story.rows.filter(|_| all > 0.0).map(|rows| (rows / all, None));
    let entries = vec![RowEntry { name: "rows seen".into(), colour: 2, values: stories.iter().map(share).collect() }];
    let values = reach(&entries);
    let axis = Axis::fit("share of all rows", Unit::Percent, false, &[0.0], values.into_iter());
    let caption = Caption::new(
        format!("domain-rows{suffix}"),
        format!("Where the data went{name}"),
        "Rows drawn from each domain, as a share of all.",
    );
    let rows = stories.iter().map(|story| story.domain.clone()).collect();
    RowChart::build(caption, axis, RowMark::Bar, rows, entries).map(Figure::Rows)
}

fn table(stories: &[DomainStory], name: &str) -> Option<NamedTable> {
    let loss = |held: Option<HeldOutLoss>| held.map_or("–".to_string(), |held| decimals(held.loss, 3));
    let share = |value: Option<f64>| Unit::Percent.optional(value);
    let row = |story: &DomainStory| {
        vec![
            story.domain.clone(),
            loss(story.source),
            loss(story.cut),
            loss(story.last),
            story.degradation_tenths().map_or("–".into(), |errors| format!("{errors:+.1} SE")),
            recovered(story),
            format!("{} → {}", share(story.first_proportion), share(story.last_proportion)),
            Unit::Count.optional(story.rows),
            story.epochs.map_or("–".into(), |epochs| significant(epochs, 2)),
        ]
    };
    let header =
        ["domain", "source", "just cut", "now", "degraded by", "recovered", "proportion", "rows trained on", "epochs"];
    let table = DataTable { header: header.map(String::from).to_vec(), rows: stories.iter().map(row).collect() };
    let table = table.without_empty_columns();
    (!stories.is_empty()).then(|| NamedTable { title: format!("By domain{name}"), table, folded: false })
}

/// The share that was recovered, or why there is none.
fn recovered(story: &DomainStory) -> String {
    match (story.recovered, story.later) {
        (Some(part), _) if part < 0.0 => "worse".to_string(),
        (Some(part), _) => Unit::Percent.text(part),
        (None, Later::OtherRows) => "other rows".to_string(),
        (None, Later::NotContinued) => "not continued".to_string(),
        (None, Later::SameRows | Later::Nothing) => "–".to_string(),
    }
}

fn by_domain(runs: &[RunView]) -> Vec<Series> {
    let names = domain_names(runs);
    let of_run = |run: &RunView| {
        let line = |steps: &crate::inspect::DomainSteps| {
            let colour = names.iter().position(|name| *name == steps.domain)?;
            Some(step_series(run, &steps.domain, (colour, run_dash(run)), &changes(&steps.proportion), Over::Steps))
        };
        run.history.steps.domains.iter().filter_map(line).collect::<Vec<_>>()
    };
    by_run(runs.iter().flat_map(of_run).collect())
}

/// A column without the values that only say again what the one before says; the last one stays.
fn changes(column: &Column) -> Column {
    let last = column.len().saturating_sub(1);
    let mut before = None;
    let kept = column.iter().enumerate().map(|(index, value)| {
        let says_more = *value != before || index == last;
        before = value.or(before);
        value.filter(|_| says_more)
    });
    kept.collect()
}

fn excess(runs: &[RunView]) -> Vec<Series> {
    let names = domain_names(runs);
    let of_run = |run: &RunView| {
        let line = |(colour, name): (usize, &String)| {
            eval_series(run, name, (colour, run_dash(run)), Over::Steps, |e| {
                e.domain(name).filter(|_| !e.is_soft()).and_then(|domain| domain.excess)
            })
        };
        names.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    by_run(runs.iter().flat_map(of_run).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_drawn_by_where_it_changes() {
        let column = [Some(0.1), Some(0.1), None, Some(0.1), Some(0.3), Some(0.3), Some(0.3)].to_vec();
        let kept = [Some(0.1), None, None, None, Some(0.3), None, Some(0.3)];
        assert_eq!(changes(&column), kept);
        assert!(changes(&Vec::new()).is_empty());
    }
}
