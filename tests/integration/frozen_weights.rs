//! Masks alone are trained (`masks.frozen_weights`): the weights stay, the gates' gradients are those of a full step, and the
//! teacher is the model itself.

use super::support::{copy_folder, data, fixture, tensors, write_tiny_source};
use shearling::config::{Stage, parse};
use shearling::run_dir::layout::mask_file;
use shearling::train::memory::MemoryEstimate;

use shearling::train::{Observer, Setup, Trainer, run};
use std::path::Path;
use tch::{Device, Kind, Tensor};

struct Quiet;
impl Observer for Quiet {}

fn setup(folder: &Path, sets: &[&str]) -> Setup {
    if !folder.join("source").exists() {
        write_tiny_source(&folder.join("source"));
    }
    let text = format!(
        "[run]\ndirectory = '{0}/run'\ndevice = 'cpu'\n[model]\nsource = '{0}/source'\n[data]\npath = '{1}'\n\
         max_epochs = 100\n[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\n\
         [prune]\nmethod = 'learned'\n[masks]\nfrozen_weights = true\nwarmup_steps = 2\n[train]\nsteps = 8\nbatch_rows = 4\n\
         micro_batch_rows = 2\nlearning_rate = 1e-2\nclip_norm = 1e9\n[eval]\nrows_per_domain = 2\nevery_steps = 4\n",
        folder.display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.replace("FOLDER", &folder.display().to_string())).collect();
    Setup::new(parse(&text, "test", &sets).unwrap(), Stage::Prune, Device::Cpu).unwrap()
}

#[test]
fn weights_stay_and_masks_move() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(&setup(folder.path(), &[]), false, None, &mut Quiet).unwrap();
    let step = outcome.checkpoint.unwrap();
    let (source, kept) =
        (tensors(&folder.path().join("source/model.safetensors")), tensors(&step.join("model/model.safetensors")));
    assert_eq!(source.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    assert!(source.iter().all(|(name, weight)| weight.equal(&kept[name])));
    let moments = tensors(&step.join("optimizer.safetensors"));
    assert!(moments.keys().all(|name| name.contains("log_alpha") || name.contains("lambda")), "{:?}", moments.keys());
    let masks = tensors(&mask_file(&step));
    let spread = |log_alpha: &Tensor| (log_alpha.max() - log_alpha.min()).double_value(&[]);
    assert!(spread(&masks["log_alpha.intermediate"]) > 0.1);
}

/// Takes from the source what bf16 does not hold. A weight that trains in bf16 rounds ties away from zero, a frozen one to even:
/// of a source in bf16 both are the source's.
fn round_source(folder: &Path) {
    let file = folder.join("source/model.safetensors");
    let rounded = |(name, tensor): (String, Tensor)| (name, tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float));
    let rounded: Vec<(String, Tensor)> = tensors(&file).into_iter().map(rounded).collect();
    Tensor::write_safetensors(&rounded, file).unwrap();
}

#[test]
fn a_step_moves_the_masks_as_one_that_trains_the_weights_too() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    round_source(folder.path());
    // Recomputed blocks too, and a tied embedding's gate.
    for sets in [&[] as &[&str], &["train.activation_checkpointing=1"], &["run.dtype=bf16"]] {
        let masks = |frozen: &str| {
            let setup = setup(folder.path(), &[sets, &[frozen]].concat());
            let mut trainer = Trainer::new(&setup).unwrap();
            let report = trainer.step().unwrap();
            let masks = trainer.masks().unwrap();
            let log_alpha = masks.log_alpha_parameters().into_iter().map(|(_, leaf)| leaf.detach());
            (report.cross_entropy, report.norms.masks.unwrap(), log_alpha.collect::<Vec<_>>())
        };
        let (frozen, trained) = (masks("masks.frozen_weights=true"), masks("masks.frozen_weights=false"));
        assert_eq!((frozen.0, frozen.1), (trained.0, trained.1), "{sets:?}");
        assert!(frozen.1 > 0.0);
        assert!(frozen.2.iter().zip(&trained.2).all(|(a, b)| a.equal(b)), "{sets:?}");
    }
}

#[test]
fn the_teacher_is_the_model_without_its_gates_and_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    setup(folder.path(), &[]);
    copy_folder(&folder.path().join("source"), &folder.path().join("copy"));
    let losses = |teacher: &str| {
        let setup = setup(folder.path(), &["distill.weight=0.5", "distill.dtype=fp32", teacher]);
        let memory = MemoryEstimate::new(
            &setup.model,
            setup.teacher.as_ref().map(|teacher| teacher.model()),
            &setup.config,
            32,
            Device::Cpu,
        );
        let mut trainer = Trainer::new(&setup).unwrap();
        let losses: Vec<f64> = (0..4).map(|_| trainer.step().unwrap().distillation.unwrap()).collect();
        (losses, memory.teacher_bytes)
    };
    let (shared, of_shared) = losses("distill.teacher=FOLDER/source");
    let (loaded, of_loaded) = losses("distill.teacher=FOLDER/copy");
    assert_eq!(shared, loaded);
    assert!(shared.iter().all(|kl| *kl > 0.0), "gates take the model away from its teacher: {shared:?}");
    assert!(of_shared < of_loaded / 2.0, "{of_shared} {of_loaded}");
}

#[test]
fn a_7b_fits_a_card_of_24_gib() {
    let text = std::fs::read_to_string(fixture("configs/llama2-7b.json")).unwrap();
    let serde_json::Value::Object(raw) = serde_json::from_str(&text).unwrap() else { panic!("an object") };
    let model = shearling::hf::RawConfig::from_raw(raw, Path::new("config.json")).model().unwrap();
    let total = |masks: &str| {
        let text = format!(
            "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n[target]\n\
             hidden_size = 2048\n[prune]\nmethod = 'learned'\n[masks]\n{masks}\n[distill]\nweight = 0.5\n[train]\nsteps = 100\n\
             batch_rows = 8\nmicro_batch_rows = 1\nlearning_rate = 1e-4\nactivation_checkpointing = 1\n"
        );
        let config = parse(&text, "test", &[]).unwrap();
        MemoryEstimate::new(&model, Some(&model), &config, 2048, Device::Cuda(0)).total_bytes() / (1u64 << 30) as f64
    };
    assert!(total("frozen_weights = true") < 22.0, "{}", total("frozen_weights = true"));
    assert!(total("frozen_weights = false") > 100.0);
}
