//! Opens a packed folder and builds a decoder that reads its experts where they are mapped.
//!
//! Mapped and not copied: it is there at once, shared between processes, and not twice in memory. In a stand-alone trial on
//! one core of a busy machine a mapped file was about as fast as a copy in huge pages; that is not a benchmark of this code.

use super::PackError;
use super::header::{EXPERTS_FILE, Header, Names, fingerprint, is_packed_matrix};
use crate::files::mapped::MappedFile;
use crate::files::stored::StoredTensor;
use crate::files::{DType, Error};
use crate::hf::Checkpoint;
use crate::model::parameters::parameters;
use crate::model::{Decoder, ModelConfig, Role};
use crate::native::ops::sparse_feed_forward::PackedExperts;
use crate::native::runtime::mapped_tensor::mapped_tensor;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Whether `folder` is a packed one: whether it has a file of experts.
pub fn is_packed(folder: &Path) -> bool {
    folder.join(EXPERTS_FILE).is_file()
}

/// An open packed folder.
#[derive(Debug)]
pub struct Pack {
    checkpoint: Checkpoint,
    file: Arc<MappedFile>,
    header: Header,
}

impl Pack {
    /// Opens a folder and checks that its files belong together; nothing large is read yet.
    ///
    /// # Errors
    /// A file that is missing, truncated or damaged, another version, experts or routers of another model.
    pub fn open(folder: &Path) -> Result<Pack, PackError> {
        let checkpoint = Checkpoint::open(folder)?;
        let file = MappedFile::open(&folder.join(EXPERTS_FILE))?;
        let header = Header::read(&file)?;
        let pack = Pack { checkpoint, file: Arc::new(file), header };
        pack.check()?;
        Ok(pack)
    }

    /// What config.json says.
    pub fn model(&self) -> &ModelConfig {
        self.checkpoint.model()
    }

    /// The format that the experts are stored in: that of the first packed layer.
    pub fn dtype(&self) -> Option<DType> {
        let layer = self.packed_layers().next()?;
        DType::from_safetensors(self.file.info(&Names::of(layer).experts).ok()?.dtype)
    }

    /// Mean share of the units of packed layers that ran at the end of training, if known.
    pub fn density(&self) -> Option<f64> {
        let of_layers =
            self.packed_layers().map(|layer| self.header.layer_density.get(layer as usize).copied().flatten());
        let known: Option<Vec<f64>> = of_layers.collect();
        let known = known.filter(|known| !known.is_empty());
        known.map(|known| known.iter().sum::<f64>() / known.len() as f64).or(self.header.density)
    }

    /// Numbers of all packed matrices, and of all routers.
    pub fn packed_numbers(&self) -> (i64, i64) {
        let (model, layers) = (self.model(), self.packed_layers().count() as i64);
        let count = model.intermediate_size / self.header.expert_size;
        (layers * 3 * model.intermediate_size * model.hidden_size, layers * count * model.hidden_size)
    }

    /// Layers whose experts are packed.
    fn packed_layers(&self) -> impl Iterator<Item = i64> {
        (0..self.model().num_hidden_layers).filter(|layer| self.is_packed_layer(*layer))
    }

    fn is_packed_layer(&self, layer: i64) -> bool {
        self.file.info(&Names::of(layer).experts).is_ok()
    }

    fn check(&self) -> Result<(), PackError> {
        let model = self.model();
        let expected = parameters(model).into_iter();
        let expected =
            expected.filter(|parameter| !is_packed_matrix(parameter, |layer| self.is_packed_layer(layer as i64)));
        let expected: Vec<_> = expected.map(|parameter| (parameter.name, parameter.shape)).collect();
        let report = self.checkpoint.check(&expected);
        if !report.is_exact() {
            return Err(PackError::Incomplete { folder: self.checkpoint.dir().to_owned(), report: Box::new(report) });
        }
        if fingerprint(&self.checkpoint)? != self.header.weights {
            return Err(PackError::AnotherModel { path: self.file.path().to_owned() });
        }
        self.packed_layers().try_for_each(|layer| self.check_layer(layer))
    }

    fn check_layer(&self, layer: i64) -> Result<(), PackError> {
        let (model, size) = (self.model(), self.header.expert_size);
        let (count, dim, names) = (model.intermediate_size / size, model.hidden_size, Names::of(layer));
        // Where no whole number of experts gives the width, no shape fits.
        let rows = if count * size == model.intermediate_size { 3 * size } else { 0 };
        self.check_tensor(&names.experts, &[count, rows, dim])?;
        self.check_tensor(&names.router, &[count, dim])?;
        match self.file.info(&names.router_bias) {
            Ok(_) => self.check_tensor(&names.router_bias, &[count]),
            Err(_) => Ok(()),
        }
    }

    fn check_tensor(&self, name: &str, expected: &[i64]) -> Result<(), PackError> {
        let (path, found) = (self.file.path(), self.file.shape(name)?);
        if found != expected {
            let expected = expected.to_vec();
            return Err(PackError::Shape { path: path.to_owned(), tensor: name.to_owned(), expected, found });
        }
        let dtype = self.file.info(name)?.dtype;
        match DType::from_safetensors(dtype) {
            Some(DType::F32 | DType::BF16) => Ok(()),
            _ => Err(PackError::File(Error::TensorDtype {
                path: path.to_owned(),
                tensor: name.to_owned(),
                found: dtype.to_string(),
                supported: "F32, BF16",
            })),
        }
    }

    /// A decoder with weights of `kind` on `device`. On the CPU, in the format in which they are stored, experts are read
    /// where they are mapped; otherwise they are copied.
    ///
    /// # Errors
    /// Weights that are not finite, or no memory.
    pub fn decoder(&self, kind: Kind, device: Device) -> Result<Decoder, PackError> {
        let mut packed = |layer| self.is_packed_layer(layer).then(|| self.experts(layer, kind, device)).transpose();
        Decoder::build_packed(self.model(), &mut packed, &mut |name| {
            Ok(self.checkpoint.finite_tensor(name, kind, device)?)
        })
    }

    fn experts(&self, layer: i64, kind: Kind, device: Device) -> Result<PackedExperts, PackError> {
        let names = Names::of(layer);
        let has_bias = self.file.info(&names.router_bias).is_ok();
        let ordinary = |role: Role| {
            let name = role.name(Some(layer));
            let bias = role.is_present(self.model()).then(|| self.checkpoint.finite_tensor(&name, Kind::Float, device));
            bias.transpose()
        };
        Ok(PackedExperts {
            experts: self.tensor(&names.experts, kind, device)?,
            router: Some(self.tensor(&names.router, kind, device)?),
            router_bias: has_bias.then(|| self.tensor(&names.router_bias, Kind::Float, device)).transpose()?,
            gate_bias: ordinary(Role::GateBias)?,
            up_bias: ordinary(Role::UpBias)?,
            down_bias: ordinary(Role::DownBias)?,
        })
    }

    /// A tensor of the experts' file, in place if it can be. Looking whether its numbers are finite brings all of it into
    /// memory, which is then not waited for while decoding.
    fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor, PackError> {
        let (shape, dtype) = (self.file.shape(name)?, self.file.info(name)?.dtype);
        let dtype = DType::from_safetensors(dtype).unwrap_or_default();
        let stored = StoredTensor::new(&self.file, name, &shape, dtype)?;
        stored.will_need(0..stored.bytes().len());
        stored.require_finite()?;
        let aligned = stored.bytes().as_ptr().addr().is_multiple_of(dtype.bytes() as usize);
        if device == Device::Cpu && kind == dtype.kind() && aligned {
            // The length is that of the shape: it was checked with the header.
            return Ok(mapped_tensor(&self.file, |file| file.bytes(name).unwrap_or(&[]), &shape, kind)?);
        }
        Ok(self.file.tensor(name, Some(kind), device)?)
    }
}
