//! How fast memory can be read: the roofline of decoding, whose steps read every weight once.
//!
//! A buffer far larger than the caches is read from one end to the other by the threads that all other operators use,
//! and summed up as integers: the sum costs nothing beside the reading.

use super::memory::prefer_huge_pages;
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_sum_words(tensor: CTensor, sum: *mut u64, error: CError) -> c_int;
}

/// Bytes that are read on a CPU and on a GPU: many times the largest cache of most machines.
const CPU_BYTES: i64 = 1 << 30;
const GPU_BYTES: i64 = 4 << 30;

/// A buffer to read.
#[derive(Debug)]
pub struct Bandwidth {
    buffer: Tensor,
}

impl Bandwidth {
    /// Makes the buffer: 1 GiB in the memory of a CPU, 4 GiB on a GPU.
    pub fn new(device: Device) -> Result<Bandwidth, TchError> {
        Bandwidth::with_bytes(device, if device.is_cuda() { GPU_BYTES } else { CPU_BYTES })
    }

    /// The same, on a CPU in huge pages, where the system has them: what weights in such pages are held against.
    pub fn in_huge_pages(device: Device) -> Result<Bandwidth, TchError> {
        if device.is_cuda() {
            return Bandwidth::new(device);
        }
        let mut buffer = Tensor::f_empty([CPU_BYTES / 4], (Kind::Float, Device::Cpu))?;
        prefer_huge_pages(&buffer);
        let _ = buffer.f_fill_(1.0)?;
        Ok(Bandwidth { buffer })
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.buffer.numel() * self.buffer.kind().elt_size_in_bytes()
    }

    fn with_bytes(device: Device, bytes: i64) -> Result<Bandwidth, TchError> {
        // Written, not zeros: the system gives zeros as one and the same page, which stays in the cache.
        Ok(Bandwidth { buffer: Tensor::f_ones([bytes / 4], (Kind::Float, device))? })
    }

    /// Reads the buffer once: bytes per second.
    pub fn measure(&self) -> Result<f64, TchError> {
        let start = Instant::now();
        self.read()?;
        let bytes = self.buffer.numel() * self.buffer.f_kind()?.elt_size_in_bytes();
        Ok(bytes as f64 / start.elapsed().as_secs_f64())
    }

    /// A number that depends on every byte.
    fn read(&self) -> Result<u64, TchError> {
        if self.buffer.device().is_cuda() {
            return Ok(self.buffer.f_sum(Kind::Float)?.f_double_value(&[])? as u64);
        }
        let mut sum = 0;
        // SAFETY: the tensor lives for the time of the call, `sum` is a place for the result.
        shim::check(|error| unsafe { shearling_sum_words(shim::pointer(&self.buffer), &mut sum, error) })?;
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read() {
        // Two ones in a word, and a last task that is not full.
        let bytes = (3 << 20) + 4096;
        let mut bandwidth = Bandwidth::with_bytes(Device::Cpu, bytes).unwrap();
        let word = 0x3f80_0000_3f80_0000u64;
        let words = bytes as u64 / 8;
        assert_eq!(bandwidth.read().unwrap(), word.wrapping_mul(words));
        let _ = bandwidth.buffer.narrow(0, bytes / 4 - 1, 1).zero_();
        assert_eq!(bandwidth.read().unwrap(), word.wrapping_mul(words).wrapping_sub(0x3f80_0000 << 32));
        assert!(bandwidth.measure().unwrap() > 0.0);
        bandwidth.buffer = bandwidth.buffer.view([2, -1]).tr();
        assert!(bandwidth.read().is_err());
    }
}
