//! Loads libtorch's CUDA library when it lies beside the CPU one, so that one binary serves both.
//!
//! The linker drops `-ltorch_cuda` (nothing refers to it), and forcing it would make a binary that does not start
//! without CUDA. libtorch caches its first answer to "is there CUDA?", so this must run before anything asks:
//! first thing in `main`.

use std::path::PathBuf;

/// What became of the CUDA library.
#[derive(Debug)]
pub enum CudaLibrary {
    /// Loaded from this file.
    Loaded(PathBuf),
    /// There is none beside the CPU library: a CPU-only libtorch.
    Absent,
    /// It is there and could not be loaded.
    Failed(PathBuf, String),
}

/// Loads `libtorch_cuda` from the folder of the running `libtorch_cpu`.
#[cfg(target_os = "linux")]
pub fn load() -> CudaLibrary {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    let Some(path) = torch_cpu_path().map(|cpu| cpu.with_file_name("libtorch_cuda.so")).filter(|path| path.exists())
    else {
        return CudaLibrary::Absent;
    };
    // SAFETY: libtorch's own library of the same build; its initialisers only register kernels and hooks.
    match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Registered kernels point into it: it stays for the life of the process.
            std::mem::forget(library);
            CudaLibrary::Loaded(path)
        }
        Err(error) => CudaLibrary::Failed(path, error.to_string()),
    }
}

/// There is no CUDA here.
#[cfg(not(target_os = "linux"))]
pub fn load() -> CudaLibrary {
    CudaLibrary::Absent
}

/// File of the `libtorch_cpu` that this process runs on.
#[cfg(target_os = "linux")]
pub fn torch_cpu_path() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    line.find('/').map(|start| PathBuf::from(&line[start..]))
}

/// File of the `libtorch_cpu` that this process runs on; known on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn torch_cpu_path() -> Option<PathBuf> {
    None
}
