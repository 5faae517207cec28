//! Writes a packed folder, a layer at a time.

use super::PackError;
use super::header::{EXPERTS_FILE, Header, KEY, MATRICES, Names, VERSION, fingerprint, is_packed_matrix};
use crate::files::stream::{SafetensorsStream, Slot};
use crate::files::{DType, Error, Staging, ensure_space};
use crate::hf::{Checkpoint, ShardWriter, TensorPlan, carry_companions};
use crate::lte::Experts;
use crate::model::ModelConfig;
use crate::model::parameters::parameters;
use crate::model::router::Router;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Bytes of a shard of the ordinary weights.
const SHARD_BYTES: u64 = 5 << 30;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The folder.
    pub folder: PathBuf,
    /// Layers whose experts are packed.
    pub packed_layers: usize,
    /// Layers without a router, which stay as they are.
    pub dense_layers: usize,
    /// Bytes of the experts' file.
    pub expert_bytes: u64,
}

/// Packs `checkpoint`, whose units are grouped and routed by `experts`, into the folder `out`, which must not exist;
/// `progress` is told layers done and layers in all.
///
/// Experts keep the dtype in which they are stored; routers are written in that of their experts, their biases in fp32.
///
/// # Errors
/// No router at all, routers or a grouping that do not fit the model, weights in fp16, weights that are missing or not
/// finite, a full disk. Nothing is then written.
pub fn write(
    checkpoint: &Checkpoint,
    experts: &Experts,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Packed, PackError> {
    let layers = Layers::check(checkpoint, experts)?;
    let staging = Staging::new(out)?;
    ensure_space(staging.path(), checkpoint.total_bytes())?;
    checkpoint.config().write(staging.path())?;
    carry_companions(checkpoint.dir(), staging.path())?;
    write_ordinary(checkpoint, experts, staging.path())?;
    let written = Checkpoint::open(staging.path())?;
    let layer_density = experts.layers.iter().map(|layer| layer.router.as_ref().map_or(Some(1.0), |_| layer.density));
    let header = Header {
        version: VERSION,
        expert_size: experts.expert_size,
        weights: fingerprint(&written)?,
        density: experts.density,
        layer_density: layer_density.collect(),
    };
    let path = staging.path().join(EXPERTS_FILE);
    layers.write(&path, &header, progress)?;
    let expert_bytes = path.metadata().map_err(Error::io("look at", &path))?.len();
    let folder = staging.publish()?;
    let packed_layers = layers.routed.len();
    Ok(Packed { folder, packed_layers, dense_layers: experts.layers.len() - packed_layers, expert_bytes })
}

/// All weights but the matrices that are packed, in the format that each is stored in.
fn write_ordinary(checkpoint: &Checkpoint, experts: &Experts, folder: &Path) -> Result<(), PackError> {
    let kept = parameters(checkpoint.model()).into_iter().filter(|parameter| {
        !is_packed_matrix(parameter, |layer| experts.layers.get(layer).is_some_and(|layer| layer.router.is_some()))
    });
    let plan = kept.map(|parameter| {
        let dtype = checkpoint.dtype(&parameter.name)?;
        Ok(TensorPlan { name: parameter.name, shape: parameter.shape, dtype })
    });
    let plan = plan.collect::<Result<Vec<_>, Error>>()?;
    let mut writer = ShardWriter::create(folder, plan.clone(), SHARD_BYTES)?;
    for TensorPlan { name, dtype, .. } in plan {
        writer.write(&name, &checkpoint.finite_tensor(&name, dtype.kind(), Device::Cpu)?)?;
        checkpoint.stored(&name)?.release();
    }
    writer.finish()?;
    Ok(())
}

/// The layers that are packed.
struct Layers<'a> {
    checkpoint: &'a Checkpoint,
    /// m.
    size: i64,
    routed: Vec<(i64, &'a Router)>,
}

impl<'a> Layers<'a> {
    /// Compares grouping, routers and model.
    fn check(checkpoint: &'a Checkpoint, experts: &'a Experts) -> Result<Layers<'a>, PackError> {
        let model = checkpoint.model();
        let sizes = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(PackError::Sizes { what, expected, found }),
        };
        sizes("layers", model.num_hidden_layers, experts.layers.len() as i64)?;
        sizes("intermediate units", model.intermediate_size, experts.experts() * experts.expert_size)?;
        let routed = experts.layers.iter().enumerate();
        let routed = routed.filter_map(|(layer, of_layer)| Some((layer, of_layer.router.as_ref()?)));
        let routed = routed.map(|(layer, router)| {
            check_router(layer, router, experts.experts(), model)?;
            Ok((layer as i64, router))
        });
        let routed = routed.collect::<Result<Vec<_>, PackError>>()?;
        if routed.is_empty() {
            return Err(PackError::NoRouter { folder: checkpoint.dir().to_owned() });
        }
        Ok(Layers { checkpoint, size: experts.expert_size, routed })
    }

    fn write(&self, path: &Path, header: &Header, progress: &mut dyn FnMut(usize, usize)) -> Result<(), PackError> {
        let file = File::create_new(path).map_err(Error::io("create", path))?;
        let text = serde_json::to_string(header);
        let text =
            text.map_err(|error| PackError::Header { path: path.to_owned(), key: KEY, problem: error.to_string() })?;
        let mut stream =
            SafetensorsStream::begin_in_order(file, path, self.slots()?, &BTreeMap::from([(KEY.to_owned(), text)]))?;
        for (done, (layer, _)) in self.routed.iter().enumerate() {
            stream.write(&Names::of(*layer).experts, &self.experts(*layer)?)?;
            progress(done + 1, self.routed.len());
        }
        for (layer, router) in &self.routed {
            let (names, kind) = (Names::of(*layer), self.dtype(*layer)?.kind());
            stream.write(&names.router, &router.weight.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?)?;
            if let Some(bias) = &router.bias {
                stream.write(&names.router_bias, &bias.f_detach()?.f_to_device(Device::Cpu)?)?;
            }
        }
        Ok(stream.finish()?)
    }

    /// Experts first, each of them a multiple of 64 bytes where m is 32; then the routers.
    fn slots(&self) -> Result<Vec<Slot>, PackError> {
        let model = self.checkpoint.model();
        let (count, dim) = (model.intermediate_size / self.size, model.hidden_size);
        let slot = |name, shape: &[i64], dtype: DType| Slot { name, shape: shape.to_vec(), dtype: dtype.safetensors() };
        let (mut slots, mut routers) = (Vec::new(), Vec::new());
        for (layer, router) in &self.routed {
            let (names, dtype) = (Names::of(*layer), self.dtype(*layer)?);
            slots.push(slot(names.experts, &[count, 3 * self.size, dim], dtype));
            routers.push(slot(names.router, &[count, dim], dtype));
            routers.extend(router.bias.as_ref().map(|_| slot(names.router_bias, &[count], DType::F32)));
        }
        slots.append(&mut routers);
        Ok(slots)
    }

    /// The format of a layer's experts: the wider one where its matrices differ.
    fn dtype(&self, layer: i64) -> Result<DType, PackError> {
        let mut widest = DType::BF16;
        for role in MATRICES {
            let name = role.name(Some(layer));
            match self.checkpoint.dtype(&name)? {
                DType::F16 => return Err(PackError::Half { tensor: name }),
                DType::F32 => widest = DType::F32,
                DType::BF16 => (),
            }
        }
        Ok(widest)
    }

    /// `[N, 3m, D]` of a layer.
    fn experts(&self, layer: i64) -> Result<Tensor, PackError> {
        let kind = self.dtype(layer)?.kind();
        let [gate, up, down] = MATRICES.map(|role| self.matrix(&role.name(Some(layer)), kind));
        let rows = [gate?, up?, down?.f_tr()?.f_contiguous()?];
        let dim = self.checkpoint.model().hidden_size;
        let rows = rows.map(|rows| rows.f_view([-1, self.size, dim]));
        let [gate, up, down] = rows;
        Ok(Tensor::f_cat(&[gate?, up?, down?], 1)?)
    }

    fn matrix(&self, name: &str, kind: Kind) -> Result<Tensor, PackError> {
        let matrix = self.checkpoint.finite_tensor(name, kind, Device::Cpu)?;
        self.checkpoint.stored(name)?.release();
        Ok(matrix)
    }
}

fn check_router(layer: usize, router: &Router, count: i64, model: &ModelConfig) -> Result<(), PackError> {
    let fits = |what, expected: Vec<i64>, found: Vec<i64>| match expected == found {
        true => Ok(()),
        false => Err(PackError::Router { layer, what, expected, found }),
    };
    fits("a weight of shape", vec![count, model.hidden_size], router.weight.size())?;
    router.bias.as_ref().map_or(Ok(()), |bias| fits("a bias of shape", vec![count], bias.size()))
}
