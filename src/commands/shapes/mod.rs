//! Shapes for a small model: from a need (so many parameters, so much memory, so little time per token) to shapes that the
//! source can be pruned to and that other tools load. `init` takes the first of them, `plan` lists several.
//!
//! ```text
//! need ─► search (of all sizes in a room, the one in the source's proportions) ─► wish (the one shape of init)
//!                                                                             └► proposals (several characters, in order)
//! ```

mod error;
mod need;
mod proposals;
mod search;
mod sizes;
#[cfg(test)]
mod test_models;
mod wish;

pub(super) use need::{Need, Serving, milliseconds};
pub(super) use proposals::{Proposal, propose};
pub(super) use wish::{Wish, find};
