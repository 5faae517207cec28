//! Names that are on disk have one owner each: no other file spells them.

use super::sources;

/// Names of a run folder, and the file that owns them.
const OWNER: &str = "src/run_dir/layout.rs";
const NAMES: [&str; 9] = [
    "\"metrics.jsonl\"",
    "\"resolved.toml\"",
    "\"run.lock\"",
    "\"checkpoints\"",
    "\"optimizer.safetensors\"",
    "\"masks.safetensors\"",
    "\"state.json\"",
    "\"manifest.json\"",
    "\"step-",
];

#[test]
fn names_of_a_run_folder_are_written_in_one_file() {
    let mut owned = 0;
    for source in sources("src") {
        let own = source.path.ends_with(OWNER);
        for name in NAMES {
            let found = source.code.contains(name);
            owned += usize::from(own && found);
            assert!(own || !found, "{}: {name} belongs to {OWNER}", source.path.display());
        }
    }
    assert_eq!(owned, NAMES.len(), "{OWNER} has all of them");
}

/// Fields of `metrics.jsonl` whose names nothing else has, and the folder that owns them.
const RECORDS: &str = "src/run_dir/record";
const FIELDS: [&str; 6] =
    ["cross_entropy", "gradient_norm", "row_sparsity", "clip_scale", "worst_row_violation", "row_losses"];

#[test]
fn fields_of_the_metrics_are_written_and_read_by_their_types_alone() {
    let owned: String = sources("src")
        .iter()
        .filter(|source| source.path.to_string_lossy().contains(RECORDS))
        .map(|s| s.code.clone())
        .collect();
    for field in FIELDS {
        assert!(owned.contains(&format!("pub {field}:")), "{RECORDS} has {field}");
        for source in sources("src") {
            let (name, text) = (source.path.display(), &source.code);
            assert!(!text.contains(&format!("\"{field}\"")), "{name}: \"{field}\" is spelt in {RECORDS}");
        }
    }
}
