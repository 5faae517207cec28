//! torchrun prints the error of the rank that failed first, if that rank has written it into the file that
//! `TORCHELASTIC_ERROR_FILE` names.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes why this process ends where torchrun looks for it. What goes wrong with that is not worth an error beside the
/// first.
pub fn write_error_file(reason: &str) {
    let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE").filter(|path| !path.is_empty()) else { return };
    let _ = std::fs::write(path, error_json(reason).to_string());
}

fn error_json(reason: &str) -> serde_json::Value {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    serde_json::json!({
        "message": { "message": reason, "extraInfo": { "py_callstack": "", "timestamp": seconds.to_string() } }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reason_is_where_torchrun_reads_it() {
        let file = super::error_json("no memory");
        assert_eq!(file["message"]["message"], "no memory");
        let written: u64 = file["message"]["extraInfo"]["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(written > 1_700_000_000, "seconds since 1970: {written}");
    }
}
