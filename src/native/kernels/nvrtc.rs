//! NVRTC, NVIDIA's compiler as a library (<https://docs.nvidia.com/cuda/nvrtc>): a source in, a cubin out. No GPU is needed
//! to compile for one.

use super::KernelError;
use super::sources::{HEADERS, Source};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

const NAME: &str = "libnvrtc";
/// Versions of it, newest first.
const VERSIONS: [&str; 3] = [".so.13", ".so.12", ".so"];

type Program = *mut c_void;

/// The compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    /// What it looks for by a name that is not in the loader's path.
    _builtins: Option<Library>,
    version: String,
}

/// A source compiled for one architecture.
#[derive(Debug)]
pub struct Compiled {
    /// What the driver loads.
    pub cubin: Vec<u8>,
    /// What the compiler said, with registers and spills of every kernel.
    pub log: String,
}

/// Registers and spills of a kernel, as the assembler says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Of a thread.
    pub registers: u32,
    /// Bytes that did not fit into registers, stored and loaded.
    pub spilled_bytes: u32,
}

impl Nvrtc {
    /// Opens it: beside libtorch as pip installs it, in the folder of `make test`, in the loader's path, in CUDA's own folder.
    ///
    /// # Errors
    /// It is nowhere, or does not answer.
    pub fn open() -> Result<Nvrtc, KernelError> {
        let mut problem = String::new();
        for path in candidates() {
            match open_at(&path) {
                Ok((library, builtins)) => {
                    let mut nvrtc = Nvrtc { library, _builtins: builtins, version: String::new() };
                    nvrtc.version = nvrtc.read_version()?;
                    return Ok(nvrtc);
                }
                Err(error) => problem = error.to_string(),
            }
        }
        Err(KernelError::NoLibrary {
            library: "NVRTC (libnvrtc.so.13 or .12, which pip brings with torch or as nvidia-cuda-nvrtc)",
            problem,
        })
    }

    /// `13.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Compiles for `sm_90` and the like.
    ///
    /// # Errors
    /// A GPU that this NVRTC does not know; a source with an error in it.
    pub fn compile(&self, source: &Source, architecture: &str) -> Result<Compiled, KernelError> {
        if !self.knows(architecture)? {
            let (architecture, version) = (architecture.to_string(), self.version.clone());
            return Err(KernelError::UnknownGpu { architecture, version });
        }
        let program = self.create(source)?;
        let compiled = self.compile_program(program, source, architecture);
        let mut program = program;
        // SAFETY: the program made above, destroyed once.
        let _ = unsafe { self.function::<unsafe extern "C" fn(*mut Program) -> c_int>(c"nvrtcDestroyProgram") }
            .map(|destroy| unsafe { destroy(&mut program) });
        compiled
    }

    fn compile_program(&self, program: Program, source: &Source, architecture: &str) -> Result<Compiled, KernelError> {
        let options = [format!("-arch={architecture}"), "-std=c++17".into(), "-Xptxas=-v".into()];
        let options = options.map(text);
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        // SAFETY: as NVRTC declares it; the options live for the time of the call.
        let status = unsafe {
            self.function::<Compile>(c"nvrtcCompileProgram")?(program, pointers.len() as c_int, pointers.as_ptr())
        };
        let log = self.bytes(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_string();
        if status != 0 {
            let architecture = architecture.to_string();
            return Err(KernelError::Compile { source_file: source.file, architecture, log });
        }
        Ok(Compiled { cubin: self.bytes(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?, log })
    }

    fn create(&self, source: &Source) -> Result<Program, KernelError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let (code, name) = (text(source.text), text(source.file));
        let headers = HEADERS.map(|(file, code)| (text(file), text(code)));
        let names: Vec<*const c_char> = headers.iter().map(|(file, _)| file.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, code)| code.as_ptr()).collect();
        let mut program: Program = null_mut();
        // SAFETY: as NVRTC declares it; all texts live for the time of the call, which copies them.
        let status = unsafe {
            self.function::<Create>(c"nvrtcCreateProgram")?(
                &mut program,
                code.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", status)?;
        Ok(program)
    }

    /// What a pair of functions gives: a size, and as many bytes.
    fn bytes(&self, program: Program, size: &'static CStr, get: &'static CStr) -> Result<Vec<u8>, KernelError> {
        let mut count: usize = 0;
        // SAFETY: as NVRTC declares them; the buffer is as large as was said.
        unsafe {
            let status =
                self.function::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size)?(program, &mut count);
            self.check("the size of a result", status)?;
            let mut bytes = vec![0u8; count];
            let get = self.function::<unsafe extern "C" fn(Program, *mut c_char) -> c_int>(get)?;
            self.check("a result", get(program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }

    fn knows(&self, architecture: &str) -> Result<bool, KernelError> {
        let mut count: c_int = 0;
        // SAFETY: as NVRTC declares them; the buffer is as large as was said.
        let known = unsafe {
            let status =
                self.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"nvrtcGetNumSupportedArchs")?(&mut count);
            self.check("nvrtcGetNumSupportedArchs", status)?;
            let mut known = vec![0 as c_int; count.max(0) as usize];
            let status = self.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"nvrtcGetSupportedArchs")?(
                known.as_mut_ptr(),
            );
            self.check("nvrtcGetSupportedArchs", status)?;
            known
        };
        Ok(known.iter().any(|number| format!("sm_{number}") == architecture))
    }

    fn read_version(&self) -> Result<String, KernelError> {
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: as NVRTC declares it.
        let status = unsafe { self.function::<Version>(c"nvrtcVersion")?(&mut major, &mut minor) };
        self.check("nvrtcVersion", status)?;
        Ok(format!("{major}.{minor}"))
    }

    /// # Safety
    /// `F` is the type of the function of that name.
    unsafe fn function<F: Copy>(&self, name: &'static CStr) -> Result<F, KernelError> {
        // SAFETY: the caller's.
        let found = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        found.map(|symbol| *symbol).map_err(|error| KernelError::Call { call: "NVRTC", problem: error.to_string() })
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), KernelError> {
        if status == 0 {
            return Ok(());
        }
        type Words = unsafe extern "C" fn(c_int) -> *const c_char;
        // SAFETY: as NVRTC declares it; the text is static.
        let words =
            unsafe { self.function::<Words>(c"nvrtcGetErrorString").map(|words| CStr::from_ptr(words(status))) };
        let problem = words.map_or_else(|_| format!("error {status}"), |words| words.to_string_lossy().into_owned());
        Err(KernelError::Call { call, problem })
    }
}

impl Compiled {
    /// What each kernel takes, by the lines of the assembler.
    pub fn resources(&self) -> Vec<Resources> {
        let mut found = Vec::new();
        let (mut kernel, mut spilled_bytes) = (String::new(), 0);
        for line in self.log.lines() {
            if let Some(name) = line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next())
            {
                kernel = name.to_string();
            } else if line.contains("bytes spill stores") {
                spilled_bytes = number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
            } else if let Some(registers) = line.split("Used ").nth(1).map(|rest| number_before(rest, " registers")) {
                found.push(Resources { kernel: std::mem::take(&mut kernel), registers, spilled_bytes });
            }
        }
        found
    }
}

/// The number that stands before `words`.
fn number_before(line: &str, words: &str) -> u32 {
    let before = line.split(words).next().unwrap_or_default();
    before.rsplit(|sign: char| !sign.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A text for C; ours have no zero bytes.
fn text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Opens the library, and before it what it will look for: its builtins lie in the same folder.
fn open_at(path: &Path) -> Result<(Library, Option<Library>), libloading::Error> {
    use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_NOW};
    let builtins = path.parent().and_then(builtins_in);
    // SAFETY: NVIDIA's library; its initialisers touch nothing of ours.
    let builtins = builtins.and_then(|path| unsafe { Unix::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.ok());
    // SAFETY: as above.
    let library = unsafe { Library::new(path) }?;
    Ok((library, builtins.map(Library::from)))
}

fn builtins_in(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libnvrtc-builtins.so") && !name.contains(".alt.")
    });
    files.sort();
    files.pop()
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(lib) =
        crate::native::runtime::cuda::torch_cpu_path().and_then(|file| Some(file.parent()?.to_path_buf()))
    {
        folders.push(lib.clone());
        // site-packages/torch/lib, beside which pip puts site-packages/nvidia/…/lib
        for above in lib.ancestors().skip(1).take(3) {
            folders.extend(nvidia_folders(&above.join("nvidia")));
        }
    }
    if let Some(cache) = super::cache::user_cache() {
        folders.extend(nvidia_folders(&cache.join("nvrtc/nvidia")));
    }
    let named = |folder: &PathBuf| VERSIONS.map(|version| folder.join(format!("{NAME}{version}")));
    let mut paths: Vec<PathBuf> = folders.iter().flat_map(named).filter(|path| path.exists()).collect();
    paths.extend(VERSIONS.map(|version| PathBuf::from(format!("{NAME}{version}"))));
    paths.extend(named(&PathBuf::from("/usr/local/cuda/lib64")));
    paths
}

/// The `lib` folders that pip's NVIDIA packages have.
fn nvidia_folders(nvidia: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(nvidia).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join("lib")).filter(|lib| lib.is_dir()).collect();
    folders.sort();
    folders
}
