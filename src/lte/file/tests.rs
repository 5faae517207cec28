//! What is written reads back, and what is wrong is refused by name.

use super::super::experts::{Grouping, Stage};
use super::*;
use crate::files::test_support::{bytes, copy_of, fixture};
use crate::hf::{Checkpoint, carry_companions};
use serde_json::{Value, json};
use std::fs;

/// Units, experts of 5 of them (one padded), hidden size and layers of a model.
const UNITS: i64 = 9;
const WIDTH: i64 = 4;

fn model() -> ModelConfig {
    let mut model = Checkpoint::open(&fixture("llama2-mha")).unwrap().model().clone();
    (model.hidden_size, model.intermediate_size, model.num_hidden_layers) = (WIDTH, 10, 2);
    model
}

fn router(bias: bool) -> Router {
    let normals = |name: &str, count| Tensor::from_slice(&shearling_noise::weight_normals(1, name, count));
    Router { weight: normals("w", 8).view([2, WIDTH]), bias: bias.then(|| normals("b", 2)) }
}

fn experts() -> Experts {
    let layer = |permutation: [u32; 10], router, density| LayerExperts {
        permutation: permutation.to_vec(),
        inertia: Some(3.25),
        router,
        density,
    };
    Experts {
        expert_size: 5,
        living_units: UNITS,
        grouping: Grouping::KMeans,
        seed: u64::MAX,
        stage: Stage::Adapted,
        density: Some(0.3),
        layers: vec![
            layer([0, 3, 5, 7, 8, 1, 2, 4, 6, 9], Some(router(true)), Some(0.1)),
            LayerExperts { inertia: None, ..layer([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], None, None) },
        ],
    }
}

#[test]
fn what_is_written_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(dir.path(), &model(), Device::Cpu).unwrap().is_none() && !is_lte(dir.path()));
    for (dtype, exact) in [(DType::F32, true), (DType::BF16, false)] {
        let written = experts();
        write(dir.path(), &written, dtype).unwrap();
        assert!(is_lte(dir.path()));
        let found = read(dir.path(), &model(), Device::Cpu).unwrap().unwrap();
        assert_eq!((found.expert_size, found.living_units, found.experts()), (5, UNITS, 2));
        assert_eq!((found.grouping, found.stage), (Grouping::KMeans, Stage::Adapted));
        assert_eq!((found.seed, found.density), (u64::MAX, Some(0.3)));
        for (found, written) in found.layers.iter().zip(&written.layers) {
            assert_eq!(found.permutation, written.permutation);
            assert_eq!((found.inertia, found.density), (written.inertia, written.density));
            let pair = (&found.router, &written.router);
            let (Some(found), Some(written)) = pair else {
                assert!(found.router.is_none() && written.router.is_none());
                continue;
            };
            assert_eq!(found.weight.kind(), Kind::Float);
            let rounded = written.weight.to_kind(dtype.kind()).to_kind(Kind::Float);
            assert_eq!(bytes(&found.weight), bytes(if exact { &written.weight } else { &rounded }));
            assert_eq!(bytes(found.bias.as_ref().unwrap()), bytes(written.bias.as_ref().unwrap()), "never rounded");
        }
    }
}

/// The tensors and the metadata of a good file.
fn good() -> (BTreeMap<String, Tensor>, Value) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &experts(), DType::F32).unwrap();
    let file = TensorFile::read(&dir.path().join(FILE_NAME), Device::Cpu).unwrap();
    let description = serde_json::from_str(&file.metadata[METADATA_KEY]).unwrap();
    (file.tensors, description)
}

/// What is said of a file with this content.
fn refusal(tensors: BTreeMap<String, Tensor>, description: &Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let metadata = BTreeMap::from([(METADATA_KEY.to_string(), description.to_string())]);
    TensorFile::write(&path, &tensors.into_iter().collect::<Vec<_>>(), &metadata).unwrap();
    let error = read(dir.path(), &model(), Device::Cpu).expect_err("a wrong file was read").to_string();
    assert!(error.contains(FILE_NAME), "{error}");
    error
}

#[test]
fn metadata_that_cannot_be_is_refused_by_its_key() {
    let cases: [(&str, Value, &str); 16] = [
        ("/version", json!(2), "shearling_lte.version"),
        ("/version", json!("1"), "shearling_lte"),
        ("/expert_size", json!(0), "shearling_lte.expert_size"),
        ("/expert_size", json!(4), "make 12 units, config.json has 10"),
        ("/expert_size", json!(i64::MAX), "shearling_lte.expert_size"),
        ("/living_units", json!(-1), "shearling_lte.living_units"),
        ("/living_units", json!(i64::MAX), "shearling_lte.living_units"),
        ("/living_units", json!(11), "shearling_lte.living_units"),
        ("/stage", json!("grouped"), "shearling_lte.layers.0.router"),
        ("/stage", json!("later"), "unknown variant"),
        ("/grouping", json!("by-name"), "unknown variant"),
        ("/density", json!(1.5), "shearling_lte.density"),
        ("/layers/1/density", json!(-0.1), "shearling_lte.layers.1.density"),
        ("/layers/0/inertia", json!(-1.0), "shearling_lte.layers.0.inertia"),
        ("/layers", json!([]), "shearling_lte.layers"),
        ("/layers/0/router", json!({"bias": true, "other": 1}), "unknown field"),
    ];
    for (key, value, said) in cases {
        let (tensors, mut description) = good();
        *description.pointer_mut(key).unwrap() = value;
        let error = refusal(tensors, &description);
        assert!(error.contains(said), "{key}: {error}");
    }
    let (tensors, mut description) = good();
    description["more"] = json!(1);
    assert!(refusal(tensors, &description).contains("unknown field `more`"));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let long = |values: &[i64]| Tensor::from_slice(values);
    let permutation = "layers.0.permutation";
    let weight = "layers.0.router.weight";
    let cases: [(&str, Tensor, &str); 10] = [
        (permutation, long(&[0, 3, 5, 7, 8, 1, 2, 4, 4, 9]), "unit 4 is in it twice"),
        (permutation, long(&[0, 3, 5, 7, 8, 1, 2, 4, 9, 6]), "expected a unit from 0 to 8"),
        (permutation, long(&[-1, 3, 5, 7, 8, 1, 2, 4, 6, 9]), "holds -1 at 0"),
        (permutation, long(&[0, 3, 5, 7, 8, 1, 2, 4, 6, 1 << 40]), "expected 9 (a padded unit)"),
        (permutation, long(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), "expected [10]"),
        (permutation, Tensor::arange(10, (Kind::Float, Device::Cpu)), "has dtype F32; supported: I64"),
        (weight, Tensor::zeros([3, WIDTH], (Kind::Float, Device::Cpu)), "expected [2, 4]"),
        (weight, Tensor::zeros([2, WIDTH], (Kind::Half, Device::Cpu)), "has dtype F16; supported: F32, BF16"),
        (weight, Tensor::full([2, WIDTH], f64::NAN, (Kind::Float, Device::Cpu)), "not finite"),
        ("layers.1.router.weight", Tensor::zeros([2, WIDTH], (Kind::Float, Device::Cpu)), "is nothing that"),
    ];
    for (name, tensor, said) in cases {
        let (mut tensors, description) = good();
        tensors.insert(name.to_string(), tensor);
        let error = refusal(tensors, &description);
        assert!(error.contains(said) && error.contains(name), "{name}: {error}");
    }
    for name in [permutation, weight, "layers.0.router.bias", "layers.1.permutation"] {
        let (mut tensors, description) = good();
        tensors.remove(name);
        assert!(refusal(tensors, &description).contains(name));
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &experts(), DType::F32).unwrap();
    let path = dir.path().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = read(dir.path(), &model(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME), "{length}: {error}");
    }
    TensorFile::write(&path, &[], &BTreeMap::new()).unwrap();
    assert!(read(dir.path(), &model(), Device::Cpu).unwrap_err().to_string().contains("holds no experts"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(read(dir.path(), &model(), Device::Cpu).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    type Change = fn(&mut Experts);
    let wrong: [(&str, Change); 6] = [
        ("twice", |experts| experts.layers[1].permutation[3] = 2),
        ("has 9 units", |experts| experts.layers[1].permutation.truncate(9)),
        ("expected 2 experts", |experts| {
            experts.layers[0].router = Some(Router { weight: router(false).weight.narrow(0, 0, 1), bias: None });
        }),
        ("not finite", |experts| {
            let weight = Tensor::full([2, WIDTH], f64::INFINITY, (Kind::Float, Device::Cpu));
            experts.layers[0].router = Some(Router { weight, bias: None });
        }),
        ("density", |experts| experts.density = Some(f64::NAN)),
        ("routers", |experts| experts.stage = Stage::Grouped),
    ];
    for (said, change) in wrong {
        let mut experts = experts();
        change(&mut experts);
        let error = write(dir.path(), &experts, DType::F32).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(write(dir.path(), &experts(), DType::F16).unwrap_err().to_string().contains("fp32, bf16"));
    assert!(!is_lte(dir.path()));
}

/// The folder stays one that others load as the dense model it is, and what is made of it does not inherit experts.
#[test]
fn a_checkpoint_and_its_companions_leave_it_alone() {
    for name in ["llama2-mha", "llama2-mha-sharded"] {
        let dir = copy_of(name);
        let names = |dir: &Path| Checkpoint::open(dir).unwrap().names().map(String::from).collect::<Vec<_>>();
        let before = names(dir.path());
        write(dir.path(), &experts(), DType::F32).unwrap();
        assert_eq!(names(dir.path()), before);
        let to = tempfile::tempdir().unwrap();
        carry_companions(dir.path(), to.path()).unwrap();
        assert!(!is_lte(to.path()));
    }
}
