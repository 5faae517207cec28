//! How many threads libtorch computes with, and why that many.
//!
//! libtorch takes one thread per physical core, which is right on a machine of one's own. In a container whose CPU time
//! is limited, or under `taskset`, more threads than the share they may run on wait for one another at the end of every
//! operation. So unless somebody asks for a number, it is the smallest of: libtorch's own, the physical cores among the
//! CPUs that this process may use, and what the limit of its control group comes to.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

/// Variables by which a user chooses the number before the program starts; libtorch has read them already.
const VARIABLES: [&str; 2] = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"];

/// The number of threads, and where it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Threads of every operation.
    pub count: usize,
    /// What decided.
    pub reason: Reason,
    /// CPUs that this process has a right to.
    pub available: usize,
}

/// What decided the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `--threads`.
    Asked,
    /// libtorch, which has read this variable; it takes no more threads than there are physical cores.
    Variable(&'static str),
    /// The control group's limit of CPU time, as containers have it.
    Quota,
    /// The CPUs that the process may run on (`taskset`, cpusets).
    Affinity,
    /// One per physical core.
    Cores,
    /// libtorch takes fewer than there are cores.
    Libtorch,
    /// Several ranks of a run are on this machine.
    Shared(usize),
}

/// The ranks of a run that are on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// How many.
    pub ranks: usize,
    /// Whether their launcher may give each of them CPUs of its own.
    pub may_bind: bool,
    /// Whether their launcher sets `OMP_NUM_THREADS` to 1 where the user has not set it, as torchrun does.
    pub sets_one_thread: bool,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Reason::Asked => f.write_str("--threads"),
            Reason::Variable(name) => write!(f, "{name}, physical cores at most"),
            Reason::Quota => f.write_str("the CPU limit of the container or control group"),
            Reason::Affinity => f.write_str("one per physical core of the CPUs that taskset or a cpuset allows"),
            Reason::Cores => f.write_str("one per physical core"),
            Reason::Libtorch => f.write_str("libtorch's default"),
            Reason::Shared(ranks) => write!(f, "one per physical core, shared by {ranks} ranks"),
        }
    }
}

/// Computes with `asked` threads, or with as many as suit this machine and the ranks that share it.
pub fn choose(asked: Option<NonZeroUsize>, sharing: Option<Sharing>) -> Threads {
    let machine = Machine::read();
    let launcher_set = sharing.is_some_and(|sharing| sharing.ranks > 1 && sharing.sets_one_thread);
    let is_told = |name: &&str| {
        let value = std::env::var(name).unwrap_or_default();
        let set_by_launcher = launcher_set && *name == "OMP_NUM_THREADS" && value == "1";
        !(value.is_empty() || set_by_launcher)
    };
    let variable = VARIABLES.into_iter().find(is_told);
    let libtorch = count();
    let threads = match sharing {
        Some(sharing) if asked.is_none() && variable.is_none() => machine.share(sharing),
        _ => machine.choose(asked, variable, libtorch),
    };
    if threads.count != libtorch {
        set(threads.count);
    }
    threads
}

/// Computes with `count` threads from here on.
pub fn set(count: usize) {
    tch::set_num_threads(i32::try_from(count).unwrap_or(i32::MAX));
}

/// How many threads there are now.
pub fn count() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// The same in words: `2 threads`.
pub fn in_words() -> String {
    let count = count();
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

/// CPUs that this process has a right to.
pub fn available() -> usize {
    Machine::read().available
}

/// CPUs, counted in four ways.
#[derive(Clone, Copy, Debug)]
struct Machine {
    online: usize,
    /// Those that the process may run on.
    allowed: usize,
    /// The physical cores of those.
    cores: usize,
    /// The allowed ones, or fewer where a control group limits CPU time.
    available: usize,
}

impl Machine {
    fn read() -> Machine {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = allowed_cpus();
        let online = online_cpus().unwrap_or(available);
        match allowed.is_empty() {
            true => Machine { online, allowed: available, cores: available, available },
            false => {
                let cores = physical_cores(&allowed, Path::new("/sys/devices/system/cpu"));
                Machine { online, allowed: allowed.len(), cores, available }
            }
        }
    }

    fn choose(&self, asked: Option<NonZeroUsize>, variable: Option<&'static str>, libtorch: usize) -> Threads {
        let (count, reason) = match (asked, variable) {
            (Some(asked), _) => (asked.get(), Reason::Asked),
            (None, Some(name)) => (libtorch, Reason::Variable(name)),
            (None, None) => self.default_count(libtorch),
        };
        Threads { count: count.max(1), reason, available: self.available }
    }

    /// The part of one of several ranks.
    fn share(&self, sharing: Sharing) -> Threads {
        let (ranks, available) = (sharing.ranks.max(1), self.available);
        let (own, reason) = self.default_count(self.cores);
        // Bound already: what it may use is its own.
        if ranks == 1 || (sharing.may_bind && self.allowed < self.online) {
            return Threads { count: own.max(1), reason, available };
        }
        Threads { count: (own / ranks).max(1), reason: Reason::Shared(ranks), available }
    }

    fn default_count(&self, libtorch: usize) -> (usize, Reason) {
        let count = libtorch.min(self.cores).min(self.available);
        let reason = if count == self.available && self.available < self.allowed {
            Reason::Quota
        } else if count == self.cores {
            if self.allowed < self.online { Reason::Affinity } else { Reason::Cores }
        } else {
            Reason::Libtorch
        };
        (count, reason)
    }
}

/// Numbers of the CPUs that this process may run on; none where the system does not tell.
#[cfg(target_os = "linux")]
fn allowed_cpus() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[cfg(not(target_os = "linux"))]
fn allowed_cpus() -> Vec<usize> {
    Vec::new()
}

fn online_cpus() -> Option<usize> {
    // SAFETY: it reads a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok().filter(|count| *count > 0)
}

/// How many cores these CPUs are: two hardware threads of one core name the same siblings. Without that knowledge each
/// CPU is a core.
fn physical_cores(cpus: &[usize], system: &Path) -> usize {
    let siblings = |cpu: &usize| {
        let file = system.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        std::fs::read_to_string(file).unwrap_or_else(|_| format!("{cpu}\n"))
    };
    cpus.iter().map(siblings).collect::<BTreeSet<String>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPTOP: Machine = Machine { online: 8, allowed: 8, cores: 4, available: 8 };

    fn default_of(machine: Machine, libtorch: usize) -> (usize, Reason) {
        let threads = machine.choose(None, None, libtorch);
        (threads.count, threads.reason)
    }

    #[test]
    fn unasked_it_is_one_thread_per_physical_core() {
        assert_eq!(default_of(LAPTOP, 8), (4, Reason::Cores));
        assert_eq!(default_of(LAPTOP, 4), (4, Reason::Cores));
        assert_eq!(default_of(LAPTOP, 3), (3, Reason::Libtorch));
    }

    #[test]
    fn a_limit_of_a_container_and_an_affinity_count() {
        assert_eq!(default_of(Machine { available: 2, ..LAPTOP }, 4), (2, Reason::Quota));
        assert_eq!(default_of(Machine { available: 6, ..LAPTOP }, 4), (4, Reason::Cores));
        let bound = Machine { allowed: 2, cores: 1, available: 2, ..LAPTOP };
        assert_eq!(default_of(bound, 4), (1, Reason::Affinity));
    }

    #[test]
    fn who_asks_gets_what_was_asked_for() {
        let asked = LAPTOP.choose(NonZeroUsize::new(16), Some("OMP_NUM_THREADS"), 3);
        assert_eq!((asked.count, asked.reason, asked.available), (16, Reason::Asked, 8));
        let variable = LAPTOP.choose(None, Some("OMP_NUM_THREADS"), 3);
        assert_eq!((variable.count, variable.reason), (3, Reason::Variable("OMP_NUM_THREADS")));
    }

    #[test]
    fn ranks_share_the_cores_unless_each_has_its_own() {
        let sharing = Sharing { ranks: 2, may_bind: false, sets_one_thread: true };
        let share = |machine: Machine, sharing| {
            let threads = machine.share(sharing);
            (threads.count, threads.reason)
        };
        assert_eq!(share(LAPTOP, sharing), (2, Reason::Shared(2)));
        assert_eq!(share(LAPTOP, Sharing { ranks: 8, ..sharing }), (1, Reason::Shared(8)));
        assert_eq!(share(LAPTOP, Sharing { ranks: 1, ..sharing }), (4, Reason::Cores));
        let bound = Machine { allowed: 4, cores: 2, available: 4, ..LAPTOP };
        assert_eq!(share(bound, sharing), (1, Reason::Shared(2)), "a cpuset around all of them");
        assert_eq!(share(bound, Sharing { may_bind: true, ..sharing }), (2, Reason::Affinity));
    }

    #[test]
    fn two_hardware_threads_of_a_core_are_one_core() {
        let system = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            let folder = system.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("thread_siblings_list"), format!("{siblings}\n")).unwrap();
        }
        let cores = |cpus: &[usize]| physical_cores(cpus, system.path());
        assert_eq!((cores(&[0, 1, 2, 3]), cores(&[0, 2]), cores(&[1])), (2, 1, 1));
        assert_eq!(cores(&[7, 8]), 2, "what the system does not tell");
    }

    #[test]
    fn this_machine_has_at_least_one_core() {
        let machine = Machine::read();
        assert!(machine.cores >= 1 && machine.cores <= machine.allowed, "{machine:?}");
        assert!(machine.available >= 1 && machine.available <= machine.allowed, "{machine:?}");
    }
}
