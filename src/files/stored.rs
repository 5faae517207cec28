//! A weight as it lies in its mapped file: for work that reads it once and needs no tensor, as fold and slice does.

use super::finite::non_finite;
use super::mapped::MappedFile;
use super::{DType, Error, Result};
use std::ops::Range;

/// One tensor of a [`Checkpoint`](crate::hf::Checkpoint), not copied.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    file: &'a MappedFile,
    name: &'a str,
    shape: &'a [i64],
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    pub(crate) fn new(file: &'a MappedFile, name: &'a str, shape: &'a [i64], dtype: DType) -> Result<StoredTensor<'a>> {
        Ok(StoredTensor { file, name, shape, dtype, bytes: file.bytes(name)? })
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &'a [i64] {
        self.shape
    }

    /// The format of its numbers.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its numbers, little endian, row-major; not necessarily aligned.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Refuses numbers that are not finite: nothing that is computed with them means anything.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with their number and place.
    pub fn require_finite(&self) -> Result<()> {
        let Some(found) = non_finite(self.bytes, self.dtype) else { return Ok(()) };
        Err(Error::NonFinite {
            path: self.file.path().to_owned(),
            tensor: self.name.to_owned(),
            nan: found.nan,
            infinite: found.infinite,
            numbers: self.bytes.len() / self.dtype.bytes() as usize,
            first: found.first,
            float16: self.dtype == DType::F16,
        })
    }

    /// Lets the system begin to read a part of its bytes from the disk, while something else is worked on.
    pub fn will_need(&self, part: Range<usize>) {
        self.file.will_need(self.bytes, part);
    }

    /// Takes its pages out of this process's resident memory; they are read again if they are used again.
    pub fn release(&self) {
        self.file.release(self.bytes);
    }
}
