//! Whether other processes compute while something is measured here: a rate that was measured then is too low.
//!
//! Read off `/proc/stat`, whose first lines count the ticks of all CPUs, and `/proc/self/stat`, which counts our own. With
//! c CPUs, t threads of ours and o CPUs taken by others, t + o > c says that somebody waited. Ticks that a hypervisor took
//! away (steal) are others'. Other systems do not tell; there nothing is said.

use std::fs::read_to_string;

/// Share of the threads' time that may go to others before a measurement is doubted.
const TOLERATED: f64 = 0.1;
/// Ticks of a CPU below which nothing can be said: they count hundredths of a second.
const LEAST_TICKS: f64 = 20.0;

/// The counters when a measurement begins.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    begun: Option<Ticks>,
}

impl Watch {
    /// Begins now.
    pub fn begin() -> Watch {
        Watch { begun: Ticks::read() }
    }

    /// What others took since then from a measurement with `threads` threads; `None` if it had the CPUs it asked for, or if
    /// the system does not tell.
    pub fn contention(&self, threads: usize) -> Option<Contention> {
        Ticks::read()?.since(&self.begun?)?.contention(threads as f64)
    }
}

/// How busy the machine was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contention {
    /// CPUs that other processes took, on average.
    pub others: f64,
    /// CPUs that there are.
    pub cpus: usize,
}

impl std::fmt::Display for Contention {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "others took {:.1} of {} CPUs", self.others, self.cpus)
    }
}

/// Ticks since the machine, or the process, started.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    /// Of all CPUs together, idle ones with them.
    all: f64,
    idle: f64,
    own: f64,
    cpus: usize,
}

impl Ticks {
    fn read() -> Option<Ticks> {
        Ticks::of(&read_to_string("/proc/stat").ok()?, &read_to_string("/proc/self/stat").ok()?)
    }

    /// From the text of both files (proc(5)).
    fn of(stat: &str, own: &str) -> Option<Ticks> {
        let numbers = |line: &str| line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        let mut lines = stat.lines().take_while(|line| line.starts_with("cpu"));
        // user nice system idle iowait irq softirq steal; what guests take is in user already.
        let counted: Vec<f64> = numbers(lines.next()?);
        let counted = counted.get(..8)?;
        // The name of the program is in brackets and may hold anything; utime and stime are 14th and 15th.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Ticks {
            all: counted.iter().sum(),
            idle: counted[3] + counted[4],
            own: ticks(11)? + ticks(12)?,
            cpus: lines.count(),
        })
    }

    fn since(&self, begun: &Ticks) -> Option<Ticks> {
        let passed = Ticks {
            all: self.all - begun.all,
            idle: self.idle - begun.idle,
            own: self.own - begun.own,
            cpus: self.cpus,
        };
        (self.cpus > 0 && passed.all >= LEAST_TICKS * self.cpus as f64).then_some(passed)
    }

    fn contention(&self, threads: f64) -> Option<Contention> {
        let one = self.all / self.cpus as f64;
        let others = ((self.all - self.idle - self.own) / one).max(0.0);
        let missing = threads + others - self.cpus as f64;
        (missing > TOLERATED * threads).then_some(Contention { others, cpus: self.cpus })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two CPUs for ten seconds: `idle` ticks of them idle, `own` ours, the rest others'.
    fn passed(idle: u64, own: u64) -> Option<Ticks> {
        let stat = |busy: u64, idle: u64| {
            format!("cpu  {busy} 0 20 {idle} 0 0 0 30 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2\nintr 5\n")
        };
        let own_stat = |own: u64| format!("7 (a ) b) R 1 2 3 4 5 6 7 8 9 10 {own} 5 0 0 20 0\n");
        let begun = Ticks::of(&stat(100, 200), &own_stat(40)).unwrap();
        let ended = Ticks::of(&stat(100 + 2000 - idle, 200 + idle), &own_stat(40 + own)).unwrap();
        ended.since(&begun)
    }

    #[test]
    fn what_neither_idles_nor_is_ours_is_others() {
        assert_eq!(passed(0, 1200).unwrap().contention(2.0), Some(Contention { others: 0.8, cpus: 2 }));
        assert_eq!(passed(0, 1950).unwrap().contention(2.0), None, "a little is always going on");
        assert_eq!(passed(1000, 1000).unwrap().contention(1.0), None, "a thread that has a CPU to itself");
        assert_eq!(passed(200, 1000).unwrap().contention(1.0), None, "others on the other CPU");
        assert!(passed(0, 600).unwrap().contention(1.0).is_some());
    }

    #[test]
    fn too_little_and_too_short_says_nothing() {
        let nothing = Ticks { all: 1000.0, idle: 500.0, own: 100.0, cpus: 2 };
        assert_eq!(nothing.since(&nothing), None);
        assert_eq!(Ticks::of("", "1 (a) R"), None);
        assert_eq!(Ticks::of("cpu 1 2 3", "1 (a) R 1 2 3 4 5 6 7 8 9 10 1 2 3"), None);
    }

    #[test]
    fn this_system_is_read() {
        if cfg!(target_os = "linux") {
            assert!(Ticks::read().is_some_and(|ticks| ticks.cpus > 0 && ticks.all >= ticks.own));
        }
    }
}
