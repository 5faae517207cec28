"""Small random models of every family, with a tokenizer: what `shearling prune` is then given.

    make_sources.py OUT --byte-level TOKENIZER_FOLDER --llama2 TOKENIZER_FOLDER

Made by transformers, with norms and biases moved off one and zero so that nothing is hidden by them.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    initializer_range=0.1,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
FAMILIES = {
    "llama2": dict(model_type="llama", num_key_value_heads=8, bos_token_id=1, eos_token_id=2),
    "llama3": dict(model_type="llama", head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "mistral": dict(model_type="mistral", sliding_window=7),
    "mistral-no-window": dict(model_type="mistral", sliding_window=None),
    # transformers gives every tokenizer of a qwen2 an <|endoftext|>.
    "qwen2": dict(model_type="qwen2", use_sliding_window=False, vocab_size=1040),
    # Pruned so that the heads together are as wide as the stream; see make_folders.sh.
    "qwen2-square": dict(model_type="qwen2", use_sliding_window=False, vocab_size=1040),
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--byte-level", type=Path, required=True)
    parser.add_argument("--llama2", type=Path, required=True)
    arguments = parser.parse_args()
    for seed, (name, own) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        tokenizer = arguments.llama2 if name == "llama2" else arguments.byte_level
        settings = {**SHAPE, **own}
        settings.setdefault("vocab_size", 32000 if name == "llama2" else 1024)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 1:
                    weight.add_(0.2 * torch.randn_like(weight))
        model.save_pretrained(arguments.out / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (tokenizer / file).exists():
                shutil.copy(tokenizer / file, arguments.out / name / file)
        print(name, sum(weight.numel() for weight in model.parameters()))


main()
