//! Small programs in a made-up language of the C family: names are used only where they are in scope, blocks nest and are
//! closed again, and `main` calls the functions with as many arguments as they take.

use std::fmt::Write;

use crate::random::Sequence;

const VERBS: [&str; 10] = ["count", "merge", "scale", "find", "check", "reduce", "build", "clamp", "trim", "score"];
const NOUNS: [&str; 10] = ["items", "rows", "edges", "words", "cells", "nodes", "blocks", "parts", "bytes", "pages"];
const NAMES: [&str; 12] =
    ["total", "limit", "index", "width", "offset", "best", "left", "right", "step", "value", "size", "depth"];
const MAX_DEPTH: usize = 3;

/// A function written so far: its name and how many arguments it takes.
struct Function {
    name: String,
    arguments: usize,
}

/// Where a statement is written: the names it may use and how deep it stands.
struct Scope {
    names: Vec<&'static str>,
    depth: usize,
}

pub(super) fn document(numbers: &mut Sequence) -> String {
    let mut text = String::new();
    let mut functions: Vec<Function> = Vec::new();
    for _ in 0..numbers.between(2, 3) {
        let name = format!("{}_{}", numbers.pick(&VERBS), numbers.pick(&NOUNS));
        if functions.iter().all(|known| known.name != name) {
            let arguments = function(numbers, &name, &functions, &mut text);
            functions.push(Function { name, arguments });
        }
    }
    main(numbers, &functions, &mut text);
    text
}

fn function(numbers: &mut Sequence, name: &str, functions: &[Function], text: &mut String) -> usize {
    let arguments = numbers.between(1, 3) as usize;
    let picked = numbers.distinct(arguments, NAMES.len());
    let mut scope = Scope { names: picked.into_iter().map(|at| NAMES[at]).collect(), depth: 1 };
    let parameters: Vec<String> = scope.names.iter().map(|name| format!("{name}: int")).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "fn {name}({}) -> int {{", parameters.join(", "));
    let mut budget = numbers.between(3, 6);
    while budget > 0 {
        statement(numbers, &mut scope, functions, &mut budget, text);
    }
    let _ = writeln!(text, "    return {};\n}}\n", numbers.pick(&scope.names));
    arguments
}

/// Writes one statement, and those inside of it, for one of `budget` each.
fn statement(numbers: &mut Sequence, scope: &mut Scope, functions: &[Function], budget: &mut u64, text: &mut String) {
    *budget = budget.saturating_sub(1);
    let indent = "    ".repeat(scope.depth);
    let deeper = scope.depth < MAX_DEPTH && *budget > 0;
    match numbers.below(if deeper { 10 } else { 6 }) {
        0..=2 => {
            let fresh: Vec<&'static str> = NAMES.iter().copied().filter(|name| !scope.names.contains(name)).collect();
            if fresh.is_empty() {
                return;
            }
            let value = expression(numbers, scope, functions);
            let name = numbers.pick(&fresh);
            let _ = writeln!(text, "{indent}let {name} = {value};");
            scope.names.push(name);
        }
        3..=5 => {
            let name = numbers.pick(&scope.names);
            let operator = numbers.pick(&["+=", "-=", "="]);
            let _ = writeln!(text, "{indent}{name} {operator} {};", expression(numbers, scope, functions));
        }
        6..=7 => {
            let (left, right) = (numbers.pick(&scope.names), operand(numbers, scope));
            let _ = writeln!(text, "{indent}if {left} {} {right} {{", numbers.pick(&["<", ">", "=="]));
            block(numbers, scope, functions, budget, text);
            if numbers.chance(40) {
                let _ = writeln!(text, "{indent}}} else {{");
                block(numbers, scope, functions, budget, text);
            }
            let _ = writeln!(text, "{indent}}}");
        }
        _ => {
            let (name, high) = (numbers.pick(&["i", "j", "k"]), operand(numbers, scope));
            let _ = writeln!(text, "{indent}for {name} in 0..{high} {{");
            scope.names.push(name);
            block(numbers, scope, functions, budget, text);
            scope.names.retain(|known| *known != name);
            let _ = writeln!(text, "{indent}}}");
        }
    }
}

/// The statements between two braces; names made in there are gone afterwards.
fn block(numbers: &mut Sequence, scope: &mut Scope, functions: &[Function], budget: &mut u64, text: &mut String) {
    let known = scope.names.len();
    scope.depth += 1;
    for _ in 0..numbers.between(1, 2) {
        statement(numbers, scope, functions, budget, text);
    }
    scope.depth -= 1;
    scope.names.truncate(known);
}

fn operand(numbers: &mut Sequence, scope: &Scope) -> String {
    if numbers.chance(70) { numbers.pick(&scope.names).to_string() } else { numbers.between(0, 16).to_string() }
}

fn expression(numbers: &mut Sequence, scope: &Scope, functions: &[Function]) -> String {
    if !functions.is_empty() && numbers.chance(20) {
        let called = &functions[numbers.below(functions.len() as u64) as usize];
        let arguments: Vec<String> = (0..called.arguments).map(|_| operand(numbers, scope)).collect();
        return format!("{}({})", called.name, arguments.join(", "));
    }
    let left = operand(numbers, scope);
    if numbers.chance(30) {
        return left;
    }
    format!("{left} {} {}", numbers.pick(&["+", "-", "*"]), operand(numbers, scope))
}

fn main(numbers: &mut Sequence, functions: &[Function], text: &mut String) {
    text.push_str("fn main() {\n");
    let mut scope = Scope { names: Vec::new(), depth: 1 };
    let count = numbers.between(2, 4) as usize;
    for at in numbers.distinct(count, NAMES.len()) {
        let _ = writeln!(text, "    let {} = {};", NAMES[at], numbers.between(1, 64));
        scope.names.push(NAMES[at]);
    }
    for function in functions {
        let arguments: Vec<&str> = (0..function.arguments).map(|_| numbers.pick(&scope.names)).collect();
        let _ = writeln!(text, "    print({}({}));", function.name, arguments.join(", "));
    }
    for name in &scope.names {
        let _ = writeln!(text, "    print({name});");
    }
    text.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_close_and_calls_have_a_definition() {
        for seed in 0..200 {
            let text = document(&mut Sequence::new(seed));
            let mut depth = 0i32;
            for line in text.lines() {
                depth -= line.matches('}').count() as i32;
                assert!(line.is_empty() || line.starts_with(&"    ".repeat(depth as usize)), "{text}");
                assert!(!line.starts_with(&"    ".repeat(depth as usize + 1)), "{text}");
                depth += line.matches('{').count() as i32;
            }
            assert_eq!(depth, 0, "{text}");
            for call in
                text.lines().filter_map(|line| line.trim().strip_prefix("print(")).filter(|call| call.contains('_'))
            {
                let name = call.split('(').next().unwrap();
                assert!(text.contains(&format!("fn {name}(")), "{text}");
            }
        }
    }
}
