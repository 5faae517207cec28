//! Learning from a teacher: the step minimises what plain logits of both models say, recomputed blocks and micro-batches
//! change nothing, a run ends the same wherever it is stopped, and what a teacher must be is said before anything is written.

use super::support::{apart, data, data_path, edit_json, families, load, sets, shearling, succeed, write_model};
use serde_json::{Value, json};
use shearling::config::{RunConfig, Stage, parse};
use shearling::model::loss::Blend;
use shearling::model::{Decoder, ForwardContext, ModelConfig, ModelGates};
use shearling::run_dir::layout::METRICS;
use shearling::train::step::StepReport;
use shearling::train::{Observer, Setup, Trainer, metrics, run};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

struct Quiet;
impl Observer for Quiet {}

/// A folder with a model to train, and a sharper one of other weights and another width to learn from.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        let mut config = families().remove(0).1;
        config.as_object_mut().unwrap().extend(json!({ "vocab_size": 300 }).as_object().unwrap().clone());
        for (name, width, spread, seed) in [("source", 32, 0.05, 5), ("teacher", 40, 0.4, 9)] {
            config["hidden_size"] = json!(width);
            config["initializer_range"] = json!(spread);
            write_model(&desk.at(name), &config, seed);
            std::fs::copy(data().join("tokenizer.json"), desk.at(name).join("tokenizer.json")).unwrap();
        }
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self) -> String {
        let [run, source, teacher] = ["run", "source", "teacher"].map(|name| self.at(name).display().to_string());
        format!(
            "[run]\ndirectory = '{run}'\ndevice = 'cpu'\n[model]\nsource = '{source}'\n[data]\npath = '{}'\n\
             max_epochs = 1000\n[train]\nsteps = 40\nbatch_rows = 4\nlearning_rate = 4e-3\n[eval]\nrows_per_domain = 2\n\
             every_steps = 20\n[distill]\nteacher = '{teacher}'\nweight = 0.7\ntemperature = 1.5\ndtype = 'fp32'\n",
            data_path()
        )
    }

    fn config(&self, sets: &[&str]) -> RunConfig {
        parse(&self.text(), "test", &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>()).unwrap()
    }

    fn setup(&self, sets: &[&str]) -> Setup {
        Setup::new(self.config(sets), Stage::Pretrain, Device::Cpu).unwrap()
    }

    /// Why a run is refused; nothing is written for it.
    fn refused(&self, sets: &[&str], stage: Stage) -> String {
        let error = Setup::new(self.config(sets), stage, Device::Cpu).unwrap_err();
        assert!(!self.at("run").exists());
        error.to_string()
    }

    fn reports(&self, sets: &[&str], steps: usize) -> Vec<StepReport> {
        let mut trainer = Trainer::new(&self.setup(sets)).unwrap();
        (0..steps).map(|_| trainer.step().unwrap()).collect()
    }

    /// A configuration file for the binary.
    fn file(&self) -> String {
        let path = self.at("config.toml");
        std::fs::write(&path, self.text()).unwrap();
        path.display().to_string()
    }
}

fn ids() -> Tensor {
    let numbers: Vec<i64> = (0..2 * 24).map(|n| (n * n * 7 + 3 * n) % 300).collect();
    Tensor::from_slice(&numbers).view([2, 24])
}

/// The objective per target token from all logits of both models, by plain operators.
fn plain_objective(student: &Tensor, teacher: &Tensor, ids: &Tensor, blend: Blend) -> Tensor {
    let flat = |logits: &Tensor| logits.narrow(1, 0, 23).reshape([-1, 300]).to_kind(Kind::Double);
    let (student, teacher) = (flat(student), flat(&teacher.detach()));
    let cross_entropy = student.cross_entropy_for_logits(&ids.narrow(1, 1, 23).reshape([-1]));
    let [own, its] = [student, teacher].map(|logits| (logits / blend.temperature).log_softmax(-1, Kind::Double));
    let divergence = (its.exp() * (its - own)).sum(Kind::Double) / 46.0;
    cross_entropy * (1.0 - blend.share) + divergence * (blend.share * blend.temperature.powi(2))
}

#[test]
fn a_whole_model_gets_the_gradients_of_plain_logits_with_blocks_kept_or_computed_again() {
    let desk = Desk::new();
    let teacher = load(&desk.at("teacher"));
    let (ids, gates) = (ids(), ModelGates::none());
    let context = |model: &ModelConfig| ForwardContext::new(model, 24, Device::Cpu).unwrap();
    let its_context = context(&teacher.model);
    let its_logits = tch::no_grad(|| teacher.decoder.forward(&ids, &its_context, &gates).unwrap());
    let stream = tch::no_grad(|| teacher.decoder.normed_stream(&ids, &its_context, &gates).unwrap());
    for blend in [Blend { share: 0.3, temperature: 1.0 }, Blend { share: 1.0, temperature: 2.0 }] {
        let plain = load(&desk.at("source"));
        let logits = plain.decoder.forward(&ids, &context(&plain.model), &gates).unwrap();
        let expected = plain_objective(&logits, &its_logits, &ids, blend);
        expected.backward();
        for recomputed in [0, 1, 2] {
            let student = load(&desk.at("source"));
            let decoder: Decoder = student.decoder.with_recomputation(recomputed);
            let x = decoder.residual_stream(&ids, &context(&student.model), &gates).unwrap();
            let taught = teacher.decoder.as_teacher(&stream);
            let found = decoder.distilled_losses(&x, &ids, 1.0 / 46.0, &gates, taught, blend).unwrap();
            assert!((found.objective.double_value(&[]) - expected.double_value(&[])).abs() < 1e-5);
            found.objective.backward();
            for (name, leaf) in &student.leaves {
                let by_plain = plain.leaves[name].grad();
                let off = apart(&leaf.grad(), &by_plain);
                assert!(off < 1e-5 * by_plain.abs().max().double_value(&[]).max(1e-3), "{name}: {off}, {recomputed}");
            }
        }
    }
    assert!(teacher.leaves.values().all(|leaf| !leaf.grad().defined()), "it is frozen");
}

#[test]
fn micro_batches_and_recomputed_blocks_do_not_change_a_step() {
    let desk = Desk::new();
    let whole = desk.reports(&[], 4);
    for sets in [["train.micro_batch_rows=1"], ["train.activation_checkpointing=1"]] {
        for (a, b) in whole.iter().zip(&desk.reports(&sets, 4)) {
            let (before, after) = (a.distillation.unwrap(), b.distillation.unwrap());
            assert!((before - after).abs() < 1e-5 && (a.token_loss - b.token_loss).abs() < 1e-5, "{before} {after}");
            assert!((a.norms.total - b.norms.total).abs() < 1e-4 * a.norms.total);
        }
    }
}

#[test]
fn a_step_tells_what_it_minimised_and_a_bf16_teacher_and_run_follow_fp32() {
    let desk = Desk::new();
    let exact = desk.reports(&[], 40);
    for report in &exact {
        let blend = 0.3 * report.cross_entropy + 0.7 * 1.5 * 1.5 * report.distillation.unwrap();
        assert!((report.token_loss - blend).abs() < 1e-12);
    }
    let mean = |reports: &[StepReport]| reports.iter().filter_map(|r| r.distillation).sum::<f64>() / 5.0;
    let (first, last) = (mean(&exact[..5]), mean(&exact[35..]));
    assert!(last < 0.97 * first, "the model comes nearer to its teacher: {first} → {last}");
    for set in ["distill.dtype=bf16", "run.dtype=bf16"] {
        let rounded = mean(&desk.reports(&[set], 40)[35..]);
        assert!((rounded - last).abs() < 0.03 * last, "{set}: {rounded}, {last}");
    }
    // Learning from the text alone does not bring it there.
    let text_alone = desk.reports(&["distill.weight=1e-9"], 40);
    assert!(mean(&text_alone[35..]) > 1.3 * last, "{} {last}", mean(&text_alone[35..]));
}

#[test]
fn the_model_itself_as_teacher_has_nothing_to_say_at_first() {
    let desk = Desk::new();
    let source = format!("distill.teacher={}", desk.at("source").display());
    let report = desk.reports(&[&source, "distill.weight=1"], 1).remove(0);
    assert!(report.distillation.unwrap().abs() < 1e-6, "{:?}", report.distillation);
    assert!(report.norms.total < 1e-4 && report.cross_entropy > 1.0, "{}", report.norms.total);
}

#[test]
fn the_source_is_the_teacher_of_a_pruning_run_unless_another_is_named() {
    let desk = Desk::new();
    let target = "target.num_hidden_layers=2";
    let text = desk.text().replace(&format!("teacher = '{}'\n", desk.at("teacher").display()), "");
    assert!(!text.contains("teacher ="));
    let config = |stage, set: &[&str]| {
        let set: Vec<String> = set.iter().map(|set| set.to_string()).collect();
        Setup::new(parse(&text, "test", &set).unwrap(), stage, Device::Cpu)
    };
    let setup = config(Stage::Prune, &[target, "prune.method=learned"]).unwrap();
    assert_eq!(setup.teacher.as_ref().unwrap().dir(), desk.at("source"));
    // Masks are in the way of the model, not of its teacher.
    let mut trainer = Trainer::new(&setup).unwrap();
    let reports: Vec<StepReport> = (0..20).map(|_| trainer.step().unwrap()).collect();
    let losses: Vec<f64> = reports.iter().filter_map(|report| report.distillation).collect();
    assert!(losses[0].abs() < 1e-3 && losses[19] > 10.0 * losses[0].abs(), "{losses:?}");
    assert!(reports.iter().all(|report| report.lagrangian.is_some()));
    let message = config(Stage::Pretrain, &[]).unwrap_err().to_string();
    assert!(message.contains("needs distill.teacher"), "{message}");
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_before_anything_is_written() {
    let desk = Desk::new();
    let config = desk.at("teacher/config.json");
    let missing = desk.refused(&["distill.teacher=/nowhere"], Stage::Pretrain);
    assert!(missing.contains("/nowhere"), "{missing}");
    edit_json(&config, json!({ "max_position_embeddings": 16 }));
    let short = desk.refused(&[], Stage::Pretrain);
    assert!(short.contains("rows of 32 tokens, the teacher takes at most 16"), "{short}");
    edit_json(&config, json!({ "max_position_embeddings": 64, "num_hidden_layers": 4 }));
    let incomplete = desk.refused(&[], Stage::Pretrain);
    assert!(incomplete.contains("model.layers.3"), "{incomplete}");
    let mut other: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    other
        .as_object_mut()
        .unwrap()
        .extend(json!({ "vocab_size": 301, "num_hidden_layers": 3 }).as_object().unwrap().clone());
    write_model(&desk.at("other"), &other, 1);
    let set = format!("distill.teacher={}", desk.at("other").display());
    let vocabulary = desk.refused(&[&set], Stage::Pretrain);
    assert!(vocabulary.contains("vocabulary of 301, the model one of 300"), "{vocabulary}");
}

#[test]
fn a_resumed_run_needs_the_teacher_and_the_share_that_it_began_with() {
    let desk = Desk::new();
    run(&desk.setup(&[]), false, Some(2), &mut Quiet).unwrap();
    let resume = |sets: &[&str]| run(&desk.setup(sets), true, Some(3), &mut Quiet).map_err(|error| error.to_string());
    let message = resume(&["distill.weight=0.5"]).unwrap_err();
    assert!(message.contains("distill.weight: was 0.7, now 0.5"), "{message}");
    let other = format!("distill.teacher={}", desk.at("source").display());
    let message = resume(&[&other]).unwrap_err();
    assert!(message.contains("distill.teacher holds another configuration or other weights"), "{message}");
    std::fs::rename(desk.at("teacher"), desk.at("moved")).unwrap();
    let moved = format!("distill.teacher={}", desk.at("moved").display());
    assert_eq!(resume(&[&moved]).unwrap().step, 3, "the same files elsewhere are the same teacher");
}

#[test]
fn records_tables_and_the_report_show_the_distillation_loss() {
    let desk = Desk::new();
    let file = desk.file();
    let common = sets([("train.steps", "4"), ("eval.every_steps", "4")]);
    let mut arguments = vec!["pretrain", "--config", &file, "--tensorboard"];
    arguments.extend(common.iter().map(String::as_str));
    succeed(&arguments);
    let folder = desk.at("run").display().to_string();
    let records: Vec<Value> = metrics::read(&desk.at("run").join(METRICS)).unwrap();
    let evals = records.iter().filter(|record| record["type"] == "eval");
    let told: Vec<Option<f64>> = evals.map(|eval| eval["teacher_loss"].as_f64()).collect();
    let teacher = desk.at("teacher").display().to_string();
    let data = data_path();
    let alone = ["eval", &teacher, "--data", &data, "--rows", "2", "--device", "cpu", "--dtype", "fp32", "--json"];
    let alone: Value = serde_json::from_str(&succeed(&alone)).unwrap();
    let alone = alone["models"][0]["mean_loss"].as_f64().unwrap();
    assert!((told[0].unwrap() - alone).abs() < 1e-4 && told[1..] == [None], "{told:?} {alone}");
    let steps: Vec<&Value> = records.iter().filter(|record| record["type"] == "step").collect();
    assert_eq!(steps.len(), 4);
    for step in &steps {
        let of = |key: &str| step["loss"][key].as_f64().unwrap();
        assert!((of("total") - 0.3 * of("cross_entropy") - 0.7 * 2.25 * of("distillation")).abs() < 1e-12);
        // 6 FLOPs per parameter of the model and 2 per parameter of the teacher: more than the model's alone.
        let per_token = step["model_flops_per_second"].as_f64().unwrap() / step["tokens_per_second"].as_f64().unwrap();
        let setup = desk.setup(&[]);
        let own = shearling::model::count::training_flops_per_token(&setup.model, 32);
        let its = shearling::model::count::forward_flops_per_token(setup.teacher.as_ref().unwrap().model(), 32);
        assert!((per_token / (own + its) - 1.0).abs() < 1e-9 && its > own / 3.0);
    }
    // The end of the run has a file of its own, and a folder no order.
    let files = std::fs::read_dir(Path::new(&folder).join("tensorboard")).unwrap();
    let events: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(events.windows(17).any(|window| window == b"loss/distillation"));
    assert!(succeed(&["inspect", "run", &folder]).contains("loss, distillation"));
    assert!(succeed(&["watch", &folder, "--once"]).contains("  distillation "));
    let page = desk.at("report.html").display().to_string();
    succeed(&["report", &folder, "--out", &page]);
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("Distillation loss") && page.contains(", its teacher"));
}

#[test]
fn without_a_teacher_nothing_is_said_of_one() {
    let desk = Desk::new();
    let mut config = desk.config(&["train.steps=2"]);
    config.distill = None;
    let setup = Setup::new(config, Stage::Pretrain, Device::Cpu).unwrap();
    let outcome = run(&setup, false, None, &mut Quiet).unwrap();
    let records = std::fs::read_to_string(outcome.run.join(METRICS)).unwrap();
    assert!(!records.contains("distillation"));
    let state = std::fs::read_to_string(outcome.checkpoint.unwrap().join("state.json")).unwrap();
    let resolved = std::fs::read_to_string(outcome.run.join("resolved.toml")).unwrap();
    assert!(!state.contains("teacher") && !resolved.contains("distill"));
}

#[test]
fn a_plan_counts_the_teacher() {
    let desk = Desk::new();
    let file = desk.file();
    let plan = |more: &[(&str, &str)]| -> Value {
        let more = sets(more.iter().copied());
        let mut arguments = vec!["plan", "--json", "--config", &file, "--tokens-per-second", "1000"];
        arguments.extend(more.iter().map(String::as_str));
        serde_json::from_str(&succeed(&arguments)).unwrap()
    };
    let with = plan(&[]);
    let number = |key: &str| with[key].as_f64().unwrap();
    let parameters = with["teacher"]["total_parameters"].as_f64().unwrap();
    assert!(parameters > with["now"]["total_parameters"].as_f64().unwrap());
    // fp32 weights, and the stream of 4 rows of 32 tokens, 40 wide.
    assert_eq!(with["memory"]["teacher_bytes"].as_f64().unwrap(), 4.0 * (parameters + 4.0 * 32.0 * 40.0));
    let setup = desk.setup(&[]);
    let own = shearling::model::count::training_flops_per_token(&setup.model, 32);
    let its = shearling::model::count::forward_flops_per_token(setup.teacher.as_ref().unwrap().model(), 32);
    assert_eq!(number("teacher_flops"), its * number("tokens"));
    assert!((number("training_flops") / number("tokens") - own - its).abs() < 1.0);
    let text = succeed(&["plan", "--config", &file]);
    assert!(text.contains("the teacher's forward takes") && text.contains(" + teacher "), "{text}");

    // A pruning run's teacher is the model itself: a third of its own step.
    let pruned = plan(&[
        ("target.num_hidden_layers", "2"),
        ("prune.method", "learned"),
        ("distill.teacher", &desk.at("source").display().to_string()),
    ]);
    let share = pruned["teacher_flops"].as_f64().unwrap() / pruned["training_flops"].as_f64().unwrap();
    assert!((share - 0.25).abs() < 1e-9, "{share}");

    let gone = sets([("distill.teacher", "/nowhere")]);
    let mut arguments = vec!["plan", "--json", "--config", &file];
    arguments.extend(gone.iter().map(String::as_str));
    let refused: Value = serde_json::from_slice(&shearling(&arguments).stdout).unwrap();
    assert!(refused["problems"].to_string().contains("distill.teacher: there is no /nowhere/config.json"), "{refused}");
    arguments.extend(["--card", "h200"]);
    let elsewhere: Value = serde_json::from_slice(&shearling(&arguments).stdout).unwrap();
    assert!(elsewhere["not_checked"].to_string().contains("/nowhere/config.json"), "{elsewhere}");
}
