//! Memory of this process as the operating system counts it, and of a CUDA device as libtorch's allocator counts it.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_cuda_peak(index: i64, allocated: *mut u64, reserved: *mut u64, error: CError) -> c_int;
    fn shearling_cuda_total(index: i64, total: *mut u64, error: CError) -> c_int;
    fn shearling_reset_cuda_peak(index: i64, error: CError) -> c_int;
    fn shearling_host_zeros(like: CTensor, bf16: c_int, out: *mut CTensor, error: CError) -> c_int;
}

/// Bytes that are in use on `device` now: all of this process on the CPU, nothing that matters before a model is on a
/// GPU. `None` where the system does not tell.
pub fn used_bytes(device: Device) -> Option<u64> {
    if device.is_cuda() { Some(0) } else { resident_bytes() }
}

/// Bytes that a run may take on `device`: all memory of a GPU; what this machine could give a process now, on the CPU.
/// `None` where the system does not tell.
pub fn usable_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => {
            let mut total = 0;
            // SAFETY: the number lives for the time of the call.
            shim::check(|error| unsafe { shearling_cuda_total(index as i64, &mut total, error) }).ok()?;
            Some(total)
        }
        _ => available_host_bytes(),
    }
}

/// Memory that the system could give without swapping, at most what a container may take; known on Linux only.
fn available_host_bytes() -> Option<u64> {
    let available = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(available, |limit: u64| available.min(limit)))
}

/// Most bytes in use on `device` since the start or [`restart_peak`].
pub fn peak_bytes(device: Device) -> Option<u64> {
    if device.is_cuda() { device_peak_bytes(device) } else { peak_memory_bytes() }
}

/// Lets [`peak_bytes`] begin anew; whether it could.
pub fn restart_peak(device: Device) -> bool {
    if device.is_cuda() { reset_device_peak(device) } else { reset_peak() }
}

/// Largest resident size so far, in bytes; known on Linux only. Memory of a GPU is not in it.
pub fn peak_memory_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Present resident size in bytes; known on Linux only. Memory of a GPU is not in it.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Lets [`peak_memory_bytes`] begin anew at the present size; whether the system could (Linux, unless forbidden).
pub fn reset_peak() -> bool {
    // 5 is the kernel's code for "reset the peak resident size".
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Resident memory that is no file's, now, in bytes; known on Linux only. Pages of mapped weights are not in it: the
/// system takes those back when it needs them.
pub fn anonymous_bytes() -> Option<u64> {
    status_bytes("RssAnon:")
}

fn status_bytes(key: &str) -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, key)
}

/// The number behind `key` in a file of `/proc`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Most bytes that tensors have held at once on a CUDA device, since the start or [`reset_device_peak`]; `None` on the
/// CPU and before the device is used.
pub fn device_peak_bytes(device: Device) -> Option<u64> {
    device_peaks(device).map(|(allocated, _)| allocated)
}

/// The same, and the most that libtorch has taken from the driver for it: whole blocks, with holes between tensors.
pub fn device_peaks(device: Device) -> Option<(u64, u64)> {
    let Device::Cuda(index) = device else { return None };
    let (mut allocated, mut reserved) = (0, 0);
    // SAFETY: the numbers live for the time of the call.
    shim::check(|error| unsafe { shearling_cuda_peak(index as i64, &mut allocated, &mut reserved, error) }).ok()?;
    Some((allocated, reserved))
}

/// Lets [`device_peak_bytes`] begin anew; whether it could.
pub fn reset_device_peak(device: Device) -> bool {
    let Device::Cuda(index) = device else { return false };
    // SAFETY: no pointers but the error's.
    shim::check(|error| unsafe { shearling_reset_cuda_peak(index as i64, error) }).is_ok()
}

/// Zeros of `like`'s shape on the host, fp32 or bf16: page-locked where there is CUDA, so that a GPU reads and writes
/// them at full speed. libtorch rounds page-locked sizes up to a power of two.
///
/// # Errors
/// Another dtype, or the memory is not there.
pub fn host_zeros(like: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
    if !matches!(kind, Kind::Float | Kind::BFloat16) {
        return Err(TchError::Kind(format!("host_zeros of {kind:?}, only Float and BFloat16")));
    }
    let bf16 = c_int::from(kind == Kind::BFloat16);
    // SAFETY: `like` is a live tensor for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_host_zeros(shim::pointer(like), bf16, out, error) })
}

/// Asks the system for huge pages in the memory of a tensor on the CPU that nothing has been written to yet: fewer
/// translations of addresses when it is read from one end to the other. Only advice, and only on Linux.
pub fn prefer_huge_pages(tensor: &Tensor) {
    #[cfg(target_os = "linux")]
    if tensor.device() == Device::Cpu {
        const PAGE: usize = 4096;
        let start = tensor.data_ptr().addr();
        let end = start + tensor.numel() * tensor.kind().elt_size_in_bytes();
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first < last {
            // SAFETY: whole pages inside the tensor's own memory, and the advice does not change what is in them.
            unsafe { libc::madvise(tensor.data_ptr().with_addr(first), last - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = tensor;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_grows_with_what_is_used() {
        let before = peak_memory_bytes().unwrap();
        // As large as the peak so far, which other tests may give back or let begin anew meanwhile.
        let block = vec![1u8; before as usize + (64 << 20)];
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(peak_memory_bytes().unwrap() >= block.len() as u64);
        assert!(resident_bytes().unwrap() >= block.len() as u64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_can_be_used_is_known_of_the_host_and_not_of_a_card_that_is_not_there() {
        assert!(usable_bytes(Device::Cpu).unwrap() > 1 << 20);
        assert_eq!(usable_bytes(Device::Cuda(100)), None);
    }

    #[test]
    fn a_device_without_memory_of_its_own_has_no_peak() {
        assert_eq!(device_peak_bytes(Device::Cpu), None);
        assert!(!reset_device_peak(Device::Cpu));
        // Whether there is CUDA or not: no such device is an answer, not a crash.
        assert_eq!(device_peak_bytes(Device::Cuda(100)), None);
        assert!(!reset_device_peak(Device::Cuda(100)));
    }

    #[test]
    fn the_peak_of_a_device_counts_its_tensors() {
        if !tch::Cuda::is_available() {
            eprintln!("skipped: no CUDA device");
            return;
        }
        let device = Device::Cuda(0);
        let small = Tensor::zeros([1 << 20], (Kind::Float, device));
        assert!(reset_device_peak(device));
        let before = device_peak_bytes(device).unwrap();
        drop(Tensor::zeros([1 << 24], (Kind::Float, device)));
        assert!(device_peak_bytes(device).unwrap() >= before + (64 << 20));
        drop(small);
    }

    #[test]
    fn host_zeros_are_on_the_host() {
        let like = Tensor::ones([3, 5], (Kind::Float, Device::Cpu));
        for kind in [Kind::Float, Kind::BFloat16] {
            let zeros = host_zeros(&like, kind).unwrap();
            assert_eq!((zeros.kind(), zeros.size(), zeros.device()), (kind, vec![3, 5], Device::Cpu));
            assert_eq!(zeros.abs().max().double_value(&[]), 0.0);
        }
        assert!(host_zeros(&like, Kind::Double).is_err());
    }

    #[test]
    fn anonymous_memory_counts_what_is_used() {
        // Of the whole process: what tests beside this one give back meanwhile must not count.
        let block = vec![1u8; 256 << 20];
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(anonymous_bytes().unwrap() >= 256 << 20);
    }
}
