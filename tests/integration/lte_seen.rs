//! A run of `lte train` as its user sees it: `inspect run`, `watch`, `report`, TensorBoard, of a run that took place.

use super::support::{data_path, shearling, succeed, write_tiny_source};
use serde_json::Value;
use std::path::PathBuf;

/// Eight steps, of which four train routers with soft scores: evaluated dense, at the switch both ways, and at the end.
fn run() -> &'static (tempfile::TempDir, PathBuf) {
    static RUN: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_tiny_source(&at("source"));
        let text = format!(
            "[run]\ndirectory = '{}'\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1000.0\n\
             [train]\nsteps = 8\nbatch_rows = 8\nlearning_rate = 1e-3\nwarmup_steps = 1\n[eval]\nevery_steps = 4\n\
             rows_per_domain = 8\n[lte]\nexpert_size = 4\ndensity = 0.5\nforward = 'soft'\ncalibration_rows = 8\n",
            at("run").display(),
            at("source").display(),
            data_path()
        );
        std::fs::write(at("lte.toml"), text).unwrap();
        succeed(&["lte", "train", "--config", at("lte.toml").to_str().unwrap()]);
        let path = at("run");
        (folder, path)
    })
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

#[test]
fn inspect_tells_density_and_the_four_losses() {
    let run = run().1.to_str().unwrap();
    let seen = json(&["inspect", "run", run, "--json"]);
    let experts = &seen["experts"];
    let loss = |name: &str| (experts[name]["step"].as_u64(), experts[name]["loss"].as_f64());
    let evaluated = |step: u64, gates: &str| {
        let all = seen["evaluations"].as_array().unwrap();
        let found = all.iter().find(|found| found["step"] == step && found["gates"] == gates);
        found.unwrap_or_else(|| panic!("no evaluation {gates} at {step}")).clone()
    };
    for (name, step, gates) in
        [("dense", 0, "plain"), ("soft", 4, "soft"), ("switch", 4, "experts"), ("last", 8, "experts")]
    {
        assert_eq!(loss(name), (Some(step), evaluated(step, gates)["mean_loss"].as_f64()), "{name}");
    }
    assert_eq!((experts["router_steps"].as_u64(), experts["target"].as_f64()), (Some(4), Some(0.5)));
    let last = &evaluated(8, "experts")["experts"];
    let density = experts["density"].as_f64().unwrap();
    assert_eq!(Some(density), last["density"].as_f64());
    assert_eq!((last["layers"].as_array().unwrap().len(), last["domains"].as_array().unwrap().len()), (3, 3));
    // The rows of both are recorded: the cost is that of the means, its error that of the differences.
    let cost = loss("last").1.unwrap() - loss("dense").1.unwrap();
    assert!((experts["cost"].as_f64().unwrap() - cost).abs() < 1e-12);
    assert!(experts["cost_standard_error"].as_f64().is_some_and(|error| error > 0.0));
    let steps = &seen["steps"];
    assert_eq!(steps["router_stage"].to_string(), "[1.0,1.0,1.0,1.0,2.0,2.0,2.0,2.0]");
    assert!(steps["gradient_norm_routers"][0].as_f64().unwrap() > 0.0 && steps["learning_rate_routers"][7] == 0.0);
    // The run's own loss begins and ends with the chosen experts, whatever was evaluated besides.
    let domain = &seen["summary"]["domains"][0];
    assert_eq!(domain["last_loss"], evaluated(8, "experts")["domains"][0]["loss"]);

    let text = succeed(&["inspect", "run", run]);
    let said = format!("runs {:.1} % of its units (asked: 50.0 %); loss {cost:+.3} ± ", 100.0 * density);
    for part in [&said as &str, "end of stage 1, experts times scores", "norm, routers", "from layer", "8 rows"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn watch_report_and_events_know_the_experts() {
    let (folder, run) = run();
    let run = run.to_str().unwrap();
    let watched = json(&["watch", run, "--once", "--json"]);
    assert_eq!((watched["target_density"].as_f64(), watched["router_stage"].as_u64()), (Some(0.5), Some(2)));
    assert_eq!(watched["evaluation"]["step"], 8);
    assert!(succeed(&["watch", run, "--once"]).contains("stage 2: routers are frozen"));

    let data = json(&["report", run, "--json"]);
    for figure in ["experts-density", "experts-layers", "experts-domains"] {
        assert!(data["figures"][figure].is_object(), "{figure}");
    }
    assert_eq!(data["figures"]["experts-layers"]["rows"].to_string(), "[\"0\",\"1\",\"2\"]");
    let answers = data["answers"][0]["answers"].as_array().unwrap();
    let ids: Vec<&str> = answers.iter().map(|answer| answer["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["experts", "experts-cost", "experts-static", "data", "speed"], "and none about masks");
    let held_out = data["figures"]["loss-heldout"]["series"].as_array().unwrap();
    let names: Vec<&str> = held_out.iter().map(|series| series["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["run", "run, experts times scores"]);
    let out = folder.path().join("report.html");
    succeed(&["report", run, "-o", out.to_str().unwrap()]);

    let events = folder.path().join("events");
    succeed(&["tensorboard", run, "--out", events.to_str().unwrap()]);
    let file = std::fs::read_dir(&events).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(file).unwrap();
    for tag in ["routers/density_target", "experts/layer/001", "eval_soft/mean_loss", "learning_rate/routers"] {
        assert!(bytes.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
    }
}

#[test]
fn a_plan_has_the_routers_in_memory_and_table() {
    let (folder, _) = run();
    let file = folder.path().join("lte.toml");
    let output = shearling(&["plan", "--config", file.to_str().unwrap(), "--set", "run.directory=elsewhere", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["experts"]["expert_size"], 4);
    assert!(plan["memory"]["router_bytes"].as_f64().unwrap() > 0.0);
    assert!(plan["warnings"].to_string().contains("lte.router_steps = 4 of 8"), "{}", plan["warnings"]);
}
