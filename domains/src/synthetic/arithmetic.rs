//! Sums, differences and products with every step written out: after the operands, each character follows from what is
//! on the page.

use std::fmt::Write;

use crate::random::Sequence;

pub(super) fn document(numbers: &mut Sequence) -> String {
    let mut text = String::new();
    let problems = numbers.between(4, 8);
    for number in 1..=problems {
        // Writing to a string cannot fail.
        let _ = write!(text, "Problem {number}. ");
        match numbers.below(3) {
            0 => sum(numbers, &mut text),
            1 => product(numbers, &mut text),
            _ => difference(numbers, &mut text),
        }
    }
    text
}

fn digits(mut value: u64) -> Vec<u64> {
    let mut digits = vec![value % 10];
    while value >= 10 {
        value /= 10;
        digits.push(value % 10);
    }
    digits
}

fn sum(numbers: &mut Sequence, text: &mut String) {
    let (a, b) = (numbers.between(100, 9999), numbers.between(100, 9999));
    let _ = writeln!(text, "Find {a} + {b}.");
    let (left, right) = (digits(a), digits(b));
    let mut carry = 0;
    for place in 0..left.len().max(right.len()) {
        let (x, y) = (left.get(place).copied().unwrap_or(0), right.get(place).copied().unwrap_or(0));
        let total = x + y + carry;
        let _ = writeln!(text, "  {x} + {y} + {carry} = {total}, write {}, carry {}", total % 10, total / 10);
        carry = total / 10;
    }
    let _ = writeln!(text, "Answer: {}. Check: {} - {b} = {a}.", a + b, a + b);
}

fn product(numbers: &mut Sequence, text: &mut String) {
    let (a, factor) = (numbers.between(100, 9999), numbers.between(2, 9));
    let _ = writeln!(text, "Find {a} * {factor}.");
    let mut carry = 0;
    for digit in digits(a) {
        let total = digit * factor + carry;
        let _ = writeln!(text, "  {digit} * {factor} + {carry} = {total}, write {}, carry {}", total % 10, total / 10);
        carry = total / 10;
    }
    let _ = writeln!(text, "Answer: {}. Check: {} / {factor} = {a}.", a * factor, a * factor);
}

fn difference(numbers: &mut Sequence, text: &mut String) {
    let b = numbers.between(100, 4999);
    let a = b + numbers.between(1, 4999);
    let _ = writeln!(text, "Find {a} - {b}.");
    let right = digits(b);
    let mut borrow = 0;
    for (place, x) in digits(a).into_iter().enumerate() {
        let y = right.get(place).copied().unwrap_or(0) + borrow;
        let lent = u64::from(x < y);
        let _ = writeln!(text, "  {x} - {y}: write {}, borrow {lent}", x + 10 * lent - y);
        borrow = lent;
    }
    let _ = writeln!(text, "Answer: {}. Check: {} + {b} = {a}.", a - b, a - b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arithmetic_is_right() {
        for seed in 0..50 {
            for line in document(&mut Sequence::new(seed)).lines().filter(|line| line.contains(" = ")) {
                let claim = line.split("Check: ").last().unwrap().trim().split(", ").next().unwrap();
                let (left, right) = claim.trim_end_matches('.').split_once(" = ").unwrap();
                let words: Vec<&str> = left.split(' ').collect();
                let number = |at: usize| words[at].parse::<i64>().unwrap();
                let found = words[1..].chunks(2).enumerate().fold(number(0), |value, (at, pair)| {
                    let other = number(2 * at + 2);
                    match pair[0] {
                        "+" => value + other,
                        "-" => value - other,
                        "*" => value * other,
                        _ => value / other,
                    }
                });
                assert_eq!(found.to_string(), right, "{line}");
            }
        }
    }
}
