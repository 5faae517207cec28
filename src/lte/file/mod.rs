//! `lte.safetensors` beside the weights of a model: how units are grouped, and the routers.
//!
//! ```text
//! __metadata__.shearling_lte      JSON: version, sizes, grouping, seed, stage, densities, and a line per layer
//! layers.{l}.permutation          [F]     I64
//! layers.{l}.router.weight        [N, D]  F32 or BF16, of layers with a router
//! layers.{l}.router.bias          [N]     F32, of routers with a bias; files of earlier versions have it as the weight
//! ```
//!
//! Written whole or not at all; what is read is taken as hostile until all of it agrees with the model's config.json.
//! docs/formats/lte.md is the page for users.

mod description;

use self::description::{Description, METADATA_KEY, RouterDescription, problem};
use super::experts::{Experts, LayerExperts};
use crate::files::dtype::kind_of;
use crate::files::mapped::MappedFile;
use crate::files::{DType, Error, Result, TensorFile};
use crate::hf::ModelConfig;
use crate::model::router::Router;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Its name in a model's folder.
pub const FILE_NAME: &str = "lte.safetensors";

/// Whether a folder says that its model is grouped.
pub fn is_lte(folder: &Path) -> bool {
    // Also a link that leads nowhere: somebody's experts belong to these weights.
    folder.join(FILE_NAME).symlink_metadata().is_ok()
}

/// Writes `experts` into `folder`, router weights in `dtype`. Biases stay fp32: the density hangs on them, and they were never rounded
/// in training.
///
/// # Errors
/// Anything that [`read`] would refuse; fp16, in which routers are not stored; the disk's.
pub fn write(folder: &Path, experts: &Experts, dtype: DType) -> Result<()> {
    let path = folder.join(FILE_NAME);
    let text = Description::of(experts).to_text(&path)?;
    if dtype == DType::F16 {
        return Err(Error::Unsupported {
            path,
            key: "dtype of the routers".to_string(),
            found: dtype.name().to_string(),
            supported: "fp32, bf16".to_string(),
        });
    }
    let mut tensors = Vec::new();
    for (layer, of_layer) in experts.layers.iter().enumerate() {
        let name = permutation_name(layer);
        let order: Vec<i64> = of_layer.permutation.iter().map(|unit| i64::from(*unit)).collect();
        check_permutation(&order, experts.living_units, experts.experts() * experts.expert_size)
            .map_err(|problem| Error::tensor(&path, &name, problem))?;
        tensors.push((name.clone(), Tensor::f_from_slice(&order).map_err(Error::torch("make", &name))?));
        let Some(router) = &of_layer.router else { continue };
        let weight = std::iter::once((weight_name(layer), &router.weight, dtype));
        let bias = router.bias.iter().map(|bias| (bias_name(layer), bias, DType::F32));
        for (name, tensor, dtype) in weight.chain(bias) {
            let stored = stored(tensor, dtype).map_err(Error::torch("convert", &name))?;
            require_finite(&path, &name, &stored)?;
            tensors.push((name, stored));
        }
        check_experts(&path, layer, router, experts.experts())?;
    }
    TensorFile::write(&path, &tensors, &BTreeMap::from([(METADATA_KEY.to_owned(), text)]))
}

/// The experts in `folder`, whose `config.json` means `model`; `None` where there are none. Routers are fp32, on `device`.
///
/// # Errors
/// A file that is damaged, of another version, or at odds with itself or with `model`; the message names file and key.
pub fn read(folder: &Path, model: &ModelConfig, device: Device) -> Result<Option<Experts>> {
    if !is_lte(folder) {
        return Ok(None);
    }
    let path = folder.join(FILE_NAME);
    // A pipe would be waited for.
    if path.is_dir() || path.exists() && !path.is_file() {
        return Err(Error::Impostor { path, what: "no regular file".to_string() });
    }
    let file = MappedFile::open(&path)?;
    let header = file.header_metadata();
    let missing = || problem(&path, "", "is missing: this safetensors file holds no experts".to_string());
    let description = Description::parse(&path, header.get(METADATA_KEY).ok_or_else(missing)?)?;
    description.check_model(&path, model)?;
    check_names(&file, &description)?;
    let layers = description.layers.iter().enumerate().map(|(layer, of_layer)| {
        let router =
            of_layer.router.as_ref().map(|router| read_router(&file, layer, router, &description, model, device));
        Ok(LayerExperts {
            permutation: read_permutation(&file, layer, &description, model)?,
            inertia: of_layer.inertia,
            router: router.transpose()?,
            density: of_layer.density,
        })
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    Ok(Some(Experts {
        expert_size: description.expert_size,
        living_units: description.living_units,
        grouping: description.grouping,
        seed: description.seed,
        stage: description.stage,
        density: description.density,
        layers,
    }))
}

fn permutation_name(layer: usize) -> String {
    format!("layers.{layer}.permutation")
}

fn weight_name(layer: usize) -> String {
    format!("layers.{layer}.router.weight")
}

fn bias_name(layer: usize) -> String {
    format!("layers.{layer}.router.bias")
}

/// Refuses tensors that the description does not ask for; those that are missing are refused where they are read.
fn check_names(file: &MappedFile, description: &Description) -> Result<()> {
    let mut expected = BTreeSet::new();
    for (layer, of_layer) in description.layers.iter().enumerate() {
        expected.insert(permutation_name(layer));
        let Some(router) = &of_layer.router else { continue };
        expected.insert(weight_name(layer));
        if router.bias {
            expected.insert(bias_name(layer));
        }
    }
    match file.names().into_iter().find(|name| !expected.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::tensor(file.path(), &name, format!("is nothing that `{METADATA_KEY}` speaks of"))),
    }
}

fn read_permutation(
    file: &MappedFile,
    layer: usize,
    description: &Description,
    model: &ModelConfig,
) -> Result<Vec<u32>> {
    let name = permutation_name(layer);
    let tensor = checked(file, &name, &[model.intermediate_size], &[Kind::Int64], "I64", Device::Cpu)?;
    let order: Vec<i64> = Vec::try_from(tensor).map_err(Error::torch("read", &name))?;
    check_permutation(&order, description.living_units, model.intermediate_size)
        .map_err(|problem| Error::tensor(file.path(), &name, problem))
}

/// A permutation of the living units followed by the padded ones in their order, or what is wrong with it.
fn check_permutation(order: &[i64], living: i64, all: i64) -> Result<Vec<u32>, String> {
    if order.len() as i64 != all {
        return Err(format!("has {} units, expected {all}", order.len()));
    }
    let mut seen = vec![false; order.len()];
    let mut units = Vec::with_capacity(order.len());
    for (place, unit) in order.iter().copied().enumerate() {
        let is_padding = place as i64 >= living;
        let fits = if is_padding { unit == place as i64 } else { (0..living).contains(&unit) };
        let (true, Ok(known)) = (fits, u32::try_from(unit)) else {
            let expected = if is_padding {
                format!("{place} (a padded unit)")
            } else {
                format!("a unit from 0 to {}", living - 1)
            };
            return Err(format!("holds {unit} at {place}, expected {expected}"));
        };
        if std::mem::replace(&mut seen[unit as usize], true) {
            return Err(format!("is no permutation: unit {unit} is in it twice"));
        }
        units.push(known);
    }
    Ok(units)
}

fn read_router(
    file: &MappedFile,
    layer: usize,
    router: &RouterDescription,
    description: &Description,
    model: &ModelConfig,
    device: Device,
) -> Result<Router> {
    let experts = description.experts();
    let read = |name: String, shape: &[i64]| {
        let tensor = checked(file, &name, shape, &[Kind::Float, Kind::BFloat16], "F32, BF16", device)?;
        require_finite(file.path(), &name, &tensor)?;
        tensor.f_to_kind(Kind::Float).map_err(Error::torch("convert", &name))
    };
    let bias = router.bias.then(|| read(bias_name(layer), &[experts]));
    Ok(Router { weight: read(weight_name(layer), &[experts, model.hidden_size])?, bias: bias.transpose()? })
}

/// A tensor of the file, if it has the shape and one of the kinds; nothing is copied before that is known.
fn checked(
    file: &MappedFile,
    name: &str,
    shape: &[i64],
    kinds: &[Kind],
    supported: &'static str,
    device: Device,
) -> Result<Tensor> {
    let found = file.shape(name)?;
    if found != shape {
        return Err(Error::tensor(file.path(), name, format!("has shape {found:?}, expected {shape:?}")));
    }
    let dtype = file.info(name)?.dtype;
    if !kind_of(dtype).is_some_and(|kind| kinds.contains(&kind)) {
        return Err(Error::TensorDtype {
            path: file.path().to_owned(),
            tensor: name.to_owned(),
            found: dtype.to_string(),
            supported,
        });
    }
    file.tensor(name, None, device)
}

fn stored(tensor: &Tensor, dtype: DType) -> Result<Tensor, tch::TchError> {
    let _no_grad = tch::no_grad_guard();
    tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(dtype.kind())?.f_contiguous()
}

fn require_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    let finite = tensor.f_isfinite().and_then(|finite| finite.f_all()?.f_int64_value(&[]));
    match finite.map_err(Error::torch("look at", name))? {
        0 => Err(Error::tensor(path, name, "holds numbers that are not finite")),
        _ => Ok(()),
    }
}

/// Whether a router that is written is one of N experts.
fn check_experts(path: &Path, layer: usize, router: &Router, experts: i64) -> Result<()> {
    let weight = router.weight.size();
    if weight.len() != 2 || weight[0] != experts {
        let problem = format!("has shape {weight:?}, expected {experts} experts of hidden_size");
        return Err(Error::tensor(path, &weight_name(layer), problem));
    }
    match router.bias.as_ref().map(Tensor::size) {
        Some(bias) if bias != [experts] => {
            Err(Error::tensor(path, &bias_name(layer), format!("has shape {bias:?}, expected [{experts}]")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
