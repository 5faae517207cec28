//! The kernels of a GPU where there is none: every source compiles for the architectures that people have, without numbers
//! that do not fit into registers; and a whole step computed by them, launched as on a GPU, is the step of the CPU.

use super::support::{data, write_model, write_tiny_source};
use shearling::config::{Stage, parse};
use shearling::hf::Checkpoint;
use shearling::model::{Decoder, ForwardContext, ModelGates};
use shearling::native::kernels::{Nvrtc, Path, SOURCES, compute_by};
use shearling::native::runtime::operator_count::{count, kept_bytes};
use shearling::train::memory::MemoryEstimate;
use shearling::train::step::StepReport;
use shearling::train::{Error, Setup, Trainer};
use shearling_masks::Gates;
use std::collections::BTreeSet;
use tch::{Device, Kind, Tensor};

/// A100, H100 and H200, and cards of the last two generations, with the bytes that a kernel may spill: for the latter the
/// compiler gives three blocks of 512 threads 40 registers each, and three of the kernels want a few more.
const ARCHITECTURES: [(&str, u32); 4] = [("sm_80", 0), ("sm_89", 64), ("sm_90", 0), ("sm_120", 64)];

#[test]
fn every_kernel_compiles_without_spilling() {
    let compiler = match Nvrtc::open() {
        Ok(compiler) => compiler,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    println!("NVRTC {}", compiler.version());
    for (architecture, spilled) in ARCHITECTURES {
        let mut names = BTreeSet::new();
        for source in &SOURCES {
            let compiled = compiler.compile(source, architecture).unwrap();
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "{} for {architecture}", source.file);
            let resources = compiled.resources();
            assert!(resources.len() >= 4, "{}: {}", source.file, compiled.log);
            for kernel in resources {
                println!("{architecture} {:<34} {:>3} registers", kernel.kernel, kernel.registers);
                assert!(kernel.spilled_bytes <= spilled, "{} for {architecture}", kernel.kernel);
                // 512 threads share 65,536 registers.
                assert!(kernel.registers > 0 && kernel.registers <= 128, "{} for {architecture}", kernel.kernel);
                // The launcher finds a kernel's source by the beginning of its name.
                assert!(kernel.kernel.starts_with(&format!("{}_", source.name)), "{}", kernel.kernel);
                assert!(names.insert(kernel.kernel), "a name occurs twice");
            }
        }
        println!("{architecture}: {} kernels", names.len());
    }
}

#[test]
fn an_unknown_gpu_and_a_wrong_source_are_told() {
    let Ok(compiler) = Nvrtc::open() else {
        eprintln!("skipped: no NVRTC");
        return;
    };
    let unknown = compiler.compile(&SOURCES[0], "sm_999").unwrap_err().to_string();
    assert!(unknown.contains("does not know sm_999") && unknown.contains(compiler.version()), "{unknown}");
    let wrong = shearling::native::kernels::Source { name: "wrong", file: "wrong.h", text: "this is not C++" };
    let problem = compiler.compile(&wrong, "sm_90").unwrap_err().to_string();
    assert!(problem.contains("wrong.h does not compile for sm_90") && problem.contains("error"), "{problem}");
}

/// A run of tiny masks with what is set besides.
fn setup(folder: &std::path::Path, sets: &[&str]) -> Setup {
    if !folder.join("source").exists() {
        write_tiny_source(&folder.join("source"));
    }
    let text = format!(
        "[run]\ndirectory = '{0}/run'\ndevice = 'cpu'\n[model]\nsource = '{0}/source'\n[data]\npath = '{1}'\n\
         max_epochs = 100\n[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\n\
         [prune]\nmethod = 'learned'\n[masks]\nwarmup_steps = 2\n[train]\nsteps = 8\nbatch_rows = 4\n\
         micro_batch_rows = 2\nlearning_rate = 1e-3\n[eval]\nrows_per_domain = 2\nevery_steps = 4\n",
        folder.display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    Setup::new(parse(&text, "test", &sets).unwrap(), Stage::Prune, Device::Cpu).unwrap()
}

fn steps(setup: &Setup, path: Path) -> Vec<StepReport> {
    let _path = compute_by(path);
    let mut trainer = Trainer::new(setup).unwrap();
    (0..3).map(|_| trainer.step().unwrap()).collect()
}

/// Embedding, norms, rope, SwiGLU, folded weights, losses and the optimizer of a GPU, all together: three steps of pruning.
#[test]
fn steps_as_on_a_gpu_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let ways: [(&[&str], f64); 7] = [
        (&[], 1e-4),
        (&["train.activation_checkpointing=1"], 1e-4),
        (&["train.selective_recomputation=true"], 1e-4),
        (&["masks.preset=llm-shearing"], 1e-4),
        (&["distill.weight=0.5", "distill.temperature=2.0"], 1e-4),
        (&["run.dtype=bf16", "train.moments=bf16"], 2e-2),
        (&["run.dtype=bf16", "train.moments=8bit"], 2e-2),
    ];
    for (sets, bound) in ways {
        let setup = setup(folder.path(), sets);
        let own = steps(&setup, Path::Own);
        for path in [Path::DeviceKernels, Path::Composed] {
            for (a, b) in own.iter().zip(steps(&setup, path)) {
                let off = (a.cross_entropy - b.cross_entropy).abs() / a.cross_entropy;
                assert!(off < bound, "{sets:?} {path:?}: loss {} and {}", a.cross_entropy, b.cross_entropy);
                let off = (a.norms.total - b.norms.total).abs() / a.norms.total;
                assert!(off < bound, "{sets:?} {path:?}: norm {} and {}", a.norms.total, b.norms.total);
            }
        }
    }
}

/// What the forward keeps for the backward on a GPU, layer by layer: what `plan` counts with, against the bytes of the
/// tensors that are alive.
#[test]
fn a_gpu_keeps_what_plan_counts() {
    let _path = compute_by(Path::DeviceKernels);
    for (hidden, heads, kv_heads) in [(64, 4, 4), (96, 6, 2)] {
        for masks in [false, true] {
            for recomputed in ["nothing", "selective", "blocks"] {
                for rows in [1, 2] {
                    let sizes = [hidden, heads, kv_heads];
                    let [few, more] = [2, 4].map(|layers| kept(sizes, layers, masks, recomputed, rows));
                    let (counted, planned) = (more.0 - few.0, more.1 - few.1);
                    let ratio = counted / planned;
                    println!(
                        "{sizes:?}, masks {masks}, recomputed {recomputed}, {rows} rows: {counted} bytes for two layers, {planned} planned"
                    );
                    assert!((ratio - 1.0).abs() < 0.05, "{sizes:?} {masks} {recomputed} {rows}: {ratio:.3}");
                }
            }
        }
    }
}

/// Bytes that a forward of `rows` rows keeps, and what the plan has for activations.
fn kept([hidden, heads, kv_heads]: [i64; 3], layers: i64, masks: bool, recomputed: &str, rows: i64) -> (f64, f64) {
    const TOKENS: i64 = 128;
    let (blocks, selective) = (usize::from(recomputed == "blocks"), recomputed == "selective");
    let text = format!(
        "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n{}[data]\npath = 'd'\n[train]\nsteps = 4\n\
         batch_rows = {rows}\nlearning_rate = 0.1\nactivation_checkpointing = {blocks}\nselective_recomputation = {selective}\n",
        if masks { "[target]\n" } else { "" }
    );
    let config = parse(&text, "test", &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let raw = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 64,
        "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
    });
    write_model(folder.path(), &raw, 1);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let model = checkpoint.model();
    let decoder = Decoder::build(model, &mut |name| -> Result<Tensor, shearling::files::Error> {
        Ok(checkpoint.tensor(name, Kind::BFloat16, Device::Cpu)?.set_requires_grad(true))
    })
    .unwrap()
    .with_recomputation(blocks);
    let context = ForwardContext::new(model, TOKENS, Device::Cpu).unwrap().with_selective_recomputation(selective);
    let ones = |shape: &[i64]| Some(Tensor::ones(shape, (Kind::Float, Device::Cpu)));
    let gates = match masks {
        true => Gates {
            layer: ones(&[layers]),
            kv_head: ones(&[layers, kv_heads]),
            intermediate: ones(&[layers, 3 * hidden]),
            hidden: ones(&[hidden]),
            ..Gates::none()
        },
        false => Gates::none(),
    };
    let (gates, _links) = ModelGates::leaves(model, &gates).unwrap();
    let ids = Tensor::arange(rows * TOKENS, (Kind::Int64, Device::Cpu)).remainder(64).view([rows, TOKENS]);
    let (bytes, _stream) = kept_bytes(|| decoder.residual_stream(&ids, &context, &gates).unwrap());
    (bytes as f64, MemoryEstimate::new(model, None, &config, TOKENS, Device::Cpu).activation_bytes)
}

/// Launches of one micro-batch and the optimizer.
fn launches(setup: &Setup, path: Path) -> std::collections::BTreeMap<String, u64> {
    let _path = compute_by(path);
    let mut trainer = Trainer::new(setup).unwrap();
    trainer.step().unwrap();
    count(|| trainer.step().map(|_| ()).map_err(|error: Error| tch::TchError::Torch(error.to_string()))).unwrap().0
}

#[test]
fn a_step_with_kernels_launches_a_fraction_of_a_composed_one() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path(), &["train.micro_batch_rows=4", "run.dtype=bf16"]);
    let (kernels, composed) = (launches(&setup, Path::DeviceKernels), launches(&setup, Path::Composed));
    let total = |launches: &std::collections::BTreeMap<String, u64>| launches.values().sum::<u64>();
    println!("{} launches with kernels, {} composed", total(&kernels), total(&composed));
    assert!(5 * total(&kernels) < 3 * total(&composed), "{kernels:#?}");
}
