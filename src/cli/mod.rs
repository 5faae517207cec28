//! What can be typed, and how answers are printed.
//!
//! Contract: stdout is data (a table, or one JSON object under `--json`), everything else goes to stderr. Exit codes:
//! 0 done, 1 a check said no (doctor, plan, equivalence, verify), 2 an error or bad usage, 130 ended by a signal. A closed pipe is
//! not an error.

pub mod arguments;
pub mod csv;
pub mod heatmap;
pub mod interrupt;
pub mod misplaced;
pub mod printer;
pub mod progress;
pub mod shell;
pub mod sparkline;
pub mod table;
pub mod terminal;
pub mod wrap;

pub use arguments::Cli;
pub use printer::Printer;
pub use terminal::Terminal;
