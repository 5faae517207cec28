//! The run of several ranks is the run of one: rows and mix to the bit, losses and weights to the rounding of sums that are
//! added in another order.

use super::super::support::tensors;
use super::{Place, TARGET, go, last_step, records, run};
use serde_json::Value;
use shearling::lte;
use shearling::run_dir::layout::mask_file;
use std::path::Path;

/// How far a number of a record may be from that of one process, relative.
const NEAR: f64 = 2e-5;

fn near(a: &Value, b: &Value, what: &str) {
    let (x, y) = (a.as_f64().unwrap(), b.as_f64().unwrap());
    assert!((x - y).abs() <= NEAR * x.abs().max(y.abs()).max(1e-3), "{what}: {x} {y}");
}

/// Every step and evaluation of two runs: what must be the same, and what may differ by rounding.
pub fn same_history(one: &Path, many: &Path) {
    let (a, b) = (records(one, "step"), records(many, "step"));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        let step = &a["step"];
        assert_eq!((step, &a["tokens"], &a["applied"]), (&b["step"], &b["tokens"], &b["applied"]));
        near(&a["loss"]["total"], &b["loss"]["total"], &format!("step {step}, loss"));
        near(&a["gradient_norm"]["total"], &b["gradient_norm"]["total"], &format!("step {step}, gradient norm"));
        for (name, domain) in a["domains"].as_object().unwrap() {
            let other = &b["domains"][name];
            assert_eq!((&domain["rows"], &domain["rows_total"]), (&other["rows"], &other["rows_total"]), "step {step}");
            near(&domain["proportion"], &other["proportion"], &format!("step {step}, share of {name}"));
            if domain["loss"].is_number() {
                near(&domain["loss"], &other["loss"], &format!("step {step}, loss of {name}"));
            }
        }
    }
    let (a, b) = (records(one, "eval"), records(many, "eval"));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((&a["step"], &a["gates"], &a["mixer_updated"]), (&b["step"], &b["gates"], &b["mixer_updated"]));
        near(&a["mean_loss"], &b["mean_loss"], &format!("evaluation of step {}", a["step"]));
        if a["teacher_loss"].is_number() {
            assert_eq!(a["teacher_loss"], b["teacher_loss"], "the teacher does not learn");
        }
        if a["experts"].is_object() {
            // One of ten thousand decisions may lie so near the threshold that rounding turns it.
            let density = |record: &Value| record["experts"]["density"].as_f64().unwrap();
            assert!((density(a) - density(b)).abs() < 2e-4, "{} {}", density(a), density(b));
        }
    }
}

/// Largest difference of the tensors of two files.
pub fn apart(a: &Path, b: &Path) -> f64 {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.iter().map(|(name, tensor)| super::super::support::apart(tensor, &b[name])).fold(0.0, f64::max)
}

/// Runs a configuration with 1 and with `sizes` processes and compares; weights may be `bound` apart at the end.
fn compare(command: &str, tables: &str, sizes: &[usize], bound: f64) {
    compare_with(command, tables, sizes, &[], bound);
}

/// The same with `sets` that are for several processes only.
pub fn compare_with(command: &str, tables: &str, sizes: &[usize], sets: &[&str], bound: f64) {
    let place = Place::new();
    run(1, command, &place.config("one", tables), &[]);
    for size in sizes {
        let name = format!("ranks-{size}");
        run(*size, command, &place.config(&name, tables), sets);
        let (one, many) = (place.at("one"), place.at(&name));
        same_history(&one, &many);
        let (a, b) = (last_step(&one), last_step(&many));
        let mut files = vec![("model/model.safetensors".into(), a.clone(), b.clone())];
        if mask_file(&a).is_file() {
            files.push((String::new(), mask_file(&a), mask_file(&b)));
        }
        if a.join(lte::file::FILE_NAME).is_file() {
            files.push((lte::file::FILE_NAME.to_string(), a.clone(), b.clone()));
        }
        for (file, a, b) in files {
            let found = if file.is_empty() { apart(&a, &b) } else { apart(&a.join(&file), &b.join(&file)) };
            eprintln!("{command}, {size} ranks, {}: {found:e}", if file.is_empty() { "masks" } else { &file });
            assert!(found <= bound, "{command}, {size} ranks, {file}: {found:e} apart");
        }
        assert_eq!(records(&many, "start")[0]["ranks"], *size);
        assert!(records(&one, "start")[0].get("ranks").is_none());
        assert_eq!(records(&many, "save").len(), records(&one, "save").len());
    }
}

#[test]
fn masks_of_the_published_preset_are_learned_alike() {
    compare("prune", TARGET, &[2, 4], 1e-4);
}

#[test]
fn top_k_masks_and_a_teacher_are_learned_alike() {
    let tables = format!("{TARGET}[masks]\npreset = 'top-k'\n[distill]\nweight = 0.5\ndtype = 'fp32'\n");
    compare("prune", &tables, &[2], 1e-4);
}

#[test]
fn a_dynamic_mix_moves_alike() {
    compare("pretrain", "", &[2], 1e-4);
}

#[test]
fn a_frozen_source_teaches_its_masks_alike() {
    let tables = format!("{TARGET}[masks]\nfrozen_weights = true\n[distill]\nweight = 1.0\n");
    compare("prune", &tables, &[2], 1e-4);
}

#[test]
fn a_teacher_of_a_pretrain_run_teaches_alike() {
    let place = Place::new();
    let tables = format!("[distill]\nweight = 0.5\nteacher = '{}'\ndtype = 'fp32'\n", place.at("source").display());
    compare("pretrain", &tables, &[2], 1e-4);
}

#[test]
fn routers_are_trained_alike_in_both_stages() {
    compare("lte train", "[lte]\nexpert_size = 4\ncalibration_rows = 6\n", &[2], 1e-4);
}

/// Any number of ranks goes on with what any other number has saved.
#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let place = Place::new();
    run(1, "prune", &place.config("one", TARGET), &[]);
    for (before, after) in [(2, 1), (1, 2), (2, 4)] {
        let name = format!("from-{before}-to-{after}");
        let config = place.config(&name, TARGET).display().to_string();
        go(before, "prune", &["--config", &config, "--stop-at", "5"]);
        assert_eq!(last_step(&place.at(&name)).file_name().unwrap(), "step-00000005");
        go(after, "prune", &["--resume", &place.at(&name).display().to_string()]);
        same_history(&place.at("one"), &place.at(&name));
        let found = apart(&mask_file(&last_step(&place.at("one"))), &mask_file(&last_step(&place.at(&name))));
        assert!(found < 1e-4, "{name}: {found:e}");
    }
}

/// The same ranks give the same bits.
#[test]
fn two_ranks_stop_and_resume_bit_for_bit() {
    let place = Place::new();
    run(2, "pretrain", &place.config("whole", ""), &[]);
    let config = place.config("parts", "").display().to_string();
    go(2, "pretrain", &["--config", &config, "--stop-at", "5"]);
    go(2, "pretrain", &["--resume", &place.at("parts").display().to_string()]);
    let [a, b] = ["whole", "parts"].map(|name| last_step(&place.at(name)).join("model/model.safetensors"));
    assert_eq!(apart(&a, &b), 0.0);
}

/// A cut at once is the work of rank 0; the others have nothing to do, and say so by their exit code.
#[test]
fn a_cut_at_once_is_written_once() {
    let place = Place::new();
    let target = "[target]\nhidden_size = 24\n";
    run(1, "prune", &place.config("one", target), &["prune.unproven=true"]);
    run(2, "prune", &place.config("two", target), &["prune.unproven=true"]);
    let [a, b] = ["one", "two"].map(|name| place.at(name).join("pruned/model.safetensors"));
    assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
}
