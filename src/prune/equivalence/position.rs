//! Where two models are compared, and when they are too far apart.

use serde::Serialize;
use std::fmt::{self, Display, Formatter};

/// A position of the check rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// Name of the row.
    pub row: String,
    /// Index of the token in it.
    pub token: i64,
}

impl Display for Position {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}, token {}", self.row, self.token)
    }
}

/// Whether `value` is above `bound`; a NaN is.
pub(super) fn exceeds(value: f64, bound: f64) -> bool {
    value.is_nan() || value > bound
}
