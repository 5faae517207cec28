//! Whether the parts of a configuration fit together, before any file but the configuration is read. All problems
//! are collected, each with its key, value and fix.

use super::{ComputeDtype, Error, MOST_THREADS, Masks, MomentKind, RunConfig};
use crate::files::DType;
use shearling_domains::MixerKind;
use shearling_masks::MaskPreset;
use std::num::NonZeroUsize;

/// A longer wait for another rank is a mistake.
const MOST_SECONDS: u64 = 7 * 24 * 3600;

/// Which command the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Learn masks and cut.
    Prune,
    /// Train without masks.
    Pretrain,
    /// Train routers, then the model under them.
    Lte,
}

impl Stage {
    /// The stage that a configuration is for.
    pub fn of(config: &RunConfig) -> Stage {
        match (&config.target, &config.lte) {
            (Some(_), _) => Stage::Prune,
            (None, Some(_)) => Stage::Lte,
            (None, None) => Stage::Pretrain,
        }
    }

    /// Its name in the records of a run.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Prune => "prune",
            Stage::Pretrain => "pretrain",
            Stage::Lte => "lte",
        }
    }

    /// The command that runs it.
    pub fn command(self) -> &'static str {
        if self == Stage::Lte { "lte train" } else { self.name() }
    }
}

/// Checks values and their combinations for `stage`.
pub fn validate(config: &RunConfig, stage: Stage) -> Result<(), Error> {
    let mut problems = Problems(Vec::new());
    check_model(config, stage, &mut problems);
    check_train(config, &mut problems);
    check_mixer(config, &mut problems);
    check_distill(config, stage, &mut problems);
    check_lte(config, stage, &mut problems);
    check_rest(config, &mut problems);
    if problems.0.is_empty() { Ok(()) } else { Err(Error::Invalid(problems.0)) }
}

struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, fine: bool, problem: impl FnOnce() -> String) {
        if !fine {
            self.0.push(problem());
        }
    }
}

fn check_model(config: &RunConfig, stage: Stage, problems: &mut Problems) {
    let model = &config.model;
    problems.unless(model.source.is_some() != model.random.is_some(), || {
        "[model] needs exactly one of source (a Hugging Face folder) and random (a new shape)".to_string()
    });
    if stage == Stage::Prune {
        problems.unless(model.source.is_some(), || "prune needs model.source, the checkpoint to prune".to_string());
        let warmup = config.masks.target_warmup(config.train.steps);
        problems.unless(config.cuts_at_once() || warmup <= config.train.steps, || {
            format!(
                "masks.warmup_steps = {warmup} must not exceed train.steps = {}: the target would never be reached",
                config.train.steps
            )
        });
        problems.unless(config.target.is_some(), || {
            "prune needs a [target] table with the shape to reach, for example hidden_size = 2048; a configuration without one is for shearling pretrain".to_string()
        });
    } else {
        let command = stage.command();
        problems.unless(config.target.is_none(), || {
            format!("[target] is for prune; {command} keeps the shape of its model: run shearling prune with this file, or remove the table to {command}")
        });
    }
    if let Some(random) = &model.random {
        let sizes = [
            ("hidden_size", random.hidden_size),
            ("intermediate_size", random.intermediate_size),
            ("num_hidden_layers", random.num_hidden_layers),
            ("num_attention_heads", random.num_attention_heads),
        ];
        for (key, value) in sizes {
            problems.unless(value > 0, || format!("model.random.{key} = {value} must be at least 1"));
        }
    }
}

fn check_train(config: &RunConfig, problems: &mut Problems) {
    let train = &config.train;
    if config.cuts_at_once() {
        return check_cut_at_once(config, problems);
    }
    problems.unless(train.steps > 0, || "train.steps is 0 or missing: at least one step is needed".to_string());
    problems
        .unless(train.batch_rows > 0, || "train.batch_rows is 0 or missing: at least one row is needed".to_string());
    let micro = train.micro_batch();
    // Without a batch there is nothing to divide.
    problems.unless(train.batch_rows == 0 || (micro > 0 && train.batch_rows.is_multiple_of(micro)), || {
        let rows = train.batch_rows;
        let fitting = (1..=micro).rev().find(|size| rows.is_multiple_of(*size)).unwrap_or(1);
        format!("train.micro_batch_rows = {micro} must divide train.batch_rows = {rows}; take for example {fitting}")
    });
    problems.unless(positive(train.learning_rate), || {
        format!("train.learning_rate = {} (or missing) must be a positive number", train.learning_rate)
    });
    problems.unless(train.warmup_steps < train.steps || train.steps == 0, || {
        format!("train.warmup_steps = {} must be below train.steps = {}", train.warmup_steps, train.steps)
    });
    for (key, value) in [("final_lr_fraction", train.final_lr_fraction), ("beta1", train.beta1), ("beta2", train.beta2)]
    {
        let below = if key == "final_lr_fraction" { value <= 1.0 } else { value < 1.0 };
        problems.unless(value >= 0.0 && below, || format!("train.{key} = {value} must lie between 0 and 1"));
        // Less than half a unit in the last of bf16's eight bits is rounded away: such a moment could not fall.
        let falls = key == "final_lr_fraction" || train.moments != MomentKind::Bf16 || 1.0 - value > 1.0 / 256.0;
        problems.unless(falls, || {
            format!(
                "train.{key} = {value} is too near 1 for train.moments = \"bf16\": a moment that falls by less than \
                 1/256 a step is rounded back; take at most 0.996, or \"fp32\""
            )
        });
    }
    let bounded = train.moments != MomentKind::EightBit || train.beta1.powi(2) < train.beta2;
    problems.unless(bounded, || {
        format!(
            "train.beta1 = {} and beta2 = {} do not go with train.moments = \"8bit\", which needs beta1² below beta2: only \
             then is the first moment bounded by the second; take \"bf16\" or \"fp32\"",
            train.beta1, train.beta2
        )
    });
    problems.unless(positive(train.eps), || format!("train.eps = {} must be positive", train.eps));
    problems.unless(positive(train.clip_norm), || format!("train.clip_norm = {} must be positive", train.clip_norm));
    problems.unless(train.weight_decay >= 0.0 && train.weight_decay.is_finite(), || {
        format!("train.weight_decay = {} must not be negative", train.weight_decay)
    });
}

/// A cut at once takes no step. Who has tables for a run and names no method may mean to learn masks, and would have
/// another model in a minute.
fn check_cut_at_once(config: &RunConfig, problems: &mut Problems) {
    let (named, method) = (config.prune.method.is_some(), config.prune.method().name());
    // A training between two cuts has a teacher too.
    let taught = config.distill.is_some() && config.prune.via.is_empty();
    let tables = [("[masks]", config.masks != Masks::default()), ("[distill]", taught)];
    for (table, _) in tables.into_iter().filter(|(_, given)| *given && !named) {
        problems.unless(false, || {
            format!(
                "{table} is for a run that learns masks, and prune.method is not named: set prune.method = \"learned\", or \
                 \"{method}\" (the default) to cut at once without that table"
            )
        });
    }
}

fn check_mixer(config: &RunConfig, problems: &mut Problems) {
    let mixer = &config.mixer;
    problems.unless(mixer.reference_loss.is_none() || mixer.reference_file.is_none(), || {
        "mixer.reference_loss and mixer.reference_file are both given; keep one".to_string()
    });
    let has_reference = mixer.reference_loss.is_some() || mixer.reference_file.is_some();
    problems.unless(mixer.kind == MixerKind::Static || has_reference, || {
        "a mixer that is not static needs reference losses: give mixer.reference_loss, or measure them with \
         `shearling eval MODEL --data DIR --write-reference FILE` and set mixer.reference_file"
            .to_string()
    });
    if let Some(proportions) = &mixer.proportions {
        let sum: f64 = proportions.values().sum();
        // Less may be domains that are missing, which only the data tells.
        problems.unless(sum < 1.0 + 1e-6, || format!("mixer.proportions sum to {sum:.6}, expected 1; scale them"));
        for (domain, value) in proportions {
            problems.unless(value.is_finite() && *value >= 0.0, || {
                format!("mixer.proportions.{domain} = {value} must not be negative")
            });
        }
    }
}

fn check_distill(config: &RunConfig, stage: Stage, problems: &mut Problems) {
    let Some(distill) = &config.distill else { return };
    problems.unless(stage == Stage::Prune || distill.teacher.is_some(), || {
        "[distill] of a pretrain run needs distill.teacher, the Hugging Face folder to learn from: for a pruned model \
         that is the model it was cut from"
            .to_string()
    });
    problems.unless(positive(distill.weight) && distill.weight <= 1.0, || {
        format!(
            "distill.weight = {} must be above 0 and at most 1; to train without a teacher remove [distill]",
            distill.weight
        )
    });
    problems.unless(positive(distill.temperature), || {
        format!("distill.temperature = {} must be a positive number", distill.temperature)
    });
    problems.unless(distill.dtype != ComputeDtype::Fixed(DType::F16), || {
        "distill.dtype = \"fp16\" is only for written checkpoints; hold the teacher in \"auto\", \"bf16\" or \"fp32\""
            .to_string()
    });
}

fn check_lte(config: &RunConfig, stage: Stage, problems: &mut Problems) {
    let Some(lte) = &config.lte else {
        return problems.unless(stage != Stage::Lte, || {
            "lte train needs an [lte] table, for example with density = 0.5; a configuration without one is for shearling \
             pretrain"
                .to_string()
        });
    };
    problems.unless(stage == Stage::Lte, || {
        format!("[lte] is for lte train, after pruning and recovery; remove the table to {}", stage.command())
    });
    problems.unless(config.model.source.is_some(), || "lte train needs model.source, the model to teach".to_string());
    problems.unless(lte.density > 0.0 && lte.density <= 1.0, || {
        format!("lte.density = {} must be above 0 and at most 1: the share of units that run", lte.density)
    });
    problems.unless(lte.expert_size > 0, || format!("lte.expert_size = {} must be at least 1", lte.expert_size));
    problems.unless(lte.calibration_rows > 0, || "lte.calibration_rows must be at least 1".to_string());
    let steps = config.train.steps;
    for (key, value) in [("router_steps", lte.router_steps), ("density_steps", lte.density_steps)] {
        problems.unless(value.is_none_or(|value| value <= steps), || {
            format!("lte.{key} = {} must not exceed train.steps = {steps}", value.unwrap_or_default())
        });
    }
    for (key, value) in [("efficiency", lte.efficiency()), ("separability", lte.separability())] {
        problems.unless(value >= 0.0 && value.is_finite(), || format!("lte.{key} = {value} must not be negative"));
    }
    problems.unless(lte.separability() == 0.0 || lte.epsilon >= 1e-3, || {
        format!(
            "lte.epsilon = {} must be at least 0.001: without it the penalty is infinite where a score meets ½",
            lte.epsilon
        )
    });
    let rate = lte.router_learning_rate(config.train.learning_rate);
    problems.unless(positive(rate), || format!("lte.router_learning_rate = {rate} must be a positive number"));
    problems.unless(lte.layers.as_ref().is_none_or(|layers| !layers.is_empty()), || {
        "lte.layers is empty: name at least one layer, or leave it out for all".to_string()
    });
}

fn check_rest(config: &RunConfig, problems: &mut Problems) {
    problems.unless(config.run.dtype != ComputeDtype::Fixed(DType::F16), || {
        "run.dtype = \"fp16\" is only for written checkpoints; train in \"auto\", \"bf16\" or \"fp32\"".to_string()
    });
    let threads = config.run.threads.map_or(1, NonZeroUsize::get);
    problems.unless(threads <= MOST_THREADS, || {
        format!("run.threads = {threads} must be at most {MOST_THREADS}; leave it out for one per physical core")
    });
    problems.unless(config.eval.every_steps > 0 && config.eval.rows_per_domain > 0, || {
        "eval.every_steps and eval.rows_per_domain must be at least 1".to_string()
    });
    let timeout = config.dist.timeout_seconds;
    problems.unless((1..=MOST_SECONDS).contains(&timeout), || {
        format!("dist.timeout_seconds = {timeout} must be at least 1 and at most {MOST_SECONDS}, a week")
    });
    problems.unless(config.checkpoint.every_steps > 0, || "checkpoint.every_steps must be at least 1".to_string());
    problems.unless(config.prune.check_rows > 0, || "prune.check_rows must be at least 1".to_string());
    problems.unless(config.prune.calibration_rows > 0, || "prune.calibration_rows must be at least 1".to_string());
    problems.unless(config.prune.via.is_empty() || config.target.is_some(), || {
        "[[prune.via]] are shapes on the way to [target], which is missing".to_string()
    });
    problems.unless(positive(config.data.max_epochs), || {
        format!("data.max_epochs = {} must be a positive number", config.data.max_epochs)
    });
    let drawn = config.masks.preset == MaskPreset::LlmShearing || config.masks.options(0).are_published();
    problems.unless(drawn, || {
        "masks.noise, masks.count and masks.anti_windup are for gates that are drawn under a Lagrangian: leave them out, or set \
         masks.preset = \"llm-shearing\""
            .to_string()
    });
    if let Some(largest) = config.masks.largest_gate {
        problems.unless(config.masks.preset == MaskPreset::Deterministic, || {
            "masks.largest_gate is for gates that may exceed 1: leave it out, or set masks.preset = \"deterministic\"".to_string()
        });
        problems.unless(largest.is_finite() && largest >= 1.0, || {
            format!("masks.largest_gate = {largest} must be at least 1, where gates begin")
        });
    }
    for (key, value) in [
        ("learning_rate", config.masks.peak_learning_rate(config.train.steps)),
        ("init_strength", config.masks.init_strength),
        ("multiplier_learning_rate", config.masks.peak_multiplier_rate(config.train.steps)),
    ] {
        let used = !config.cuts_at_once();
        problems.unless(!used || positive(value), || format!("masks.{key} = {value} must be a positive number"));
    }
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
mod tests {
    use super::super::{HiddenBasis, PruneMethod, parse};
    use super::*;

    const BAD: &str = r#"
        [run]
        directory = "out"
        dtype = "fp16"
        [model]
        [data]
        path = "data"
        [mixer]
        kind = "dynamic"
        proportions = { a = 0.5, b = 0.6 }
        [train]
        steps = 10
        batch_rows = 4
        micro_batch_rows = 3
        learning_rate = -1.0
    "#;

    #[test]
    fn all_problems_are_reported_at_once() {
        let message = validate(&parse(BAD, "test", &[]).unwrap(), Stage::Prune).unwrap_err().to_string();
        for key in ["source", "[target]", "fp16", "micro_batch_rows", "learning_rate", "sum to 1.1", "reference"] {
            assert!(message.contains(key), "{key} in {message}");
        }
    }

    #[test]
    fn threads_are_a_number_that_a_machine_may_have() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";
        let check = |threads: &str| {
            let config = parse(text, "test", &[format!("run.threads={threads}")]).map_err(|error| error.to_string())?;
            validate(&config, Stage::Pretrain).map_err(|error| error.to_string())
        };
        check("1").unwrap();
        check("1024").unwrap();
        assert!(check("1025").unwrap_err().contains("run.threads = 1025 must be at most 1024"));
        for wrong in ["0", "-1", "many"] {
            assert!(check(wrong).unwrap_err().contains("run.threads"), "{wrong}");
        }
    }

    #[test]
    fn a_cut_at_once_needs_a_target_and_no_training() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n[target]\nhidden_size = 8\n";
        let check = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            let config = parse(text, "test", &sets).unwrap();
            validate(&config, Stage::Prune).map(|()| config).map_err(|error| error.to_string())
        };
        let config = check(&[]).unwrap();
        assert_eq!((config.prune.method(), config.hidden_basis()), (PruneMethod::Activations, HiddenBasis::Principal));
        assert_eq!(config.draws(), (1, 128));
        // What was meant for learned masks is not left out in silence.
        assert!(check(&["masks.preset=top-k"]).unwrap_err().contains("[masks] is for a run that learns masks"));
        assert!(check(&["distill.weight=0.5"]).unwrap_err().contains("[distill] is for a run that learns masks"));
        // One file, several methods.
        check(&["masks.preset=top-k", "distill.weight=0.5", "prune.method=activations"]).unwrap();
        let missing = check(&["prune.method=learned"]).unwrap_err();
        assert!(missing.contains("train.steps is 0 or missing") && missing.contains("train.batch_rows"), "{missing}");
    }

    #[test]
    fn the_basis_follows_the_method() {
        let text = "[run]\ndirectory = 'a'\n[data]\npath = 'd'\n[model]\n[target]\n";
        for (sets, basis) in [
            (&["prune.method=taylor"] as &[&str], HiddenBasis::Principal),
            (&["prune.method=magnitude"], HiddenBasis::Units),
            (&["prune.method=learned"], HiddenBasis::Units),
            (&["prune.method=learned", "masks.preset=top-k"], HiddenBasis::Principal),
            (&["prune.basis=units"], HiddenBasis::Units),
        ] {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            assert_eq!(parse(text, "test", &sets).unwrap().hidden_basis(), basis, "{sets:?}");
        }
    }

    #[test]
    fn a_teacher_needs_a_folder_and_a_share() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n[distill]\nweight = 0.5\n\
                    [prune]\nmethod = 'learned'\n";
        let check = |sets: &[&str], stage: Stage| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            let config = parse(text, "test", &sets).unwrap();
            validate(&config, stage).map(|()| config.teacher().cloned()).map_err(|error| error.to_string())
        };
        let target = "target.hidden_size=8";
        assert_eq!(check(&[target], Stage::Prune).unwrap(), Some("m".into()), "the model to prune");
        assert_eq!(check(&[target, "distill.teacher=t"], Stage::Prune).unwrap(), Some("t".into()));
        assert_eq!(check(&["distill.teacher=t", "distill.weight=1"], Stage::Pretrain).unwrap(), Some("t".into()));
        assert!(check(&[], Stage::Pretrain).unwrap_err().contains("needs distill.teacher"));
        for (set, problem) in [
            ("distill.weight=0", "distill.weight = 0 must be above 0"),
            ("distill.weight=1.5", "distill.weight = 1.5 must be above 0 and at most 1"),
            ("distill.temperature=-1", "distill.temperature = -1 must be"),
            ("distill.dtype=fp16", "distill.dtype = \"fp16\""),
        ] {
            let message = check(&[target, set], Stage::Prune).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }

    #[test]
    fn moments_in_fewer_bits_need_betas_that_they_can_follow() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";
        let check = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            validate(&parse(text, "test", &sets).unwrap(), Stage::Pretrain).map_err(|error| error.to_string())
        };
        check(&["train.beta2=0.999"]).unwrap();
        check(&["train.moments=bf16"]).unwrap();
        check(&["train.moments=8bit", "train.beta2=0.999"]).unwrap();
        let message = check(&["train.moments=8bit", "train.beta1=0.98"]).unwrap_err();
        assert!(message.contains("train.beta1 = 0.98 and beta2 = 0.95") && message.contains("bf16"), "{message}");
        let message = check(&["train.moments=bf16", "train.beta2=0.999"]).unwrap_err();
        assert!(message.contains("train.beta2 = 0.999") && message.contains("fp32"), "{message}");
        assert!(!message.contains("beta1"), "{message}");
    }
}
