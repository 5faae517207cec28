//! What the demo prints at its end.

use super::{Results, losses_json};
use crate::cli::table::{Table, duration, grouped, optional};
use crate::eval::mean_loss;
use crate::inspect::{MaskInspection, locate};
use serde_json::{Value, json};

/// The tables and the lines below them.
pub(super) fn text(results: &Results, seconds: f64) -> String {
    let models = results.models();
    let columns = models.map(|(name, model)| (name, model.losses()));
    let header = std::iter::once("domain (loss)").chain(columns.iter().map(|(name, _)| *name)).chain(["final share"]);
    let mut table = Table::new(header);
    for (index, domain) in results.domains.iter().enumerate() {
        let losses = columns.iter().map(|(_, losses)| optional(losses[index].loss, 3));
        let share = results.proportions.get(domain).map(|share| format!("{:.1} %", 100.0 * share));
        table.row(std::iter::once(domain.clone()).chain(losses).chain(share));
    }
    let mean = columns.iter().map(|(_, losses)| optional(mean_loss(losses), 3));
    table.row(std::iter::once("mean".to_string()).chain(mean));
    let parameters = models.iter().map(|(_, model)| grouped(model.parameters));
    table.row(std::iter::once("parameters".to_string()).chain(parameters));
    let (prune, recover) = results.recipe.stage_steps();
    let mut text = format!("\n{table}\n");
    text.push_str(&format!(
        "recovered = pruned ({prune} steps) and continued ({recover} steps); both baselines had {} steps of the same batch\n",
        prune + recover
    ));
    text.push_str(&kept(results).unwrap_or_else(|error| format!("the kept units could not be read: {error}\n")));
    text.push_str(&format!("learned masks: {}\n", results.equivalence.arithmetic()));
    text.push_str(&format!("one-shot cut:  {}\n", results.one_shot_equivalence.arithmetic()));
    text.push_str(&lte_line(results));
    text.push_str(&format!("{} in all, everything is in {}\n", duration(seconds), results.recipe.folder.display()));
    text
}

/// What running few units costs.
fn lte_line(results: &Results) -> String {
    let (dense, taught) = (mean_loss(&results.one_shot.losses()), mean_loss(&results.lte.losses()));
    format!(
        "LTE: the one-shot cut taught for {} steps runs {:.1} % of its intermediate units: loss {} (dense {}), \
         {} tokens/s decoded (dense {})\n",
        results.recipe.lte_steps(),
        100.0 * results.density,
        optional(taught, 3),
        optional(dense, 3),
        grouped(results.speeds[1].round() as i64),
        grouped(results.speeds[0].round() as i64)
    )
}

/// The same as one JSON object.
pub(super) fn json(results: &Results, seconds: f64) -> Value {
    let models = results.models().into_iter().map(|(name, model)| (name.to_string(), losses_json(model)));
    json!({
        "models": Value::Object(models.collect()),
        "final_proportions": results.proportions,
        "equivalence": { "learned": results.equivalence, "one_shot": results.one_shot_equivalence },
        "lte": { "model": losses_json(&results.lte), "density": results.density,
            "tokens_per_second": { "dense": results.speeds[0], "lte": results.speeds[1] } },
        "seconds": seconds,
        "folder": results.recipe.folder,
    })
}

/// The kept shape in a few lines.
fn kept(results: &Results) -> anyhow::Result<String> {
    let masks = locate::find(&results.run, None)?;
    let summary = MaskInspection::read(&masks.path, Some(masks.step), None)?;
    let (source, target) = (&summary.source, &summary.target);
    let change = |name: &str, before: i64, after: i64| format!("{name} {before} → {after}");
    let shape = [
        change("hidden", source.hidden_size, target.hidden_size),
        change("intermediate", source.intermediate_size, target.intermediate_size),
        change("layers", source.num_hidden_layers, target.num_hidden_layers),
        change("heads", source.num_attention_heads, target.num_attention_heads),
    ];
    let layers = summary.plan.layers.iter().map(|layer| {
        let heads = layer.kv_heads.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        format!("  layer {} of the source: heads {heads}", layer.source_index)
    });
    let half_alive: u64 = summary.report.modules.iter().map(|module| module.half_alive.count).sum();
    Ok(format!(
        "kept shape: {}; {half_alive} kept units half-alive\n{}\n",
        shape.join(", "),
        layers.collect::<Vec<_>>().join("\n")
    ))
}
