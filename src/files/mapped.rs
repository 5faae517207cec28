//! One safetensors file, memory-mapped: opening it reads the header only, a tensor is copied when it is asked for, once,
//! to where it is wanted.
//!
//! Format: 8 bytes header length (little endian), a JSON header `{name: {dtype, shape, data_offsets}}`, the data. The
//! `safetensors` crate checks the header (length, offsets without gaps or overlaps, sizes that match shapes, total size of the
//! file); what remains to check here is what libtorch cannot hold.

use super::dtype::{STATE_DTYPES, kind_of};
use super::{Error, Result, impostor};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// Bytes that are asked for at a time: of a longer request Linux reads no more than its window for reading ahead, which
/// has this size unless somebody chose a larger one.
const READ_BYTES: usize = 128 << 10;

/// An open safetensors file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Where the data begins in the file.
    data_start: usize,
    metadata: Metadata,
}

impl MappedFile {
    /// Maps a file and checks its header against its size.
    pub(crate) fn open(path: &Path) -> Result<MappedFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only. If another process shortens the file while it is mapped, a read past its new end kills
        // this process; files of a checkpoint are replaced by renaming, never rewritten in place, by us and by safetensors.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        // Tensors are read front to back. Without this, Linux stops reading ahead for a map after a number of misses, and
        // every page becomes a request of its own.
        let _ = map.advise(Advice::Sequential);
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(&map).map_err(|source| match impostor::recognise(path) {
                Some(what) => Error::Impostor { path: path.to_owned(), what },
                None => Error::Safetensors { path: path.to_owned(), bytes: map.len() as u64, source },
            })?;
        Ok(MappedFile { path: path.to_owned(), map, data_start: 8 + header_bytes, metadata })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in the order of their data.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The free key-value pairs of the header.
    pub(crate) fn header_metadata(&self) -> BTreeMap<String, String> {
        self.metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The header entry of a tensor.
    pub(crate) fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata.info(name).ok_or_else(|| Error::tensor(&self.path, name, "not in this file"))
    }

    /// The shape of a tensor as libtorch counts.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<i64>> {
        let dims = self.info(name)?.shape.iter().map(|dim| i64::try_from(*dim));
        dims.collect::<Result<_, _>>().map_err(|_| Error::tensor(&self.path, name, "a dimension exceeds 63 bits"))
    }

    /// The bytes of a tensor as they lie in the file; not necessarily aligned to its elements.
    pub(crate) fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (start, end) = self.info(name)?.data_offsets;
        Ok(&self.map[self.data_start + start..self.data_start + end])
    }

    /// Copies a tensor to a device, in the kind asked for or else the one it is stored in.
    pub(crate) fn tensor(&self, name: &str, kind: Option<Kind>, device: Device) -> Result<Tensor> {
        let info = self.info(name)?;
        let stored = kind_of(info.dtype).ok_or_else(|| Error::TensorDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found: info.dtype.to_string(),
            supported: STATE_DTYPES,
        })?;
        let bytes = self.bytes(name)?;
        self.will_need(bytes, 0..bytes.len());
        let copied = copy_out(bytes, &self.shape(name)?, stored, kind.unwrap_or(stored), device);
        copied.map_err(Error::torch("copy or convert", name))
    }

    /// Lets the system begin to read a part of `bytes`, which are a tensor's. Only advice: what the system makes of it is
    /// no matter of correctness.
    pub(crate) fn will_need(&self, bytes: &[u8], part: Range<usize>) {
        let (begin, end) = (self.offset(bytes) + part.start, self.offset(bytes) + part.end);
        for start in (begin..end).step_by(READ_BYTES) {
            let _ = self.map.advise_range(Advice::WillNeed, start, READ_BYTES.min(end - start));
        }
    }

    /// Takes the pages of a tensor's `bytes` out of this process's resident set; they are read again if they are used
    /// again.
    pub(crate) fn release(&self, bytes: &[u8]) {
        let (start, length) = (self.offset(bytes), bytes.len());
        // SAFETY: the map is read-only and backed by its file, so a page that was dropped comes back with the same bytes.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
    }

    /// The same for the whole file.
    pub(crate) fn release_all(&self) {
        self.release(&self.map);
    }

    /// Where bytes of the map begin in it.
    fn offset(&self, bytes: &[u8]) -> usize {
        bytes.as_ptr().addr() - self.map.as_ptr().addr()
    }
}

/// Copies mapped bytes to a device and kind, carrying the fewer bytes across; on the CPU there is no copy in between.
fn copy_out(bytes: &[u8], shape: &[i64], stored: Kind, kind: Kind, device: Device) -> Result<Tensor, TchError> {
    let aligned = bytes.as_ptr().addr().is_multiple_of(stored.elt_size_in_bytes());
    let tensor = if aligned {
        // SAFETY: the bytes are a whole tensor of this shape (checked with the header), are only read, and outlive the
        // view: all that leaves this function is a copy.
        unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &[], stored, Device::Cpu) }?
    } else {
        // The format allows data that is not aligned to its elements, libtorch's kernels do not.
        Tensor::f_from_data_size(bytes, shape, stored)?
    };
    if device == Device::Cpu {
        return tensor.f_to_dtype(kind, false, true);
    }
    if kind.elt_size_in_bytes() < stored.elt_size_in_bytes() {
        tensor.f_to_kind(kind)?.f_to_device(device)
    } else {
        tensor.f_to_device(device)?.f_to_kind(kind)
    }
}
