//! Build script: compiles the C++ shim in `src/native/cpp` against libtorch, and writes libtorch's folder into the
//! run path of the binary and the tests, so that they start with no `LD_LIBRARY_PATH`. torch-sys (`links = "tch"`)
//! tells where libtorch is.

use std::path::{Path, PathBuf};

const CPP: &str = "src/native/cpp";

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    println!("cargo:rerun-if-changed={CPP}");
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    // The checkout's `.libtorch` is a link; an installed binary must not depend on the checkout.
    let folder = std::fs::canonicalize(&libtorch).unwrap_or_else(|_| libtorch.into());
    compile(&folder.with_file_name("include"));
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    link_openmp(&folder);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}

/// Compiles every `.cpp` of the shim, optimised in every profile: a debug build trains too.
fn compile(include: &Path) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(CPP).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|end| end == "cpp"));
    files.sort();
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).files(files).define("_GLIBCXX_USE_CXX11_ABI", "1").warnings(false);
    for folder in [include.to_path_buf(), include.join("torch/csrc/api/include")] {
        build.flag("-isystem").flag(folder.as_os_str());
    }
    if uses_openmp(&build) {
        build.flag("-fopenmp");
    }
    // Sums may be reordered so that they vectorise; NaN and infinity keep their meaning.
    for flag in ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"] {
        build.flag_if_supported(flag);
    }
    build.flag_if_supported("-Wall").flag_if_supported("-Wextra").compile("shearling_shim");
}

/// Whether the shim's loops run on OpenMP threads: `at::parallel_for` is a template that turns into one plain loop
/// where the including file is compiled without it. gcc only: clang would bring a second runtime with its own threads.
fn uses_openmp(build: &cc::Build) -> bool {
    std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
        && build.try_get_compiler().is_ok_and(|compiler| compiler.is_like_gnu() && !compiler.is_like_clang())
}

/// Links the OpenMP runtime that libtorch itself uses, if it brings one, so that both share one set of threads.
fn link_openmp(folder: &Path) {
    if !uses_openmp(cc::Build::new().cpp(true)) {
        return;
    }
    let own = folder.join("libgomp.so.1").exists();
    println!("cargo:rustc-link-lib=dylib{}", if own { ":+verbatim=libgomp.so.1" } else { "=gomp" });
}
