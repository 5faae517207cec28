//! What may be given beside the runs: the JSON that `shearling eval` and `shearling bench latency` write with `--out`.
//! Unknown keys are passed over (a newer program may print more); missing or wrong ones are named.

use super::{Error, side_kinds};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Neither file has reason to be larger.
const MAX_BYTES: u64 = 64 << 20;

/// Losses of models side by side.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EvalFile {
    /// Models, in the order they were given.
    pub models: Vec<EvalModel>,
    /// Multiple choice, where it was asked for.
    #[serde(default)]
    pub tasks: Vec<EvalTask>,
}

/// One model's losses.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EvalModel {
    /// Its folder.
    pub model: String,
    /// Its size.
    #[serde(default)]
    pub parameters: Option<f64>,
    /// Mean over the domains.
    pub mean_loss: Option<f64>,
    /// Mean over the domains.
    #[serde(default)]
    pub mean_bits_per_byte: Option<f64>,
    /// Mean loss minus that of the first model, on the same rows.
    #[serde(default)]
    pub mean_difference: Option<f64>,
    /// Its standard error, row by row.
    #[serde(default)]
    pub mean_difference_standard_error: Option<f64>,
    /// By domain.
    pub domains: Vec<EvalDomain>,
}

/// One model on one domain.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EvalDomain {
    /// Domain.
    pub domain: String,
    /// Nats per token.
    pub loss: Option<f64>,
    /// Of the mean over rows.
    #[serde(default)]
    pub standard_error: Option<f64>,
    /// Rows evaluated.
    #[serde(default)]
    pub rows: Option<u64>,
    /// Bits per byte of text.
    #[serde(default)]
    pub bits_per_byte: Option<f64>,
    /// Standard error of the loss minus that of the first model, row by row.
    #[serde(default)]
    pub difference_standard_error: Option<f64>,
}

/// One multiple-choice task.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EvalTask {
    /// Its name.
    pub task: String,
    /// By model.
    pub models: Vec<TaskModel>,
}

/// One model on one task.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TaskModel {
    /// Its folder.
    pub model: String,
    /// Part of the questions answered right.
    pub acc: Option<f64>,
    /// Its standard error.
    #[serde(default)]
    pub acc_stderr: Option<f64>,
    /// With likelihoods divided by length.
    #[serde(default)]
    pub acc_norm: Option<f64>,
    /// Its standard error.
    #[serde(default)]
    pub acc_norm_stderr: Option<f64>,
}

/// Speed of models side by side.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LatencyFile {
    /// Device as libtorch names it.
    #[serde(default)]
    pub device: Option<String>,
    /// CPU threads.
    #[serde(default)]
    pub threads: Option<u64>,
    /// Kind of the weights.
    #[serde(default)]
    pub dtype: Option<String>,
    /// CPUs that other processes took meanwhile, where that was too much for a measurement.
    #[serde(default)]
    pub cpus_taken_by_others: Option<f64>,
    /// Measured.
    #[serde(default)]
    pub memory_bandwidth_bytes_per_second: Option<f64>,
    /// Models, in the order they were given.
    pub models: Vec<LatencyModel>,
}

impl LatencyFile {
    /// What `bench latency` warned of, where it did.
    pub fn busy(&self) -> Option<String> {
        let cpus = self.cpus_taken_by_others?;
        Some(format!(
            "The machine was busy meanwhile: others took {cpus:.1} CPUs, so these speeds may be too low, and not all by the \
             same. Measure again when it is quiet."
        ))
    }
}

/// One model's speed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LatencyModel {
    /// Its folder.
    pub model: String,
    /// Its size.
    #[serde(default)]
    pub parameters: Option<f64>,
    /// Bytes of its weights.
    #[serde(default)]
    pub weight_bytes: Option<f64>,
    /// Reading a prompt.
    pub prefill: Prefill,
    /// Writing, one token after the other.
    pub decode: Decode,
    /// Most memory in use.
    #[serde(default)]
    pub peak_memory_bytes: Option<f64>,
}

/// A ratio over several rounds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// Reading a prompt.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Prefill {
    /// Tokens of the prompt.
    #[serde(default)]
    pub tokens: Option<f64>,
    /// Rate.
    pub tokens_per_second: Option<f64>,
    /// Against the first model, round by round.
    #[serde(default)]
    pub speed_over_first: Option<Spread>,
}

/// Writing at batch one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Decode {
    /// Tokens in the cache before.
    #[serde(default)]
    pub context: Option<f64>,
    /// Rate.
    pub tokens_per_second: Option<f64>,
    /// Rate that the memory allows.
    #[serde(default)]
    pub roofline_tokens_per_second: Option<f64>,
    /// One over the other.
    #[serde(default)]
    pub fraction_of_roofline: Option<f64>,
    /// Against the first model, round by round.
    #[serde(default)]
    pub speed_over_first: Option<Spread>,
}

/// Reads what `shearling eval --out FILE` wrote.
pub fn read_eval(path: &Path) -> Result<EvalFile, Error> {
    read(path, "--eval", "shearling eval MODEL… --data DIR --out FILE")
}

/// Reads what `shearling bench latency --out FILE` wrote.
pub fn read_latency(path: &Path) -> Result<LatencyFile, Error> {
    read(path, "--latency", "shearling bench latency MODEL… --out FILE")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, option: &'static str, made_by: &'static str) -> Result<T, Error> {
    let failed = |problem: String| Error::Side { path: path.to_owned(), made_by, problem };
    let unreadable = |source| Error::SideUnreadable { path: path.to_owned(), made_by, source };
    // Before opening: opening a pipe waits for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(failed("it is not a regular file; write the output to one and give that".to_string()));
    }
    let bytes = read_bounded(path, MAX_BYTES).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(format!("it has more than the {MAX_BYTES} bytes such a file may have")));
    }
    serde_json::from_slice(&bytes).map_err(|error| match side_kinds::of(&bytes) {
        // A damaged file of the right kind is told by what is wrong with it.
        Some(kind) if !kind.advice.ends_with(option) => {
            Error::OtherKind { path: path.to_owned(), kind: kind.name, advice: kind.advice, option, made_by }
        }
        _ => failed(error.to_string()),
    })
}

/// At most one byte past `limit_bytes`: that one tells "too large", whatever size the system reports.
fn read_bounded(path: &Path, limit_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last two parts of a folder's name: enough to tell models apart, short enough for a table.
pub fn short_name(model: &str) -> String {
    let parts: Vec<&str> = model.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let last = parts.len().saturating_sub(2);
    parts.get(last..).unwrap_or_default().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_named_with_what_makes_a_right_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eval.json");
        for (text, problem) in [("{\"models\": [{", "EOF"), ("{}", "missing field `models`"), ("[]", "invalid length")]
        {
            std::fs::write(&path, text).unwrap();
            let message = read_eval(&path).unwrap_err().to_string();
            assert!(message.contains("eval.json") && message.contains("shearling eval"), "{message}");
            assert!(message.contains(problem), "{message}");
        }
        let message = read_latency(&folder.path().join("none.json")).unwrap_err().to_string();
        assert!(message.starts_with("cannot open `") && message.contains("none.json"), "{message}");
        assert!(message.contains("No such file") && message.contains("bench latency"), "{message}");
        assert!(!message.contains("is not the output"), "{message}");
    }

    #[test]
    fn another_file_of_ours_is_called_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("given.json");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            [read_eval(&path).err(), read_latency(&path).err()].map(|error| error.map(|error| error.to_string()))
        };
        let latency =
            r#"{"models": [{"model": "m", "prefill": {"tokens_per_second": 1}, "decode": {"tokens_per_second": 1}}]}"#;
        let [eval, none] = of(latency);
        let eval = eval.unwrap();
        assert!(eval.contains("is a latency file") && eval.contains("give it with --latency"), "{eval}");
        assert!(eval.contains("--eval takes the output of `shearling eval"), "{eval}");
        assert_eq!(none, None);
        let [none, latency] = of(r#"{"models": [{"model": "m", "mean_loss": 1, "domains": []}]}"#);
        assert_eq!(none, None);
        assert!(latency.unwrap().contains("is an evaluation"));
        for (text, kind) in [
            (r#"{"model": "m", "reference_loss": {"a": 1.5}}"#, "is a file of reference losses"),
            (r#"{"summary": {}, "steps": {}, "evaluations": []}"#, "is the history of a run"),
            ("{\"type\": \"start\", \"step\": 0}\n{\"type\": \"step\", \"step\": 1}\n", "is a record of metrics.jsonl"),
            (r#"{"model_type": "llama"}"#, "is the config.json of a model"),
        ] {
            for message in of(text).map(Option::unwrap) {
                assert!(message.contains(kind), "{message}");
            }
        }
        let damaged = of(r#"{"models": [{"model": "m", "decode": {"tokens_per_second": 1}}]}"#)[1].clone().unwrap();
        assert!(damaged.contains("missing field `prefill`"), "{damaged}");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.json");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let message = read_eval(&path).unwrap_err().to_string();
        assert!(message.contains("large.json") && message.contains("more than"), "{message}");
        assert_eq!(read_bounded(&path, 10).unwrap().len(), 11);
        let message = read_eval(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
        #[cfg(unix)]
        assert_eq!(read_bounded(Path::new("/dev/zero"), 10).unwrap().len(), 11);
        #[cfg(unix)]
        assert!(read_latency(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn models_are_named_by_the_end_of_their_folder() {
        assert_eq!(short_name("/a/runs/prune/pruned/"), "prune/pruned");
        assert_eq!(short_name("model"), "model");
        assert_eq!(short_name("/"), "");
    }
}
