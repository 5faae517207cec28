//! The memory of tensors on a CPU, set up for training: `malloc` gives it, and keeps what tensors give back.
//!
//! Two habits of glibc stand against a training step, which makes and drops the same big tensors again and again:
//!
//! - libtorch asks `posix_memalign`, which up to glibc 2.37 looks for a block larger than the tensor and cuts it to size.
//!   So the hole that a dropped tensor leaves is too small for the next one of the same size, and the heap grows beside
//!   its holes: by 3 to 44 % in our steps. Here tensors ask `malloc` and align within (`cpp/allocator.cpp`): the
//!   same size fits again, and the peak is what is alive at once.
//! - Every block above 32 MiB (smaller ones until it has adapted) is a fresh `mmap`, unmapped when the tensor dies: the
//!   kernel faults in and clears every page each time, a tenth to a fifth of a step. Here big blocks come from the
//!   heap, which grows in large steps and never shrinks. The price: what a process once had it keeps.
//!
//! Measured in docs/benchmarks/2026-11-22-step.md.

/// Sets it up; call it first thing in `main`, before memory is in use. Returns whether it could: glibc only, whose
/// habits these are.
pub fn tune() -> bool {
    system::tune()
}

/// Gives memory that no tensor uses back to the system, as far as it can, so that the process is as large as what it
/// holds: for measuring. Returns whether it could: glibc only.
pub fn release_unused() -> bool {
    system::release_unused()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    use crate::native::shim::{self, CError};
    use std::ffi::c_int;

    const TOP_PAD_BYTES: c_int = 64 << 20;

    unsafe extern "C" {
        fn shearling_tensors_from_malloc(error: CError) -> c_int;
    }

    pub(super) fn tune() -> bool {
        // SAFETY: it puts an allocator that lives for ever in the place of libtorch's. Tensors that are there already
        // keep the way back to where their memory came from.
        let taken = shim::check(|error| unsafe { shearling_tensors_from_malloc(error) }).is_ok();
        // For glibc, −1 is the largest size: the top of the heap is never given back.
        let options = [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_TOP_PAD, TOP_PAD_BYTES)];
        // SAFETY: it only changes parameters of the allocator, under its lock.
        taken && options.into_iter().all(|(option, value)| unsafe { libc::mallopt(option, value) } == 1)
    }

    pub(super) fn release_unused() -> bool {
        // SAFETY: it touches free memory only, under the allocator's lock. It returns 0 where there was nothing to give.
        unsafe { libc::malloc_trim(0) };
        true
    }
}

/// Another allocator, with other habits: left alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub(super) fn tune() -> bool {
        false
    }

    pub(super) fn release_unused() -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    fn bytes(count: i64) -> Tensor {
        Tensor::zeros([count], (Kind::Uint8, Device::Cpu))
    }

    fn address(tensor: &Tensor) -> usize {
        tensor.data_ptr() as usize
    }

    #[test]
    fn tensors_of_any_size_are_aligned_and_hold_their_values() {
        let before = Tensor::arange(1000, (Kind::Float, Device::Cpu));
        assert!(tune());
        for count in [0, 1, 15, 64, 1000, (1 << 20) + 3, 100 << 20] {
            let tensor = bytes(count) + 7;
            assert_eq!((address(&tensor) % 64, tensor.size()[0]), (0, count));
            assert_eq!(tensor.eq(7).sum(Kind::Int64).int64_value(&[]), count);
        }
        let mut grown = Tensor::ones([10], (Kind::Float, Device::Cpu));
        let _ = grown.resize_([1 << 20]);
        let _ = grown.narrow(0, 10, (1 << 20) - 10).fill_(1.0);
        assert_eq!(grown.sum(Kind::Double).double_value(&[]), f64::from(1 << 20));
        // Memory from the allocator before goes back to where it came from.
        assert_eq!(before.sum(Kind::Double).double_value(&[]), 499_500.0);
        drop(before);
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        tune();
        for bytes in [1 << 60, i64::MAX] {
            let error = Tensor::f_empty([bytes], (Kind::Uint8, Device::Cpu)).unwrap_err().to_string();
            assert!(error.contains("not enough memory") && error.contains(&bytes.to_string()), "{error}");
        }
    }
}
