//! Kernels of our own on an NVIDIA GPU: the sources of `cu/`, compiled where they run.
//!
//! ```text
//! sources ─► nvrtc (compiled once per architecture, kept in the user's cache) ─► driver (loaded) ─► launcher ◄─ cpp/device
//! ```
//!
//! Nothing of CUDA is needed to build: NVRTC and the driver are opened when a GPU is first used. Without NVRTC, on a GPU that
//! it does not know, or where a kernel does not compile, operations are composed of libtorch's own; [`state`] says why.
//! `--no-kernels` asks for that.

mod cache;
mod driver;
mod launcher;
mod nvrtc;
mod path;
mod sources;

pub use nvrtc::{Compiled, Nvrtc, Resources};
pub use path::{OtherPath, Path, compute_by};
pub use sources::{SOURCES, Source};

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::Device;

/// Whether launches may start while those before them end, on GPUs that have that.
static OVERLAP: AtomicBool = AtomicBool::new(true);

/// From now on every launch waits for the one before.
pub fn launch_in_turn() {
    OVERLAP.store(false, Ordering::Relaxed);
}

/// Whether launches may still overlap: one that the driver refuses ends that.
pub fn launches_overlap() -> bool {
    OVERLAP.load(Ordering::Relaxed)
}

/// Why there are no kernels.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// They were not wanted.
    #[error("switched off by --no-kernels")]
    SwitchedOff,
    /// No library of that name anywhere.
    #[error("{library} is not found: {problem}")]
    NoLibrary {
        /// Its name.
        library: &'static str,
        /// What the loader said last.
        problem: String,
    },
    /// A function of a library answered with an error.
    #[error("{call}: {problem}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its answer.
        problem: String,
    },
    /// A source that does not compile.
    #[error("{source_file} does not compile for {architecture}: {log}")]
    Compile {
        /// Of `cu/`.
        source_file: &'static str,
        /// As NVRTC has it.
        architecture: String,
        /// The compiler's words.
        log: String,
    },
    /// A GPU that has no bf16.
    #[error("{0} is older than the kernels are written for (sm_80)")]
    TooOld(String),
    /// A GPU that this NVRTC does not know.
    #[error("NVRTC {version} does not know {architecture}")]
    UnknownGpu {
        /// As NVRTC has it.
        architecture: String,
        /// Of NVRTC.
        version: String,
    },
    /// Kernels that compute something else than the CPU.
    #[error(
        "they do not compute on this GPU what they should ({0}); please report it with the output of doctor and bench check"
    )]
    Wrong(String),
    /// No kernel of that name is loaded.
    #[error("no kernel {0} is loaded")]
    NoKernel(String),
}

/// What became of the kernels of a GPU.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `sm_90`.
    pub architecture: String,
    /// Of NVRTC; absent where all came from the cache.
    pub nvrtc: Option<String>,
    /// Where compiled kernels are kept.
    pub cache: Option<PathBuf>,
}

type State = Result<Loaded, KernelError>;

static WANTED: AtomicBool = AtomicBool::new(true);
static STATES: Mutex<Vec<(usize, State)>> = Mutex::new(Vec::new());

unsafe extern "C" {
    fn shearling_has_device_kernels(device: i64) -> c_int;
}

/// No kernels from now on, on any GPU that was not used yet: `--no-kernels`.
pub fn switch_off() {
    WANTED.store(false, Ordering::Release);
}

/// What became of the kernels of the GPU of that number, which are made ready first if it was not used yet.
pub fn state(gpu: usize) -> State {
    let mut states = states();
    if let Some((_, state)) = states.iter().find(|(own, _)| *own == gpu) {
        return state.clone();
    }
    let state = if WANTED.load(Ordering::Acquire) { launcher::load(gpu) } else { Err(KernelError::SwitchedOff) };
    states.push((gpu, state.clone()));
    state
}

/// Takes the kernels of a GPU out of use: what they compute is wrong in the way of `problem`.
pub fn distrust(gpu: usize, problem: String) {
    launcher::unload(gpu);
    let mut states = states();
    states.retain(|(own, _)| *own != gpu);
    states.push((gpu, Err(KernelError::Wrong(problem))));
}

/// Whether kernels of ours compute on `device`: the CPU's, or those of a GPU that is made ready where it was not used yet.
pub fn compute_on(device: Device) -> bool {
    match device {
        Device::Cpu => Path::current() != Path::Composed,
        Device::Cuda(gpu) => are_loaded(gpu) || state(gpu).is_ok(),
        _ => false,
    }
}

/// Why kernels that were wanted are not there: for whoever waits longer without them.
pub fn complaint(device: Device) -> Option<String> {
    let Device::Cuda(gpu) = device else { return None };
    if gpu as i64 >= tch::Cuda::device_count() {
        // A plan for a GPU that is elsewhere.
        return None;
    }
    match state(gpu) {
        Ok(_) | Err(KernelError::SwitchedOff) => None,
        Err(error) => Some(format!(
            "no kernels of ours on cuda:{gpu}: {error}. Operations are composed of libtorch's: slower, and more memory"
        )),
    }
}

/// Whether a plan for `device` has to count what operators composed of libtorch's keep. A GPU that is not here is assumed to have
/// kernels.
pub fn composes(device: Device) -> bool {
    match device {
        Device::Cuda(gpu) if (gpu as i64) < tch::Cuda::device_count() => state(gpu).is_err(),
        Device::Cuda(_) => !WANTED.load(Ordering::Acquire),
        _ => false,
    }
}

fn are_loaded(gpu: usize) -> bool {
    // SAFETY: a flag is read.
    unsafe { shearling_has_device_kernels(gpu as i64) != 0 }
}

fn states() -> MutexGuard<'static, Vec<(usize, State)>> {
    STATES.lock().unwrap_or_else(PoisonError::into_inner)
}
