//! How many units a model that activates fewer neurons runs: over the steps beside what was asked, and at the last
//! evaluation by layer and by domain.

use super::{Over, Section, add, eval_series, marks, run_style, step_series};
use crate::inspect::{EvaluatedExperts, NamedShare};
use crate::report::chart::{
    Axis, Caption, Figure, LineSpec, REFERENCE_DASH, RowChart, RowEntry, RowMark, Series, reach,
};
use crate::report::lineage::RunView;
use crate::report::number::Unit;

/// The shares that a chart has a row for each of.
type Choose = fn(&EvaluatedExperts) -> &[NamedShare];

pub(super) fn section(runs: &[RunView]) -> Section {
    let routed: Vec<&RunView> = runs.iter().filter(|run| run.history.experts.is_some()).collect();
    let mut figures = Vec::new();
    let about = "Share of intermediate units that run, mean over tokens and layers: in the batch of each step, and on held-out \
                 rows. Dotted: the share asked for. In stage 2, when routers are frozen, a common shift of all routers holds it.";
    let caption = Caption::new("experts-density", "Units that run", about);
    let spec = LineSpec::new(caption, "step", "share of the units", Unit::Percent).include(&[0.0, 1.0]);
    let events = marks(routed.iter().copied(), routed.len() > 1);
    add(&mut figures, spec, routed.iter().flat_map(|run| density(run)).collect(), events);
    let charts: [(&str, &str, &str, Choose); 2] = [
        (
            "experts-layers",
            "Units that run by layer",
            "At the last evaluation. Layers compete: one that runs few units leaves more to the others.",
            |experts| &experts.layers,
        ),
        (
            "experts-domains",
            "Units that run by domain",
            "At the last evaluation. Text that the model finds easy needs fewer.",
            |experts| &experts.domains,
        ),
    ];
    for (id, title, about, choose) in charts {
        figures.extend(by_name(&routed, Caption::new(id, title, about), choose));
    }
    let about = "Routers choose for each token which groups of intermediate units (experts) run.";
    Section { id: "experts".into(), title: "Experts".into(), about: about.into(), figures, ..Section::default() }
}

/// In batches, asked for, and on held-out rows.
fn density(run: &RunView) -> [Series; 3] {
    let (steps, (colour, dash)) = (&run.history.steps, run_style(run));
    let named = |what: &str| format!("{}, {what}", run.label);
    let held_out = |evaluation: &crate::inspect::Evaluation| evaluation.experts.as_ref()?.density;
    // Another colour: it would hide in the noise of the steps.
    let evaluated = eval_series(run, &named("held out"), (colour + 1, dash), Over::Steps, held_out);
    [
        step_series(run, &named("in the batch"), (colour, dash), &steps.router_density, Over::Steps),
        step_series(run, &named("asked"), (colour, REFERENCE_DASH), &steps.router_density_target, Over::Steps),
        evaluated,
    ]
}

/// A bar per layer or domain and run, of its last evaluation.
fn by_name(runs: &[&RunView], caption: Caption, choose: Choose) -> Option<Figure> {
    let last = |run: &RunView| run.history.evaluations.iter().rev().find_map(|evaluation| evaluation.experts.clone());
    let known: Vec<(&RunView, EvaluatedExperts)> = runs.iter().filter_map(|run| Some((*run, last(run)?))).collect();
    let mut names: Vec<String> = Vec::new();
    for share in known.iter().flat_map(|(_, experts)| choose(experts)) {
        if !names.contains(&share.name) {
            names.push(share.name.clone());
        }
    }
    let entry = |(run, experts): &(&RunView, EvaluatedExperts)| RowEntry {
        name: run.label.clone(),
        colour: run.index,
        values: names
            .iter()
            .map(|name| {
                let share = choose(experts).iter().find(|share| share.name == *name)?;
                Some((share.density?, None))
            })
            .collect(),
    };
    let entries: Vec<RowEntry> = known.iter().map(entry).collect();
    let values = reach(&entries);
    let axis = Axis::fit("share of the units", Unit::Percent, false, &[0.0], values.into_iter());
    RowChart::build(caption, axis, RowMark::Bar, names, entries).map(Figure::Rows)
}
