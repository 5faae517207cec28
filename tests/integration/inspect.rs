//! What `inspect` reads back from runs whose story is planted (`planted_run.rs`), and what it says about folders that are
//! damaged or half-written.

use super::planted_run::{Plan, STANDARD_ERROR, VOCAB, cut_loss, recovered_loss, snapshot, source_loss};
use super::report_compare::write_one_shot;
use super::support::{shearling, succeed};
use serde_json::{Value, json};
use shearling::inspect::RunHistory;
use shearling::run_dir::RunLock;
use shearling_masks::{HardConcrete, MaskSet, MaskSpec, Shape, UnitKind};
use std::path::{Path, PathBuf};

fn answer(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

/// A folder with a planted run, and the run as text for the command line.
fn planted(plan: &Plan) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    plan.write(&folder.path().join("run"));
    let run = folder.path().join("run").display().to_string();
    (folder, run)
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|item| item[key] == name);
    found.unwrap_or_else(|| panic!("no {key} {name} in {list}"))
}

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{found} is no number"));
    assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found} instead of {expected}");
}

/// Texts of the notes, each begun by its severity.
fn notes(history: &Value) -> Vec<String> {
    let notes = history["notes"].as_array().unwrap().iter();
    notes.map(|note| format!("{}: {}", note["severity"].as_str().unwrap(), note["text"].as_str().unwrap())).collect()
}

#[test]
fn planted_facts_are_read_back_from_the_history() {
    let plan = Plan::small();
    let (_folder, run) = planted(&plan);
    let history = answer(&["inspect", "run", &run, "--json"]);
    let summary = &history["summary"];
    assert_eq!((&history["stage"], &history["planned_steps"]), (&"prune".into(), &plan.steps.into()));
    assert_eq!((&history["finished_steps"], &summary["tokens"]), (&plan.steps.into(), &(512 * plan.steps).into()));
    assert_eq!(history["domains"], json!(plan.domains));
    assert!(history["config"].as_str().unwrap().contains("steps = 100"));

    // The skipped step: its numbers are missing, not zero, and it is counted.
    let at = plan.skipped_step as usize - 1;
    let steps = &history["steps"];
    assert_eq!((&steps["loss_total"][at], &steps["applied"][at]), (&Value::Null, &false.into()));
    assert!(steps["loss_total"][at + 1].is_number() && steps["applied"][at + 1] == true);
    assert_eq!(summary["skipped"], 1);
    assert_eq!(named(&history["events"], "kind", "skip")["step"], plan.skipped_step);
    assert_eq!(named(&history["events"], "kind", "resume")["step"], plan.steps / 2);

    // The constraint holds at the end, but for `hidden`.
    for module in steps["modules"].as_array().unwrap() {
        let planted = if module["module"] == "hidden" { 0.05 } else { 0.001 };
        close(module["violation"].as_array().unwrap().last().unwrap(), planted);
    }
    let notes = notes(&history);
    let about = |text: &str| notes.iter().filter(|note| note.contains(text)).count();
    assert_eq!((about("constraint does not hold"), about("warning: hidden: the constraint does not hold")), (1, 1));
    assert_eq!(about("warning: 1 of 100 updates was skipped (not finite): step 37"), 1, "{notes:?}");
    assert_eq!(about("info: resumed once, after step 50"), 1, "{notes:?}");
    assert!(notes.is_sorted_by_key(|note| note.starts_with("info")), "warnings first: {notes:?}");
    assert_eq!(about("undecided"), 0, "all masks had decided: {notes:?}");

    // The drifting proportion.
    let books = named(&steps["domains"], "domain", "books");
    let shares = books["proportion"].as_array().unwrap();
    close(&shares[0], 1.0 / 3.0);
    close(shares.last().unwrap(), plan.proportion(2, 80));
    close(&named(&history["stories"], "domain", "books")["last_proportion"], plan.proportion(2, 80));

    let (before, after) = plan.parameters();
    let written = &history["written"];
    assert_eq!((&written["path"], &written["exists"]), (&"pruned".into(), &true.into()));
    assert_eq!((&written["parameters_before"], &written["parameters_after"]), (&before.into(), &after.into()));
    assert_eq!(written["equivalence"]["written_bound"], 1e-4);
}

#[test]
fn planted_masks_settle_where_they_were_made_to() {
    let plan = Plan::small();
    let (_folder, run) = planted(&plan);
    let history = answer(&["inspect", "run", &run, "--json"]);
    let settled = |module: &str| {
        let settled = named(&history["settled"], "module", module);
        (settled["same_units_from"].as_u64(), settled["decided_from"].as_u64())
    };
    assert_eq!(settled("layer"), (Some(20), Some(20)));
    assert_eq!(settled("kv_head"), (Some(plan.heads_settle()), Some(20)));
    assert_eq!(settled("intermediate"), (Some(plan.intermediate_settles()), Some(plan.masks_decide())));
    assert_eq!(settled("hidden"), (Some(20), Some(20)));
    let rows = &named(&history["settled"], "module", "kv_head")["rows"];
    assert_eq!((&rows[1]["removed"], &rows[2]["removed"]), (&false.into(), &true.into()));

    let survivors = &history["survivors"];
    assert_eq!(survivors["removed_layers"], json!(plan.removed_layers));
    assert_eq!((&survivors["step"], &survivors["path"]), (&100.into(), &snapshot(100).into()));
    for layer in survivors["layers"].as_array().unwrap() {
        let source = layer["source_layer"].as_i64().unwrap();
        assert_eq!(layer["kv_heads"], json!(plan.kept_kv_heads(source, plan.steps)), "layer {source}");
        let queries: Vec<i64> =
            plan.kept_kv_heads(source, plan.steps).iter().flat_map(|head| [2 * head, 2 * head + 1]).collect();
        assert_eq!(layer["heads"], json!(queries), "two queries share a kv head");
        assert_eq!(layer["intermediate"], plan.target.intermediate_size);
    }

    let snapshots = history["snapshots"].as_array().unwrap();
    let steps: Vec<u64> = snapshots.iter().map(|snapshot| snapshot["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, plan.evaluated());
    let last = &snapshots[4];
    assert_eq!(last["kept_layers"], json!([true, true, false, true]));
    let gate = |layer: usize, head: usize| last["heads"][layer][head].as_f64().unwrap();
    for layer in [0, 1, 3] {
        for head in 0..8 {
            let kept = plan.kept_kv_heads(layer as i64, plan.steps).contains(&(head as i64 / 2));
            assert_eq!(last["kept_heads"][layer][head], kept);
            assert!(if kept { gate(layer, head) > 0.98 } else { gate(layer, head) < 0.01 }, "{layer} {head}");
        }
    }
    assert!((0..8).all(|head| gate(2, head) < 0.01), "a removed layer closes its heads");
    assert!((0..8).all(|head| last["kept_heads"][2][head] == false));
    // 12 of 16 and 150 of 300: tenths sorted from the most open, the layer's gate on top.
    let tenths = |at: usize| last["intermediate"][0][at].as_f64().unwrap();
    assert!(tenths(0) > 0.98 && tenths(4) > 0.98 && tenths(5) < 0.01 && tenths(9) < 0.01);
    let histogram = last["hidden_histogram"].as_array().unwrap();
    assert_eq!((&histogram[0], &histogram[9]), (&4.into(), &12.into()));
    let undecided = |at: usize| snapshots[at]["undecided"]["intermediate"].as_u64().unwrap();
    assert_eq!(
        (undecided(0), undecided(4)),
        (3 * 100, 0),
        "a third of 300 in each of the 3 layers that stay, then none"
    );
    // The vocabulary is read from pruned/config.json.
    let expected = last["expected_parameters"].as_f64().unwrap();
    assert!(expected > last["expected_prunable_parameters"].as_f64().unwrap() + (2 * VOCAB * 11) as f64);
}

#[test]
fn planted_damage_and_recovery_are_told_per_domain() {
    let (prune, recovery) = (Plan::small(), Plan::recovery());
    let (_folder, run) = planted(&prune);
    let pruned = RunHistory::read(Path::new(&run)).unwrap();
    let (_folder, run) = planted(&recovery);
    let recovered = RunHistory::read(Path::new(&run)).unwrap();
    assert!(recovered.continues_pruned && recovered.snapshots.is_empty() && recovered.settled.is_empty());
    assert!(recovered.notes.iter().all(|note| !note.text.contains("mask")), "{:?}", recovered.notes);
    let joined = shearling::inspect::story::joined(&[&pruned, &recovered], &[]);
    for (index, name) in prune.domains.iter().enumerate() {
        let damage = cut_loss(name) - source_loss(name);
        let [cut, after, both] = [&pruned.stories[index], &recovered.stories[index], &joined[index]];
        assert_eq!((cut.source.unwrap().step, cut.source.unwrap().loss), (Some(0), source_loss(name)));
        assert_eq!((cut.cut.unwrap().loss, cut.recovered), (cut_loss(name), None));
        assert!((cut.degradation.unwrap() - damage / STANDARD_ERROR.hypot(STANDARD_ERROR)).abs() < 1e-9);
        assert_eq!((after.source.unwrap().step, after.cut.unwrap().loss), (None, cut_loss(name)), "from the reference");
        assert_eq!(both.last.unwrap().loss, recovered_loss(name));
        let share = (cut_loss(name) - recovered_loss(name)) / damage;
        assert!((both.recovered.unwrap() - share).abs() < 1e-9);
        assert_eq!(after.recovered, None, "on which rows a reference loss was measured is not recorded");
        assert_eq!(both.rows, Some(4.0 * (prune.steps + recovery.steps) as f64));
    }
}

#[test]
fn masks_of_any_step_are_shown_without_a_checkpoint() {
    let plan = Plan::small();
    let (folder, run) = planted(&plan);
    let newest = answer(&["inspect", "masks", &run, "--json"]);
    let file = Path::new(&run).join(snapshot(40)).display().to_string();
    let at_40 = answer(&["inspect", "masks", &format!("{run}@40"), "--json"]);
    assert_eq!(at_40, answer(&["inspect", "masks", &file, "--json"]), "a step and its file");
    assert_eq!((&newest["step"], &at_40["step"]), (&100.into(), &40.into()));
    assert_eq!((&newest["layers"][2]["becomes"], &newest["layers"][3]["becomes"]), (&Value::Null, &2.into()));
    assert_eq!(newest["layers"][2]["heads"], json!([]));
    let (before, after) = plan.parameters();
    close(&newest["parameters"]["before"]["total"], before as f64);
    close(&newest["parameters"]["after"]["total"], after as f64);
    let expected = newest["parameters"]["expected"].as_object().unwrap();
    let part = |name: &str| expected[name].as_f64().unwrap();
    close(&expected["total"], ["embedding", "attention", "mlp", "norms", "head"].map(part).iter().sum());
    let history = RunHistory::read(Path::new(&run)).unwrap();
    close(&expected["total"], history.snapshots[4].expected_parameters.unwrap());

    // A file away from its run has no vocabulary.
    let alone = folder.path().join("masks.safetensors");
    std::fs::copy(&file, &alone).unwrap();
    let alone = answer(&["inspect", "masks", &alone.display().to_string(), "--json"]);
    assert_eq!((&alone["step"], &alone["parameters"]["before"]["total"]), (&Value::Null, &Value::Null));
    assert_eq!(alone["parameters"]["before"]["mlp"], newest["parameters"]["before"]["mlp"]);

    // Between steps 40 and 100 one of two kv heads changed in every layer: one in common, three in all.
    let agreement = &answer(&["inspect", "masks", &run, "--against", &format!("{run}@40"), "--json"])["agreement"];
    close(&named(&agreement["modules"], "module", "kv_head")["jaccard"], 1.0 / 3.0);
    close(&named(&agreement["modules"], "module", "kv_head")["rows"][1], 1.0 / 3.0);
    for same in ["layer", "intermediate", "hidden"] {
        close(&named(&agreement["modules"], "module", same)["jaccard"], 1.0);
    }
    let text = succeed(&["inspect", "masks", &run, "--against", &file]);
    let removed = text.lines().find(|line| line.ends_with("removed") && line.contains('×')).unwrap();
    assert!(removed.trim_start().starts_with('2') && !removed.contains('█'), "{text}");
    assert!(text.contains("0.333") && !text.contains('\u{1b}'), "no colours into a pipe:\n{text}");
}

#[test]
fn tables_for_other_programs_have_a_row_per_step_and_per_mask_row() {
    let plan = Plan::small();
    let (folder, run) = planted(&plan);
    let rows =
        |text: &str| text.lines().map(|line| line.split(',').map(String::from).collect()).collect::<Vec<Vec<_>>>();
    let steps = rows(&succeed(&["inspect", "run", &run, "--csv", "-"]));
    let column = |name: &str| steps[0].iter().position(|header| header == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(steps.len(), 101);
    assert!(steps.iter().all(|row| row.len() == steps[0].len()));
    assert_eq!((steps[20][column("step")].as_str(), steps[20][column("tokens")].as_str()), ("20", "10240"));
    assert_eq!(steps[37][column("domains.code.loss")], "", "not finite");
    assert_eq!(steps[37][column("applied")], "false");
    assert_eq!(steps[100][column("modules.hidden.violation")], "0.05");

    let file = folder.path().join("masks.csv");
    let csv = ["inspect", "masks", &run, "--against", &format!("{run}@40"), "--csv", &file.display().to_string()];
    assert!(succeed(&csv).contains("what is kept, by layer"), "the tables too");
    let masks = rows(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(
        masks.len(),
        1 + 1 + 4 + 4 + 1,
        "a header; one row for layer, four each for kv heads and MLP, one for hidden"
    );
    let column = |name: &str| masks[0].iter().position(|header| header == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(masks[1][column("kept_units")], "0-1 3");
    let kv: Vec<&Vec<String>> = masks.iter().filter(|row| row[0] == "kv_head").collect();
    assert_eq!((kv[2][column("layer")].as_str(), kv[2][column("removed")].as_str()), ("2", "true"));
    assert_eq!(kv[1][column("kept_units")], "0 3");
    assert_eq!(kv[1][column("jaccard")].parse::<f64>().unwrap(), 1.0 / 3.0);
    let output = shearling(&["inspect", "run", &run, "--csv", "-", "--json"]);
    assert_eq!(output.status.code(), Some(2), "both want stdout");
}

/// A way to break a run folder, and what is said about it.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

fn edit_metrics(run: &Path, edit: impl Fn(Vec<String>) -> String) {
    let path = run.join("metrics.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap().lines().map(String::from).collect();
    std::fs::write(path, edit(lines)).unwrap();
}

fn snapshot_of(run: &Path, step: u64) -> PathBuf {
    run.join(snapshot(step))
}

const DAMAGES: [Damage; 15] = [
    ("no metrics", |run| std::fs::remove_file(run.join("metrics.jsonl")).unwrap(), &["metrics.jsonl cannot be read"]),
    (
        "a folder in the place of the metrics",
        |run| {
            std::fs::remove_file(run.join("metrics.jsonl")).unwrap();
            std::fs::create_dir(run.join("metrics.jsonl")).unwrap();
        },
        &["metrics.jsonl cannot be read: it is not a regular file"],
    ),
    (
        "a line cut in the middle",
        |run| {
            edit_metrics(run, |mut lines| {
                lines[9].truncate(100);
                lines.join("\n") + "\n"
            });
        },
        &["metrics.jsonl: line 10 cut or damaged and left out (1 in all)"],
    ),
    (
        "a last line cut",
        |run| edit_metrics(run, |lines| format!("{}\n{}", lines[..60].join("\n"), &lines[60][..80])),
        &["the last line (61) is cut", "metrics.jsonl ends at step 53, but there are masks of step 100"],
    ),
    (
        "bytes of something else",
        |run| std::fs::write(run.join("metrics.jsonl"), [0xff, 0x00, b'\n', 0xfe, b'{', b'\n']).unwrap(),
        &["lines 1, 2 cut or damaged", "no finished step is recorded"],
    ),
    (
        "records of unknown types and wrong kinds",
        |run| {
            edit_metrics(run, |mut lines| {
                lines.push(r#"{"type":"novel","step":100}"#.to_string());
                lines.push(r#"{"type":"step","step":101,"loss":"high","domains":[],"constraints":{}}"#.to_string());
                lines.push(r#"{"type":"eval","step":101,"domains":7,"masks":{"modules":[1]}}"#.to_string());
                lines.join("\n")
            });
        },
        &["1 record of the unknown type \"novel\" is passed over"],
    ),
    (
        "a run that is going on",
        |run| {
            edit_metrics(run, |lines| lines[..60].join("\n") + "\n");
            [60, 80, 100].iter().for_each(|step| std::fs::remove_file(snapshot_of(run, *step)).unwrap());
            std::fs::remove_dir_all(run.join("pruned")).unwrap();
        },
        &["the run is not finished: 53 of 100 steps"],
    ),
    (
        "domains that ran out, and a full disk",
        |run| {
            edit_metrics(run, |lines| {
                let event = |kind: &str, fields: &str| format!("{{\"type\":\"{kind}\",\"step\":90,{fields}}}\n");
                let more =
                    event("exhausted", "\"domains\":[\"web\",\"code\"]") + &event("not_saved", "\"reason\":\"full\"");
                lines.join("\n") + "\n" + &more.repeat(7)
            });
        },
        &[
            "step 90: reached data.max_epochs and left the mix: web, code",
            "step 90: no checkpoint was written: full",
            "2 more events `exhausted`",
        ],
    ),
    (
        "a missing start, and no configuration",
        |run| {
            edit_metrics(run, |lines| lines[1..40].join("\n"));
            std::fs::remove_dir_all(run.join("masks")).unwrap();
            std::fs::remove_file(run.join("resolved.toml")).unwrap();
        },
        &["the planned number of steps is not recorded"],
    ),
    (
        "a missing snapshot",
        |run| std::fs::remove_file(snapshot_of(run, 40)).unwrap(),
        &["1 mask snapshot is missing: masks/step-00000040.safetensors"],
    ),
    (
        "a snapshot of garbage",
        |run| std::fs::write(snapshot_of(run, 40), "garbage").unwrap(),
        &["a mask snapshot is left out", "step-00000040.safetensors"],
    ),
    (
        "a last snapshot cut short",
        |run| {
            let bytes = std::fs::read(snapshot_of(run, 100)).unwrap();
            std::fs::write(snapshot_of(run, 100), &bytes[..bytes.len() / 2]).unwrap();
        },
        &["a mask snapshot is left out", "step-00000100.safetensors"],
    ),
    (
        "no snapshots",
        |run| std::fs::remove_dir_all(run.join("masks")).unwrap(),
        &["5 mask snapshots are missing", "no readable mask snapshot"],
    ),
    (
        "no configuration",
        |run| std::fs::remove_file(run.join("resolved.toml")).unwrap(),
        &["resolved.toml cannot be read"],
    ),
    (
        "a model that is gone",
        |run| std::fs::remove_dir_all(run.join("pruned")).unwrap(),
        &["the model that the run wrote is gone"],
    ),
];

#[test]
fn damaged_runs_are_shown_and_say_what_is_missing() {
    let (_folder, run) = planted(&Plan::small());
    for (what, damage, expected) in DAMAGES {
        let place = tempfile::tempdir().unwrap();
        let copy = place.path().join("run");
        super::support::copy_folder(Path::new(&run), &copy);
        damage(&copy);
        let history = RunHistory::read(&copy).unwrap_or_else(|error| panic!("{what}: {error}"));
        let notes: Vec<&str> = history.notes.iter().map(|note| note.text.as_str()).collect();
        for fragment in expected {
            assert!(notes.iter().any(|note| note.contains(fragment)), "{what}: no {fragment:?} in {notes:#?}");
        }
        let text = succeed(&["inspect", "run", &copy.display().to_string()]);
        assert!(text.contains(expected[0]), "{what}:\n{text}");
    }
}

#[test]
fn text_of_a_foreign_file_cannot_move_the_cursor() {
    let (_folder, run) = planted(&Plan::small());
    edit_metrics(Path::new(&run), |lines| {
        lines.join("\n").replace("\"code\"", "\"co\\u001b[2Jde\"") + "\n{\"type\":\"\\u001b\",\"step\":1}"
    });
    std::fs::write(snapshot_of(Path::new(&run), 20), "\u{1b}[2J").unwrap();
    let text = succeed(&["inspect", "run", &run]);
    assert!(!text.contains('\u{1b}') && text.contains("co\u{fffd}[2Jde"), "{text}");
    let history = answer(&["inspect", "run", &run, "--json"]);
    assert!(named(&history["stories"], "domain", "co\u{fffd}[2Jde")["degradation"].is_number());
}

#[test]
fn what_is_left_of_a_run_is_shown() {
    let plan = Plan::small();
    let (_folder, run) = planted(&plan);
    let run = PathBuf::from(run);
    // Masks alone: which units stay and when they settled is still known.
    std::fs::remove_file(run.join("metrics.jsonl")).unwrap();
    let history = RunHistory::read(&run).unwrap();
    assert_eq!(
        (history.stage.as_deref(), history.finished_steps, history.planned_steps),
        (Some("prune"), 100, Some(100))
    );
    assert_eq!(history.snapshots.len(), 5);
    let heads = history.settled.iter().find(|settled| settled.module == UnitKind::KvHead).unwrap();
    assert_eq!(heads.same_units_from, Some(plan.heads_settle()));
    assert_eq!(history.survivors.unwrap().removed_layers, plan.removed_layers);
    // The last readable masks count when the last are broken.
    std::fs::write(snapshot_of(&run, 100), "").unwrap();
    assert_eq!(RunHistory::read(&run).unwrap().survivors.unwrap().step, 80);
    assert_eq!(answer(&["inspect", "masks", &run.display().to_string(), "--json"])["step"], 80);
}

#[test]
fn a_folder_with_a_lock_and_no_more_is_said_to_be_that() {
    let begun = tempfile::tempdir().unwrap();
    let path = begun.path().display().to_string();
    std::fs::write(begun.path().join("run.lock"), "").unwrap();
    for command in [
        &["inspect", "run"][..],
        &["inspect", "masks"],
        &["watch"],
        &["report", "--out", "none.html"],
        &["generate"],
        &["prune", "--resume"],
    ] {
        let output = shearling(&[command, &[&path]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
        assert!(stderr.contains("was stopped before it wrote anything"), "{command:?}: {stderr}");
    }
}

#[test]
fn folders_that_are_no_run_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (path, said) in [
        (&empty, "it holds none of metrics.jsonl"),
        (&file, "not a folder"),
        (&place.path().join("no"), "does not exist"),
    ] {
        let output = shearling(&["inspect", "run", &path.display().to_string()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said) && stderr.contains(&path.display().to_string()), "{stderr}");
    }
    let (_folder, run) = planted(&Plan::recovery());
    for (target, said) in [(run.clone(), "has no masks"), (format!("{run}@20"), "of step 20; there are []")] {
        let output = shearling(&["inspect", "masks", &target]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
    }
}

#[test]
fn a_small_file_of_many_layers_is_refused_at_once() {
    // Only `hidden` is pruned, so the file does not grow with the layers that it claims.
    let shape = |hidden_size| Shape {
        hidden_size,
        intermediate_size: 1,
        num_hidden_layers: 1 << 18,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 1,
    };
    let spec = MaskSpec::new(&shape(2), &shape(1)).unwrap();
    let masks = MaskSet::new(spec, HardConcrete::default(), 0, 0, tch::Device::Cpu).unwrap();
    let (_folder, run) = planted(&Plan::small());
    let file = snapshot_of(Path::new(&run), 40);
    masks.save(&file).unwrap();
    assert!(std::fs::metadata(&file).unwrap().len() < 2000);
    let output = shearling(&["inspect", "masks", &file.display().to_string()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("262144 layers"), "{stderr}");
    let history = answer(&["inspect", "run", &run, "--json"]);
    assert!(notes(&history).iter().any(|note| note.contains("left out") && note.contains("262144 layers")));
    assert_eq!(history["snapshots"].as_array().unwrap().len(), 4);
}

#[test]
fn more_domains_than_any_run_has_are_not_all_told_apart() {
    let (_folder, run) = planted(&Plan::small());
    edit_metrics(Path::new(&run), |lines| {
        let eval = |at: usize| {
            let domains: serde_json::Map<_, _> =
                (0..1000).map(|i| (format!("d{}", at * 1000 + i), json!({ "loss": 1.0 }))).collect();
            json!({ "type": "eval", "step": 100, "gates": "expected", "domains": domains }).to_string()
        };
        lines.into_iter().chain((0..50).map(eval)).collect::<Vec<_>>().join("\n")
    });
    let history = RunHistory::read(Path::new(&run)).unwrap();
    assert_eq!((history.domains.len(), history.stories.len()), (1000, 1000));
    assert_eq!(history.domains[..Plan::small().domains.len()], Plan::small().domains);
}

#[test]
fn masks_of_a_7b_fit_a_terminal() {
    let plan = Plan::seven_b();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step-00003200.safetensors");
    plan.masks(plan.steps).save(&file).unwrap();
    let text = succeed(&["inspect", "masks", &file.display().to_string()]);
    let map: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("gates by layer")).skip(2).take(32).collect();
    assert!(map.iter().all(|line| line.chars().count() <= 100), "{text}");
    for (layer, line) in map.iter().enumerate() {
        let removed = plan.removed_layers.contains(&(layer as i64));
        assert_eq!(removed, line.ends_with("removed"), "{line}");
        let crossed = line.chars().filter(|c| *c == '×').count();
        let cell = line.chars().filter(|c| "×█▓▒░·!".contains(*c)).count() / 42;
        assert_eq!(crossed, cell * if removed { 42 } else { 16 + 5 }, "{line}");
    }
}

#[test]
fn what_holds_no_masks_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_one_shot(&folder.path().join("cut"));
    let refused = |target: &Path| {
        let output = shearling(&["inspect", "masks", target.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let cut = refused(&run);
    assert!(cut.contains("it was cut at once") && cut.contains("shearling inspect model"), "{cut}");
    let file = folder.path().join("given");
    for (content, kind) in [
        ("[run]\ndirectory = 'a'\n", "it is a configuration (TOML) and no mask file"),
        ("{\"a\": 1}", "it is a JSON file and no mask file"),
        ("{\"type\": \"start\"}\n{\"type\": \"step\"}\n", "as metrics.jsonl is, and no mask file"),
    ] {
        std::fs::write(&file, content).unwrap();
        let message = refused(&file);
        assert!(message.contains(kind) && message.contains("give the folder of the run"), "{message}");
    }
    std::fs::write(&file, [0xff; 64]).unwrap();
    assert!(!refused(&file).contains("and no mask file"), "what it is is not known");
}

#[test]
fn a_live_run_is_called_running() {
    if !Path::new("/proc/locks").exists() {
        eprintln!("skipped: this system does not tell who holds a lock");
        return;
    }
    let (_folder, run) = planted(&Plan::recovery());
    let metrics = Path::new(&run).join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap();
    let half: Vec<&str> = text.lines().take(text.lines().count() / 2).collect();
    std::fs::write(&metrics, half.join("\n") + "\n").unwrap();
    let found = |word: &str| {
        let history = answer(&["inspect", "run", &run, "--json"]);
        notes(&history).into_iter().filter(|note| note.contains(word)).collect::<Vec<_>>()
    };
    assert!(found("the run is running").is_empty());
    let lock = RunLock::acquire(Path::new(&run)).unwrap();
    let said = found("the run is running");
    assert!(said.len() == 1 && said[0].starts_with("info: "), "{said:?}");
    assert!(found("is not finished").is_empty());
    let headline = succeed(&["inspect", "run", &run]);
    assert!(headline.lines().next().unwrap().contains(", running (process "), "{headline}");
    drop(lock);
    assert!(found("the run is running").is_empty());
}
