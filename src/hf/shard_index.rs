//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! The index is input like any other: its file names must stay inside the folder, and it must not contradict the shards. What
//! the shards hold is the truth: published indices list tensors that were dropped when the weights were saved again (rotary
//! tables), or leave out some that are there. Whether a tensor is missing or one too many is for
//! [`LoadReport`](crate::hf::LoadReport) to say.

use crate::files::json::{self, Fields};
use crate::files::mapped::MappedFile;
use crate::files::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Its name in a Hugging Face folder.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";

/// The parsed index.
pub(crate) struct ShardIndex {
    path: PathBuf,
    /// Tensor name → shard file name.
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the index of a folder.
    pub(crate) fn read(dir: &Path) -> Result<ShardIndex> {
        let path = dir.join(INDEX_NAME);
        let raw = json::parse_object(&json::read_bounded(&path)?, &path)?;
        let fields = Fields::new(&path, &raw);
        let map = fields.object("weight_map")?.ok_or_else(|| fields.problem("weight_map", "missing"))?;
        let mut weight_map = BTreeMap::new();
        for (tensor, _) in map.values() {
            let shard = map.string(tensor)?.ok_or_else(|| map.problem(tensor, "expected a file name, found null"))?;
            if !is_plain_file_name(shard) {
                return Err(map.problem(tensor, format!("\"{shard}\" is not the name of a file in this folder")));
            }
            weight_map.insert(tensor.clone(), shard.to_owned());
        }
        if weight_map.is_empty() {
            return Err(fields.problem("weight_map", "lists no tensor"));
        }
        Ok(ShardIndex { path, weight_map })
    }

    /// Opens every shard and checks that they do not contradict the index or each other.
    pub(crate) fn open_shards(&self, dir: &Path) -> Result<Vec<MappedFile>> {
        let names: BTreeSet<&String> = self.weight_map.values().collect();
        if let Some(missing) = names.iter().find(|name| !dir.join(name).is_file()) {
            let tensors = self.weight_map.values().filter(|shard| *shard == *missing).count();
            return Err(self.problem(format!("shard `{missing}` ({tensors} tensors) is not in the folder: fetch it")));
        }
        let shards = names.iter().map(|name| MappedFile::open(&dir.join(name))).collect::<Result<Vec<_>>>()?;
        self.check(&shards)?;
        Ok(shards)
    }

    fn check(&self, shards: &[MappedFile]) -> Result<()> {
        let mut holders: BTreeMap<String, &OsStr> = BTreeMap::new();
        for shard in shards {
            let file = shard.path().file_name().unwrap_or_default();
            for tensor in shard.names() {
                if let Some(first) = holders.insert(tensor.clone(), file) {
                    return Err(self.problem(format!(
                        "tensor `{tensor}` is in two shards, `{}` and `{}`: files of two checkpoints are mixed",
                        first.display(),
                        file.display()
                    )));
                }
            }
        }
        let elsewhere = self.weight_map.iter().find_map(|(tensor, shard)| {
            let holder = holders.get(tensor).filter(|holder| **holder != shard.as_str())?;
            Some((tensor, shard, holder))
        });
        match elsewhere {
            Some((tensor, shard, holder)) => Err(self.problem(format!(
                "tensor `{tensor}` is in shard `{}`, not in `{shard}` as the index says: files of two checkpoints are mixed; \
                 fetch the index and all shards of one",
                holder.display()
            ))),
            None => Ok(()),
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::Index { path: self.path.clone(), problem }
    }
}

/// A name without any folder in it: `../x`, `/x`, `a/b` and `` are not.
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && Path::new(name).file_name() == Some(OsStr::new(name)) && !name.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_files_of_the_folder() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for wrong in ["", ".", "..", "../x", "/x", "a/b", "a/", "./a", "a\\b", "a\0"] {
            assert!(!is_plain_file_name(wrong), "{wrong:?}");
        }
    }
}
