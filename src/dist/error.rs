//! Why processes do not come, stay or agree together.

use crate::words::counted;
use tch::TchError;

/// What went wrong between the processes of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Variables of the environment that do not describe a process of a run.
    #[error("{launcher}: {problem}")]
    Environment {
        /// Who set them.
        launcher: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The store in which the processes find each other.
    #[error(
        "rank {rank} of {size} cannot {action} the store at {address}:{port} ({problem}). Rank 0 serves it (under torchrun its \
         agent): look whether that one runs, and whether MASTER_ADDR and MASTER_PORT are the same everywhere and can be reached"
    )]
    Store {
        /// This process.
        rank: usize,
        /// All.
        size: usize,
        /// `serve` or `reach`.
        action: &'static str,
        /// Host.
        address: String,
        /// Port.
        port: u16,
        /// What libtorch says.
        problem: String,
    },
    /// Processes that never came.
    #[error("{} of {size} did not come within {seconds} s (dist.timeout_seconds)", ranks(missing))]
    Absent {
        /// Their ranks.
        missing: Vec<usize>,
        /// All.
        size: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// A process that could not be connected to the others.
    #[error(
        "rank {rank} of {size} cannot be connected to the others ({problem}). Of several network interfaces \
         GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the one to use"
    )]
    Connection {
        /// This process.
        rank: usize,
        /// All.
        size: usize,
        /// What libtorch says.
        problem: String,
    },
    /// A process that ended, and said why.
    #[error("rank {rank} ended: {reason}")]
    Ended {
        /// Its rank.
        rank: usize,
        /// Its own words.
        reason: String,
    },
    /// Processes that no longer answer.
    #[error(
        "{} of {size} no longer {}: killed, ended without a word, hung or out of reach (found in {what}: {problem})",
        ranks(silent),
        if silent.len() == 1 { "answers" } else { "answer" }
    )]
    Silent {
        /// Their ranks.
        silent: Vec<usize>,
        /// All.
        size: usize,
        /// What was being done.
        what: &'static str,
        /// What libtorch says.
        problem: String,
    },
    /// Processes that are there and did not come to a collective.
    #[error(
        "{what} failed ({problem}): {} of {size} {} alive and did not come to it; busy for longer than \
         dist.timeout_seconds, or hung",
        ranks(busy),
        if busy.len() == 1 { "is" } else { "are" }
    )]
    Busy {
        /// Their ranks.
        busy: Vec<usize>,
        /// All.
        size: usize,
        /// What was being done.
        what: &'static str,
        /// What libtorch says.
        problem: String,
    },
    /// A collective that failed although every process is there.
    #[error("{what} failed among {}, which all answer: {problem}", counted(*size as u64, "rank"))]
    Collective {
        /// All.
        size: usize,
        /// What was being done.
        what: &'static str,
        /// What libtorch says.
        problem: String,
    },
    /// A tensor that cannot be sent as it lies.
    #[error("{what}: {problem}")]
    Tensor {
        /// The collective.
        what: &'static str,
        /// What was expected and found.
        problem: String,
    },
    /// Something that must be the same for all ranks.
    #[error("rank {rank} has another {what} than rank 0: {there:?}, where rank 0 has {here:?}. {remedy}")]
    Differs {
        /// What.
        what: String,
        /// Of the rank that differs.
        rank: usize,
        /// Of rank 0.
        here: String,
        /// Of the other.
        there: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something that rank 0 tells, and that cannot be read.
    #[error("what rank 0 told cannot be read ({0}); are the programs of all ranks the same?")]
    Garbled(String),
}

/// Ranks in words: `rank 3`, `ranks 1, 2`.
fn ranks(all: &[usize]) -> String {
    let shown = all.iter().take(8).map(usize::to_string).collect::<Vec<_>>().join(", ");
    let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
    format!("rank{} {shown}{more}", if all.len() == 1 { "" } else { "s" })
}

/// What libtorch says, without the stack of calls that follows it.
pub(super) fn first_line(problem: &TchError) -> String {
    let text = match problem {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_one_or_many() {
        let silent = |silent: Vec<usize>| {
            Error::Silent { silent, size: 16, what: "all_reduce", problem: "closed".into() }.to_string()
        };
        assert!(silent(vec![3]).starts_with("rank 3 of 16 no longer answers: "));
        assert!(silent(vec![3, 4]).starts_with("ranks 3, 4 of 16 no longer answer: "));
        assert!(silent((0..10).collect()).starts_with("ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more of 16"));
    }
}
