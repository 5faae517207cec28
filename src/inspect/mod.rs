//! What was learned, as data: the state of masks and the history of a run. Printing is the commands' part.

pub mod live;
pub mod masks;
pub mod run;

pub use masks::MaskSummary;
pub use run::RunSummary;
