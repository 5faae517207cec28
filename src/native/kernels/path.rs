//! How this thread computes on the CPU: with the CPU's own kernels, or as a GPU does. The latter is slow, and how what runs on
//! a GPU is proven and counted where there is none.

use std::ffi::c_int;
use std::marker::PhantomData;

unsafe extern "C" {
    fn shearling_path() -> c_int;
    fn shearling_set_path(path: c_int);
}

/// What computes on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Path {
    /// The CPU's own kernels.
    Own = 0,
    /// The kernels of `cu/`, launched with the geometry of a GPU: what a GPU with kernels does.
    DeviceKernels = 1,
    /// libtorch's operators: what a GPU without kernels does.
    Composed = 2,
}

impl Path {
    /// Of this thread.
    pub fn current() -> Path {
        // SAFETY: a number of this thread is read.
        match unsafe { shearling_path() } {
            1 => Path::DeviceKernels,
            2 => Path::Composed,
            _ => Path::Own,
        }
    }
}

/// While it lives, operations of its thread on the CPU take another path.
#[derive(Debug)]
pub struct OtherPath {
    before: Path,
    /// It is about one thread.
    _here: PhantomData<*const ()>,
}

/// Takes another path on this thread.
pub fn compute_by(path: Path) -> OtherPath {
    let before = Path::current();
    set(path);
    OtherPath { before, _here: PhantomData }
}

impl Drop for OtherPath {
    fn drop(&mut self) {
        set(self.before);
    }
}

fn set(path: Path) {
    // SAFETY: a number of this thread is set.
    unsafe { shearling_set_path(path as c_int) };
}
