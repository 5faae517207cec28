//! Whatever happens to a rank, all end, with an error that names it; and what is started again comes to the same end.

use super::super::support::tensors;
use super::{Place, Ranks, TARGET, last_step, records, run, wait_for_step};
use std::path::Path;
use std::process::{Command, Stdio};

/// A run that goes on until something happens.
fn endless(place: &Place, name: &str) -> String {
    place.config(name, "").display().to_string()
}

const ENDLESS: [&str; 6] =
    ["--set", "train.steps=20000", "--set", "eval.every_steps=100000", "--set", "checkpoint.every_steps=100000"];

fn start_endless(place: &Place, name: &str, size: usize) -> Ranks {
    start_endless_with(place, name, size, "dist.strategy=ddp")
}

fn start_endless_with(place: &Place, name: &str, size: usize, strategy: &str) -> Ranks {
    let config = endless(place, name);
    let arguments = [&["--config", config.as_str(), "--set", strategy][..], &ENDLESS].concat();
    let ranks = Ranks::start(size, "pretrain", &arguments, 0);
    wait_for_step(&place.at(name), 3);
    ranks
}

#[test]
fn a_killed_rank_ends_the_others_who_name_it() {
    let place = Place::new();
    let (ddp, fsdp) = ("dist.strategy=ddp", "dist.strategy=fsdp");
    for (size, killed, strategy) in [(2, 1, ddp), (2, 0, ddp), (3, 1, ddp), (2, 1, fsdp), (4, 0, fsdp)] {
        let name = format!("killed-{size}-{killed}-{strategy}");
        let mut ranks = start_endless_with(&place, &name, size, strategy);
        ranks.signal(killed, "KILL");
        for rank in (0..size).filter(|rank| *rank != killed) {
            let ended = ranks.end_of(rank);
            assert_eq!(ended.code, Some(2), "{ended:?}");
            let expected = format!("error (rank {rank} of {size}): rank {killed} of {size} no longer answers");
            assert!(ended.stderr.contains(&expected), "{expected}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_rank_that_hangs_is_given_up() {
    let place = Place::new();
    let config = place.config("hangs", "").display().to_string();
    let timeout = ["--set", "dist.timeout_seconds=3"];
    let arguments = [&["--config", config.as_str()][..], &ENDLESS, &timeout].concat();
    let mut ranks = Ranks::start(2, "pretrain", &arguments, 0);
    wait_for_step(&place.at("hangs"), 3);
    ranks.signal(1, "STOP");
    let ended = ranks.end_of(0);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("rank 1 of 2 no longer answers"), "{}", ended.stderr);
    // Woken up, it finds that it is alone.
    ranks.signal(1, "CONT");
    assert_eq!(ranks.end_of(1).code, Some(2));
}

/// Signals reach ranks at different moments; all stop after the same step, once.
#[test]
fn a_signal_to_all_saves_once_and_ends_well() {
    let place = Place::new();
    let mut ranks = start_endless(&place, "signal", 2);
    ranks.signal(1, "TERM");
    std::thread::sleep(std::time::Duration::from_millis(30));
    ranks.signal(0, "TERM");
    for rank in 0..2 {
        let ended = ranks.end_of(rank);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    assert_eq!(std::fs::read_dir(place.at("signal/checkpoints")).unwrap().count(), 1);
    assert!(last_step(&place.at("signal")).join("manifest.json").is_file());
}

/// One signal is enough.
#[test]
fn a_signal_to_one_stops_all() {
    let place = Place::new();
    let mut ranks = start_endless(&place, "one-signal", 2);
    ranks.signal(1, "TERM");
    assert!((0..2).all(|rank| ranks.end_of(rank).code == Some(0)));
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let place = Place::new();
    let config = place.config("alone", "[dist]\ntimeout_seconds = 2\n").display().to_string();
    let mut ranks = Ranks::start_some(1, 3, [0, 2].into_iter(), "pretrain", |_| own_timeout(&config), 0);
    for place in 0..2 {
        let ended = ranks.end_of(place);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("rank 1 of 3 did not come within 2 s"), "{}", ended.stderr);
    }
    assert!(!place.at("alone").exists(), "nothing was begun");
}

fn own_timeout(config: &str) -> Vec<String> {
    ["--config", config, "--set", "dist.timeout_seconds=2"].map(String::from).to_vec()
}

#[test]
fn ranks_that_were_given_something_else_are_told_what() {
    let place = Place::new();
    let config = place.config("differs", "").display().to_string();
    let arguments = |rank: usize| {
        ["--config".to_string(), config.clone(), "--set".to_string(), format!("run.seed={rank}")].to_vec()
    };
    let mut ranks = Ranks::start_some(1, 2, 0..2, "pretrain", arguments, 0);
    for rank in 0..2 {
        let ended = ranks.end_of(rank);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let expected = "rank 1 has another configuration than rank 0: \"seed = 1\", where rank 0 has \"seed = 0\"";
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
    assert!(!place.at("differs").exists());
}

/// A rank that fails by itself is not a mystery to the others.
#[test]
fn the_reason_of_one_rank_is_told_by_all() {
    let place = Place::new();
    let config = place.config("reason", "").display().to_string();
    let arguments = |rank: usize| {
        let mut given = ["--config".to_string(), config.clone()].to_vec();
        if rank == 1 {
            given.extend(["--set".to_string(), format!("data.path={}", place.at("nowhere").display())]);
        }
        given
    };
    let mut ranks = Ranks::start_some(1, 2, 0..2, "pretrain", arguments, 0);
    let ended = [ranks.end_of(0), ranks.end_of(1)];
    assert!(ended.iter().all(|ended| ended.code == Some(2)), "{ended:?}");
    assert!(ended[0].stderr.contains("rank 1 ended: ") && ended[0].stderr.contains("nowhere"), "{}", ended[0].stderr);
    assert!(ended[1].stderr.contains("error (rank 1 of 2): "), "{}", ended[1].stderr);
}

/// Killed at a step or in the middle of a save, in a rank that writes and in one that does not; the launcher starts the same
/// command again.
fn started_again(command: &str, tables: &str, sets: &[&str], kills: &[(usize, usize)]) {
    let place = Place::new();
    run(2, command, &place.config("whole", tables), sets);
    let expected = tensors(&last_step(&place.at("whole")).join("model/model.safetensors"));
    for (killed, after) in kills.iter().copied() {
        let name = format!("again-{killed}");
        let config = place.config(&name, tables).display().to_string();
        let arguments: Vec<&str> =
            ["--config", config.as_str()].into_iter().chain(sets.iter().flat_map(|set| ["--set", *set])).collect();
        let mut ranks = Ranks::start(2, command, &arguments, 0);
        wait_for_step(&place.at(&name), after);
        ranks.signal(killed, "KILL");
        let codes = [0, 1].map(|rank| ranks.end_of(rank).code);
        assert!(codes[1 - killed] == Some(2) && codes[killed].is_none(), "{codes:?}");
        drop(ranks);
        Ranks::start(2, command, &arguments, 1).succeed();
        assert!(!records(&place.at(&name), "resume").is_empty());
        let found = tensors(&last_step(&place.at(&name)).join("model/model.safetensors"));
        for (name, tensor) in &expected {
            assert!(tensor.equal(&found[name]), "{name} differs after rank {killed} was killed");
        }
    }
}

#[test]
fn a_pretrain_run_that_is_started_again_comes_to_the_same_end() {
    let sets = ["train.steps=150", "checkpoint.every_steps=20", "eval.every_steps=50"];
    started_again("pretrain", "", &sets, &[(1, 25), (0, 50)]);
}

/// The same where all take part in a checkpoint.
#[test]
fn a_sharded_run_that_is_started_again_comes_to_the_same_end() {
    let sets = ["train.steps=40", "checkpoint.every_steps=2", "eval.every_steps=50", "dist.strategy=fsdp"];
    started_again("prune", TARGET, &sets, &[(0, 7), (1, 12)]);
}

/// With a save after every other step it is probably killed in one.
#[test]
fn a_prune_run_that_is_started_again_comes_to_the_same_end() {
    let sets = ["train.steps=40", "checkpoint.every_steps=2", "eval.every_steps=50"];
    started_again("prune", TARGET, &sets, &[(0, 7), (1, 12)]);
}

/// Without a launcher: rank 0 serves the store, and dies with it.
#[test]
fn plain_variables_are_enough() {
    let place = Place::new();
    let config = place.config("plain", "").display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_shearling"));
        process.args(["pretrain", "--config", &config]).args(super::COMMON);
        process.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", rank.to_string());
        process.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("GLOO_SOCKET_IFNAME", "lo");
        process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let outputs = [0, 1].map(start).map(|child| child.wait_with_output().unwrap());
    let stderr = |rank: usize| String::from_utf8_lossy(&outputs[rank].stderr).into_owned();
    assert!(outputs.iter().all(|output| output.status.success()), "{} {}", stderr(0), stderr(1));
    assert_eq!(String::from_utf8_lossy(&outputs[0].stdout).trim(), place.at("plain/model").display().to_string());
    assert!(outputs[1].stdout.is_empty() && stderr(1).is_empty(), "{}", stderr(1));
    assert!(stderr(0).contains("2 ranks, each with the whole model"), "{}", stderr(0));
}

#[test]
fn commands_of_one_process_refuse_to_be_several() {
    let output = Command::new(env!("CARGO_BIN_EXE_shearling"))
        .args(["data", "inspect", &Path::new("nowhere").display().to_string()])
        .env("RANK", "0")
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("only prune, pretrain and lte train are done by several"), "{stderr}");
}
