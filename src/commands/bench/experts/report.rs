//! What `bench experts` prints.

use super::clock::median;
use crate::cli::table::{Table, bytes};
use crate::commands::place::{dtype_name, place};
use crate::native::runtime::contention::Contention;
use crate::native::runtime::threads;
use serde_json::{Value, json};
use tch::{Device, Kind};

/// One density, or the dense side.
pub(super) struct Row {
    /// Share of the experts that was asked for; `None`: the dense side.
    pub(super) density: Option<f64>,
    /// Bytes that a step reads, the mean over all.
    pub(super) bytes: f64,
    /// Seconds of each step.
    pub(super) seconds: Vec<f64>,
    /// Seconds of the dense side's step beside it.
    pub(super) dense_seconds: Vec<f64>,
}

impl Row {
    fn times_dense(&self) -> f64 {
        median(self.seconds.iter().zip(&self.dense_seconds).map(|(own, dense)| dense / own).collect())
    }
}

/// All rows, and what memory gave meanwhile.
pub(super) struct Measured {
    pub(super) rows: Vec<Row>,
    /// Bytes per second.
    pub(super) bandwidth: Vec<f64>,
}

/// The whole result.
pub(super) struct ExpertsReport {
    pub(super) shape: &'static str,
    pub(super) whole: bool,
    pub(super) kind: Kind,
    pub(super) device: Device,
    pub(super) measured: Measured,
    pub(super) busy: Option<Contention>,
}

impl ExpertsReport {
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(["density", "ms", "fastest", "× dense", "bytes", "GB/s", "of the limit"]);
        let bandwidth = self.bandwidth();
        for row in &self.measured.rows {
            let seconds = median(row.seconds.clone());
            table.row([
                row.density.map_or("dense".to_string(), |density| format!("{density}")),
                format!("{:.2}", 1e3 * seconds),
                format!("{:.2}", 1e3 * row.seconds.iter().copied().fold(f64::INFINITY, f64::min)),
                format!("{:.2}", row.times_dense()),
                bytes(row.bytes),
                format!("{:.1}", row.bytes / seconds / 1e9),
                format!("{:.0} %", 100.0 * row.bytes / seconds / bandwidth),
            ]);
        }
        let what = if self.whole { "a token of the whole model" } else { "a feed-forward block" };
        format!(
            "{table}\n{}: {what}, {}, {}; memory bandwidth {:.1} GB/s\n",
            self.shape,
            place(self.kind, self.device),
            threads::in_words(),
            bandwidth / 1e9
        )
    }

    pub(super) fn json(&self) -> Value {
        let bandwidth = self.bandwidth();
        let row = |row: &Row| {
            let seconds = median(row.seconds.clone());
            json!({
                "density": row.density,
                "seconds": seconds,
                "times_dense": row.times_dense(),
                "bytes": row.bytes,
                "fraction_of_bandwidth": row.bytes / seconds / bandwidth,
                "steps": row.seconds.len(),
            })
        };
        json!({
            "shape": self.shape,
            "whole": self.whole,
            "dtype": dtype_name(self.kind),
            "threads": tch::get_num_threads(),
            "cpus_taken_by_others": self.busy.map(|busy| busy.others),
            "memory_bandwidth_bytes_per_second": bandwidth,
            "rows": self.measured.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn bandwidth(&self) -> f64 {
        median(self.measured.bandwidth.clone())
    }
}
