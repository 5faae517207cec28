//! Reports of runs that recorded little or nothing: no figure, no panic, and every question answered with what is
//! missing.

use super::answers::Verdict;
use super::*;

fn empty(stage: Option<&str>) -> RunHistory {
    RunHistory { name: "run".into(), stage: stage.map(String::from), ..RunHistory::default() }
}

#[test]
fn a_run_without_anything_is_a_page_of_open_questions() {
    for stage in [None, Some("prune"), Some("pretrain")] {
        let report = Report::new(vec![empty(stage)], None);
        let answers = report.answers();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].1.iter().all(|answer| answer.verdict == Verdict::Open), "{answers:?}");
        assert!(report.sections().iter().all(|section| section.figures.is_empty()));
        assert!(report.html().contains("<h1>run</h1>"));
    }
    assert!(Report::new(vec![], None).html().contains("</html>"));
}

#[test]
fn every_name_of_a_figure_is_there_once() {
    let runs = vec![planted("a"), planted("b")];
    let report = Report::new(runs, None);
    let sections = report.sections();
    let ids: Vec<&str> = sections.iter().flat_map(|s| &s.figures).map(|f| f.caption().id.as_str()).collect();
    let distinct: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    assert!(ids.contains(&"loss-training"), "{ids:?}");
    assert_eq!(report.answers().len(), 2, "answers for every pruning run");
}

/// A pruning run of three steps without masks.
fn planted(name: &str) -> RunHistory {
    let mut run = empty(Some("prune"));
    run.name = name.into();
    run.steps.step = vec![1, 2, 3];
    run.steps.applied = vec![true; 3];
    run.steps.loss_cross_entropy = vec![Some(3.0), None, Some(f64::INFINITY)];
    run.finished_steps = 3;
    run
}

#[test]
fn only_a_live_page_may_ask_its_server() {
    let report = Report::new(vec![empty(None)], None);
    assert!(report.html().contains("connect-src &#39;none&#39;") && !report.html().contains("data-live"));
    assert!(report.live_html().contains("connect-src &#39;self&#39;") && report.live_html().contains("data-live"));
}
