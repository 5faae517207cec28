//! `train.micro_batch_rows`: a number of rows, or as many as memory allows.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const AUTO: &str = "auto";

/// Rows per forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatchRows {
    /// As many as fit the memory of the device. A run resolves it before it starts.
    Auto,
    /// This many.
    Rows(usize),
}

impl From<usize> for MicroBatchRows {
    fn from(rows: usize) -> MicroBatchRows {
        MicroBatchRows::Rows(rows)
    }
}

impl Serialize for MicroBatchRows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MicroBatchRows::Auto => serializer.serialize_str(AUTO),
            MicroBatchRows::Rows(rows) => serializer.serialize_u64(*rows as u64),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchRows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MicroBatchRows, D::Error> {
        struct Rows;

        impl Visitor<'_> for Rows {
            type Value = MicroBatchRows;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                write!(f, "a number of rows or \"{AUTO}\"")
            }

            fn visit_i64<E: Error>(self, rows: i64) -> Result<MicroBatchRows, E> {
                let whole = usize::try_from(rows).map_err(|_| E::invalid_value(Unexpected::Signed(rows), &self))?;
                Ok(MicroBatchRows::Rows(whole))
            }

            fn visit_u64<E: Error>(self, rows: u64) -> Result<MicroBatchRows, E> {
                let whole = usize::try_from(rows).map_err(|_| E::invalid_value(Unexpected::Unsigned(rows), &self))?;
                Ok(MicroBatchRows::Rows(whole))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MicroBatchRows, E> {
                match text {
                    AUTO => Ok(MicroBatchRows::Auto),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Table {
        rows: MicroBatchRows,
    }

    #[test]
    fn a_number_and_auto_come_back_and_nothing_else_is_taken() {
        for (text, rows) in [("rows = 4\n", MicroBatchRows::Rows(4)), ("rows = \"auto\"\n", MicroBatchRows::Auto)] {
            let table: Table = toml::from_str(text).unwrap();
            assert_eq!((table.rows, toml::to_string(&table).unwrap().as_str()), (rows, text));
        }
        for wrong in ["rows = \"all\"", "rows = -1", "rows = 1.5", "rows = true"] {
            let problem = toml::from_str::<Table>(wrong).unwrap_err().to_string();
            assert!(problem.contains("a number of rows or \"auto\""), "{problem}");
        }
    }
}
