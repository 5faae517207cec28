//! The number formats of weights, and their names in libtorch, in safetensors and in `config.json`.
//!
//! Weights of a Hugging Face folder are one of three floats ([`DType`]); state files of a run keep whatever kind a tensor has,
//! so the two private tables below are wider.

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use tch::Kind;

/// A dtype of weights and of computation. In a configuration it is spelt `fp32`, `bf16` or `fp16`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE single precision.
    #[default]
    #[serde(rename = "fp32")]
    F32,
    /// bfloat16.
    #[serde(rename = "bf16")]
    BF16,
    /// IEEE half precision; for weights on disk only.
    #[serde(rename = "fp16")]
    F16,
}

impl DType {
    /// The formats that are read and written, for messages.
    pub(crate) const SUPPORTED: &'static str = "F32, F16, BF16";

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "fp32",
            DType::BF16 => "bf16",
            DType::F16 => "fp16",
        }
    }

    /// libtorch's name of it.
    pub fn kind(self) -> Kind {
        match self {
            DType::F32 => Kind::Float,
            DType::F16 => Kind::Half,
            DType::BF16 => Kind::BFloat16,
        }
    }

    /// The format of a libtorch kind, `None` for all others.
    pub fn from_kind(kind: Kind) -> Option<DType> {
        match kind {
            Kind::Float => Some(DType::F32),
            Kind::Half => Some(DType::F16),
            Kind::BFloat16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Its name in `config.json` (`dtype`, formerly `torch_dtype`).
    pub fn config_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
        }
    }

    /// The inverse of [`DType::config_name`]; a leading `torch.`, as old files have it, is accepted.
    pub fn from_config_name(name: &str) -> Option<DType> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Some(DType::F32),
            "float16" => Some(DType::F16),
            "bfloat16" => Some(DType::BF16),
            _ => None,
        }
    }

    /// Its name in a safetensors header.
    pub(crate) fn safetensors(self) -> Dtype {
        match self {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
        }
    }

    /// The inverse of [`DType::safetensors`].
    pub(crate) fn from_safetensors(dtype: Dtype) -> Option<DType> {
        match dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        }
    }
}

/// What state files can hold, for messages.
pub(crate) const STATE_DTYPES: &str = "F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL";

/// Every pair of safetensors dtype and libtorch kind that has the same bytes.
const PAIRS: [(Dtype, Kind); 10] = [
    (Dtype::F64, Kind::Double),
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

/// The libtorch kind with the bytes of a safetensors dtype.
pub(crate) fn kind_of(dtype: Dtype) -> Option<Kind> {
    PAIRS.iter().find(|(d, _)| *d == dtype).map(|(_, kind)| *kind)
}

/// The safetensors dtype with the bytes of a libtorch kind.
pub(crate) fn dtype_of(kind: Kind) -> Option<Dtype> {
    PAIRS.iter().find(|(_, k)| *k == kind).map(|(dtype, _)| *dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(DType::from_config_name(dtype.config_name()), Some(dtype));
            assert_eq!(DType::from_safetensors(dtype.safetensors()), Some(dtype));
            assert_eq!(DType::from_kind(dtype.kind()), Some(dtype));
            assert_eq!(dtype.bytes() as usize, dtype.kind().elt_size_in_bytes());
        }
        assert_eq!(DType::from_config_name("torch.bfloat16"), Some(DType::BF16));
        assert_eq!(DType::from_config_name("float8_e4m3fn"), None);
    }

    #[test]
    fn sizes_agree_between_the_two_tables() {
        for (dtype, kind) in PAIRS {
            assert_eq!(dtype.bitsize() / 8, kind.elt_size_in_bytes(), "{dtype:?}");
        }
    }
}
