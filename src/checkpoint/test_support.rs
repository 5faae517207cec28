//! What the tests of this module share: the fixture folders and small helpers around them.

use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Every folder under `tests/fixtures/hf`.
pub(crate) const FIXTURES: [&str; 5] =
    ["llama2-mha", "llama2-mha-sharded", "llama3-gqa-tied", "llama3-gqa-tied-v4config", "qwen3-qknorm"];

/// The path of one of them.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(name)
}

/// A writable copy of one of them.
pub(crate) fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// The bytes of a tensor, row-major.
pub(crate) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// Numbers that fp16 and bf16 round: 0, 0.1, 0.2, …
pub(crate) fn ramp(shape: &[i64], kind: Kind) -> Tensor {
    let numel: i64 = shape.iter().product();
    (Tensor::arange(numel, (Kind::Float, Device::Cpu)) * 0.1).reshape(shape).to_kind(kind)
}

/// Names of the entries of a folder, sorted.
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
