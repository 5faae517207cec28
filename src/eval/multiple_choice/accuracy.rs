//! From log-likelihoods to accuracies.

use super::file::Question;
use crate::eval::statistics::{Estimate, estimate, paired_difference};

/// What a model scored on one question.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredQuestion {
    /// Log-likelihood of every choice, nats.
    pub log_likelihoods: Vec<f64>,
    /// 1 if the right choice has the highest log-likelihood, else 0.
    pub acc: f64,
    /// 1 if the right choice has the highest log-likelihood per character, else 0.
    pub acc_norm: f64,
}

impl ScoredQuestion {
    pub(super) fn new(question: &Question, log_likelihoods: Vec<f64>) -> ScoredQuestion {
        let lengths = question.choices.iter().map(|choice| choice.chars().count() as f64);
        let per_character: Vec<f64> = log_likelihoods.iter().zip(lengths).map(|(sum, length)| sum / length).collect();
        let right = |scores: &[f64]| f64::from(first_highest(scores) == Some(question.label));
        ScoredQuestion { acc: right(&log_likelihoods), acc_norm: right(&per_character), log_likelihoods }
    }
}

/// Index of the highest score; the first of equal ones, as numpy's argmax.
fn first_highest(scores: &[f64]) -> Option<usize> {
    let better = |best: Option<(usize, f64)>, (index, score): (usize, f64)| match best {
        Some((_, highest)) if score <= highest => best,
        _ => Some((index, score)),
    };
    scores.iter().copied().enumerate().fold(None, better).map(|(index, _)| index)
}

/// Accuracies of one model on one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracies {
    /// Share of right answers.
    pub acc: Estimate,
    /// Share of right answers by length-normalised log-likelihood.
    pub acc_norm: Estimate,
    /// `acc` minus that of `reference`, question by question.
    pub acc_difference: Option<Estimate>,
    /// The same of `acc_norm`.
    pub acc_norm_difference: Option<Estimate>,
}

/// Accuracies over `answers`, compared with those of `reference` to the same questions; `None` without answers.
pub fn accuracies(answers: &[ScoredQuestion], reference: Option<&[ScoredQuestion]>) -> Option<Accuracies> {
    let values = |answers: &[ScoredQuestion]| -> [Vec<f64>; 2] {
        [answers.iter().map(|answer| answer.acc).collect(), answers.iter().map(|answer| answer.acc_norm).collect()]
    };
    let [acc, acc_norm] = values(answers);
    let differences = reference.map(values).map(|[reference, reference_norm]| {
        [paired_difference(&acc, &reference), paired_difference(&acc_norm, &reference_norm)]
    });
    let [acc_difference, acc_norm_difference] = differences.unwrap_or_default();
    Some(Accuracies { acc: estimate(&acc)?, acc_norm: estimate(&acc_norm)?, acc_difference, acc_norm_difference })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(choices: &[&str], label: usize) -> Question {
        let choices = choices.iter().map(|choice| choice.to_string()).collect();
        Question { line: 1, context: "c".to_string(), choices, label }
    }

    #[test]
    fn length_counts_in_characters() {
        // −9 over 3 characters (of 9 bytes) is less than −12 over 5 characters; in bytes it would be more.
        let question = question(&["中文字", "wolle"], 1);
        let answer = ScoredQuestion::new(&question, vec![-9.0, -12.0]);
        assert_eq!((answer.acc, answer.acc_norm), (0.0, 1.0));
    }

    #[test]
    fn equal_scores_are_the_first_choice() {
        let answer = |label| ScoredQuestion::new(&question(&["aa", "bb"], label), vec![-1.0, -1.0]);
        assert_eq!((answer(0).acc, answer(1).acc), (1.0, 0.0));
        assert_eq!(first_highest(&[]), None);
        assert_eq!(first_highest(&[f64::NEG_INFINITY, -3.0, -2.0, -2.0]), Some(2));
    }

    #[test]
    fn errors_and_paired_differences_are_those_of_the_formulas() {
        let answers = |values: &[f64]| -> Vec<ScoredQuestion> {
            values.iter().map(|acc| ScoredQuestion { log_likelihoods: vec![], acc: *acc, acc_norm: 1.0 }).collect()
        };
        let (first, second) = (answers(&[1.0, 1.0, 0.0, 0.0]), answers(&[1.0, 0.0, 0.0, 0.0]));
        let found = accuracies(&second, Some(&first)).unwrap();
        assert_eq!(found.acc, Estimate { mean: 0.25, standard_error: Some(0.25) });
        assert_eq!(found.acc_difference, Some(Estimate { mean: -0.25, standard_error: Some(0.25) }));
        assert_eq!(found.acc_norm, Estimate { mean: 1.0, standard_error: Some(0.0) });
        assert_eq!(accuracies(&first, None).unwrap().acc_difference, None);
        assert!(accuracies(&[], None).is_none());
    }
}
