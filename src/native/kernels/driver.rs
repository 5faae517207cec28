//! The CUDA driver (`libcuda.so.1`): what loads a cubin and launches its kernels, in the context that libtorch uses.

use super::{KernelError, launch_in_turn, launches_overlap};
use libloading::Library;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
const PROGRAMMATIC_STREAM_SERIALIZATION: c_int = 6;
/// The first version of the driver (CUDA 12.3) that records launches which overlap.
const OVERLAPS_IN_GRAPHS: c_int = 12_030;
/// With this variable, whatever it says, every launch waits for the one before: what overlapping them gives can be measured.
const NO_OVERLAP: &str = "SHEARLING_NO_OVERLAP";
/// What a launch may have without being asked: of the 48 KB of a block, less what kernels have of their own.
const PLAIN_SHARED_BYTES: usize = 40 << 10;

type Handle = *mut c_void;

/// A kernel that can be launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(Handle);

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Function {}

/// The driver with the primary context of one GPU, which is libtorch's too.
#[derive(Debug)]
pub(super) struct Driver {
    library: Library,
    context: Handle,
    launch: Launch,
    /// Launches that overlap, on GPUs that have them.
    launch_with: Option<LaunchWith>,
    current: GetHandle,
}

// SAFETY: as above.
unsafe impl Send for Driver {}

type GetHandle = unsafe extern "C" fn(*mut Handle) -> c_int;
type Launch = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// Blocks, threads and memory of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u32,
    pub(super) parts: u32,
    pub(super) threads: u32,
    pub(super) shared_bytes: usize,
    /// Whether it may start while the launches before it end; its kernel then waits for them itself.
    pub(super) overlaps: bool,
}

/// As `CUlaunchAttribute` in cuda.h: a number, and 64 bytes for what is said by it.
#[repr(C, align(8))]
struct Attribute {
    id: c_int,
    pad: c_int,
    value: [c_int; 16],
}

/// As `CUlaunchConfig` there.
#[repr(C)]
struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Handle,
    attributes: *mut Attribute,
    count: c_uint,
}

type LaunchWith = unsafe extern "C" fn(*const Config, Handle, *mut *mut c_void, *mut *mut c_void) -> c_int;

impl Driver {
    /// Opens it for the GPU of that number, whose architecture comes with it.
    pub(super) fn open(gpu: usize) -> Result<(Driver, String), KernelError> {
        Driver::open_at("libcuda.so.1".as_ref(), gpu)
    }

    fn open_at(library: &OsStr, gpu: usize) -> Result<(Driver, String), KernelError> {
        // SAFETY: NVIDIA's driver, which libtorch has opened before us.
        let library = unsafe { Library::new(library) }.map_err(|error| KernelError::NoLibrary {
            library: "the driver (libcuda.so.1)",
            problem: error.to_string(),
        })?;
        // SAFETY: the types are those of the driver's functions of that name.
        let (launch, current) =
            unsafe { (find::<Launch>(&library, c"cuLaunchKernel")?, find::<GetHandle>(&library, c"cuCtxGetCurrent")?) };
        let mut driver = Driver { library, context: null_mut(), launch, launch_with: None, current };
        let mut device: c_int = 0;
        // SAFETY: as above; results go to places of ours.
        unsafe {
            driver.call::<unsafe extern "C" fn(c_uint) -> c_int>(c"cuInit", |init| init(0))?;
            driver.call::<unsafe extern "C" fn(*mut c_int, c_int) -> c_int>(c"cuDeviceGet", |get| {
                get(&mut device, gpu as c_int)
            })?;
            let mut context = null_mut();
            driver
                .call::<unsafe extern "C" fn(*mut Handle, c_int) -> c_int>(c"cuDevicePrimaryCtxRetain", |retain| {
                    retain(&mut context, device)
                })?;
            driver.context = context;
        }
        let (major, minor) =
            (driver.attribute(device, COMPUTE_CAPABILITY_MAJOR)?, driver.attribute(device, COMPUTE_CAPABILITY_MINOR)?);
        let architecture = format!("sm_{major}{minor}");
        if major >= 9 && driver.version()? >= OVERLAPS_IN_GRAPHS && std::env::var_os(NO_OVERLAP).is_none() {
            // SAFETY: the type is that of the driver's function of that name.
            driver.launch_with = unsafe { find::<LaunchWith>(&driver.library, c"cuLaunchKernelEx").ok() };
        }
        if major < 8 { Err(KernelError::TooOld(architecture)) } else { Ok((driver, architecture)) }
    }

    /// Loads a cubin.
    pub(super) fn module(&self, cubin: &[u8]) -> Result<Module, KernelError> {
        self.enter()?;
        let mut module = null_mut();
        type Load = unsafe extern "C" fn(*mut Handle, *const c_void) -> c_int;
        // SAFETY: a cubin is read up to its own end.
        unsafe { self.call::<Load>(c"cuModuleLoadData", |load| load(&mut module, cubin.as_ptr().cast()))? };
        Ok(Module(module))
    }

    /// The kernel of that name.
    pub(super) fn function(&self, module: &Module, name: &str) -> Result<Function, KernelError> {
        let (mut function, name) = (null_mut(), CString::new(name).unwrap_or_default());
        type Get = unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> c_int;
        // SAFETY: a module of this driver; the name lives for the time of the call.
        unsafe { self.call::<Get>(c"cuModuleGetFunction", |get| get(&mut function, module.0, name.as_ptr()))? };
        Ok(Function(function))
    }

    /// Lets blocks of a kernel have as much memory.
    pub(super) fn allow_shared(&self, function: Function, bytes: usize) -> Result<(), KernelError> {
        if bytes <= PLAIN_SHARED_BYTES {
            return Ok(());
        }
        type Set = unsafe extern "C" fn(Handle, c_int, c_int) -> c_int;
        // SAFETY: a function of this driver.
        unsafe {
            self.call::<Set>(c"cuFuncSetAttribute", |set| {
                set(function.0, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes as c_int)
            })
        }
    }

    /// Puts a kernel with one argument, of any size, behind what `stream` has.
    pub(super) fn launch(
        &self,
        function: Function,
        geometry: Geometry,
        argument: *const c_void,
        stream: Handle,
    ) -> Result<(), KernelError> {
        self.enter()?;
        let mut arguments = [argument.cast_mut()];
        let Geometry { blocks, parts, threads, shared_bytes, overlaps } = geometry;
        if let Some(launch) = self.launch_with.filter(|_| overlaps && launches_overlap()) {
            let mut allowed = Attribute { id: PROGRAMMATIC_STREAM_SERIALIZATION, pad: 0, value: [0; 16] };
            allowed.value[0] = 1;
            let (grid, block) = ([blocks, parts, 1], [threads, 1, 1]);
            let shared_bytes = shared_bytes as c_uint;
            let config = Config { grid, block, shared_bytes, stream, attributes: &mut allowed, count: 1 };
            // SAFETY: as below; the configuration is read before the call returns.
            let status = unsafe { launch(&config, function.0, arguments.as_mut_ptr(), null_mut()) };
            if status == 0 {
                return Ok(());
            }
            launch_in_turn();
        }
        // SAFETY: the argument is as the kernel has it, and is copied before the call returns.
        let status = unsafe {
            (self.launch)(
                function.0,
                blocks,
                parts,
                1,
                threads,
                1,
                1,
                shared_bytes as c_uint,
                stream,
                arguments.as_mut_ptr(),
                null_mut(),
            )
        };
        self.check("cuLaunchKernel", status)
    }

    /// Makes the GPU's context this thread's, where it is not.
    fn enter(&self) -> Result<(), KernelError> {
        let mut current = null_mut();
        // SAFETY: the result goes to a place of ours.
        let status = unsafe { (self.current)(&mut current) };
        if status == 0 && current == self.context {
            return Ok(());
        }
        // SAFETY: a context that was retained.
        unsafe { self.call::<unsafe extern "C" fn(Handle) -> c_int>(c"cuCtxSetCurrent", |set| set(self.context)) }
    }

    fn version(&self) -> Result<c_int, KernelError> {
        let mut version = 0;
        type Get = unsafe extern "C" fn(*mut c_int) -> c_int;
        // SAFETY: the result goes to a place of ours.
        unsafe { self.call::<Get>(c"cuDriverGetVersion", |get| get(&mut version))? };
        Ok(version)
    }

    fn attribute(&self, device: c_int, attribute: c_int) -> Result<c_int, KernelError> {
        let mut value = 0;
        type Get = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        // SAFETY: the result goes to a place of ours.
        unsafe { self.call::<Get>(c"cuDeviceGetAttribute", |get| get(&mut value, attribute, device))? };
        Ok(value)
    }

    /// # Safety
    /// `F` is the type of the function of that name, and `body` calls it as it wants to be called.
    unsafe fn call<F: Copy>(&self, name: &'static CStr, body: impl FnOnce(F) -> c_int) -> Result<(), KernelError> {
        // SAFETY: the caller's.
        let function = unsafe { find::<F>(&self.library, name)? };
        self.check(name.to_str().unwrap_or("a call of the driver"), body(function))
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), KernelError> {
        if status == 0 {
            return Ok(());
        }
        type Words = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        let mut words: *const c_char = std::ptr::null();
        // SAFETY: the type is that of the function; the text is static, or null for an unknown number.
        let problem = unsafe {
            let asked = find::<Words>(&self.library, c"cuGetErrorString").map(|ask| ask(status, &mut words));
            match (asked, words.is_null()) {
                (Ok(0), false) => CStr::from_ptr(words).to_string_lossy().into_owned(),
                _ => format!("error {status}"),
            }
        };
        Err(KernelError::Call { call, problem })
    }
}

/// A loaded cubin; it stays for the life of the process.
#[derive(Debug)]
pub(super) struct Module(Handle);

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Module {}

/// # Safety
/// `F` is the type of the function of that name.
unsafe fn find<F: Copy>(library: &Library, name: &CStr) -> Result<F, KernelError> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<F>(name.to_bytes_with_nul()) };
    found.map(|symbol| *symbol).map_err(|error| KernelError::Call { call: "the driver", problem: error.to_string() })
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// A driver that launches nothing and remembers what it was asked: the signatures are those of NVIDIA's cuda.h.
    const STAND_IN: &str = r#"
        #include <cstring>
        struct Asked { unsigned grid[3], block[3], shared; void* stream; int argument, attribute, bytes, overlaps; } asked;
        struct Attribute { int id; char pad[4]; union { char room[64]; int number; } value; };
        struct Config { unsigned grid[3], block[3], shared; void* stream; Attribute* attributes; unsigned count; };
        static void *primary = &asked, *current = nullptr;
        extern "C" {
        Asked* what_was_asked() { return &asked; }
        int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
        int cuDeviceGet(int* device, int ordinal) { *device = 70 + ordinal; return ordinal < 2 ? 0 : 101; }
        int cuDevicePrimaryCtxRetain(void** context, int device) { *context = primary; return device >= 70 ? 0 : 101; }
        int cuCtxGetCurrent(void** context) { *context = current; return 0; }
        int cuCtxSetCurrent(void* context) { current = context; return 0; }
        int cuDeviceGetAttribute(int* value, int attribute, int device) {
            *value = attribute == 75 ? (device == 70 ? 9 : 7) : 0;
            return 0;
        }
        int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
        int cuModuleLoadData(void** module, const void* image) {
            if (current != primary) return 201;
            *module = &current;
            return std::memcmp(image, "\x7f" "ELF", 4) == 0 ? 0 : 200;
        }
        int cuModuleGetFunction(void** function, void* module, const char* name) {
            *function = &asked;
            return module == &current && std::strcmp(name, "rope_f32") == 0 ? 0 : 500;
        }
        int cuFuncSetAttribute(void* function, int attribute, int value) {
            asked.attribute = attribute, asked.bytes = value;
            return function == &asked ? 0 : 400;
        }
        int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                           unsigned shared, void* stream, void** arguments, void** extra) {
            if (function != &asked || extra != nullptr || current != primary) return 1;
            asked.grid[0] = gx, asked.grid[1] = gy, asked.grid[2] = gz;
            asked.block[0] = bx, asked.block[1] = by, asked.block[2] = bz;
            asked.shared = shared, asked.stream = stream, asked.argument = *static_cast<int*>(arguments[0]);
            return 0;
        }
        int cuLaunchKernelEx(const Config* config, void* function, void** arguments, void** extra) {
            if (config->count != 1 || config->attributes[0].id != 6 || config->grid[0] == 9) return 1;
            asked.overlaps = config->attributes[0].value.number;
            const unsigned *grid = config->grid, *block = config->block;
            return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], config->shared,
                                  config->stream, arguments, extra);
        }
        int cuGetErrorString(int error, const char** words) {
            *words = error == 500 ? "named symbol not found" : "another error";
            return error > 0 && error < 999 ? 0 : 1;
        }
        }
    "#;

    #[repr(C)]
    struct Asked {
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        stream: Handle,
        argument: c_int,
        attribute: c_int,
        bytes: c_int,
        overlaps: c_int,
    }

    fn stand_in(folder: &Path) -> PathBuf {
        let (source, library) = (folder.join("driver.cpp"), folder.join("libdriver.so"));
        std::fs::write(&source, STAND_IN).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
        let mut command = std::process::Command::new(compiler);
        let built = command.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
        assert!(built.success());
        library
    }

    #[test]
    fn a_kernel_is_loaded_and_launched_as_the_driver_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let library = stand_in(folder.path());
        let (driver, architecture) = Driver::open_at(library.as_os_str(), 0).unwrap();
        assert_eq!(architecture, "sm_90");
        let module = driver.module(b"\x7fELF and more").unwrap();
        let function = driver.function(&module, "rope_f32").unwrap();
        type WhatWasAsked = unsafe extern "C" fn() -> *const Asked;
        // SAFETY: the stand-in gives the address of its record, which has this layout.
        let asked = || unsafe { &*find::<WhatWasAsked>(&driver.library, c"what_was_asked").unwrap()() };
        driver.allow_shared(function, PLAIN_SHARED_BYTES).unwrap();
        assert_eq!(asked().attribute, 0, "what every block may have is not asked for");
        driver.allow_shared(function, 90_000).unwrap();
        assert_eq!((asked().attribute, asked().bytes), (8, 90_000));
        let (argument, mut there) = (42 as c_int, 0u8);
        let stream: Handle = std::ptr::from_mut(&mut there).cast();
        let mut geometry = Geometry { blocks: 7, parts: 5, threads: 96, shared_bytes: 90_000, overlaps: false };
        driver.launch(function, geometry, std::ptr::from_ref(&argument).cast(), stream).unwrap();
        let found = asked();
        assert_eq!((found.grid, found.block, found.shared), ([7, 5, 1], [96, 1, 1], 90_000));
        assert_eq!((found.argument, found.stream, found.overlaps), (42, stream, 0));
        (geometry.blocks, geometry.overlaps) = (8, true);
        driver.launch(function, geometry, std::ptr::from_ref(&argument).cast(), stream).unwrap();
        let found = asked();
        assert_eq!((found.grid, found.block, found.shared), ([8, 5, 1], [96, 1, 1], 90_000));
        assert_eq!((found.argument, found.stream, found.overlaps), (42, stream, 1));
        // Refused with the attribute, it is launched without, and so are all that follow.
        geometry.blocks = 9;
        driver.launch(function, geometry, std::ptr::from_ref(&argument).cast(), stream).unwrap();
        assert!(asked().grid == [9, 5, 1] && !launches_overlap());
    }

    #[test]
    fn what_the_driver_refuses_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let library = stand_in(folder.path());
        let (driver, _) = Driver::open_at(library.as_os_str(), 0).unwrap();
        assert!(driver.module(b"not a cubin").unwrap_err().to_string().contains("cuModuleLoadData: another error"));
        let module = driver.module(b"\x7fELF").unwrap();
        let missing = driver.function(&module, "nothing").unwrap_err().to_string();
        assert_eq!(missing, "cuModuleGetFunction: named symbol not found");
        let old = Driver::open_at(library.as_os_str(), 1).unwrap_err();
        assert!(matches!(&old, KernelError::TooOld(name) if name == "sm_70"), "{old}");
        assert!(Driver::open_at(library.as_os_str(), 2).unwrap_err().to_string().contains("cuDeviceGet"));
        let absent = Driver::open_at("libnothing.so.1".as_ref(), 0).unwrap_err().to_string();
        assert!(absent.contains("libcuda.so.1") && absent.contains("is not found"), "{absent}");
    }
}
