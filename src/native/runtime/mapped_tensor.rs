//! A tensor that reads a mapped file in place: no copy, and the file is mapped for as long as a tensor reads it. For large
//! weights that are used as they are stored.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use tch::{Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_mapped_tensor(
        data: *const c_void,
        sizes: *const i64,
        dims: usize,
        bf16: c_int,
        release: extern "C" fn(*mut c_void),
        owner: *mut c_void,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// A tensor of `shape` and `kind` (fp32 or bf16) on the bytes that `view` shows of `owner`, which lives for as long as the
/// tensor and all its views. The memory may be read-only: nothing may be written into the tensor.
///
/// # Errors
/// Another kind, as many bytes as the shape does not need, or bytes that are not aligned to their numbers.
pub fn mapped_tensor<O: Send + Sync + 'static>(
    owner: &Arc<O>,
    view: impl FnOnce(&O) -> &[u8],
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor, TchError> {
    let bytes = view(owner);
    let refused = |problem: String| Err(TchError::Shape(problem));
    let size = match kind {
        Kind::Float => 4,
        Kind::BFloat16 => 2,
        other => return refused(format!("a mapped tensor of {other:?}; there are Float and BFloat16")),
    };
    let count = shape.iter().try_fold(size, |n: usize, dim| n.checked_mul(usize::try_from(*dim).ok()?));
    if count != Some(bytes.len()) {
        return refused(format!("{} bytes for a mapped tensor {shape:?} of {kind:?}", bytes.len()));
    }
    if !bytes.as_ptr().addr().is_multiple_of(size) {
        return refused(format!("a mapped tensor of {kind:?} at an address that {size} does not divide"));
    }
    let held = Arc::into_raw(Arc::clone(owner)).cast_mut().cast::<c_void>();
    let data = bytes.as_ptr().cast::<c_void>();
    let bf16 = c_int::from(kind == Kind::BFloat16);
    // SAFETY: the bytes are borrowed from what `held` keeps alive, nobody can borrow it mutably meanwhile, and they are as
    // many as the shape needs. The other side gives `held` back once, whatever happens.
    shim::tensor(|out, error| unsafe {
        shearling_mapped_tensor(data, shape.as_ptr(), shape.len(), bf16, release::<O>, held, out, error)
    })
}

extern "C" fn release<O>(owner: *mut c_void) {
    // SAFETY: made by `Arc::into_raw` of an `Arc<O>` above, and given back once.
    drop(unsafe { Arc::from_raw(owner.cast_const().cast::<O>()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Bytes([u8; 64]);

    fn owner() -> Arc<Bytes> {
        let mut bytes = Bytes([0; 64]);
        for (i, number) in bytes.0.chunks_mut(4).enumerate() {
            number.copy_from_slice(&(i as f32).to_le_bytes());
        }
        Arc::new(bytes)
    }

    #[test]
    fn the_memory_lives_as_long_as_a_view_of_it() {
        let bytes = owner();
        let tensor = mapped_tensor(&bytes, |bytes| &bytes.0, &[4, 4], Kind::Float).unwrap();
        assert_eq!(tensor.data_ptr().addr(), bytes.0.as_ptr().addr(), "no copy");
        let row = tensor.get(2);
        drop(tensor);
        assert_eq!(Arc::strong_count(&bytes), 2);
        assert_eq!(Vec::<f32>::try_from(&row).unwrap(), [8.0, 9.0, 10.0, 11.0]);
        drop(row);
        assert_eq!(Arc::strong_count(&bytes), 1);
        // 1.0 in fp32 is 0, 1.0 in bf16.
        let halves = mapped_tensor(&bytes, |bytes| &bytes.0[4..8], &[2], Kind::BFloat16).unwrap();
        assert_eq!(Vec::<f32>::try_from(halves.to_kind(Kind::Float)).unwrap(), [0.0, 1.0]);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_lets_go() {
        let bytes = owner();
        let told = |range: std::ops::Range<usize>, shape: &[i64], kind| {
            mapped_tensor(&bytes, |bytes| &bytes.0[range], shape, kind).unwrap_err().to_string()
        };
        assert!(told(0..64, &[4, 5], Kind::Float).contains("64 bytes"));
        assert!(told(0..64, &[-4, -4], Kind::Float).contains("64 bytes"));
        assert!(told(0..64, &[i64::MAX, i64::MAX], Kind::Float).contains("64 bytes"));
        assert!(told(0..64, &[8], Kind::Double).contains("Double"));
        assert!(told(2..6, &[1], Kind::Float).contains("4 does not divide"));
        assert_eq!(Arc::strong_count(&bytes), 1);
    }
}
