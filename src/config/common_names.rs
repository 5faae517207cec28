//! What other tools call our keys: transformers, llm-shearing, torchtitan and their kin. Only for advice about a key that
//! we do not have; nothing is read under these names.

/// Names, alone or as `table.name`, and the key of ours that means it.
const COMMON_NAMES: &[(&[&str], &str)] = &[
    (
        &[
            "output_dir",
            "out_dir",
            "save_folder",
            "save_dir",
            "dump_folder",
            "output",
            "folder",
            "run_dir",
            "run_name",
            "run.name",
            "run.path",
            "run.dir",
        ],
        "run.directory",
    ),
    (&["seed", "random_seed", "data_seed"], "run.seed"),
    (&["device", "accelerator", "use_cpu", "no_cuda"], "run.device"),
    (
        &[
            "dtype",
            "precision",
            "mixed_precision",
            "torch_dtype",
            "bf16",
            "fp16",
            "param_dtype",
            "compute_dtype",
            "mixed_precision_param",
        ],
        "run.dtype",
    ),
    (&["tensorboard", "report_to", "logging_dir", "enable_tensorboard"], "run.tensorboard"),
    (
        &[
            "model_name_or_path",
            "name_or_path",
            "pretrained",
            "pretrained_model_name_or_path",
            "base_model",
            "hf_model",
            "init_from",
            "load_path",
            "initial_load_path",
            "checkpoint_path",
            "hf_assets_path",
            "model.path",
            "model.name",
            "source",
        ],
        "model.source",
    ),
    (&["hidden_dim", "d_model", "n_embd", "dim", "hidden", "width"], "target.hidden_size"),
    (
        &["intermediate_dim", "ffn_dim", "ffn_hidden_size", "mlp_dim", "n_inner", "intermediate"],
        "target.intermediate_size",
    ),
    (&["num_layers", "n_layers", "n_layer", "layers", "depth"], "target.num_hidden_layers"),
    (&["num_heads", "n_heads", "n_head", "heads", "attention_heads"], "target.num_attention_heads"),
    (&["num_kv_heads", "n_kv_heads", "kv_heads", "key_value_heads"], "target.num_key_value_heads"),
    (&["target_model", "target_shape", "to_model"], "target"),
    (
        &[
            "dataset",
            "datasets",
            "dataset_path",
            "dataset_name",
            "data_path",
            "data_dir",
            "data_local",
            "train_file",
            "data.dir",
            "data.folder",
            "data.directory",
            "data.name",
            "data.source",
        ],
        "data.path",
    ),
    (&["epochs", "num_epochs", "max_epoch", "repeat"], "data.max_epochs"),
    (&["num_workers", "dataloader_num_workers", "prefetch_factor"], "data.prefetch"),
    (&["update_type", "dynamic", "mixer.type", "mixer.rule"], "mixer.kind"),
    (
        &["proportion", "domain_weights", "data_weights", "weights", "initial_proportions", "sampling_weights"],
        "mixer.proportions",
    ),
    (&["target_loss", "target_losses", "reference_losses", "references"], "mixer.reference_loss"),
    (
        &[
            "max_steps",
            "num_steps",
            "total_steps",
            "training_steps",
            "num_train_steps",
            "train_iters",
            "iterations",
            "max_duration",
            "num_train_epochs",
            "steps",
        ],
        "train.steps",
    ),
    (&["batch_size", "global_batch_size", "train_batch_size", "global_train_batch_size", "batch"], "train.batch_rows"),
    (
        &[
            "micro_batch_size",
            "microbatch_size",
            "per_device_train_batch_size",
            "device_train_microbatch_size",
            "local_batch_size",
            "gradient_accumulation_steps",
            "grad_accum",
        ],
        "train.micro_batch_rows",
    ),
    (&["lte.learning_rate", "lte.lr"], "lte.router_learning_rate"),
    (&["lte.steps"], "lte.router_steps"),
    (&["learning_rate", "lr", "max_lr", "peak_lr", "base_lr"], "train.learning_rate"),
    (&["warmup", "num_warmup_steps", "lr_warmup_steps", "warmup_ratio", "t_warmup"], "train.warmup_steps"),
    (&["min_lr", "min_lr_ratio", "min_lr_factor", "final_lr", "alpha_f"], "train.final_lr_fraction"),
    (&["betas", "adam_beta1", "beta_1"], "train.beta1"),
    (&["adam_beta2", "beta_2"], "train.beta2"),
    (&["epsilon", "adam_epsilon"], "train.eps"),
    (&["wd", "decay", "weight_decay"], "train.weight_decay"),
    (
        &["max_grad_norm", "grad_clip", "gradient_clipping", "grad_norm", "max_norm", "clipping_threshold"],
        "train.clip_norm",
    ),
    (
        &["gradient_checkpointing", "activation_checkpoint", "recompute", "checkpointing", "gc"],
        "train.activation_checkpointing",
    ),
    (&["optim", "optimizer", "optimiser", "lr_scheduler", "scheduler", "training", "trainer", "adamw"], "train"),
    (&["mask_lr", "log_alpha_lr"], "masks.learning_rate"),
    (&["lag_lr", "lagrangian_lr", "lagr_lr", "lambda_lr"], "masks.multiplier_learning_rate"),
    (&["lagrangian_warmup_steps", "lagrangian_warmup", "target_warmup_steps"], "masks.warmup_steps"),
    (&["l0", "l0_module", "pruning"], "masks"),
    (&["eval_interval", "eval_steps", "eval_every", "eval.interval", "eval.steps", "validation"], "eval.every_steps"),
    (
        &["eval_rows", "eval_batches", "eval_iters", "max_eval_samples", "eval_subset_num_batches", "eval.rows"],
        "eval.rows_per_domain",
    ),
    (
        &["save_interval", "save_steps", "save_every", "checkpoint.interval", "checkpoint.steps"],
        "checkpoint.every_steps",
    ),
    (&["max_shard_size", "shard_size"], "checkpoint.max_shard_bytes"),
    (&["save_dtype", "export", "output_dtype"], "checkpoint.export_dtype"),
];

/// How other tools write the names of kinds.
const COMMON_KINDS: &[(&[&str], &str)] = &[
    (&["float32", "f32", "float", "full", "single"], "fp32"),
    (&["bfloat16", "bfloat", "bf16-mixed", "brain"], "bf16"),
    (&["float16", "f16", "half", "fp16-mixed"], "fp16"),
];

/// The key of ours that somebody means by the key `name` in the table `table` (empty at the top).
pub(super) fn meant_key(table: &str, name: &str) -> Option<String> {
    let name = name.to_lowercase().replace('-', "_");
    let last = table.rsplit('.').next().unwrap_or_default();
    let find = |wanted: &str| COMMON_NAMES.iter().find(|(names, _)| names.contains(&wanted)).map(|(_, key)| *key);
    let key = find(&format!("{last}.{name}")).or_else(|| find(&name))?;
    // A new model is given the same sizes as a target.
    match key.strip_prefix("target.").filter(|_| table == "model.random") {
        Some(size) => Some(format!("{table}.{size}")),
        None => Some(key.to_string()),
    }
}

/// Our name of a kind that other tools write as `name`.
pub(super) fn meant_kind(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let name = name.strip_prefix("torch.").unwrap_or(&name);
    let known = COMMON_KINDS.iter().find(|(names, kind)| names.contains(&name) || *kind == name);
    known.map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::known_keys;

    #[test]
    fn every_key_that_is_named_exists() {
        let known = known_keys();
        for (names, key) in COMMON_NAMES {
            let table = known.iter().any(|known| known.starts_with(&format!("{key}.")));
            assert!(table || known.iter().any(|known| known == key), "{key} is not a key");
            for name in *names {
                assert!(!known.iter().any(|known| known == name), "{name} is a key of ours");
            }
        }
    }

    #[test]
    fn no_name_means_two_keys() {
        let mut names: Vec<&str> = COMMON_NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_table_decides_where_a_name_alone_does_not() {
        assert_eq!(meant_key("model", "name").as_deref(), Some("model.source"));
        assert_eq!(meant_key("run", "name").as_deref(), Some("run.directory"));
        assert_eq!(meant_key("model.random", "n_layers").as_deref(), Some("model.random.num_hidden_layers"));
        assert_eq!(meant_key("target", "n-layers").as_deref(), Some("target.num_hidden_layers"));
        assert_eq!(meant_key("train", "colour"), None);
        assert_eq!(meant_kind("torch.bfloat16"), Some("bf16"));
        assert_eq!(meant_kind("BF16"), Some("bf16"));
    }
}
