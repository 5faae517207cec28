//! Grouped models: they compute what they computed, for every family and with padding; the command and its folder.

use super::support::{apart, data, families, load, logits, shearling, succeed, write_model, write_tiny_source};
use serde_json::Value;
use shearling::files::DType;
use shearling::hf::{Checkpoint, RawConfig};
use shearling::lte::folder::write_grouped;
use shearling::lte::grouping::{GroupingOptions, group};
use shearling::lte::permute::{grouped_config, grouped_model, permuted_weight};
use shearling::lte::{Experts, Grouping, Stage, file};
use shearling::model::parameters::parameters;
use shearling_masks::Gates;
use std::path::Path;
use tch::{Device, Kind, Tensor};

fn grouped(source: &Path, expert_size: i64, method: Grouping) -> (Checkpoint, Experts) {
    let checkpoint = Checkpoint::open(source).unwrap();
    let options = GroupingOptions { expert_size, method, seed: 3 };
    let experts = group(&checkpoint, &options, None, Device::Cpu, &mut |_, _, _| {}).unwrap();
    (checkpoint, experts)
}

/// Units of each layer are 48: 16 divides them, 20 and 32 do not.
#[test]
fn a_grouped_model_computes_what_it_computed() {
    let folder = tempfile::tempdir().unwrap();
    let ids = Tensor::from_slice(&(0..24i64).map(|at| at * 7 % 64).collect::<Vec<_>>()).view([2, 12]);
    for (name, config) in families() {
        let source = folder.path().join(name);
        write_model(&source, &config, 3);
        let before = load(&source);
        let expected = tch::no_grad(|| logits(&before, &ids, Gates::none()));
        for (size, units) in [(16, 48), (20, 60), (32, 64)] {
            let out = folder.path().join(format!("{name} {size}"));
            let method = if size == 20 { Grouping::Random } else { Grouping::KMeans };
            let (checkpoint, experts) = grouped(&source, size, method);
            assert!(experts.layers.iter().all(|layer| layer.permutation.len() as i64 == units));
            let moved = experts.layers.iter().flat_map(|layer| layer.permutation.iter().enumerate());
            assert!(moved.filter(|(place, unit)| *place as u32 != **unit).count() > 0);
            write_grouped(&checkpoint, &experts, &out, 1 << 30, &mut |_, _, _| {}).unwrap();
            let after = load(&out);
            assert_eq!(after.model, grouped_model(&before.model, &experts));
            let found = tch::no_grad(|| logits(&after, &ids, Gates::none()));
            let largest = expected.abs().max().double_value(&[]).max(1.0);
            let difference = apart(&found, &expected);
            assert!(difference <= 1e-5 * largest, "{name} in {size}: {difference} of {largest}");

            let read = file::read(&out, &after.model, Device::Cpu).unwrap().unwrap();
            assert_eq!((read.stage, read.living_units, read.grouping), (Stage::Grouped, 48, method));
            for (read, made) in read.layers.iter().zip(&experts.layers) {
                assert_eq!((&read.permutation, read.inertia), (&made.permutation, made.inertia));
                assert!(read.router.is_none());
            }
        }
    }
}

/// What training asks for, weight by weight, is what lies in the folder.
#[test]
fn weights_and_configuration_can_be_had_without_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    write_model(&source, &families()[1].1, 8);
    let (checkpoint, experts) = grouped(&source, 20, Grouping::KMeans);
    write_grouped(&checkpoint, &experts, &out, 1 << 30, &mut |_, _, _| {}).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    let config = grouped_config(checkpoint.config(), &experts, DType::F32).unwrap();
    assert_eq!(config.raw(), RawConfig::read(&out.join("config.json")).unwrap().raw());
    for parameter in parameters(written.model()) {
        let weight = permuted_weight(&checkpoint, &experts, &parameter, Device::Cpu).unwrap();
        let stored = written.tensor(&parameter.name, Kind::Float, Device::Cpu).unwrap();
        assert!(weight.equal(&stored), "{}", parameter.name);
        assert_eq!(weight.size(), parameter.shape);
        // Experts of this shape do not fit the padded model: a second permutation is refused.
        let units = ["gate_proj", "up_proj", "down_proj.weight"].iter().any(|part| parameter.name.contains(part));
        let again = permuted_weight(&written, &experts, &parameter, Device::Cpu);
        assert_eq!(again.is_err(), units, "{}", parameter.name);
    }
    let error = group(
        &written,
        &GroupingOptions { expert_size: 20, method: Grouping::KMeans, seed: 0 },
        None,
        Device::Cpu,
        &mut |_, _, _| {},
    );
    assert!(error.unwrap_err().to_string().contains("is grouped already"));
}

#[test]
fn the_command_writes_a_folder_with_its_card() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let source = at("source");
    write_tiny_source(Path::new(&source));
    for (name, method, expected) in
        [("k", "k-means", "k-means"), ("c", "co-activation", "co-activation"), ("r", "random", "random")]
    {
        let (out, prepared) = (at(name), data().display().to_string());
        let mut arguments = vec!["lte", "group", &source, "--out", &out, "--method", method, "--expert-size", "20"];
        if method == "co-activation" {
            arguments.extend(["--data", &prepared]);
        }
        let output = shearling(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{out}\n"));
        assert!(
            stderr.contains("of random") && stderr.contains("3 layers of 3 experts of 20 units; 12 units of zeros")
        );
        let card = std::fs::read_to_string(folder.path().join(name).join("README.md")).unwrap();
        assert!(card.contains(&format!("grouping ({expected}, experts of 20)")), "{card}");
        assert!(card.contains("intermediate units grouped into experts"), "{card}");
        assert!(folder.path().join(name).join("tokenizer.json").is_file());
        let model = Checkpoint::open(&folder.path().join(name)).unwrap().model().clone();
        let experts = file::read(&folder.path().join(name), &model, Device::Cpu).unwrap().unwrap();
        assert_eq!((experts.experts(), experts.seed), (3, 0));
    }
    let bytes = |name: &str| std::fs::read(folder.path().join(name).join(file::FILE_NAME)).unwrap();
    succeed(&["lte", "group", &source, "--out", &at("again"), "--expert-size", "20"]);
    assert_eq!(bytes("k"), bytes("again"));
    let inertia = |name: &str| {
        let file = shearling::files::TensorFile::read(&folder.path().join(name).join(file::FILE_NAME), Device::Cpu);
        let description: Value = serde_json::from_str(&file.unwrap().metadata["shearling_lte"]).unwrap();
        description["layers"].as_array().unwrap().iter().map(|layer| layer["inertia"].as_f64().unwrap()).sum::<f64>()
    };
    assert!(inertia("k") < inertia("r") && inertia("k") < inertia("c"));
}

#[test]
fn what_cannot_be_grouped_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let source = at("source");
    write_tiny_source(Path::new(&source));
    succeed(&["lte", "group", &source, "--out", &at("grouped"), "--expert-size", "16"]);
    let refused = [
        (
            vec![source.clone(), "--out".into(), at("x"), "--expert-size".into(), "49".into()],
            "take a size from 1 to 48",
        ),
        (vec![at("grouped"), "--out".into(), at("x")], "is grouped already"),
        (vec![source.clone(), "--out".into(), at("grouped")], "already exists"),
        (vec![source.clone(), "--out".into(), at("x"), "--method".into(), "co-activation".into()], "--data"),
        (vec![at("none"), "--out".into(), at("x")], "does not exist"),
    ];
    for (arguments, said) in refused {
        let all: Vec<&str> = ["lte", "group"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let output = shearling(&all);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{all:?}\n{stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
        assert!(!Path::new(&at("x")).exists());
    }
}
