//! The files in `configs/`: each parses and validates strictly, and the published recipes carry the published numbers.

use super::support::{config, fixture};
use shearling::config::{RunConfig, Stage, load, resolved_toml, validate};
use shearling::files::DType;
use shearling::hf::{ModelConfig, RawConfig};
use shearling::model::count::ParameterCount;
use shearling::prune::shape::{mask_spec, resized};
use shearling_domains::MixerKind;
use shearling_masks::{MaskPreset, UnitKind};
use std::collections::{BTreeMap, BTreeSet};

/// All of `configs/`, with the stage each is for.
const FILES: [(&str, Stage); 11] = [
    ("tiny-source.toml", Stage::Pretrain),
    ("tiny-prune.toml", Stage::Prune),
    ("tiny-pretrain.toml", Stage::Pretrain),
    ("llama2-7b-to-1.3b.toml", Stage::Prune),
    ("llama2-7b-to-1.3b-continue.toml", Stage::Pretrain),
    ("llama2-7b-to-2.7b.toml", Stage::Prune),
    ("llama2-7b-to-2.7b-continue.toml", Stage::Pretrain),
    ("llama3.1-8b-to-4b.toml", Stage::Prune),
    ("smollm2-135m-to-51m.toml", Stage::Prune),
    ("smollm2-135m-to-51m-continue.toml", Stage::Pretrain),
    ("smollm2-51m-lte.toml", Stage::Lte),
];

/// Domain, share at the start of pruning, share at its end, reference loss of 2.7B and of 1.3B: the released scripts.
const PUBLISHED: [(&str, f64, f64, f64, f64); 7] = [
    ("cc", 0.67, 0.2192, 1.8712, 1.9643),
    ("github", 0.045, 0.0002, 0.6883, 0.7459),
    ("book", 0.045, 0.0791, 2.0325, 2.1393),
    ("stackexchange", 0.02, 0.0064, 1.5353, 1.6117),
    ("wiki", 0.045, 0.0096, 1.6297, 1.7590),
    ("arxiv", 0.025, 0.0010, 1.3560, 1.4449),
    ("c4", 0.15, 0.6845, 2.0328, 2.1251),
];

fn read(name: &str) -> RunConfig {
    load(&config(name), &[]).unwrap()
}

fn model(name: &str) -> ModelConfig {
    RawConfig::read(&fixture("configs").join(name)).unwrap().model().unwrap()
}

fn domains<T>(value: impl Fn(&(&str, f64, f64, f64, f64)) -> T) -> BTreeMap<String, T> {
    PUBLISHED.iter().map(|row| (row.0.to_string(), value(row))).collect()
}

/// The model that a prune configuration makes of `source`, and which masks lead there.
fn pruned(name: &str, source: &ModelConfig) -> (ModelConfig, Vec<UnitKind>) {
    let spec = mask_spec(source, read(name).target.as_ref().unwrap()).unwrap();
    (resized(source, spec.target()), spec.modules().iter().map(|module| module.module).collect())
}

#[test]
fn every_file_is_known_and_valid_for_its_stage_only() {
    let entries = std::fs::read_dir(config("")).unwrap();
    let found: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, FILES.iter().map(|(name, _)| name.to_string()).collect());
    for (name, stage) in FILES {
        let config = read(name);
        validate(&config, stage).unwrap_or_else(|error| panic!("{name}: {error}"));
        let other = if stage == Stage::Prune { Stage::Pretrain } else { Stage::Prune };
        assert!(validate(&config, other).is_err(), "{name}");
        let text = resolved_toml(&config).unwrap();
        let mut written = config.clone();
        if let Some(lte) = &mut written.lte {
            // The stages are told in steps.
            let steps = config.train.steps;
            (lte.router_steps, lte.density_steps) = (Some(steps / 2), Some(0));
        }
        assert_eq!(shearling::config::parse(&text, "resolved", &[]).unwrap(), written, "{name}");
    }
}

#[test]
fn a_stage_starts_from_the_folder_that_the_one_before_it_writes() {
    let source_of = |name: &str| read(name).model.source.unwrap();
    assert_eq!(source_of("tiny-prune.toml"), read("tiny-source.toml").run.directory.join("model"));
    for prune in ["llama2-7b-to-1.3b", "llama2-7b-to-2.7b"] {
        let written = read(&format!("{prune}.toml")).run.directory.join("pruned");
        assert_eq!(source_of(&format!("{prune}-continue.toml")), written);
    }
    assert_eq!(source_of("tiny-pretrain.toml"), read("tiny-prune.toml").run.directory.join("pruned"));
}

#[test]
fn llama_2_targets_have_the_published_shapes_and_counts() {
    let source = model("llama2-7b.json");
    assert_eq!(ParameterCount::of(&source).total(), 6_738_415_616);
    use UnitKind::{Hidden, Intermediate, KvHead, Layer};
    let published: [(&str, [i64; 5], i64, &[UnitKind]); 2] = [
        ("llama2-7b-to-1.3b.toml", [2048, 5504, 24, 16, 16], 1_345_423_360, &[Layer, KvHead, Intermediate, Hidden]),
        ("llama2-7b-to-2.7b.toml", [2560, 6912, 32, 20, 20], 2_701_560_320, &[KvHead, Intermediate, Hidden]),
    ];
    for (name, shape, parameters, masks) in published {
        let (small, modules) = pruned(name, &source);
        assert_eq!(dimensions(&small), shape, "{name}");
        assert_eq!((small.head_dim, small.vocab_size), (128, 32_000), "{name}");
        assert_eq!(ParameterCount::of(&small).total(), parameters, "{name}");
        assert_eq!(modules, masks, "{name}");
    }
}

#[test]
fn llama_3_1_becomes_minitrons_width_pruned_shape() {
    let source = model("llama3.1-8b.json");
    assert_eq!(ParameterCount::of(&source).total(), 8_030_261_248);
    let (small, modules) = pruned("llama3.1-8b-to-4b.toml", &source);
    assert_eq!(dimensions(&small), [3072, 9216, 32, 32, 8]);
    assert_eq!(small.head_dim, 128);
    assert_eq!(modules, [UnitKind::Intermediate, UnitKind::Hidden]);
    // Embedding and head; q and o, k and v; gate, up and down; two norms a layer and the last.
    let layer = 2 * 3072 * 32 * 128 + 2 * 3072 * 8 * 128 + 3 * 3072 * 9216 + 2 * 3072;
    let expected = 2 * 128_256 * 3072 + 32 * layer + 3072;
    assert_eq!(expected, 4_512_746_496);
    assert_eq!(ParameterCount::of(&small).total(), expected);
}

fn dimensions(model: &ModelConfig) -> [i64; 5] {
    [
        model.hidden_size,
        model.intermediate_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.num_key_value_heads,
    ]
}

#[test]
fn proportions_and_reference_losses_are_the_published_ones() {
    for (name, of_2_7b) in [("llama2-7b-to-2.7b", true), ("llama2-7b-to-1.3b", false)] {
        let references = domains(|row| if of_2_7b { row.3 } else { row.4 });
        for (file, proportions) in
            [(format!("{name}.toml"), domains(|row| row.1)), (format!("{name}-continue.toml"), domains(|row| row.2))]
        {
            let mixer = read(&file).mixer;
            assert_eq!(mixer.kind, MixerKind::Bounded, "{file}");
            assert_eq!((mixer.eta, mixer.smoothing), (1.0, 1e-4), "{file}");
            let sum: f64 = mixer.proportions.as_ref().unwrap().values().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{file}: {sum}");
            assert_eq!(mixer.proportions.unwrap(), proportions, "{file}");
            assert_eq!(mixer.reference_loss.unwrap(), references, "{file}");
        }
    }
    let measured = read("llama3.1-8b-to-4b.toml").mixer;
    assert_eq!(measured.proportions.unwrap(), domains(|row| row.1));
    assert!(measured.reference_file.is_some() && measured.reference_loss.is_none());
}

#[test]
fn schedules_are_the_published_ones() {
    for name in ["llama2-7b-to-1.3b", "llama2-7b-to-2.7b"] {
        let config = read(&format!("{name}.toml"));
        let train = &config.train;
        assert_eq!((train.steps, train.batch_rows, train.learning_rate, train.warmup_steps), (3200, 32, 1e-4, 320));
        let masks = &config.masks;
        assert_eq!((masks.peak_learning_rate(train.steps), masks.peak_multiplier_rate(train.steps)), (1.0, 1.0));
        assert_eq!((masks.preset, masks.target_warmup(train.steps)), (MaskPreset::LlmShearing, 640));
        assert_eq!((config.eval.every_steps, config.run.dtype), (50, DType::BF16.into()));

        let config = read(&format!("{name}-continue.toml"));
        let train = &config.train;
        assert_eq!((train.steps, train.batch_rows, train.learning_rate, train.warmup_steps), (48_000, 256, 1e-4, 1440));
        assert_eq!((config.eval.every_steps, config.run.dtype), (400, DType::BF16.into()));
    }
}

#[test]
fn what_the_comments_say_about_memory_is_what_plan_would_say() {
    use shearling::train::memory::MemoryEstimate;
    let gib = |model: &ModelConfig, config: &RunConfig| {
        let estimate = MemoryEstimate::new(model, None, config, 4096, tch::Device::Cuda(0));
        (estimate.total_bytes() / (1u64 << 30) as f64).round() as i64
    };
    let llama_2 = model("llama2-7b.json");
    for (name, said) in [("llama2-7b-to-1.3b", 69), ("llama2-7b-to-2.7b", 61)] {
        let prune = format!("{name}.toml");
        assert_eq!(gib(&llama_2, &read(&prune)), 102, "{name}");
        assert!(text(&prune).contains("Together 102 GiB"));
        let next = format!("{name}-continue.toml");
        assert_eq!(gib(&pruned(&prune, &llama_2).0, &read(&next)), said, "{name}");
        assert!(text(&next).contains(&format!(": {said} GiB with")), "{name}");
    }
    let (eight, recipe) = (model("llama3.1-8b.json"), read("llama3.1-8b-to-4b.toml"));
    assert_eq!(gib(&eight, &recipe), 124);
    assert!(text("llama3.1-8b-to-4b.toml").contains("124 GiB in all"));
}

fn text(name: &str) -> String {
    std::fs::read_to_string(config(name)).unwrap()
}
