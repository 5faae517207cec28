//! How many threads a command computes with, and how they wait: what the user says, else what suits the machine.

use super::support::{config, data_path, sets, tiny_runs};
use serde_json::Value;
use std::process::{Command, Output};

/// Runs the binary with these variables and none of its surroundings' about threads.
fn with(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
    for name in
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"]
    {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

/// `found` of a check of `doctor`.
fn doctor(variables: &[(&str, &str)], more: &[&str], check: &str) -> String {
    let output = with(variables, &[&["doctor", "--device", "cpu", "--json"], more].concat());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = answer["checks"].as_array().unwrap();
    checks.iter().find(|entry| entry["name"] == check).unwrap()["found"].as_str().unwrap().to_string()
}

#[test]
fn the_number_is_the_option_or_the_variable_or_what_the_machine_has() {
    let threads = |variables: &[(&str, &str)], more: &[&str]| doctor(variables, more, "threads");
    let unasked = threads(&[], &[]);
    assert!(unasked.contains("physical core") || unasked.contains("limit") || unasked.contains("default"), "{unasked}");
    assert!(threads(&[("OMP_NUM_THREADS", "1")], &[]).starts_with("1 thread on "));
    assert!(threads(&[("OMP_NUM_THREADS", "1")], &[]).contains("OMP_NUM_THREADS"));
    let asked = threads(&[("OMP_NUM_THREADS", "1")], &["--threads", "3"]);
    assert!(asked.starts_with("3 threads on ") && asked.ends_with("--threads"), "{asked}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_is_bound_to_one_cpu_computes_with_one_thread() {
    let script = r#"taskset -c "$(taskset -pc $$ | sed 's/.*[: ]\([0-9]*\).*/\1/')" "$0" doctor --device cpu"#;
    let mut shell = Command::new("sh");
    let output =
        shell.args(["-c", script, env!("CARGO_BIN_EXE_shearling")]).env_remove("OMP_NUM_THREADS").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Where there is no taskset there is nothing to see.
    if !text.is_empty() {
        assert!(text.contains("threads    1 thread on 1 available CPU"), "{text}");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn waiting_threads_sleep_soon_unless_the_user_says_how_they_wait() {
    let ours = doctor(&[], &[], "waiting");
    assert!(ours.contains("GOMP_SPINCOUNT=2000"), "{ours}");
    for (name, value) in [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7"), ("KMP_BLOCKTIME", "200")] {
        let theirs = doctor(&[(name, value)], &[], "waiting");
        assert_eq!(theirs, format!("as the environment says: {name}={value}"));
    }
    // What the runtime itself has read when it was loaded.
    let shown = String::from_utf8(with(&[("OMP_DISPLAY_ENV", "verbose")], &["--version"]).stderr).unwrap();
    assert!(shown.contains("GOMP_SPINCOUNT = '2000'") || !shown.contains("GOMP_SPINCOUNT"), "{shown}");
    let spinning = with(&[("OMP_DISPLAY_ENV", "verbose"), ("GOMP_SPINCOUNT", "7")], &["--version"]).stderr;
    let spinning = String::from_utf8(spinning).unwrap();
    assert!(spinning.contains("GOMP_SPINCOUNT = '7'") || !spinning.contains("GOMP_SPINCOUNT"), "{spinning}");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn starting_again_keeps_arguments_and_exit_code() {
    let odd = with(&[], &["eval", "a folder", "--data", "née\n", "--rows", "1"]);
    assert_eq!(odd.status.code(), Some(2));
    assert!(String::from_utf8(odd.stderr).unwrap().contains("a folder"));
    let settled = with(&[("GOMP_SPINCOUNT", "7")], &["eval", "a folder", "--data", "née\n", "--rows", "1"]);
    assert_eq!(settled.status.code(), Some(2));
}

#[test]
fn every_command_that_computes_takes_a_number() {
    let commands: [&[&str]; 11] = [
        &["doctor"],
        &["data", "prepare"],
        &["prune"],
        &["pretrain"],
        &["export"],
        &["eval"],
        &["generate"],
        &["bench", "step"],
        &["bench", "latency"],
        &["bench", "check"],
        &["demo"],
    ];
    for command in commands {
        let help = String::from_utf8(with(&[], &[command, &["--help"]].concat()).stdout).unwrap();
        assert!(help.contains("--threads <N>"), "{command:?}:\n{help}");
        let output = with(&[], &[command, &["--threads", "none"]].concat());
        assert_eq!(output.status.code(), Some(2));
    }
    let wrong = String::from_utf8(with(&[], &["doctor", "--threads", "0"]).stderr).unwrap();
    assert!(wrong.contains("a number from 1 to 1024"), "{wrong}");
}

#[test]
fn a_run_computes_with_the_number_of_its_configuration_and_the_option_goes_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, configured: &str, more: &[&str]| {
        let directory = folder.path().join(name);
        let file = config("tiny-pretrain.toml").display().to_string();
        let overrides = sets([
            ("run.directory", directory.display().to_string()),
            ("run.device", "cpu".to_string()),
            ("run.threads", configured.to_string()),
            ("data.path", data_path()),
            ("model.source", tiny_runs().join("prune/pruned").display().to_string()),
            ("mixer.reference_file", tiny_runs().join("reference.json").display().to_string()),
        ]);
        let mut arguments = vec!["pretrain", "--config", &file, "--stop-at", "1"];
        arguments.extend(overrides.iter().map(String::as_str));
        arguments.extend(more);
        let output = with(&[], &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let resolved: toml::Table = std::fs::read_to_string(directory.join("resolved.toml")).unwrap().parse().unwrap();
        resolved["run"]["threads"].as_integer().unwrap()
    };
    assert_eq!(run("configured", "1", &[]), 1);
    assert_eq!(run("asked", "1", &["--threads", "2"]), 2);
}
