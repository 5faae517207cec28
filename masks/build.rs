//! Build script: the run path to libtorch for this crate's tests (see the root package's `src/build.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let folder = std::fs::canonicalize(&libtorch).unwrap_or_else(|_| libtorch.into());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}
