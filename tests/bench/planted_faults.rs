//! Whether the check sees faults of the cut in a real model: `cargo bench --bench planted_faults -- MODEL DATA`.
//!
//! Cuts MODEL by weight magnitude, with gates drawn in (0.5, 1) for what stays, and compares the masked model with what
//! was written on the first held-out rows of DATA (a folder of `shearling data prepare`): once as it is, then with each
//! fault planted. `tests/integration/planted_faults.rs` does the same on a tiny model.

use clap::Parser;
use shearling::config::Target;
use shearling::eval::EvalRows;
use shearling::files::DType;
use shearling::hf::Checkpoint;
use shearling::prune::equivalence::check;
use shearling::prune::scores::magnitude;
use shearling::prune::{CheckRows, Conversion, Equivalence, shape, write_model};
use shearling_domains::Dataset;
use shearling_masks::{Gates, KeepPlan, MaskSpec, UnitKind};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Arguments {
    /// Hugging Face folder.
    model: PathBuf,
    /// Prepared data.
    data: PathBuf,
    /// Rows per domain.
    #[arg(long, default_value_t = 1)]
    rows: usize,
    #[arg(long)]
    hidden_size: Option<i64>,
    #[arg(long)]
    intermediate_size: Option<i64>,
    #[arg(long)]
    num_hidden_layers: Option<i64>,
    #[arg(long)]
    num_attention_heads: Option<i64>,
    #[arg(long)]
    num_key_value_heads: Option<i64>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let target = Target {
        hidden_size: arguments.hidden_size,
        intermediate_size: arguments.intermediate_size,
        num_hidden_layers: arguments.num_hidden_layers,
        num_attention_heads: arguments.num_attention_heads,
        num_key_value_heads: arguments.num_key_value_heads,
        head_dim: None,
    };
    let bench = Bench::new(&arguments, &target)?;
    println!("| planted | dtype | fold in fp64 | KL of rounding (source) | verdict | s |");
    println!("|---|---|---|---|---|---|");
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        bench.show("nothing", &bench.plan, &bench.gates, dtype)?;
    }
    for (name, plan, gates) in bench.faults()? {
        bench.show(name, &plan, &gates, DType::BF16)?;
    }
    Ok(())
}

struct Bench {
    source: Checkpoint,
    spec: MaskSpec,
    plan: KeepPlan,
    gates: Gates,
    rows: CheckRows,
}

impl Bench {
    fn new(arguments: &Arguments, target: &Target) -> Result<Bench> {
        let source = Checkpoint::open(&arguments.model)?;
        let spec = shape::mask_spec(source.model(), target)?;
        let (plan, hard) = KeepPlan::from_scores(&spec, &magnitude::scores(&source, &spec, Device::Cpu)?)?;
        let dataset = Dataset::open(&arguments.data)?;
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for domain in EvalRows::load(&dataset, arguments.rows, Device::Cpu)? {
            names.extend((0..domain.rows.size()[0]).map(|row| format!("{} row {row}", domain.domain)));
            ids.push(domain.rows.to_kind(Kind::Int64));
        }
        let rows = CheckRows { ids: Tensor::f_cat(&ids, 0)?, names };
        let gates = softened(&spec, &hard)?;
        Ok(Bench { source, spec, plan, gates, rows })
    }

    fn show(&self, name: &str, plan: &KeepPlan, gates: &Gates, dtype: DType) -> Result<()> {
        let started = Instant::now();
        let found = self.check(plan, gates, dtype)?;
        let verdict = if found.passed() { "agree".to_string() } else { found.to_string() };
        let (rounding, seconds) = (&found.rounding, started.elapsed().as_secs_f64());
        println!(
            "| {name} | {} | {:.1e} | {:.1e} ({:.1e}) | {verdict} | {seconds:.0} |",
            dtype.name(),
            found.folded,
            rounding.written.mean_kl,
            rounding.source.mean_kl
        );
        Ok(())
    }

    fn check(&self, plan: &KeepPlan, gates: &Gates, dtype: DType) -> Result<Equivalence> {
        let conversion = Conversion {
            source: &self.source,
            companions: self.source.dir(),
            spec: &self.spec,
            gates,
            plan,
            dtype,
            max_shard_bytes: 5_000_000_000,
            check_rows: &self.rows,
            device: Device::Cpu,
            unproven: false,
        };
        let out = tempfile::tempdir()?;
        write_model(&conversion, out.path(), &mut |_, _, _| {})?;
        Ok(check(&conversion, &self.gates, &Checkpoint::open(out.path())?, &mut |_, _, _| {})?)
    }

    /// What may go wrong in a fold, each in a layer in the middle.
    fn faults(&self) -> Result<Vec<(&'static str, KeepPlan, Gates)>> {
        let middle = self.plan.layers.len() / 2;
        let layer = &self.plan.layers[middle];
        let source_layer = layer.source_index;
        let mut faults = Vec::new();
        let gated = |module: UnitKind, unit: i64, value: f64| self.with_gate(module, source_layer, unit, value);

        if let Some(slots) = &self.gates.query_head {
            let dropped = (0..slots.size()[1]).find(|slot| !layer.query_slots.contains(slot));
            if let Some(dropped) = dropped {
                let mut plan = self.plan.clone();
                plan.layers[middle].query_slots[0] = dropped;
                plan.layers[middle].query_slots.sort_unstable();
                faults.push(("a wrong head kept", plan, gated(UnitKind::QueryHead, dropped, 0.8)?));
            }
            let slot = layer.query_slots[0];
            let value = slots.get(source_layer).double_value(&[slot]);
            let twice = gated(UnitKind::QueryHead, slot, value * value)?;
            faults.push(("a head scaled twice", self.plan.clone(), twice));
        }
        if self.gates.intermediate.is_some() {
            let kept = &layer.intermediate;
            let unit = kept[kept.len() / 2];
            faults.push(("a gate not folded", self.plan.clone(), gated(UnitKind::Intermediate, unit, 1.0)?));
            let moved = (0..kept.len() - 1).find(|at| kept[at + 1] > kept[*at] + 1);
            if let Some(moved) = moved {
                let mut plan = self.plan.clone();
                plan.layers[middle].intermediate[moved] += 1;
                faults.push(("one row off by one", plan, gated(UnitKind::Intermediate, kept[moved] + 1, 0.8)?));
            }
        }
        Ok(faults)
    }

    fn with_gate(&self, module: UnitKind, row: i64, unit: i64, value: f64) -> Result<Gates> {
        let mut gates = self.gates.shallow_clone();
        if let Some(gate) = self.gates.get(module) {
            let changed = gate.copy();
            let _ = changed.get(row).get(unit).fill_(value);
            gates.set(module, Some(changed));
        }
        Ok(gates)
    }
}

/// Gates in (0.5, 1) where `hard` has ones.
fn softened(spec: &MaskSpec, hard: &Gates) -> Result<Gates> {
    tch::manual_seed(1);
    let mut gates = Gates::none();
    for module in spec.modules() {
        if let Some(gate) = hard.get(module.module) {
            let drawn =
                Tensor::f_rand(gate.size(), (Kind::Float, Device::Cpu))?.f_mul_scalar(0.5)?.f_add_scalar(0.5)?;
            gates.set(module.module, Some(gate.f_mul(&drawn)?));
        }
    }
    Ok(gates)
}
