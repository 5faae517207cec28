//! Why a path is not a Hugging Face folder with a model in it: the usual mistakes, each with what to give instead.

use crate::files::publish::entries_of;
use std::path::{Path, PathBuf};

/// The file that makes a folder a model.
pub(super) const CONFIG_NAME: &str = "config.json";

/// Folders that are named where a path has models below it.
const NAMED: usize = 3;

/// What `path`, which has no `config.json`, is instead, as a clause with the remedy. `None` where nothing is recognised.
pub fn not_a_model(path: &Path) -> Option<String> {
    if path.is_file() {
        return Some(of_file(path));
    }
    if !path.is_dir() {
        return hub_id(path);
    }
    let names = file_names(path);
    let has = |name: &str| names.iter().any(|found| found == name);
    if has("adapter_config.json") {
        return Some(
            "it holds a LoRA adapter (adapter_config.json), not a model: merge it into its base model first, with \
             merge_and_unload and save_pretrained of peft, and give the merged folder"
                .to_string(),
        );
    }
    if let Some(gguf) = names.iter().find(|name| name.ends_with(".gguf")) {
        return Some(format!(
            "it holds `{gguf}`, a GGUF file (llama.cpp), which is not read: take the safetensors folder it was made from"
        ));
    }
    if has("params.json") {
        return Some(
            "it holds the weights in their makers' own format (params.json): take the same model in the format of \
             transformers, with config.json and model.safetensors"
                .to_string(),
        );
    }
    below(path)
}

fn of_file(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => {
            "it is a GGUF file (llama.cpp), which is not read: take the safetensors folder it was made from".to_string()
        }
        Some("safetensors" | "bin" | "pt" | "pth") => {
            format!("it is a file: give the folder that it lies in: {}", folder.display())
        }
        _ => "it is a file: give the folder of a model, with config.json and weights".to_string(),
    }
}

/// `ORG/NAME`, where no such path is, is how the Hugging Face hub names a model; so is the address of its page.
fn hub_id(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let text = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf://"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let (organisation, name) = text.trim_end_matches('/').split_once('/')?;
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    // A path whose first folder is there was meant as a path.
    (plain(organisation) && plain(name) && !Path::new(organisation).is_dir()).then(|| {
        format!(
            "if it is the name of a model on the Hugging Face hub, download it and give the folder: \
             `hf download {organisation}/{name} --local-dir {name}`"
        )
    })
}

/// Models in folders of this one, or in the snapshots of the hub's cache.
fn below(path: &Path) -> Option<String> {
    let entries = [path.to_path_buf(), path.join("snapshots")].map(|folder| entries_of(&folder).unwrap_or_default());
    let models: Vec<PathBuf> =
        entries.into_iter().flatten().filter(|entry| entry.join(CONFIG_NAME).is_file()).collect();
    let first = models.first()?;
    Some(match models.len() {
        1 => format!("the model is in {}: give that folder", first.display()),
        count => {
            let named: Vec<String> = models.iter().take(NAMED).map(|folder| folder.display().to_string()).collect();
            let more = if count > NAMED { ", …" } else { "" };
            format!("{count} models are in folders of it: give one of {}{more}", named.join(", "))
        }
    })
}

fn file_names(path: &Path) -> Vec<String> {
    let entries = entries_of(path).unwrap_or_default();
    entries.iter().filter_map(|entry| Some(entry.file_name()?.to_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_of_the_hub_get_the_command_that_downloads_them() {
        for given in [
            "HuggingFaceTB/SmolLM2-135M",
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
            "hf://HuggingFaceTB/SmolLM2-135M/",
        ] {
            let told = not_a_model(Path::new(given)).unwrap();
            assert!(told.contains("hf download HuggingFaceTB/SmolLM2-135M --local-dir SmolLM2-135M"), "{told}");
        }
        // Not a name: a path, one that starts in a folder that is there, a bare word.
        for given in ["/models/x", "./models/x", "a/b/c", "masks/nothing", "../x", "gpt2", "a/b c"] {
            assert_eq!(not_a_model(Path::new(given)), None, "{given}");
        }
    }

    #[test]
    fn what_a_folder_or_file_is_instead_is_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(not_a_model(root.path()), None);
        let told = |file: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            (not_a_model(folder.path()).unwrap(), not_a_model(&path).unwrap())
        };
        assert!(told("adapter_config.json").0.contains("LoRA adapter"));
        assert!(told("params.json").0.contains("format of transformers"));
        let (folder, file) = told("model.Q4_K_M.gguf");
        assert!(folder.contains("model.Q4_K_M.gguf") && file.contains("GGUF"), "{folder}: {file}");
        let (folder, file) = told("checkpoint-500/config.json");
        assert!(folder.contains("checkpoint-500: give that folder") && file.contains("give the folder"), "{file}");
        assert!(told("snapshots/0a1b/config.json").0.contains("snapshots/0a1b"));
        for step in 0..5 {
            fs::create_dir(root.path().join(format!("step-{step}"))).unwrap();
            fs::write(root.path().join(format!("step-{step}/config.json")), "{}").unwrap();
        }
        let several = not_a_model(root.path()).unwrap();
        assert!(several.contains("5 models") && several.contains("step-2, …"), "{several}");
    }
}
