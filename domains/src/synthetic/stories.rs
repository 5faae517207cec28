//! Tales told by a probabilistic grammar over a small world: people move between places and pass things on, and every
//! sentence is true of the world at that point. Who holds what, and where, is decided many sentences before it matters.
//! Sentences of description in between are mostly chance, which makes this the kind with the most entropy.

use std::fmt::Write;

use crate::random::Sequence;

const PEOPLE: [(&str, &str); 14] = [
    ("Mira", "she"),
    ("Tobin", "he"),
    ("Elsa", "she"),
    ("Ravi", "he"),
    ("Nora", "she"),
    ("Osman", "he"),
    ("Lena", "she"),
    ("Pavel", "he"),
    ("Ines", "she"),
    ("Kofi", "he"),
    ("Yara", "she"),
    ("Bruno", "he"),
    ("Hana", "she"),
    ("Dario", "he"),
];
const TRADES: [&str; 10] =
    ["baker", "weaver", "ferryman", "teacher", "smith", "shepherd", "miller", "potter", "healer", "carpenter"];
const PLACES: [&str; 12] = [
    "harbour",
    "market",
    "old mill",
    "forest",
    "chapel",
    "river bank",
    "stone bridge",
    "tavern",
    "orchard",
    "tower",
    "village square",
    "lighthouse",
];
const THINGS: [&str; 14] = [
    "silver key",
    "red lantern",
    "letter",
    "brass bell",
    "wooden flute",
    "map",
    "blue scarf",
    "loaf of bread",
    "small knife",
    "basket of apples",
    "glass bead",
    "leather book",
    "copper coin",
    "white feather",
];
const MOODS: [&str; 8] = ["glad", "tired", "uneasy", "calm", "curious", "proud", "restless", "hopeful"];
const TIMES: [&str; 6] =
    ["In the morning", "At noon", "Towards evening", "After the rain", "Before long", "That night"];

const QUALITIES: [&str; 30] = [
    "grey", "warm", "distant", "narrow", "broken", "bright", "heavy", "quiet", "bitter", "golden", "hollow", "gentle",
    "crooked", "empty", "early", "faded", "sudden", "silver", "muddy", "frozen", "tall", "hidden", "lonely", "sweet",
    "sharp", "green", "wild", "pale", "loud", "ancient",
];
const SIGHTS: [&str; 30] = [
    "clouds",
    "gulls",
    "roofs",
    "leaves",
    "bells",
    "stones",
    "lamps",
    "waves",
    "fields",
    "voices",
    "carts",
    "shadows",
    "horses",
    "fences",
    "candles",
    "barrels",
    "ropes",
    "sparrows",
    "footprints",
    "windows",
    "ladders",
    "smoke rings",
    "puddles",
    "songs",
    "branches",
    "sails",
    "wheels",
    "gates",
    "hills",
    "stars",
];
const DOINGS: [&str; 20] = [
    "drifted",
    "waited",
    "shone",
    "faded",
    "gathered",
    "trembled",
    "slept",
    "turned",
    "fell",
    "rose",
    "vanished",
    "lingered",
    "rattled",
    "glowed",
    "swayed",
    "circled",
    "scattered",
    "rested",
    "hummed",
    "leaned",
];
const WHERE: [&str; 12] = [
    "above",
    "behind",
    "beyond",
    "beside",
    "near",
    "below",
    "around",
    "past",
    "against",
    "under",
    "across from",
    "towards",
];

/// A person of the tale, by indices into the lists above.
struct Person {
    name: &'static str,
    pronoun: &'static str,
    place: usize,
    thing: Option<usize>,
}

pub(super) fn document(numbers: &mut Sequence) -> String {
    let mut text = String::new();
    let mut people = cast(numbers, &mut text);
    let sentences = numbers.between(9, 20);
    for _ in 0..sentences {
        let who = numbers.below(people.len() as u64) as usize;
        match numbers.below(8) {
            0 | 1 => walk(numbers, &mut people, who, &mut text),
            2 | 3 => pass_on(numbers, &mut people, who, &mut text),
            4 => feel(numbers, &people[who], &mut text),
            5 | 6 => describe(numbers, &people[who], &mut text),
            _ => look_around(&people, who, &mut text),
        }
    }
    close(&people, &mut text);
    text
}

fn cast(numbers: &mut Sequence, text: &mut String) -> Vec<Person> {
    let count = numbers.between(3, 4) as usize;
    let (names, places) = (numbers.distinct(count, PEOPLE.len()), numbers.distinct(count, PLACES.len()));
    let (things, trades) = (numbers.distinct(count, THINGS.len()), numbers.distinct(count, TRADES.len()));
    let person = |at: usize| {
        let (name, pronoun) = PEOPLE[names[at]];
        Person { name, pronoun, place: places[at], thing: (at > 0).then_some(things[at]) }
    };
    let people: Vec<Person> = (0..count).map(person).collect();
    for (person, trade) in people.iter().zip(trades) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{} the {} was at the {}", person.name, TRADES[trade], PLACES[person.place]);
        let _ = match person.thing {
            Some(thing) => write!(text, " with a {}. ", THINGS[thing]),
            None => write!(text, " with empty hands. "),
        };
    }
    text.push('\n');
    people
}

fn walk(numbers: &mut Sequence, people: &mut [Person], who: usize, text: &mut String) {
    // Often to where somebody is, so that people meet.
    let other = numbers.below(people.len() as u64) as usize;
    let to = if numbers.chance(70) { people[other].place } else { numbers.below(PLACES.len() as u64) as usize };
    let person = &mut people[who];
    if to == person.place {
        return;
    }
    let (from, to_name) = (PLACES[person.place], PLACES[to]);
    let _ = write!(text, "{}, {} left the {from} and went to the {to_name}", numbers.pick(&TIMES), person.name);
    let _ = match person.thing {
        Some(thing) => write!(text, ", carrying the {}. ", THINGS[thing]),
        None => write!(text, ". "),
    };
    person.place = to;
}

fn pass_on(numbers: &mut Sequence, people: &mut [Person], who: usize, text: &mut String) {
    let (place, thing) = (people[who].place, people[who].thing);
    let free = |other: &usize| *other != who && people[*other].place == place && people[*other].thing.is_none();
    let receiver = (0..people.len()).find(free);
    let (Some(thing), Some(receiver)) = (thing, receiver) else {
        return walk(numbers, people, who, text);
    };
    let (giver, taker) = (people[who].name, people[receiver].name);
    let _ = write!(text, "At the {}, {giver} gave the {} to {taker}. ", PLACES[place], THINGS[thing]);
    let _ = write!(text, "\"Keep the {} safe,\" said {}. ", THINGS[thing], people[who].pronoun);
    people[receiver].thing = people[who].thing.take();
}

fn feel(numbers: &mut Sequence, person: &Person, text: &mut String) {
    let mood = numbers.pick(&MOODS);
    let _ = match person.thing {
        Some(thing) => write!(text, "{} held the {} and felt {mood}. ", person.name, THINGS[thing]),
        None => write!(text, "{} held nothing and felt {mood}. ", person.name),
    };
}

/// A sentence that chance alone decides, but for the place it is set in.
fn describe(numbers: &mut Sequence, person: &Person, text: &mut String) {
    let (quality, sight, doing) = (numbers.pick(&QUALITIES), numbers.pick(&SIGHTS), numbers.pick(&DOINGS));
    let (place, side) = (PLACES[person.place], numbers.pick(&WHERE));
    let _ = write!(text, "The {quality} {sight} {doing} {side} the {place}");
    if numbers.chance(50) {
        let _ = write!(text, " like {} {}", numbers.pick(&QUALITIES), numbers.pick(&SIGHTS));
    }
    text.push_str(". ");
}

fn look_around(people: &[Person], who: usize, text: &mut String) {
    let place = people[who].place;
    let near: Vec<&str> = people.iter().filter(|other| other.place == place).map(|other| other.name).collect();
    let others: Vec<&str> = near.into_iter().filter(|name| *name != people[who].name).collect();
    let _ = match others.as_slice() {
        [] => write!(text, "{} was alone at the {}. ", people[who].name, PLACES[place]),
        _ => write!(text, "{} saw {} at the {}. ", people[who].name, others.join(" and "), PLACES[place]),
    };
}

fn close(people: &[Person], text: &mut String) {
    text.push_str("\nIn the end");
    for (at, person) in people.iter().enumerate() {
        let joint = if at == 0 {
            ","
        } else if at + 1 == people.len() {
            ", and"
        } else {
            ","
        };
        let thing = person.thing.map_or("nothing".to_string(), |thing| format!("the {}", THINGS[thing]));
        let _ = write!(text, "{joint} {} was at the {} with {thing}", person.name, PLACES[person.place]);
    }
    text.push_str(".\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_twice_or_lost() {
        for seed in 0..200 {
            let text = document(&mut Sequence::new(seed));
            let (opening, rest) = text.split_once('\n').unwrap();
            let ending = rest.lines().last().unwrap();
            for thing in THINGS {
                let (had, has) = (opening.matches(thing).count(), ending.matches(thing).count());
                assert!(had == has && had <= 1, "{thing}: {text}");
            }
        }
    }
}
