//! One configuration that cuts, trains and cuts on: the same models as runs of one's own, picked up where it was left.

use super::support::{copy_folder, data_path, write_tiny_source};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const COMMON: &str = "[run]\ndirectory = 'small'\nseed = 3\ndevice = 'cpu'\n[model]\nsource = 'source'\n[data]\npath = 'data'\n\
                      [train]\nbatch_rows = 4\nlearning_rate = 1e-3\n[eval]\nevery_steps = 20\nrows_per_domain = 2\n\
                      [checkpoint]\nevery_steps = 10\n";
const LAST: &str = "[target]\nhidden_size = 16\nintermediate_size = 20\nnum_hidden_layers = 2\nnum_attention_heads = 2\n\
                    [prune]\ncalibration_rows = 8\n";
const VIA: &str =
    "[[prune.via]]\nsteps = 30\ntarget = { hidden_size = 24, intermediate_size = 32, num_attention_heads = 3 }\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        write_tiny_source(&place.at("source"));
        copy_folder(Path::new(&data_path()), &place.at("data"));
        place.write("twice.toml", &format!("{COMMON}{LAST}{VIA}"));
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str], code: i32) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
        let output: Output =
            command.args(arguments).current_dir(self.folder.path()).env("OMP_NUM_THREADS", "1").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let said = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{said:?}");
        said
    }

    fn weights(&self, model: &str) -> Vec<u8> {
        std::fs::read(self.at(model).join("model.safetensors")).unwrap()
    }
}

#[test]
fn it_writes_what_three_runs_of_ones_own_write() {
    let place = Place::new();
    let (path, said) = place.run(&["prune", "--config", "twice.toml"], 0);
    assert_eq!(path, "small/pruned\n");
    for part in [
        "run 1 of 3: cut to hidden 24, intermediate 32, heads 3 in small-via-1",
        "run 2 of 3: train for 30 steps in small-via-1-train",
        "run 3 of 3: cut to hidden 16, intermediate 20, layers 2, heads 2 in small",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let cut = |directory: &str, source: &str, target: &str| {
        place.write("own.toml", &format!("{COMMON}{target}"));
        let (directory, source) = (format!("run.directory={directory}"), format!("model.source={source}"));
        place.run(
            &["prune", "--config", "own.toml", "--set", &directory, "--set", &source, "--set", "prune.dtype=fp32"],
            0,
        );
    };
    cut(
        "own-1",
        "source",
        "[target]\nhidden_size = 24\nintermediate_size = 32\nnum_attention_heads = 3\n[prune]\ncalibration_rows = 8\n",
    );
    place.write("own.toml", COMMON);
    let sets = ["run.directory=own-2", "model.source=own-1/pruned", "train.steps=30", "train.warmup_steps=1"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    place.run(&["pretrain", "--config", "own.toml"].into_iter().chain(sets).collect::<Vec<_>>(), 0);
    cut("own-3", "own-2/model", LAST);
    for (stage, own) in [
        ("small-via-1/pruned", "own-1/pruned"),
        ("small-via-1-train/model", "own-2/model"),
        ("small/pruned", "own-3/pruned"),
    ] {
        assert_eq!(place.weights(stage), place.weights(own), "{stage}");
    }
    let text = place.run(&["report", "small-via-1", "small-via-1-train", "small", "-o", "report.html"], 0).1;
    assert!(place.at("report.html").is_file(), "{text}");
}

#[test]
fn what_is_done_is_not_done_again_and_another_run_is_not_taken_for_it() {
    let place = Place::new();
    place.run(&["prune", "--config", "twice.toml"], 0);
    let (first, last) = (place.weights("small-via-1/pruned"), place.weights("small/pruned"));
    // As if it had been stopped within the training.
    std::fs::remove_dir_all(place.at("small")).unwrap();
    std::fs::remove_dir_all(place.at("small-via-1-train")).unwrap();
    place.write("training.toml", COMMON);
    let sets = [
        "run.directory=small-via-1-train",
        "model.source=small-via-1/pruned",
        "train.steps=30",
        "train.warmup_steps=1",
        "checkpoint.export_dtype=fp32",
    ];
    let training = ["pretrain", "--config", "training.toml", "--stop-at", "10"].into_iter();
    place.run(&training.chain(sets.iter().flat_map(|set| ["--set", set])).collect::<Vec<_>>(), 0);
    let (_, said) = place.run(&["prune", "--config", "twice.toml"], 0);
    assert!(said.contains("is there already: small-via-1/pruned"), "{said}");
    assert_eq!((place.weights("small-via-1/pruned"), place.weights("small/pruned")), (first, last));

    let (_, said) = place.run(&["prune", "--config", "twice.toml"], 2);
    assert!(said.contains("small exists already"), "{said}");
    std::fs::remove_dir_all(place.at("small")).unwrap();
    let (_, said) = place.run(&["prune", "--config", "twice.toml", "--set", "run.seed=4"], 2);
    assert!(said.contains("small-via-1 is a run of another configuration (run.seed"), "{said}");
}

#[test]
fn what_would_be_refused_in_any_run_is_refused_before_the_first() {
    let place = Place::new();
    // Between two cuts more layers than the source has cannot come back.
    place.write("wrong.toml", &format!("{COMMON}{}{VIA}", LAST.replace("hidden_size = 16", "hidden_size = 32")));
    let (_, said) = place.run(&["prune", "--config", "wrong.toml"], 2);
    assert!(said.contains("run 3 of 3 (cut to hidden 32"), "{said}");
    assert!(!place.at("small-via-1").exists());
    let (text, _) = place.run(&["plan", "--config", "wrong.toml"], 1);
    assert!(text.contains("train for 30 steps in small-via-1-train"), "{text}");
    let (text, said) = place.run(&["plan", "--config", "twice.toml", "--json"], 0);
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["runs"].as_array().unwrap().len(), 3, "{plan}");
    assert!(said.contains("next: shearling prune --config twice.toml\n"), "{said}");
    let (_, said) = place.run(&["plan", "--config", "twice.toml", "--set", "run.seed=4"], 0);
    assert!(said.contains("next: shearling prune --config twice.toml --set run.seed=4\n"), "what was planned: {said}");
    // A teacher that only the training needs is missed before the cut.
    place.write("taught.toml", &format!("{COMMON}[distill]\nteacher = 'nobody'\nweight = 0.5\n{LAST}{VIA}"));
    let (_, said) = place.run(&["prune", "--config", "taught.toml"], 2);
    assert!(said.contains("there is no nobody/config.json") && !place.at("small-via-1").exists(), "{said}");
    // Without a last shape they lead nowhere.
    place.write("none.toml", &format!("{COMMON}{VIA}"));
    let (_, said) = place.run(&["prune", "--config", "none.toml"], 2);
    assert!(said.contains("[[prune.via]] are shapes on the way to [target]"), "{said}");
}
