//! Closures that a node of the graph holds: handed over to C++ with the two functions that call and drop them.

use crate::native::shim::{self, CTensor};
use std::any::Any;
use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::{TchError, Tensor};

type Closure = Box<dyn Fn(&Tensor) -> Result<Tensor, TchError> + Send>;
/// A closure on the other side.
pub(super) type Raw = *mut c_void;
pub(super) type Call = extern "C" fn(Raw, CTensor, *mut CTensor, *mut *mut c_char) -> c_int;
pub(super) type Drop = extern "C" fn(Raw);

/// What the other side takes: it has to give the closure to `Drop` once, and may call it until then, one thread at a time.
pub(super) fn hand_over(closure: impl Fn(&Tensor) -> Result<Tensor, TchError> + Send + 'static) -> (Raw, Call, Drop) {
    let closure: Closure = Box::new(closure);
    (Box::into_raw(Box::new(closure)).cast(), call, drop_closure)
}

extern "C" fn call(closure: Raw, x: CTensor, out: *mut CTensor, message: *mut *mut c_char) -> c_int {
    let run = || {
        // SAFETY: `closure` is the `Closure` made above, alive until it is given to `drop_closure`; it is called by one
        // thread at a time.
        let closure = unsafe { &*closure.cast::<Closure>() };
        // SAFETY: a live tensor that stays the caller's.
        let x = unsafe { Tensor::clone_from_ptr(x) };
        closure(&x)
    };
    let problem = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(tensor)) => {
            // SAFETY: `out` is the caller's place for a tensor, which it then owns.
            unsafe { *out = shim::pointer(&tensor) };
            std::mem::forget(tensor);
            return 0;
        }
        Ok(Err(TchError::Torch(text))) => text,
        Ok(Err(error)) => error.to_string(),
        Err(payload) => format!("a block of the graph panicked: {}", panic_text(&*payload)),
    };
    let text = CString::new(problem.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `message` is the caller's place for a text, which it frees with `free`.
    unsafe { *message = libc::strdup(text.as_ptr()) };
    1
}

extern "C" fn drop_closure(closure: Raw) {
    // SAFETY: the `Closure` made above, given back once.
    let closure = unsafe { Box::from_raw(closure.cast::<Closure>()) };
    // What a destructor throws has nowhere to go from here.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(closure)));
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
