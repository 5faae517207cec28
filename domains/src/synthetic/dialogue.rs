//! Two people talk: one tells facts about a few acquaintances, the other asks about them later, and the answers repeat
//! what was told. To answer right, a model has to look the fact up far above.

use std::fmt::Write;

use crate::random::Sequence;

const SPEAKERS: [&str; 10] = ["Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim"];
const FRIENDS: [&str; 12] =
    ["Marta", "Sven", "Lucia", "Amir", "Greta", "Tomas", "Zoe", "Henrik", "Paula", "Emil", "Rosa", "Viktor"];
const JOBS: [&str; 12] = [
    "nurse",
    "pilot",
    "painter",
    "lawyer",
    "gardener",
    "plumber",
    "cook",
    "dentist",
    "farmer",
    "tailor",
    "librarian",
    "driver",
];
const TOWNS: [&str; 12] = [
    "Sandby",
    "Norham",
    "Eastwick",
    "Millford",
    "Redhill",
    "Ashton",
    "Brookton",
    "Larkdale",
    "Stonegate",
    "Westmere",
    "Fairview",
    "Oakley",
];
const PETS: [&str; 8] = ["cat", "dog", "parrot", "rabbit", "tortoise", "pony", "goldfish", "hamster"];
const DRINKS: [&str; 8] = ["tea", "coffee", "cocoa", "lemonade", "milk", "cider", "apple juice", "water"];
const FILLERS: [&str; 6] = ["By the way", "Oh", "You know", "Also", "Well", "Listen"];
const THANKS: [&str; 5] = ["I see, thanks.", "Right, I forgot.", "Good to know.", "Of course.", "Ah, yes."];

/// A fact to tell: how it is said, asked for and answered.
struct Fact {
    told: String,
    asked: String,
    answer: String,
}

fn facts_about(numbers: &mut Sequence, friend: &str) -> Vec<Fact> {
    let (job, town) = (numbers.pick(&JOBS), numbers.pick(&TOWNS));
    let (pet, drink) = (numbers.pick(&PETS), numbers.pick(&DRINKS));
    let fact = |told: String, asked: String, answer: String| Fact { told, asked, answer };
    vec![
        fact(format!("{friend} works as a {job}."), format!("What does {friend} do?"), format!("{friend} is a {job}.")),
        fact(format!("{friend} moved to {town}."), format!("Where does {friend} live?"), format!("In {town}.")),
        fact(format!("{friend} bought a {pet}."), format!("Which pet has {friend}?"), format!("A {pet}.")),
        fact(format!("{friend} only drinks {drink}."), format!("What does {friend} drink?"), format!("Only {drink}.")),
    ]
}

pub(super) fn document(numbers: &mut Sequence) -> String {
    let speakers = numbers.distinct(2, SPEAKERS.len());
    let (one, two) = (SPEAKERS[speakers[0]], SPEAKERS[speakers[1]]);
    let mut facts = Vec::new();
    let friends = numbers.between(3, 5) as usize;
    for friend in numbers.distinct(friends, FRIENDS.len()) {
        facts.extend(facts_about(numbers, FRIENDS[friend]));
    }
    let told = numbers.between(5, 10) as usize;
    let told: Vec<&Fact> = numbers.distinct(told, facts.len()).into_iter().map(|at| &facts[at]).collect();
    // Writing to a string cannot fail.
    let mut text = format!("{one}: Hello {two}, do you have a minute?\n{two}: Sure, {one}.\n");
    for pair in told.chunks(2) {
        let said: Vec<&str> = pair.iter().map(|fact| fact.told.as_str()).collect();
        let _ = writeln!(text, "{one}: {}, {}", numbers.pick(&FILLERS), said.join(" "));
    }
    let asked = numbers.between(4, 8) as usize;
    for at in numbers.distinct(asked, told.len()) {
        let _ = writeln!(text, "{two}: {}\n{one}: {}", told[at].asked, told[at].answer);
        if numbers.chance(40) {
            let _ = writeln!(text, "{two}: {}", numbers.pick(&THANKS));
        }
    }
    let _ = writeln!(text, "{one}: I have to go. Bye, {two}!\n{two}: Bye, {one}!");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_was_told_before() {
        for seed in 0..100 {
            let text = document(&mut Sequence::new(seed));
            let lines: Vec<&str> = text.lines().collect();
            // The second line asks for a minute, not for a fact.
            for (at, line) in lines.iter().enumerate().skip(2).filter(|(_, line)| line.ends_with('?')) {
                let answer = lines[at + 1].split_once(": ").unwrap().1.trim_end_matches('.');
                let key = answer.rsplit(' ').next().unwrap();
                assert!(lines[..at].iter().any(|earlier| earlier.contains(key)), "{line}: {text}");
            }
        }
    }
}
