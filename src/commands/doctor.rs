//! `shearling doctor`: is this machine fit, and if not, what to do.

use super::ExitStatus;
use crate::cli::Printer;
use crate::cli::arguments::Doctor;
use crate::cli::table::bytes;
use crate::files::available_bytes;
use crate::native::kernels;
use crate::native::ops::self_check::check_kernels;
use crate::native::runtime::cuda::{CudaLibrary, torch_cpu_path};
use crate::native::runtime::device::{self, DeviceError};
use crate::native::runtime::precision::has_bf16;
use crate::native::runtime::threads::Threads;
use crate::native::runtime::waiting;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use tch::{Cuda, Device, Kind, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Ok,
    Warn,
    Error,
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    found: String,
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, level: Level::Ok, found: found.into(), hint: None }
    }

    fn bad(name: &'static str, level: Level, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { name, level, found: found.into(), hint: Some(hint.into()) }
    }
}

/// Runs all checks; exit code 1 if one is an ERROR.
pub fn run(arguments: &Doctor, cuda: &CudaLibrary, threads: &Threads) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let mut checks =
        vec![library(), cuda_check(cuda), threads_check(threads), Check::ok("waiting", waiting::describe())];
    match device::parse(&arguments.device) {
        Ok(device) => {
            checks.push(Check::ok("device", device_name(device)));
            checks.push(kernels_check(device));
            checks.push(matmul(device));
            checks.push(bf16(device));
        }
        Err(DeviceError::NoCuda(name)) => {
            let found = format!("{name:?} was asked for, and libtorch sees no CUDA device: the rest was not looked at");
            checks.push(Check::bad("device", Level::Error, found, "see the line on CUDA above, or use --device cpu"));
        }
        Err(error) => checks.push(Check::bad("device", Level::Error, error.to_string(), "choose another --device")),
    }
    checks.push(disk());
    let worst = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    printer.data(text(&checks), || json!({ "checks": checks, "worst": worst }));
    Ok(if worst == Level::Error { ExitStatus::CheckFailed } else { ExitStatus::Done })
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let level = match check.level {
            Level::Ok => "OK   ",
            Level::Warn => "WARN ",
            Level::Error => "ERROR",
        };
        text.push_str(&format!("{level} {:<10} {}\n", check.name, check.found));
        if let Some(hint) = &check.hint {
            text.push_str(&format!("      {:<10} hint: {hint}\n", ""));
        }
    }
    text
}

fn library() -> Check {
    let folder = torch_cpu_path().and_then(|path| path.parent().map(Path::to_path_buf));
    let place = folder.as_ref().map_or("loaded".to_string(), |folder| folder.display().to_string());
    match folder.as_deref().and_then(libtorch_version) {
        Some(version) if version.starts_with(EXPECTED) => Check::ok("libtorch", format!("{version} in {place}")),
        Some(version) => Check::bad(
            "libtorch",
            Level::Error,
            format!("{version} in {place}"),
            format!("this program was built for {EXPECTED}; set LIBTORCH to that version and build again"),
        ),
        None => Check::ok("libtorch", format!("built for {EXPECTED}, {place}")),
    }
}

const EXPECTED: &str = "2.11.0";

/// Version of the libtorch (or Python torch) whose `lib` folder this is.
fn libtorch_version(lib: &Path) -> Option<String> {
    let root = lib.parent()?;
    if let Ok(version) = std::fs::read_to_string(root.join("build-version")) {
        return Some(version.trim().to_string());
    }
    let python = std::fs::read_to_string(root.join("version.py")).ok()?;
    let line = python.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(line.trim_matches('\'').to_string())
}

fn cuda_check(cuda: &CudaLibrary) -> Check {
    match cuda {
        CudaLibrary::Absent => Check::ok("cuda", "no CUDA in this libtorch (CPU only)"),
        CudaLibrary::Failed(path, error) => Check::bad(
            "cuda",
            Level::Warn,
            format!("{} could not be loaded: {error}", path.display()),
            "install the CUDA packages that torch==2.11.0 names, or ignore this and train on the CPU",
        ),
        CudaLibrary::Loaded(_) if !Cuda::is_available() => Check::bad(
            "cuda",
            Level::Warn,
            "the CUDA library is loaded, but no device is visible",
            "check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES",
        ),
        CudaLibrary::Loaded(_) => {
            let cudnn = if Cuda::cudnn_is_available() { "with" } else { "without" };
            Check::ok("cuda", format!("{} device(s), {cudnn} cuDNN", Cuda::device_count()))
        }
    }
}

/// What computes the operations that are not libtorch's on any device.
fn kernels_check(device: Device) -> Check {
    const THEIRS: &str = "matrix products and attention by libtorch";
    let ours = kernels::SOURCES.map(|source| source.name.replace('_', " ")).join(", ");
    let Device::Cuda(gpu) = device else {
        let found = match Cuda::is_available() {
            true => format!("the CPU's own; compiled on the first use of a GPU: {ours}"),
            false => "the CPU's own".to_string(),
        };
        return Check::ok("kernels", found);
    };
    // What libtorch says is said by the checks below.
    let _ = check_kernels(device);
    match kernels::state(gpu) {
        Ok(loaded) => {
            let from = loaded.nvrtc.map_or("kept".to_string(), |version| format!("compiled by NVRTC {version}"));
            let place = loaded.cache.map_or(String::new(), |cache| format!(", {}", cache.display()));
            Check::ok("kernels", format!("of ours for {} ({from}{place}): {ours}; {THEIRS}", loaded.architecture))
        }
        Err(error) => Check::bad(
            "kernels",
            Level::Warn,
            format!("none of ours, {error}: all operations are composed of libtorch's"),
            "slower, and about twice the memory for activations; if it is NVRTC that is missing: pip install nvidia-cuda-nvrtc",
        ),
    }
}

fn threads_check(threads: &Threads) -> Check {
    let Threads { count, reason, available } = *threads;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let found = format!("{count} thread{} on {available} available CPU{}: {reason}", plural(count), plural(available));
    if count > available {
        let hint = format!("more threads than CPUs are slow; use at most {available}: --threads, OMP_NUM_THREADS");
        return Check::bad("threads", Level::Warn, found, hint);
    }
    Check::ok("threads", found)
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A product and its gradient, compared with the exact answer.
fn matmul(device: Device) -> Check {
    match small_gradient(device, Kind::Float) {
        Ok(error) if error < 1e-5 => Check::ok("matmul", "forward and backward agree with the exact result"),
        Ok(error) => Check::bad(
            "matmul",
            Level::Error,
            format!("off by {error:.1e}"),
            "this libtorch or device computes wrongly",
        ),
        Err(error) => {
            Check::bad("matmul", Level::Error, error.to_string(), "this libtorch does not work on the device")
        }
    }
}

fn bf16(device: Device) -> Check {
    let fast = has_bf16(device);
    match small_gradient(device, Kind::BFloat16) {
        Ok(error) if error < 1e-2 && fast => Check::ok("bf16", "works, in hardware: run.dtype = \"auto\" is bf16 here"),
        Ok(error) if error < 1e-2 => Check::bad(
            "bf16",
            Level::Warn,
            format!("works, but {} has no bf16 instructions: slower than fp32", device_name(device)),
            "use run.dtype = \"fp32\" here, or \"auto\", which is fp32 on this device",
        ),
        Ok(error) => Check::bad("bf16", Level::Error, format!("off by {error:.1e}"), "use run.dtype = \"fp32\""),
        Err(error) => Check::bad("bf16", Level::Error, error.to_string(), "use run.dtype = \"fp32\""),
    }
}

/// Largest error of d(Σ (xW)²)/dW for x = ones `[8, 16]`, W = 0.5 `[16, 4]`: every entry is 8 · 2 · 8 = 128,
/// relative to that.
fn small_gradient(device: Device, kind: Kind) -> Result<f64, tch::TchError> {
    let x = Tensor::f_ones([8, 16], (kind, device))?;
    let w = Tensor::f_full([16, 4], 0.5, (kind, device))?.f_set_requires_grad(true)?;
    x.f_matmul(&w)?.f_square()?.f_sum(Kind::Float)?.f_backward()?;
    w.grad().f_to_kind(Kind::Double)?.f_sub_scalar(128.0)?.f_abs()?.f_max()?.f_double_value(&[]).map(|e| e / 128.0)
}

fn disk() -> Check {
    const LOW_BYTES: u64 = 10 << 30;
    match available_bytes(Path::new(".")) {
        Ok(free) if free < LOW_BYTES => Check::bad(
            "disk",
            Level::Warn,
            format!("{} free here", bytes(free as f64)),
            "a checkpoint of a 7B run takes about 80 GB; `shearling plan` says what yours takes",
        ),
        Ok(free) => Check::ok("disk", format!("{} free here", bytes(free as f64))),
        Err(error) => Check::bad("disk", Level::Warn, error.to_string(), "run it in a folder that can be read"),
    }
}
