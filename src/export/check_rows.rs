//! The rows on which masked and pruned model are compared.

use super::Error;
use crate::config::RunConfig;
use crate::eval::EvalRows;
use crate::prune::CheckRows;
use shearling_domains::Dataset;
use tch::{Device, Kind, Tensor};

/// The first `prune.check_rows` validation rows of every domain.
pub(super) fn check_rows(config: &RunConfig, device: Device) -> Result<CheckRows, Error> {
    let dataset = Dataset::open(&config.data.path)?;
    let domains = EvalRows::load(&dataset, config.prune.check_rows, device)?;
    let names = domains.iter().flat_map(|domain| {
        (0..domain.rows.size()[0]).map(|row| format!("{} validation row {row}", domain.domain)).collect::<Vec<_>>()
    });
    let names = names.collect();
    let rows: Vec<Tensor> = domains.into_iter().map(|domain| domain.rows.to_kind(Kind::Int64)).collect();
    Ok(CheckRows { ids: Tensor::f_cat(&rows, 0)?, names })
}
