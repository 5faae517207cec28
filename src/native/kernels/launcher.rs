//! Launches kernels by name, for the C++ side: `cpp/device/launch.cpp` calls [`launch`] from forwards and backwards.

use super::driver::{Driver, Function, Geometry, Module};
use super::nvrtc::Nvrtc;
use super::sources::{SOURCES, source_of};
use super::{KernelError, Loaded, cache};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

type Launch =
    extern "C" fn(*const c_char, c_int, i64, i64, u32, usize, c_int, *const c_void, *mut *mut c_char) -> c_int;

unsafe extern "C" {
    fn shearling_set_device_kernels(device: i64, there: c_int, launch: Option<Launch>);
}

/// libtorch's `aoti_torch_get_current_cuda_stream`: a stable name for the stream that the calling thread works on.
type CurrentStream = unsafe extern "C" fn(i32, *mut *mut c_void) -> i32;

/// The kernels of one GPU.
struct Gpu {
    driver: Driver,
    modules: HashMap<&'static str, Module>,
    functions: HashMap<String, (Function, usize)>,
    current_stream: CurrentStream,
}

static GPUS: Mutex<Vec<(c_int, Gpu)>> = Mutex::new(Vec::new());

/// Compiles, or takes from the cache, and loads what a GPU needs; from then on the C++ side launches there.
pub(super) fn load(gpu: usize) -> Result<Loaded, KernelError> {
    let current_stream = current_stream()?;
    let (driver, architecture) = Driver::open(gpu)?;
    let (mut nvrtc, mut modules) = (None, HashMap::new());
    for source in &SOURCES {
        // What was kept and does not load, cut short by a full disk, is compiled again.
        let kept = cache::read(source, &architecture).and_then(|cubin| driver.module(&cubin).ok());
        let module = match kept {
            Some(module) => module,
            None => {
                let compiler = match &nvrtc {
                    Some(compiler) => compiler,
                    None => nvrtc.insert(Nvrtc::open()?),
                };
                let compiled = compiler.compile(source, &architecture)?;
                cache::write(source, &architecture, &compiled.cubin);
                driver.module(&compiled.cubin)?
            }
        };
        modules.insert(source.name, module);
    }
    let loaded = Gpu { driver, modules, functions: HashMap::new(), current_stream };
    GPUS.lock().unwrap_or_else(PoisonError::into_inner).push((gpu as c_int, loaded));
    // SAFETY: a function of ours that lives as long as the program.
    unsafe { shearling_set_device_kernels(gpu as i64, 1, Some(launch)) };
    let folder = SOURCES.first().and_then(|source| cache::file_of(source, &architecture));
    let folder = folder.and_then(|file| file.parent().map(|folder| folder.to_path_buf()));
    Ok(Loaded { architecture, nvrtc: nvrtc.map(|nvrtc| nvrtc.version().to_string()), cache: folder })
}

/// Lets the C++ side launch nothing on a GPU from now on.
pub(super) fn unload(gpu: usize) {
    // SAFETY: a flag is set.
    unsafe { shearling_set_device_kernels(gpu as i64, 0, None) };
}

/// From the CUDA half of libtorch, which is loaded for all to see.
fn current_stream() -> Result<CurrentStream, KernelError> {
    let program = libloading::os::unix::Library::this();
    // SAFETY: the type is that of libtorch's function (torch/csrc/inductor/aoti_torch/c/shim.h).
    let found = unsafe { program.get::<CurrentStream>(b"aoti_torch_get_current_cuda_stream\0") };
    found.map(|symbol| *symbol).map_err(|error| KernelError::Call { call: "libtorch", problem: error.to_string() })
}

/// One launch; 0, or 1 with a message that the caller frees.
extern "C" fn launch(
    name: *const c_char,
    device: c_int,
    blocks: i64,
    parts: i64,
    threads: u32,
    shared_bytes: usize,
    overlaps: c_int,
    kernel: *const c_void,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: a static name of the C++ side.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let geometry = grid([blocks, parts]).map(|[blocks, parts]| Geometry {
        blocks,
        parts,
        threads,
        shared_bytes,
        overlaps: overlaps != 0,
    });
    let Err(error) = geometry.and_then(|geometry| run(&name, device, geometry, kernel)) else { return 0 };
    let text = CString::new(format!("kernel {name}: {error}")).unwrap_or_default();
    // SAFETY: `message` is the caller's place for a text, which it frees with `free`.
    unsafe { *message = libc::strdup(text.as_ptr()) };
    1
}

/// The blocks of a grid as the driver takes them.
fn grid(blocks: [i64; 2]) -> Result<[u32; 2], KernelError> {
    let too_large = |_| KernelError::Call { call: "a launch", problem: format!("a grid of {blocks:?} blocks") };
    Ok([u32::try_from(blocks[0]).map_err(too_large)?, u32::try_from(blocks[1]).map_err(too_large)?])
}

fn run(name: &str, device: c_int, geometry: Geometry, kernel: *const c_void) -> Result<(), KernelError> {
    let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let gpu = gpus.iter_mut().find(|(own, _)| *own == device).map(|(_, gpu)| gpu);
    let gpu = gpu.ok_or_else(|| KernelError::NoKernel(name.to_string()))?;
    let function = gpu.function(name, geometry.shared_bytes)?;
    let mut stream = std::ptr::null_mut();
    // SAFETY: libtorch's function, with a place of ours for its result.
    if unsafe { (gpu.current_stream)(device, &mut stream) } != 0 {
        return Err(KernelError::Call { call: "libtorch", problem: "it has no current stream".to_string() });
    }
    gpu.driver.launch(function, geometry, kernel, stream)
}

impl Gpu {
    /// The kernel of that name, whose blocks may have `shared_bytes` of memory.
    fn function(&mut self, name: &str, shared_bytes: usize) -> Result<Function, KernelError> {
        if let Some((function, allowed)) = self.functions.get(name)
            && *allowed >= shared_bytes
        {
            return Ok(*function);
        }
        let module = source_of(name).and_then(|source| self.modules.get(source.name));
        let module = module.ok_or_else(|| KernelError::NoKernel(name.to_string()))?;
        let function = self.driver.function(module, name)?;
        self.driver.allow_shared(function, shared_bytes)?;
        self.functions.insert(name.to_string(), (function, shared_bytes));
        Ok(function)
    }
}
