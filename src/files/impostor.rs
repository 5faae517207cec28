//! What a file is that should be JSON or safetensors and does not read as it: the usual stand-ins of a download that did not
//! happen, told apart by their first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than any of the marks below needs.
const HEAD_BYTES: u64 = 256;

/// What `path` is instead, with the remedy, to follow "is"; `None` where its first bytes say nothing known.
pub(crate) fn recognise(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    of_head(&head, &folder.display().to_string())
}

fn of_head(head: &[u8], folder: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let begins = |marks: &[&str]| marks.iter().any(|mark| text.starts_with(mark));
    if begins(&["version https://git-lfs", "version https://hawser"]) {
        return Some(format!(
            "a git-lfs pointer, not the file it points to: fetch the file with: git -C {folder} lfs pull"
        ));
    }
    if begins(&["<!doctype html", "<html"]) {
        return Some(
            "an HTML page, not the file: the download saved a page of the site (a login, or `blob` in the address where \
             `resolve` belongs); fetch it with `hf download ORG/NAME --local-dir FOLDER`"
                .to_string(),
        );
    }
    if begins(&["access to model", "invalid username or password", "entry not found", "repository not found"]) {
        return Some(
            "the refusal of a download, not the file: accept the model's terms on its page, log in with: hf auth login, \
             and fetch it again"
                .to_string(),
        );
    }
    if head.starts_with(b"GGUF") {
        return Some(
            "a GGUF file (llama.cpp), which is not read: take the safetensors folder it was made from".to_string(),
        );
    }
    // A zip archive is what torch.save writes since 1.6, a bare pickle (protocol 2) what it wrote before.
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") {
        return Some(
            "a pickle of torch under another name, which is not read: convert it with save_pretrained of transformers"
                .to_string(),
        );
    }
    head.is_empty().then(|| "empty: the download or copy was cut off; fetch it again".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_known_by_their_first_bytes() {
        let named = [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"[..], "git -C models/x lfs pull"),
            (b"\n<!DOCTYPE html><html>", "HTML page"),
            (b"<HTML>", "HTML page"),
            (b"Access to model meta-llama/Llama-2-7b is restricted", "hf auth login"),
            (b"GGUF\x03\0\0\0", "llama.cpp"),
            (b"PK\x03\x04rest", "pickle"),
            (b"\x80\x02}q\0", "pickle"),
            (b"", "empty"),
        ];
        for (head, part) in named {
            let what = of_head(head, "models/x").unwrap();
            assert!(what.contains(part), "{what}");
        }
        for other in [&b"{}"[..], b"\xff\xfe", b"\x10\0\0\0\0\0\0\0{\"__met", b"version 1"] {
            assert_eq!(of_head(other, "x"), None);
        }
        assert_eq!(recognise(Path::new("/nonexistent/file")), None);
    }
}
