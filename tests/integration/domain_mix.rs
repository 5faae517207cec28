//! The mix in a run: bounded where that is asked for, said where it runs away, the same after a resume, and foretold by
//! `plan`.

use super::support::{data, shearling, write_tiny_source};
use serde_json::Value;
use shearling::config::{Stage, parse};
use shearling::inspect::RunHistory;
use shearling::run_dir::layout::METRICS;
use shearling::train::{Observer, Outcome, Setup, metrics, run};
use std::path::Path;
use tch::Device;

#[derive(Default)]
struct Notes(Vec<String>);
impl Observer for Notes {
    fn noted(&mut self, message: &str) {
        self.0.push(message.to_string());
    }
}

fn domains() -> Vec<String> {
    shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec()
}

/// A configuration in which the first domain is nats above its reference and the others at theirs.
fn text(folder: &Path, kind: &str) -> String {
    let lags = |(index, name): (usize, String)| format!("{name} = {}", if index == 0 { 0.5 } else { 50.0 });
    let references = domains().into_iter().enumerate().map(lags).collect::<Vec<_>>().join(", ");
    format!(
        "[run]\ndirectory = '{}'\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1000\n\
         [mixer]\nkind = '{kind}'\nreference_loss = {{ {references} }}\n\
         [train]\nsteps = 40\nbatch_rows = 2\nlearning_rate = 1e-3\n[eval]\nrows_per_domain = 2\nevery_steps = 5\n",
        folder.join("run").display(),
        folder.join("source").display(),
        data().display()
    )
}

fn setup(folder: &Path, kind: &str, sets: &[&str]) -> Setup {
    if !folder.join("source").exists() {
        write_tiny_source(&folder.join("source"));
    }
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let config = parse(&text(folder, kind), "test", &sets).unwrap();
    let stage = if config.target.is_some() { Stage::Prune } else { Stage::Pretrain };
    Setup::new(config, stage, Device::Cpu).unwrap()
}

fn finished(setup: &Setup) -> (Outcome, Vec<String>) {
    let mut notes = Notes::default();
    (run(setup, false, None, &mut notes).unwrap(), notes.0)
}

fn of_type(run: &Path, kind: &str) -> Vec<Value> {
    let records = metrics::read(&run.join(METRICS)).unwrap();
    let strip = |mut record: Value| {
        for time in ["time", "seconds"] {
            record.as_object_mut().unwrap().remove(time);
        }
        record
    };
    records.into_iter().filter(|record| record["type"] == kind).map(strip).collect()
}

#[test]
fn the_papers_rule_runs_away_and_it_is_said_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, notes) = finished(&setup(folder.path(), "dynamic", &[]));
    assert!(outcome.proportions[0] > 0.99, "{:?}", outcome.proportions);
    let first = &domains()[0];
    let alone = format!("{first} is nearly all of the mix: ");
    let of_it: Vec<&String> = notes.iter().filter(|note| note.contains(first.as_str())).collect();
    assert_eq!(of_it.len(), 1, "once: {notes:?}");
    assert!(of_it[0].contains(&alone) && of_it[0].contains("set mixer.cap, or mixer.kind = \"bounded\""), "{notes:?}");
    let records = of_type(&outcome.run, "mixer");
    assert_eq!(records.len(), notes.len());
    let history = RunHistory::read(&outcome.run).unwrap();
    assert!(history.notes.iter().any(|note| note.text.contains(&alone)), "{:?}", history.notes);
}

#[test]
fn the_bounded_mix_moves_by_its_step_and_says_what_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path(), "bounded", &[]);
    assert_eq!((setup.config.mixer.max_change, setup.config.mixer.max_drift), (Some(1.1), Some(6.0)), "written out");
    let (outcome, notes) = finished(&setup);
    let odds = |weight: f64| weight / (1.0 - weight);
    let mut before = 1.0 / 3.0;
    for eval in of_type(&outcome.run, "eval").iter().skip(1) {
        let now = eval["domains"][&domains()[0]]["proportion"].as_f64().unwrap();
        let factor = if eval["mixer_updated"] == true { 1.1 } else { 1.0 };
        assert!((odds(now) / odds(before) - factor).abs() < 1e-9, "{before} → {now}");
        before = now;
    }
    assert_eq!(notes.len(), 1, "the bound is told once: {notes:?}");
    assert!(notes[0].contains("mixer.max_change = 1.1 bounds how far one update moves the mix: "), "{notes:?}");
}

#[test]
fn a_bounded_mix_waits_for_the_masks_to_reach_their_targets() {
    let folder = tempfile::tempdir().unwrap();
    let sets = ["target.intermediate_size=32", "prune.method=learned", "masks.warmup_steps=18"];
    let (outcome, _) = finished(&setup(folder.path(), "bounded", &sets));
    let moved: Vec<u64> = of_type(&outcome.run, "eval")
        .iter()
        .filter(|eval| eval["mixer_updated"] == true)
        .map(|eval| eval["step"].as_u64().unwrap())
        .collect();
    assert_eq!(moved, [20, 25, 30, 35]);
}

#[test]
fn a_bounded_mix_resumes_bit_for_bit_and_repeats_no_notice() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (expected, said) = finished(&setup(whole.path(), "bounded", &[]));
    let setup = setup(parts.path(), "bounded", &[]);
    let (mut first, mut second) = (Notes::default(), Notes::default());
    run(&setup, false, Some(17), &mut first).unwrap();
    let found = run(&setup, true, None, &mut second).unwrap();
    assert_eq!(found.proportions, expected.proportions);
    assert_eq!(found.domain_rows, expected.domain_rows);
    assert_eq!([first.0, second.0].concat(), said);
    for kind in ["eval", "mixer"] {
        assert_eq!(of_type(&found.run, kind), of_type(&expected.run, kind), "{kind}");
    }
}

#[test]
fn plan_says_how_far_the_mix_may_go_and_warns_where_nothing_bounds_it() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let plan = |kind: &str| {
        let config = folder.path().join("config.toml");
        std::fs::write(&config, text(folder.path(), kind)).unwrap();
        let config = config.display().to_string();
        let output = shearling(&["plan", "--config", &config]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_string();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let first = &domains()[0];
    // Seven updates: the odds of a third, 1/2, times and by 1.1⁷.
    let (out, err) = plan("bounded");
    assert!(out.contains(&format!("mix (bounded) moves 7 times, at most within {first} 20.4–49.4 %, ")), "{out}");
    assert!(!err.contains("mixer.kind"), "{err}");
    let (out, err) = plan("dynamic");
    assert!(out.contains(&format!("mix (dynamic) moves 7 times, at most within {first} 0.0–100.0 %, ")), "{out}");
    assert!(err.contains("mixer.kind = \"dynamic\" may give nearly all of the mix to one domain"), "{err}");
    assert!(!plan("static").0.contains("mix ("), "a mix that does not move needs no line");
}
