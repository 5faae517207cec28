//! What was learned, as data: the state of masks and the history of a run. Printing is the commands' part, pictures are
//! the report's.

pub mod agreement;
pub mod columns;
mod error;
pub mod evaluations;
pub mod events;
pub mod held_out;
pub mod history;
mod lines;
pub mod live;
pub mod locate;
pub mod mask_rows;
mod mask_timeline;
pub mod masks;
pub mod notes;
mod one_shot;
pub mod parameters;
mod recorded;
pub mod run;
mod runs_inside;
pub mod settling;
pub mod snapshots;
pub mod story;
pub mod survivors;
pub mod units;
pub mod written;

pub use agreement::{Agreement, ModuleAgreement};
pub use columns::{Column, DomainSteps, ModuleSteps, Steps};
pub use error::Error;
pub use evaluations::{DomainEval, Evaluation, ModulePolarisation};
pub use events::Event;
pub use held_out::HeldOutLoss;
pub use history::RunHistory;
pub use masks::{LayerInspection, MaskInspection};
pub use notes::{Note, Severity};
pub use parameters::{Parameters, Parts};
pub use run::RunSummary;
pub use runs_inside::runs_hint;
pub use settling::{Settled, SettledRow};
pub use snapshots::MaskSnapshot;
pub use story::{DomainStory, Later};
pub use survivors::{SurvivingLayer, Survivors};
pub use written::{WrittenEquivalence, WrittenModel};
