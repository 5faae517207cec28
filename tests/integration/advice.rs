//! Every option, command, key and file that a message or a page names exists: checked against the command tree, the
//! parser of configurations and the file system. What describes the past (CHANGELOG, dated pages, experiments) is left
//! out.

mod check;
mod known;
mod texts;

use check::{dead_links, missing_files, problems};
use clap::CommandFactory;
use known::Known;
use shearling::cli::Cli;
use std::collections::BTreeSet;
use std::path::Path;
use texts::literals;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with this extension, by their path in the repository.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == extension) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has .{extension} files");
    found
}

fn sources() -> Vec<(String, String)> {
    let folders = ["src", "masks/src", "domains/src", "domains/staging/src"];
    let mut found: Vec<_> = folders.iter().flat_map(|folder| files(folder, "rs")).collect();
    // The names that other tools give to our keys; that what they stand for exists is tested there.
    found.retain(|(name, _)| name != "src/config/common_names.rs");
    found
}

/// The pages that describe the present.
fn pages() -> Vec<(String, String)> {
    let dated = |name: &str| name.starts_with("docs/benchmarks/20") || name.starts_with("docs/experiments/");
    let mut found = files("docs", "md");
    found.retain(|(name, _)| name != "docs/CHANGELOG.md" && !dated(name));
    found.push(("README.md".to_string(), std::fs::read_to_string(root().join("README.md")).unwrap()));
    found
}

fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{} pieces of wrong advice:\n{}", found.len(), found.join("\n"));
}

#[test]
fn messages_name_what_exists() {
    let known = Known::read();
    let in_file = |(name, code): (String, String)| {
        let found = literals(&code).into_iter().flat_map(|(line, text)| problems(&known, &name, line, &text));
        found.collect::<Vec<_>>()
    };
    none(sources().into_iter().flat_map(in_file).collect());
}

#[test]
fn help_names_what_exists() {
    let known = Known::read();
    let mut commands = vec![Cli::command()];
    commands[0].build();
    let mut found = Vec::new();
    while let Some(mut command) = commands.pop() {
        let help = command.render_long_help().to_string();
        found.extend(problems(&known, command.get_name(), 1, &help));
        commands.extend(command.get_subcommands().filter(|below| below.get_name() != "help").cloned());
    }
    none(found);
}

#[test]
fn pages_name_what_exists() {
    let known = Known::read();
    none(pages().iter().flat_map(|(name, text)| problems(&known, name, 1, text)).collect());
}

#[test]
fn comments_of_configurations_name_what_exists() {
    let known = Known::read();
    none(files("configs", "toml").iter().flat_map(|(name, text)| problems(&known, name, 1, &comments(text))).collect());
}

/// The comments of a TOML file, every line in its place.
fn comments(text: &str) -> String {
    text.lines().map(|line| line.split_once('#').map_or("", |(_, comment)| comment)).collect::<Vec<_>>().join("\n")
}

#[test]
fn files_that_are_named_exist() {
    let configs = files("configs", "toml");
    let texts = sources().into_iter().chain(pages()).chain(configs);
    none(texts.flat_map(|(name, text)| missing_files(root(), &name, &text)).collect());
}

#[test]
fn links_of_pages_lead_somewhere() {
    none(pages().iter().flat_map(|(name, text)| dead_links(&root().join(name), name, text)).collect());
}

#[test]
fn the_guide_has_every_key_and_no_other() {
    let known = Known::read();
    let text = std::fs::read_to_string(root().join("docs/guides/configuration.md")).unwrap();
    let mut table = String::new();
    let mut documented = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("##") {
            table = line.split(['[', ']']).nth(1).unwrap_or_default().to_string();
        } else if let Some(cell) = line.strip_prefix("| `").and_then(|line| line.split('|').next()) {
            let keys = format!("`{cell}");
            documented.extend(keys.split('`').skip(1).step_by(2).map(|key| format!("{table}.{key}")));
        }
    }
    let all: BTreeSet<String> = known.all_keys().map(|(table, key)| format!("{table}.{key}")).collect();
    assert_eq!(documented, all);
}
