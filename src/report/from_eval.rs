//! Stories of the domains from an evaluation file: where no run evaluated source and cut on the same rows, `shearling eval
//! SOURCE CUT CONTINUED` did. All models of a file are evaluated on the same rows.

use crate::inspect::DomainStory;
use crate::report::lineage::{self, RunView};
use crate::report::measured::{Part, part_in};
use crate::report::side_files::{EvalFile, EvalModel};

/// What happened to each domain of `line`, one of the lines of `all`, as its runs recorded it; with the losses of the file where
/// the runs did not evaluate source and cut on the same rows, else with the error row by row that it has of the same losses.
pub(super) fn recorded(line: &[&RunView], all: &[RunView], file: Option<&EvalFile>) -> Vec<DomainStory> {
    let (mut recorded, measured) = (lineage::stories(line, all), stories(line, all, file));
    for story in &mut recorded {
        if let Some(measured) = measured.iter().find(|measured| measured.domain == story.domain) {
            story.take_losses(measured);
            story.take_paired_error(measured);
        }
    }
    recorded
}

/// What the file tells of `line`, one of the lines of `all`: the cut is what its pruning run wrote, and where it stands now the
/// last model that a later one wrote. Empty where no run of the line pruned, or the file lacks the source or the cut.
pub(super) fn stories(line: &[&RunView], all: &[RunView], file: Option<&EvalFile>) -> Vec<DomainStory> {
    let Some(file) = file else { return Vec::new() };
    let Some((prune, later)) = line.split_first().filter(|(first, _)| first.history.is_prune()) else {
        return Vec::new();
    };
    let of = |runs: &[&RunView], part: Part| {
        let is_it = |model: &&EvalModel| part_in(runs, all, &model.model, model.parameters) == Some(part);
        file.models.iter().rfind(is_it)
    };
    let (source, cut) = (of(&[prune], Part::Source), of(&[prune], Part::Written));
    let (Some(source), Some(cut)) = (source, cut) else { return Vec::new() };
    let last = of(later, Part::Written);
    let loss = |model: &EvalModel, name: &str| {
        let domain = model.domains.iter().find(|domain| domain.domain == name)?;
        Some((domain.loss?, domain.standard_error))
    };
    let error = paired_error(file, source, cut);
    let story = |name: &str| {
        let last = last.and_then(|last| loss(last, name));
        let rows = source.domains.iter().find(|domain| domain.domain == name).and_then(|domain| domain.rows);
        Some(DomainStory::of_one_evaluation((name, rows), loss(source, name)?, loss(cut, name)?, last, error(name)))
    };
    source.domains.iter().filter_map(|domain| story(&domain.domain)).collect()
}

/// The standard error of cut − source row by row, by domain: the file has it of every model against its first one.
fn paired_error<'a>(
    file: &'a EvalFile,
    source: &'a EvalModel,
    cut: &'a EvalModel,
) -> impl Fn(&str) -> Option<f64> + 'a {
    let is_first = |model: &EvalModel| file.models.first().is_some_and(|first| std::ptr::eq(first, model));
    let other = if is_first(source) { Some(cut) } else { Some(source).filter(|_| is_first(cut)) };
    move |name| {
        let domain = other?.domains.iter().find(|domain| domain.domain == name)?;
        domain.difference_standard_error.filter(|error| error.is_finite() && *error > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Later, RunHistory, WrittenModel};
    use crate::report::lineage::{lines, views};
    use serde_json::json;

    #[test]
    fn source_cut_and_small_model_of_one_file_make_a_story() {
        let run = |name: &str, stage: &str, source: &str, written: &str| RunHistory {
            name: name.into(),
            path: format!("runs/{name}"),
            stage: Some(stage.into()),
            one_shot: stage == "prune",
            model_source: Some(source.into()),
            written: Some(WrittenModel { path: written.into(), ..WrittenModel::default() }),
            ..RunHistory::default()
        };
        let runs = [run("cut", "prune", "models/a", "pruned"), run("next", "pretrain", "runs/cut/pruned", "model")];
        let views = views(&runs);
        let line = lines(&views).remove(0);
        let model = |folder: &str, loss: f64| {
            json!({ "model": folder, "mean_loss": loss,
            "domains": [{ "domain": "code", "loss": loss, "standard_error": 0.03 }] })
        };
        let file = |models: &[(&str, f64)]| -> EvalFile {
            let models: Vec<_> = models.iter().map(|(folder, loss)| model(folder, *loss)).collect();
            serde_json::from_value(json!({ "models": models })).unwrap()
        };
        let all = [("models/a", 2.0), ("runs/cut/pruned", 6.0), ("runs/next/model", 3.0)];
        let told = stories(&line, &views, Some(&file(&all)));
        assert_eq!((told.len(), told[0].domain.as_str(), told[0].damage()), (1, "code", Some(4.0)));
        assert_eq!((told[0].later, told[0].recovered), (Later::SameRows, Some(0.75)));
        assert!(!told[0].paired && (told[0].degradation.unwrap() - 4.0 / 0.03f64.hypot(0.03)).abs() < 1e-9);
        let mut paired = file(&all);
        (
            paired.models[1].domains[0].difference_standard_error,
            paired.models[2].domains[0].difference_standard_error,
        ) = (Some(0.02), Some(7.0));
        let told = stories(&line, &views, Some(&paired));
        assert!(
            told[0].paired && (told[0].degradation.unwrap() - 4.0 / 0.02).abs() < 1e-9,
            "that of the cut: {told:?}"
        );
        paired.models.swap(0, 2);
        assert!(!stories(&line, &views, Some(&paired))[0].paired, "against a model that is neither");
        let backwards: Vec<_> = all.iter().rev().copied().collect();
        assert_eq!(stories(&line, &views, Some(&file(&backwards)))[0].recovered, Some(0.75), "in whatever order");
        let continued = [views[1].clone()];
        let alone = lines(&continued).remove(0);
        assert!(stories(&alone, &continued, Some(&file(&all))).is_empty(), "it did not prune");
        let cut_alone = stories(&line, &views, Some(&file(&all[..2])));
        assert_eq!((cut_alone[0].later, cut_alone[0].recovered), (Later::Nothing, None));
        assert!(stories(&line, &views, Some(&file(&all[1..]))).is_empty(), "without the source there is no damage");
        assert!(stories(&line, &views, None).is_empty());
    }
}
