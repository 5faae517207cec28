//! `shearling init`: a configuration to prune a model and one to continue it, commented, for this machine. Needs the
//! model's `config.json` alone; data are looked at if they are there. What it writes has been through the same checks as
//! `plan` makes.

pub(in crate::commands) mod budget;
mod fit;
mod part;
mod recipe;
mod rows;
mod text;

use super::ExitStatus;
use super::inspect::{shape_json, shape_table};
use super::output_file::OutputFile;
use crate::cli::Printer;
use crate::cli::arguments::Init;
use crate::cli::shell::shell_word;
use crate::cli::table::grouped;
use crate::model::count::ParameterCount;
use recipe::Recipe;
use serde_json::json;
use std::path::Path;

/// `shearling init`
pub fn run(arguments: &Init) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let recipe = Recipe::new(arguments)?;
    let files = [&recipe.file, &recipe.next_file];
    let outputs = [OutputFile::check("--out", files[0])?, OutputFile::check("--out", files[1])?];
    if !arguments.force {
        refuse_present(files)?;
    }
    check(&recipe)?;
    let texts = [text::prune(&recipe), text::next(&recipe)];
    for ((output, text), what) in
        outputs.iter().zip(&texts).zip(["the configuration that prunes", "the configuration that continues"])
    {
        output.write(what, text, &printer)?;
    }
    for warning in &recipe.warnings {
        printer.warn(warning);
    }
    printer.data(answer(&recipe), || json(&recipe));
    printer.note(format!("next: {}", recipe.plan_command(&recipe.file, &recipe.prune)));
    Ok(ExitStatus::Done)
}

fn refuse_present(files: [&std::path::PathBuf; 2]) -> anyhow::Result<()> {
    let present: Vec<String> =
        files.into_iter().filter(|file| file.exists()).map(|file| file.display().to_string()).collect();
    match present.as_slice() {
        [] => Ok(()),
        present => anyhow::bail!(
            "{} {} there already; choose another --out, or write over {} with --force",
            present.join(" and "),
            if present.len() == 1 { "is" } else { "are" },
            if present.len() == 1 { "it" } else { "them" }
        ),
    }
}

/// Whatever `plan` would find wrong is found before a file is written.
fn check(recipe: &Recipe) -> anyhow::Result<()> {
    let problems: Vec<String> = recipe.outlines()?.into_iter().flat_map(|outline| outline.findings.problems).collect();
    match problems.as_slice() {
        [] => Ok(()),
        problems => anyhow::bail!("the configurations would not run:\n  {}", problems.join("\n  ")),
    }
}

fn answer(recipe: &Recipe) -> String {
    let mut text = format!("{}\n", shape_table(&[("now", &recipe.model), ("target", &recipe.target)]));
    let found = ParameterCount::of(&recipe.target).total();
    if let Some(asked) = recipe.asked.as_ref().filter(|asked| asked.number as i64 != found) {
        let more = 100.0 * (found as f64 / asked.number as f64 - 1.0);
        text.push_str(&format!(
            "{} parameters were asked for; of the shapes that keep the proportions of the source the nearest has {} \
             ({more:+.1} %). Others, some of them nearer: shearling plan {} --target-params {}\n",
            asked.typed,
            grouped(found),
            shell_word(&recipe.folder.display().to_string()),
            shell_word(&asked.typed)
        ));
    }
    for (part, what) in [(&recipe.prune, "prune"), (&recipe.next, "continue")] {
        let time = part.time.as_ref().map_or(String::new(), |(_, said)| format!(", about {said}"));
        let at_once = recipe.masks.is_none() && part.prunes();
        let steps = if at_once { "at once, on".to_string() } else { format!("{} steps ×", part.stage.steps) };
        text.push_str(&format!(
            "{what}: {steps} {} rows × {} tokens{time}\n",
            part.stage.batch_rows, recipe.row_tokens
        ));
    }
    let line = |path: &Path| format!("{}\n", path.display());
    text + &line(&recipe.file) + &line(&recipe.next_file)
}

fn json(recipe: &Recipe) -> serde_json::Value {
    let model = |model| json!({ "shape": shape_json(model), "total_parameters": ParameterCount::of(model).total() });
    let part = |part: &part::Part| {
        json!({ "steps": part.stage.steps, "batch_rows": part.stage.batch_rows, "seconds": part.time.as_ref().map(|(seconds, _)| seconds),
                "learning_rate": part.stage.learning_rate })
    };
    json!({
        "now": model(&recipe.model),
        "target": model(&recipe.target),
        "masks": recipe.masks,
        "row_tokens": recipe.row_tokens,
        "prune": part(&recipe.prune),
        "continue": part(&recipe.next),
        "files": [recipe.file, recipe.next_file],
        "warnings": recipe.warnings,
    })
}
