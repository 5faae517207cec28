//! Files as such: whole or absent when written, bounded and checked when read, and the safetensors format. What is in them
//! is for [`hf`](crate::hf) (model folders) and [`run_dir`](crate::run_dir) (folders of a run) to say.
//!
//! Everything read here may be truncated, hostile or simply wrong: it ends in an [`Error`] that names file and key. Everything
//! written here is whole or absent: written beside its final place, flushed, then renamed.

pub(crate) mod bounded_lines;
pub(crate) mod disk;
pub(crate) mod dtype;
pub(crate) mod error;
pub(crate) mod finite;
pub(crate) mod hash;
pub(crate) mod impostor;
pub(crate) mod json;
pub(crate) mod mapped;
pub(crate) mod publish;
pub(crate) mod readable;
pub(crate) mod stored;
pub(crate) mod stream;
pub(crate) mod tensor_file;
#[cfg(test)]
pub(crate) mod test_support;

pub use bounded_lines::{BoundedLine, BoundedLines};
pub use disk::{available_bytes, ensure_space};
pub use dtype::DType;
pub use error::{Error, Result};
pub use hash::{sha256_of_file, sha256_of_text};
pub use publish::{Staging, ensure_writable, refuse_taken, write_atomic};
pub use readable::readable_bytes;
pub use stored::StoredTensor;
pub use stream::TensorRegion;
pub use tensor_file::{MappedTensors, TensorFile};
