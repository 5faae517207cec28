//! A question as the model is asked it.

/// A context and the choices that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub context: String,
    pub choices: Vec<String>,
    pub label: usize,
}
