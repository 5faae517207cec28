//! A source in its principal basis, in a folder that lasts as long as the cut that is made of it.

use super::Error;
use crate::files::{Staging, ensure_space};
use crate::hf::Checkpoint;
use crate::model::count::ParameterCount;
use crate::prune::principal::{basis, rotate};
use crate::prune::scores::{Calibration, Progress};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A rotated source; its folder is removed when this is dropped.
pub(super) struct Rotated {
    pub(super) checkpoint: Checkpoint,
    /// Share of the stream's energy of each hidden dimension `[D]`.
    pub(super) energy: Tensor,
    /// Dimensions that were left as they are.
    pub(super) unrotated: usize,
    _folder: Staging,
}

impl Rotated {
    /// Measures the basis of `source` on `calibration`, and writes the source in it beside `out`, the place of the cut.
    pub(super) fn write(
        source: &Checkpoint,
        out: &Path,
        max_shard_bytes: u64,
        calibration: &Calibration,
        device: Device,
        progress: &mut Progress,
    ) -> Result<Rotated, Error> {
        let basis = basis(source, calibration, device, progress)?;
        // All of it in fp32, while the cut is written beside it.
        ensure_space(out, ParameterCount::of(source.model()).total() as u64 * 4)?;
        let folder = Staging::new(&out.with_extension("rotated"))?;
        rotate(source, &basis, folder.path(), max_shard_bytes, device, progress)?;
        let checkpoint = Checkpoint::open(folder.path())?;
        Ok(Rotated { checkpoint, energy: basis.energy, unrotated: basis.unrotated, _folder: folder })
    }

    /// Share of the stream's energy that the best `count` dimensions hold.
    pub(super) fn share_kept(&self, count: i64) -> Result<f64, Error> {
        let (best, _) = self.energy.f_topk(count, 0, true, false)?;
        Ok(best.f_sum(Kind::Double)?.f_double_value(&[])?)
    }
}
