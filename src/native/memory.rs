//! Memory of this process as the operating system counts it.

/// Largest resident size so far, in bytes; known on Linux only. Memory of a GPU is not in it.
pub fn peak_memory_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Resident memory that is no file's, now, in bytes; known on Linux only. Pages of mapped weights are not in it: the
/// system takes those back when it needs them.
pub fn anonymous_bytes() -> Option<u64> {
    status_bytes("RssAnon:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_peak_grows_with_what_is_used() {
        let before = super::peak_memory_bytes().unwrap();
        let block = vec![1u8; before as usize + (64 << 20)];
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(super::peak_memory_bytes().unwrap() > before);
    }

    #[test]
    fn anonymous_memory_grows_with_what_is_used() {
        let before = super::anonymous_bytes().unwrap();
        // Far more than other tests give back meanwhile.
        let block = vec![1u8; 256 << 20];
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(super::anonymous_bytes().unwrap() > before + (64 << 20));
    }
}
