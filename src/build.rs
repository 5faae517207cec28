//! Build script: writes libtorch's folder into the run path of the binary and the tests, so that they start
//! with no `LD_LIBRARY_PATH`. torch-sys (`links = "tch"`) tells where libtorch is.

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    // The checkout's `.libtorch` is a link; an installed binary must not depend on the checkout.
    let folder = std::fs::canonicalize(&libtorch).unwrap_or_else(|_| libtorch.into());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}
