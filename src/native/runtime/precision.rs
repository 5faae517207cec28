//! Whether a device multiplies bf16 in hardware: what `run.dtype = "auto"` asks.

use crate::native::shim::{self, CError};
use std::ffi::c_int;
use tch::Device;

unsafe extern "C" {
    fn shearling_cuda_has_bf16(answer: *mut c_int, error: CError) -> c_int;
}

/// Whether bf16 is faster than fp32 on `device`. A CUDA device that is not here counts as one that has it: cards have
/// had bf16 since compute capability 8.0 (2020).
pub fn has_bf16(device: Device) -> bool {
    match device {
        Device::Cpu => cpu_has_bf16(),
        Device::Cuda(_) => cuda_has_bf16().unwrap_or(true),
        _ => false,
    }
}

/// Whether this CPU has the instructions that oneDNN multiplies bf16 with: AVX512_BF16. Every CPU with AMX has them
/// too; without them oneDNN converts to fp32 and back, which is slower than fp32.
#[cfg(target_arch = "x86_64")]
pub fn cpu_has_bf16() -> bool {
    std::is_x86_feature_detected!("avx512bf16")
}

/// Whether this CPU has the instructions that libtorch multiplies bf16 with (FEAT_BF16, as Arm servers have it). On
/// macOS products go to Accelerate, which has none for bf16.
#[cfg(target_arch = "aarch64")]
pub fn cpu_has_bf16() -> bool {
    cfg!(not(target_os = "macos")) && std::arch::is_aarch64_feature_detected!("bf16")
}

/// No CPU that we know of.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn cpu_has_bf16() -> bool {
    false
}

/// The answer of the current CUDA device; `None` where there is none.
fn cuda_has_bf16() -> Option<bool> {
    if !tch::Cuda::is_available() {
        return None;
    }
    let mut answer: c_int = 0;
    // SAFETY: the number lives for the time of the call.
    shim::check(|error| unsafe { shearling_cuda_has_bf16(&mut answer, error) }).ok()?;
    Some(answer != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_not_here_is_taken_for_a_present_one() {
        if !tch::Cuda::is_available() {
            assert!(has_bf16(Device::Cuda(0)));
        }
        assert!(!has_bf16(Device::Mps));
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_cpu_says_what_the_system_says() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(has_bf16(Device::Cpu), info.split_whitespace().any(|word| word == "avx512_bf16"));
    }
}
