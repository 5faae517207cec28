//! What a thread launches, counted where there is no GPU: libtorch's operators that call no other, and kernels of `cu/`. And
//! the bytes of tensors that it keeps. Both say of a GPU what does not depend on one.

use crate::native::shim::{self, CError};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};
use tch::TchError;

unsafe extern "C" {
    fn shearling_begin_operator_count(error: CError) -> c_int;
    fn shearling_end_operator_count(out: *mut *mut c_char, error: CError) -> c_int;
    fn shearling_count_tensor_bytes(on: c_int);
    fn shearling_counted_tensor_bytes() -> i64;
}

/// Launches by operator; kernels of ours begin with `kernel::`.
pub type Launches = BTreeMap<String, u64>;

/// Operators that give another view of a tensor, or memory without contents: nothing is launched for them.
const NOTHING: [&str; 29] = [
    "aten::_reshape_alias",
    "aten::_unsafe_view",
    "aten::alias",
    "aten::as_strided",
    "aten::chunk",
    "aten::detach",
    "detach",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::expand",
    "aten::expand_as",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::narrow",
    "aten::permute",
    "aten::reshape",
    "aten::resize_",
    "aten::resolve_conj",
    "aten::result_type",
    "aten::select",
    "aten::slice",
    "aten::squeeze",
    "aten::t",
    "aten::to",
    "aten::transpose",
    "aten::unsqueeze",
    "aten::view",
    "aten::view_as",
];

/// What `body` launches on this thread, and its result.
///
/// # Errors
/// Those of `body`; a count within a count.
pub fn count<T, E: From<TchError>>(body: impl FnOnce() -> Result<T, E>) -> Result<(Launches, T), E> {
    // SAFETY: callbacks of ours are registered for this thread.
    shim::check(|error| unsafe { shearling_begin_operator_count(error) })?;
    let result = body();
    let mut text: *mut c_char = std::ptr::null_mut();
    // SAFETY: `text` is a place of ours for the answer.
    shim::check(|error| unsafe { shearling_end_operator_count(&mut text, error) })?;
    // SAFETY: a successful call has put a text there, which is ours.
    let lines = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above; nothing else holds it.
    unsafe { libc::free(text.cast()) };
    let counted = lines.lines().filter_map(|line| {
        let (name, count) = line.rsplit_once(' ')?;
        let launched = !NOTHING.contains(&name) && !name.starts_with("autograd::");
        launched.then_some((name.to_string(), count.parse().ok()?))
    });
    Ok((counted.collect(), result?))
}

/// Bytes of the tensors that `body` makes on this thread and leaves alive in its result, with the result. The CPU's
/// allocator is set to ours for it; one count at a time.
pub fn kept_bytes<T>(body: impl FnOnce() -> T) -> (i64, T) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    super::allocator::tune();
    // SAFETY: numbers are read, and a flag of this thread is set.
    unsafe {
        let before = shearling_counted_tensor_bytes();
        shearling_count_tensor_bytes(1);
        let result = body();
        shearling_count_tensor_bytes(0);
        (shearling_counted_tensor_bytes() - before, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn launches_are_counted_and_views_are_not() {
        let x = Tensor::ones([4, 6], (Kind::Float, Device::Cpu));
        let (launches, _) = count(|| x.f_transpose(0, 1)?.f_add(&x.f_view([6, 4])?)?.f_exp()).unwrap();
        assert_eq!(
            launches.into_iter().collect::<Vec<_>>(),
            [("aten::add".to_string(), 1), ("aten::exp".to_string(), 1)]
        );
        let error = count(|| x.f_view([5]).map(|_| ())).unwrap_err().to_string();
        assert!(error.contains("shape"), "{error}");
        assert!(count(|| count(|| Ok::<_, TchError>(()))).is_err());
        let (launches, _) = count(|| x.f_exp()).unwrap();
        assert_eq!(launches.into_iter().collect::<Vec<_>>(), [("aten::exp".to_string(), 1)], "an error ends its count");
    }

    #[test]
    fn bytes_that_are_kept_are_counted() {
        let (bytes, kept) = kept_bytes(|| {
            let dropped = Tensor::ones([1000], (Kind::Float, Device::Cpu));
            (dropped + 1.0).exp()
        });
        assert_eq!(bytes, 4000);
        drop(kept);
        let (bytes, ()) = kept_bytes(|| ());
        assert_eq!(bytes, 0);
    }
}
