//! HellaSwag as the harness asks it: the activity and the scene, four endings, all cleaned of the marks of WikiHow.
//!
//! ```text
//! context   clean(activity_label + ": " + ctx_a + " " + capitalised ctx_b)
//! choices   clean(ending)
//! ```

use super::fields::{Fields, check_choices};
use super::prompt::Prompt;
use super::request::is_space;

pub(super) fn prompt(line: &Fields) -> Result<Prompt, String> {
    let scene = format!("{} {}", line.text("ctx_a")?, capitalised(line.text("ctx_b")?));
    let endings = line.texts("endings")?;
    check_choices("endings", &endings)?;
    Ok(Prompt {
        context: clean(&format!("{}: {scene}", line.text("activity_label")?)),
        label: line.label("label", endings.len())?,
        choices: endings.iter().map(|ending| clean(ending)).collect(),
    })
}

/// Without space around it, headings as sentences, what stands in brackets taken out, double spaces single.
fn clean(text: &str) -> String {
    let text = text.trim_matches(is_space).replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Takes out `[...]` up to the nearest closing bracket on the same line.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    text.split_inclusive('\n').for_each(|line| keep_outside_brackets(line, &mut kept));
    kept
}

fn keep_outside_brackets(line: &str, kept: &mut String) {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        // Where one bracket is not closed, none behind it is: nothing is looked through twice.
        let Some((_, behind)) = after.split_once(']') else { break };
        kept.push_str(before);
        rest = behind;
    }
    kept.push_str(rest);
}

/// The first letter upper case, all others lower case, as Python's `capitalize` does it (the few letters whose title
/// case is a third form, such as ǆ, aside).
fn capitalised(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Lower case of the whole text, because it depends on neighbours in Greek.
    let lower = text.to_lowercase();
    let rest = lower.chars().skip(first.to_lowercase().count());
    let mut title = first.to_uppercase();
    let capital = title.next();
    capital.into_iter().chain(title.flat_map(char::to_lowercase)).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(line: Value) -> Result<Prompt, String> {
        prompt(&Fields::new(line.as_object().unwrap()))
    }

    fn line() -> Value {
        json!({ "ind": 4, "activity_label": "Shearing sheep", "ctx_a": "A man holds a sheep.", "ctx_b": "the Man",
                "ctx": "unused", "endings": ["cuts  its wool.", " [header] sings [substeps] loudly.", "x", "y"],
                "label": "1" })
    }

    #[test]
    fn the_scene_is_put_together_and_cleaned() {
        let prompt = found(line()).unwrap();
        assert_eq!(prompt.context, "Shearing sheep: A man holds a sheep. The man");
        assert_eq!(prompt.choices, ["cuts its wool.", " sings loudly.", "x", "y"]);
        assert_eq!(prompt.label, 1);
        let mut scene = line();
        scene["ctx_b"] = json!("");
        scene["label"] = json!(3);
        let prompt = found(scene).unwrap();
        assert_eq!((prompt.context.as_str(), prompt.label), ("Shearing sheep: A man holds a sheep.", 3));
    }

    #[test]
    fn cleaning_is_that_of_the_harness() {
        // Made with Python's str.strip, re.sub and str.replace.
        for (text, expected) in [
            ("\u{1c}How to [title] Shear [step] a [sheep", "How to. Shear a [sheep"),
            ("a [b\nc] d [e] f", "a [b\nc] d f"),
            ("[[a] b] c", " b] c"),
            ("a [b] [c [d\n] [e\n[f] g", "a [c [d\n] [e\n g"),
            ("a    b [x]", "a  b "),
            ("[header]", ""),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
        for (text, expected) in [("", ""), ("éCOLE Nord", "École nord"), ("ßa", "Ssa"), ("ΑΣ", "Ας")] {
            assert_eq!(capitalised(text), expected);
        }
    }

    #[test]
    fn brackets_without_end_are_looked_through_once() {
        // Would take hours if each looked for its end.
        for text in ["[".repeat(8 << 20), "[".repeat(8 << 20) + "\n]"] {
            assert_eq!(without_brackets(&text), text);
        }
        assert_eq!(without_brackets(&("[".repeat(8 << 20) + "]")), "");
    }

    #[test]
    fn lines_that_are_no_questions_say_why() {
        for (key, value, said) in [
            ("label", json!(""), "test split"),
            ("label", json!(4), "4 choices"),
            ("label", json!(-1), "is -1"),
            ("label", json!(1.5), "1.5"),
            ("endings", json!(["one"]), "at least two"),
            ("endings", json!(["one", ""]), "choice 1 is empty"),
            ("endings", json!(["one", 2]), "list of texts"),
            ("ctx_b", json!(null), "\"ctx_b\" is not a text"),
        ] {
            let mut bad = line();
            bad[key] = value;
            let problem = found(bad).unwrap_err();
            assert!(problem.contains(said), "{problem}");
        }
        let mut bad = line();
        bad.as_object_mut().unwrap().remove("label");
        assert!(found(bad).unwrap_err().contains("no field \"label\""));
    }
}
