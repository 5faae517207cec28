//! Models side by side, as data: what `shearling eval` prints, as a table or as JSON.
//!
//! All models see the same rows and questions, so each is compared with the first model pair by pair; a difference is
//! positive where the model has more (a higher loss, a higher accuracy) than the first.

use super::multiple_choice::{ScoredQuestion, Task, TaskKind, accuracies};
use super::statistics::{Estimate, estimate, mean_of, paired_difference};
use super::text_bytes::{EvaluatedBytes, bits_per_byte};
use super::{DomainLoss, RowLosses};
use serde::Serialize;

/// What one model did.
#[derive(Clone, Debug)]
pub struct ModelResult {
    /// The folder as given.
    pub model: String,
    /// All parameters.
    pub parameters: i64,
    /// Losses by domain; none if no data was given.
    pub domains: Vec<RowLosses>,
    /// Answers by task.
    pub answers: Vec<Vec<ScoredQuestion>>,
}

impl ModelResult {
    /// The domains as means with their errors.
    pub fn losses(&self) -> Vec<DomainLoss> {
        self.domains.iter().map(RowLosses::summary).collect()
    }
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// Folder of the rows.
    pub data: Option<String>,
    /// Whether bytes were counted token by token; else they are estimated. `None` without data.
    pub bytes_counted: Option<bool>,
    /// By model.
    pub models: Vec<ModelReport>,
    /// By task.
    pub tasks: Vec<TaskReport>,
}

/// Losses of one model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// The folder as given.
    pub model: String,
    /// All parameters.
    pub parameters: i64,
    /// Mean over the domains, each counting alike, nats per token.
    pub mean_loss: Option<f64>,
    /// Its standard error, if all domains have one.
    pub mean_loss_standard_error: Option<f64>,
    /// Mean over the domains.
    pub mean_bits_per_byte: Option<f64>,
    /// Mean loss minus that of the first model; `None` for the first.
    pub mean_difference: Option<f64>,
    /// Its standard error.
    pub mean_difference_standard_error: Option<f64>,
    /// By domain.
    pub domains: Vec<DomainReport>,
}

/// Loss of one model on one domain.
#[derive(Clone, Debug, Serialize)]
pub struct DomainReport {
    /// Domain, loss, standard error, rows and target tokens.
    #[serde(flatten)]
    pub loss: DomainLoss,
    /// Validation rows that the domain has; those evaluated are the first of them.
    pub rows_available: Option<u64>,
    /// exp(loss).
    pub perplexity: Option<f64>,
    /// Loss per byte of text, in bits.
    pub bits_per_byte: Option<f64>,
    /// Bytes of text behind the target tokens.
    pub bytes: Option<u64>,
    /// Loss minus that of the first model, row by row; `None` for the first.
    pub difference: Option<f64>,
    /// Its standard error.
    pub difference_standard_error: Option<f64>,
}

/// One task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub task: String,
    /// Kind of its questions.
    pub kind: &'static str,
    /// The file.
    pub file: String,
    /// By model.
    pub models: Vec<TaskModelReport>,
}

/// One model on one task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskModelReport {
    /// The folder as given.
    pub model: String,
    /// Share of questions answered right.
    pub acc: Option<f64>,
    /// Standard error.
    pub acc_stderr: Option<f64>,
    /// Share answered right by log-likelihood per character.
    pub acc_norm: Option<f64>,
    /// Standard error.
    pub acc_norm_stderr: Option<f64>,
    /// How many questions.
    pub questions: usize,
    /// `acc` minus that of the first model, question by question; `None` for the first.
    pub acc_difference: Option<f64>,
    /// Standard error.
    pub acc_difference_stderr: Option<f64>,
    /// `acc_norm` minus that of the first model; `None` for the first.
    pub acc_norm_difference: Option<f64>,
    /// Standard error.
    pub acc_norm_difference_stderr: Option<f64>,
}

impl EvalReport {
    /// Puts results side by side. `data` is the folder of the rows with the bytes behind them.
    pub fn new(data: Option<(String, EvaluatedBytes)>, tasks: &[Task], results: &[ModelResult]) -> EvalReport {
        let bytes = data.as_ref().map(|(_, bytes)| bytes);
        let first = results.first();
        let reference = |index: usize| first.filter(|_| index > 0);
        let models = results.iter().enumerate().map(|(index, result)| model(result, reference(index), bytes));
        EvalReport {
            models: models.collect(),
            tasks: tasks.iter().enumerate().map(|(index, given)| task(given, index, results)).collect(),
            bytes_counted: data.as_ref().map(|(_, bytes)| bytes.counted),
            data: data.map(|(folder, _)| folder),
        }
    }
}

fn model(result: &ModelResult, reference: Option<&ModelResult>, bytes: Option<&EvaluatedBytes>) -> ModelReport {
    let differences = reference.map(|reference| {
        let pairs = result.domains.iter().zip(&reference.domains);
        pairs.map(|(own, theirs)| paired_difference(&own.rows, &theirs.rows)).collect::<Vec<_>>()
    });
    let difference = |index: usize| differences.as_ref().and_then(|all| all.get(index).copied().flatten());
    let domains = result.domains.iter().enumerate();
    let domains = domains.map(|(index, rows)| {
        let available = bytes.and_then(|bytes| bytes.rows_available.get(index).copied());
        let bytes = bytes.and_then(|bytes| bytes.domains.get(index).copied().flatten());
        domain(rows, available, bytes, difference(index))
    });
    let domains: Vec<DomainReport> = domains.collect();
    let losses: Vec<Estimate> = result.domains.iter().filter_map(|domain| estimate(&domain.rows)).collect();
    let bits: Vec<f64> = domains.iter().filter_map(|domain| domain.bits_per_byte).collect();
    let mean = mean_of(&losses);
    let against = differences.and_then(|all| mean_of(&all.into_iter().flatten().collect::<Vec<_>>()));
    ModelReport {
        model: result.model.clone(),
        parameters: result.parameters,
        mean_loss: mean.map(|mean| mean.mean),
        mean_loss_standard_error: mean.and_then(|mean| mean.standard_error),
        mean_bits_per_byte: estimate(&bits).map(|bits| bits.mean),
        mean_difference: against.map(|difference| difference.mean),
        mean_difference_standard_error: against.and_then(|difference| difference.standard_error),
        domains,
    }
}

fn domain(
    rows: &RowLosses,
    rows_available: Option<u64>,
    bytes: Option<u64>,
    difference: Option<Estimate>,
) -> DomainReport {
    let loss = rows.summary();
    DomainReport {
        rows_available,
        perplexity: loss.loss.map(f64::exp),
        bits_per_byte: loss.loss.zip(bytes).and_then(|(mean, bytes)| bits_per_byte(mean, loss.tokens, bytes)),
        bytes,
        difference: difference.map(|difference| difference.mean),
        difference_standard_error: difference.and_then(|difference| difference.standard_error),
        loss,
    }
}

fn task(given: &Task, index: usize, results: &[ModelResult]) -> TaskReport {
    let answers = |result: &ModelResult| result.answers.get(index).cloned().unwrap_or_default();
    let first = results.first().map(answers);
    let models = results.iter().enumerate().map(|(position, result)| {
        let reference = first.as_deref().filter(|_| position > 0);
        task_model(&result.model, &answers(result), reference)
    });
    TaskReport {
        task: given.name.clone(),
        kind: TaskKind::name(given.kind),
        file: given.path.display().to_string(),
        models: models.collect(),
    }
}

fn task_model(model: &str, answers: &[ScoredQuestion], reference: Option<&[ScoredQuestion]>) -> TaskModelReport {
    let found = accuracies(answers, reference);
    let (acc, acc_norm) = (found.map(|found| found.acc), found.map(|found| found.acc_norm));
    let acc_difference = found.and_then(|found| found.acc_difference);
    let acc_norm_difference = found.and_then(|found| found.acc_norm_difference);
    let mean = |estimate: Option<Estimate>| estimate.map(|estimate| estimate.mean);
    let error = |estimate: Option<Estimate>| estimate.and_then(|estimate| estimate.standard_error);
    TaskModelReport {
        model: model.to_string(),
        acc: mean(acc),
        acc_stderr: error(acc),
        acc_norm: mean(acc_norm),
        acc_norm_stderr: error(acc_norm),
        questions: answers.len(),
        acc_difference: mean(acc_difference),
        acc_difference_stderr: error(acc_difference),
        acc_norm_difference: mean(acc_norm_difference),
        acc_norm_difference_stderr: error(acc_norm_difference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn result(model: &str, losses: &[&[f64]], right: &[f64]) -> ModelResult {
        let domain = |(index, rows): (usize, &&[f64])| RowLosses {
            domain: ["wiki", "code", "empty"][index].to_string(),
            rows: rows.to_vec(),
            targets_per_row: 10,
        };
        let answer = |acc: &f64| ScoredQuestion { log_likelihoods: vec![-1.0, -2.0], acc: *acc, acc_norm: 1.0 - acc };
        ModelResult {
            model: model.to_string(),
            parameters: 7,
            domains: losses.iter().enumerate().map(domain).collect(),
            answers: vec![right.iter().map(answer).collect()],
        }
    }

    fn report() -> Value {
        let task =
            Task { name: "sheep".to_string(), kind: TaskKind::Piqa, path: "a/b.jsonl".into(), questions: vec![] };
        let bytes =
            EvaluatedBytes { domains: vec![Some(40), Some(20), None], rows_available: vec![9, 2, 0], counted: true };
        let results = [
            result("source", &[&[1.0, 3.0], &[4.0, 4.0], &[]], &[1.0, 1.0, 0.0, 1.0]),
            result("small", &[&[2.0, 4.0], &[5.0, 7.0], &[]], &[1.0, 0.0, 0.0, 1.0]),
        ];
        serde_json::to_value(EvalReport::new(Some(("data".to_string(), bytes)), &[task], &results)).unwrap()
    }

    #[test]
    fn losses_stand_side_by_side_with_their_paired_differences() {
        let report = report();
        assert_eq!((&report["data"], &report["bytes_counted"]), (&json!("data"), &json!(true)));
        let [source, small] = [&report["models"][0], &report["models"][1]];
        assert_eq!(source["mean_loss"], 3.0);
        assert_eq!(source["mean_difference"], Value::Null);
        let wiki = &source["domains"][0];
        assert_eq!((&wiki["loss"], &wiki["standard_error"]), (&json!(2.0), &json!(1.0)));
        assert_eq!((&wiki["rows"], &wiki["tokens"], &wiki["bytes"]), (&json!(2), &json!(20), &json!(40)));
        assert_eq!(wiki["perplexity"], 2f64.exp());
        let bits = wiki["bits_per_byte"].as_f64().unwrap();
        assert!((bits - 2.0 * 20.0 / (2f64.ln() * 40.0)).abs() < 1e-12);
        let code_bits = source["domains"][1]["bits_per_byte"].as_f64().unwrap();
        assert!((source["mean_bits_per_byte"].as_f64().unwrap() - (bits + code_bits) / 2.0).abs() < 1e-12);
        assert_eq!(wiki["difference"], Value::Null);
        // Every wiki row is worse by one, the code rows by one and three.
        let [wiki, code, empty] = [0, 1, 2].map(|index| &small["domains"][index]);
        assert_eq!((&wiki["difference"], &wiki["difference_standard_error"]), (&json!(1.0), &json!(0.0)));
        assert_eq!((&code["difference"], &code["difference_standard_error"]), (&json!(2.0), &json!(1.0)));
        assert_eq!((&small["mean_difference"], &small["mean_difference_standard_error"]), (&json!(1.5), &json!(0.5)));
        assert_eq!(
            (&empty["loss"], &empty["difference"], &empty["bits_per_byte"]),
            (&json!(null), &json!(null), &json!(null))
        );
    }

    #[test]
    fn accuracies_stand_side_by_side_with_their_paired_differences() {
        let report = report();
        let task = &report["tasks"][0];
        assert_eq!(
            (&task["task"], &task["kind"], &task["file"]),
            (&json!("sheep"), &json!("piqa"), &json!("a/b.jsonl"))
        );
        let [source, small] = [&task["models"][0], &task["models"][1]];
        assert_eq!(
            (&source["acc"], &source["acc_norm"], &source["questions"]),
            (&json!(0.75), &json!(0.25), &json!(4))
        );
        assert_eq!(source["acc_difference"], Value::Null);
        assert_eq!((&small["acc_difference"], &small["acc_norm_difference"]), (&json!(-0.25), &json!(0.25)));
        assert_eq!(small["acc_difference_stderr"], 0.25);
    }

    #[test]
    fn without_data_there_are_tasks_alone() {
        let report = serde_json::to_value(EvalReport::new(None, &[], &[result("m", &[], &[])])).unwrap();
        assert_eq!((&report["data"], &report["bytes_counted"]), (&Value::Null, &Value::Null));
        assert_eq!((&report["models"][0]["mean_loss"], &report["models"][0]["domains"]), (&Value::Null, &json!([])));
    }
}
