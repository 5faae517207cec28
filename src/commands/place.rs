//! Kinds and devices in the words of the options that choose them, not in libtorch's.

use tch::{Device, Kind};

/// As `--dtype` has it.
pub(super) fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bf16",
        Kind::Half => "fp16",
        _ => "fp32",
    }
}

/// As `--dtype` and `--device` have them: `bf16 on cuda:0`.
pub(super) fn place(kind: Kind, device: Device) -> String {
    let device = match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{} on {device}", dtype_name(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_as_the_options_name_it() {
        assert_eq!(place(Kind::Float, Device::Cpu), "fp32 on cpu");
        assert_eq!(place(Kind::BFloat16, Device::Cuda(1)), "bf16 on cuda:1");
        assert_eq!(place(Kind::Half, Device::Cuda(0)), "fp16 on cuda:0");
    }
}
