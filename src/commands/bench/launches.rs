//! `shearling bench launches`: how many kernels a step, or a token that is decoded, launches on a GPU, counted on the CPU:
//! operators composed of libtorch's own against kernels of ours. The number does not depend on the widths, so a narrow model with as many layers tells it.

use super::shapes::NamedShape;
use super::subject::Subject;
use crate::cli::Printer;
use crate::cli::arguments::{BenchLaunches, Switch};
use crate::cli::table::{Table, grouped};
use crate::commands::ExitStatus;
use crate::files::DType;
use crate::model::{DecodeError, Decoder, KvCache};
use crate::native::kernels::{Path, compute_by};
use crate::native::runtime::operator_count::{Launches, count};
use crate::train::Error;
use crate::train::setup::kind;
use serde_json::{Value, json};
use tch::{Device, Kind, TchError, Tensor};

/// `shearling bench launches`
pub(super) fn run(arguments: &BenchLaunches) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let layers = arguments.layers.get() as i64;
    let mut counted = Vec::new();
    for path in [Path::Composed, Path::DeviceKernels] {
        let of = |layers| match arguments.decode {
            true => token(arguments, layers, path),
            false => step(arguments, layers, path),
        };
        counted.push(Counted { whole: of(layers)?, one_more: of(layers + 1)? });
    }
    let [composed, kernels] = &counted[..] else { anyhow::bail!("two ways to compute were counted") };
    printer.data(text(composed, kernels, arguments), || to_json(composed, kernels));
    Ok(ExitStatus::Done)
}

/// Launches of a step, and of one with a layer more.
struct Counted {
    whole: Launches,
    one_more: Launches,
}

impl Counted {
    fn of(&self, group: Group) -> [u64; 2] {
        [&self.whole, &self.one_more]
            .map(|launches| launches.iter().filter(|(name, _)| Group::of(name) == group).map(|(_, count)| count).sum())
    }

    fn total(&self) -> [u64; 2] {
        [&self.whole, &self.one_more].map(|launches| launches.values().sum())
    }
}

/// Launches of the second step: one micro-batch, and the optimizer.
fn step(arguments: &BenchLaunches, layers: i64, path: Path) -> anyhow::Result<Launches> {
    let _path = compute_by(path);
    let shape = NamedShape::narrow(layers);
    let subject = Subject::counted(shape, arguments.masks == Switch::On, |config| {
        config.run.dtype = DType::from(arguments.dtype).into();
        config.train.activation_checkpointing = arguments.activation_checkpointing;
    })?;
    let mut trainer = subject.trainer()?;
    trainer.step()?;
    let as_torch = |error: Error| TchError::Torch(error.to_string());
    Ok(count(|| trainer.step().map(|_| ()).map_err(as_torch))?.0)
}

/// Launches of a token behind a few others.
fn token(arguments: &BenchLaunches, layers: i64, path: Path) -> anyhow::Result<Launches> {
    let _path = compute_by(path);
    let kind = kind(arguments.dtype.into());
    let subject = Subject::counted(NamedShape::narrow(layers), false, |_| ())?;
    let (model, weights) = (&subject.setup.model, subject.normal_weights(Device::Cpu)?);
    let decoder = Decoder::build(model, &mut |name| {
        let weight = weights.iter().find(|(own, _)| own == name).map(|(_, weight)| weight.f_to_kind(kind));
        weight.unwrap_or_else(|| Err(TchError::Shape(format!("no weight {name}"))))
    })?;
    let mut cache = KvCache::new(model, 1, 8, kind, Device::Cpu)?;
    let ids = Tensor::f_arange(5, (Kind::Int64, Device::Cpu))?.f_unsqueeze(0)?;
    let _ = decoder.next_logits(&ids.f_narrow(1, 0, 4)?, &mut cache)?;
    let next = ids.f_narrow(1, 4, 1)?;
    let as_torch = |error: DecodeError| TchError::Torch(error.to_string());
    Ok(count(|| decoder.next_logits(&next, &mut cache).map(|_| ()).map_err(as_torch))?.0)
}

/// Launches of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Kernels,
    Products,
    Attention,
    Optimizer,
    Elementwise,
    Copies,
    Fills,
    Reductions,
}

impl Group {
    const ALL: [(Group, &'static str); 8] = [
        (Group::Products, "matrix products"),
        (Group::Attention, "attention"),
        (Group::Kernels, "kernels of ours"),
        (Group::Elementwise, "element by element"),
        (Group::Copies, "copies and casts"),
        (Group::Fills, "fills"),
        (Group::Reductions, "reductions"),
        (Group::Optimizer, "lists of tensors (norms, optimizer)"),
    ];

    fn of(name: &str) -> Group {
        if name.starts_with("kernel::adamw") {
            return Group::Optimizer;
        }
        if name.starts_with("kernel::") {
            return Group::Kernels;
        }
        let plain = name.trim_start_matches("aten::").trim_end_matches('_');
        match plain {
            "mm" | "addmm" | "bmm" | "baddbmm" | "mv" | "addmv" | "linear" | "matmul" => Group::Products,
            "copy" | "clone" | "cat" | "index" | "repeat_interleave" | "gather" | "embedding" => Group::Copies,
            "fill" | "zero" | "scalar_tensor" | "arange" => Group::Fills,
            "sum" | "mean" | "norm" | "linalg_vector_norm" | "max" | "any" | "all" => Group::Reductions,
            _ if plain.contains("scaled_dot_product") => Group::Attention,
            _ if plain.starts_with("_fused") || plain.starts_with("_foreach") => Group::Optimizer,
            _ => Group::Elementwise,
        }
    }
}

fn text(composed: &Counted, kernels: &Counted, arguments: &BenchLaunches) -> String {
    let mut table = Table::new(["launches", "composed", "a layer", "with kernels", "a layer"]);
    let row = |name: &str, [a, more_a]: [u64; 2], [b, more_b]: [u64; 2]| {
        let layer = |whole: u64, more: u64| format!("{}", more.saturating_sub(whole));
        [name.to_string(), grouped(a), layer(a, more_a), grouped(b), layer(b, more_b)]
    };
    for (group, name) in Group::ALL {
        table.row(row(name, composed.of(group), kernels.of(group)));
    }
    table.row(row("all", composed.total(), kernels.total()));
    let what = match (arguments.decode, arguments.masks) {
        (true, _) => "one token decoded by",
        (false, Switch::On) => "one step with masks of one micro-batch of",
        (false, Switch::Off) => "one step without masks of one micro-batch of",
    };
    format!("{what} {} layers, counted on the CPU\n{table}", arguments.layers)
}

fn to_json(composed: &Counted, kernels: &Counted) -> Value {
    let groups = |counted: &Counted| -> Value {
        let of = |(group, name): (Group, &str)| {
            let [step, more] = counted.of(group);
            (name.to_string(), json!({ "step": step, "layer": more.saturating_sub(step) }))
        };
        Group::ALL.into_iter().map(of).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "composed": { "groups": groups(composed), "all": composed.total()[0], "operators": composed.whole },
        "kernels": { "groups": groups(kernels), "all": kernels.total()[0], "operators": kernels.whole },
    })
}
