//! Writes one safetensors file tensor by tensor: shapes and dtypes are known beforehand, so the header goes first and each
//! tensor's bytes go straight to their place, from several threads if need be. Memory: one piece of one tensor.
//!
//! Inside the file, tensors of wider elements come first: with the header padded to 8 bytes every tensor is then aligned to its
//! elements, which readers in Python rely on. The header is built in a fixed order, so equal content gives equal bytes.

use super::dtype::kind_of;
use super::{Error, Result};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::Tensor;

/// Elements converted and copied at a time.
const PIECE: i64 = 1 << 22;
/// What the data begins at a multiple of, in bytes: of the widest numbers.
const HEADER_ALIGNMENT: usize = 8;
/// Of a cache line.
const LINE_ALIGNMENT: usize = 64;

/// One tensor of the file to come.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) dtype: Dtype,
}

impl Slot {
    /// Bytes of the tensor; `None` for a shape that cannot be.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let numel = self.shape.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?))?;
        numel.checked_mul(self.dtype.bitsize() as u64 / 8)
    }
}

/// A safetensors file being written.
#[derive(Debug)]
pub(crate) struct SafetensorsStream {
    path: PathBuf,
    file: File,
    slots: Vec<Slot>,
    /// Absolute position of each slot's data in the file.
    starts: Vec<u64>,
    next: usize,
}

impl SafetensorsStream {
    /// Writes the header into an empty file; `path` is for messages.
    pub(crate) fn begin(
        file: File,
        path: &Path,
        slots: Vec<Slot>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|slot| std::cmp::Reverse(slots[*slot].dtype.bitsize()));
        Self::begin_with(file, path, slots, &order, HEADER_ALIGNMENT, metadata)
    }

    /// The same with the tensors in the order of `slots` and the first of them at a multiple of 64 bytes, for a file that is
    /// mapped and computed with in place. A tensor after ones of such multiples is at one too.
    pub(crate) fn begin_in_order(
        file: File,
        path: &Path,
        slots: Vec<Slot>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let order: Vec<usize> = (0..slots.len()).collect();
        Self::begin_with(file, path, slots, &order, LINE_ALIGNMENT, metadata)
    }

    fn begin_with(
        mut file: File,
        path: &Path,
        slots: Vec<Slot>,
        order: &[usize],
        alignment: usize,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let offsets = lay_out(&slots, order, path)?;
        let mut header = header_json(&slots, &offsets, metadata).into_bytes();
        // The length before it has 8 bytes.
        header.resize((8 + header.len()).next_multiple_of(alignment) - 8, b' ');
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
    pub(crate) fn expected(&self) -> Option<&Slot> {
        self.slots.get(self.next)
    }

    /// Writes the next tensor, converted to its slot's dtype.
    pub(crate) fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.write_pieces(name, &tensor.size(), |region| write_elements(region, tensor))
    }

    /// Lets `fill` write the bytes of the next tensor, of shape `shape`, in pieces.
    pub(crate) fn write_pieces<E: From<Error>>(
        &mut self,
        name: &str,
        shape: &[i64],
        fill: impl FnOnce(&TensorRegion) -> Result<(), E>,
    ) -> Result<(), E> {
        let region = self.region(name, shape)?;
        fill(&region)?;
        region.check_whole()?;
        region.begin_flush();
        self.next += 1;
        Ok(())
    }

    /// The place of the next tensor.
    fn region(&self, name: &str, shape: &[i64]) -> Result<TensorRegion<'_>> {
        let slot = match self.expected() {
            Some(slot) if slot.name == name => slot,
            Some(slot) => {
                return Err(Error::tensor(&self.path, name, format!("out of order; `{}` comes next", slot.name)));
            }
            None => return Err(Error::tensor(&self.path, name, "not planned; all planned tensors are written")),
        };
        if slot.shape != shape {
            let problem = format!("has shape {shape:?}, planned was {:?}", slot.shape);
            return Err(Error::tensor(&self.path, name, problem));
        }
        let (start, bytes) = (self.starts[self.next], slot.bytes().unwrap_or(0));
        Ok(TensorRegion { path: &self.path, file: &self.file, slot, start, bytes, written: AtomicU64::new(0) })
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// Planned tensors have not been written.
    pub(crate) fn finish(self) -> Result<()> {
        if let Some(slot) = self.expected() {
            return Err(Error::tensor(&self.path, &slot.name, "planned but not written"));
        }
        self.file.sync_all().map_err(Error::io("flush", &self.path))
    }
}

/// The place of one tensor in a file being written. Threads may share it.
#[derive(Debug)]
pub struct TensorRegion<'a> {
    path: &'a Path,
    file: &'a File,
    slot: &'a Slot,
    /// Where it begins in the file.
    start: u64,
    bytes: u64,
    written: AtomicU64,
}

impl TensorRegion<'_> {
    /// Writes a piece at `offset` from the tensor's begin. Each byte is to be written once, in any order.
    ///
    /// # Errors
    /// Beyond the tensor's end, or the disk refuses.
    pub fn write_at(&self, offset: u64, piece: &[u8]) -> Result<()> {
        let length = piece.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.bytes) {
            return Err(self.problem(format!("a piece of {length} bytes at {offset} of {} bytes", self.bytes)));
        }
        self.file.write_all_at(piece, self.start + offset).map_err(Error::io("write", self.path))?;
        self.written.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn check_whole(&self) -> Result<()> {
        match self.written.load(Ordering::Relaxed) {
            written if written == self.bytes => Ok(()),
            written => Err(self.problem(format!("{written} of {} bytes were written", self.bytes))),
        }
    }

    /// Lets the system begin to write the tensor to the disk while the next one is made; otherwise all of it would be
    /// left to the flush at the end. Only advice: [`SafetensorsStream::finish`] is what makes sure.
    fn begin_flush(&self) {
        #[cfg(target_os = "linux")]
        if let (Ok(start), Ok(bytes)) = (i64::try_from(self.start), i64::try_from(self.bytes)) {
            // SAFETY: the descriptor is open for as long as `file` lives; nothing else is passed.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), start, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::tensor(self.path, &self.slot.name, problem)
    }
}

/// Start and end of each slot in the data part, one after the other in `order`.
fn lay_out(slots: &[Slot], order: &[usize], path: &Path) -> Result<Vec<(u64, u64)>> {
    let mut offsets = vec![(0, 0); slots.len()];
    let mut end = 0u64;
    for &index in order {
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

fn write_elements(region: &TensorRegion, tensor: &Tensor) -> Result<()> {
    let name = &region.slot.name;
    let kind = kind_of(region.slot.dtype).ok_or_else(|| region.problem("planned with an unknown dtype".into()))?;
    let (numel, width) = (tensor.numel() as i64, kind.elt_size_in_bytes());
    let flat = tensor.f_detach().and_then(|t| t.f_contiguous()).and_then(|t| t.f_view([numel]));
    let flat = flat.map_err(Error::torch("flatten", name))?;
    let mut buffer = vec![0u8; PIECE.min(numel) as usize * width];
    for start in (0..numel).step_by(PIECE as usize) {
        let length = PIECE.min(numel - start);
        let bytes = &mut buffer[..length as usize * width];
        let piece = flat.f_narrow(0, start, length).and_then(|t| t.f_to_kind(kind));
        piece.and_then(|t| t.f_copy_data_u8(bytes, length as usize)).map_err(Error::torch("read out", name))?;
        region.write_at(start as u64 * width as u64, bytes)?;
    }
    Ok(())
}
