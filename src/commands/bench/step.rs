//! `shearling bench step`: a few steps of the real trainer, timed phase by phase.

use super::peak;
use super::subject::Subject;
use crate::cli::Printer;
use crate::cli::arguments::BenchStep;
use crate::cli::table::{Table, bytes, grouped};
use crate::commands::ExitStatus;
use crate::hf::Checkpoint;
use crate::model::count::ParameterCount;
use crate::native::kernels;
use crate::native::runtime::{device, memory, threads};
use crate::train::Setup;
use crate::train::memory::MemoryEstimate;
use crate::train::phases::Phase;
use serde_json::{Value, json};
use std::time::Instant;

/// `shearling bench step`
pub(super) fn run(arguments: &BenchStep) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let device = device::parse(&arguments.device)?;
    let subject = Subject::new(arguments, device)?;
    let measured = measure(&subject, arguments, &printer)?;
    let peak = match arguments.peak_tflops {
        Some(tflops) if tflops.is_finite() && tflops > 0.0 => tflops * 1e12,
        Some(tflops) => anyhow::bail!("--peak-tflops {tflops} must be a positive number"),
        None => peak::flops(device, subject.setup.compute_kind())?,
    };
    let report = StepReport { measured, peak, setup: &subject.setup, same_rows: subject.repeats_rows };
    printer.data(report.text(), || report.json());
    Ok(ExitStatus::Done)
}

/// What the timed steps took.
struct Measured {
    seconds: Vec<f64>,
    phases: Vec<(Phase, f64)>,
    losses: Vec<f64>,
    tokens: usize,
    flops_per_token: f64,
    base_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    /// Taken from the driver; of a GPU.
    reserved_bytes: Option<u64>,
}

fn measure(subject: &Subject, arguments: &BenchStep, printer: &Printer) -> anyhow::Result<Measured> {
    let device = subject.setup.device;
    let base_bytes = memory::used_bytes(device);
    memory::restart_peak(device);
    let mut trainer = subject.trainer()?;
    trainer.measure_phases();
    let (mut seconds, mut losses, mut tokens) = (Vec::new(), Vec::new(), 0);
    let mut phases: Vec<(Phase, f64)> = Phase::ALL.map(|phase| (phase, 0.0)).to_vec();
    for step in 0..arguments.warmup + arguments.steps.get() {
        if subject.repeats_rows {
            trainer.rewind_data()?;
        }
        let start = Instant::now();
        let report = trainer.step()?;
        let elapsed = start.elapsed().as_secs_f64();
        losses.push(report.cross_entropy);
        tokens = report.tokens;
        printer.note(format!("step {}: {:.3} s, loss {:.4}", step + 1, elapsed, report.cross_entropy));
        if step >= arguments.warmup {
            seconds.push(elapsed);
            phases.iter_mut().zip(trainer.phases()).for_each(|(sum, (_, seconds))| sum.1 += seconds);
        }
    }
    phases.iter_mut().for_each(|(_, sum)| *sum /= seconds.len() as f64);
    let flops_per_token = trainer.flops_per_token();
    Ok(Measured {
        seconds,
        phases,
        losses,
        tokens,
        flops_per_token,
        base_bytes,
        peak_bytes: memory::peak_bytes(device),
        reserved_bytes: memory::device_peaks(device).map(|(_, reserved)| reserved),
    })
}

struct StepReport<'a> {
    measured: Measured,
    peak: f64,
    setup: &'a Setup,
    same_rows: bool,
}

impl StepReport<'_> {
    /// Whether the loss of the last step is below that of the first one; `None` where that would mean nothing: other rows at
    /// every step, or one step only.
    fn loss_fell(&self) -> Option<bool> {
        match self.measured.losses[..] {
            [first, .., last] if self.same_rows => Some(last < first),
            _ => None,
        }
    }

    /// The losses of the steps, and what they mean.
    fn losses_in_words(&self) -> String {
        let losses: Vec<String> = self.measured.losses.iter().map(|loss| format!("{loss:.3}")).collect();
        let meaning = match self.loss_fell() {
            Some(true) => ": falls, as it has to (the same rows at every step, a rate that warms up)",
            Some(false) => {
                ": DOES NOT FALL on the same rows, under a rate that warms up: gradients are wrong, or the update is \
                 (`shearling bench check` looks for what)"
            }
            None if self.same_rows => "",
            None => " (other rows at every step: says nothing of the gradients)",
        };
        format!("loss {}{meaning}", losses.join(", "))
    }

    /// Middle of the timed steps.
    fn step_seconds(&self) -> f64 {
        let mut sorted = self.measured.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn tokens_per_second(&self) -> f64 {
        self.measured.tokens as f64 / self.step_seconds()
    }

    fn utilisation(&self) -> f64 {
        self.tokens_per_second() * self.measured.flops_per_token / self.peak
    }

    /// Peak above what the process took before the model.
    fn peak_above_base(&self) -> Option<f64> {
        Some(self.measured.peak_bytes?.saturating_sub(self.measured.base_bytes?) as f64)
    }

    fn estimate(&self) -> MemoryEstimate {
        let tokens = self.setup.dataset.sequence_length() as i64;
        let teacher = self.setup.teacher.as_ref().map(Checkpoint::model);
        MemoryEstimate::new(&self.setup.model, teacher, &self.setup.config, tokens, self.setup.device)
    }

    fn text(&self) -> String {
        let mut table = Table::new(["phase", "ms", "share"]);
        let total = self.measured.seconds.iter().sum::<f64>() / self.measured.seconds.len() as f64;
        let taught = self.setup.teacher.is_some();
        for (phase, seconds) in self.measured.phases.iter().filter(|(phase, _)| taught || *phase != Phase::Teacher) {
            let share = format!("{:.1} %", 100.0 * seconds / total);
            table.row([phase.name().to_string(), format!("{:.1}", 1e3 * seconds), share]);
        }
        table.row(["step".to_string(), format!("{:.1}", 1e3 * total), String::new()]);
        let counted = match (self.setup.spec.is_some(), taught) {
            (true, true) => ", masks and teacher in them",
            (true, false) => ", masks in them",
            (false, true) => ", the teacher in them",
            (false, false) => "",
        };
        let reserved = self.measured.reserved_bytes.map(|reserved| format!(" ({} reserved)", bytes(reserved as f64)));
        let memory =
            self.peak_above_base().map_or("unknown on this system".to_string(), bytes) + &reserved.unwrap_or_default();
        format!(
            "{} parameters, {} tokens per step, {:.3e} FLOPs per token, {}\n\n{table}\n{} tokens/s in steps{counted}, {:.2} of {:.2} \
             TFLOP/s ({:.1} % MFU)\npeak memory of the run {memory}, predicted {}\n{}\n",
            grouped(ParameterCount::of(&self.setup.model).total()),
            grouped(self.measured.tokens as i64),
            self.measured.flops_per_token,
            threads::in_words(),
            grouped(self.tokens_per_second() as i64),
            self.tokens_per_second() * self.measured.flops_per_token / 1e12,
            self.peak / 1e12,
            100.0 * self.utilisation(),
            self.estimate(),
            self.losses_in_words(),
        )
    }

    fn json(&self) -> Value {
        let measured = &self.measured;
        let phases = measured.phases.iter().map(|(phase, seconds)| (phase.name().to_string(), json!(1e3 * seconds)));
        json!({
            "parameters": ParameterCount::of(&self.setup.model).total(),
            "tokens_per_step": measured.tokens,
            "tokens_per_second": self.tokens_per_second(),
            "step_ms": measured.seconds.iter().map(|seconds| 1e3 * seconds).collect::<Vec<_>>(),
            "phases_ms": Value::Object(phases.collect()),
            "flops_per_token": measured.flops_per_token,
            "peak_flops": self.peak,
            "mfu": self.utilisation(),
            "base_memory_bytes": measured.base_bytes,
            "peak_memory_bytes": measured.peak_bytes,
            "reserved_memory_bytes": measured.reserved_bytes,
            "kernels": !kernels::composes(self.setup.device),
            "predicted_memory": self.estimate(),
            "predicted_memory_bytes": self.estimate().total_bytes(),
            "loss": measured.losses,
            "same_rows": self.same_rows,
            "loss_fell": self.loss_fell(),
            "device": device::name(self.setup.device),
            "threads": tch::get_num_threads(),
        })
    }
}
