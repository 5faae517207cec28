//! Writes the weights of a Hugging Face folder, streamed: a plan of names, shapes and dtypes first, then one tensor at a time in
//! the plan's order. `model.safetensors` if all fits in one shard, else numbered shards and their index.
//!
//! Write into a [`Staging`](crate::files::Staging) folder, so that a half-written checkpoint is never seen; a writer dropped before
//! [`ShardWriter::finish`] removes its files in any case.

use super::reader::SINGLE_NAME;
use super::shard_index::INDEX_NAME;
use crate::files::stream::{SafetensorsStream, Slot, TensorRegion};
use crate::files::{DType, Error, Result, publish};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// The format on disk; tensors are converted.
    pub dtype: DType,
}

impl TensorPlan {
    fn slot(&self) -> Slot {
        Slot { name: self.name.clone(), shape: self.shape.clone(), dtype: self.dtype.safetensors() }
    }

    /// Bytes on disk; `None` for a negative dimension or more than 64 bits can count.
    pub fn bytes(&self) -> Option<u64> {
        self.slot().bytes()
    }
}

/// Streams planned tensors into one or more safetensors files.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    /// Shards that are not begun yet.
    waiting: VecDeque<(String, Vec<Slot>)>,
    current: Option<SafetensorsStream>,
    /// Files made so far.
    files: Vec<PathBuf>,
    /// The index to write at the end, if there is more than one shard.
    index: Option<Value>,
    finished: bool,
}

impl ShardWriter {
    /// Plans the files; a shard holds at most `max_shard_bytes` of data unless one tensor alone is larger.
    ///
    /// # Errors
    /// An empty plan, a name twice, a shape that cannot be, or weight files that are already in the folder.
    pub fn create(dir: &Path, plan: Vec<TensorPlan>, max_shard_bytes: u64) -> Result<ShardWriter> {
        check_plan(dir, &plan)?;
        let shards = split(&plan, max_shard_bytes);
        let names = file_names(shards.len());
        let index = (shards.len() > 1).then(|| index_json(&names, &shards));
        for name in names.iter().map(String::as_str).chain(index.is_some().then_some(INDEX_NAME)) {
            let path = dir.join(name);
            if path.exists() {
                return Err(Error::Exists { path });
            }
        }
        let waiting = names.into_iter().zip(shards).collect();
        let mut writer =
            ShardWriter { dir: dir.to_owned(), waiting, current: None, files: Vec::new(), index, finished: false };
        writer.begin_next()?;
        Ok(writer)
    }

    /// Writes the next tensor of the plan.
    ///
    /// # Errors
    /// Not the next name, another shape than planned, or the disk refuses.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.stream_for(name)?.write(name, tensor)
    }

    /// Writes the next tensor of the plan, of shape `shape`, by the bytes that `fill` writes to its place, already in
    /// the planned format.
    ///
    /// # Errors
    /// As [`ShardWriter::write`], more or fewer bytes than planned, or what `fill` returns.
    pub fn write_pieces<E: From<Error>>(
        &mut self,
        name: &str,
        shape: &[i64],
        fill: impl FnOnce(&TensorRegion) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream_for(name)?.write_pieces(name, shape, fill)
    }

    /// The file that the next tensor belongs to.
    fn stream_for(&mut self, name: &str) -> Result<&mut SafetensorsStream> {
        if self.current.as_ref().is_some_and(|stream| stream.expected().is_none()) && !self.waiting.is_empty() {
            self.finish_current()?;
            self.begin_next()?;
        }
        match &mut self.current {
            Some(stream) => Ok(stream),
            None => Err(Error::tensor(&self.dir, name, "written after a failure of this writer")),
        }
    }

    /// Flushes the last file, writes the index and returns the names of all files made.
    ///
    /// # Errors
    /// Planned tensors have not been written.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.finish_current()?;
        if let Some(slot) = self.waiting.front().and_then(|(_, slots)| slots.first()) {
            return Err(Error::tensor(&self.dir, &slot.name, "planned but not written"));
        }
        if let Some(index) = &self.index {
            let path = self.dir.join(INDEX_NAME);
            publish::write_atomic(&path, format!("{index:#}\n").as_bytes())?;
            self.files.push(path);
        }
        self.finished = true;
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(self.files.iter().filter_map(name).collect())
    }

    fn begin_next(&mut self) -> Result<()> {
        let Some((name, slots)) = self.waiting.pop_front() else { return Ok(()) };
        let path = self.dir.join(name);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        self.files.push(path.clone());
        // transformers refuses files that do not say which framework they are for.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        self.current = Some(SafetensorsStream::begin(file, &path, slots, &metadata)?);
        Ok(())
    }

    fn finish_current(&mut self) -> Result<()> {
        self.current.take().map_or(Ok(()), SafetensorsStream::finish)
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell about a file that cannot be removed.
            self.files.iter().for_each(|path| drop(fs::remove_file(path)));
        }
    }
}

fn check_plan(dir: &Path, plan: &[TensorPlan]) -> Result<()> {
    let mut names = BTreeSet::new();
    for tensor in plan {
        if tensor.name == "__metadata__" || !names.insert(&tensor.name) {
            return Err(Error::tensor(dir, &tensor.name, "planned twice, or a name the format reserves"));
        }
        if tensor.bytes().is_none() {
            return Err(Error::tensor(
                dir,
                &tensor.name,
                format!("planned with the impossible shape {:?}", tensor.shape),
            ));
        }
    }
    if plan.is_empty() { Err(Error::Shape { problem: "a checkpoint without tensors".into() }) } else { Ok(()) }
}

/// Fills shards in the plan's order.
fn split(plan: &[TensorPlan], max_shard_bytes: u64) -> Vec<Vec<Slot>> {
    let mut shards: Vec<Vec<Slot>> = Vec::new();
    let mut filled = 0u64;
    for slot in plan.iter().map(TensorPlan::slot) {
        let bytes = slot.bytes().unwrap_or(0);
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(bytes) <= max_shard_bytes => {
                filled += bytes;
                shard.push(slot);
            }
            _ => {
                filled = bytes;
                shards.push(vec![slot]);
            }
        }
    }
    shards
}

fn file_names(shards: usize) -> Vec<String> {
    match shards {
        1 => vec![SINGLE_NAME.to_owned()],
        n => (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect(),
    }
}

fn index_json(names: &[String], shards: &[Vec<Slot>]) -> Value {
    let total_size: u64 = shards.iter().flatten().filter_map(Slot::bytes).sum();
    let places = names.iter().zip(shards).flat_map(|(name, slots)| slots.iter().map(move |slot| (&slot.name, name)));
    let weight_map: BTreeMap<_, _> = places.collect();
    let map: Map<String, Value> = weight_map.into_iter().map(|(tensor, file)| (tensor.clone(), json!(file))).collect();
    json!({"metadata": {"total_size": total_size}, "weight_map": map})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{bytes, entries, fixture, ramp};
    use crate::hf::Checkpoint;
    use tch::{Device, Kind};

    const SHAPES: [(&str, &[i64]); 5] =
        [("c", &[3, 5]), ("a", &[7]), ("empty", &[0, 4]), ("scalar", &[]), ("b", &[2, 3, 4])];

    fn plan(dtype: DType) -> Vec<TensorPlan> {
        SHAPES.iter().map(|(name, shape)| TensorPlan { name: name.to_string(), shape: shape.to_vec(), dtype }).collect()
    }

    fn write_all(dir: &Path, dtype: DType, max_shard_bytes: u64) -> Vec<String> {
        fs::copy(fixture("llama2-mha").join("config.json"), dir.join("config.json")).unwrap();
        let mut writer = ShardWriter::create(dir, plan(dtype), max_shard_bytes).unwrap();
        for (name, shape) in SHAPES {
            writer.write(name, &ramp(shape, Kind::Float)).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn written_tensors_read_back_byte_for_byte() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for max_shard_bytes in [u64::MAX, 64, 1] {
                let dir = tempfile::tempdir().unwrap();
                let files = write_all(dir.path(), dtype, max_shard_bytes);
                assert_eq!(files.len() > 1, max_shard_bytes < u64::MAX);
                let checkpoint = Checkpoint::open(dir.path()).unwrap();
                for (name, shape) in SHAPES {
                    let read = checkpoint.tensor(name, dtype.kind(), Device::Cpu).unwrap();
                    assert_eq!(read.size(), shape);
                    assert_eq!(bytes(&read), bytes(&ramp(shape, dtype.kind())), "{name} {dtype:?} {max_shard_bytes}");
                }
            }
        }
    }

    #[test]
    fn shards_are_named_bounded_and_indexed() {
        let dir = tempfile::tempdir().unwrap();
        let files = write_all(dir.path(), DType::F32, 100);
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(files, [shards[0], shards[1], INDEX_NAME]);
        let index: Value = serde_json::from_slice(&fs::read(dir.path().join(INDEX_NAME)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], (15 + 7 + 1 + 24) * 4);
        assert_eq!(index["metadata"]["total_size"], Checkpoint::open(dir.path()).unwrap().total_bytes());
        assert_eq!(index["weight_map"]["c"], shards[0]);
        assert_eq!(index["weight_map"]["b"], shards[1]);
    }

    #[test]
    fn files_are_plain_safetensors_aligned_and_marked_for_torch() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), DType::BF16, u64::MAX);
        let file = fs::read(dir.path().join(SINGLE_NAME)).unwrap();
        assert_eq!(u64::from_le_bytes(file[..8].try_into().unwrap()) % 8, 0);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn mixed_dtypes_stay_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(DType::BF16);
        plan[4].dtype = DType::F32;
        let mut writer = ShardWriter::create(dir.path(), plan, u64::MAX).unwrap();
        for (name, shape) in SHAPES {
            writer.write(name, &ramp(shape, Kind::Float)).unwrap();
        }
        writer.finish().unwrap();
        let file = fs::read(dir.path().join(SINGLE_NAME)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.info("b").unwrap().data_offsets.0 % 4, 0);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("b").unwrap().data(), bytes(&ramp(&[2, 3, 4], Kind::Float)));
        assert_eq!(read.tensor("a").unwrap().data(), bytes(&ramp(&[7], Kind::BFloat16)));
    }

    #[test]
    fn views_and_tensors_with_gradients_are_written_as_they_look() {
        let dir = tempfile::tempdir().unwrap();
        let plan = vec![TensorPlan { name: "t".into(), shape: vec![3, 2], dtype: DType::F32 }];
        let mut writer = ShardWriter::create(dir.path(), plan, u64::MAX).unwrap();
        let transposed = ramp(&[2, 3], Kind::Float).set_requires_grad(true).transpose(0, 1);
        writer.write("t", &transposed).unwrap();
        writer.finish().unwrap();
        let file = fs::read(dir.path().join(SINGLE_NAME)).unwrap();
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("t").unwrap().data(), bytes(&transposed.detach().contiguous()));
    }

    #[test]
    fn a_tensor_larger_than_one_piece_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let numel = (1 << 22) + 3;
        let tensor = Tensor::arange(numel, (Kind::Float, Device::Cpu));
        let plan = vec![TensorPlan { name: "t".into(), shape: vec![numel], dtype: DType::F32 }];
        let mut writer = ShardWriter::create(dir.path(), plan, 1).unwrap();
        writer.write("t", &tensor).unwrap();
        assert_eq!(writer.finish().unwrap(), [SINGLE_NAME]);
        let file = fs::read(dir.path().join(SINGLE_NAME)).unwrap();
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(read.tensor("t").unwrap().data() == bytes(&tensor));
    }

    #[test]
    fn what_departs_from_the_plan_is_refused_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || ShardWriter::create(dir.path(), plan(DType::F32), 64).unwrap();
        let mut writer = begin();
        assert!(writer.write("a", &ramp(&[7], Kind::Float)).unwrap_err().to_string().contains("`c` comes next"));
        assert!(writer.write("c", &ramp(&[5, 3], Kind::Float)).unwrap_err().to_string().contains("[3, 5]"));
        writer.write("c", &ramp(&[3, 5], Kind::Float)).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("`a`"));
        assert!(entries(dir.path()).is_empty());
        drop(begin());
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn pieces_from_several_threads_make_the_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let plan = vec![TensorPlan { name: "t".into(), shape: vec![100, 10], dtype: DType::BF16 }];
        let mut writer = ShardWriter::create(dir.path(), plan, u64::MAX).unwrap();
        let expected: Vec<u8> = (0..2000u32).map(|i| (i * 7) as u8).collect();
        let fill = |region: &TensorRegion| -> Result<()> {
            std::thread::scope(|scope| {
                let piece = |(at, piece)| scope.spawn(move || region.write_at(at as u64 * 300, piece));
                let threads: Vec<_> = expected.chunks(300).enumerate().map(piece).collect();
                threads.into_iter().try_for_each(|thread| thread.join().unwrap())
            })
        };
        writer.write_pieces("t", &[100, 10], fill).unwrap();
        writer.finish().unwrap();
        let file = fs::read(dir.path().join(SINGLE_NAME)).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&file).unwrap().tensor("t").unwrap().data(), expected);
    }

    #[test]
    fn pieces_must_be_the_tensor_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), plan(DType::F32), u64::MAX).unwrap();
        let mut write = |pieces: &[(u64, usize)]| {
            let each = |region: &TensorRegion| -> Result<()> {
                pieces.iter().try_for_each(|(offset, length)| region.write_at(*offset, &vec![1; *length]))
            };
            writer.write_pieces("c", &[3, 5], each)
        };
        assert!(write(&[(0, 59)]).unwrap_err().to_string().contains("59 of 60 bytes"));
        assert!(write(&[(1, 60)]).unwrap_err().to_string().contains("60 bytes at 1 of 60"));
        assert!(write(&[(u64::MAX, 2)]).is_err());
        write(&[(32, 28), (0, 32)]).unwrap();
        assert!(writer.write_pieces("a", &[8], |_| Ok::<(), Error>(())).unwrap_err().to_string().contains("[7]"));
        drop(writer);
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn impossible_plans_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let create = |plan| ShardWriter::create(dir.path(), plan, 64).map(drop);
        let tensor =
            |name: &str, shape: &[i64]| TensorPlan { name: name.into(), shape: shape.to_vec(), dtype: DType::F32 };
        assert!(create(vec![]).is_err());
        assert!(create(vec![tensor("a", &[1]), tensor("a", &[1])]).is_err());
        assert!(create(vec![tensor("__metadata__", &[1])]).is_err());
        assert!(create(vec![tensor("a", &[-1])]).is_err());
        assert!(create(vec![tensor("a", &[i64::MAX, 4])]).is_err());
        fs::write(dir.path().join(SINGLE_NAME), b"mine").unwrap();
        assert!(matches!(create(vec![tensor("a", &[1])]).unwrap_err(), Error::Exists { .. }));
        assert_eq!(fs::read(dir.path().join(SINGLE_NAME)).unwrap(), b"mine");
    }
}
