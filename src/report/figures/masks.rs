//! The masks as pictures: gates of all heads and of all MLP units by layer, at every snapshot; and in words which heads
//! each layer keeps.

use super::{NamedTable, Section, Slider, pruning};
use crate::inspect::{MaskSnapshot, Survivors};
use crate::report::chart::{Caption, DataTable, Figure, HeatFrame, HeatMap};
use crate::report::lineage::RunView;
use crate::report::number::{Unit, grouped, ranges};

pub(super) fn sections(runs: &[RunView]) -> Vec<Section> {
    let several = pruning(runs).count() > 1;
    pruning(runs).map(|run| section(run, several)).collect()
}

fn section(run: &RunView, several: bool) -> Section {
    let id = if several { format!("masks-{}", run.index) } else { "masks".to_string() };
    let maps: Vec<HeatMap> = [heads(run, &id), intermediate(run, &id)].into_iter().flatten().collect();
    let slider = maps.first().map(|map| Slider {
        id: format!("{id}-step"),
        maps: maps.iter().map(|map| map.caption.id.clone()).collect(),
        frames: map.frames().len(),
        last_step: map.frames().last().map_or(0, |frame| frame.step),
        numbers: map.frames().last().map_or(Vec::new(), |frame| frame.numbers.clone()),
    });
    Section {
        title: if several { format!("Masks of {}", run.label) } else { "Masks".to_string() },
        about:
            "Which gates are open and which are closed in each layer of the source. The slider goes through the mask \
                snapshots of the run."
                .into(),
        slider,
        figures: maps.into_iter().map(Figure::Map).collect(),
        tables: run.history.survivors.iter().map(survivors).collect(),
        id,
    }
}

fn heads(run: &RunView, id: &str) -> Option<HeatMap> {
    let snapshots = &run.history.snapshots;
    let columns = snapshots.last()?.heads.first()?.len();
    let kept = snapshots.last()?.kept_heads.concat();
    let about = "A row per layer, a cell per query head: its gate × that of its key/value head × that of its layer. A row without \
                 outlines is a layer that the cut removes.";
    let frames = snapshots.iter().map(|snapshot| frame(snapshot, bytes(snapshot.heads.iter().flatten()))).collect();
    HeatMap::build(Caption::new(format!("{id}-heads"), "Heads", about), "layer", "query head", columns, kept, frames)
}

fn intermediate(run: &RunView, id: &str) -> Option<HeatMap> {
    let about = "A row per layer, a cell per tenth of its MLP units, sorted by gate (0: the most open tenth): the mean gate × the \
                 layer's. Pale cells in the middle are undecided units.";
    let snapshots = &run.history.snapshots;
    let frames =
        snapshots.iter().map(|snapshot| frame(snapshot, bytes(snapshot.intermediate.iter().flatten()))).collect();
    let caption = Caption::new(format!("{id}-intermediate"), "MLP units", about);
    HeatMap::build(caption, "layer", "tenth of the units", 10, vec![], frames)
}

fn bytes<'a>(gates: impl Iterator<Item = &'a f32>) -> Vec<u8> {
    // NaN becomes 0.
    gates.map(|gate| (gate.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

fn frame(snapshot: &MaskSnapshot, cells: Vec<u8>) -> HeatFrame {
    let open = |gates: &[f32]| gates.iter().filter(|gate| **gate > 0.5).count();
    let heads: usize = snapshot.heads.iter().map(|layer| open(layer)).sum();
    let all: usize = snapshot.heads.iter().map(Vec::len).sum();
    let layers = |chosen: &dyn Fn(f32, bool) -> bool| {
        let gates = snapshot.layers.iter().zip(&snapshot.kept_layers).enumerate();
        ranges(&gates.filter(|(_, (gate, kept))| chosen(**gate, **kept)).map(|(layer, _)| layer).collect::<Vec<_>>())
    };
    let hidden = f64::from(snapshot.hidden.iter().sum::<f32>()) / 10.0;
    let undecided: u64 = snapshot.undecided.values().sum();
    let mut numbers = vec![
        // What the cut would do is one thing, how far the gates are another; both have their own name.
        ("layers that the cut removes".to_string(), layers(&|_, kept| !kept)),
        ("kept layers with a gate below 0.5".to_string(), layers(&|gate, kept| kept && gate < 0.5)),
        ("heads with a gate above 0.5".to_string(), format!("{heads} of {all}")),
        ("mean gate of hidden dimensions".to_string(), Unit::Plain.text(hidden)),
        ("undecided units".to_string(), Unit::Count.text(undecided as f64)),
        ("expected sparsity".to_string(), Unit::Percent.text(snapshot.expected_sparsity)),
    ];
    // Never left out: the page fills the numbers in by their place.
    numbers.push(("expected parameters".to_string(), Unit::Count.optional(snapshot.expected_parameters)));
    HeatFrame { step: snapshot.step, cells, numbers }
}

fn survivors(survivors: &Survivors) -> NamedTable {
    let source = &survivors.source;
    let index = |numbers: &[i64]| ranges(&numbers.iter().filter_map(|n| usize::try_from(*n).ok()).collect::<Vec<_>>());
    let layer = |number: i64| {
        let kept = survivors.layers.iter().find(|layer| layer.source_layer == number);
        match kept {
            None => vec![number.to_string(), "removed".into(), "–".into(), "–".into(), "–".into()],
            Some(layer) => vec![
                number.to_string(),
                format!("layer {}", layer.becomes),
                format!("{} of {}", layer.heads.len(), source.num_attention_heads),
                index(&layer.heads),
                format!("{} of {}", grouped(layer.intermediate as i64), grouped(source.intermediate_size)),
            ],
        }
    };
    let header =
        ["layer of the source", "becomes", "query heads", "kept heads", "MLP units"].map(String::from).to_vec();
    let rows = (0..source.num_hidden_layers.clamp(0, 1000)).map(layer).collect();
    let title = format!("What is kept, by the masks of step {}", Unit::Count.text(survivors.step as f64));
    NamedTable { title, table: DataTable { header, rows }, folded: source.num_hidden_layers > 16 }
}
