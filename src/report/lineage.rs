//! Which run goes on from which: a run whose `model.source` is the model that another of the given runs wrote continues
//! it. Runs are overlaid by step, and put one after the other by tokens; the questions of a report are answered for a
//! pruning run together with what continued it.

use super::side_files::short_name;
use crate::inspect::RunHistory;

/// A run among others.
#[derive(Clone, Debug)]
pub struct RunView<'a> {
    /// What it recorded.
    pub history: &'a RunHistory,
    /// Its name, different from that of every other run in the report.
    pub label: String,
    /// Its number.
    pub index: usize,
    /// Number of the run that it continues.
    pub parent: Option<usize>,
    /// Tokens that the runs before it saw.
    pub tokens_before: f64,
}

/// All runs of a report, in the order they were given.
pub fn views(histories: &[RunHistory]) -> Vec<RunView<'_>> {
    let mut views: Vec<RunView> = Vec::new();
    for (index, history) in histories.iter().enumerate() {
        let label = label_of(history, &views);
        let parent = source_of(history).and_then(|source| writer_of(&source, index, histories));
        views.push(RunView { history, label, index, parent, tokens_before: 0.0 });
    }
    for index in 0..views.len() {
        let before: f64 = ancestors(&views, index).iter().filter_map(|at| views.get(*at)?.history.tokens).sum();
        if let Some(view) = views.get_mut(index) {
            view.tokens_before = before;
        }
    }
    views
}

/// The runs that belong to one small model: a pruning run and what continued it, the given order deciding where several
/// did. Without any pruning run a line begins at every run that continues no other.
pub fn lines<'a, 'b>(views: &'b [RunView<'a>]) -> Vec<Vec<&'b RunView<'a>>> {
    let line = |first: &'b RunView<'a>| {
        let mut line = vec![first];
        let next = |line: &[&RunView]| {
            let last = line.last().map(|view| view.index);
            // Of the runs that continue it, the last that was given; never one that is in the line already.
            let continues =
                |view: &&RunView| view.parent == last && !line.iter().any(|known| known.index == view.index);
            views.iter().rev().find(|view| continues(view) && !view.history.is_prune())
        };
        while let Some(view) = next(&line) {
            line.push(view);
        }
        line
    };
    first_runs(views).into_iter().map(line).collect()
}

/// Where lines begin.
fn first_runs<'a, 'b>(views: &'b [RunView<'a>]) -> Vec<&'b RunView<'a>> {
    let pruned: Vec<&RunView> = views.iter().filter(|view| view.history.is_prune()).collect();
    if !pruned.is_empty() {
        return pruned;
    }
    let roots: Vec<&RunView> = views.iter().filter(|view| view.parent.is_none()).collect();
    // Runs that claim to continue each other have no first one; the given order has.
    if roots.is_empty() { views.iter().take(1).collect() } else { roots }
}

fn label_of(history: &RunHistory, known: &[RunView]) -> String {
    let taken = |label: &str| known.iter().any(|view| view.label == label);
    let candidates = [history.name.clone(), short_name(&history.path)].into_iter().filter(|name| !name.is_empty());
    let numbered = (2..).map(|number| format!("{} ({number})", history.name));
    candidates.chain(numbered).find(|label| !taken(label)).unwrap_or_default()
}

/// `model.source` of the run's configuration.
pub(super) fn source_of(history: &RunHistory) -> Option<String> {
    let config: toml::Table = history.config.as_ref()?.parse().ok()?;
    Some(config.get("model")?.get("source")?.as_str()?.to_string())
}

/// The run that wrote the model in `source`, which the run at `reader` started from. Told by the end of the path, since
/// folders are moved together: the run's name and its model's folder have to agree, and of several runs the one with the
/// longest common end is taken, then one that lies beside the reader, then the first.
fn writer_of(source: &str, reader: usize, histories: &[RunHistory]) -> Option<usize> {
    let source = parts(source);
    let home = histories.get(reader).map(|history| folder_around(&history.path));
    let score = |(index, history): (usize, &RunHistory)| {
        let folder = parts(history.written.as_ref().map_or("model", |written| written.path.as_str()));
        let mut wrote = parts(&history.path);
        // A run given as `.`, or by a link, has another name in paths.
        if wrote.last() != Some(&history.name.as_str()) {
            wrote.push(&history.name);
        }
        wrote.extend(&folder);
        let common = source.iter().rev().zip(wrote.iter().rev()).take_while(|(a, b)| a == b).count();
        let beside = home.as_ref() == Some(&folder_around(&history.path));
        (index != reader && common > folder.len()).then_some(((common, beside), index))
    };
    // Of equals `max_by_key` takes the last it sees.
    let best = histories.iter().enumerate().rev().filter_map(score).max_by_key(|(score, _)| *score);
    best.map(|(_, index)| index)
}

/// The parts of a path's name.
pub(super) fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

fn folder_around(path: &str) -> Vec<&str> {
    let mut parts = parts(path);
    parts.pop();
    parts
}

/// Parents of a run, nearest first.
fn ancestors(views: &[RunView], index: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut next = views.get(index).and_then(|view| view.parent);
    while let Some(parent) = next.filter(|parent| *parent != index && !found.contains(parent)) {
        found.push(parent);
        next = views.get(parent).and_then(|view| view.parent);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::WrittenModel;

    fn run(name: &str, stage: &str, source: &str, written: &str) -> RunHistory {
        RunHistory {
            name: name.into(),
            path: format!("runs/{name}"),
            stage: Some(stage.into()),
            tokens: Some(100.0),
            written: Some(WrittenModel { path: written.into(), ..WrittenModel::default() }),
            config: Some(format!("[model]\nsource = \"{source}\"\n")),
            ..RunHistory::default()
        }
    }

    #[test]
    fn runs_are_put_one_after_the_other() {
        let runs = [
            run("recover", "pretrain", "elsewhere/prune/pruned", "model"),
            run("prune", "prune", "runs/source/model", "pruned"),
            run("source", "pretrain", "", "model"),
            run("scratch", "pretrain", "", "model"),
            run("prune", "prune", "runs/source/model", "pruned"),
        ];
        let views = views(&runs);
        assert_eq!(
            views.iter().map(|v| v.label.as_str()).collect::<Vec<_>>()[1..],
            ["prune", "source", "scratch", "runs/prune"]
        );
        assert_eq!(views.iter().map(|v| v.parent).collect::<Vec<_>>(), [Some(1), Some(2), None, None, Some(2)]);
        assert_eq!(views.iter().map(|v| v.tokens_before).collect::<Vec<_>>(), [200.0, 100.0, 0.0, 0.0, 100.0]);
        let names = |line: &[&RunView]| line.iter().map(|v| v.index).collect::<Vec<_>>();
        assert_eq!(lines(&views).iter().map(|line| names(line)).collect::<Vec<_>>(), [vec![1, 0], vec![4]]);
    }

    fn run_in(folder: &str, name: &str, stage: &str, source: &str, written: &str) -> RunHistory {
        RunHistory { path: format!("{folder}/{name}"), ..run(name, stage, source, written) }
    }

    #[test]
    fn of_runs_with_one_name_the_one_with_the_longest_common_path_is_the_parent() {
        let pair = |folder: &str, source: &str| {
            [
                run_in(folder, "prune", "prune", "models/source", "pruned"),
                run_in(folder, "recover", "pretrain", source, "model"),
            ]
        };
        let parents = |a: &str, b: &str| -> Vec<Option<usize>> {
            let runs = [pair("x/a", a), pair("x/b", b)].concat();
            views(&runs).iter().map(|view| view.parent).collect()
        };
        let own = [None, Some(0), None, Some(2)];
        assert_eq!(parents("runs/a/prune/pruned", "runs/b/prune/pruned"), own);
        assert_eq!(parents("./prune/pruned/", "prune/pruned"), own, "the path says too little, the place decides");
        assert_eq!(parents("runs/b/prune/pruned", "runs/a/prune/pruned"), [None, Some(2), None, Some(0)]);
        assert_eq!(parents("runs/a/other/pruned", "prune/model"), [None; 4]);
    }

    #[test]
    fn without_a_pruning_run_every_first_run_has_a_line() {
        let runs = [
            run_in("a", "recover", "pretrain", "models/small", "model"),
            run_in("b", "recover", "pretrain", "models/small", "model"),
            run_in("b", "more", "pretrain", "runs/b/recover/model", "model"),
        ];
        let views = views(&runs);
        let lines = lines(&views);
        let numbers = lines.iter().map(|line| line.iter().map(|view| view.index).collect::<Vec<_>>());
        assert_eq!(numbers.collect::<Vec<_>>(), [vec![0], vec![1, 2]]);
    }

    #[test]
    fn runs_that_claim_to_continue_each_other_come_to_an_end() {
        let runs = [run("a", "pretrain", "x/b/model", "model"), run("b", "pretrain", "x/a/model", "model")];
        let views = views(&runs);
        assert_eq!(views.iter().map(|v| v.tokens_before).collect::<Vec<_>>(), [100.0, 100.0]);
        assert_eq!(lines(&views).iter().map(Vec::len).collect::<Vec<_>>(), [2], "both are told of");
        let own = [run("a", "prune", "x/a/model", "model")];
        let views = super::views(&own);
        assert_eq!(views[0].parent, None);
        assert_eq!(lines(&views).len(), 1);
    }
}
