//! The loss curve of a tiny prune run against the one that plain libtorch operators gave before there were fused
//! kernels (fixtures/loss-curves): in fp32 step by step, in bf16 within its own noise around fp32.

use super::support::{data, fixture, write_tiny_source};
use shearling::config::{Stage, parse};
use shearling::train::{Setup, Trainer};
use std::path::Path;
use tch::Device;

const STEPS: usize = 40;

fn curve(folder: &Path, sets: &[&str]) -> Vec<f64> {
    let text = format!(
        "[run]\ndirectory = '{0}/run'\ndevice = 'cpu'\n[model]\nsource = '{0}/source'\n[data]\npath = '{1}'\n\
         max_epochs = 1000\n[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\n\
         num_attention_heads = 3\n[prune]\nmethod = 'learned'\n[masks]\nwarmup_steps = 20\n[train]\nsteps = {STEPS}\nbatch_rows = 8\n\
         micro_batch_rows = 4\nlearning_rate = 2e-3\n[eval]\nrows_per_domain = 2\nevery_steps = 1000\n",
        folder.display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let setup = Setup::new(parse(&text, "test", &sets).unwrap(), Stage::Prune, Device::Cpu).unwrap();
    let mut trainer = Trainer::new(&setup).unwrap();
    (0..STEPS).map(|_| trainer.step().unwrap().cross_entropy).collect()
}

fn golden(kind: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(fixture("loss-curves/prune.json")).unwrap();
    let curves: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(curves[kind].clone()).unwrap()
}

/// Mean |a − b| over the steps.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
}

#[test]
fn the_fused_step_follows_the_plain_one() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let (plain, plain_bf16) = (golden("fp32"), golden("bf16"));
    assert!(plain[0] - plain[STEPS - 1] > 0.4, "the curve falls");

    let fused = curve(folder.path(), &[]);
    for (step, (found, expected)) in fused.iter().zip(&plain).enumerate() {
        assert!((found - expected).abs() < 1e-3, "step {}: {found}, expected {expected}", step + 1);
    }
    assert_eq!(curve(folder.path(), &["train.selective_recomputation=true"]), fused, "not a bit differs");
    let recomputed = curve(folder.path(), &["train.activation_checkpointing=2"]);
    // Not a bit of a layer changes, but the gradients of the hidden gate are added up in another order.
    assert!(distance(&recomputed, &fused) < 1e-5, "{}", distance(&recomputed, &fused));

    let noise = distance(&plain_bf16, &plain);
    let found = distance(&curve(folder.path(), &["run.dtype=bf16"]), &plain);
    assert!(found < 2.0 * noise, "bf16 is {found} from fp32, plain operators {noise}");
    for kind in ["bf16", "8bit"] {
        let sets = ["run.dtype=bf16".to_string(), format!("train.moments={kind}")];
        let moments = distance(&curve(folder.path(), &[&sets[0], &sets[1]]), &plain);
        assert!(moments < 0.05, "moments in {kind}: {moments}");
    }
}
