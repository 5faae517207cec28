//! The house keeps its order: who may import whom, and who may print. Read from the manifests and the `use` lines, so a
//! wrong import fails here and not in a review. docs/architecture.md shows the same table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod circles;
mod names;

/// Modules of the root crate with their layer. Imports point to lower layers only.
const LAYERS: [(&str, u32); 18] = [
    ("cli", 5),
    ("commands", 5),
    ("eval", 4),
    ("export", 4),
    ("generate", 4),
    ("inspect", 4),
    ("lte", 4),
    ("prune", 4),
    ("report", 4),
    ("train", 4),
    ("dist", 3),
    ("model", 3),
    ("config", 2),
    ("hf", 2),
    ("native", 2),
    ("run_dir", 2),
    ("files", 1),
    ("words", 1),
];

/// Imports within a layer: who, whom, why. Each must be in use; all others are refused.
const SIDEWAYS: [(&str, &str, &str); 15] = [
    ("commands", "cli", "a command is given its arguments and prints through the one printer"),
    ("train", "eval", "the mixer moves at evaluations inside the run"),
    ("train", "lte", "a run with routers begins with grouped units and counts the experts that run"),
    ("train", "prune", "a run is refused before its start if the target cannot be reached, and names its shapes"),
    ("prune", "eval", "what rounding costs is judged with the statistics of evaluation"),
    ("export", "eval", "masked and pruned model are compared on the rows of evaluation"),
    ("export", "prune", "a step of a run is cut to its target"),
    ("export", "lte", "grouping and routers go with the weights of their step"),
    ("export", "train", "a run's step, and its record, belong to the loop that writes them"),
    ("lte", "eval", "which experts run is counted while held-out rows are evaluated"),
    ("lte", "prune", "co-activation is measured by the same walk through the layers as one-shot scores"),
    ("report", "inspect", "pictures are drawn from the one reading of a run folder"),
    ("inspect", "eval", "what pruning cost is judged row by row, with the statistics of evaluation"),
    ("inspect", "train", "whether a constraint was met is judged with the tolerance of the run itself"),
    ("inspect", "prune", "parameters after the cut are those of the shape that prune makes"),
];

/// Imports of `shearling_masks` and `shearling_domains`: only modules that join a model with masks or a run with data.
const CRATES: [(&str, &[&str]); 14] = [
    ("files", &[]),
    ("dist", &[]),
    ("hf", &[]),
    ("run_dir", &[]),
    ("cli", &[]),
    ("native", &[]),
    ("config", &["shearling_domains", "shearling_masks"]),
    ("model", &["shearling_masks"]),
    ("prune", &["shearling_masks"]),
    ("eval", &["shearling_domains"]),
    ("generate", &[]),
    ("inspect", &["shearling_masks"]),
    ("lte", &[]),
    ("report", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file without its comments and its unit tests.
struct Source {
    path: PathBuf,
    /// Path of its module below the crate: `["prune", "fold"]`.
    module: Vec<String>,
    code: String,
}

impl Source {
    fn read(path: PathBuf, source_root: &Path) -> Source {
        let text = std::fs::read_to_string(&path).unwrap();
        let within = path.strip_prefix(source_root).unwrap().with_extension("");
        let mut module: Vec<String> = within.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        let code = without_unit_tests(&text);
        let code = code.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        Source { path, module, code }
    }

    /// Top-level module, or nothing for `lib.rs` and `main.rs`.
    fn top(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// Modules of the own crate that the code names, by `crate::a` or by climbing with `super::`.
    fn imports(&self) -> BTreeSet<String> {
        let name = self.path.display();
        assert!(
            !self.code.contains("crate::{"),
            "{name}: one `use crate::module` line per module, so that they can be read"
        );
        let mut found: BTreeSet<String> = words_after(&self.code, "crate::").collect();
        for (start, _) in self.code.match_indices("super::") {
            if self.code[..start].ends_with("super::") {
                continue;
            }
            let path = &self.code[start..];
            let climbed = path.split("::").take_while(|part| *part == "super").count();
            if climbed >= self.module.len() {
                found.extend(words_after(path, &"super::".repeat(climbed)).next());
            }
        }
        found
    }
}

/// The code before the module of unit tests, which stands last.
fn without_unit_tests(text: &str) -> &str {
    let mark = "#[cfg(test)]\n";
    let starts_tests = |rest: &str| {
        let declared = rest.lines().next().unwrap_or_default();
        declared.trim_start_matches("pub(crate) ").starts_with("mod ") && declared.ends_with('{')
    };
    let start = text.match_indices(mark).find(|(start, _)| starts_tests(&text[start + mark.len()..]));
    start.map_or(text, |(start, _)| &text[..start])
}

fn without_comment(line: &str) -> &str {
    match line.trim_start().starts_with("//") {
        true => "",
        // Not inside a string: `https://`.
        false => line.split(" // ").next().unwrap_or(line),
    }
}

/// The identifiers that follow `prefix` where it starts a path.
fn words_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    let starts = code.match_indices(prefix).filter(|(start, _)| {
        let before = code[..*start].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    });
    starts.map(move |(start, _)| {
        let rest = &code[start + prefix.len()..];
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    })
}

fn sources(folder: &str) -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let (root, mut paths) = (root().join(folder), Vec::new());
    walk(&root, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has sources");
    paths.into_iter().filter(|path| !path.ends_with("src/build.rs")).map(|path| Source::read(path, &root)).collect()
}

/// Names of all tables of dependencies in a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(manifest)).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let names = kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()).flat_map(|table| table.keys().cloned());
    names.collect()
}

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

#[test]
fn every_module_has_a_layer() {
    let tops: BTreeSet<String> = sources("src").iter().filter_map(|source| source.top().map(String::from)).collect();
    assert_eq!(tops, LAYERS.iter().map(|(name, _)| name.to_string()).collect());
}

#[test]
fn imports_point_down_or_are_allowed_by_name() {
    let mut used = BTreeSet::new();
    for source in sources("src") {
        let Some(own) = source.top() else { continue };
        for other in source.imports().into_iter().filter(|other| other != own) {
            // Not a module of the table: a macro or an item of the crate's root, of which there are none.
            let theirs = layer(&other).unwrap_or_else(|| panic!("{}: crate::{other}?", source.path.display()));
            let sideways = SIDEWAYS.iter().find(|(who, whom, _)| *who == own && *whom == other);
            used.extend(sideways);
            let down = theirs < layer(own).unwrap();
            assert!(down || sideways.is_some(), "{}: {own} must not import {other}", source.path.display());
        }
    }
    assert_eq!(used, SIDEWAYS.iter().collect(), "an exception that nobody needs is taken out");
}

#[test]
fn evaluation_knows_nothing_of_training() {
    for source in sources("src").iter().filter(|source| source.top() == Some("eval")) {
        assert!(!source.imports().contains("train"), "{}", source.path.display());
    }
}

#[test]
fn only_some_modules_know_masks_and_domains() {
    let allowed: BTreeMap<&str, &[&str]> = CRATES.into_iter().collect();
    for source in sources("src") {
        let Some(allowed) = source.top().and_then(|top| allowed.get(top)) else { continue };
        for name in ["shearling_masks", "shearling_domains"] {
            let found = words_after(&source.code, name).next().is_some();
            assert!(!found || allowed.contains(&name), "{}: must not use {name}", source.path.display());
        }
    }
}

#[test]
fn masks_and_domains_stand_alone() {
    let masks = dependencies("masks/Cargo.toml");
    let domains = dependencies("domains/Cargo.toml");
    assert!(masks.contains("tch") && domains.contains("arrow"), "the manifests are read");
    for (crate_name, found) in [("masks", &masks), ("domains", &domains)] {
        // All write whole files, by one mechanism that knows nothing of what is in them; noise has no state of its own.
        let below = ["shearling-staging", "shearling-noise"];
        let root = found.iter().find(|name| name.starts_with("shearling") && !below.contains(&name.as_str()));
        assert_eq!(root, None, "{crate_name} depends on another crate of the workspace");
    }
    for lowest in ["domains/staging/Cargo.toml", "masks/noise/Cargo.toml"] {
        let found = dependencies(lowest);
        assert_eq!(found.iter().find(|name| name.starts_with("shearling")), None, "{lowest} stands below all others");
    }
    let data = ["arrow", "parquet", "tokenizers"];
    assert_eq!(masks.iter().find(|name| data.contains(&name.as_str())), None, "masks reads no data");
    let torch = ["tch", "torch-sys"];
    assert_eq!(domains.iter().find(|name| torch.contains(&name.as_str())), None, "domains has no libtorch");
    let root: Vec<String> =
        dependencies("Cargo.toml").into_iter().filter(|name| data.contains(&name.as_str())).collect();
    assert_eq!(root, ["tokenizers"], "data is read by domains; `hf` has the tokenizer of a model folder");
}

/// What the crate of masks must not know: the names of model families and of their weights.
#[test]
fn masks_know_no_model() {
    for source in sources("masks/src") {
        let code = source.code.to_lowercase();
        for name in ["llama", "mistral", "qwen", "q_proj", "down_proj", "embed_tokens", "lm_head"] {
            assert!(!code.contains(name), "{}: {name}", source.path.display());
        }
    }
}

#[test]
fn only_the_command_line_prints_or_exits() {
    let own = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "process::exit", "io::stdout", "io::stderr"];
    let files =
        ["src", "masks/src", "masks/noise/src", "domains/src", "domains/staging/src"].iter().flat_map(|folder| {
            let library = *folder != "src";
            sources(folder)
                .into_iter()
                .filter(move |source| library || !matches!(source.top(), Some("cli" | "commands")))
        });
    // main.rs has no top-level module of its own and is looked at too: it prints through cli::printer.
    for source in files {
        for name in own {
            assert!(!source.code.contains(name), "{}: {name}", source.path.display());
        }
    }
}

/// The reader itself: what it must find and what it must not.
#[test]
fn imports_are_read_from_use_lines_and_paths() {
    let read = |module: &[&str], code: &str| {
        let module = module.iter().map(|part| part.to_string()).collect();
        let code = code.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        Source { path: PathBuf::from("test.rs"), module, code }.imports().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(read(&["eval", "loss"], "use crate::model::loss;\nuse super::rows;"), ["model"]);
    assert_eq!(read(&["eval", "loss"], "let x = crate::train::run();"), ["train"]);
    assert_eq!(read(&["eval", "loss"], "use super::super::train::Setup;"), ["train"]);
    assert_eq!(read(&["eval"], "use super::train::Setup;"), ["train"]);
    assert_eq!(read(&["commands", "demo", "table"], "use super::super::eval;"), [] as [&str; 0]);
    assert_eq!(read(&["eval", "loss"], "// use crate::train;\nlet x = 1; // crate::train"), [] as [&str; 0]);
}
