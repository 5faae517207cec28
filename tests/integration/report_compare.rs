//! What a report lays beside one another: runs of the same rows and of other rows, runs behind one another, more domains
//! than there are colours, runs in any order, and a one-shot cut without a single metric.

use super::planted_run::{Plan, cut_loss, source_loss};
use super::support::{shearling, succeed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Writes a planted run that says which model it started from.
fn write_run(plan: &Plan, run: &Path, source: &str) -> PathBuf {
    plan.write(run);
    let config = std::fs::read_to_string(run.join("resolved.toml")).unwrap();
    std::fs::write(run.join("resolved.toml"), format!("{config}\n[model]\nsource = {source:?}\n")).unwrap();
    run.to_path_buf()
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn data(runs: &[PathBuf]) -> Value {
    let runs: Vec<String> = runs.iter().map(text).collect();
    let arguments: Vec<&str> = ["report", "--json"].into_iter().chain(runs.iter().map(String::as_str)).collect();
    serde_json::from_str(&succeed(&arguments)).unwrap()
}

fn page(runs: &[PathBuf]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path().join("report.html"));
    let runs: Vec<String> = runs.iter().map(text).collect();
    let arguments: Vec<&str> = ["report", "-o", &out].into_iter().chain(runs.iter().map(String::as_str)).collect();
    succeed(&arguments);
    std::fs::read_to_string(out).unwrap()
}

fn answer<'a>(data: &'a Value, line: usize, id: &str) -> &'a Value {
    let answers = data["answers"][line]["answers"].as_array().unwrap();
    answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("no answer {id}"))
}

/// A pruning run and one that continued it, by `change` on other text.
fn pair(folder: &Path, change: impl Fn(Plan) -> Plan) -> [PathBuf; 2] {
    let prune = write_run(&Plan::small(), &folder.join("prune"), "models/source");
    let recover = write_run(&change(Plan::recovery()), &folder.join("recover"), "x/prune/pruned");
    [prune, recover]
}

#[test]
fn a_gain_on_one_text_is_not_divided_by_a_damage_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let same = data(&pair(&folder.path().join("same"), |plan| plan));
    assert!(
        answer(&same, 0, "degradation")["points"].to_string().contains("75 % recovered"),
        "{}",
        answer(&same, 0, "degradation")
    );

    let runs = pair(&folder.path().join("other"), |plan| Plan { data: "other text", ..plan });
    let other = data(&runs);
    let degraded = answer(&other, 0, "degradation");
    let points = degraded["points"].to_string();
    assert!(points.contains("code: 1.000 → 2.000 by pruning (+1.000"), "the damage is known: {points}");
    assert!(points.contains("recover evaluated it on other rows: 2.000 → 1.250 since the cut"), "{points}");
    assert!(!points.contains("% recovered") && degraded["verdict"] == "fact", "{degraded}");
    let said = degraded["answer"].as_str().unwrap();
    assert!(said.contains("other rows") && !said.contains("recovered yet"), "{said}");
    let dots = &other["figures"]["domain-losses"]["entries"];
    let names: Vec<&str> = dots.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["source", "just cut", "just cut, on the later run's rows", "now, on the later run's rows"]);
    let page = page(&runs);
    assert!(page.contains("Not all are of the same data (prune | recover)"), "the figures say it too");
    assert!(page.contains(">other rows</td>"), "and the table");
}

#[test]
fn fewer_rows_of_the_same_data_are_other_rows() {
    let folder = tempfile::tempdir().unwrap();
    let runs = pair(folder.path(), |plan| plan);
    let metrics = runs[1].join("metrics.jsonl");
    let fewer = std::fs::read_to_string(&metrics).unwrap().replace("\"rows\":16", "\"rows\":8");
    std::fs::write(&metrics, fewer).unwrap();
    let points = answer(&data(&runs), 0, "degradation")["points"].to_string();
    assert!(points.contains("other rows") && !points.contains("% recovered"), "{points}");
}

#[test]
fn a_domain_of_one_run_only_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let runs = pair(folder.path(), |plan| Plan { data: "other text", domains: vec!["web", "poems"], ..plan });
    let found = data(&runs);
    let degraded = answer(&found, 0, "degradation");
    let points = degraded["points"].to_string();
    assert!(points.contains("code: 1.000 → 2.000 by pruning"), "{points}");
    assert!(points.contains("Not in the data of recover, so not evaluated since"), "{points}");
    assert!(points.contains("poems: 2.050 just cut; the reference loss of the source is 2.000"), "{points}");
    let said = degraded["answer"].as_str().unwrap();
    assert!(said.contains("ot evaluated since: code") && !said.contains("not recovered yet"), "{said}");
    assert!(page(&runs).contains(">not continued</td>"));
}

#[test]
fn a_run_alone_is_not_compared_with_losses_of_unknown_rows() {
    let folder = tempfile::tempdir().unwrap();
    let [_, recover] = pair(folder.path(), |plan| plan);
    let found = data(std::slice::from_ref(&recover));
    assert_eq!(answer(&found, 0, "degradation")["verdict"], "open");
    let history: Value = serde_json::from_str(&succeed(&["inspect", "run", &text(recover), "--json"])).unwrap();
    for story in history["stories"].as_array().unwrap() {
        assert_eq!((&story["degradation"], &story["recovered"]), (&Value::Null, &Value::Null), "{story}");
        assert!(story["source"]["loss"] == source_loss(story["domain"].as_str().unwrap()), "the loss itself is shown");
    }
}

#[test]
fn where_one_run_ends_and_another_begins_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let runs = pair(folder.path(), |plan| plan);
    let found = data(&runs);
    for figure in ["loss-tokens", "loss-domains-tokens"] {
        let marks = found["figures"][figure]["marks"].as_array().unwrap();
        let borders: Vec<&Value> = marks.iter().filter(|mark| mark["kind"] == "border").collect();
        assert_eq!(borders.len(), 1, "{figure}: {marks:?}");
        assert_eq!((&borders[0]["x"], &borders[0]["text"]), (&json!(51200.0), &json!("prune → recover")), "{figure}");
    }
    assert!(page(&runs).contains("class=\"border\""));
    let no_border = data(&runs[..1]);
    assert_eq!(no_border["figures"]["loss-tokens"], Value::Null, "of one run it would be the figure over steps again");
}

#[test]
fn the_order_in_which_runs_are_named_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [prune, recover] = pair(folder.path(), |plan| plan);
    let again = Plan { started: 3000.0, ..Plan::recovery() };
    let again = write_run(&again, &folder.path().join("again"), "x/prune/pruned");
    let scratch = Plan { started: 4000.0, ..Plan::recovery() };
    let scratch = write_run(&scratch, &folder.path().join("scratch"), "");
    let runs = [prune, recover, again, scratch];
    let first = page(&runs);
    for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
        assert!(page(&order.map(|at| runs[at].clone())) == first, "{order:?}");
    }
    let found = data(&runs);
    let names: Vec<&Value> = found["runs"].as_array().unwrap().iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["prune", "recover", "again", "scratch"]);
    let lines: Vec<&Value> = found["answers"].as_array().unwrap().iter().map(|line| &line["run"]).collect();
    assert_eq!(lines, ["prune → recover", "prune → again"], "each continuation is answered for");
}

#[test]
fn eleven_domains_look_different() {
    let folder = tempfile::tempdir().unwrap();
    let domains =
        vec!["arxiv", "c4", "cc", "dictionary", "docs", "github", "man", "python", "rust", "stackexchange", "wiki"];
    let run =
        write_run(&Plan { domains: domains.clone(), ..Plan::small() }, &folder.path().join("prune"), "models/source");
    let found = data(std::slice::from_ref(&run));
    let series = found["figures"]["proportions"]["series"].as_array().unwrap();
    assert_eq!(series.len(), domains.len());
    let shapes = series.iter().filter(|series| series["glyph"].is_string()).count();
    assert_eq!(shapes, domains.len() - 8, "those beyond the colours have a shape");
    let page = page(std::slice::from_ref(&run));
    let figure = page.split("id=\"fig-proportions\"").nth(1).unwrap().split("</figure>").next().unwrap();
    let samples: std::collections::BTreeSet<&str> = figure
        .split("<button")
        .skip(1)
        .map(|button| button.split("<svg").nth(1).unwrap().split("</svg>").next().unwrap())
        .collect();
    assert_eq!(samples.len(), domains.len(), "no two samples of the legend are alike");
    // In the terminal many domains make a table longer, not wider.
    let tables = succeed(&["inspect", "run", &text(&run)]);
    let table: Vec<&str> = tables
        .lines()
        .skip_while(|line| !line.starts_with("validation loss by step"))
        .skip_while(|line| !line.starts_with("domain, at step"))
        .take_while(|line| !line.is_empty())
        .collect();
    assert_eq!(table.len(), 3 + domains.len(), "{tables}");
    assert!(table.iter().all(|line| line.chars().count() <= 100), "{table:#?}");
}

#[test]
fn one_high_start_does_not_squeeze_an_axis_of_losses() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_run(&Plan::recovery(), &folder.path().join("recover"), "models/one-shot");
    let metrics = run.join("metrics.jsonl");
    let high = std::fs::read_to_string(&metrics).unwrap().replacen(
        &format!("\"mean_loss\":{}", mean(cut_loss)),
        "\"mean_loss\":15.26",
        1,
    );
    std::fs::write(&metrics, high).unwrap();
    let found = data(std::slice::from_ref(&run));
    let chart = &found["figures"]["loss-heldout"];
    assert_eq!(chart["series"][0]["y"][0], 15.26, "it is in the numbers");
    assert!(chart["y"]["max"].as_f64().unwrap() < 3.0, "{}", chart["y"]);
    assert!(page(&[run]).contains("off the scale: recover starts at 15.26"));
}

fn mean(of: fn(&str) -> f64) -> f64 {
    let domains = Plan::small().domains;
    domains.iter().map(|domain| of(domain)).sum::<f64>() / domains.len() as f64
}

/// What `prune.method = "magnitude"` leaves: a model with its card, and nothing else.
pub(super) fn write_one_shot(run: &Path) -> PathBuf {
    let model = run.join("pruned");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(model.join("config.json"), "{}").unwrap();
    let shape = |layers: i64, hidden: i64| {
        json!({ "hidden_size": hidden, "intermediate_size": 300, "num_hidden_layers": layers, "num_attention_heads": 8,
                "num_key_value_heads": 4, "head_dim": 4, "vocab_size": 64, "parameters": 1000 * layers })
    };
    let card = json!({
        "title": "m", "source": "models/source", "source_shape": shape(4, 16), "target_shape": shape(3, 12),
        "stages": [["pruning (magnitude)", 0, 0]], "domains": [], "equivalence": { "error": 1e-7, "bound": 1e-4 },
        "config_digest": null, "versions": [["shearling", "0.1.0"]],
    });
    std::fs::write(model.join("shearling.json"), card.to_string()).unwrap();
    run.to_path_buf()
}

#[test]
fn a_one_shot_cut_stands_beside_its_continuation() {
    let folder = tempfile::tempdir().unwrap();
    let cut = write_one_shot(&folder.path().join("one-shot"));
    let continued = write_run(&Plan::recovery(), &folder.path().join("continued"), "x/one-shot/pruned");
    let runs = [continued, cut.clone()];
    let found = data(&runs);
    let names: Vec<&Value> = found["runs"].as_array().unwrap().iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["one-shot", "continued"]);
    assert_eq!(found["answers"].as_array().unwrap().len(), 1, "one line");
    let kept = answer(&found, 0, "survivors")["answer"].as_str().unwrap();
    assert!(kept.starts_with("A one-shot cut without training: it kept 3 of 4 layers"), "{kept}");
    let page = page(&runs);
    assert!(page.contains("one-shot: one-shot cut") && !page.contains("class=\"border\""), "it saw no tokens");
    // The source's loss is known where another run evaluated it on the same rows.
    let prune = write_run(&Plan::small(), &folder.path().join("prune"), "models/source");
    let [cut_run, continued] = runs.clone();
    let beside = data(&[prune, cut_run, continued]);
    let one_shot = beside["answers"].as_array().unwrap().iter().position(|line| line["run"] == "one-shot").unwrap();
    let points = answer(&beside, one_shot, "degradation")["points"].to_string();
    assert!(points.contains("code: 1.000 → 2.000 by pruning (+1.000") && points.contains("75 % recovered"), "{points}");
    let inspected = succeed(&["inspect", "run", &text(&cut)]);
    assert!(inspected.contains("one-shot cut") && inspected.contains("4,000 → 3,000 parameters"), "{inspected}");
    // A model folder inside any folder is not a run.
    std::fs::remove_file(cut.join("pruned/shearling.json")).unwrap();
    assert_eq!(shearling(&["inspect", "run", &text(&cut)]).status.code(), Some(2));
}

#[test]
fn a_kept_layer_with_a_closed_gate_has_one_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { steps: 40, ..Plan::small() };
    let run = write_run(&plan, &folder.path().join("prune"), "models/source");
    // Layer 3 is kept, since layer 2 is closed further, but its gate is nearly closed.
    let masks = plan.masks(40);
    let layers = masks.log_alpha_parameters().into_iter().find(|(name, _)| name.contains("layer")).unwrap().1;
    let _ = tch::no_grad(|| layers.narrow(-1, 3, 1).fill_(-2.0));
    masks.save(run.join(super::planted_run::snapshot(40))).unwrap();
    let found = data(std::slice::from_ref(&run));
    assert_eq!(answer(&found, 0, "survivors")["answer"], "3 of 4 layers are kept: 0, 1, 3.");
    let points = answer(&found, 0, "survivors")["points"].to_string();
    assert!(points.contains("Kept, but half-alive (its gate is below 0.5): 3."), "{points}");
    let numbers = found["figures"]["masks-heads"]["numbers"].as_array().unwrap().last().unwrap().to_string();
    for said in [r#"["layers that the cut removes","2"]"#, r#"["kept layers with a gate below 0.5","3"]"#] {
        assert!(numbers.contains(said), "{numbers}");
    }
    assert!(!numbers.contains("closed"), "{numbers}");
}

#[test]
fn undecided_units_are_counted_alike_wherever_they_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    // It ends before its MLP units decide, with layer 2 of 4 removed: 100 of 300 in each of the other three.
    let run = write_run(&Plan { steps: 100, ..Plan::small() }, &folder.path().join("prune"), "models/source");
    let last = |history: &Value| {
        let evaluations = history["evaluations"].as_array().unwrap();
        let evaluation = evaluations.iter().find(|evaluation| evaluation["step"] == 60).unwrap();
        let modules = evaluation["modules"].as_array().unwrap();
        let mlp = modules.iter().find(|module| module["module"] == "intermediate").unwrap().clone();
        let snapshots = history["snapshots"].as_array().unwrap();
        let snapshot = snapshots.iter().find(|snapshot| snapshot["step"] == 60).unwrap();
        (mlp["undecided"].clone(), mlp["units"].clone(), snapshot["undecided"]["intermediate"].clone())
    };
    let history: Value = serde_json::from_str(&succeed(&["inspect", "run", &text(&run), "--json"])).unwrap();
    assert_eq!(last(&history), (json!(300), json!(900), json!(300)));
    let masks = succeed(&["inspect", "masks", &format!("{}@60", text(&run))]);
    let row = masks.lines().find(|line| line.starts_with("intermediate")).unwrap();
    assert!(row.contains("300 (33.3 %)"), "{masks}");
    let found = data(&[run]);
    let lines = found["figures"]["undecided"]["series"].as_array().unwrap();
    let mlp = lines.iter().find(|line| line["name"] == "intermediate").unwrap();
    assert!((mlp["y"][2].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-4, "{mlp}");
    let slider = found["figures"]["masks-heads"]["numbers"][2].to_string();
    assert!(slider.contains(r#"["undecided units","300"]"#), "{slider}");
}

#[test]
fn a_file_of_another_kind_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = text(write_run(&Plan::recovery(), &folder.path().join("recover"), "m"));
    let file = text(folder.path().join("given.json"));
    let latency = json!({ "models": [{ "model": "m", "prefill": { "tokens_per_second": 1 }, "decode": { "tokens_per_second": 1 } }] });
    let eval = json!({ "models": [{ "model": "m", "mean_loss": 1.0, "domains": [] }] });
    let references = json!({ "model": "m", "reference_loss": { "web": 1.0 } });
    for (content, option, said) in [
        (&latency, "--eval", "is a latency file"),
        (&eval, "--latency", "is an evaluation"),
        (&references, "--eval", "is a file of reference losses"),
    ] {
        std::fs::write(&file, content.to_string()).unwrap();
        let output = shearling(&["report", &run, "--json", option, &file]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
    }
}

#[test]
fn tensorboard_names_the_lines_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_run(&Plan::recovery(), &folder.path().join("recover"), "m");
    let metrics = run.join("metrics.jsonl");
    let mut lines: Vec<String> = std::fs::read_to_string(&metrics).unwrap().lines().map(String::from).collect();
    lines[9].truncate(50);
    lines[19] = "[]".to_string();
    std::fs::write(&metrics, lines.join("\n") + "\n{\"typ").unwrap();
    let out = text(folder.path().join("events"));
    let output = shearling(&["tensorboard", &text(&run), "--out", &out, "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let cut = lines.len() + 1;
    let expected = format!("lines 10 (not JSON), 20 (without `type` and `step`), {cut} (cut at the end of the file)");
    assert!(stderr.contains(&expected), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["dropped_lines"], json!([10, 20, cut]));
}
