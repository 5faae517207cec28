//! Which shape a run will write, from its configuration and the shape of its source: how stages that are yet to come are
//! planned and checked.

use crate::config::RunConfig;
use crate::files::DType;
use crate::hf::RawConfig;
use crate::prune::shape;

/// The `config.json` that a run of `config` on `source` will write.
pub(super) fn written_by(config: &RunConfig, source: &RawConfig) -> anyhow::Result<RawConfig> {
    let Some(target) = &config.target else {
        return match config.checkpoint.export_dtype {
            Some(dtype) => Ok(source.with_dtype(dtype)?),
            None => Ok(source.clone()),
        };
    };
    let model = source.model()?;
    let spec = shape::mask_spec(&model, target)?;
    let dtype = config.prune.dtype.or(model.dtype).unwrap_or(DType::F32);
    Ok(shape::planned_config(source, &spec, dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::Path;

    #[test]
    fn a_stage_without_a_target_writes_the_dtype_that_it_exports() {
        let text = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(text).unwrap() else { panic!("an object") };
        let source = RawConfig::from_raw(raw, Path::new("config.json"));
        let written = |sets: &[&str]| {
            let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n";
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            written_by(&parse(text, "test", &sets).unwrap(), &source).unwrap().model().unwrap().dtype
        };
        assert_eq!(written(&[]), source.model().unwrap().dtype);
        assert_eq!(written(&["checkpoint.export_dtype=fp32"]), Some(DType::F32));
        assert_eq!(written(&["checkpoint.export_dtype=bf16"]), Some(DType::BF16));
    }
}
