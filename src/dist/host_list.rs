//! What Slurm writes in short: lists of hosts (`gpu[07-08,11]`) and of tasks by host (`4(x2),1`).

/// The first host of a list: `gpu[07-08,11],login` gives `gpu07`.
pub(super) fn first_host(list: &str) -> Option<String> {
    let end = list.char_indices().scan(0i32, |depth, (at, c)| {
        *depth += i32::from(c == '[') - i32::from(c == ']');
        Some((at, c, *depth))
    });
    let end = end.filter(|(_, c, depth)| *c == ',' && *depth == 0).map(|(at, ..)| at).next().unwrap_or(list.len());
    let first = &list[..end];
    let Some((prefix, rest)) = first.split_once('[') else {
        return Some(first.trim().to_string()).filter(|host| !host.is_empty());
    };
    let (numbers, suffix) = rest.split_once(']')?;
    let number = numbers.split([',', '-']).next()?;
    // A suffix with numbers of its own is expanded by the same rule.
    let suffix = if suffix.is_empty() { String::new() } else { first_host(suffix)? };
    Some(format!("{prefix}{number}{suffix}"))
}

/// How many tasks a node has, by its number: of `4(x2),1` nodes 0 and 1 have 4, node 2 has 1.
pub(super) fn tasks_here(list: &str, node: usize) -> Option<usize> {
    let mut before = 0;
    for part in list.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1usize),
        };
        before += times;
        if node < before {
            return count.trim().parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_every_form_of_list() {
        for (list, expected) in [
            ("one", "one"),
            ("one,two", "one"),
            ("gpu[07-08,11],login", "gpu07"),
            ("gpu[3]", "gpu3"),
            ("rack[1-2]node[04-09]", "rack1node04"),
            ("a[1,2]-ib,b", "a1-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(expected), "{list}");
        }
        for wrong in ["", "gpu[1", ","] {
            assert_eq!(first_host(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tasks_are_those_of_the_node() {
        let tasks = |node| tasks_here("4(x2),1", node);
        assert_eq!([tasks(0), tasks(1), tasks(2), tasks(3)], [Some(4), Some(4), Some(1), None]);
        assert_eq!(tasks_here("8", 0), Some(8));
        assert_eq!(tasks_here("many", 0), None);
        assert_eq!(tasks_here("2(x", 0), None);
    }
}
