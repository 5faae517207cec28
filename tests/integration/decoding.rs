//! Decoding with the key/value cache is the full forward, token by token and in chunks, for every family; and it ends
//! where the model does.

use super::support::{apart, families, fixture, tensors, write_model};
use serde_json::json;
use shearling::hf::Checkpoint;
use shearling::model::{DecodeError, Decoder, ForwardContext, KvCache, ModelGates};
use shearling::native::kernels::{self, compute_by};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Kinds with the difference allowed, relative to the largest logit: fp32 goes through the kernels, which round in
/// another order than the products of many rows; fp64 through plain operators, where only a mistake shows.
const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::Double, 1e-12)];

/// Folders of every family: the fixtures that transformers made, and our own where those leave something out.
fn folders() -> (tempfile::TempDir, Vec<(String, PathBuf)>) {
    let made = tempfile::tempdir().unwrap();
    let fixtures = ["llama2-mha", "llama3-gqa-tied", "qwen3-qknorm", "mistral-window", "qwen2-window"];
    let mut folders: Vec<_> = fixtures.iter().map(|name| (name.to_string(), fixture("hf").join(name))).collect();
    for (name, mut config) in families() {
        // Beyond a block of the cache, which then has to grow, and far beyond the windows of 5 and 6.
        config["max_position_embeddings"] = json!(700);
        let folder = made.path().join(name);
        write_model(&folder, &config, 3);
        folders.push((name.to_string(), folder));
    }
    (made, folders)
}

fn tokens(rows: i64, count: i64) -> Tensor {
    let ids = Tensor::arange(rows * count, (Kind::Int64, Device::Cpu));
    (&ids * &ids * 7 + ids * 3).remainder(61).view([rows, count])
}

fn open(folder: &Path, kind: Kind) -> Decoder {
    let checkpoint = Checkpoint::open(folder).unwrap();
    Decoder::build(checkpoint.model(), &mut |name| checkpoint.tensor(name, kind, Device::Cpu)).unwrap()
}

/// Logits of the full forward.
fn whole(decoder: &Decoder, input_ids: &Tensor) -> Tensor {
    let context = ForwardContext::new(decoder.model(), input_ids.size()[1], Device::Cpu).unwrap();
    tch::no_grad(|| decoder.forward(input_ids, &context, &ModelGates::none()).unwrap())
}

/// Logits of all tokens, read in chunks of these sizes, again and again until all are read. The cache is made for
/// `expected_tokens`.
fn in_chunks(decoder: &Decoder, input_ids: &Tensor, kind: Kind, sizes: &[i64], expected_tokens: i64) -> Tensor {
    let (rows, count) = (input_ids.size()[0], input_ids.size()[1]);
    let mut cache = KvCache::new(decoder.model(), rows, expected_tokens, kind, Device::Cpu).unwrap();
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        let start = cache.length();
        let chunk = input_ids.narrow(1, start, *size.min(&(count - start)));
        chunks.push(decoder.forward_cached(&chunk, &mut cache).unwrap());
        if cache.length() == count {
            break;
        }
    }
    Tensor::cat(&chunks, 1)
}

fn check(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = apart(found, expected) / expected.abs().max().double_value(&[]);
    assert!(difference < tolerance, "{name}: {difference:e}");
}

#[test]
fn a_cache_changes_nothing_in_steps_and_chunks_of_any_size() {
    let (_made, folders) = folders();
    for (name, folder) in folders {
        for (kind, tolerance) in KINDS {
            let (decoder, input_ids) = (open(&folder, kind), tokens(2, 40));
            let expected = whole(&decoder, &input_ids);
            for sizes in [&[1][..], &[40], &[7], &[1, 5, 2], &[3, 1], &[39, 1], &[4, 16]] {
                let found = in_chunks(&decoder, &input_ids, kind, sizes, 40);
                check(&format!("{name} in {sizes:?}, {kind:?}"), &found, &expected, tolerance);
            }
        }
    }
}

#[test]
fn a_long_text_makes_the_cache_grow_and_windows_slide() {
    let (_made, folders) = folders();
    for (name, folder) in folders.into_iter().filter(|(_, folder)| !folder.starts_with(fixture("hf"))) {
        for (kind, tolerance) in KINDS {
            let (decoder, input_ids) = (open(&folder, kind), tokens(1, 600));
            let expected = whole(&decoder, &input_ids);
            // A cache that was made for a few tokens, and one that has room for all.
            for (sizes, room) in [(&[1][..], 8), (&[130, 1, 1], 8), (&[300, 3], 600)] {
                let found = in_chunks(&decoder, &input_ids, kind, sizes, room);
                // Hundreds of tokens, of which the worst counts, round worse than forty.
                check(&format!("{name} in {sizes:?}, {kind:?}"), &found, &expected, 3.0 * tolerance);
            }
        }
    }
}

#[test]
fn what_transformers_computed_comes_out_of_the_cache() {
    for folder in ["llama2-mha", "llama3-gqa-tied", "qwen3-qknorm", "mistral-window", "qwen2-window"] {
        let path = fixture("hf").join(folder);
        let expected = tensors(&path.join("expected.safetensors"));
        let input_ids = expected["input_ids"].to_kind(Kind::Int64);
        let found = in_chunks(&open(&path, Kind::Float), &input_ids, Kind::Float, &[11, 1, 1, 1], 4);
        assert!(apart(&found, &expected["logits"]) < 1e-4, "{folder}");
    }
}

#[test]
fn the_next_logits_are_those_of_the_last_token_in_bf16_too() {
    for folder in ["llama3-gqa-tied", "mistral-window"] {
        let decoder = open(&fixture("hf").join(folder), Kind::BFloat16);
        let input_ids = tokens(2, 30);
        let expected = whole(&decoder, &input_ids);
        let mut cache = KvCache::new(decoder.model(), 2, 30, Kind::BFloat16, Device::Cpu).unwrap();
        let _ = decoder.next_logits(&input_ids.narrow(1, 0, 12), &mut cache).unwrap();
        for step in 12..30 {
            let found = decoder.next_logits(&input_ids.narrow(1, step, 1), &mut cache).unwrap();
            let expected = expected.select(1, step);
            let scale = expected.abs().max().to_kind(Kind::Double).double_value(&[]);
            assert!(apart(&found, &expected) < 0.05 * scale, "{folder} at {step}");
        }
    }
}

/// On a GPU a single token goes a way of its own, launch by launch the same for every token.
#[test]
fn tokens_as_a_gpu_launches_them_are_those_of_the_full_forward() {
    let (_made, folders) = folders();
    for (name, folder) in &folders {
        let decoder = open(folder, Kind::Float);
        for rows in [1, 2] {
            // Over the end of a block of the cache, where the model goes that far.
            let count = decoder.model().max_position_embeddings.min(260);
            let (input_ids, start) = (tokens(rows, count), count - 8);
            let expected = whole(&decoder, &input_ids);
            let mut cache = KvCache::new(decoder.model(), rows, 8, Kind::Float, Device::Cpu).unwrap();
            let _ = decoder.forward_cached(&input_ids.narrow(1, 0, start), &mut cache).unwrap();
            let _path = compute_by(kernels::Path::DeviceKernels);
            for step in start..count {
                let found = decoder.next_logits(&input_ids.narrow(1, step, 1), &mut cache).unwrap();
                check(&format!("{name}, {rows} rows, token {step}"), &found, &expected.select(1, step), 1e-4);
            }
        }
    }
}

#[test]
fn the_end_of_the_model_is_an_error_that_leaves_the_cache_as_it_was() {
    let path = fixture("hf").join("llama2-mha");
    let decoder = open(&path, Kind::Float);
    let limit = decoder.model().max_position_embeddings;
    let new_cache = || KvCache::new(decoder.model(), 1, 1 << 40, Kind::Float, Device::Cpu).unwrap();
    let mut cache = new_cache();
    let _ = decoder.next_logits(&tokens(1, limit - 1), &mut cache).unwrap();
    assert_eq!(cache.room(), 1);
    let error = decoder.next_logits(&tokens(1, 2), &mut cache).unwrap_err();
    assert!(matches!(error, DecodeError::TooLong { .. }));
    assert!(error.to_string().contains(&format!("takes {limit} (max_position_embeddings)")), "{error}");
    assert!(decoder.next_logits(&tokens(2, 1), &mut cache).unwrap_err().to_string().contains("[2, 1]"));
    assert!(decoder.next_logits(&tokens(1, 0), &mut cache).is_err());
    let outside = Tensor::from_slice(&[decoder.model().vocab_size]).unsqueeze(0);
    assert!(decoder.next_logits(&outside, &mut cache).unwrap_err().to_string().contains("token id"));

    let last = tokens(1, limit).narrow(1, limit - 1, 1);
    let after_errors = decoder.next_logits(&last, &mut cache).unwrap();
    let mut fresh = new_cache();
    let _ = decoder.next_logits(&tokens(1, limit - 1), &mut fresh).unwrap();
    assert_eq!(decoder.next_logits(&last, &mut fresh).unwrap(), after_errors);
    assert!(decoder.next_logits(&last, &mut fresh).is_err(), "full");
    fresh.clear();
    assert_eq!((fresh.length(), fresh.room()), (0, limit));
    let _ = decoder.next_logits(&last, &mut fresh).unwrap();
}
