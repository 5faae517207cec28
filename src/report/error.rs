//! How a report can fail. A run folder with gaps is no failure: what is missing is said in the report.

use std::path::PathBuf;

/// An error of making, drawing or serving a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder is no run.
    #[error(transparent)]
    Run(#[from] crate::inspect::Error),
    /// The system refused, or a file could not be written.
    #[error(transparent)]
    File(#[from] crate::files::Error),
    /// A file given beside the runs is not what it should be.
    #[error("`{}` is not the output of `{made_by}`: {problem}", path.display())]
    Side {
        /// The file.
        path: PathBuf,
        /// The command that writes such files.
        made_by: &'static str,
        /// Key, what was expected, what was found.
        problem: String,
    },
    /// Another file of this program in the place of the one that an option takes.
    #[error("`{}` is {kind}: {advice}. {option} takes the output of `{made_by}`", path.display())]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// Where it belongs.
        advice: &'static str,
        /// The option it was given to.
        option: &'static str,
        /// The command that writes files for that.
        made_by: &'static str,
    },
    /// A file given beside the runs cannot be opened or read.
    #[error("cannot open `{}`: {source}; it has to be a file with the output of `{made_by}`", path.display())]
    SideUnreadable {
        /// The file.
        path: PathBuf,
        /// The command that writes such files.
        made_by: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A figure could not be turned into pixels.
    #[error("cannot draw figure `{figure}`: {problem}")]
    Drawing {
        /// Its name.
        figure: String,
        /// What the renderer said.
        problem: String,
    },
    /// The address could not be taken.
    #[error("cannot serve on 127.0.0.1:{port}: {problem}; choose another port, or 0 for any free one")]
    Serve {
        /// The port asked for.
        port: u16,
        /// The system's reason.
        problem: String,
    },
}
