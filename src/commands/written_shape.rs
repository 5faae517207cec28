//! Which shape a run will write, from its configuration and the shape of its source: how stages that are yet to come are
//! planned and checked.

use crate::config::RunConfig;
use crate::files::DType;
use crate::hf::RawConfig;
use crate::prune::shape;

/// The `config.json` that a run of `config` on `source` will write.
pub(super) fn written_by(config: &RunConfig, source: &RawConfig) -> anyhow::Result<RawConfig> {
    let Some(target) = &config.target else { return Ok(source.clone()) };
    let model = source.model()?;
    let spec = shape::mask_spec(&model, target)?;
    let dtype = config.prune.dtype.or(model.dtype).unwrap_or(DType::F32);
    Ok(shape::planned_config(source, &spec, dtype)?)
}
