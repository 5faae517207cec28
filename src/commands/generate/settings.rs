//! What `generate` does where the command line says nothing: the model's own suggestions, then plain defaults.

use crate::cli::arguments::Generate;
use crate::files::DType;
use crate::generate::Sampling;
use crate::hf::GenerationConfig;
use std::num::NonZeroUsize;
use tch::{Device, Kind};

/// New tokens, unless said otherwise.
const MAX_TOKENS: usize = 256;

/// How text is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) sampling: Sampling,
    pub(super) max_new_tokens: usize,
    /// What is worth saying about them.
    pub(super) notes: Vec<String>,
}

impl Settings {
    /// The command line over `generation_config.json` over greedy decoding of 256 tokens.
    pub(super) fn new(arguments: &Generate, suggested: Option<&GenerationConfig>) -> Settings {
        // What a file says about drawing counts only if it wants tokens drawn.
        let drawn = suggested.filter(|config| config.do_sample);
        let temperature = drawn.map(|config| config.temperature.unwrap_or(1.0));
        let top_k = drawn.and_then(|config| config.top_k).map(|k| usize::try_from(k).unwrap_or(0));
        let top_p = drawn.and_then(|config| config.top_p);
        let max = suggested.and_then(|config| config.max_new_tokens).and_then(|n| usize::try_from(n).ok());
        let sampling = Sampling {
            temperature: arguments.temperature.or(temperature).unwrap_or(0.0),
            top_k: arguments.top_k.or(top_k).unwrap_or(0),
            top_p: arguments.top_p.or(top_p).unwrap_or(1.0),
        };
        let mut settings = Settings {
            sampling,
            max_new_tokens: arguments.max_tokens.map(NonZeroUsize::get).or(max).unwrap_or(MAX_TOKENS),
            notes: Vec::new(),
        };
        settings.notes = settings.explain(arguments, suggested);
        settings
    }

    fn explain(&self, arguments: &Generate, suggested: Option<&GenerationConfig>) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(config) = suggested {
            let taken = [
                ("temperature", config.do_sample && arguments.temperature.is_none()),
                ("top_k", config.top_k.is_some() && config.do_sample && arguments.top_k.is_none()),
                ("top_p", config.top_p.is_some() && config.do_sample && arguments.top_p.is_none()),
                ("max_new_tokens", config.max_new_tokens.is_some() && arguments.max_tokens.is_none()),
            ];
            let taken: Vec<&str> = taken.iter().filter(|(_, taken)| *taken).map(|(name, _)| *name).collect();
            if !taken.is_empty() {
                notes.push(format!("{} as generation_config.json suggests", taken.join(", ")));
            }
            if !config.ignored.is_empty() {
                notes.push(format!("generation_config.json also sets {}: not applied", config.ignored.join(", ")));
            }
        }
        let given = [("--top-p", arguments.top_p.is_some()), ("--top-k", arguments.top_k.is_some())];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if self.sampling.temperature == 0.0 && !given.is_empty() {
            let have = if given.len() == 1 { "has" } else { "have" };
            notes.push(format!(
                "{} {have} no effect in greedy decoding; set --temperature above 0",
                given.join(" and ")
            ));
        }
        notes
    }

    /// In one line.
    pub(super) fn describe(&self, seed: u64) -> String {
        let Sampling { temperature, top_k, top_p } = self.sampling;
        let choice = match self.sampling.is_greedy() {
            true => "greedy decoding".to_string(),
            false => {
                let k = if top_k > 0 { format!(", top-k {top_k}") } else { String::new() };
                let p = if top_p < 1.0 { format!(", top-p {top_p}") } else { String::new() };
                format!("temperature {temperature}{k}{p}, seed {seed}")
            }
        };
        format!("{choice}, at most {} new tokens", self.max_new_tokens)
    }
}

/// The kind that weights are held in: as asked, else as stored, except fp16 on a CPU, which has no fast arithmetic.
pub(super) fn compute_kind(asked: Option<Kind>, stored: Option<DType>, device: Device) -> Kind {
    asked.unwrap_or(match (stored, device) {
        (Some(DType::BF16), _) => Kind::BFloat16,
        (Some(DType::F16), device) if device.is_cuda() => Kind::Half,
        _ => Kind::Float,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::cli::arguments::Command;
    use clap::Parser;

    fn arguments(more: &[&str]) -> Generate {
        let all = ["shearling", "generate", "folder"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Generate(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    fn suggested() -> GenerationConfig {
        GenerationConfig {
            do_sample: true,
            temperature: Some(0.6),
            top_p: Some(0.9),
            max_new_tokens: Some(50),
            ..GenerationConfig::default()
        }
    }

    #[test]
    fn without_a_word_it_is_greedy() {
        let settings = Settings::new(&arguments(&[]), None);
        assert_eq!((settings.sampling, settings.max_new_tokens), (Sampling::GREEDY, 256));
        assert!(settings.notes.is_empty());
        let quiet = GenerationConfig { temperature: Some(0.6), top_p: Some(0.5), ..GenerationConfig::default() };
        assert_eq!(Settings::new(&arguments(&[]), Some(&quiet)).sampling, Sampling::GREEDY, "do_sample is false");
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let settings = Settings::new(&arguments(&[]), Some(&suggested()));
        assert_eq!(settings.sampling, Sampling { temperature: 0.6, top_k: 0, top_p: 0.9 });
        assert_eq!(settings.max_new_tokens, 50);
        assert_eq!(settings.notes, ["temperature, top_p, max_new_tokens as generation_config.json suggests"]);

        let given = arguments(&["--temperature", "0", "--max-tokens", "7", "--top-k", "3"]);
        let settings = Settings::new(&given, Some(&suggested()));
        assert!(settings.sampling.is_greedy() && settings.max_new_tokens == 7);
        assert!(settings.notes.iter().any(|note| note.contains("no effect in greedy decoding")));
    }

    #[test]
    fn what_a_file_asks_for_in_vain_is_said() {
        let config = GenerationConfig { ignored: vec!["repetition_penalty"], ..suggested() };
        let notes = Settings::new(&arguments(&[]), Some(&config)).notes.join("\n");
        assert!(notes.contains("repetition_penalty: not applied"), "{notes}");
    }

    #[test]
    fn weights_are_held_as_they_are_stored() {
        let kind = |stored| compute_kind(None, stored, Device::Cpu);
        assert_eq!(kind(Some(DType::BF16)), Kind::BFloat16);
        assert_eq!(kind(Some(DType::F16)), Kind::Float);
        assert_eq!(kind(None), Kind::Float);
        assert_eq!(compute_kind(None, Some(DType::F16), Device::Cuda(0)), Kind::Half);
        assert_eq!(compute_kind(Some(Kind::BFloat16), Some(DType::F32), Device::Cpu), Kind::BFloat16);
    }
}
