//! Stories of the domains from an evaluation file: where no run evaluated source and cut on the same rows, `shearling eval
//! SOURCE CUT CONTINUED` did. All models of a file are evaluated on the same rows.

use crate::inspect::DomainStory;
use crate::report::lineage::RunView;
use crate::report::measured::{Part, part_in};
use crate::report::side_files::{EvalFile, EvalModel};

/// What the file tells of `line`, one of the lines of `all`: the first model that its runs wrote is the cut, the last one
/// where it stands now. Empty where the file lacks the source or the cut.
pub(super) fn stories(line: &[&RunView], all: &[RunView], file: Option<&EvalFile>) -> Vec<DomainStory> {
    let Some(file) = file else { return Vec::new() };
    let of = |part: Part| {
        let own =
            file.models.iter().filter(move |model| part_in(line, all, &model.model, model.parameters) == Some(part));
        own.collect::<Vec<&EvalModel>>()
    };
    let (source, written) = (of(Part::Source), of(Part::Written));
    let (Some(source), Some(cut)) = (source.first(), written.first()) else { return Vec::new() };
    let last = written.last().filter(|_| written.len() > 1);
    let loss = |model: &EvalModel, name: &str| {
        let domain = model.domains.iter().find(|domain| domain.domain == name)?;
        Some((domain.loss?, domain.standard_error))
    };
    let story = |name: &str| {
        let last = last.and_then(|last| loss(last, name));
        Some(DomainStory::of_one_evaluation(name, loss(source, name)?, loss(cut, name)?, last))
    };
    source.domains.iter().filter_map(|domain| story(&domain.domain)).collect()
}
