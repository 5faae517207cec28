//! What writing a pruned model cost, for the line that the user sees and for benchmarks.

use crate::native::runtime::memory::anonymous_bytes;
use std::fmt;
use std::time::{Duration, Instant};

/// Bytes, time and memory of one conversion, from the first weight read to the last one flushed to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transfer {
    /// Bytes of the source's kept rows.
    pub read_bytes: u64,
    /// Bytes of the new weights.
    pub written_bytes: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// Largest anonymous memory (all that is not a mapped file) of the process after any weight; known on Linux only.
    pub peak_anonymous_bytes: Option<u64>,
}

impl Transfer {
    /// Bytes read and written per second.
    pub fn bytes_per_second(&self) -> f64 {
        (self.read_bytes + self.written_bytes) as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Adds one weight; its buffers are still there.
    pub(super) fn add(&mut self, read_bytes: u64, written_bytes: u64) {
        self.read_bytes += read_bytes;
        self.written_bytes += written_bytes;
        self.peak_anonymous_bytes = self.peak_anonymous_bytes.max(anonymous_bytes());
    }

    /// Takes the time.
    pub(super) fn since(mut self, start: Instant) -> Transfer {
        self.elapsed = start.elapsed();
        self
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let giga = |bytes: u64| bytes as f64 / 1e9;
        let (read, written, seconds) = (giga(self.read_bytes), giga(self.written_bytes), self.elapsed.as_secs_f64());
        let rate = self.bytes_per_second() / 1e9;
        write!(f, "weights folded: {read:.2} GB read and {written:.2} GB written in {seconds:.1} s ({rate:.2} GB/s)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_add_up_and_the_peak_stays() {
        let mut transfer = Transfer { peak_anonymous_bytes: Some(u64::MAX), ..Default::default() };
        transfer.add(3_000_000_000, 1_000_000_000);
        transfer.add(1_000_000_000, 500_000_000);
        transfer.elapsed = Duration::from_secs(2);
        assert_eq!(transfer.bytes_per_second(), 2.75e9);
        assert_eq!(transfer.peak_anonymous_bytes, Some(u64::MAX));
        // A run ends with one peak of memory, its own.
        assert_eq!(transfer.to_string(), "weights folded: 4.00 GB read and 1.50 GB written in 2.0 s (2.75 GB/s)");
    }
}
