//! Where the run fits: the device it is planned for, and cards by name.

use crate::commands::run_cost::RunCost;
use crate::native::runtime::cards::{CARDS, Card};
use crate::native::runtime::memory;
use crate::train::Outline;
use crate::train::fit::{Fit, Settings, fitting};
use crate::train::memory::MemoryEstimate;
use crate::train::setup::Device;
use serde_json::{Value, json};

/// Memory of a run and what of it goes where.
#[derive(Debug)]
pub(super) struct Places {
    /// On the device of the plan.
    pub(super) memory: MemoryEstimate,
    /// The same on a GPU.
    pub(super) on_gpu: MemoryEstimate,
    /// The device of the plan, if its memory is known.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    name: String,
    bytes: f64,
    fit: Fit,
    /// Keys with which it would fit, where it does not; `None` if nothing helps.
    remedy: Option<Vec<String>>,
    /// Whether the source is cut at once.
    at_once: bool,
}

impl Places {
    /// Of a run whose state is sharded over `ranks`; 1 holds all of it.
    pub(super) fn new(outline: &Outline, cost: &RunCost, card: Option<&Card>, ranks: usize) -> Places {
        let (model, tokens, device) = (&outline.model, outline.row_tokens, outline.device);
        let teacher = outline.teacher.as_ref();
        let on = |device| match &cost.one_shot {
            Some(cost) => MemoryEstimate::of_work(cost.memory_bytes, device),
            None => {
                let whole = MemoryEstimate::new(model, teacher, &outline.config, tokens, device);
                whole.sharded(ranks, model, &outline.config, device)
            }
        };
        let memory = on(device);
        let own = match card {
            Some(card) => Some((format!("{} ({:.1} GiB)", card.name, gib(card.memory_bytes())), card.memory_bytes())),
            None => memory::usable_bytes(device).map(|bytes| (this_machine(device, bytes as f64), bytes as f64)),
        };
        let own = own.map(|(name, bytes)| {
            let fit = Fit::of(&memory, bytes, device);
            let most_rows = outline.config.train.micro_batch();
            let remedy = || {
                let found = fitting(&outline.config, model, teacher, tokens, device, bytes, most_rows, ranks)?;
                Some(found.changed_from(&Settings::of(&outline.config)))
            };
            let helped = fit != Fit::Yes && cost.one_shot.is_none();
            Own { name, bytes, fit, remedy: if helped { remedy() } else { None }, at_once: cost.one_shot.is_some() }
        });
        Places { memory, on_gpu: on(Device::Cuda(0)), own }
    }

    /// `fits in …` for the device of the plan; for every card where that is a GPU, else only what a GPU would need.
    pub(super) fn text(&self, device: Device) -> String {
        let mut text = String::new();
        if let Some(own) = &self.own {
            let verdict = match own.fit {
                Fit::Yes => "fits in",
                Fit::Tight => "only just fits in",
                Fit::No => "does not fit in",
            };
            text.push_str(&format!("{verdict} {}\n", own.name));
        }
        if !device.is_cuda() {
            let needed = gib(self.on_gpu.total_bytes());
            return match text.trim_end() {
                "" => String::new(),
                line => format!("{line}; on a GPU it would take {needed:.1} GiB\n"),
            };
        }
        let named = |fit: Fit| {
            let cards = CARDS.iter().filter(|card| self.fit(card) == fit);
            let names: Vec<String> =
                cards.map(|card| format!("{} ({:.0} GiB)", card.name, gib(card.memory_bytes()))).collect();
            match names.as_slice() {
                [] => "none".to_string(),
                [smallest, ..] if names.len() == CARDS.len() => format!("every card from {smallest} on"),
                names => names.join(", "),
            }
        };
        text.push_str(&format!("cards: fits in {}", named(Fit::Yes)));
        if CARDS.iter().any(|card| self.fit(card) == Fit::Tight) {
            text.push_str(&format!("; only just in {}", named(Fit::Tight)));
        }
        text.push('\n');
        text
    }

    /// Name and memory of what it is planned for, if that is known.
    pub(super) fn device(&self) -> Option<(&str, f64)> {
        self.own.as_ref().map(|own| (own.name.as_str(), own.bytes))
    }

    /// Where it does not fit, of what it is planned for, and the keys with which it would.
    pub(super) fn lacking(&self) -> Option<(&str, Option<&Vec<String>>)> {
        let own = self.own.as_ref().filter(|own| own.fit == Fit::No)?;
        Some((&own.name, own.remedy.as_ref()))
    }

    pub(super) fn fit(&self, card: &Card) -> Fit {
        Fit::of(&self.on_gpu, card.memory_bytes(), Device::Cuda(0))
    }

    /// A warning where the run does not fit.
    pub(super) fn warning(&self) -> Option<String> {
        let own = self.own.as_ref().filter(|own| own.fit != Fit::Yes)?;
        let lead = match own.fit {
            Fit::Tight => "only just fits in",
            _ => "does not fit in",
        };
        let needed = gib(self.memory.total_bytes());
        let advice = match &own.remedy {
            Some(keys) => format!("it would with {}", keys.join(", ")),
            None if own.at_once => "lower prune.calibration_rows or prune.check_rows".to_string(),
            None => {
                "no setting of train.micro_batch_rows, activation_checkpointing or moments makes it fit".to_string()
            }
        };
        Some(format!("the predicted peak memory of {needed:.1} GiB {lead} {}: {advice}", own.name))
    }

    pub(super) fn json(&self) -> Value {
        let card = |card: &Card| json!({ "card": card.name, "id": card.id, "memory_bytes": card.memory_bytes(), "fits": self.fit(card) });
        json!({
            "device": self.own.as_ref().map(|own| json!({ "name": own.name, "memory_bytes": own.bytes, "fits": own.fit,
                                                          "would_fit_with": own.remedy })),
            "gpu_bytes": self.on_gpu.total_bytes(),
            "cards": CARDS.iter().map(card).collect::<Vec<_>>(),
        })
    }
}

fn this_machine(device: Device, bytes: f64) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index} of this machine ({:.1} GiB)", gib(bytes)),
        _ => format!("this machine ({:.1} GiB available)", gib(bytes)),
    }
}

fn gib(bytes: f64) -> f64 {
    bytes / (1u64 << 30) as f64
}
