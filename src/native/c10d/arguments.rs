//! Arguments of c10d's functions as C takes them.

use std::ffi::CString;
use std::time::Duration;
use tch::TchError;

/// Milliseconds, as c10d counts time.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Text with its zero byte.
pub(super) fn text(text: &str) -> Result<CString, TchError> {
    CString::new(text).map_err(|_| TchError::Torch(format!("{text:?} has a zero byte in it")))
}
