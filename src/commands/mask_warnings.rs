//! What the masks leave undecided when they are cut: said in a line each, never silently.

use crate::cli::Printer;
use crate::words::counted;
use shearling_masks::{MaskReport, ModuleReport, UnitList, UnitValue};
use std::path::Path;

/// Units that a line names; `inspect masks` has all.
const NAMED: usize = 3;

/// Warns of kept units that are half-alive and of removed ones that are still open; notes the removed layers.
pub(super) fn report_masks(report: &MaskReport, run: &Path, printer: &Printer) {
    let half_alive = line(report, run, |module| &module.half_alive, "kept", "half-alive (gate below 0.5)");
    let still_open = line(report, run, |module| &module.still_open, "removed", "still open (gate above 0.5)");
    half_alive.into_iter().chain(still_open).for_each(|warning| printer.warn(warning));
    if !report.removed_layers.is_empty() {
        let layers = report.removed_layers.iter().map(shown).collect::<Vec<_>>().join(", ");
        printer.note(format!("layers removed: {layers}"));
    }
}

/// One line about the units that `list` gives of each mask.
fn line(
    report: &MaskReport,
    run: &Path,
    list: impl Fn(&ModuleReport) -> &UnitList,
    what: &str,
    state: &str,
) -> Option<String> {
    let lists: Vec<&UnitList> = report.modules.iter().map(list).filter(|list| list.count > 0).collect();
    let count: u64 = lists.iter().map(|list| list.count).sum();
    if count == 0 {
        return None;
    }
    // The worst of each mask in turn, so that every kind of unit is seen.
    let longest = lists.iter().map(|list| list.worst.len()).max().unwrap_or(0);
    let worst = (0..longest).flat_map(|rank| lists.iter().filter_map(move |list| list.worst.get(rank)));
    let named: Vec<String> = worst.take(NAMED).map(shown).collect();
    let more = match count.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!("; {more} more: shearling inspect masks {}", run.display()),
    };
    Some(format!("{} {state}: {}{more}", counted(count, &format!("{what} unit")), named.join(", ")))
}

fn shown(unit: &UnitValue) -> String {
    format!("{} = {:.3}", unit.name, unit.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shearling_masks::UnitKind;

    fn module(half_alive: &[(&str, f64)]) -> ModuleReport {
        let worst =
            half_alive.iter().map(|(name, value)| UnitValue { name: name.to_string(), value: *value }).collect();
        let empty = UnitList { count: 0, worst: Vec::new() };
        ModuleReport {
            module: UnitKind::Hidden,
            rows: 1,
            size: 8,
            target: 4,
            survivors: Vec::new(),
            undecided: Vec::new(),
            kept: 4,
            half_alive: UnitList { count: half_alive.len() as u64, worst },
            still_open: empty,
            expected_sparsity: 0.5,
            target_sparsity: 0.5,
            histogram: Default::default(),
        }
    }

    #[test]
    fn a_line_names_the_worst_of_every_mask_and_counts_the_rest() {
        let hidden = module(&[("hidden 1", 0.01), ("hidden 2", 0.02), ("hidden 3", 0.03)]);
        let heads = module(&[("layer 0 kv_head 1", 0.2)]);
        let told = |modules| {
            let report = MaskReport { modules, removed_layers: Vec::new() };
            line(&report, Path::new("runs/a"), |module| &module.half_alive, "kept", "half-alive")
        };
        assert_eq!(
            told(vec![hidden, heads.clone()]).unwrap(),
            "4 kept units half-alive: hidden 1 = 0.010, layer 0 kv_head 1 = 0.200, hidden 2 = 0.020; 1 more: shearling \
             inspect masks runs/a"
        );
        assert_eq!(told(vec![heads]).unwrap(), "1 kept unit half-alive: layer 0 kv_head 1 = 0.200");
        assert_eq!(told(vec![module(&[])]), None);
    }
}
