//! The dtype of the model that a run writes: the one that was asked for, else that of the model it came from. A pruned
//! model and what continues it so stay in the dtype of the source, whatever is computed in between.

use super::Error;
use super::setup::{Device, compute_dtype};
use crate::config::{RunConfig, Stage};
use crate::files::DType;
use crate::hf::Checkpoint;
use std::collections::BTreeMap;

/// The dtype of the written model of a run.
///
/// # Errors
/// `model.source` decides, and cannot be read.
pub fn written_dtype(config: &RunConfig, stage: Stage) -> Result<DType, Error> {
    let asked = match stage {
        Stage::Prune => config.prune.dtype,
        Stage::Pretrain | Stage::Lte => config.checkpoint.export_dtype,
    };
    // That of a run is resolved.
    let computed = compute_dtype(config.run.dtype, Device::Cpu);
    match (asked, &config.model.source) {
        (Some(dtype), _) => Ok(dtype),
        (None, Some(source)) => Ok(source_dtype(&Checkpoint::open(source)?)?.unwrap_or(computed)),
        (None, None) => Ok(computed),
    }
}

/// The dtype of most of a model's weights: a few tensors in fp32 do not make an fp32 model.
fn source_dtype(source: &Checkpoint) -> Result<Option<DType>, Error> {
    let mut elements: BTreeMap<DType, i64> = BTreeMap::new();
    for name in source.names() {
        *elements.entry(source.dtype(name)?).or_default() += source.shape(name)?.iter().product::<i64>();
    }
    Ok(elements.into_iter().max_by_key(|(_, count)| *count).map(|(dtype, _)| dtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::hf::{ShardWriter, TensorPlan};
    use std::path::Path;
    use tch::{Device, Kind, Tensor};

    const MODEL: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4,
        "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}"#;

    /// A folder with a small tensor in fp32 whose name comes first, and a large one in bf16.
    fn write_mixed(folder: &Path) {
        std::fs::write(folder.join("config.json"), MODEL).unwrap();
        let tensors = [("a.norm", 4, DType::F32), ("b.weight", 64, DType::BF16)];
        let plan = |(name, size, dtype): &(&str, i64, DType)| TensorPlan {
            name: name.to_string(),
            shape: vec![*size],
            dtype: *dtype,
        };
        let mut writer = ShardWriter::create(folder, tensors.iter().map(plan).collect(), 1 << 20).unwrap();
        for (name, size, dtype) in tensors {
            let zeros = Tensor::zeros([size], (Kind::Float, Device::Cpu)).to_kind(dtype.kind());
            writer.write(name, &zeros).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn the_written_model_has_the_dtype_of_most_of_its_source_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        write_mixed(folder.path());
        let text = format!(
            "[run]\ndirectory = 'a'\n[model]\nsource = '{}'\n[data]\npath = 'd'\n[train]\nsteps = 4\nbatch_rows = 2\n\
             learning_rate = 0.1\n",
            folder.path().display()
        );
        let written = |sets: &[&str], stage| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            written_dtype(&parse(&text, "test", &sets).unwrap(), stage).unwrap()
        };
        assert_eq!(written(&[], Stage::Prune), DType::BF16);
        assert_eq!(written(&["run.dtype=fp32"], Stage::Pretrain), DType::BF16);
        assert_eq!(written(&["checkpoint.export_dtype=fp32"], Stage::Pretrain), DType::F32);
        assert_eq!(written(&["checkpoint.export_dtype=fp32"], Stage::Prune), DType::BF16);
        assert_eq!(written(&["prune.dtype=fp16"], Stage::Prune), DType::F16);
    }
}
