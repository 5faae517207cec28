//! Why a model cannot be packed, or a packed folder not be read.

use crate::files;
use crate::hf;
use std::path::PathBuf;
use tch::TchError;

/// An error of packing or of reading what was packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file of the model or of the pack.
    #[error(transparent)]
    File(#[from] files::Error),
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// There is nothing to skip.
    #[error("no layer of `{}` has a router: train routers first (shearling lte train), then pack what it wrote", folder.display())]
    NoRouter {
        /// The model's folder.
        folder: PathBuf,
    },
    /// Grouping and model are of different sizes.
    #[error(
        "the grouping has {what} {found}, the model {expected}: lte.safetensors and config.json are not of one model"
    )]
    Sizes {
        /// What differs.
        what: &'static str,
        /// The model's.
        expected: i64,
        /// The grouping's.
        found: i64,
    },
    /// A router that does not fit the weights.
    #[error("the router of layer {layer} has {what} {found:?}, expected {expected:?}: it is another model's")]
    Router {
        /// Its layer.
        layer: usize,
        /// Weight or bias.
        what: &'static str,
        /// The shape that fits.
        expected: Vec<i64>,
        /// The shape found.
        found: Vec<i64>,
    },
    /// A format that the kernels do not compute in.
    #[error(
        "tensor `{tensor}` is stored as fp16, and packed weights are bf16 or fp32: write the model in one of these first"
    )]
    Half {
        /// The tensor.
        tensor: String,
    },
    /// The metadata of the experts' file is missing or broken.
    #[error("`{}`: key `{key}` of the header: {problem}; pack the model again (shearling lte pack)", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The metadata's key.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A format version that this program does not know.
    #[error("`{}` has format version {found}, this program reads {expected}: take the program that wrote it, or pack again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that is read.
        expected: u64,
    },
    /// The experts were packed beside other weights than those in the folder.
    #[error("`{}` belongs to another model than the weights beside it: copy the whole folder again, or pack again", path.display())]
    AnotherModel {
        /// The file.
        path: PathBuf,
    },
    /// A tensor of the pack with another shape than the model needs.
    #[error("`{}`: tensor `{tensor}` has shape {found:?}, config.json asks for {expected:?}: it is another model's", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that fits.
        expected: Vec<i64>,
        /// The shape found.
        found: Vec<i64>,
    },
    /// The ordinary weights beside the experts are not whole.
    #[error("`{}` does not fit its config.json:\n{report}", folder.display())]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// What is missing, of a wrong shape or unused.
        report: Box<hf::LoadReport>,
    },
}
