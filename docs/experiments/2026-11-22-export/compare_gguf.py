"""Reads a GGUF file back with the `gguf` package and compares every tensor with the folder's safetensors.

    compare_gguf.py FOLDER FILE

llama.cpp rotates neighbouring pairs of a head where Hugging Face rotates halves, so its converter reorders the rows of
q and k of the llama architecture; that is undone here before the comparison.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{parts[3]}"
    return f"{NAMES[parts[0]]}.{parts[1]}"


def halves(rows, heads):
    """Undoes the converter's order of q and k: pairs back to halves."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def weights(folder):
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name).float().numpy() for name in tensors.keys()}
    return found


def main(folder, file):
    config = json.loads((Path(folder) / "config.json").read_text())
    expected = weights(folder)
    reader = gguf.GGUFReader(file)
    architecture = reader.get_field("general.architecture").contents()
    worst, skipped = 0.0, []
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            skipped.append(f"{tensor.name} {tensor.data.min():.4g} to {tensor.data.max():.4g}")
            continue
        # The file names the innermost dimension first.
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape)))
        name = hf_name(tensor.name)
        if architecture == "llama" and ".q_proj." in name:
            found = halves(found, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            found = halves(found, config["num_key_value_heads"])
        own = expected.pop(name)
        assert found.shape == own.shape, (name, found.shape, own.shape)
        worst = max(worst, float(np.abs(found - own).max()))
    fields = ["block_count", "embedding_length", "feed_forward_length", "attention.head_count"]
    fields += ["attention.head_count_kv", "attention.key_length", "rope.freq_base", "attention.sliding_window"]
    shown = {key: reader.get_field(f"{architecture}.{key}") for key in fields}
    shown = {key: field.contents() for key, field in shown.items() if field}
    pre = reader.get_field("tokenizer.ggml.pre")
    print(f"{folder}: {architecture}, {len(reader.tensors)} tensors, max |difference| {worst:g}")
    print(f"  {shown}  tokenizer {reader.get_field('tokenizer.ggml.model').contents()}/{pre and pre.contents()}")
    print(f"  not in the folder: {skipped or 'nothing'}; not in the file: {sorted(expected) or 'nothing'}")


main(*sys.argv[1:])
