//! What may be a mistake in a run that would start: one short line each.

use super::experts;
use super::mix::MixReach;
use super::rows::DomainRows;
use crate::cli::table::grouped;
use crate::commands::init::budget::usual_rates;
use crate::config::PruneMethod;
use crate::files::DType;
use crate::model::ModelConfig;
use crate::model::count::ParameterCount;
use crate::native::runtime::precision::has_bf16;
use crate::native::runtime::threads;
use crate::train::Outline;
use crate::train::settling::{ENOUGH_CROSSINGS, crossings};
use crate::train::setup::{Device, compute_dtype};
use crate::train::written_dtype;
use crate::words::counted;
use shearling_domains::{MixerKind, Split};
use shearling_masks::MaskPreset;

/// All of it.
pub(super) fn warnings(
    outline: &Outline,
    small: Option<&ModelConfig>,
    domains: &[DomainRows],
    mix: Option<&MixReach>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(settling(outline));
    warnings.extend(learning_rate(outline));
    warnings.extend(experts::warnings(outline));
    warnings.extend(computing(outline));
    warnings.extend(crowded(outline));
    warnings.extend(writing(outline));
    warnings.extend(odd_sizes(small));
    warnings.extend(running_out(outline, domains, mix));
    warnings.extend(few_held_out(outline));
    warnings
}

fn learns_masks(outline: &Outline) -> bool {
    outline.spec.is_some() && outline.config.prune.method() == PruneMethod::Learned
}

/// Whether masks come to a decision in the steps that are left to them.
fn settling(outline: &Outline) -> Vec<String> {
    if !learns_masks(outline) || outline.config.train.steps == 0 {
        return Vec::new();
    }
    let (config, mut warnings) = (&outline.config, Vec::new());
    let (steps, warmup) = (config.train.steps, config.masks.target_warmup(config.train.steps));
    if config.masks.preset != MaskPreset::TopK && warmup * 2 > steps && warmup <= steps {
        warnings.push(format!(
            "masks.warmup_steps = {warmup} takes more than half of train.steps = {steps}: little time is left to settle"
        ));
    }
    let crossings = crossings(config);
    if crossings < ENOUGH_CROSSINGS {
        let key = if config.masks.peak_learning_rate(steps) < 0.5 { "masks.learning_rate" } else { "train.steps" };
        warnings.push(format!(
            "the masks have too little time to settle: after masks.warmup_steps = {warmup} a gate could cross its range \
             {crossings:.1} times, at least {ENOUGH_CROSSINGS:.0} are needed; many kept units will be half-alive. Raise {key}, or cut \
             at once: prune.method = \"activations\""
        ));
    }
    warnings
}

/// Whether the weights' learning rate is far from what models of this size are trained with: a slip of the keyboard, mostly.
fn learning_rate(outline: &Outline) -> Option<String> {
    let (config, rate) = (&outline.config, outline.config.train.learning_rate);
    let parameters = ParameterCount::of(&outline.model).total();
    let [low, high] = usual_rates(parameters as f64);
    let trains = !config.cuts_at_once() && !config.masks.frozen_weights && rate > 0.0;
    let (where_to, what) = match rate {
        rate if rate > high => ("above", "the loss may blow up"),
        rate if rate < low => ("below", "the model may learn hardly anything"),
        _ => return None,
    };
    trains.then(|| {
        format!(
            "train.learning_rate = {} is {where_to} the usual {low:e} to {high:e} of a model with {} parameters: {what}",
            if rate < 1e-3 { format!("{rate:e}") } else { rate.to_string() },
            grouped(parameters)
        )
    })
}

/// What the dtype of forward and backward costs where the run would be.
fn computing(outline: &Outline) -> Option<String> {
    let (device, fast) = (outline.device, has_bf16(outline.device));
    match compute_dtype(outline.config.run.dtype, device) {
        DType::F32 if fast && device.is_cuda() => Some(
            "run.dtype = \"fp32\" on a GPU with bf16: less than half its speed, and twice the activations; take \"bf16\" or \
             \"auto\""
                .to_string(),
        ),
        // Products of smaller models are not what a step waits for.
        DType::F32 if fast && outline.model.hidden_size >= 512 => {
            Some("run.dtype = \"fp32\" on a CPU with bf16 instructions: \"bf16\" or \"auto\" is faster there".to_string())
        }
        DType::BF16 if !fast => {
            let place = if device == Device::Cpu { "this CPU" } else { "this GPU" };
            Some(format!("run.dtype = \"bf16\", which {place} has no instructions for: slower than \"fp32\" or \"auto\""))
        }
        _ => None,
    }
}

/// Threads that wait for one another.
fn crowded(outline: &Outline) -> Option<String> {
    let (asked, cpus) = (outline.config.run.threads?.get(), threads::available());
    (asked > cpus && outline.device == Device::Cpu).then(|| {
        let cpus = counted(cpus as u64, "CPU");
        format!("run.threads = {asked} on {cpus}: slower than a thread on each; leave it out, or set it on the machine that runs it")
    })
}

/// What the dtype of the written model loses.
fn writing(outline: &Outline) -> Option<String> {
    let (key, dtype) = written_dtype(outline);
    match dtype {
        DType::F16 => {
            Some(format!("{key} = \"fp16\" ends at 65,504: larger weights become infinite; take \"bf16\" or \"fp32\""))
        }
        DType::BF16 if outline.spec.is_some() => Some(format!(
            "the pruned model is written in bf16: its weights are rounded to bf16 (8 significant bits) before they train on; {key} = \"fp32\" \
             keeps them whole (and checkpoint.export_dtype = \"bf16\" rounds once, at the end)"
        )),
        _ => None,
    }
}

/// The key that decides in which dtype the run's model is written, and what it comes to.
pub(super) fn written_dtype(outline: &Outline) -> (&'static str, DType) {
    let config = &outline.config;
    let (key, asked) = match outline.spec {
        Some(_) => ("prune.dtype", config.prune.dtype),
        None => ("checkpoint.export_dtype", config.checkpoint.export_dtype),
    };
    // What the weights are stored in counts, where they are here; else what config.json says of them.
    let stored = || written_dtype::written_dtype(config, outline.stage).ok().filter(|_| config.model.source.is_some());
    let announced = || outline.model.dtype.filter(|_| config.model.source.is_some());
    let computed = || compute_dtype(config.run.dtype, outline.device);
    (key, asked.or_else(stored).or_else(announced).unwrap_or_else(computed))
}

fn odd_sizes(small: Option<&ModelConfig>) -> Vec<String> {
    let sizes =
        |model: &ModelConfig| [("hidden_size", model.hidden_size), ("intermediate_size", model.intermediate_size)];
    let odd = small.into_iter().flat_map(sizes).filter(|(_, value)| value % 64 != 0);
    let warning = |(key, value)| {
        format!("target.{key} = {value} is not a multiple of 64: slower on GPUs and in quantised formats")
    };
    odd.map(warning).collect()
}

fn running_out(outline: &Outline, domains: &[DomainRows], mix: Option<&MixReach>) -> Vec<String> {
    let (config, mut warnings) = (&outline.config, Vec::new());
    let most_epochs = config.data.max_epochs;
    for domain in domains {
        let Some(epochs) = domain.epochs().filter(|epochs| *epochs > most_epochs) else { continue };
        warnings.push(format!(
            "domain {} needs {epochs:.1} epochs at its first proportion, data.max_epochs = {most_epochs}: it will run out \
             and leave the mix",
            domain.name
        ));
    }
    if config.mixer.kind == MixerKind::Static {
        return warnings;
    }
    let rows = (config.train.steps * config.train.batch_rows as u64) as f64;
    for domain in domains.iter().filter(|domain| domain.epochs().is_some_and(|epochs| epochs <= most_epochs)) {
        let most = domain.available.map_or(1.0, |available| available as f64 * most_epochs / rows);
        if most < mix.map_or(1.0, |mix| mix.highest(&domain.name)) {
            warnings.push(format!(
                "domain {} has rows for {:.1} % of the run at data.max_epochs = {most_epochs}; if the mixer asks for more, it runs out and \
                 the others share the rest; a higher data.max_epochs repeats it more often",
                domain.name,
                100.0 * most
            ));
        }
    }
    warnings
}

/// Domains that have fewer held-out rows than asked for.
fn few_held_out(outline: &Outline) -> Option<String> {
    let (config, dataset) = (&outline.config, outline.dataset.as_ref()?);
    let held_out = |(index, (name, _)): (usize, &(String, f64))| (name.clone(), dataset.rows(index, Split::Validation));
    let rows = outline.domains.iter().enumerate().map(held_out);
    match config.cuts_at_once() {
        true => {
            few_rows(rows, "prune.check_rows", config.prune.check_rows, "source and cut are compared on fewer rows of")
        }
        false => few_rows(rows, "eval.rows_per_domain", config.eval.rows_per_domain, "a noisier loss of"),
    }
}

/// Domains named in a warning.
const NAMED_DOMAINS: usize = 4;

/// What to say of domains with fewer than `asked` rows.
fn few_rows(rows: impl Iterator<Item = (String, u64)>, key: &str, asked: usize, effect: &str) -> Option<String> {
    let few: Vec<(String, u64)> = rows.filter(|(_, rows)| *rows < asked as u64).collect();
    let named = few.iter().take(NAMED_DOMAINS).map(|(name, rows)| format!("{name} {}", grouped(*rows)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = few.len().saturating_sub(NAMED_DOMAINS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (verb, them) = if few.len() == 1 { ("has", "it") } else { ("have", "them") };
    let domains = counted(few.len() as u64, "domain");
    (!few.is_empty())
        .then(|| format!("{domains} {verb} fewer held-out rows than {key} = {asked} ({named}{more}): {effect} {them}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_with_few_rows_are_counted_and_some_named() {
        let of = |rows: &[u64]| {
            let rows = rows.iter().enumerate().map(|(index, rows)| (format!("d{index}"), *rows));
            few_rows(rows, "eval.rows_per_domain", 8, "a noisier loss of")
        };
        let one = "1 domain has fewer held-out rows than eval.rows_per_domain = 8 (d1 7): a noisier loss of it";
        assert_eq!((of(&[8, 9]), of(&[8, 7]).as_deref()), (None, Some(one)));
        let many = of(&[1, 2, 3, 4, 5, 6]).unwrap();
        assert!(
            many.starts_with("6 domains have ")
                && many.ends_with("(d0 1, d1 2, d2 3, d3 4 and 2 more): a noisier loss of them"),
            "{many}"
        );
    }
}
