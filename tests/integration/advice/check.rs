//! What is wrong with a text: options, commands, keys and files that it names and that are not there.

use super::known::Known;
use super::texts::{Piece, pieces};
use std::path::Path;

/// Programs whose options are none of ours.
const OTHER_PROGRAMS: [&str; 22] = [
    "bash",
    "cargo",
    "cmp",
    "cp",
    "curl",
    "docker",
    "git",
    "hf",
    "lm_eval",
    "make",
    "mpirun",
    "nvidia-smi",
    "perf",
    "pip",
    "pip3",
    "python",
    "python3",
    "srun",
    "taskset",
    "tensorboard",
    "torchrun",
    "vllm",
];

/// What follows a table's name and a dot and is no key: files, and tensors of a model.
const EXTENSIONS: [&str; 14] =
    ["cpp", "csv", "gguf", "html", "json", "jsonl", "lock", "log", "md", "py", "rs", "safetensors", "sh", "toml"];
const TENSORS: [&str; 4] = ["model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb"];
/// Fields of metrics.jsonl below one that is called as a table.
const METRICS: [&str; 2] = ["masks.modules", "masks.removed_layers"];

/// Folders of the repository, by which a path in it is told.
const FOLDERS: [&str; 9] =
    ["docs/", "src/", "configs/", "tests/", "masks/src/", "masks/tests/", "domains/src/", "domains/tests/", ".cargo/"];

/// Everything wrong in `text`, which stands at `place`, from line `first` on.
pub fn problems(known: &Known, place: &str, first: usize, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for piece in pieces(text) {
        let (line, wrong) = match &piece {
            Piece::Code(line, code) => (line, in_code(known, code)),
            Piece::Prose(line, prose) => (line, in_prose(known, prose)),
        };
        let (Piece::Code(_, text) | Piece::Prose(_, text)) = &piece;
        let wrong = wrong.into_iter().chain(wrong_keys(known, text));
        found.extend(wrong.map(|problem| format!("{place}:{}: {problem}", first + line - 1)));
    }
    found
}

/// A line of a terminal or a span: command lines, each of our program, of another or of options alone.
fn in_code(known: &Known, code: &str) -> Vec<String> {
    let (code, comment) = match code.trim_start().starts_with('#') {
        true => ("", code),
        false => code.split_once(" # ").unwrap_or((code, "")),
    };
    // A drawing or a listing, in columns, and no command line.
    let column = code.len() - code.trim_start().len();
    if column > 8 || code.trim().contains("  ") || code.contains(['─', '►', '│']) {
        return in_prose(known, code);
    }
    let lines = [" && ", " | ", "; "]
        .iter()
        .fold(vec![code], |lines, separator| lines.into_iter().flat_map(|line| line.split(separator)).collect());
    let mut found = in_prose(known, comment);
    found.extend(lines.into_iter().flat_map(|line| command_line(known, line)));
    found
}

fn command_line(known: &Known, line: &str) -> Vec<String> {
    let assignment =
        |word: &str| word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_uppercase() || c == '_'));
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word == "$" || assignment(word)).collect();
    let Some((first, rest)) = words.split_first() else { return Vec::new() };
    let program = first.rsplit('/').next().unwrap();
    if program == "shearling" {
        return of_command(known, rest);
    }
    let options = options(line);
    if options.is_empty() || OTHER_PROGRAMS.contains(&program) || first.ends_with(".py") || first.ends_with(".sh") {
        return Vec::new();
    }
    if known.has_command(first) {
        return of_command(known, &words);
    }
    // `--option value`, `[--option]`, `table.key, --option`.
    if line.trim_start_matches(['[', '(', '…', ' ']).starts_with("--") {
        return unknown(options, |option| known.any_has(option), "no command");
    }
    vec![format!("whose options are these: {:?}? (shearling's, or name the program in the test)", line.trim())]
}

/// The words after `shearling`.
fn of_command(known: &Known, words: &[&str]) -> Vec<String> {
    let plain = |word: &str| word.trim_end_matches([',', ';', ':', '.', ')']).to_string();
    let placeholder =
        |word: &str| word.starts_with('{') || word.starts_with('…') || word.starts_with(char::is_uppercase);
    let options = words.iter().flat_map(|word| options(word)).collect::<Vec<_>>();
    let mut path = match words.first().map(|word| plain(word)) {
        None => return Vec::new(),
        Some(word) if placeholder(&word) => return unknown(options, |option| known.any_has(option), "no command"),
        Some(word) if word.starts_with('-') => String::new(),
        Some(word) if known.has_command(&word) => word,
        Some(word) => return vec![format!("there is no command `shearling {word}`")],
    };
    if known.has_below(&path)
        && let Some(below) = words.get(1).map(|word| plain(word)).filter(|word| word.starts_with(char::is_lowercase))
    {
        path = format!("{path} {below}");
        if !known.has_command(&path) {
            return vec![format!("there is no command `shearling {path}`")];
        }
    }
    let has = |option: &str| match known.has_below(&path) {
        // `bench --shape` leaves open which one.
        true => known.commands().any(|command| command.starts_with(&path) && known.command_has(command, option)),
        false => known.command_has(&path, option),
    };
    unknown(options, has, &format!("`shearling {path}` does not know it"))
}

/// Prose: commands that are written out, up to the next punctuation; all other options are any command's.
fn in_prose(known: &Known, prose: &str) -> Vec<String> {
    let (mut found, mut words) = (Vec::new(), prose.split_whitespace().peekable());
    while let Some(word) = words.next() {
        // What follows another program's name is its own, up to the next punctuation.
        if OTHER_PROGRAMS.contains(&word) && words.peek().is_some_and(|next| next.starts_with('-')) {
            while words.next_if(|next| !next.ends_with([',', ';', ')'])).is_some() {}
            continue;
        }
        let command =
            word == "shearling" && words.peek().is_some_and(|next| known.has_command(next) || next.starts_with('{'));
        if !command {
            found.extend(unknown(options(word), |option| known.any_has(option), "no command has it"));
            continue;
        }
        let mut line = Vec::new();
        while let Some(next) = words.next_if(|next| *next != "shearling") {
            line.push(next);
            if next.ends_with([',', ';', ':', ')']) {
                break;
            }
        }
        found.extend(of_command(known, &line));
    }
    found
}

fn unknown(options: Vec<&str>, has: impl Fn(&str) -> bool, why: &str) -> Vec<String> {
    options.into_iter().filter(|option| !has(option)).map(|option| format!("option {option}: {why}")).collect()
}

/// `--word`s of a text.
fn options(text: &str) -> Vec<&str> {
    let starts = text.match_indices("--").filter(|(start, _)| {
        let before = text[..*start].chars().next_back();
        let after = text[start + 2..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '-') && after.is_some_and(|c| c.is_ascii_lowercase())
    });
    let whole = |(start, _)| {
        let rest: &str = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        rest[..end].trim_end_matches('-')
    };
    let found: Vec<&str> = starts.map(whole).collect();
    // `--{key}` and `--tokens-…` are patterns.
    found.into_iter().filter(|option| !text.contains(&format!("{option}-{{"))).collect()
}

/// `table.key`s that are no keys.
fn wrong_keys(known: &Known, text: &str) -> Vec<String> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let words =
        text.split(|c: char| !in_word(c) && c != '/' && c != '-' && c != '{' && c != '(' && c != '*' && c != '@');
    let keys = words.filter(|word| word.split_once('.').is_some_and(|(table, _)| known.has_table(table)));
    let keys = keys.map(|word| word.trim_end_matches(['.', '-', '/']));
    let meant = keys.filter(|word| {
        let rest = word.split_once('.').map_or("", |(_, rest)| rest);
        let pattern = !word.chars().all(in_word) || !rest.starts_with(|c: char| c.is_ascii_lowercase());
        let file = word.rsplit('.').next().is_some_and(|end| EXTENSIONS.contains(&end));
        !pattern && !file && !TENSORS.iter().any(|tensor| word.starts_with(tensor))
    });
    let meant = meant.filter(|word| !METRICS.contains(word));
    meant.filter(|word| !known.has_key(word)).map(|word| format!("{word} is no key of a configuration")).collect()
}

/// Paths in the repository that `text` names and that are not there.
pub fn missing_files(root: &Path, place: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let part_of_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        for (start, folder) in FOLDERS.iter().flat_map(|folder| line.match_indices(folder)) {
            if line[..start].chars().next_back().is_some_and(part_of_path) {
                continue;
            }
            let rest = &line[start..];
            let end = rest.find(|c| !part_of_path(c)).unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches(['.', '-']);
            let pattern = rest[end..].starts_with(['*', '{', '…', '<']) || path.split(['/', '.']).any(is_placeholder);
            if !pattern && !root.join(path).exists() {
                found.push(format!("{place}:{}: there is no {path} (named after {folder})", index + 1));
            }
        }
    }
    found
}

fn is_placeholder(part: &str) -> bool {
    part.len() > 1
        && part != "README"
        && part != "CHANGELOG"
        && part != "CONTRIBUTING"
        && part.chars().all(|c| c.is_uppercase())
}

/// Links of a page to files or headings that are not there.
pub fn dead_links(page: &Path, place: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("](") {
        let target = text[start + 2..].split(')').next().unwrap().replace('\n', "");
        if target.contains("://") {
            continue;
        }
        let (file, anchor) =
            target.split_once('#').map_or((target.as_str(), None), |(file, anchor)| (file, Some(anchor)));
        let path = if file.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(file) };
        let line = text[..start].matches('\n').count() + 1;
        let heading = |anchor: &str| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor)
        };
        if !path.exists() {
            found.push(format!("{place}:{line}: link to {target}, which is not there"));
        } else if anchor.is_some_and(|anchor| !heading(anchor)) {
            found.push(format!("{place}:{line}: link to {target}, and there is no such heading"));
        }
    }
    found
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_' || *c == ' ');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn wrong_advice_is_found() {
    let known = Known::read();
    let wrong = [
        "use `shearling evaluate MODEL`",
        "`shearling eval MODEL --row 3`",
        "run `shearling plan --rows 3`",
        "resume with: shearling prune --resum RUN",
        "resume with: shearling {label} --resum {folder}",
        "`shearling data prepair --out x`",
        "give --promt or --prompt-file",
        "`eval --prompt x`",
        "`--max-tokns`",
        "set train.step, or",
        "`mixer.propotions.wiki`",
        "```\nshearling bench latency m --rows 2\n```",
        "```\nshearling eval m \\\n    --data d --writereference f\n```",
        "```\nNO_COLOR=1 ./target/release/shearling watch r --onc\n```",
        "```\nsheerling eval m --rows 2\n```",
        "```\n# then --rezume it\n```",
        "```\nRUN/\n  resolved.toml      written again by --rezume\n```",
    ];
    for text in wrong {
        assert_eq!(problems(&known, "t", 1, text).len(), 1, "{text}: {:?}", problems(&known, "t", 1, text));
    }
    let right = [
        "use `shearling eval MODEL --rows 3`, or --limit",
        "resume with: shearling {label} --resume {folder}",
        "resume with: shearling prune --resume RUN, or start one with --out",
        "`data prepare --from x`; `eval --write-reference` then `--set train.steps=3`; `bench --shape tiny`",
        "```\ntext ─► --set ─► run\n```",
        "see it with: tensorboard --logdir x, or --resume it",
        "`lm_eval --model hf`, `pip install --upgrade torch` and `make bench-peer ARGS=\"--only x\"`",
        "train.{key}, model.layers.0.mlp, eval.json, mixer.proportions.wiki, run.lock, model.norm.weight",
        "```\nshearling eval m | tee x && pip install --user y\n```",
    ];
    for text in right {
        assert_eq!(problems(&known, "t", 1, text), [] as [String; 0], "{text}");
    }
}

#[test]
fn missing_files_and_dead_links_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let missing = |text: &str| missing_files(root, "t", text).len();
    assert_eq!(missing("see docs/guides/nowhere.md and src/config/tree.rs"), 1);
    assert_eq!(missing("(configs/none.toml), `tests/fixtures`, docs/README.md."), 2);
    assert_eq!(missing("src/native/ops/NAME.rs, configs/*.toml, ../docs/none.md, docs/guides/evaluate.md."), 0);
    let page = root.join("README.md");
    let dead = |text: &str| dead_links(&page, "t", text).len();
    assert_eq!(dead("[a](docs/native.md#the-fast-core) [b](https://x.y/none) [c](#installing)"), 0);
    assert_eq!(dead("[a](docs/architecture.md#no-such) [b](docs/none.md) [c](#no-such-heading)"), 3);
}
