//! Which layers attend through a sliding window, resolved per layer.
//!
//! With a window of W tokens a token attends itself and the W - 1 before it. Who decides differs by family, as in transformers:
//! - Llama: never;
//! - Mistral: `sliding_window` (4096 when absent, none when null), all layers alike;
//! - Qwen2, Qwen3: nothing without `use_sliding_window`; then `layer_types` where given, else layers from `max_window_layers` on.

use super::Architecture;
use crate::files::Result;
use crate::files::json::Fields;

const LAYER_TYPES: &str = "full_attention, sliding_attention";
const DEFAULT_WINDOW: i64 = 4096;
/// Largest window and layer index taken for real.
const LIMIT: i64 = 1 << 40;
const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// The window of each layer in tokens, `None` for full attention. `[L]`
pub(crate) fn resolve(fields: &Fields, architecture: Architecture, layers: i64) -> Result<Vec<Option<i64>>> {
    match architecture {
        Architecture::Llama => Ok(vec![None; layers as usize]),
        Architecture::Mistral => mistral(fields, layers),
        Architecture::Qwen2 | Architecture::Qwen3 => qwen(fields, layers),
    }
}

/// The first layer with a window when `layer_types` does not say (Qwen2, Qwen3).
pub(crate) fn max_window_layers(fields: &Fields) -> Result<i64> {
    fields.integer_or("max_window_layers", 28, 0..=LIMIT)
}

fn window(fields: &Fields) -> Result<Option<i64>> {
    Ok(fields.integer_given("sliding_window", 1..=LIMIT)?.absent_is(Some(DEFAULT_WINDOW)))
}

fn mistral(fields: &Fields, layers: i64) -> Result<Vec<Option<i64>>> {
    let window = window(fields)?;
    // transformers ignores `layer_types` here; a list that says otherwise belongs to another architecture.
    let expected = if window.is_some() { SLIDING } else { FULL };
    if let Some(other) = layer_types(fields, layers)?.unwrap_or_default().into_iter().find(|kind| *kind != expected) {
        let supported = format!("\"{expected}\" for every layer, as `sliding_window` says");
        return Err(fields.unsupported("layer_types", format!("\"{other}\" in a Mistral configuration"), supported));
    }
    Ok(vec![window; layers as usize])
}

fn qwen(fields: &Fields, layers: i64) -> Result<Vec<Option<i64>>> {
    let window = if fields.boolean_or("use_sliding_window", false)? { window(fields)? } else { None };
    let first = max_window_layers(fields)?;
    let Some(types) = layer_types(fields, layers)? else {
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if window.is_none() && types.contains(&SLIDING) {
        return Err(fields.problem(
            "layer_types",
            "names sliding_attention, but no window is in use: set `use_sliding_window` and `sliding_window`",
        ));
    }
    Ok(types.into_iter().map(|kind| window.filter(|_| kind == SLIDING)).collect())
}

fn layer_types<'a>(fields: &Fields<'a>, layers: i64) -> Result<Option<Vec<&'a str>>> {
    let Some(types) = fields.strings("layer_types")? else { return Ok(None) };
    if types.len() as i64 != layers {
        return Err(fields.problem("layer_types", format!("has {} entries for {layers} layers", types.len())));
    }
    match types.iter().find(|kind| ![SLIDING, FULL].contains(kind)) {
        Some(other) => Err(fields.unsupported("layer_types", format!("\"{other}\""), LAYER_TYPES)),
        None => Ok(Some(types)),
    }
}
