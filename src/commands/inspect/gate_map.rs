//! The map of gates: layers × heads and layers × tenths of the MLP, as cells for the terminal.

use crate::cli::heatmap::{Cell, HeatMap, HeatRow};
use crate::inspect::{LayerInspection, MaskInspection};

/// The map of a mask file.
pub(super) fn gate_map(masks: &MaskInspection) -> HeatMap {
    let heads = masks.source.num_attention_heads;
    HeatMap {
        label: "layer".to_string(),
        // A column of few heads has no room for more.
        titles: vec![
            if heads > 4 { format!("heads 0-{}", heads - 1) } else { "heads".into() },
            "MLP tenths".to_string(),
        ],
        rows: masks.layers.iter().map(|layer| row(layer, masks)).collect(),
    }
}

fn row(layer: &LayerInspection, masks: &MaskInspection) -> HeatRow {
    let heads = layer.head_gates.iter().enumerate();
    let heads = heads.map(|(head, gate)| Cell { gate: *gate, removed: !layer.heads.contains(&(head as i64)) });
    // Sorted from the most open, so the cut keeps the first `intermediate` of them: a tenth is out when all of it is.
    let kept = layer.intermediate as f64 / masks.source.intermediate_size.max(1) as f64;
    let tenths = layer.intermediate_gates.iter().enumerate();
    let tenths = tenths.map(|(part, gate)| Cell { gate: *gate, removed: part as f64 / 10.0 >= kept });
    HeatRow {
        label: layer.layer.to_string(),
        sections: vec![heads.collect(), tenths.collect()],
        ending: layer.becomes.map_or("removed".to_string(), |becomes| format!("→ {becomes}")),
    }
}
