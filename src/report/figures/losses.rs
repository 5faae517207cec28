//! Losses: of training, on held-out rows, by domain; by step with runs laid over one another, and by tokens with runs
//! one after the other.

use super::{
    Over, Section, add, add_over_tokens, by_run, domain_names, eval_series, marks, rows_differ, run_dash, run_style,
    step_places, step_series,
};
use crate::inspect::Evaluation;
use crate::report::chart::{COLOURS, Caption, LineSpec, REFERENCE_DASH, Series};
use crate::report::lineage::RunView;
use crate::report::number::Unit;
use crate::report::reduce::known;

/// Points of a line that is noise from step to step.
const NOISY_POINTS: usize = 50;

pub(super) fn section(runs: &[RunView]) -> Section {
    let mut figures = Vec::new();
    let about = "Mean loss of each batch, in nats per target token. The band reaches from the smallest to the largest step \
                 that a point stands for.";
    let caption = Caption::new("loss-training", "Training loss", about);
    let spec = LineSpec::new(caption, "step", "nats per token", Unit::Plain).past_the_start();
    add(&mut figures, spec, training(runs, Over::Steps), marks(runs.iter(), runs.len() > 1));

    let about = "KL divergence of the model's predictions from its teacher's, at distill.temperature, mean of each batch in \
                 nats per target token. At zero the model predicts as its teacher does, whatever the text says; the loss \
                 that is minimised blends it with the training loss (distill.weight).";
    let caption = Caption::new("loss-distillation", "Distillation loss", about);
    let spec = LineSpec::new(caption, "step", "nats per token", Unit::Plain).past_the_start();
    add(&mut figures, spec, distillation(runs), marks(runs.iter(), runs.len() > 1));

    let differ = rows_differ(runs);
    let about = format!("Mean over the domains on held-out rows.{}{differ}", lines_of(runs));
    let caption = Caption::new("loss-heldout", "Held-out loss", about);
    let spec = LineSpec::new(caption, "step", "nats per token", Unit::Plain).past_the_start();
    add(&mut figures, spec, held_out(runs, Over::Steps), marks(runs.iter(), runs.len() > 1));

    let about = format!(
        "The same over tokens: a run that continues the model of another starts where that one ended, at the dashed \
         vertical line.{differ}"
    );
    let caption = Caption::new("loss-tokens", "Held-out loss over tokens", about);
    let spec = LineSpec::new(caption, Over::Tokens.label(), "nats per token", Unit::Plain).past_the_start();
    if tokens_tell_more(runs) {
        add_over_tokens(&mut figures, spec, held_out(runs, Over::Tokens), runs);
    }

    for (id, title, over) in [
        ("loss-domains", "Held-out loss by domain", Over::Steps),
        ("loss-domains-tokens", "Held-out loss by domain over tokens", Over::Tokens),
    ] {
        let chained = runs.iter().any(|run| run.tokens_before > 0.0);
        if over == Over::Tokens && !chained {
            continue;
        }
        let about = format!("{} Switch off what is in the way with the buttons.{differ}", key(runs));
        let caption = Caption::new(id, title, about);
        let spec = LineSpec::new(caption, over.label(), "nats per token", Unit::Plain).past_the_start();
        match over {
            Over::Steps => add(&mut figures, spec, by_domain(runs, over), vec![]),
            Over::Tokens => add_over_tokens(&mut figures, spec, by_domain(runs, over), runs),
        }
    }

    let about = "Loss of each domain's rows in the batches: noisy where a domain has few rows in each.";
    let caption = Caption::new("loss-domains-training", "Training loss by domain", about);
    let spec = LineSpec::new(caption, "step", "nats per token", Unit::Plain).past_the_start();
    add(&mut figures, spec, by_domain_in_training(runs), vec![]);
    Section {
        id: "losses".into(),
        title: "Losses".into(),
        about: "How well the model predicts text, while it is trained and on rows it never trains on.".into(),
        figures,
        ..Section::default()
    }
}

/// Whether a figure over tokens is more than the same one over steps with other numbers below it: a run stands behind
/// another, or two have batches of different sizes.
fn tokens_tell_more(runs: &[RunView]) -> bool {
    let of_step =
        |run: &RunView| Some(run.history.tokens? / run.history.finished_steps as f64).filter(|t| t.is_finite());
    let of_steps: Vec<f64> = runs.iter().filter_map(of_step).collect();
    let (least, most) = of_steps.iter().fold((f64::INFINITY, 0.0), |(low, high), t| (t.min(low), t.max(high)));
    runs.iter().any(|run| run.tokens_before > 0.0) || most > 1.01 * least
}

/// What the lines of held-out losses are, as far as these runs have them.
fn lines_of(runs: &[RunView]) -> String {
    let has = |kind: fn(&Evaluation) -> bool| runs.iter().any(|run| run.history.evaluations.iter().any(kind));
    let told = |there: bool, text: &str| if there { format!(" {text}") } else { String::new() };
    [
        told(
            has(|evaluation| evaluation.gates == "expected"),
            "While masks are learned, the solid line has as many units open as the masks expect; the dotted one is the model cut to \
             its target, which is the one that gets exported.",
        ),
        told(
            has(|evaluation| evaluation.experts.is_some()),
            "Of a run that teaches to activate fewer neurons, the first point is the dense model, all others run the chosen experts.",
        ),
        told(has(Evaluation::is_soft), "Dotted: experts multiplied by their scores."),
        told(has(|evaluation| evaluation.teacher_loss.is_some()), "Level and dotted: a teacher."),
    ]
    .concat()
}

/// What colours, shapes and dashes mean in a figure of domains.
fn key(runs: &[RunView]) -> String {
    let domains = match domain_names(runs).len() > COLOURS.len() {
        true => "Colours and the shapes on the lines are domains",
        false => "Colours are domains",
    };
    let evaluated = runs.iter().filter(|run| !run.history.evaluations.is_empty()).count();
    if evaluated > 1 { format!("{domains}, dashes are runs.") } else { format!("{domains}.") }
}

fn training(runs: &[RunView], over: Over) -> Vec<Series> {
    let line =
        |run: &RunView| step_series(run, &run.label, run_style(run), &run.history.steps.loss_cross_entropy, over);
    runs.iter().map(line).collect()
}

fn distillation(runs: &[RunView]) -> Vec<Series> {
    let column =
        |run: &RunView| step_series(run, &run.label, run_style(run), &run.history.steps.loss_distillation, Over::Steps);
    runs.iter().map(column).collect()
}

fn held_out(runs: &[RunView], over: Over) -> Vec<Series> {
    let lines = |run: &RunView| {
        let open = eval_series(run, &run.label, run_style(run), over, |e| e.mean_loss.filter(|_| e.is_as_run()));
        let name = format!("{}, cut to target", run.label);
        let cut = eval_series(run, &name, (run.index, REFERENCE_DASH), over, |e| e.mean_loss.filter(|_| e.is_cut()));
        let name = format!("{}, experts times scores", run.label);
        let soft = eval_series(run, &name, (run.index, REFERENCE_DASH), over, |e| e.mean_loss.filter(|_| e.is_soft()));
        [open, cut, soft, teacher(run, over)]
    };
    runs.iter().flat_map(lines).collect()
}

/// What the teacher of a run loses on the same rows: as high at every evaluation. Empty without one.
fn teacher(run: &RunView, over: Over) -> Series {
    let loss = run.history.evaluations.iter().find_map(|evaluation| evaluation.teacher_loss);
    eval_series(run, &format!("{}, its teacher", run.label), (run.index, REFERENCE_DASH), over, |_| loss)
}

fn by_domain(runs: &[RunView], over: Over) -> Vec<Series> {
    let names = domain_names(runs);
    let of_run = |run: &RunView| {
        let line = |(colour, name): (usize, &String)| {
            eval_series(run, name, (colour, run_dash(run)), over, |e| {
                e.domain(name).filter(|_| e.is_as_run()).and_then(|domain| domain.loss)
            })
        };
        names.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    by_run(runs.iter().flat_map(of_run).collect())
}

fn by_domain_in_training(runs: &[RunView]) -> Vec<Series> {
    let names = domain_names(runs);
    let of_run = |run: &RunView| {
        let line = |steps: &crate::inspect::DomainSteps| {
            let colour = names.iter().position(|name| *name == steps.domain)?;
            let values = known(&step_places(run, Over::Steps), &steps.loss);
            Some(Series::new(&steps.domain, &run.label, (colour, run_dash(run)), values, NOISY_POINTS))
        };
        run.history.steps.domains.iter().filter_map(line).collect::<Vec<_>>()
    };
    by_run(runs.iter().flat_map(of_run).collect())
}
