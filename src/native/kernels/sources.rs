//! The sources in `cu/`, which the binary carries.

/// One source and what it includes.
#[derive(Debug)]
pub struct Source {
    /// Its name without an ending: the beginning of its kernels' names.
    pub name: &'static str,
    /// As a file.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// What sources include: file names and texts.
pub(super) const HEADERS: [(&str, &str); 5] = [
    ("dot.h", include_str!("../cu/dot.h")),
    ("halves.h", include_str!("../cu/halves.h")),
    ("moments.h", include_str!("../cu/moments.h")),
    ("portable.h", include_str!("../cu/portable.h")),
    ("softmax.h", include_str!("../cu/softmax.h")),
];

macro_rules! source {
    ($name:ident) => {
        Source {
            name: stringify!($name),
            file: concat!(stringify!($name), ".h"),
            text: include_str!(concat!("../cu/", stringify!($name), ".h")),
        }
    };
}

/// Every source with kernels.
pub const SOURCES: [Source; 12] = [
    source!(adamw),
    source!(cached_attention),
    source!(cached_heads),
    source!(cross_entropy),
    source!(distillation),
    source!(embedding),
    source!(experts),
    source!(folded_weight),
    source!(matvec),
    source!(rms_norm),
    source!(rope),
    source!(swiglu),
];

/// The source of a kernel.
pub(super) fn source_of(kernel: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| kernel.strip_prefix(source.name).is_some_and(|rest| rest.starts_with('_')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_a_source_or_a_header() {
        let known: Vec<&str> =
            SOURCES.iter().map(|source| source.file).chain(HEADERS.iter().map(|(file, _)| *file)).collect();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/native/cu");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            assert!(known.contains(&file.as_str()), "{file} is not compiled");
        }
    }

    #[test]
    fn a_kernel_is_found_by_the_beginning_of_its_name() {
        assert_eq!(source_of("rms_norm_forward_bf16_x8").unwrap().name, "rms_norm");
        assert_eq!(source_of("rope_f32").unwrap().name, "rope");
        assert!(source_of("ropes_f32").is_none() && source_of("rms_norm").is_none());
    }
}
