//! Rows of each domain: what the run needs and what there is.

use crate::cli::table::{Table, grouped};
use crate::train::Outline;
use serde_json::{Value, json};
use shearling_domains::{Split, rows_needed};

/// What a domain needs and has.
#[derive(Debug)]
pub(super) struct DomainRows {
    pub(super) name: String,
    pub(super) proportion: f64,
    pub(super) needed: u64,
    /// `None` where there is no data yet.
    pub(super) available: Option<u64>,
}

impl DomainRows {
    /// Of every domain that is known.
    pub(super) fn of(outline: &Outline) -> Vec<DomainRows> {
        let (steps, batch_rows) = outline.config.draws();
        let shares: Vec<f64> = outline.domains.iter().map(|(_, share)| *share).collect();
        let needed = rows_needed(&shares, batch_rows, steps);
        let rows = |(index, (name, proportion)): (usize, &(String, f64))| DomainRows {
            name: name.clone(),
            proportion: *proportion,
            needed: needed[index],
            available: outline.dataset.as_ref().map(|dataset| dataset.rows(index, Split::Train)),
        };
        outline.domains.iter().enumerate().map(rows).collect()
    }

    /// How often its rows are seen; no rows at all are seen infinitely often.
    pub(super) fn epochs(&self) -> Option<f64> {
        self.available.map(|available| match (self.needed, available) {
            (0, _) => 0.0,
            (needed, available) => needed as f64 / available as f64,
        })
    }

    pub(super) fn json(&self) -> Value {
        json!({ "domain": self.name, "proportion": self.proportion, "rows_needed": self.needed,
                "rows_available": self.available, "epochs": self.epochs() })
    }
}

/// One line per domain.
pub(super) fn table(domains: &[DomainRows]) -> Table {
    let mut table = Table::new(["domain", "share", "rows needed", "rows available", "epochs"]);
    for domain in domains {
        table.row([
            domain.name.clone(),
            format!("{:.4}", domain.proportion),
            grouped(domain.needed),
            domain.available.map_or("?".to_string(), grouped),
            domain.epochs().map_or("?".to_string(), |epochs| format!("{epochs:.2}")),
        ]);
    }
    table
}
