//! Kinds and devices in the words of the options that choose them, not in libtorch's.

use crate::native::runtime::precision::has_bf16;
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

/// What to say of a computation in bf16 where the device has to convert it to fp32 and back.
pub(super) fn slow_bf16(kind: Kind, device: Device) -> Option<&'static str> {
    let slow = kind == Kind::BFloat16 && !has_bf16(device);
    slow.then_some(
        "this device has no bf16 instructions: --dtype fp32 computes rows and prompts several times as fast here",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_called_slow_where_the_device_has_no_instructions_for_it() {
        assert_eq!(slow_bf16(Kind::Float, Device::Cpu), None);
        assert_eq!(slow_bf16(Kind::BFloat16, Device::Cpu).is_some(), !has_bf16(Device::Cpu));
    }

    #[test]
    fn a_place_is_named_as_the_options_name_it() {
        assert_eq!(place(Kind::Float, Device::Cpu), "fp32 on cpu");
        assert_eq!(place(Kind::BFloat16, Device::Cuda(1)), "bf16 on cuda:1");
        assert_eq!(place(Kind::Half, Device::Cuda(0)), "fp16 on cuda:0");
    }
}
