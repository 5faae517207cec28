//! What there is to name: commands and their options from clap, keys from the parser of configurations.

use clap::CommandFactory;
use shearling::cli::Cli;
use shearling::config::parse;
use std::collections::{BTreeMap, BTreeSet};

/// The command tree and the tree of keys.
pub struct Known {
    /// Options by command path (`data prepare`), the root's under the empty path.
    options: BTreeMap<String, BTreeSet<String>>,
    /// Keys by table (`train`, `model.random`).
    keys: BTreeMap<String, BTreeSet<String>>,
    /// The tables of a file.
    tables: BTreeSet<String>,
}

impl Known {
    pub fn read() -> Known {
        let mut root = Cli::command();
        root.build();
        let mut options = BTreeMap::new();
        collect(&root, "", &mut options);
        let tables = fields("");
        let mut keys: BTreeMap<String, BTreeSet<String>> =
            tables.iter().map(|table| (table.clone(), fields(&format!("{table}.")))).collect();
        keys.insert("model.random".to_string(), fields("model.random."));
        Known { options, keys, tables }
    }

    /// Whether a word is a command, or with a second one a command below it.
    pub fn has_command(&self, path: &str) -> bool {
        self.options.contains_key(path)
    }

    /// Whether commands are below this one (`data`, `inspect`, `bench`).
    pub fn has_below(&self, path: &str) -> bool {
        self.options.keys().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(' ')))
    }

    /// Whether that very command has the option.
    pub fn command_has(&self, path: &str, option: &str) -> bool {
        self.options.get(path).is_some_and(|options| options.contains(option))
    }

    /// Whether any command has the option.
    pub fn any_has(&self, option: &str) -> bool {
        self.options.values().any(|options| options.contains(option))
    }

    /// Whether a word is a table of the configuration.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.contains(name)
    }

    /// Whether `table.key` is a key, or `table.key.more` an entry of one that is a map.
    pub fn has_key(&self, path: &str) -> bool {
        let below = |(table, keys): (&String, &BTreeSet<String>)| {
            let rest = path.strip_prefix(table.as_str()).and_then(|rest| rest.strip_prefix('.'));
            rest.is_some_and(|rest| {
                let (key, more) = rest.split_once('.').map_or((rest, None), |(key, more)| (key, Some(more)));
                let map = table == "mixer" && ["proportions", "reference_loss"].contains(&key);
                keys.contains(key) && (more.is_none() || map)
            })
        };
        self.keys.iter().any(below)
    }

    /// Every key as `table.key`.
    pub fn all_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (table.as_str(), key.as_str())))
    }

    /// Every command path.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.options.keys().map(String::as_str)
    }
}

fn collect(command: &clap::Command, path: &str, options: &mut BTreeMap<String, BTreeSet<String>>) {
    let own = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    options.insert(path.to_string(), own.collect());
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        collect(below, format!("{path} {}", below.get_name()).trim_start(), options);
    }
}

/// Names of a table's fields, out of the parser's own complaint about one that is not there: a new key is known at once.
fn fields(prefix: &str) -> BTreeSet<String> {
    const MINIMAL: &str = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                           [train]\nsteps = 1\nbatch_rows = 1\nlearning_rate = 1.0\n";
    let error = parse(MINIMAL, "advice", &[format!("{prefix}no_such_key=1")]).unwrap_err().to_string();
    let names = error.split("no_such_key`; ").nth(1).unwrap_or_else(|| panic!("{prefix}: {error}"));
    let line = names.lines().next().unwrap();
    line.split('`').skip(1).step_by(2).map(String::from).collect()
}

#[test]
fn commands_options_and_keys_are_known() {
    let known = Known::read();
    assert!(known.has_command("data prepare") && known.has_below("data") && !known.has_command("data fly"));
    assert!(known.command_has("eval", "--rows") && !known.command_has("plan", "--rows") && known.any_has("--rows"));
    for key in ["train.steps", "model.random.vocab_size", "mixer.proportions.wiki", "target.head_dim", "run.threads"] {
        assert!(known.has_key(key), "{key}");
    }
    for key in ["train.step", "train", "train.steps.more", "steps", "model.random.x", "run.train.steps"] {
        assert!(!known.has_key(key), "{key}");
    }
}
