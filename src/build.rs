//! Build script: compiles the C++ shim in `src/native/cpp` against libtorch, and writes libtorch's folder into the
//! run path of the binary and the tests, so that they start with no `LD_LIBRARY_PATH`. torch-sys (`links = "tch"`)
//! tells where libtorch is.

use std::path::{Path, PathBuf};

const CPP: &str = "src/native/cpp";
/// What launches the kernels of a GPU.
const DEVICE: &str = "src/native/cpp/device";
/// The kernels of a GPU, which are compiled for the CPU too: the tests prove them there.
const CU: &str = "src/native/cu";
/// The part that talks to other processes, with stubs of headers that libtorch's wheel lacks.
const C10D: &str = "src/native/cpp/c10d";

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    println!("cargo:rerun-if-changed={CPP}");
    println!("cargo:rerun-if-changed={CU}");
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    // The checkout's `.libtorch` is a link; an installed binary must not depend on the checkout.
    let folder = std::fs::canonicalize(&libtorch).unwrap_or_else(|_| libtorch.into());
    let include = folder.with_file_name("include");
    compile(&include);
    compile_c10d(&include);
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}

/// Compiles every `.cpp` of the shim, optimised in every profile: a debug build trains too.
fn compile(include: &Path) {
    let mut build = shim(&[CPP, DEVICE], include);
    // Sums may be reordered so that they vectorise; NaN and infinity keep their meaning.
    // Together and unasked: gcc takes the first only beside the others, a test of each alone would drop it.
    let reorder = ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"];
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env != "msvc") {
        build.flags(reorder);
    }
    build.compile("shearling_shim");
}

/// Compiles what stands between us and libtorch's c10d. libtorch itself is built with Gloo; its header says so only where
/// it is told.
fn compile_c10d(include: &Path) {
    let mut build = shim(&[C10D], include);
    build.include(format!("{C10D}/stubs")).define("USE_DISTRIBUTED", None).define("USE_C10D_GLOO", None);
    build.compile("shearling_c10d");
}

/// A compiler for the `.cpp` files of `folders`.
fn shim(folders: &[&str], include: &Path) -> cc::Build {
    let entries = |folder: &&str| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = folders.iter().flat_map(entries).map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "cpp"));
    files.sort();
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .files(files)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .warnings(false);
    for folder in [include.to_path_buf(), include.join("torch/csrc/api/include")] {
        build.flag("-isystem").flag(folder.as_os_str());
    }
    build.flag_if_supported("-Wall").flag_if_supported("-Wextra");
    build
}
