//! Memory that comes and goes while a tensor, its views and its leaves stay: the weights of a layer are whole only while
//! the layer runs.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_storage_allocate(tensor: CTensor, error: CError) -> c_int;
    fn shearling_storage_release(tensor: CTensor, error: CError) -> c_int;
    fn shearling_storage_leaf(
        flat: CTensor,
        start: i64,
        sizes: *const i64,
        dimensions: usize,
        requires_grad: c_int,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// A flat buffer `[elements]` whose memory comes and goes.
#[derive(Debug)]
pub struct Buffer {
    flat: Tensor,
}

impl Buffer {
    /// One without memory.
    ///
    /// # Errors
    /// libtorch's.
    pub fn new(elements: i64, kind: Kind, device: Device) -> Result<Buffer, TchError> {
        let flat = Tensor::f_empty([elements], (kind, device))?;
        let buffer = Buffer { flat };
        buffer.release()?;
        Ok(buffer)
    }

    /// The whole of it; not to be read or written while it has no memory.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Gives it memory, uninitialised.
    ///
    /// # Errors
    /// It has memory, or there is none left.
    pub fn allocate(&self) -> Result<(), TchError> {
        // SAFETY: a live tensor for the time of the call.
        shim::check(|error| unsafe { shearling_storage_allocate(shim::pointer(&self.flat), error) })
    }

    /// Gives its memory back.
    ///
    /// # Errors
    /// libtorch's.
    pub fn release(&self) -> Result<(), TchError> {
        // SAFETY: a live tensor for the time of the call.
        shim::check(|error| unsafe { shearling_storage_release(shim::pointer(&self.flat), error) })
    }

    /// A part of it, from element `start`, in the shape `sizes`: a view that autograd does not connect with others. With
    /// `trains` it collects gradients.
    ///
    /// # Errors
    /// A part outside of the buffer, or a dtype that has no gradients.
    pub fn part(&self, start: i64, sizes: &[i64], trains: bool) -> Result<Tensor, TchError> {
        let (flat, count) = (shim::pointer(&self.flat), sizes.len());
        // SAFETY: `sizes` has `count` numbers, and the tensor is alive for the time of the call.
        shim::tensor(|out, error| unsafe {
            shearling_storage_leaf(flat, start, sizes.as_ptr(), count, c_int::from(trains), out, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &Buffer, values: &[f32]) {
        buffer.allocate().unwrap();
        tch::no_grad(|| buffer.flat().shallow_clone().copy_(&Tensor::from_slice(values)));
    }

    #[test]
    fn parts_see_what_is_written_after_the_memory_went_and_came_back() {
        let buffer = Buffer::new(6, Kind::Float, Device::Cpu).unwrap();
        let part = buffer.part(2, &[2, 2], false).unwrap();
        for first in [0.0, 10.0] {
            fill(&buffer, &[first, 1.0, 2.0, 3.0, 4.0, first]);
            assert_eq!(Vec::<f32>::try_from(part.flatten(0, -1)).unwrap(), [2.0, 3.0, 4.0, first]);
            assert!(buffer.allocate().unwrap_err().to_string().contains("memory already"));
            buffer.release().unwrap();
        }
        assert!(buffer.part(4, &[3], false).is_err());
    }

    /// What a layer's backward does: its weights have gone and come back since the forward.
    #[test]
    fn a_graph_that_saved_a_leaf_goes_back_through_the_memory_that_came_back() {
        let buffer = Buffer::new(3, Kind::Float, Device::Cpu).unwrap();
        let weight = buffer.part(0, &[3], true).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0]).set_requires_grad(true);
        fill(&buffer, &[4.0, 5.0, 6.0]);
        let out = (&x * &weight).sum(Kind::Float);
        buffer.release().unwrap();
        fill(&buffer, &[4.0, 5.0, 6.0]);
        out.backward();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [4.0, 5.0, 6.0]);
        assert_eq!(Vec::<f32>::try_from(weight.grad()).unwrap(), [1.0, 2.0, 3.0]);
    }
}
