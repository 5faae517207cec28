#!/usr/bin/env python3
"""Times optimiser steps of a LLaMA in PyTorch: under masks (the paper's prune step), plain, or transformers' own.

    step.py --shape small --dtype bf16 --model masked --steps 5 --json
    step.py --shape base --dtype fp32 --model masked --against hf      # both, step by step in turn, and the ratio

stdout has one JSON object with `--json`, else a few lines.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, replace

import torch

from meter import Memory
from shapes import SHAPES
from trainer import MODELS, Trainer

DIMENSIONS = ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab", "rows", "tokens")
# Dense bf16 FLOP/s from the data sheets, for model FLOPs utilisation.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    for dimension in DIMENSIONS:
        help_text = f"instead of the shape's {dimension}"
        parser.add_argument(f"--{dimension.replace('_', '-')}", type=int, help=help_text)
    parser.add_argument("--micro-rows", type=int, help="rows per micro-batch (all)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast over fp32 weights")
    parser.add_argument("--pure-bf16", action="store_true", help="bf16 weights and moments (where fp32 does not fit)")
    parser.add_argument("--model", choices=MODELS, default="masked")
    parser.add_argument("--against", choices=MODELS, help="step a second model in turn and print time ratios")
    parser.add_argument("--checkpointing", action="store_true", help="recompute each layer in backward")
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before, not measured")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (OMP_NUM_THREADS, else all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps must be at least 1, --warmup not negative")
    if options.pure_bf16 and options.dtype != "bf16":
        parser.error("--pure-bf16 goes with --dtype bf16")
    given = {name: getattr(options, name) for name in DIMENSIONS if getattr(options, name) is not None}
    try:
        options.dimensions = replace(SHAPES[options.shape], **given).check()
    except ValueError as error:
        parser.error(str(error))
    return options


def trainer(options, kind):
    micro_rows = options.micro_rows or options.dimensions.rows
    return Trainer(
        kind, options.dimensions, micro_rows, options.dtype, options.device, options.checkpointing, options.pure_bf16
    )


def versions():
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if "transformers" in sys.modules:
        found["transformers"] = sys.modules["transformers"].__version__
    return found


def measure(options):
    """Runs one model; the object that is printed."""
    # A tiny step first: libraries that are loaded on first use are no part of the model's memory.
    Trainer(options.model.removesuffix("-compiled"), SHAPES["tiny"], 1, options.dtype, options.device).step()
    memory = Memory(options.device)
    run = trainer(options, options.model)
    losses, times, phases = [], [], []
    for index in range(options.warmup + options.steps):
        loss, milliseconds, by_phase = run.step()
        losses.append(loss)
        print(f"{options.model} step {index}: loss {loss:.4f}, {milliseconds:.1f} ms", file=sys.stderr, flush=True)
        if index >= options.warmup:
            times.append(milliseconds)
            phases.append(by_phase)
    shape = options.dimensions
    rate = shape.rows * shape.tokens / (statistics.median(times) / 1e3)
    peak = memory.peak()
    result = {
        "model": options.model,
        "shape": options.shape,
        "dimensions": asdict(shape),
        "dtype": "pure-bf16" if options.pure_bf16 else options.dtype,
        "micro_rows": run.micro_rows,
        "checkpointing": options.checkpointing,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "parameters": sum(weight.numel() for weight in run.weights),
        "tokens_per_second": rate,
        "step_ms": times,
        "phases_ms": {name: statistics.median(p.get(name, 0.0) for p in phases) for name in phases[0]},
        "peak_memory_bytes": peak,
        "base_memory_bytes": memory.base,
        "model_memory_bytes": None if peak is None else peak - memory.base,
        "model_flops_per_second": rate * shape.flops_per_token(),
        "warmup_steps": options.warmup,
        "loss": losses,
    }
    peak_flops = [flops for name, flops in PEAK_FLOPS.items() if name in result["device"]]
    result["mfu"] = result["model_flops_per_second"] / peak_flops[0] if peak_flops else None
    return result


def alternate(options):
    """Steps two models in turn; time of the first over time of the second, step by step."""
    kinds = (options.model, options.against)
    runs = [trainer(options, kind) for kind in kinds]
    times = []
    for index in range(options.warmup + options.steps):
        pair = [run.step()[1] for run in runs]
        print(f"step {index}: {pair[0]:.1f} ms / {pair[1]:.1f} ms = {pair[0] / pair[1]:.3f}", file=sys.stderr, flush=True)
        if index >= options.warmup:
            times.append(pair)
    ratios = [first / second for first, second in times]
    return {
        "models": kinds,
        "shape": options.shape,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "step_ms": times,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    result = alternate(options) if options.against else measure(options)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
