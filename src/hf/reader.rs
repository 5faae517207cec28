//! A Hugging Face folder, opened for reading: configuration, tensor names and shapes at once, tensors one at a time.
//!
//! Nothing is loaded on opening; shards are memory-mapped, so that the peak is the tensors the caller holds.

use super::leftover::{self, EMBEDDING, HEAD};
use super::load_report::{Extra, LoadReport};
use super::shard_index::{INDEX_NAME, ShardIndex};
use super::{ModelConfig, RawConfig, not_a_model};
use crate::files::mapped::MappedFile;
use crate::files::stored::StoredTensor;
use crate::files::{DType, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// The name of an unsharded checkpoint's weights.
pub(crate) const SINGLE_NAME: &str = "model.safetensors";

/// An open Hugging Face checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: RawConfig,
    model: ModelConfig,
    shards: Vec<MappedFile>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    shape: Vec<i64>,
    dtype: DType,
    bytes: u64,
}

impl Checkpoint {
    /// Opens a folder and checks configuration, index and the header of every shard.
    ///
    /// # Errors
    /// An unsupported configuration, a missing or truncated file, shards that do not belong together, a dtype that is not a
    /// float of 16 or 32 bits, or weights in another format than safetensors.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let config = RawConfig::read(&dir.join(RawConfig::FILE_NAME))?;
        let model = config.model()?;
        let shards = open_shards(dir)?;
        let mut entries = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                let entry = read_entry(shard, index, &name)?;
                entries.insert(name, entry);
            }
        }
        Ok(Checkpoint { dir: dir.to_owned(), config, model, shards, entries })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json` as it is.
    pub fn config(&self) -> &RawConfig {
        &self.config
    }

    /// `config.json` as it is meant.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// The weight files.
    pub fn weight_files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(MappedFile::path)
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[i64]> {
        Ok(&self.entry(name)?.shape)
    }

    /// The format a tensor is stored in.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        Ok(self.entry(name)?.dtype)
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }

    /// Copies one tensor to a device, in the kind asked for, straight from the mapped file; whatever its numbers are, for
    /// those who judge what they have written. Who computes with a weight asks for [`Checkpoint::finite_tensor`].
    pub fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        self.shards[self.entry(name)?.shard].tensor(name, Some(kind), device)
    }

    /// The same of a tensor whose numbers are finite: what is damaged is named before anything is computed with it.
    ///
    /// # Errors
    /// It is not there, or [`Error::NonFinite`].
    pub fn finite_tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        self.stored(name)?.require_finite()?;
        self.tensor(name, kind, device)
    }

    /// Looks at every number of the checkpoint and refuses those that are not finite. Reads all files once.
    ///
    /// # Errors
    /// The first tensor, by name, with a number that is not finite.
    pub fn require_finite(&self) -> Result<()> {
        self.entries.keys().try_for_each(|name| {
            let stored = self.stored(name)?;
            stored.will_need(0..stored.bytes().len());
            let finite = stored.require_finite();
            stored.release();
            finite
        })
    }

    /// One tensor where it lies in its file, not copied.
    pub fn stored(&self, name: &str) -> Result<StoredTensor<'_>> {
        let (name, entry) = self.entries.get_key_value(name).ok_or_else(|| self.absent(name))?;
        StoredTensor::new(&self.shards[entry.shard], name, &entry.shape, entry.dtype)
    }

    /// Takes what has been read of the files out of this process's resident memory, once it has been copied to where it
    /// is needed. The checkpoint stays usable; what is used again is read again, usually from the system's cache.
    pub fn release(&self) {
        self.shards.iter().for_each(MappedFile::release_all);
    }

    /// Compares the tensors a model needs (name, shape) with those of this checkpoint. A head that is stored although it is
    /// tied is compared with the embedding, number by number; nothing else is read.
    pub fn check(&self, expected: &[(String, Vec<i64>)]) -> LoadReport {
        let found = self.entries.iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect();
        let extra = |name: &str| match name {
            HEAD if self.model.tie_word_embeddings => self.tied_head(),
            name if leftover::is_harmless(name) => Extra::Harmless,
            name => Extra::Unused(leftover::cause(name, &self.model)),
        };
        LoadReport::compare(expected, &found, extra, |name| leftover::key_of(name, &self.model))
    }

    /// A stored head under `tie_word_embeddings`: nothing new if it is the embedding. If it is not, transformers 5 uses it
    /// and transformers 4 drops it, so which network was trained is not ours to guess.
    fn tied_head(&self) -> Extra {
        if self.is_same(HEAD, EMBEDDING) {
            return Extra::Harmless;
        }
        Extra::Unused(format!(
            "`tie_word_embeddings` is true in config.json, but this head is not `{EMBEDDING}`: transformers 5 uses the stored \
             head (for that set \"tie_word_embeddings\": false), transformers 4 the embedding (for that remove the tensor)"
        ))
    }

    /// Whether two tensors hold the same numbers, in whatever formats.
    fn is_same(&self, one: &str, other: &str) -> bool {
        let (Ok(a), Ok(b)) = (self.stored(one), self.stored(other)) else { return false };
        if a.shape() != b.shape() {
            return false;
        }
        if a.dtype() == b.dtype() && a.bytes() == b.bytes() {
            return true;
        }
        let read = |name| self.tensor(name, Kind::Float, Device::Cpu).ok();
        read(one).zip(read(other)).is_some_and(|(a, b)| a.f_equal(&b).unwrap_or(false))
    }

    /// How to get a `tokenizer.json` if the folder has none. Weights load without it; preparing data needs it.
    pub fn tokenizer_hint(&self) -> Option<String> {
        if self.dir.join("tokenizer.json").is_file() {
            return None;
        }
        let dir = self.dir.display();
        Some(format!(
            "`{dir}` has no tokenizer.json; make one with: python -c 'from transformers import AutoTokenizer; \
             AutoTokenizer.from_pretrained(\"{dir}\", use_fast=True).save_pretrained(\"{dir}\")'"
        ))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| self.absent(name))
    }

    fn absent(&self, name: &str) -> Error {
        Error::tensor(&self.dir, name, "not in this checkpoint")
    }
}

fn read_entry(shard: &MappedFile, index: usize, name: &str) -> Result<Entry> {
    let info = shard.info(name)?;
    let dtype = DType::from_safetensors(info.dtype).ok_or_else(|| Error::TensorDtype {
        path: shard.path().to_owned(),
        tensor: name.to_owned(),
        found: info.dtype.to_string(),
        supported: DType::SUPPORTED,
    })?;
    let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
    Ok(Entry { shard: index, shape: shard.shape(name)?, dtype, bytes })
}

/// Like transformers, a single file comes before an index.
fn open_shards(dir: &Path) -> Result<Vec<MappedFile>> {
    let single = dir.join(SINGLE_NAME);
    if single.is_file() {
        return Ok(vec![MappedFile::open(&single)?]);
    }
    if dir.join(INDEX_NAME).is_file() {
        return ShardIndex::read(dir)?.open_shards(dir);
    }
    Err(no_weights(dir))
}

fn no_weights(dir: &Path) -> Error {
    let problem = match first_file(dir, &[".bin", ".pt", ".pth", ".ckpt"]) {
        Some(file) => format!(
            "the weights are in `{file}`, a pickle, and only safetensors is read; convert them with: python -c 'from \
             transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained(\"{0}\", torch_dtype=\"auto\")\
             .save_pretrained(\"{0}\", safe_serialization=True)'",
            dir.display()
        ),
        None => {
            let shards = || {
                let file = first_file(dir, &[".safetensors"])?;
                Some(format!(
                    "`{file}` and its like need the index that belongs to them, fetch it; a single file of all weights is \
                     called `{SINGLE_NAME}`"
                ))
            };
            let hint = not_a_model(dir).or_else(shards).map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("neither `{SINGLE_NAME}` nor `{INDEX_NAME}` is there{hint}")
        }
    };
    Error::NoWeights { dir: dir.to_owned(), problem }
}

/// The first (by name) of the files with one of these endings, if any.
fn first_file(dir: &Path, endings: &[&str]) -> Option<String> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| endings.iter().any(|end| name.ends_with(end))).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TensorFile;
    use crate::files::test_support::{FIXTURES, bytes, copy_of, fixture, ramp};
    use std::fs;

    fn open_error(dir: &Path) -> String {
        let error = Checkpoint::open(dir).expect_err("a broken folder opened");
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        text
    }

    #[test]
    fn every_fixture_opens_and_every_tensor_reads() {
        for name in FIXTURES {
            let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
            let mut total = 0;
            for tensor in checkpoint.names() {
                let read = checkpoint.tensor(tensor, Kind::Float, Device::Cpu).unwrap();
                assert_eq!(read.size(), checkpoint.shape(tensor).unwrap());
                assert_eq!(checkpoint.dtype(tensor).unwrap(), DType::F32);
                total += read.numel() as u64 * 4;
            }
            assert_eq!(checkpoint.total_bytes(), total, "{name}");
            assert!(checkpoint.tokenizer_hint().unwrap().contains("tokenizer.json"));
        }
    }

    #[test]
    fn values_are_those_of_the_safetensors_crate() {
        let dir = fixture("llama2-mha");
        let file = fs::read(dir.join(SINGLE_NAME)).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        for name in checkpoint.names() {
            let read = checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
            assert_eq!(bytes(&read), reference.tensor(name).unwrap().data(), "{name}");
        }
    }

    #[test]
    fn threads_may_share_a_checkpoint() {
        fn shared<T: Send + Sync>() {}
        shared::<Checkpoint>();
    }

    #[test]
    fn a_report_compares_names_and_shapes() {
        let checkpoint = Checkpoint::open(&fixture("llama3-gqa-tied")).unwrap();
        let mut expected: Vec<_> =
            checkpoint.names().map(|name| (name.to_owned(), checkpoint.shape(name).unwrap().to_vec())).collect();
        assert!(checkpoint.check(&expected).is_exact());
        expected[0].1 = vec![1, 2];
        expected.push(("model.norms.weight".into(), vec![32]));
        let report = checkpoint.check(&expected);
        assert_eq!((report.wrong_shape.len(), report.missing.len()), (1, 1));
    }

    #[test]
    fn an_unknown_tensor_is_an_error_that_names_it() {
        let checkpoint = Checkpoint::open(&fixture("llama2-mha")).unwrap();
        let error = checkpoint.tensor("model.nonsense", Kind::Float, Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("model.nonsense"));
    }

    #[test]
    fn data_that_is_not_aligned_to_its_elements_reads() {
        let dir = copy_of("llama2-mha");
        // A header of odd length shifts all floats off their natural alignment.
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} "#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([1.5f32, -2.25].iter().flat_map(|x| x.to_le_bytes()));
        assert_eq!(header.len() % 4, 3);
        fs::write(dir.path().join(SINGLE_NAME), file).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let tensor = checkpoint.tensor("a", Kind::Double, Device::Cpu).unwrap();
        assert_eq!(Vec::<f64>::try_from(tensor).unwrap(), [1.5, -2.25]);
    }

    #[test]
    fn a_shard_cut_anywhere_is_an_error_that_names_it() {
        let dir = copy_of("llama2-mha");
        let path = dir.path().join(SINGLE_NAME);
        let whole = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let lengths = (0..64)
            .chain((64..header).step_by(97))
            .chain([header - 1, header, header + 1])
            .chain((header..whole.len()).step_by(9973));
        for length in lengths.chain([whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = open_error(dir.path());
            assert!(error.contains(SINGLE_NAME), "{length}: {error}");
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(open_error(dir.path()).contains(SINGLE_NAME));
    }

    #[test]
    fn hostile_headers_are_errors() {
        let dir = copy_of("llama2-mha");
        let path = dir.path().join(SINGLE_NAME);
        let with_length = |length: u64, rest: &[u8]| [length.to_le_bytes().as_slice(), rest].concat();
        let headers = [
            r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            r#"{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"Q7","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":3}"#,
            r#"[]"#,
        ];
        let mut files: Vec<Vec<u8>> =
            [0, 1, 7, 1 << 20, 1 << 40, u64::MAX - 8, u64::MAX].iter().map(|n| with_length(*n, b"{}      ")).collect();
        files.extend(headers.map(|header| with_length(header.len() as u64, &[header.as_bytes(), &[0; 8]].concat())));
        files.push(with_length(4, &[0xff, 0xfe, 0xfd, 0xfc]));
        for file in files {
            fs::write(&path, &file).unwrap();
            assert!(open_error(dir.path()).contains(SINGLE_NAME), "{:?}", String::from_utf8_lossy(&file));
        }
    }

    #[test]
    fn a_dtype_that_is_no_weight_is_refused_by_tensor_name() {
        let dir = copy_of("llama2-mha");
        let tensors = [("model.norm.weight".to_owned(), ramp(&[4], Kind::Int64))];
        TensorFile::write(&dir.path().join(SINGLE_NAME), &tensors, &BTreeMap::new()).unwrap();
        let error = open_error(dir.path());
        assert!(error.contains("model.norm.weight") && error.contains("I64") && error.contains("BF16"), "{error}");
    }

    /// Resident pages of all mapped files, in bytes.
    #[cfg(target_os = "linux")]
    fn mapped_bytes(path: &Path) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let file = path.to_str().unwrap();
        let entry = maps.split_once(file).unwrap().1;
        let line = entry.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_released_is_not_resident_and_reads_again() {
        let dir = copy_of("llama2-mha");
        let path = dir.path().join(SINGLE_NAME);
        let tensors =
            [("a".to_owned(), ramp(&[1 << 20], Kind::Float)), ("b".to_owned(), ramp(&[1 << 20], Kind::Float))];
        TensorFile::write(&path, &tensors, &BTreeMap::new()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let read = |name: &str| checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
        let both = [read("a"), read("b")];
        assert!(mapped_bytes(&path) >= 8 << 20);
        checkpoint.stored("a").unwrap().release();
        assert!((4 << 20..5 << 20).contains(&mapped_bytes(&path)));
        checkpoint.release();
        assert!(mapped_bytes(&path) < 1 << 20);
        assert_eq!([read("a"), read("b")], both);
    }

    #[test]
    fn a_tensor_is_a_copy_and_a_stored_one_is_not() {
        let checkpoint = Checkpoint::open(&fixture("llama2-mha")).unwrap();
        let name = "model.norm.weight";
        let stored = checkpoint.stored(name).unwrap();
        let tensor = checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
        assert_eq!((stored.name(), stored.shape(), stored.dtype()), (name, &tensor.size()[..], DType::F32));
        assert_eq!(stored.bytes(), bytes(&tensor));
        assert_ne!(stored.bytes().as_ptr(), tensor.data_ptr().cast());
        // Writable and independent of the file.
        let _ = tensor.shallow_clone().fill_(7.0);
        assert_ne!(stored.bytes(), bytes(&tensor));
        assert_eq!(stored.bytes(), checkpoint.stored(name).unwrap().bytes());
    }

    fn edit_index(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let path = dir.join(INDEX_NAME);
        let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(index["weight_map"].as_object_mut().unwrap());
        fs::write(path, index.to_string()).unwrap();
    }

    #[test]
    fn a_missing_or_cut_shard_is_named() {
        let dir = copy_of("llama2-mha-sharded");
        let shard = dir.path().join("model-00002-of-00003.safetensors");
        let whole = fs::read(&shard).unwrap();
        fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
        assert!(open_error(dir.path()).contains("model-00002-of-00003.safetensors"));
        fs::remove_file(&shard).unwrap();
        assert!(open_error(dir.path()).contains("shard `model-00002-of-00003.safetensors`"));
    }

    #[test]
    fn index_and_shards_must_not_contradict_each_other() {
        let name = "model.norm.weight";
        let dir = copy_of("llama2-mha-sharded");
        let other = "model-00001-of-00003.safetensors";
        edit_index(dir.path(), |map| drop(map.insert(name.into(), other.into())));
        let error = open_error(dir.path());
        assert!(error.contains(name) && error.contains(other) && error.contains("two checkpoints"), "{error}");

        let dir = copy_of("llama2-mha-sharded");
        fs::copy(dir.path().join("model-00001-of-00003.safetensors"), dir.path().join("copy.safetensors")).unwrap();
        edit_index(dir.path(), |map| drop(map.insert("model.extra".into(), "copy.safetensors".into())));
        assert!(open_error(dir.path()).contains("is in two shards"));
    }

    #[test]
    fn what_an_index_lists_too_much_or_too_little_is_for_the_network_to_need() {
        let name = "model.norm.weight";
        let dir = copy_of("llama2-mha-sharded");
        let whole: Vec<String> = Checkpoint::open(dir.path()).unwrap().names().map(str::to_owned).collect();
        edit_index(dir.path(), |map| {
            map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), map[name].clone());
            map.shift_remove(name);
        });
        assert_eq!(Checkpoint::open(dir.path()).unwrap().names().collect::<Vec<_>>(), whole);
    }

    /// A tied model with `head` stored beside the embedding.
    fn with_head(head: impl FnOnce(&Tensor) -> Tensor) -> LoadReport {
        let dir = copy_of("llama3-gqa-tied");
        let path = dir.path().join(SINGLE_NAME);
        let mut tensors: Vec<_> = TensorFile::read(&path, Device::Cpu).unwrap().tensors.into_iter().collect();
        let expected: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
        let embedding = tensors.iter().find(|(name, _)| name == EMBEDDING).unwrap().1.shallow_clone();
        tensors.push((HEAD.to_owned(), head(&embedding)));
        TensorFile::write(&path, &tensors, &BTreeMap::new()).unwrap();
        Checkpoint::open(dir.path()).unwrap().check(&expected)
    }

    #[test]
    fn a_tied_head_is_harmless_only_where_it_is_the_embedding() {
        for same in [with_head(Tensor::copy), with_head(|embedding| -(-embedding))] {
            assert!(same.is_exact());
            assert_eq!(same.ignored, [HEAD]);
        }
        for other in [
            with_head(|embedding| embedding * 1.001),
            // Rounded, so not the same numbers.
            with_head(|embedding| embedding.to_kind(Kind::BFloat16)),
            with_head(|embedding| embedding.narrow(0, 0, 63).contiguous()),
        ] {
            assert!(other.is_complete() && !other.is_exact());
            assert!(other.to_string().contains("`tie_word_embeddings` is true"), "{other}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_name_file_tensor_and_place() {
        let dir = copy_of("llama2-mha");
        let path = dir.path().join(SINGLE_NAME);
        let tensors = [
            ("a".to_owned(), Tensor::from_slice(&[1.0f32, 2.0])),
            ("b".to_owned(), Tensor::from_slice(&[1.0f32, f32::NAN, f32::INFINITY])),
        ];
        TensorFile::write(&path, &tensors, &BTreeMap::new()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        drop(checkpoint.finite_tensor("a", Kind::BFloat16, Device::Cpu).unwrap());
        drop(checkpoint.tensor("b", Kind::Float, Device::Cpu).unwrap());
        let read = checkpoint.finite_tensor("b", Kind::Float, Device::Cpu).unwrap_err().to_string();
        for part in [SINGLE_NAME, "`b`", "1 NaN, 1 infinite of 3 numbers", "index 1", "earlier checkpoint"] {
            assert!(read.contains(part), "{part}: {read}");
        }
        assert_eq!(checkpoint.require_finite().unwrap_err().to_string(), read);
    }

    #[test]
    fn an_index_cannot_lead_out_of_the_folder() {
        for outside in ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", ".."] {
            let dir = copy_of("llama2-mha-sharded");
            edit_index(dir.path(), |map| drop(map.insert("model.norm.weight".into(), outside.into())));
            let error = open_error(dir.path());
            assert!(error.contains(outside) && error.contains("weight_map.model.norm.weight"), "{error}");
        }
    }

    #[test]
    fn an_index_cut_anywhere_or_of_wrong_types_is_an_error() {
        let dir = copy_of("llama2-mha-sharded");
        let path = dir.path().join(INDEX_NAME);
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len() - 2).step_by(13) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(open_error(dir.path()).contains(INDEX_NAME));
        }
        for wrong in [
            "{}",
            r#"{"weight_map": 1}"#,
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {"a": null}}"#,
        ] {
            fs::write(&path, wrong).unwrap();
            assert!(open_error(dir.path()).contains("weight_map"), "{wrong}");
        }
    }

    #[test]
    fn pickled_weights_get_the_command_that_converts_them() {
        let dir = copy_of("llama2-mha");
        fs::remove_file(dir.path().join(SINGLE_NAME)).unwrap();
        assert!(open_error(dir.path()).contains(SINGLE_NAME));
        fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
        let error = open_error(dir.path());
        assert!(error.contains("pytorch_model.bin") && error.contains("safe_serialization=True"), "{error}");
    }

    #[test]
    fn weights_under_other_names_are_told_by_what_they_are() {
        let dir = copy_of("llama2-mha-sharded");
        fs::remove_file(dir.path().join(INDEX_NAME)).unwrap();
        fs::remove_file(dir.path().join("expected.safetensors")).unwrap();
        let error = open_error(dir.path());
        assert!(error.contains("`model-00001-of-00003.safetensors` and its like need the index"), "{error}");
        let dir = copy_of("llama2-mha");
        fs::rename(dir.path().join(SINGLE_NAME), dir.path().join("adapter_model.safetensors")).unwrap();
        fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        assert!(open_error(dir.path()).contains("LoRA adapter"));
    }

    #[test]
    fn a_folder_that_is_not_there_or_has_no_config_names_the_file() {
        assert!(open_error(Path::new("/nonexistent/folder")).contains("/nonexistent/folder/config.json"));
        let dir = copy_of("llama2-mha");
        let config = fs::read(dir.path().join("config.json")).unwrap();
        for length in [0, 1, 100, config.len() - 3] {
            fs::write(dir.path().join("config.json"), &config[..length]).unwrap();
            assert!(open_error(dir.path()).contains("config.json"));
        }
    }
}
