//! `shearling watch` on planted runs: what it says of a run that stands, grows, is cut, is resumed, ends.

use super::report_compare::write_one_shot;
use super::support::{shearling, succeed, tiny_runs};
use serde_json::{Value, json};
use shearling::files::write_atomic;
use shearling::run_dir::RunLock;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

fn start(steps: u64) -> Value {
    json!({ "type": "start", "step": 0, "stage": "prune", "steps": steps, "domains": ["wiki", "code"],
            "proportions": [0.75, 0.25], "reference_losses": [2.0, 1.0] })
}

fn step(step: u64) -> Value {
    json!({ "type": "step", "step": step, "tokens": 64 * step, "loss": { "cross_entropy": 8.0 / step as f64 },
            "domains": { "wiki": { "loss": 3.0, "proportion": 0.625 } }, "seconds": 2.0, "tokens_per_second": 32.0 })
}

fn text(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn append(run: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(run.join("metrics.jsonl")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn once(run: &Path) -> Value {
    let stdout = succeed(&["watch", "--once", "--json", run.to_str().unwrap()]);
    serde_json::from_str(&stdout).unwrap()
}

/// A watch in another process, and its lines.
struct Watch {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn of(run: &Path) -> Watch {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
        let mut process = command.args(["watch", "--interval", "0.1"]).arg(run).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Watch { process, lines }
    }

    /// Waits for the next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A test that failed half-way leaves nothing running; one that is over has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn once_says_where_a_planted_run_stands() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let eval = json!({ "type": "eval", "step": 2, "gates": "expected", "mean_loss": 2.5,
                       "domains": { "code": { "loss": 1.25, "proportion": 0.5 } } });
    append(run, &text(&[start(10), step(1), step(2), eval, json!({ "type": "save", "step": 2 })]));
    append(run, "not json\n{\"type\":\"step\",\"step\":3,\"tok");
    let found = once(run);
    assert_eq!((&found["step"], &found["steps"], &found["finished"]), (&2.into(), &10.into(), &false.into()));
    assert_eq!((&found["seconds_left"], &found["tokens_per_second"]), (&16.0.into(), &32.0.into()));
    assert_eq!((&found["last_save"], &found["unreadable_lines"]), (&2.into(), &1.into()));
    assert_eq!(found["evaluation"], json!({ "step": 2, "mean_loss": 2.5 }));
    assert_eq!(found["domains"][0]["proportion"], 0.625);
    assert_eq!(
        (&found["domains"][1]["validation_loss"], &found["domains"][1]["reference"]),
        (&1.25.into(), &1.0.into())
    );
    let view = succeed(&["watch", "--once", run.to_str().unwrap()]);
    for said in ["step 2/10", "20 %", "loss 4.0000  █▁", "validation 2.5000 at step 2", "62.5 %", "1 unreadable line"]
    {
        assert!(view.contains(said), "{said} is not in\n{view}");
    }
}

#[test]
fn it_sees_who_is_at_work_and_locks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    append(folder.path(), &text(&[start(10), step(1)]));
    if !Path::new("/proc/locks").exists() {
        eprintln!("skipped: this system does not tell who holds a lock");
        return;
    }
    assert_eq!(once(folder.path())["running"], false);
    let lock = RunLock::acquire(folder.path()).unwrap();
    let found = once(folder.path());
    assert_eq!((&found["running"], &found["process"]), (&true.into(), &std::process::id().into()));
    drop(lock);
    let _watch = Watch::of(folder.path());
    RunLock::acquire(folder.path()).unwrap();
}

#[test]
fn it_follows_a_run_across_a_resume_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    append(run, &text(&[start(4), step(1), step(2)]));
    let mut watch = Watch::of(run);
    assert!(watch.line().starts_with("prune 2/4 "));
    append(run, &text(&[step(3)])[..20]);
    append(run, &text(&[step(3)])[20..]);
    let grown = watch.line();
    assert!(grown.starts_with("prune 3/4 ") && grown.contains("loss 2.6667"), "{grown}");
    // A resume after step 1 puts a shorter history in the file's place.
    write_atomic(&run.join("metrics.jsonl"), text(&[start(4), step(1)]).as_bytes()).unwrap();
    assert!(watch.line().starts_with("prune 1/4 "));
    append(run, &text(&[step(2), step(3), step(4), json!({ "type": "save", "step": 4 })]));
    let mut last = watch.line();
    while !last.contains("finished") {
        assert!(!last.is_empty(), "the watch ended without a word");
        last = watch.line();
    }
    assert!(last.starts_with("prune 4/4  finished"), "{last}");
    assert_eq!(watch.line(), "", "nothing follows the end");
    assert!(watch.process.wait().unwrap().success());
}

#[test]
fn a_real_run_that_is_over_ends_it_at_once() {
    let run = tiny_runs().join("prune");
    let stdout = succeed(&["watch", run.to_str().unwrap()]);
    assert!(stdout.lines().count() == 1 && stdout.starts_with("prune 40/40  finished"), "{stdout}");
    let view = succeed(&["watch", "--once", run.to_str().unwrap()]);
    for said in ["cut to target", "intermediate", "λ1", "overall", "peak memory"] {
        assert!(view.contains(said), "{said} is not in\n{view}");
    }
}

#[test]
fn a_cut_at_once_has_nothing_to_watch() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_one_shot(&folder.path().join("cut"));
    for configured in [false, true] {
        if configured {
            std::fs::write(run.join("resolved.toml"), "[run]\ndirectory = 'cut'\n").unwrap();
        }
        for arguments in [&["watch"][..], &["watch", "--once"]] {
            let stdout = succeed(&[arguments, &[run.to_str().unwrap()]].concat());
            assert!(stdout.contains("finished: the model was cut at once"), "{stdout}");
            assert!(stdout.trim_end().ends_with(&run.join("pruned").display().to_string()), "{stdout}");
        }
        let found = once(&run);
        assert_eq!((&found["finished"], &found["one_shot"], &found["steps"]), (&true.into(), &true.into(), &0.into()));
    }
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (path, said) in [(folder.path().to_path_buf(), "not a run folder"), (folder.path().join("none"), "none")] {
        let output = shearling(&["watch", path.to_str().unwrap()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let output = shearling(&["watch", "--interval", "0", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    // Its configuration is there before its first record.
    std::fs::write(folder.path().join("resolved.toml"), "").unwrap();
    assert_eq!(once(folder.path())["step"], 0);
}
