//! Which run goes on from which: a run whose `model.source` is the model that another of the given runs wrote continues
//! it, also where that model was grouped into experts or copied since: its card names the configuration that made it. Runs are overlaid by step, and put one after the other by tokens; the questions of a report are answered for a
//! pruning run together with what continued it.

use super::side_files::short_name;
use crate::files::sha256_of_text;
use crate::inspect::{DomainStory, RunHistory, story};
use crate::run_dir::layout::MODEL;

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

/// Runs in the one order that every naming of them gives: what continues another behind it, else by the time of their
/// start, then by name. Colours, dashes and labels follow from it.
pub fn ordered(mut histories: Vec<RunHistory>) -> Vec<RunHistory> {
    histories.sort_by(|a, b| parts(&a.path).cmp(&parts(&b.path)));
    let time = |history: &RunHistory| history.started.unwrap_or(f64::INFINITY);
    // Stable: of equal times the order of the paths.
    histories.sort_by(|a, b| time(a).total_cmp(&time(b)));
    let parents: Vec<Option<usize>> = (0..histories.len()).map(|index| parent_of(index, &histories)).collect();
    let mut order: Vec<usize> = Vec::new();
    let roots = (0..histories.len()).filter(|index| parents.get(*index) == Some(&None));
    // Runs that claim to continue each other are reached from no root.
    for first in roots.chain(0..histories.len()) {
        follow(first, &parents, &mut order);
    }
    let mut left: Vec<Option<RunHistory>> = histories.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| left.get_mut(index)?.take()).collect()
}

/// A run and what continues it, each once.
fn follow(index: usize, parents: &[Option<usize>], order: &mut Vec<usize>) {
    let mut next = vec![index];
    while let Some(index) = next.pop() {
        if !order.contains(&index) {
            order.push(index);
            next.extend((0..parents.len()).rev().filter(|child| parents.get(*child) == Some(&Some(index))));
        }
    }
}

/// All runs of a report, in the order of [`ordered`].
pub fn views(histories: &[RunHistory]) -> Vec<RunView<'_>> {
    let labels = labels(histories);
    let view = |(index, (history, label))| RunView {
        history,
        label,
        index,
        parent: parent_of(index, histories),
        tokens_before: 0.0,
    };
    let mut views: Vec<RunView> = histories.iter().zip(labels).enumerate().map(view).collect();
    for index in 0..views.len() {
        let before: f64 = ancestors(&views, index).iter().filter_map(|at| views.get(*at)?.history.tokens).sum();
        if let Some(view) = views.get_mut(index) {
            view.tokens_before = before;
        }
    }
    views
}

/// The runs that belong to one small model: a pruning run and what continued it; where several continued one, a line for
/// each. Without any pruning run a line begins at every run that continues no other. A run that teaches to activate fewer
/// neurons has questions of its own: where it is in none of these lines it begins one.
pub fn lines<'a, 'b>(views: &'b [RunView<'a>]) -> Vec<Vec<&'b RunView<'a>>> {
    let mut lines: Vec<Vec<&'b RunView<'a>>> = Vec::new();
    for first in first_runs(views) {
        lines.extend(lines_from(first, views));
    }
    for taught in views.iter().filter(|view| view.history.is_lte()) {
        if !is_in(&lines, taught) {
            lines.extend(lines_from(taught, views));
        }
    }
    lines
}

fn is_in(lines: &[Vec<&RunView>], run: &RunView) -> bool {
    lines.iter().flatten().any(|known| known.index == run.index)
}

/// The lines that begin with a run.
fn lines_from<'a, 'b>(first: &'b RunView<'a>, views: &'b [RunView<'a>]) -> Vec<Vec<&'b RunView<'a>>> {
    let mut lines = Vec::new();
    let mut open = vec![vec![first]];
    while let Some(line) = open.pop() {
        let last = line.last().map(|view| view.index);
        // Never one that is in the line already.
        let continues = |view: &&RunView| view.parent == last && !line.iter().any(|known| known.index == view.index);
        let next: Vec<&RunView> = views.iter().filter(continues).filter(|v| !v.history.is_prune()).collect();
        // From the back, as the last is taken first.
        let longer = |view: &&'b RunView<'a>| line.iter().copied().chain([*view]).collect::<Vec<_>>();
        open.extend(next.iter().rev().map(longer));
        if next.is_empty() {
            lines.push(line);
        }
    }
    lines
}

/// The runs that began with a model of which nothing tells that another of the given runs wrote it, each in a sentence.
/// Runs of one source are not among them: they are meant to be laid over one another.
pub fn not_joined(views: &[RunView]) -> Vec<String> {
    let lines = lines(views);
    let told = |view: &RunView| {
        let source = short_name(view.history.model_source.as_deref().filter(|source| !source.is_empty())?);
        let mut others = views.iter().filter(|other| other.index != view.index);
        let same_source =
            |other: &RunView| other.history.model_source.as_deref().is_some_and(|other| short_name(other) == source);
        if view.parent.is_some() || view.history.is_prune() || others.clone().any(same_source) {
            return None;
        }
        let answered = match is_in(&lines, view) {
            true => "it is answered for by itself",
            false => "no question is answered for it, and its curves are laid over the others",
        };
        others.any(|other| other.history.written.is_some()).then(|| {
            format!(
                "{} began with the model in {source}; nothing tells that one of the other runs wrote it: {answered}.",
                view.label
            )
        })
    };
    views.iter().filter_map(told).collect()
}

/// What happened to each domain in a line; the source may be known from any run of the report.
pub fn stories(line: &[&RunView], all: &[RunView]) -> Vec<DomainStory> {
    let histories: Vec<&RunHistory> = line.iter().map(|run| run.history).collect();
    story::joined(&histories, &all.iter().map(|run| run.history).collect::<Vec<_>>())
}

/// What a line is called: its first run, and its last where several lines begin with that.
pub fn line_name(line: &[&RunView], lines: &[Vec<&RunView>]) -> String {
    let (Some(first), Some(last)) = (line.first(), line.last()) else { return String::new() };
    let alike = lines.iter().filter(|other| other.first().is_some_and(|other| other.index == first.index)).count();
    if alike > 1 { format!("{} → {}", first.label, last.label) } else { first.label.clone() }
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

/// Names that are different for every run: of runs with one name all are called by the folder around them too.
fn labels(histories: &[RunHistory]) -> Vec<String> {
    let same = |name: &dyn Fn(&RunHistory) -> String, of: &RunHistory| {
        histories.iter().filter(|other| name(other) == name(of)).count()
    };
    let (own, longer) = (|run: &RunHistory| run.name.clone(), |run: &RunHistory| short_name(&run.path));
    let mut labels: Vec<String> = Vec::new();
    for history in histories {
        let is_free = |label: &String| !label.is_empty() && !labels.contains(label);
        let short = Some(own(history)).filter(|_| same(&own, history) == 1);
        let long = Some(longer(history)).filter(|_| same(&longer, history) == 1);
        let numbered = (1..).map(|number| format!("{} ({number})", history.name));
        labels.push(short.into_iter().chain(long).chain(numbered).find(is_free).unwrap_or_default());
    }
    labels
}

/// The model that the run started from.
pub(super) fn source_of(history: &RunHistory) -> Option<String> {
    history.model_source.clone()
}

fn parent_of(index: usize, histories: &[RunHistory]) -> Option<usize> {
    let history = histories.get(index)?;
    writer_of(&source_of(history)?, index, histories).or_else(|| maker_of(history, index, histories))
}

/// The run under whose configuration the model was made that the run at `reader` started from, by that model's card: the
/// model may have been grouped or copied since.
fn maker_of(history: &RunHistory, reader: usize, histories: &[RunHistory]) -> Option<usize> {
    let digest = history.source_digest.as_deref()?;
    let made = |other: &RunHistory| other.config.as_deref().is_some_and(|config| sha256_of_text(config) == digest);
    histories.iter().enumerate().position(|(index, other)| index != reader && made(other))
}

/// The run that wrote the model in `source`, which the run at `reader` started from. Told by the end of the path, since
/// folders are moved together: the run's name and its model's folder have to agree, and of several runs the one with the
/// longest common end is taken, then one that lies beside the reader, then the first.
fn writer_of(source: &str, reader: usize, histories: &[RunHistory]) -> Option<usize> {
    let source = parts(source);
    let home = histories.get(reader).map(|history| folder_around(&history.path));
    let score = |(index, history): (usize, &RunHistory)| {
        let folder = parts(history.written.as_ref().map_or(MODEL, |written| written.path.as_str()));
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
            model_source: Some(source.into()),
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
            ["prune (1)", "source", "scratch", "prune (2)"]
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
    fn the_order_in_which_runs_are_named_changes_nothing() {
        let runs = [
            run_in("x", "recover", "pretrain", "x/prune/pruned", "model"),
            run_in("x", "again", "pretrain", "x/prune/pruned", "model"),
            run_in("x", "prune", "prune", "models/source", "pruned"),
            run_in("y", "prune", "prune", "models/source", "pruned"),
            RunHistory { started: Some(5.0), ..run_in("z", "scratch", "pretrain", "", "model") },
        ];
        let told = |order: [usize; 5]| {
            let histories = ordered(order.iter().map(|at| runs[*at].clone()).collect());
            let views = views(&histories);
            let lines = lines(&views);
            let names: Vec<String> = lines.iter().map(|line| line_name(line, &lines)).collect();
            (views.iter().map(|view| view.label.clone()).collect::<Vec<_>>(), names)
        };
        let labels = ["scratch", "x/prune", "again", "recover", "y/prune"].map(String::from).to_vec();
        let names = ["x/prune → again", "x/prune → recover", "y/prune"].map(String::from).to_vec();
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 2, 0, 4, 1]] {
            assert_eq!(told(order), (labels.clone(), names.clone()), "{order:?}");
        }
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
    fn a_run_that_began_with_a_grouped_model_is_joined_by_its_card_or_answered_for_by_itself() {
        let lte = |digest: Option<String>| RunHistory {
            source_digest: digest,
            ..run("lte", "lte", "elsewhere/grouped", "model")
        };
        let runs = |digest: Option<String>| {
            let prune = run("prune", "prune", "models/source", "pruned");
            let recover = run("recover", "pretrain", "runs/prune/pruned", "model");
            [prune, RunHistory { config: Some("a = 1".into()), ..recover }, lte(digest)]
        };
        let joined = runs(Some(sha256_of_text("a = 1")));
        let seen = views(&joined);
        assert_eq!((seen[2].parent, lines(&seen).len()), (Some(1), 1));
        assert!(not_joined(&seen).is_empty());
        for digest in [None, Some(sha256_of_text("a = 2"))] {
            let apart = runs(digest);
            let seen = views(&apart);
            let lines: Vec<Vec<usize>> =
                lines(&seen).iter().map(|line| line.iter().map(|view| view.index).collect()).collect();
            assert_eq!(lines, [vec![0, 1], vec![2]], "its questions are answered all the same");
            let said = not_joined(&seen);
            assert!(
                said.len() == 1 && said[0].starts_with("lte began with the model in elsewhere/grouped; "),
                "{said:?}"
            );
            assert!(said[0].ends_with("it is answered for by itself."), "{said:?}");
        }
        let baseline = [run("prune", "prune", "models/a", "pruned"), run("b", "pretrain", "x/models/a", "model")];
        assert!(not_joined(&views(&baseline)).is_empty(), "of one source");
        let stranger = [run("prune", "prune", "models/a", "pruned"), run("b", "pretrain", "models/b", "model")];
        assert!(not_joined(&views(&stranger))[0].contains("no question is answered for it"));
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
