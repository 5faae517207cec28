//! The rows on which masked and pruned model are compared.

use tch::Tensor;

/// Token ids with a name for each row.
#[derive(Debug)]
pub struct CheckRows {
    /// `[N, T]` (int64).
    pub ids: Tensor,
    /// What to call each row: `wiki row 0`.
    pub names: Vec<String>,
}

impl CheckRows {
    /// Rows without a domain.
    pub fn unnamed(ids: Tensor) -> CheckRows {
        let rows = ids.size().first().copied().unwrap_or(0);
        CheckRows { ids, names: (0..rows).map(|row| format!("row {row}")).collect() }
    }
}
