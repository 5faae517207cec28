//! Whatever ends a command, nothing half-written stays: a signal removes it on the way out, and after SIGKILL the next
//! command that writes to the same place does, without touching what a living one is writing.

use super::support::{data, data_path, write_tiny_source};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A folder with more text than is prepared before a signal comes.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let folder = place.at("text/a");
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("p.jsonl")).unwrap());
        let words = "the sheep runs over the field ".repeat(40);
        for number in 0..60_000 {
            writeln!(file, "{{\"text\": \"{number} {words}\"}}").unwrap();
        }
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
        command.args(["data", "prepare", "--threads", "1", "--sequence-length", "64", "--tokenizer"]);
        command.arg(data().join("tokenizer.json")).arg("--from").arg(self.at("text")).arg("--out").arg(self.at("data"));
        quiet(&mut command);
        command
    }

    /// Begins to prepare, and waits until something is being written.
    fn prepare(&self) -> (Child, PathBuf) {
        let before = self.staged();
        let child = self.command().spawn().unwrap();
        let new = wait_for(|| self.staged().into_iter().find(|path| !before.contains(path)));
        wait_for(|| new.join("output/tokenizer.json").exists().then_some(()));
        (child, new)
    }

    fn staged(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(".staging-")).collect()
    }
}

fn quiet(command: &mut Command) {
    command.env("OMP_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::null());
}

/// Waits for what is bound to come; gives up after minutes rather than never.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..60_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Whether this process, and with it every command that it starts, ignores SIGHUP, as under nohup: then nothing would come of one.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status).is_some_and(|ignored| ignored & 1 == 1)
}

/// The mask of ignored signals in a `/proc/PID/status`; bit 0 is signal 1, SIGHUP.
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_signal_takes_what_was_half_written_with_it() {
    let place = Place::new();
    let hangup = (!ignores_hangups()).then_some("HUP");
    for name in ["INT", "TERM"].into_iter().chain(hangup) {
        let (mut child, _) = place.prepare();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
        assert_eq!(names(place.0.path()), ["text"], "{name}");
    }
}

#[test]
fn after_a_kill_the_next_command_cleans_up_and_leaves_a_living_one_alone() {
    let place = Place::new();
    let (mut killed, left) = place.prepare();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(left.exists(), "nobody was left to remove it");
    let (mut living, its) = place.prepare();
    assert!(!left.exists(), "the next one removes it");
    let (mut second, others) = place.prepare();
    assert!(its.join("output/tokenizer.json").exists() && others.exists() && its != others);
    for child in [&mut living, &mut second] {
        signal(child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
    assert_eq!(names(place.0.path()), ["text"]);
}

#[test]
fn an_error_half_way_leaves_nothing() {
    let place = Place::new();
    let mut file = std::fs::File::options().append(true).open(place.at("text/a/p.jsonl")).unwrap();
    writeln!(file, "not json").unwrap();
    assert_eq!(place.command().status().unwrap().code(), Some(2));
    assert_eq!(names(place.0.path()), ["text"]);
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() {
    let place = Place::new();
    let prepare = place.command();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(prepare.get_program()).args(prepare.get_args());
    quiet(&mut command);
    let mut child = command.spawn().unwrap();
    wait_for(|| place.staged().first().map(|path| path.join("output/tokenizer.json")).filter(|path| path.exists()));
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", child.id())) {
        assert_eq!(ignored_signals(&status).unwrap() & 1, 1, "{status}");
    }
    signal(&child, "HUP");
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(place.0.path()), ["text"]);
}

#[test]
fn a_closed_terminal_is_a_checkpoint_and_no_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_tiny_source(&at("source"));
    let run = at("run");
    let text = format!(
        "[run]\ndirectory = '{}'\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1e9\n\
         [train]\nsteps = 1000000\nbatch_rows = 2\nlearning_rate = 1e-3\n[eval]\nrows_per_domain = 1\n",
        run.display(),
        at("source").display(),
        data_path()
    );
    std::fs::write(at("run.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
    command.args(["pretrain", "--config"]).arg(at("run.toml"));
    quiet(&mut command);
    let mut child = command.spawn().unwrap();
    let steps = || std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_for(|| steps().contains("\"type\":\"step\"").then_some(()));
    signal(&child, if ignores_hangups() { "TERM" } else { "HUP" });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let checkpoints = names(&run.join("checkpoints"));
    assert!(checkpoints.len() == 1 && checkpoints[0].starts_with("step-"), "{checkpoints:?}");
    assert!(names(&run).iter().all(|name| !name.contains(".staging-")), "{:?}", names(&run));
}
