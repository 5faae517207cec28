//! ARC as the harness asks it: the question, and the answers as they are, without their letters.
//!
//! ```text
//! context   "Question: " question "\nAnswer:"
//! choices   the texts of the choices
//! ```
//!
//! Two layouts: that of the Hugging Face dataset (`question` a text, `choices` with lists `text` and `label`) and that of
//! the original files (`question` with `stem` and a list of `choices`). `answerKey` names a letter or a number.

use super::fields::{Fields, check_choices};
use super::prompt::Prompt;

pub(super) fn prompt(line: &Fields) -> Result<Prompt, String> {
    let (question, choices, labels) = match line.get("question")?.as_object() {
        Some(question) => original(&Fields::new(question))?,
        None => hugging_face(line)?,
    };
    check_choices("choices", &choices)?;
    let key = line.text("answerKey")?;
    let label = labels.iter().position(|label| label == key);
    let label =
        label.ok_or_else(|| format!("field \"answerKey\" is {key:?}, the choices are {}", labels.join(", ")))?;
    Ok(Prompt { context: format!("Question: {question}\nAnswer:"), choices, label })
}

/// Question, choices, and what the choices are called.
type Parts<'a> = (&'a str, Vec<String>, Vec<String>);

fn hugging_face<'a>(line: &Fields<'a>) -> Result<Parts<'a>, String> {
    let choices =
        line.get("choices")?.as_object().ok_or("field \"choices\" is not an object with `text` and `label`")?;
    let choices = Fields::new(choices);
    let (texts, labels) = (choices.texts("text")?, choices.texts("label")?);
    if texts.len() != labels.len() {
        return Err(format!("field \"choices\" has {} texts and {} labels", texts.len(), labels.len()));
    }
    Ok((line.text("question")?, texts, labels))
}

fn original<'a>(question: &Fields<'a>) -> Result<Parts<'a>, String> {
    let choices = question.objects("choices")?;
    let all = |key: &str| choices.iter().map(|choice| Ok(choice.text(key)?.to_string())).collect();
    let (texts, labels): (Result<Vec<_>, String>, Result<Vec<_>, String>) = (all("text"), all("label"));
    Ok((question.text("stem")?, texts?, labels?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(line: Value) -> Result<Prompt, String> {
        prompt(&Fields::new(line.as_object().unwrap()))
    }

    #[test]
    fn both_layouts_give_the_same_prompt() {
        let hub = json!({ "id": "x", "question": "What do sheep eat?", "answerKey": "2",
                          "choices": { "text": ["stones", "grass"], "label": ["1", "2"] } });
        let original = json!({ "id": "x", "answerKey": "2", "question": { "stem": "What do sheep eat?",
            "choices": [{ "text": "stones", "label": "1" }, { "text": "grass", "label": "2" }] } });
        let expected = Prompt {
            context: "Question: What do sheep eat?\nAnswer:".to_string(),
            choices: vec!["stones".to_string(), "grass".to_string()],
            label: 1,
        };
        assert_eq!(found(hub), Ok(expected.clone()));
        assert_eq!(found(original), Ok(expected));
    }

    #[test]
    fn lines_that_are_no_questions_say_why() {
        let line = json!({ "question": "Q", "answerKey": "A", "choices": { "text": ["a", "b"], "label": ["A", "B"] } });
        for (key, value, said) in [
            ("answerKey", json!("C"), "\"C\", the choices are A, B"),
            ("answerKey", json!(1), "\"answerKey\" is not a text"),
            ("choices", json!({ "text": ["a", "b"], "label": ["A"] }), "2 texts and 1 labels"),
            ("choices", json!({ "text": [], "label": [] }), "has 0 choices"),
            ("choices", json!(["a", "b"]), "not an object"),
            ("question", json!({ "stem": "Q" }), "no field \"choices\""),
            ("question", json!({ "stem": "Q", "choices": [1] }), "not a list of objects"),
            ("question", json!(7), "\"question\" is not a text"),
        ] {
            let mut bad = line.clone();
            bad[key] = value;
            let problem = found(bad).unwrap_err();
            assert!(problem.contains(said), "{problem}");
        }
    }
}
