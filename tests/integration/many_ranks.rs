//! Runs of several processes over loopback: the same run as that of one, whatever happens to a rank.
//!
//! The test serves the store at a free port, as torchrun's agent does, so that tests may run side by side. Every process
//! has a limit of time, and is ended when its test ends.

mod equal;
mod faults;
mod sharded;
mod stops;
mod traffic;

use super::support::{data, data_path};
use serde_json::Value;
use shearling::dist;
use shearling::native::c10d::Store;
use shearling::train::metrics;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any of these runs takes, on a machine that is busy too.
const LIMIT: Duration = Duration::from_secs(240);

/// What comes before the arguments of a test.
const COMMON: [&str; 6] = ["--threads", "1", "--device", "cpu", "--set", "dist.timeout_seconds=200"];

/// What makes a configuration one of learned masks.
pub const TARGET: &str = "[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 2\n\
                      [prune]\nmethod = 'learned'\nunproven = true\n";

/// A folder with a source, data and configurations.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        super::support::write_tiny_source(&folder.path().join("source"));
        Place { folder }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a configuration of eight steps with everything that has state; `tables` come on top.
    pub fn config(&self, name: &str, tables: &str) -> PathBuf {
        let domains = shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec();
        let references = domains.iter().map(|name| format!("{name} = 4.0")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "[run]\ndirectory = '{}'\nseed = 3\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1000\n\
             [mixer]\nkind = 'dynamic'\nreference_loss = {{ {references} }}\n\
             [train]\nsteps = 8\nbatch_rows = 8\nmicro_batch_rows = 2\nlearning_rate = 1e-3\nwarmup_steps = 2\n\
             [eval]\nevery_steps = 3\nrows_per_domain = 5\n[checkpoint]\nevery_steps = 4\n{tables}",
            self.at(name).display(),
            self.at("source").display(),
            data_path()
        );
        let path = self.at(&format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// The place of a rank that is a thread of this process, beside a store at that port.
pub fn thread_place(rank: usize, size: usize, port: u16) -> dist::Place {
    dist::Place {
        rank,
        size,
        local_rank: rank,
        local_size: size,
        address: "127.0.0.1".to_string(),
        port,
        agent_prefix: Some("/test".to_string()),
        launcher: dist::Launcher::Torchrun,
        restarts: 0,
    }
}

/// Processes of one run.
pub struct Ranks {
    children: Vec<Child>,
    logs: Vec<PathBuf>,
    _logs: tempfile::TempDir,
    _store: Store,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Ranks {
    /// Starts `size` ranks of `command` (`prune`, `lte train`) with `arguments`, as the `restart`-th start of a launcher.
    pub fn start(size: usize, command: &str, arguments: &[&str], restart: usize) -> Ranks {
        Ranks::start_some(1, size, 0..size, command, |_| arguments.iter().map(|one| one.to_string()).collect(), restart)
    }

    /// Starts some of `size` ranks of so many machines, each with arguments of its own.
    pub fn start_some(
        machines: usize,
        size: usize,
        ranks: impl Iterator<Item = usize>,
        command: &str,
        arguments: impl Fn(usize) -> Vec<String>,
        restart: usize,
    ) -> Ranks {
        let here = size / machines;
        let store = Store::serve("127.0.0.1", 0, LIMIT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (mut children, mut logs) = (Vec::new(), Vec::new());
        for rank in ranks {
            let log = folder.path().join(format!("{rank}.log"));
            let mut process = Command::new(env!("CARGO_BIN_EXE_shearling"));
            process.args(command.split(' ')).args(COMMON).args(arguments(rank));
            for (name, value) in [
                ("RANK", rank),
                ("WORLD_SIZE", size),
                ("LOCAL_RANK", rank % here),
                ("LOCAL_WORLD_SIZE", here),
                ("MASTER_PORT", usize::from(store.port())),
                ("TORCHELASTIC_RESTART_COUNT", restart),
            ] {
                process.env(name, value.to_string());
            }
            process.env("MASTER_ADDR", "127.0.0.1").env("TORCHELASTIC_USE_AGENT_STORE", "True");
            process.env("TORCHELASTIC_RUN_ID", "test").env("GLOO_SOCKET_IFNAME", "lo").env("OMP_NUM_THREADS", "1");
            process.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
            children.push(process.spawn().unwrap());
            logs.push(log);
        }
        Ranks { children, logs, _logs: folder, _store: store }
    }

    /// Sends a signal to one.
    pub fn signal(&self, rank: usize, name: &str) {
        let id = self.children[rank].id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits for the end of one.
    pub fn end_of(&mut self, rank: usize) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.children[rank].try_wait().unwrap() {
                let stderr = std::fs::read_to_string(&self.logs[rank]).unwrap_or_default();
                return Ended { code: status.code(), stderr };
            }
            assert!(
                begun.elapsed() < LIMIT,
                "rank {rank} does not end: {:?}",
                std::fs::read_to_string(&self.logs[rank])
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for all to end well.
    pub fn succeed(mut self) {
        let ended: Vec<Ended> = (0..self.children.len()).map(|rank| self.end_of(rank)).collect();
        assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:#?}");
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The run of a configuration to its end, by `size` processes.
pub fn run(size: usize, command: &str, config: &Path, sets: &[&str]) {
    let config = config.display().to_string();
    let mut arguments = vec!["--config", config.as_str()];
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    go(size, command, &arguments);
}

/// A command by `size` processes.
pub fn go(size: usize, command: &str, arguments: &[&str]) {
    if size > 1 {
        return Ranks::start(size, command, arguments, 0).succeed();
    }
    let all: Vec<&str> = command.split(' ').chain(COMMON).chain(arguments.iter().copied()).collect();
    super::support::succeed(&all);
}

/// The records of a run of one type.
pub fn records(run: &Path, kind: &str) -> Vec<Value> {
    let all = metrics::read(&run.join("metrics.jsonl")).unwrap();
    all.into_iter().filter(|record| record["type"] == kind).collect()
}

/// The last checkpoint of a run.
pub fn last_step(run: &Path) -> PathBuf {
    let mut steps: Vec<PathBuf> =
        std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    steps.sort();
    steps.pop().unwrap()
}

/// Waits until a run has done `step` steps.
pub fn wait_for_step(run: &Path, step: usize) {
    let begun = Instant::now();
    let done =
        || std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().matches("\"type\":\"step\"").count();
    while done() < step {
        assert!(begun.elapsed() < LIMIT, "step {step} of {} is never done", run.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
