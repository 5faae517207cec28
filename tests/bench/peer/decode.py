#!/usr/bin/env python3
"""Times transformers as `shearling bench latency` times our decoder: prefill, then greedy tokens one by one, batch 1.

    decode.py FOLDER [FOLDER…] --dtype bf16 --prompt-tokens 512 --new-tokens 64 --rounds 5 --json
    decode.py --shape base --shape base:target --cache static --json

The loop is transformers' own forward with its own cache, without the extras of `generate` (which only add time):
`--generate` times `generate` itself instead. Models take turns, round by round. stdout has one JSON object with
`--json`, else a few lines.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache, StaticCache

from meter import Memory
from shapes import SHAPES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="Hugging Face folders")
    parser.add_argument("--shape", action="append", default=[], help="random weights: a name, or NAME:target")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that is not")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--cache", choices=("dynamic", "static"), default="dynamic")
    parser.add_argument("--generate", action="store_true", help="time transformers' generate: the whole answer only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (OMP_NUM_THREADS, else all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.models and not options.shape:
        parser.error("give a folder or a --shape")
    if min(options.prompt_tokens, options.new_tokens, options.rounds) < 1:
        parser.error("--prompt-tokens, --new-tokens and --rounds must be at least 1")
    for name in options.shape:
        if name.removesuffix(":target") not in SHAPES:
            parser.error(f"--shape {name}: there are {', '.join(SHAPES)}, and each with :target after it")
    return options


def random_model(name, options):
    shape = SHAPES[name.removesuffix(":target")]
    head_dim = shape.head_dim
    if name.endswith(":target"):
        shape = shape.target()
    config = LlamaConfig(
        vocab_size=32000, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=head_dim, max_position_embeddings=1 << 15, tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(dtype=DTYPES[options.dtype], device=options.device)


def load(name, options):
    if name in options.shape:
        model = random_model(name, options)
    else:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[options.dtype]).to(options.device)
    return model.eval()


def new_cache(model, options):
    if options.cache == "static":
        return StaticCache(config=model.config, max_cache_len=options.prompt_tokens + options.new_tokens)
    return DynamicCache(config=model.config)


def synchronise(options):
    if options.device == "cuda":
        torch.cuda.synchronize()


def answer(model, options):
    """Seconds of the prompt, and seconds per token after it."""
    ids = (torch.arange(options.prompt_tokens, device=options.device) % min(256, model.config.vocab_size))[None]
    cache = new_cache(model, options)
    synchronise(options)
    start = time.perf_counter()
    # Only the last token's logits, as in `generate`.
    logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    next_id = logits[:, -1].argmax(-1, keepdim=True)
    next_id.item()
    prefill = time.perf_counter() - start
    for _ in range(options.new_tokens):
        logits = model(next_id, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        next_id = logits[:, -1].argmax(-1, keepdim=True)
        # `generate` looks at every token too, to see whether it ends the text.
        next_id.item()
    return prefill, (time.perf_counter() - start - prefill) / options.new_tokens


def generate(model, options):
    """As `answer`, by `generate`: of one new token for the prompt, of all of them for the rest."""
    ids = (torch.arange(options.prompt_tokens, device=options.device) % min(256, model.config.vocab_size))[None]

    def seconds(count):
        synchronise(options)
        start = time.perf_counter()
        extra = {"cache_implementation": "static"} if options.cache == "static" else {}
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count, max_new_tokens=count,
            pad_token_id=0, **extra,
        )
        synchronise(options)
        return time.perf_counter() - start

    prefill = seconds(1)
    return prefill, (seconds(1 + options.new_tokens) - prefill) / options.new_tokens


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measure = generate if options.generate else answer
    names = options.models + options.shape
    models, peaks = [], []
    with torch.inference_mode():
        for name in names:
            memory = Memory(options.device)
            model = load(name, options)
            # The round that does not count; loading may have taken more for a moment than answering does.
            answering = Memory(options.device)
            measure(model, options)
            peaks.append(answering.peak() - memory.base if memory.base is not None else None)
            models.append(model)
        answers = [[] for _ in names]
        for round_ in range(options.rounds):
            for name, model, own in zip(names, models, answers):
                own.append(measure(model, options))
                print(f"round {round_ + 1}: {name} {1 / own[-1][1]:.2f} tokens/s", file=sys.stderr, flush=True)
    result = {
        "tool": "transformers", "cache": options.cache, "generate": options.generate,
        "device": options.device, "threads": torch.get_num_threads(), "dtype": options.dtype,
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "models": [],
    }
    for name, model, own, peak in zip(names, models, answers, peaks):
        prefills, steps = spread([a[0] for a in own]), spread([a[1] for a in own])
        result["models"].append({
            "model": name, "parameters": sum(p.numel() for p in model.parameters()),
            "prefill": {
                "tokens": options.prompt_tokens, "seconds": prefills["median"],
                "tokens_per_second": options.prompt_tokens / prefills["median"], "seconds_spread": prefills,
            },
            "decode": {
                "context": options.prompt_tokens, "tokens": options.new_tokens, "seconds_per_token": steps["median"],
                "tokens_per_second": 1 / steps["median"], "seconds_per_token_spread": steps,
            },
            "peak_memory_bytes": peak,
        })
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for model in result["models"]:
        prefill, decode = model["prefill"]["tokens_per_second"], model["decode"]["tokens_per_second"]
        print(f"{model['model']}: prefill {prefill:.0f}, decode {decode:.2f} tokens/s")


if __name__ == "__main__":
    main()
