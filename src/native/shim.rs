//! The border to the C++ files in `cpp/`: every call goes through [`check`], every tensor that comes back through
//! [`tensor`]. An exception on the other side is a [`TchError`] here.

use std::ffi::{CStr, c_char, c_int};
use tch::{TchError, Tensor};

/// `at::Tensor*`.
pub(super) type CTensor = *mut torch_sys::C_tensor;
/// Where the other side puts its message.
pub(super) type CError = *mut *mut c_char;

/// Makes one call; its message becomes the error.
pub(super) fn check(call: impl FnOnce(CError) -> c_int) -> Result<(), TchError> {
    let mut message: *mut c_char = std::ptr::null_mut();
    if call(&mut message) == 0 {
        return Ok(());
    }
    if message.is_null() {
        return Err(TchError::Torch("libtorch gave no message".to_string()));
    }
    // SAFETY: the shim made it with `strdup`, and it is ours now.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above; nothing else holds it.
    unsafe { libc::free(message.cast()) };
    Err(TchError::Torch(text))
}

/// Makes a call that gives one tensor.
pub(super) fn tensor(call: impl FnOnce(*mut CTensor, CError) -> c_int) -> Result<Tensor, TchError> {
    let mut out: CTensor = std::ptr::null_mut();
    check(|error| call(&mut out, error))?;
    // SAFETY: a successful call has put a tensor there that is ours.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Makes a call that gives `count` tensors.
pub(super) fn tensors(count: usize, call: impl FnOnce(*mut CTensor, CError) -> c_int) -> Result<Vec<Tensor>, TchError> {
    let mut out: Vec<CTensor> = vec![std::ptr::null_mut(); count];
    check(|error| call(out.as_mut_ptr(), error))?;
    // SAFETY: a successful call has put tensors there that are ours.
    Ok(out.into_iter().map(|tensor| unsafe { Tensor::from_ptr(tensor) }).collect())
}

/// A tensor as an argument.
pub(super) fn pointer(tensor: &Tensor) -> CTensor {
    tensor.as_ptr() as CTensor
}

/// An optional tensor as an argument; absent is null.
pub(super) fn optional(tensor: Option<&Tensor>) -> CTensor {
    tensor.map_or(std::ptr::null_mut(), pointer)
}

/// Tensors as an array argument.
pub(super) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<CTensor> {
    tensors.into_iter().map(pointer).collect()
}
