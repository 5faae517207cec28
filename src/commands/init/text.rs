//! The two files that `init` writes, every value with its reason.

use super::budget::LEAST_CONTINUE_STEPS;
use super::part::{ASSUMED_DOMAINS, Part};
use super::recipe::{Recipe, least_steps, usual_cut_rows};
use crate::cli::table::grouped;
use crate::config::MomentKind;
use crate::model::count::{ParameterCount, forward_flops_per_token};
use shearling_masks::MaskPreset;
use std::fmt::Write as _;
use std::path::Path;

/// The configuration that prunes.
pub(super) fn prune(recipe: &Recipe) -> String {
    let (model, shape, part) = (&recipe.model, &recipe.shape, &recipe.prune);
    let mut text = header(recipe);
    run(&mut text, recipe, part);
    let _ = write!(text, "\n[model]\n{}", line("source", &quoted(&recipe.folder), ""));
    let after = ParameterCount::of(&recipe.target).total();
    let asked = recipe.asked.as_ref().map_or(String::new(), |asked| format!(" ({} were asked for)", asked.typed));
    let _ = write!(
        text,
        "\n# {} parameters{asked}. Heads keep their width of {}; what is not named stays as in the source.\n[target]\n",
        grouped(after),
        model.head_dim
    );
    let sizes = [
        ("hidden_size", shape.hidden_size, model.hidden_size),
        ("intermediate_size", shape.intermediate_size, model.intermediate_size),
        ("num_hidden_layers", shape.num_hidden_layers, model.num_hidden_layers),
        ("num_attention_heads", shape.num_attention_heads, model.num_attention_heads),
        ("num_key_value_heads", shape.num_key_value_heads, model.num_key_value_heads),
    ];
    for (key, value, before) in sizes {
        let said =
            if value == before { "as in the source".into() } else { format!("{} in the source", grouped(before)) };
        text.push_str(&line(key, &value.to_string(), &said));
    }
    data(&mut text, recipe, part);
    match recipe.masks {
        Some(preset) => learned(&mut text, recipe, preset),
        None => at_once(&mut text, recipe, part),
    }
    text
}

/// The source is cut at once.
fn at_once(text: &mut String, recipe: &Recipe, part: &Part) {
    proportions(text, part, "calibration rows are drawn from the domains in these proportions");
    let (rows, usual) = (recipe.cut_rows, usual_cut_rows());
    let fewer = |rows: usize, usual: usize| match rows < usual {
        true => format!("; {usual} if they fitted in a quarter of the budget"),
        false => String::new(),
    };
    let measured = format!("rows that this is measured on{}", fewer(rows.calibration, usual.calibration));
    let check = match rows.check < usual.check {
        true => line(
            "check_rows",
            &rows.check.to_string(),
            &format!("rows of each domain to compare source and cut on{}", fewer(rows.check, usual.check)),
        ),
        false => String::new(),
    };
    let _ = write!(
        text,
        "\n# No step is taken: all tokens are for the stage that continues. To learn masks instead: init --masks top-k.\n[prune]\n{}{}{}{check}{}",
        line("method", "\"activations\"", "heads, MLP units and layers by what they compute on calibration rows"),
        line("basis", "\"principal\"", "hidden dimensions by the principal components of the residual stream"),
        line("calibration_rows", &rows.calibration.to_string(), &measured),
        line("dtype", "\"fp32\"", "the next stage starts from unrounded weights"),
    );
}

/// Masks are learned.
fn learned(text: &mut String, recipe: &Recipe, preset: MaskPreset) {
    let (part, steps) = (&recipe.prune, recipe.prune.stage.steps);
    mixer(text, recipe, part);
    train(text, recipe, part, (steps / 10).max(1), "10 %, as published");
    text.push_str("\n[masks]\n");
    match preset {
        MaskPreset::TopK => {
            text.push_str(&line("preset", "\"top-k\"", "as many open units as the schedule says, exactly"))
        }
        MaskPreset::Deterministic => {
            text.push_str(&line("preset", "\"deterministic\"", "gates trained themselves, above 1 if that helps"))
        }
        MaskPreset::LlmShearing => {
            let rate_said = "as published: a gate must be able to cross its range many times within the run";
            let _ = write!(
                text,
                "{}{}{}{}",
                line("preset", "\"llm-shearing\"", "the published constants"),
                line("learning_rate", "1.0", rate_said),
                line("multiplier_learning_rate", "1.0", "as published"),
                line("warmup_steps", &(steps / 5).to_string(), "20 %, as published: the target grows from 0"),
            );
        }
    }
    let _ = write!(
        text,
        "\n[prune]\n{}{}",
        line("method", "\"learned\"", "masks are trained with the weights"),
        line("dtype", "\"fp32\"", "the next stage starts from unrounded weights")
    );
    rest(text, part);
}

/// The configuration that continues.
pub(super) fn next(recipe: &Recipe) -> String {
    let part = &recipe.next;
    let mut text = format!(
        "# The stage after {}: trains the pruned model on, to recover what the cut cost. Most tokens belong here.\n#\n\
         #   {}\n#   shearling pretrain --config {}\n#\n",
        recipe.file.display(),
        recipe.plan_command(&recipe.next_file, part),
        recipe.next_file.display()
    );
    let _ = write!(text, "# {}\n\n", taken(recipe, part));
    run(&mut text, recipe, part);
    let pruned = recipe.prune.directory.join(crate::run_dir::layout::PRUNED);
    let _ = write!(text, "\n[model]\n{}", line("source", &quoted(&pruned), "written by the stage before"));
    data(&mut text, recipe, part);
    mixer(&mut text, recipe, part);
    train(&mut text, recipe, part, (part.stage.steps * 3 / 100).max(1), "3 %, as published");
    distillation(&mut text, recipe);
    rest(&mut text, part);
    let dtype = format!("\"{}\"", recipe.export.name());
    text.push_str(&line("export_dtype", &dtype, "of the final model, as the source has it"));
    text
}

/// The teacher, to be switched on.
fn distillation(text: &mut String, recipe: &Recipe) {
    let forward = |model| forward_flops_per_token(model, recipe.row_tokens);
    let more = forward(&recipe.model) / (3.0 * forward(&recipe.target));
    let _ = write!(
        text,
        "\n# To learn from the source's predictions as well, better at equal tokens, for {:.1} times the FLOPs of a step:\n\
         # [distill]\n# teacher = {}\n# weight = 0.5\n",
        1.0 + more,
        quoted(&recipe.folder)
    );
}

fn header(recipe: &Recipe) -> String {
    let before = grouped(ParameterCount::of(&recipe.model).total());
    let after = grouped(ParameterCount::of(&recipe.target).total());
    let file = recipe.file.display();
    let mut text = format!(
        "# {}: from {before} to {after} parameters.\n# Written by `shearling init` for {}; yours to change.\n#\n",
        recipe.name, recipe.place
    );
    for part in [&recipe.prune, &recipe.next] {
        let other = part.data != recipe.prune.data;
        if part.rows.is_none() && (other || part.prunes()) {
            let text_folder = if other { "MORE_TEXT" } else { "TEXT" };
            let _ = writeln!(
                text,
                "#   shearling data prepare --from {text_folder} --tokenizer {}/tokenizer.json --sequence-length {} --out {}",
                recipe.folder.display(),
                recipe.row_tokens,
                part.data.display()
            );
        }
    }
    let plan = recipe.plan_command(&recipe.file, &recipe.prune);
    let _ = write!(text, "#   {plan}\n#   shearling prune --config {file}\n#\n");
    if recipe.prune.rows.is_none() {
        text.push_str("# TEXT has one folder per domain. ");
    } else {
        text.push_str("# ");
    }
    let _ = write!(text, "Then: {}.\n#\n# {}\n\n", recipe.next_file.display(), taken(recipe, &recipe.prune));
    text
}

/// What a stage takes, in a line.
fn taken(recipe: &Recipe, part: &Part) -> String {
    let tokens = grouped((part.stage.rows() as i64) * recipe.row_tokens);
    let tokens = if recipe.masks.is_none() && part.prunes() { format!("No training: {tokens}") } else { tokens };
    let time = part.time.as_ref().map_or(String::new(), |(_, said)| format!(", about {said}, {}", recipe.rate_said));
    // The comparison is made on rows of every domain.
    let assumed = recipe.masks.is_none() && part.prunes() && part.rows.is_none() && !time.is_empty();
    let assumed = if assumed {
        format!(
            " That is with {ASSUMED_DOMAINS} domains, a number\n# assumed while there is no data: the cut is compared with \
             its source on rows of each domain, and evaluations read some of\n# each, so more domains take longer."
        )
    } else {
        String::new()
    };
    format!("{tokens} tokens{time}.{assumed}")
}

fn run(text: &mut String, recipe: &Recipe, part: &Part) {
    let dtype = format!("bf16 where the hardware has it, else fp32; {}", recipe.dtype_said);
    let (said, seed, order) = match part.prunes() {
        true => ("the pruned model appears in its folder pruned/", 17, "of data order and noise; any number"),
        false => ("", 18, "another one than in pruning: the same rows would come in the same order"),
    };
    let _ = write!(
        text,
        "[run]\n{}{}{}",
        line("directory", &quoted(&part.directory), said),
        line("seed", &seed.to_string(), order),
        line("dtype", "\"auto\"", &dtype),
    );
}

fn data(text: &mut String, recipe: &Recipe, part: &Part) {
    let again = !part.prunes() && recipe.masks.is_some() && part.data == recipe.prune.data;
    let path = if again { "better other text than in pruning, if there is enough" } else { "" };
    let epochs = match &part.rows {
        Some(rows) => format!(
            "this data has {} rows, the run needs {}",
            grouped(rows.total() as i64),
            grouped(part.stage.rows() as i64)
        ),
        None => "how often a row may be seen; more repetition teaches little".to_string(),
    };
    let _ = write!(
        text,
        "\n[data]\n{}{}",
        line("path", &quoted(&part.data), path),
        line("max_epochs", &format!("{:?}", part.max_epochs), &epochs),
    );
}

fn mixer(text: &mut String, recipe: &Recipe, part: &Part) {
    text.push_str("\n[mixer]\n");
    match &recipe.reference_file {
        Some(file) => {
            // A mix moves at evaluations, and what moves at the last one is never drawn.
            let (kind, why) = match part.eval_every < part.stage.steps {
                true => ("\"bounded\"", "domains far above their reference loss get more, a little at a time"),
                false => {
                    ("\"static\"", "too few steps to evaluate on the way; in a longer run \"bounded\" moves the shares")
                }
            };
            text.push_str(&line("kind", kind, why));
            text.push_str(&line("reference_file", &quoted(file), "losses of the source"));
        }
        None => {
            text.push_str(&line(
                "kind",
                "\"static\"",
                "shares stay. To move them to the domains that lost most, measure once:",
            ));
            let _ = write!(
                text,
                "#   shearling eval {} --data {} --rows {} --write-reference {}\n\
                 # and set kind = \"bounded\" and reference_file to that file.\n",
                recipe.folder.display(),
                part.data.display(),
                part.eval_rows,
                reference_path(recipe).display()
            );
        }
    }
    shares(text, part);
}

/// A mix that stays as it is.
fn proportions(text: &mut String, part: &Part, said: &str) {
    if part.rows.is_some() {
        let _ = write!(text, "\n[mixer]\n{}", line("kind", "\"static\"", said));
        shares(text, part);
    }
}

fn shares(text: &mut String, part: &Part) {
    let Some(rows) = &part.rows else { return };
    if rows.are_alike() {
        let names = rows.shares().map(|(name, _)| key(name)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "# All domains alike; for other shares a table [mixer.proportions] of {names}.");
        return;
    }
    let _ = write!(text, "\n# {}\n[mixer.proportions]\n", rows.said());
    for (name, share) in rows.shares() {
        text.push_str(&line(&key(name), &format!("{share}"), ""));
    }
}

/// Where the references of the source would go: beside the run folder, which must not exist before the run.
fn reference_path(recipe: &Recipe) -> std::path::PathBuf {
    let stem = recipe.file.file_stem().unwrap_or_default().to_string_lossy();
    recipe.prune.directory.with_file_name(format!("{stem}-reference.json"))
}

fn train(text: &mut String, recipe: &Recipe, part: &Part, warmup: u64, warmup_said: &str) {
    let (stage, settings) = (&part.stage, &part.settings);
    let least = recipe.masks.filter(|_| part.prunes()).map_or(LEAST_CONTINUE_STEPS, least_steps);
    let said = match recipe.masks.filter(|_| part.prunes()) {
        _ if recipe.exceeded && stage.steps <= least => "the fewest that make sense; the budget would be less",
        Some(MaskPreset::LlmShearing) => "a third of the budget; below 300 most masks stay undecided",
        Some(MaskPreset::TopK | MaskPreset::Deterministic) => "a third of the budget; decided after any number",
        None => "from the budget; more is better",
    };
    let batch = format!(
        "rows of {} tokens: {} tokens per step",
        recipe.row_tokens,
        grouped(stage.batch_rows as i64 * recipe.row_tokens)
    );
    let _ = write!(
        text,
        "\n[train]\n{}{}{}",
        line("steps", &stage.steps.to_string(), said),
        line("batch_rows", &stage.batch_rows.to_string(), &batch),
        line("micro_batch_rows", &settings.micro_batch_rows.to_string(), &part.memory_said),
    );
    if settings.selective_recomputation {
        text.push_str(&line("selective_recomputation", "true", "outputs of norms and SwiGLU are made again: memory"));
    }
    if settings.activation_checkpointing > 0 {
        text.push_str(&line("activation_checkpointing", "1", "blocks are computed again instead of kept: memory"));
    }
    if settings.moments != MomentKind::Fp32 {
        text.push_str(&line("moments", &format!("\"{}\"", settings.moments.name()), "memory"));
    }
    if settings.moments_on_host {
        text.push_str(&line("moments_on_host", "true", "memory of the GPU, for some of the host's"));
    }
    let rate = format!("{:e}", stage.learning_rate);
    let rate_said = match part.prunes() {
        true => "1e-4 for a 7B as published, more for smaller models",
        false => "1e-4 for a 7B as published, more for smaller models; × √(tokens per step / 16,384) below 16,384",
    };
    let _ = write!(
        text,
        "{}{}{}",
        line("learning_rate", &rate, rate_said),
        line("warmup_steps", &warmup.to_string(), warmup_said),
        line("final_lr_fraction", "0.1", "cosine to a tenth of the peak"),
    );
}

fn rest(text: &mut String, part: &Part) {
    let _ = write!(
        text,
        "\n[eval]\n{}{}\n[checkpoint]\n{}",
        line("every_steps", &part.eval_every.to_string(), &part.evaluations_said()),
        line("rows_per_domain", &part.eval_rows.to_string(), &part.eval_rows_said),
        line("every_steps", &part.save_every.to_string(), &part.disk_said),
    );
}

/// `key = value  # said`, the remark in its column.
fn line(key: &str, value: &str, said: &str) -> String {
    let assignment = format!("{key} = {value}");
    if said.is_empty() { format!("{assignment}\n") } else { format!("{assignment:<36} # {said}\n") }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

/// A name as a TOML key.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.chars().all(bare) { name.to_string() } else { toml::Value::String(name.to_string()).to_string() }
}
