//! One safetensors file, memory-mapped: opening it reads the header only, a tensor is copied when it is asked for.
//!
//! Format: 8 bytes header length (little endian), a JSON header `{name: {dtype, shape, data_offsets}}`, the data. The
//! `safetensors` crate checks the header (length, offsets without gaps or overlaps, sizes that match shapes, total size of the
//! file); what remains to check here is what libtorch cannot hold.

use super::dtype::{STATE_DTYPES, kind_of};
use super::{Error, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// An open safetensors file.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Where the data begins in the file.
    data_start: usize,
    metadata: Metadata,
}

impl MappedFile {
    /// Maps a file and checks its header against its size.
    pub(super) fn open(path: &Path) -> Result<MappedFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only. If another process shortens the file while it is mapped, a read past its new end kills
        // this process; files of a checkpoint are replaced by renaming, never rewritten in place, by us and by safetensors.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(|source| Error::Safetensors {
            path: path.to_owned(),
            bytes: map.len() as u64,
            source,
        })?;
        Ok(MappedFile { path: path.to_owned(), map, data_start: 8 + header_bytes, metadata })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in the order of their data.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The free key-value pairs of the header.
    pub(super) fn header_metadata(&self) -> BTreeMap<String, String> {
        self.metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The header entry of a tensor.
    pub(super) fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata.info(name).ok_or_else(|| Error::tensor(&self.path, name, "not in this file"))
    }

    /// The shape of a tensor as libtorch counts.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let dims = self.info(name)?.shape.iter().map(|dim| i64::try_from(*dim));
        dims.collect::<Result<_, _>>().map_err(|_| Error::tensor(&self.path, name, "a dimension exceeds 63 bits"))
    }

    /// Copies a tensor out of the file, in the kind it is stored in.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let kind = kind_of(info.dtype).ok_or_else(|| Error::TensorDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found: info.dtype.to_string(),
            supported: STATE_DTYPES,
        })?;
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        // libtorch copies bytes, so data that is not aligned to its elements (allowed by the format) is fine.
        Tensor::f_from_data_size(bytes, &self.shape(name)?, kind).map_err(Error::torch("read", name))
    }
}

/// Moves a tensor to a device and kind, carrying the fewer bytes across.
pub(super) fn place(tensor: Tensor, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
    let shrinks = kind.elt_size_in_bytes() < tensor.kind().elt_size_in_bytes();
    let placed = if shrinks {
        tensor.f_to_kind(kind).and_then(|t| t.f_to_device(device))
    } else {
        tensor.f_to_device(device).and_then(|t| t.f_to_kind(kind))
    };
    placed.map_err(Error::torch("convert or move", name))
}
