//! The numbers of a report as JSON inside the page: what the script draws from, and what other programs can read out of
//! the file again. Names in it come from runs, so no `<` is left in it that could end the script element.

use super::Report;
use super::lineage::views;
use crate::inspect::RunHistory;
use serde_json::{Map, Value, json};

/// The embedded data: `runs` (facts by run), `answers` (by pruning run, else by first run), `figures` (columns and cells
/// by name), and, where there are any, `not_joined` (runs whose source none of the others is known to have written).
pub fn data(report: &Report) -> Value {
    let views = views(&report.runs);
    let runs = views.iter().map(|view| facts(&view.label, view.history)).collect::<Vec<_>>();
    let figures: Map<String, Value> = report
        .sections()
        .iter()
        .flat_map(|section| &section.figures)
        .map(|figure| (figure.caption().id.clone(), figure.data()))
        .collect();
    let answers = report.answers().into_iter().map(|(run, answers)| json!({ "run": run, "answers": answers }));
    let mut data = json!({
        "format_version": 1, "title": report.title, "runs": runs, "answers": answers.collect::<Vec<_>>(),
        "figures": figures, "eval": report.eval, "latency": report.latency,
    });
    let apart = report.not_joined();
    if let (Value::Object(data), false) = (&mut data, apart.is_empty()) {
        data.insert("not_joined".to_string(), json!(apart));
    }
    data
}

/// What a run came to, without its columns: those are in the figures.
fn facts(label: &str, run: &RunHistory) -> Value {
    let mut facts = json!({
        "name": label, "path": run.path, "stage": run.stage, "version": run.version, "device": run.device,
        "planned_steps": run.planned_steps, "finished_steps": run.finished_steps, "tokens": run.tokens,
        "seconds": run.seconds, "domains": run.domains, "source_shape": run.source_shape,
        "target_shape": run.target_shape, "written": run.written, "survivors": run.survivors,
        "settled": run.settled, "stories": run.stories, "skipped_steps": run.skipped_steps(),
        "notes": run.notes,
    });
    if let (Value::Object(facts), Some(experts)) = (&mut facts, &run.experts) {
        facts.insert("experts".to_string(), json!(experts));
    }
    facts
}

/// JSON fit for a `<script>` element: `</script>` and `<!--` cannot occur.
pub fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_end_the_data() {
        let hostile = json!({ "</script><script>alert(1)</script>": "<!--\u{2028}" });
        let text = embedded(&hostile);
        assert!(!text.contains('<') && !text.contains('\u{2028}'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), hostile);
    }
}
