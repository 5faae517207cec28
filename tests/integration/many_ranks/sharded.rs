//! Runs whose weights, gradients and moments are sharded over their ranks: the same run as that of one process, with
//! checkpoints in its layout.

use super::super::support::tensors;
use super::equal::{apart, compare_with, same_history};
use super::{Place, Ranks, TARGET, go, last_step, run};
use shearling::run_dir::layout::mask_file;
use std::path::Path;

const FSDP: &str = "dist.strategy=fsdp";

#[test]
fn masks_of_the_published_preset_are_learned_alike() {
    compare_with("prune", TARGET, &[2, 4], &[FSDP], 1e-4);
}

#[test]
fn top_k_masks_and_a_teacher_are_learned_alike() {
    let tables = format!("{TARGET}[masks]\npreset = 'top-k'\n[distill]\nweight = 0.5\ndtype = 'fp32'\n");
    compare_with("prune", &tables, &[2], &[FSDP], 1e-4);
}

/// Rows are evaluated in micro-batches of one, of which some ranks have one less than others, and go along.
#[test]
fn a_dynamic_mix_moves_alike_where_layers_are_computed_again() {
    let sets = [FSDP, "train.activation_checkpointing=1", "train.micro_batch_rows=1"];
    compare_with("pretrain", "", &[4], &sets, 1e-4);
}

#[test]
fn a_frozen_source_teaches_its_masks_alike() {
    let tables = format!("{TARGET}[masks]\nfrozen_weights = true\n[distill]\nweight = 1.0\n");
    compare_with("prune", &tables, &[2], &[FSDP], 1e-4);
}

#[test]
fn routers_are_trained_alike_in_both_stages() {
    compare_with("lte train", "[lte]\nexpert_size = 4\ncalibration_rows = 6\n", &[2], &[FSDP], 1e-4);
}

/// Largest difference of weights and of moments at the end of two runs.
fn states_apart(a: &Path, b: &Path) -> f64 {
    let (a, b) = (last_step(a), last_step(b));
    let files = ["model/model.safetensors", "optimizer.safetensors"];
    files.iter().map(|file| apart(&a.join(file), &b.join(file))).fold(0.0, f64::max)
}

/// With a micro-batch for each of two ranks sums have two terms, in whatever order: not a bit may differ from ranks that hold
/// everything, in bf16 with fewer bits of moments too, whose rounding by chance is that of the whole tensor.
#[test]
fn fsdp_of_two_ranks_is_ddp_of_two_ranks_to_the_bit() {
    let place = Place::new();
    let ways = [("fp32", "fp32", "fp32"), ("bf16", "bf16", "bf16"), ("8bit", "bf16", "8bit")];
    for (name, dtype, moments) in ways {
        let (dtype, more) = (format!("run.dtype='{dtype}'"), format!("train.moments='{moments}'"));
        let mut sets = vec![dtype.as_str(), "train.micro_batch_rows=4", "train.clip_norm=1e9"];
        sets.push(more.as_str());
        let [whole, sharded] = ["whole", "sharded"].map(|kind| format!("{name}-{kind}"));
        run(2, "prune", &place.config(&whole, TARGET), &sets);
        sets.push(FSDP);
        run(2, "prune", &place.config(&sharded, TARGET), &sets);
        assert_eq!(states_apart(&place.at(&whole), &place.at(&sharded)), 0.0, "{name}");
        let masks = [&whole, &sharded].map(|name| mask_file(&last_step(&place.at(name))));
        assert_eq!(apart(&masks[0], &masks[1]), 0.0, "{name}");
    }
}

/// Four ranks of two machines.
fn on_two_machines(command: &str, arguments: &[&str]) {
    let all = |_| arguments.iter().map(|one| one.to_string()).collect();
    Ranks::start_some(2, 4, 0..4, command, all, 0).succeed();
}

#[test]
fn machines_that_each_hold_everything_learn_alike() {
    let place = Place::new();
    run(1, "prune", &place.config("one", TARGET), &[]);
    let config = place.config("hybrid", TARGET).display().to_string();
    on_two_machines("prune", &["--config", &config, "--set", "dist.strategy=hybrid", "--stop-at", "5"]);
    // Two ranks resume what four have saved.
    go(2, "prune", &["--resume", &place.at("hybrid").display().to_string(), "--set", FSDP]);
    same_history(&place.at("one"), &place.at("hybrid"));
    assert!(states_apart(&place.at("one"), &place.at("hybrid")) < 1e-4);
    let config = place.config("whole", TARGET).display().to_string();
    on_two_machines("prune", &["--config", &config, "--set", "dist.strategy=hybrid"]);
    same_history(&place.at("one"), &place.at("whole"));
}

/// With one rank on each machine nothing is sharded: it holds everything, as under `ddp`.
#[test]
fn machines_of_one_rank_hold_everything() {
    let place = Place::new();
    run(1, "prune", &place.config("one", TARGET), &[]);
    let config = place.config("single", TARGET).display().to_string();
    let all = |_| ["--config", &config, "--set", "dist.strategy=hybrid"].map(String::from).to_vec();
    Ranks::start_some(2, 2, 0..2, "prune", all, 0).succeed();
    same_history(&place.at("one"), &place.at("single"));
    assert!(states_apart(&place.at("one"), &place.at("single")) < 1e-4);
}

/// Any number of ranks resumes what any other number has saved, under any strategy.
#[test]
fn a_run_is_resumed_by_another_number_of_ranks_under_another_strategy() {
    let place = Place::new();
    run(1, "prune", &place.config("one", TARGET), &[]);
    for (name, before, after) in [
        ("from-2", (2, FSDP), (1, FSDP)),
        ("to-2", (1, FSDP), (2, FSDP)),
        ("from-4", (4, FSDP), (2, "dist.strategy=ddp")),
        ("to-4", (2, "dist.strategy=ddp"), (4, FSDP)),
    ] {
        let config = place.config(name, TARGET).display().to_string();
        go(before.0, "prune", &["--config", &config, "--stop-at", "5", "--set", before.1]);
        go(after.0, "prune", &["--resume", &place.at(name).display().to_string(), "--set", after.1]);
        same_history(&place.at("one"), &place.at(name));
        assert!(states_apart(&place.at("one"), &place.at(name)) < 1e-4, "{name}");
    }
}

/// The same ranks give the same bits.
#[test]
fn two_ranks_stop_and_resume_bit_for_bit() {
    let place = Place::new();
    run(2, "pretrain", &place.config("whole", ""), &[FSDP]);
    let config = place.config("parts", "").display().to_string();
    go(2, "pretrain", &["--config", &config, "--stop-at", "5", "--set", FSDP]);
    go(2, "pretrain", &["--resume", &place.at("parts").display().to_string()]);
    assert_eq!(states_apart(&place.at("whole"), &place.at("parts")), 0.0);
    let files = tensors(&last_step(&place.at("parts")).join("optimizer.safetensors"));
    assert!(files.contains_key("exp_avg_sq.model.embed_tokens.weight"), "the layout of one process");
}

/// Rows per forward that fill the memory: with little data that is as many as the ranks can share evenly. The run keeps the number.
#[test]
fn rows_that_fill_memory_are_dealt_evenly_and_kept() {
    let place = Place::new();
    let auto = "train.micro_batch_rows='auto'";
    let rows = |name: &str| {
        let text = std::fs::read_to_string(place.at(name).join("resolved.toml")).unwrap();
        let config: toml::Table = toml::from_str(&text).unwrap();
        config["train"]["micro_batch_rows"].as_integer().unwrap()
    };
    run(1, "pretrain", &place.config("one", ""), &[auto]);
    assert_eq!(rows("one"), 8, "all rows of a step");
    let config = place.config("two", "").display().to_string();
    go(2, "pretrain", &["--config", &config, "--set", auto, "--set", FSDP, "--stop-at", "5"]);
    assert_eq!(rows("two"), 4, "half of them for each rank");
    go(2, "pretrain", &["--resume", &place.at("two").display().to_string()]);
    same_history(&place.at("one"), &place.at("two"));
}

/// What cannot be dealt evenly is refused before anything is begun.
#[test]
fn micro_batches_that_cannot_be_dealt_evenly_are_refused() {
    let place = Place::new();
    let config = place.config("uneven", "").display().to_string();
    let mut ranks = Ranks::start(3, "pretrain", &["--config", config.as_str(), "--set", FSDP], 0);
    for rank in 0..3 {
        let ended = ranks.end_of(rank);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let expected = "4 of them cannot be dealt evenly to 3 ranks";
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
    assert!(!place.at("uneven").exists());
}
