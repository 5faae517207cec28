//! Long messages on a terminal: broken between words, what follows indented, so that a terminal does not break them inside
//! a word. Commands stay whole, to be copied.

/// `text` for `width` columns. A span in backticks is one word; a line that is a command (`next: shearling …`), and a line
/// of a table, are left as they are.
pub fn wrapped(text: &str, width: usize) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut in_table = false;
    let mut shown = Vec::with_capacity(lines.len());
    for (at, line) in lines.iter().enumerate() {
        in_table =
            is_rule(line) || lines.get(at + 1).is_some_and(|next| is_rule(next)) || in_table && has_columns(line);
        shown.push(if in_table { line.to_string() } else { wrapped_line(line, width) });
    }
    shown.join("\n")
}

fn wrapped_line(line: &str, width: usize) -> String {
    if line.chars().count() <= width || is_command(line) {
        return line.to_string();
    }
    let indent = line.len() - line.trim_start_matches(' ').len();
    let deeper = " ".repeat(indent + 2);
    let (mut lines, mut current) = (Vec::new(), " ".repeat(indent));
    let mut begins = true;
    for word in words(&line[indent..]) {
        let length = current.chars().count() + usize::from(!begins) + word.trim_end().chars().count();
        if !begins && length > width {
            lines.push(std::mem::replace(&mut current, deeper.clone()).trim_end().to_string());
            begins = true;
        }
        // What stood between two columns is not wanted at the beginning of a line.
        if begins && word.is_empty() {
            continue;
        }
        if !begins {
            current.push(' ');
        }
        current.push_str(word);
        begins = false;
    }
    lines.push(current.trim_end().to_string());
    lines.join("\n")
}

fn is_command(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("next: ") || line.starts_with("shearling ")
}

/// The rule under the heading of a table.
fn is_rule(line: &str) -> bool {
    line.starts_with('─')
}

/// A row of a table: cells stand two spaces apart at least.
fn has_columns(line: &str) -> bool {
    line.trim().contains("  ")
}

/// Between single spaces, but for those inside backticks; two spaces make an empty word, so that joining gives the line.
fn words(line: &str) -> Vec<&str> {
    let (mut words, mut begin, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in line.char_indices() {
        match c {
            '`' => quoted = !quoted && line[at + 1..].contains('`'),
            ' ' if !quoted => {
                words.push(&line[begin..at]);
                begin = at + 1;
            }
            _ => (),
        }
    }
    words.push(&line[begin..]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_between_words_and_loses_none() {
        let line = "warning: the masks have too little time to settle, ± 0.05, so raise train.steps";
        for width in [1, 10, 20, 40, 79, 100] {
            let text = wrapped(line, width);
            assert_eq!(text.split_whitespace().collect::<Vec<_>>(), line.split_whitespace().collect::<Vec<_>>());
            let longest = line.split(' ').map(|word| word.chars().count() + 2).max().unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= width.max(longest)), "{width}: {text}");
            assert!(text.lines().skip(1).all(|line| line.starts_with("  ") && !line.starts_with("   ")), "{text}");
        }
        assert_eq!(wrapped(line, 100), line);
        assert_eq!(wrapped("  a bc\nshort", 5), "  a\n    bc\nshort");
        assert_eq!(wrapped("step 5:  a  b", 9), "step 5:\n  a  b");
    }

    #[test]
    fn commands_and_tables_stay_whole() {
        for line in ["next: shearling plan --config a.toml", "  shearling plan --config a.toml"] {
            assert_eq!(wrapped(line, 12), line);
        }
        let table = "some heading  more\n────────────  ────\nlonger row of 1  2.5\nlonger row of 2  3.5\n";
        assert_eq!(wrapped(table, 12), table);
        assert_eq!(wrapped(&format!("{table}and text below it"), 12), format!("{table}and text\n  below it"));
        assert_eq!(
            wrapped("run `shearling plan --config a.toml` now", 12),
            "run\n  `shearling plan --config a.toml`\n  now"
        );
        assert_eq!(wrapped("a ` b c", 3), "a `\n  b\n  c", "a backtick that none closes");
    }
}
