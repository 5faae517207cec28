//! The mask file: round trip, and every way in which a file can be broken.

use crate::{gqa_masks, set_log_alpha, set_parameter, values};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use shearling_masks::{Error, HardConcrete, MaskSet, MaskSpec, UnitKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const KEY: &str = "shearling_masks";

/// A saved file in a folder of its own, with its parts to be tampered with.
struct Saved {
    folder: tempfile::TempDir,
    path: PathBuf,
    masks: MaskSet,
}

/// The parts of a file: description and tensors (name, type, shape, bytes).
struct Parts {
    description: Value,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Saved {
    fn new() -> Saved {
        let masks = gqa_masks();
        for module in masks.spec().modules() {
            let ramp = Tensor::arange(module.units(), (Kind::Float, Device::Cpu)) * 0.37 - 1.1;
            set_log_alpha(&masks, module.module, &ramp.view(&module.dims()[..]));
        }
        set_parameter(masks.multiplier_parameters(), "lambda_2.query_head", &Tensor::from(321.125f32));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("masks.safetensors");
        masks.save(&path).unwrap();
        Saved { folder, path, masks }
    }

    fn load(&self) -> Result<MaskSet, Error> {
        MaskSet::load(&self.path, Device::Cpu)
    }

    fn parts(&self) -> Parts {
        let bytes = std::fs::read(&self.path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let description = serde_json::from_str(&header.metadata().as_ref().unwrap()[KEY]).unwrap();
        let own =
            |(name, view): (String, TensorView<'_>)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Parts {
            description,
            tensors: SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(own).collect(),
        }
    }

    /// The message after the file was changed part by part.
    fn message_after(&self, change: impl FnOnce(&mut Parts)) -> String {
        let mut parts = self.parts();
        change(&mut parts);
        let views = parts.tensors.iter();
        let views: Vec<_> = views
            .map(|(name, dtype, dims, bytes)| (name, TensorView::new(*dtype, dims.clone(), bytes).unwrap()))
            .collect();
        let metadata = HashMap::from([(KEY.to_owned(), parts.description.to_string())]);
        std::fs::write(&self.path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
        chain(self.load().unwrap_err())
    }
}

impl Parts {
    fn tensor(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }
}

/// The error with its causes.
fn chain(error: Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

fn leaves(masks: &MaskSet) -> Vec<(String, Tensor)> {
    masks.log_alpha_parameters().into_iter().chain(masks.multiplier_parameters()).collect()
}

fn assert_same(a: &MaskSet, b: &MaskSet) {
    assert_eq!((a.spec(), a.gating(), a.warmup_steps()), (b.spec(), b.gating(), b.warmup_steps()));
    let bits = |tensor: &Tensor| values(tensor).iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    let stored = |masks: &MaskSet| {
        leaves(masks).iter().map(|(name, leaf)| (name.clone(), leaf.size(), bits(leaf))).collect::<Vec<_>>()
    };
    assert_eq!(stored(a), stored(b));
}

#[test]
fn a_file_gives_back_the_same_bits_as_trainable_leaves() {
    let saved = Saved::new();
    let loaded = saved.load().unwrap();
    assert_same(&saved.masks, &loaded);
    assert!(
        leaves(&loaded).iter().all(|(_, leaf)| leaf.is_leaf() && leaf.requires_grad() && leaf.kind() == Kind::Float)
    );
    let files: Vec<_> = std::fs::read_dir(saved.folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "no temporary file stays");
}

#[test]
fn saving_again_replaces_the_file_and_the_same_masks_give_the_same_bytes() {
    let saved = Saved::new();
    let first = std::fs::read(&saved.path).unwrap();
    saved.masks.save(&saved.path).unwrap();
    assert_eq!(first, std::fs::read(&saved.path).unwrap());
}

#[test]
fn a_set_without_masks_can_be_saved() {
    let folder = tempfile::tempdir().unwrap();
    let source = gqa_masks().spec().source().clone();
    let masks =
        MaskSet::new(MaskSpec::new(&source, &source).unwrap(), HardConcrete::default(), 0, 0, Device::Cpu).unwrap();
    masks.save(folder.path().join("none")).unwrap();
    assert_same(&masks, &MaskSet::load(folder.path().join("none"), Device::Cpu).unwrap());
}

#[test]
fn truncation_anywhere_is_an_error_that_names_the_file() {
    let saved = Saved::new();
    let whole = std::fs::read(&saved.path).unwrap();
    let lengths = (0..64).chain((64..whole.len()).step_by(61)).chain([whole.len() - 1]);
    for length in lengths {
        std::fs::write(&saved.path, &whole[..length]).unwrap();
        let message = chain(saved.load().unwrap_err());
        assert!(message.contains("masks.safetensors"), "{length}: {message}");
    }
    std::fs::write(&saved.path, [&whole[..], b"x"].concat()).unwrap();
    assert!(saved.load().is_err());
}

#[test]
fn flipped_bytes_never_panic() {
    let saved = Saved::new();
    let whole = std::fs::read(&saved.path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in 0..header {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        std::fs::write(&saved.path, &bytes).unwrap();
        if let Err(error) = saved.load() {
            assert!(error.to_string().contains("masks.safetensors"), "{error}");
        }
    }
}

#[test]
fn other_containers_are_refused() {
    let saved = Saved::new();
    let write = |bytes: &[u8]| std::fs::write(&saved.path, bytes).unwrap();
    write(&[0xff; 4096]);
    assert!(matches!(saved.load(), Err(Error::Container { .. })));
    write(&[&9u64.to_le_bytes()[..], b"not json!"].concat());
    assert!(matches!(saved.load(), Err(Error::Container { .. })));
    write(&safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap());
    assert!(chain(saved.load().unwrap_err()).contains("metadata `shearling_masks` is missing"));
    assert!(matches!(MaskSet::load(saved.folder.path(), Device::Cpu), Err(Error::NotAMaskFile { .. })));
    let absent = MaskSet::load(saved.folder.path().join("absent"), Device::Cpu);
    assert!(matches!(absent, Err(Error::Io { operation: "read", .. })));
}

#[test]
fn oversized_files_are_refused_without_reading_them() {
    let saved = Saved::new();
    // A sparse file: 300 MiB of nothing.
    std::fs::File::create(&saved.path).unwrap().set_len(300 << 20).unwrap();
    assert!(chain(saved.load().unwrap_err()).contains("more than any mask file"));
}

#[test]
fn descriptions_that_cannot_be_are_refused_by_key() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (|d| d["version"] = json!(4), "format version 4, this program reads version 3"),
        (|d| d["version"] = json!("one"), "`shearling_masks` is malformed"),
        (|d| d["warmup_steps"] = json!(-1), "`shearling_masks` is malformed"),
        (|d| d["extra"] = json!(1), "unknown field `extra`"),
        (|d| d["source"]["num_attention_heads"] = json!(13), "num_attention_heads = 13 is not a multiple"),
        (|d| d["source"]["hidden_size"] = json!(i64::MAX), "source hidden_size"),
        (|d| d["target"]["hidden_size"] = json!(0), "target hidden_size = 0"),
        (|d| d["constants"]["temperature"] = json!(0.0), "`temperature` = 0"),
    ];
    for (change, expected) in cases {
        let message = Saved::new().message_after(|parts| change(&mut parts.description));
        assert!(message.contains(expected) && message.contains("masks.safetensors"), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let message = Saved::new().message_after(|parts| {
        parts.tensors.retain(|tensor| tensor.0 != "lambda_1.hidden");
        parts.tensor("log_alpha.kv_head").2 = vec![16];
        parts.tensor("log_alpha.layer").1 = Dtype::I32;
        parts.tensor("log_alpha.intermediate").3[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        parts.tensor("lambda_2.layer").3.copy_from_slice(&f32::INFINITY.to_le_bytes());
        parts.tensors.push(("stranger".to_owned(), Dtype::F32, vec![1], vec![0; 4]));
    });
    for expected in [
        "`lambda_1.hidden` is missing",
        "`log_alpha.kv_head` has shape [16], expected [4, 4]",
        "`log_alpha.layer` has type I32, expected F32",
        "`log_alpha.intermediate` holds NaN at element 1",
        "`lambda_2.layer` holds inf at element 0",
        "`stranger` belongs to no mask",
    ] {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_shape_that_does_not_belong_to_the_tensors_is_refused() {
    let message = Saved::new().message_after(|parts| parts.description["source"]["intermediate_size"] = json!(1 << 20));
    assert!(message.contains("`log_alpha.intermediate` has shape [4, 24], expected [4, 1048576]"), "{message}");
}

#[test]
fn a_save_that_fails_leaves_nothing_behind() {
    let saved = Saved::new();
    let blocked = saved.folder.path().join("folder");
    std::fs::create_dir_all(blocked.join("inside")).unwrap();
    assert!(matches!(saved.masks.save(&blocked), Err(Error::Io { .. })));
    let mut names: Vec<_> =
        std::fs::read_dir(saved.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["folder", "masks.safetensors"]);
    let nowhere = saved.masks.save(Path::new("/nonexistent-folder/masks")).unwrap_err();
    assert!(nowhere.to_string().contains("/nonexistent-folder/masks"));
}

#[test]
fn loaded_masks_give_the_same_gates() {
    let saved = Saved::new();
    let loaded = saved.load().unwrap();
    for module in UnitKind::ALL {
        let gate = |masks: &MaskSet| values(masks.target_gates().unwrap().get(module).unwrap());
        assert_eq!(gate(&saved.masks), gate(&loaded));
    }
}

#[test]
fn masks_that_diverged_do_not_replace_a_good_file() {
    let saved = Saved::new();
    let before = std::fs::read(&saved.path).unwrap();
    set_parameter(saved.masks.multiplier_parameters(), "lambda_1.layer", &Tensor::from(f32::NAN));
    let message = saved.masks.save(&saved.path).unwrap_err().to_string();
    assert!(message.contains("`lambda_1.layer` has the value NaN"), "{message}");
    assert_eq!(before, std::fs::read(&saved.path).unwrap());
}
