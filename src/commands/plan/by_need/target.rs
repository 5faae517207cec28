//! `[target]` of a shape, as text to paste and to run.

use shearling_masks::Shape;

/// `[target]`, every size.
pub(super) fn target_table(shape: &Shape) -> String {
    let lines = sizes(shape).map(|(key, size)| format!("{key} = {size}\n"));
    format!("[target]\n{}", lines.concat())
}

/// The keys of `[target]` with a shape's sizes.
pub(super) fn sizes(shape: &Shape) -> [(&'static str, i64); 5] {
    [
        ("hidden_size", shape.hidden_size),
        ("intermediate_size", shape.intermediate_size),
        ("num_hidden_layers", shape.num_hidden_layers),
        ("num_attention_heads", shape.num_attention_heads),
        ("num_key_value_heads", shape.num_key_value_heads),
    ]
}
