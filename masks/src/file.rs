//! The mask file: one safetensors file with the leaves of a [`MaskSet`] and, as JSON metadata, everything needed to read it.
//!
//! Tensors, all F32: `log_alpha.<module>` of the mask's shape, `lambda_1.<module>` and `lambda_2.<module>` of shape `[]`.
//! Metadata key `shearling_masks`: format version, source and target shape, constants, warm-up. A file is written whole or
//! not at all; a file that is read is taken as hostile until everything in it agrees with its own description.

use crate::deterministic::Deterministic;
use crate::error::{Error, Result};
use crate::gates::cpu_values;
use crate::gating::Gating;
use crate::hard_concrete::HardConcrete;
use crate::mask_set::{Mask, MaskSet};
use crate::shape::Shape;
use crate::spec::{MaskSpec, ModuleSpec};
use crate::top_k::TopK;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use tch::Device;

/// Hard-concrete masks as in the original. Programs that know no other refuse what came later by its version.
const HARD_CONCRETE_VERSION: u64 = 1;
/// Hard-concrete masks with options, and top-k ones.
const TOP_K_VERSION: u64 = 2;
/// Masks of any parametrisation.
const FORMAT_VERSION: u64 = 3;
const METADATA_KEY: &str = "shearling_masks";
/// Far beyond any decoder of today (126 layers of width 53,248 make 27 MB); anything larger is some other file.
const LARGEST_FILE_BYTES: u64 = 256 << 20;

/// What the metadata holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u64,
    source: Shape,
    target: Shape,
    /// Of hard-concrete gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    constants: Option<HardConcrete>,
    /// Of top-k gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_k: Option<TopK>,
    /// Of deterministic gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deterministic: Option<Deterministic>,
    /// Finished steps of the schedule of gates that have one.
    #[serde(default, skip_serializing_if = "is_zero")]
    finished: u64,
    warmup_steps: u64,
}

fn is_zero(steps: &u64) -> bool {
    *steps == 0
}

/// Read first: a later format may have other fields.
#[derive(Deserialize)]
struct FormatVersion {
    version: u64,
}

impl MaskSet {
    /// Writes the masks to `path`: first a temporary sibling, then a rename, so that `path` is always whole.
    ///
    /// # Errors
    /// Values that are not finite, for the file could not be read again; whatever the file system refuses. Nothing is left
    /// behind then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let container = |source| Error::Container { path: path.into(), source };
        let stored = self.masks().iter().map(Stored::of_mask).collect::<Result<Vec<_>>>()?;
        let stored: Vec<&Stored> = stored.iter().flatten().collect();
        let views = stored.iter().map(|tensor| Ok((&tensor.name, tensor.view().map_err(container)?)));
        let views = views.collect::<Result<Vec<_>>>()?;
        let bytes = safetensors::serialize(views, Some(self.metadata(path)?)).map_err(container)?;
        write_whole(path, &bytes)
    }

    /// Reads masks from `path` to a device.
    ///
    /// # Errors
    /// A file that cannot be read, is truncated or no mask file, has another version, or holds anything that does not agree
    /// with its description; the message names the file and the key.
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<MaskSet> {
        let path = path.as_ref();
        let bytes = read_bounded(path)?;
        let container = |source| Error::Container { path: path.into(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(container)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(container)?;
        let description = Description::read(path, header.metadata().as_ref())?;
        let described = |source| Error::Described { path: path.into(), key: METADATA_KEY, source: Box::new(source) };
        let spec = MaskSpec::new(&description.source, &description.target).map_err(described)?;
        let gating = description.gating(path)?;
        gating.check().map_err(described)?;
        let values = read_tensors(path, &spec, &tensors)?;
        let masks = spec.modules().iter().map(|module| mask_from(module, &values, device));
        let masks = masks.collect::<Result<Vec<Mask>>>()?;
        MaskSet::from_masks(spec, gating, description.warmup_steps, description.finished, device, masks)
    }

    fn metadata(&self, path: &Path) -> Result<HashMap<String, String>> {
        let mut description = Description {
            version: HARD_CONCRETE_VERSION,
            source: self.spec.source().clone(),
            target: self.spec.target().clone(),
            constants: None,
            top_k: None,
            deterministic: None,
            finished: if self.gating.has_schedule() { self.finished } else { 0 },
            warmup_steps: self.warmup_steps,
        };
        match self.gating.clone() {
            Gating::HardConcrete(constants) => {
                if !constants.options.are_published() {
                    description.version = TOP_K_VERSION;
                }
                description.constants = Some(constants);
            }
            Gating::TopK(schedule) => {
                description.version = TOP_K_VERSION;
                description.top_k = Some(schedule);
            }
            Gating::Deterministic(constants) => {
                description.version = FORMAT_VERSION;
                description.deterministic = Some(constants);
            }
        }
        let text = serde_json::to_string(&description).map_err(|error| bad_metadata(path, error.to_string()))?;
        Ok(HashMap::from([(METADATA_KEY.to_owned(), text)]))
    }
}

impl Description {
    fn read(path: &Path, metadata: Option<&HashMap<String, String>>) -> Result<Description> {
        let missing = || bad_metadata(path, "is missing: this safetensors file holds no masks".to_owned());
        let text = metadata.and_then(|metadata| metadata.get(METADATA_KEY)).ok_or_else(missing)?;
        let malformed = |error: serde_json::Error| bad_metadata(path, format!("is malformed: {error}"));
        let FormatVersion { version: found } = serde_json::from_str(text).map_err(malformed)?;
        if !(HARD_CONCRETE_VERSION..=FORMAT_VERSION).contains(&found) {
            return Err(Error::Version { path: path.into(), found, supported: FORMAT_VERSION });
        }
        serde_json::from_str(text).map_err(malformed)
    }
}

impl Description {
    /// The one parametrisation that is described.
    fn gating(&self, path: &Path) -> Result<Gating> {
        match (&self.constants, &self.top_k, &self.deterministic) {
            (Some(constants), None, None) => Ok(constants.clone().into()),
            (None, Some(schedule), None) => Ok(schedule.clone().into()),
            (None, None, Some(constants)) => Ok(constants.clone().into()),
            _ => {
                let problem = "needs exactly one of `constants`, `top_k` and `deterministic`";
                Err(bad_metadata(path, problem.to_owned()))
            }
        }
    }
}

fn bad_metadata(path: &Path, problem: String) -> Error {
    Error::Metadata { path: path.into(), key: METADATA_KEY, problem }
}

/// A tensor as it is stored.
struct Stored {
    name: String,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn of_mask(mask: &Mask) -> Result<Vec<Stored>> {
        let tensors = [&mask.log_alpha, &mask.lambda_1, &mask.lambda_2];
        let stored = layout(&mask.spec).into_iter().zip(tensors).map(|((name, dims), tensor)| {
            let values = cpu_values(tensor)?;
            if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::NonFinite { unit: name, value });
            }
            Ok(Stored { name, dims, bytes: values.into_iter().flat_map(f32::to_le_bytes).collect() })
        });
        stored.collect()
    }

    fn view(&self) -> std::result::Result<TensorView<'_>, SafeTensorError> {
        TensorView::new(Dtype::F32, self.dims.clone(), &self.bytes)
    }
}

/// Names and shapes of a module's three tensors.
fn layout(spec: &ModuleSpec) -> [(String, Vec<usize>); 3] {
    let dims = spec.dims().into_iter().map(|dim| dim as usize).collect();
    [
        (format!("log_alpha.{}", spec.module), dims),
        (format!("lambda_1.{}", spec.module), Vec::new()),
        (format!("lambda_2.{}", spec.module), Vec::new()),
    ]
}

/// The values of every tensor of the spec, or all that is wrong with them.
fn read_tensors(path: &Path, spec: &MaskSpec, tensors: &SafeTensors<'_>) -> Result<HashMap<String, Vec<f32>>> {
    let expected: BTreeMap<String, Vec<usize>> = spec.modules().iter().flat_map(layout).collect();
    let (mut values, mut problems) = (HashMap::new(), Vec::new());
    for (name, dims) in &expected {
        match read_tensor(tensors, name, dims) {
            Ok(found) => _ = values.insert(name.clone(), found),
            Err(problem) => problems.push(format!("`{name}` {problem}")),
        }
    }
    let superfluous: BTreeSet<&str> =
        tensors.names().into_iter().filter(|name| !expected.contains_key(*name)).collect();
    problems.extend(superfluous.iter().map(|name| format!("`{name}` belongs to no mask of the described shapes")));
    if problems.is_empty() { Ok(values) } else { Err(Error::Tensors { path: path.into(), problems }) }
}

fn read_tensor(tensors: &SafeTensors<'_>, name: &str, dims: &[usize]) -> std::result::Result<Vec<f32>, String> {
    let view = tensors.tensor(name).map_err(|_| "is missing".to_owned())?;
    if view.dtype() != Dtype::F32 {
        return Err(format!("has type {}, expected F32", view.dtype()));
    }
    if view.shape() != dims {
        return Err(format!("has shape {:?}, expected {dims:?}", view.shape()));
    }
    let (chunks, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(format!("holds {} at element {at}, expected finite numbers", values[at])),
    }
}

fn mask_from(spec: &ModuleSpec, values: &HashMap<String, Vec<f32>>, device: Device) -> Result<Mask> {
    let [log_alpha, lambda_1, lambda_2] =
        layout(spec).map(|(name, _)| values.get(&name).map_or(&[][..], Vec::as_slice));
    let scalar = |value: &[f32]| value.first().copied().unwrap_or_default();
    Mask::new(spec, log_alpha, [scalar(lambda_1), scalar(lambda_2)], device)
}

/// The whole file, unless it is no regular file or larger than any mask file.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let not_a_mask_file = |problem: String| Error::NotAMaskFile { path: path.into(), problem };
    let io_error = |source| Error::Io { operation: "read", path: path.into(), source };
    let about = fs::metadata(path).map_err(io_error)?;
    if !about.is_file() {
        return Err(not_a_mask_file("it is not a regular file".to_owned()));
    }
    if about.len() > LARGEST_FILE_BYTES {
        return Err(not_a_mask_file(format!("it has {} bytes, more than any mask file", about.len())));
    }
    let mut bytes = Vec::new();
    // Limited again: the file may grow while it is read.
    File::open(path).map_err(io_error)?.take(LARGEST_FILE_BYTES).read_to_end(&mut bytes).map_err(io_error)?;
    Ok(bytes)
}

/// Writes a file so that `path` names either its former content or all of the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    shearling_staging::write_whole(path, |file| {
        file.write_all(bytes).map_err(|source| Error::Io { operation: "write", path: path.into(), source })
    })
}
