//! The inference layout: what is packed is what was there, decoding with it is the masked dense model token by token, and a
//! folder that is broken or of another model says so.

use super::support::{apart, data, edit_json, families, shearling, succeed, tensors, write_model, write_tiny_source};
use serde_json::{Value, json};
use shearling::files::{DType, TensorFile};
use shearling::hf::{Checkpoint, Tokenizer};
use shearling::lte::file;
use shearling::lte::install::install;
use shearling::lte::pack::{EXPERTS_FILE, Pack, is_packed, write};
use shearling::lte::{Experts, Grouping, LayerExperts, Stage};
use shearling::model::router::Router;
use shearling::model::{Decoder, ForwardContext, KvCache, ModelGates};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Units of an expert; the models have 48 units.
const SIZE: i64 = 8;

/// Which experts a layer's router lets run.
#[derive(Clone, Copy)]
enum Choice {
    /// About half, by token.
    ByToken,
    All,
    None,
    /// The layer has no router.
    Dense,
}

fn normals(name: &str, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&shearling_noise::weight_normals(11, name, count)).view(shape)
}

fn experts(checkpoint: &Checkpoint, choices: &[Choice]) -> Experts {
    let model = checkpoint.model();
    let count = model.intermediate_size / SIZE;
    let layers = choices.iter().enumerate().map(|(layer, choice)| {
        let constant = |value: f64| Some(Tensor::full([count], value, (Kind::Float, Device::Cpu)));
        let bias = match choice {
            Choice::Dense => None,
            // A router without a bias as well.
            Choice::ByToken if layer == 1 => None,
            Choice::ByToken => Some(normals(&format!("bias {layer}"), &[count]) * 0.1),
            Choice::All => constant(1e4),
            Choice::None => constant(-1e4),
        };
        let weight = || normals(&format!("router {layer}"), &[count, model.hidden_size]);
        let router = (!matches!(choice, Choice::Dense)).then(|| Router { weight: weight(), bias });
        LayerExperts {
            permutation: (0..model.intermediate_size as u32).collect(),
            inertia: None,
            router,
            density: Some(0.5),
        }
    });
    Experts {
        expert_size: SIZE,
        living_units: model.intermediate_size,
        grouping: Grouping::KMeans,
        seed: 0,
        stage: Stage::Adapted,
        density: Some(0.5),
        layers: layers.collect(),
    }
}

/// Packs a folder beside it.
fn packed(folder: &Path, choices: &[Choice]) -> PathBuf {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let out = folder.with_extension("packed");
    write(&checkpoint, &experts(&checkpoint, choices), &out, &mut |_, _| ()).unwrap();
    out
}

fn ids(rows: i64, count: i64) -> Tensor {
    let ids = Tensor::arange(rows * count, (Kind::Int64, Device::Cpu));
    (&ids * &ids * 7 + ids * 3).remainder(61).view([rows, count])
}

/// Logits of the full forward.
fn whole(decoder: &Decoder, input_ids: &Tensor) -> Tensor {
    let context = ForwardContext::new(decoder.model(), input_ids.size()[1], Device::Cpu).unwrap();
    tch::no_grad(|| decoder.forward(input_ids, &context, &ModelGates::none()).unwrap())
}

fn plain(folder: &Path, kind: Kind) -> Decoder {
    let checkpoint = Checkpoint::open(folder).unwrap();
    Decoder::build(checkpoint.model(), &mut |name| checkpoint.tensor(name, kind, Device::Cpu)).unwrap()
}

fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    apart(found, expected) / expected.abs().max().double_value(&[])
}

/// fp64 goes through plain operators, which compute every expert and multiply by the mask: the masked dense model.
#[test]
fn decoding_is_the_masked_dense_model_token_by_token() {
    let root = tempfile::tempdir().unwrap();
    for (name, config) in families() {
        let folder = root.path().join(name);
        write_model(&folder, &config, 3);
        let packed = packed(&folder, &[Choice::ByToken, Choice::ByToken, Choice::Dense]);
        let pack = Pack::open(&packed).unwrap();
        let input_ids = ids(2, 40);
        let expected = whole(&pack.decoder(Kind::Double, Device::Cpu).unwrap(), &input_ids);
        let dense = whole(&plain(&folder, Kind::Double), &input_ids);
        assert!(relative(&expected, &dense) > 1e-2, "{name}: the routers skip nothing");
        // And as training and evaluation see it: the routers put into the model that was packed.
        let mut masked = plain(&folder, Kind::Double);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        install(&experts(&checkpoint, &[Choice::ByToken, Choice::ByToken, Choice::Dense]), &mut masked, &[]);
        assert!(relative(&whole(&masked, &input_ids), &expected) < 1e-6, "{name}: another mask than in training");
        let decoder = pack.decoder(Kind::Float, Device::Cpu).unwrap();
        let found = whole(&decoder, &input_ids);
        assert!(relative(&found, &expected) < 1e-5, "{name}: {:e}", relative(&found, &expected));
        for sizes in [&[1][..], &[40], &[30, 1], &[1, 5, 2]] {
            let mut cache = KvCache::new(decoder.model(), 2, 40, Kind::Float, Device::Cpu).unwrap();
            let mut chunks = Vec::new();
            for size in sizes.iter().cycle() {
                let start = cache.length();
                let chunk = input_ids.narrow(1, start, *size.min(&(40 - start)));
                chunks.push(decoder.forward_cached(&chunk, &mut cache).unwrap());
                if cache.length() == 40 {
                    break;
                }
            }
            let difference = relative(&Tensor::cat(&chunks, 1), &expected);
            assert!(difference < 1e-5, "{name} in {sizes:?}: {difference:e}");
        }
    }
}

#[test]
fn all_experts_are_the_dense_model_and_none_leave_the_attention_alone() {
    let root = tempfile::tempdir().unwrap();
    for (name, config) in families() {
        let folder = root.path().join(name);
        write_model(&folder, &config, 3);
        let input_ids = ids(1, 20);
        let all = Pack::open(&packed(&folder, &[Choice::All; 3])).unwrap();
        let found = whole(&all.decoder(Kind::Float, Device::Cpu).unwrap(), &input_ids);
        let expected = whole(&plain(&folder, Kind::Float), &input_ids);
        assert!(relative(&found, &expected) < 1e-5, "{name}");
        std::fs::remove_dir_all(folder.with_extension("packed")).unwrap();

        let none = Pack::open(&packed(&folder, &[Choice::None; 3])).unwrap();
        let found = whole(&none.decoder(Kind::Float, Device::Cpu).unwrap(), &input_ids);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let without = Decoder::build(checkpoint.model(), &mut |name| {
            let weight = checkpoint.tensor(name, Kind::Float, Device::Cpu)?;
            Ok::<_, shearling::files::Error>(if name.contains("down_proj.weight") {
                weight.zeros_like()
            } else {
                weight
            })
        });
        assert!(relative(&found, &whole(&without.unwrap(), &input_ids)) < 1e-6, "{name}");
    }
}

#[test]
fn experts_lie_together_and_the_rest_is_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    write_model(&folder, &families()[0].1, 3);
    let out = packed(&folder, &[Choice::ByToken, Choice::Dense, Choice::All]);
    assert!(is_packed(&out) && !is_packed(&folder));
    let (source, rest) = (tensors(&folder.join("model.safetensors")), tensors(&out.join("model.safetensors")));
    let experts = tensors(&out.join(EXPERTS_FILE));
    for (name, tensor) in &source {
        let matrix = ["gate_proj", "up_proj", "down_proj"].iter().any(|part| name.contains(part));
        match matrix && !name.contains("layers.1.") {
            true => assert!(!rest.contains_key(name), "{name} is there twice"),
            false => assert_eq!(&rest[name], tensor, "{name}"),
        }
    }
    for layer in [0, 2] {
        let of = |name: &str| &source[&format!("model.layers.{layer}.mlp.{name}_proj.weight")];
        let experts = &experts[&format!("layers.{layer}.experts")];
        assert_eq!(experts.size(), [6, 3 * SIZE, 32]);
        for (expert, unit) in [(0, 0), (2, 5), (5, 7)] {
            let (own, row) = (experts.get(expert), expert * SIZE + unit);
            assert_eq!(own.get(unit), of("gate").get(row));
            assert_eq!(own.get(SIZE + unit), of("up").get(row));
            assert_eq!(own.get(2 * SIZE + unit), of("down").select(1, row));
        }
    }
    // Experts begin at a cache line: they are computed with where they are mapped.
    let bytes = std::fs::read(out.join(EXPERTS_FILE)).unwrap();
    assert_eq!((8 + u64::from_le_bytes(bytes[..8].try_into().unwrap())) % 64, 0);
    let pack = Pack::open(&out).unwrap();
    assert_eq!((pack.dtype(), pack.density()), (Some(DType::F32), Some(0.5)));
    assert_eq!(pack.packed_numbers(), (2 * 3 * 48 * 32, 2 * 6 * 32));
    // The copy of the ordinary forward can be made in bf16 as well.
    let ids = ids(1, 12);
    let (wide, narrow) = (pack.decoder(Kind::Float, Device::Cpu).unwrap(), pack.decoder(Kind::BFloat16, Device::Cpu));
    assert!(relative(&whole(&narrow.unwrap(), &ids), &whole(&wide, &ids)) < 0.2);
}

#[test]
fn the_command_generates_the_tokens_of_full_masked_forwards() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    write_tiny_source(&folder);
    std::fs::copy(data().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let (source, out) = (folder.display().to_string(), root.path().join("packed"));
    // Before there are routers, and then with them.
    let path = out.display().to_string();
    let refused = shearling(&["lte", "pack", &source, "--out", &path]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("lte.safetensors"));
    let checkpoint = Checkpoint::open(&folder).unwrap();
    file::write(&folder, &experts(&checkpoint, &[Choice::ByToken; 3]), DType::F32).unwrap();
    succeed(&["lte", "pack", &source, "--out", &path]);
    let prompt = "the count of é";
    let (pack, tokenizer) = (Pack::open(&out).unwrap(), Tokenizer::open(&out).unwrap());
    let mut expected = tokenizer.encode(prompt, true).unwrap();
    let start = expected.len();
    let reference = pack.decoder(Kind::Double, Device::Cpu).unwrap();
    for _ in 0..16 {
        let logits = whole(&reference, &Tensor::from_slice(&expected).unsqueeze(0));
        expected.push(logits.select(1, -1).argmax(-1, false).int64_value(&[]));
    }
    let data = data().display().to_string();
    let evaluated = shearling(&["eval", &path, "--data", &data]);
    let told = String::from_utf8_lossy(&evaluated.stderr);
    assert!(told.contains("it is a packed folder") && !told.contains("missing"), "{told}");
    // Of the packed folder, and of the one with its routers beside the weights.
    for model in [&path, &source] {
        let answer =
            succeed(&["generate", model, "--prompt", prompt, "--max-tokens", "16", "--device", "cpu", "--json"]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let found: Vec<i64> = answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        assert_eq!(found, expected[start..], "{model}");
    }

    let arguments =
        ["--prompt-tokens", "8", "--new-tokens", "3", "--rounds", "1", "--dtype", "fp32", "--device", "cpu", "--json"];
    let measured = succeed(&[&["bench", "latency", &source, &path][..], &arguments].concat());
    let models = serde_json::from_str::<Value>(&measured).unwrap()["models"].clone();
    let bytes = |model: usize| models[model]["decode"]["bytes_per_token"].as_f64().unwrap();
    // Half of three layers of experts is not read; their routers are.
    assert_eq!(bytes(0) - bytes(1), 4.0 * f64::from(3 * (3 * 48 * 32 / 2 - 6 * 32)));
}

#[test]
fn a_model_that_cannot_be_packed_is_refused_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    write_model(&folder, &families()[0].1, 3);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let out = root.path().join("out");
    let told = |change: &dyn Fn(&mut Experts)| {
        let mut experts = experts(&checkpoint, &[Choice::ByToken; 3]);
        change(&mut experts);
        let error = write(&checkpoint, &experts, &out, &mut |_, _| ()).unwrap_err().to_string();
        assert!(!out.exists(), "{error}");
        error
    };
    assert!(told(&|experts| experts.layers.truncate(2)).contains("layers 2, the model 3"));
    assert!(told(&|experts| experts.living_units = 40).contains("intermediate units 40, the model 48"));
    let no_router = |experts: &mut Experts| experts.layers.iter_mut().for_each(|layer| layer.router = None);
    assert!(told(&no_router).contains("no layer of"));
    let weight = |shape: [i64; 2]| {
        move |experts: &mut Experts| {
            let weight = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            experts.layers[1].router = Some(Router { weight, bias: None });
        }
    };
    assert!(told(&weight([5, 32])).contains("the router of layer 1 has a weight of shape [5, 32], expected [6, 32]"));
    assert!(told(&weight([6, 31])).contains("[6, 31]"));
    let bias = |experts: &mut Experts| {
        experts.layers[0].router.as_mut().unwrap().bias = Some(Tensor::zeros([7], (Kind::Float, Device::Cpu)));
    };
    assert!(told(&bias).contains("a bias of shape [7], expected [6]"));
}

#[test]
fn a_folder_that_is_broken_or_of_another_model_says_so() {
    let root = tempfile::tempdir().unwrap();
    let make = |name: &str, seed: u64| {
        let folder = root.path().join(name);
        write_model(&folder, &families()[0].1, seed);
        packed(&folder, &[Choice::ByToken; 3])
    };
    let (out, other) = (make("one", 3), make("other", 4));
    let path = out.join(EXPERTS_FILE);
    let whole_file = std::fs::read(&path).unwrap();
    let told = || {
        let error = Pack::open(&out).unwrap_err().to_string();
        std::fs::write(&path, &whole_file).unwrap();
        error
    };
    std::fs::copy(other.join(EXPERTS_FILE), &path).unwrap();
    assert!(told().contains("belongs to another model"));
    for length in [0, 7, 100, whole_file.len() - 1] {
        std::fs::write(&path, &whole_file[..length]).unwrap();
        let message = told();
        let expected = if length == 0 { "empty" } else { "not a whole safetensors file" };
        assert!(message.contains(expected), "{length} bytes: {message}");
    }
    // The header with other content, of the same tensors.
    let rewrite = |change: &dyn Fn(&mut TensorFile)| {
        let mut file = TensorFile::read(&path, Device::Cpu).unwrap();
        change(&mut file);
        let tensors: Vec<_> =
            file.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        TensorFile::write(&path, &tensors, &file.metadata).unwrap();
    };
    let header = |change: &dyn Fn(&mut Value)| {
        rewrite(&|file| {
            let mut value: Value = serde_json::from_str(&file.metadata["shearling_lte_pack"]).unwrap();
            change(&mut value);
            file.metadata.insert("shearling_lte_pack".into(), value.to_string());
        });
    };
    header(&|header| *header = json!({ "version": 2, "more": 1 }));
    assert!(told().contains("format version 2, this program reads 1"));
    header(&|header| header["expert_size"] = json!(0));
    assert!(told().contains("expert_size is 0"));
    header(&|header| header["expert_size"] = json!(7));
    assert!(told().contains("layers.0.experts"));
    header(&|header| header["expert_size"] = json!("8"));
    assert!(told().contains("shearling_lte_pack"));
    rewrite(&|file| file.metadata.clear());
    assert!(told().contains("no file of packed experts"));
    rewrite(&|file| {
        let narrow = file.tensors["layers.1.router.weight"].narrow(0, 0, 5).copy();
        file.tensors.insert("layers.1.router.weight".into(), narrow);
    });
    assert!(told().contains("has shape [5, 32], config.json asks for [6, 32]"));
    rewrite(&|file| drop(file.tensors.remove("layers.2.router.weight")));
    assert!(told().contains("layers.2.router.weight"));
    rewrite(&|file| drop(file.tensors.remove("layers.2.experts")));
    assert!(told().contains("model.layers.2.mlp.gate_proj.weight"));
    rewrite(&|file| {
        let _ = file.tensors["layers.0.experts"].get(1).get(2).narrow(0, 3, 1).fill_(f64::NAN);
    });
    let pack = Pack::open(&out).unwrap();
    let error = pack.decoder(Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("layers.0.experts") && error.contains("not finite"), "{error}");
    std::fs::write(&path, &whole_file).unwrap();

    edit_json(&out.join("config.json"), json!({ "intermediate_size": 64 }));
    assert!(told().contains("config.json asks for"));
    edit_json(&out.join("config.json"), json!({ "intermediate_size": 48 }));
    std::fs::remove_file(out.join("model.safetensors")).unwrap();
    assert!(Pack::open(&out).is_err());
}
