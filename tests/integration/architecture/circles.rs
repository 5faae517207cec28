//! Files do not import each other in circles: of two files one can be read, changed and tested without the other. Imports
//! are read from `use` lines and paths, through re-exports, down to the file that defines what is used.

use super::{Source, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Circles that stay, with the reason: the names of all their files.
const ALLOWED: [(&[&str], &str); 1] = [(
    &["prune/equivalence", "prune/equivalence/rounding", "prune/equivalence/weights", "prune/error"],
    "the error of a refused cut carries the comparison that refused it, whose parts give that error",
)];

type Module = Vec<String>;

/// Every path of a `use` tree: `a::{b, c::D}` gives `a::b` and `a::c::D`.
fn paths(tree: &str) -> Vec<Module> {
    let tree = tree.trim();
    if let Some(inner) = tree.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return split_outside_braces(inner).into_iter().flat_map(paths).collect();
    }
    match tree.split_once("::") {
        Some((first, rest)) => {
            paths(rest).into_iter().map(|path| [vec![first.trim().to_string()], path].concat()).collect()
        }
        None => {
            let name = tree.split_whitespace().next().unwrap_or_default();
            if name.is_empty() { Vec::new() } else { vec![vec![name.to_string()]] }
        }
    }
}

fn split_outside_braces(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

/// `use` items of a file: whether it is public, and its tree.
fn uses(code: &str) -> Vec<(bool, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("use ").map(|at| at + from) {
        from = start + 4;
        let line = code[..start].rsplit('\n').next().unwrap_or_default().trim();
        if !(line.is_empty() || line.starts_with("pub")) {
            continue;
        }
        if let Some(end) = code[from..].find(';') {
            found.push((line.starts_with("pub"), &code[from..from + end]));
        }
    }
    found
}

/// The files of the crate, and what each imports.
struct Graph {
    files: BTreeSet<Module>,
    /// Re-exports of a module: by name, the absolute path of what is meant.
    exports: BTreeMap<Module, BTreeMap<String, Module>>,
    imports: BTreeMap<Module, BTreeSet<Module>>,
}

impl Graph {
    fn of(sources: &[Source]) -> Graph {
        let files = sources.iter().map(|source| source.module.clone()).collect();
        let mut graph = Graph { files, exports: BTreeMap::new(), imports: BTreeMap::new() };
        for source in sources {
            let public = uses(&source.code).into_iter().filter(|(public, _)| *public);
            for path in public.flat_map(|(_, tree)| paths(tree)) {
                let Some(absolute) = graph.absolute(&source.module, &path) else { continue };
                let name = absolute.last().cloned().unwrap_or_default();
                graph.exports.entry(source.module.clone()).or_default().insert(name, absolute);
            }
        }
        for source in sources {
            let imported = graph.imported(source);
            graph.imports.insert(source.module.clone(), imported);
        }
        graph
    }

    fn imported(&self, source: &Source) -> BTreeSet<Module> {
        let own = &source.module;
        let passes_on = ["mod.rs", "lib.rs"].iter().any(|name| source.path.ends_with(name));
        let mut found = Vec::new();
        for (public, tree) in uses(&source.code) {
            let all = paths(tree).into_iter();
            // A folder's mod.rs names what of its files is seen outside: that uses nothing of them.
            found.extend(all.filter(|path| !(public && passes_on && !["crate", "super"].contains(&path[0].as_str()))));
        }
        for prefix in ["crate::", "super::"] {
            for (start, _) in source.code.match_indices(prefix) {
                let before = source.code[..start].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let text: String =
                    source.code[start..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
                // `super::{…}` and `super::*` are trees of a `use`, which is read above.
                if !text.ends_with(':') {
                    found.push(text.split("::").map(String::from).collect());
                }
            }
        }
        let resolved = found.iter().filter_map(|path| self.absolute(own, path)).map(|path| self.file_of(&path, 0));
        resolved.filter(|file| file != own && !file.is_empty()).collect()
    }

    /// The path from the crate's root; nothing for other crates.
    fn absolute(&self, own: &Module, path: &Module) -> Option<Module> {
        match path[0].as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([own.clone(), path[1..].to_vec()].concat()),
            "super" => {
                let climbed = path.iter().take_while(|part| *part == "super").count();
                Some([own[..own.len().saturating_sub(climbed)].to_vec(), path[climbed..].to_vec()].concat())
            }
            first => {
                let child = [own.clone(), vec![first.to_string()]].concat();
                self.files.contains(&child).then(|| [own.clone(), path.clone()].concat())
            }
        }
    }

    /// The file that defines what an absolute path names.
    fn file_of(&self, path: &[String], depth: usize) -> Module {
        let mut file = Module::new();
        for (at, part) in path.iter().enumerate() {
            let child = [file.clone(), vec![part.clone()]].concat();
            if self.files.contains(&child) {
                file = child;
                continue;
            }
            if let Some(meant) = self.exports.get(&file).and_then(|exports| exports.get(part)).filter(|_| depth < 5) {
                return self.file_of(&[meant.clone(), path[at + 1..].to_vec()].concat(), depth + 1);
            }
            break;
        }
        file
    }

    /// Everything that a file reaches.
    fn reached(&self, from: &Module) -> BTreeSet<Module> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(file) = open.pop() {
            let next = self.imports.get(&file).into_iter().flatten();
            open.extend(next.filter(|next| reached.insert((*next).clone())).cloned().collect::<Vec<_>>());
        }
        reached
    }

    /// Files that reach themselves, in groups that reach each other.
    fn circles(&self) -> BTreeSet<Vec<String>> {
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            self.files.iter().map(|file| (file, self.reached(file))).collect();
        let in_circle = |file: &&Module| reached[*file].contains(*file);
        let circle = |file: &Module| {
            let mutual =
                reached[file].iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(file)));
            mutual.map(|other| other.join("/")).collect::<Vec<_>>()
        };
        self.files.iter().filter(in_circle).map(circle).collect()
    }
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources("src");
    let graph = Graph::of(&sources);
    // The reader sees imports at all, also through re-exports.
    let name = |text: &str| text.split('/').map(String::from).collect::<Module>();
    assert!(graph.imports[&name("train/objective")].contains(&name("model/gates")));
    assert!(graph.imports[&name("export/job")].contains(&name("prune/convert")));
    let found = graph.circles();
    let allowed: BTreeSet<Vec<String>> =
        ALLOWED.iter().map(|(files, _)| files.iter().map(|file| file.to_string()).collect()).collect();
    assert_eq!(found, allowed, "circles found (left) and allowed (right)");
}

#[test]
fn use_trees_are_read_to_their_leaves() {
    let read = |tree: &str| paths(tree).iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(
        read("super::a::{self, B, c::{D, E as F}}"),
        ["super::a::self", "super::a::B", "super::a::c::D", "super::a::c::E"]
    );
    assert_eq!(read("crate::x::Y"), ["crate::x::Y"]);
    let code = "pub use a::B;\nuse super::{\n    c,\n};\nlet because = 1;\n";
    assert_eq!(uses(code), [(true, "a::B"), (false, "super::{\n    c,\n}")]);
}
