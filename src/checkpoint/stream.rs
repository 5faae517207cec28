//! Writes one safetensors file tensor by tensor: shapes and dtypes are known beforehand, so the header goes first and each
//! tensor's bytes go straight to their place. Memory: one piece of one tensor.
//!
//! Inside the file, tensors of wider elements come first: with the header padded to 8 bytes every tensor is then aligned to its
//! elements, which readers in Python rely on. The header is built in a fixed order, so equal content gives equal bytes.

use super::dtype::kind_of;
use super::{Error, Result};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Elements converted and copied at a time.
const PIECE: i64 = 1 << 22;

/// One tensor of the file to come.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) dtype: Dtype,
}

impl Slot {
    /// Bytes of the tensor; `None` for a shape that cannot be.
    pub(super) fn bytes(&self) -> Option<u64> {
        let numel = self.shape.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?))?;
        numel.checked_mul(self.dtype.bitsize() as u64 / 8)
    }
}

/// A safetensors file being written.
#[derive(Debug)]
pub(super) struct SafetensorsStream {
    path: PathBuf,
    file: File,
    slots: Vec<Slot>,
    /// Absolute position of each slot's data in the file.
    starts: Vec<u64>,
    next: usize,
}

impl SafetensorsStream {
    /// Writes the header into an empty file; `path` is for messages.
    pub(super) fn begin(
        mut file: File,
        path: &Path,
        slots: Vec<Slot>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let offsets = lay_out(&slots, path)?;
        let mut header = header_json(&slots, &offsets, metadata).into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let write = |file: &mut File| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)
        };
        write(&mut file).map_err(Error::io("write", path))?;
        let data_start = 8 + header.len() as u64;
        let starts = offsets.iter().map(|(start, _)| data_start + start).collect();
        Ok(Self { path: path.to_owned(), file, slots, starts, next: 0 })
    }

    /// The slot that the next tensor must fill.
    pub(super) fn expected(&self) -> Option<&Slot> {
        self.slots.get(self.next)
    }

    /// Writes the next tensor, converted to its slot's dtype.
    pub(super) fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let slot = match self.expected() {
            Some(slot) if slot.name == name => slot,
            Some(slot) => {
                return Err(Error::tensor(&self.path, name, format!("out of order; `{}` comes next", slot.name)));
            }
            None => return Err(Error::tensor(&self.path, name, "not planned; all planned tensors are written")),
        };
        if slot.shape != tensor.size() {
            let problem = format!("has shape {:?}, planned was {:?}", tensor.size(), slot.shape);
            return Err(Error::tensor(&self.path, name, problem));
        }
        let kind =
            kind_of(slot.dtype).ok_or_else(|| Error::tensor(&self.path, name, "planned with an unknown dtype"))?;
        self.file.seek(SeekFrom::Start(self.starts[self.next])).map_err(Error::io("write", &self.path))?;
        write_elements(&mut self.file, &self.path, name, tensor, kind)?;
        self.next += 1;
        Ok(())
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// Planned tensors have not been written.
    pub(super) fn finish(self) -> Result<()> {
        if let Some(slot) = self.expected() {
            return Err(Error::tensor(&self.path, &slot.name, "planned but not written"));
        }
        self.file.sync_all().map_err(Error::io("flush", &self.path))
    }
}

/// Start and end of each slot in the data part.
fn lay_out(slots: &[Slot], path: &Path) -> Result<Vec<(u64, u64)>> {
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|slot| std::cmp::Reverse(slots[*slot].dtype.bitsize()));
    let mut offsets = vec![(0, 0); slots.len()];
    let mut end = 0u64;
    for index in order {
        let start = end;
        let after = slots[index].bytes().and_then(|bytes| start.checked_add(bytes));
        let impossible = || format!("impossible shape {:?}", slots[index].shape);
        end = after.ok_or_else(|| Error::tensor(path, &slots[index].name, impossible()))?;
        offsets[index] = (start, end);
    }
    Ok(offsets)
}

fn header_json(slots: &[Slot], offsets: &[(u64, u64)], metadata: &BTreeMap<String, String>) -> String {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    for (slot, (start, end)) in slots.iter().zip(offsets) {
        let entry = json!({"dtype": slot.dtype, "shape": slot.shape, "data_offsets": [start, end]});
        header.insert(slot.name.clone(), entry);
    }
    Value::Object(header).to_string()
}

fn write_elements(file: &mut File, path: &Path, name: &str, tensor: &Tensor, kind: Kind) -> Result<()> {
    let numel = tensor.numel() as i64;
    let flat = tensor.f_detach().and_then(|t| t.f_contiguous()).and_then(|t| t.f_view([numel]));
    let flat = flat.map_err(Error::torch("flatten", name))?;
    let mut buffer = vec![0u8; PIECE.min(numel) as usize * kind.elt_size_in_bytes()];
    for start in (0..numel).step_by(PIECE as usize) {
        let length = PIECE.min(numel - start);
        let bytes = &mut buffer[..length as usize * kind.elt_size_in_bytes()];
        let piece = flat.f_narrow(0, start, length).and_then(|t| t.f_to_kind(kind));
        piece.and_then(|t| t.f_copy_data_u8(bytes, length as usize)).map_err(Error::torch("read out", name))?;
        file.write_all(bytes).map_err(Error::io("write", path))?;
    }
    Ok(())
}
