//! A folder in which a command began and of which nothing but its lock is there: a cut at once before its end, or one that was
//! stopped. Neither can be shown, watched or resumed; whoever is asked to says so in the same words.

use super::layout::{CHECKPOINTS, LOCK, METRICS, MODEL, PRUNED, RESOLVED_CONFIG, SNAPSHOTS};
use super::lock::{Activity, RunLock};
use std::path::Path;

/// What such a folder is and what to do; `None` of any other.
pub fn only_begun(run: &Path) -> Option<String> {
    let written = [RESOLVED_CONFIG, METRICS, CHECKPOINTS, SNAPSHOTS, PRUNED, MODEL];
    if !run.join(LOCK).is_file() || written.iter().any(|name| run.join(name).exists()) {
        return None;
    }
    Some(match RunLock::activity(run) {
        Activity::Process(process) => format!(
            "process {process} is at work in it and has written nothing yet; a cut at once takes no steps and writes {} at its end: \
             wait for that",
            run.join(PRUNED).display()
        ),
        Activity::Nobody => {
            "no process of this machine is at work in it: the command that began in it was stopped before it wrote \
            anything, and there is nothing to resume; give that command again"
                .to_string()
        }
        Activity::Unknown => {
            "a command began in it and has written nothing yet: wait for its end if it still runs, else give it again"
                .to_string()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_alone_is_a_command_at_work_or_a_stopped_one() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(only_begun(run.path()), None);
        let lock = RunLock::acquire(run.path()).unwrap();
        let told = only_begun(run.path()).unwrap();
        let held = format!("process {} is at work", std::process::id());
        // Not every system tells who holds a lock.
        let unknown = RunLock::activity(run.path()) == Activity::Unknown;
        assert!(unknown || (told.contains(&held) && told.contains(PRUNED)), "{told}");
        drop(lock);
        std::fs::write(run.path().join(LOCK), "1").unwrap();
        assert!(only_begun(run.path()).unwrap().contains("again"));
        std::fs::write(run.path().join(RESOLVED_CONFIG), "").unwrap();
        assert_eq!(only_begun(run.path()), None);
    }
}
