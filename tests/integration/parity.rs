//! The model computes what transformers computes: logits, loss and gradients of the fixture checkpoints.

use super::support::{apart, fixture, load, logits, tensors, trained_loss};
use shearling_masks::Gates;
use tch::Kind;

const FOLDERS: [&str; 7] = [
    "llama2-mha",
    "llama2-mha-sharded",
    "llama3-gqa-tied",
    "llama3-gqa-tied-v4config",
    "qwen3-qknorm",
    "mistral-window",
    "qwen2-window",
];

#[test]
fn logits_loss_and_gradients_agree_with_transformers() {
    for folder in FOLDERS {
        let path = fixture("hf").join(folder);
        let expected = tensors(&path.join("expected.safetensors"));
        let loaded = load(&path);
        let input_ids = expected["input_ids"].to_kind(Kind::Int64);
        let found = logits(&loaded, &input_ids, Gates::none());
        assert!(apart(&found, &expected["logits"]) < 1e-4, "{folder}: logits");

        let mean = trained_loss(&loaded, &input_ids, &Gates::none());
        assert!((mean - expected["loss"].double_value(&[])).abs() < 1e-4, "{folder}: loss");
        let gradients: Vec<&String> = expected.keys().filter(|name| name.starts_with("grad.")).collect();
        assert!(gradients.len() > 5, "{folder} has gradients");
        for name in gradients {
            let leaf = &loaded.leaves[name.strip_prefix("grad.").unwrap()];
            assert!(apart(&leaf.grad(), &expected[name]) < 1e-4, "{folder}: {name}");
        }
    }
}

#[test]
fn open_gates_change_nothing() {
    for folder in ["llama2-mha", "llama3-gqa-tied"] {
        let loaded = load(&fixture("hf").join(folder));
        let expected = tensors(&fixture("hf").join(folder).join("expected.safetensors"));
        let input_ids = expected["input_ids"].to_kind(Kind::Int64);
        let model = &loaded.model;
        let ones = |shape: &[i64]| Some(tch::Tensor::ones(shape, (Kind::Float, tch::Device::Cpu)));
        let (layers, kv) = (model.num_hidden_layers, model.num_key_value_heads);
        let gates = Gates {
            layer: ones(&[layers]),
            kv_head: ones(&[layers, kv]),
            query_head: ones(&[layers, model.num_attention_heads / kv]),
            intermediate: ones(&[layers, model.intermediate_size]),
            hidden: ones(&[model.hidden_size]),
            ..Gates::none()
        };
        let open = logits(&loaded, &input_ids, gates);
        assert!(apart(&open, &logits(&loaded, &input_ids, Gates::none())) < 1e-5, "{folder}");
    }
}
