#!/usr/bin/env python3
"""Runs our training step and the PyTorch peer's in turn (A B A B ..) and prints how many times faster ours is.

    compare.py                              # everything; about an hour on two cores
    compare.py --only small,bf16,prune      # one row: words of shape, dtype and row
    compare.py --rounds 5 --steps 3 --json result.json

Every measurement is a process of its own with the same number of threads. In each round all sides run once, and ratios
are taken inside a round, where the machine was about the same; the table has their median, smallest and largest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import environment

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[2]


def step_time(result):
    return statistics.median(result["step_ms"])


def model_memory(result):
    """Peak above what the process took before the model; None where that is not known."""
    peak, base = result.get("peak_memory_bytes"), result.get("base_memory_bytes")
    return None if peak is None or base is None else peak - base


# row: (what it says, numerator side, denominator side, quantity, target). A side is (program, model).
OURS_MASKED, OURS_PLAIN = ("shearling", "masked"), ("shearling", "plain")
PEER_MASKED, PEER_PLAIN = ("peer", "masked"), ("peer", "plain")
HF, HF_COMPILED, PEER_COMPILED = ("peer", "hf"), ("peer", "hf-compiled"), ("peer", "masked-compiled")
ROWS = {
    "prune": ("prune step: times faster than the paper's step in PyTorch", PEER_MASKED, OURS_MASKED, step_time, ">= 1.5"),
    "prune-compiled": ("prune step: times faster than that, torch.compiled", PEER_COMPILED, OURS_MASKED, step_time, ""),
    "eager": ("plain step: times faster than transformers", HF, OURS_PLAIN, step_time, ">= 1.2"),
    "compiled": ("plain step: times faster than transformers, torch.compiled", HF_COMPILED, OURS_PLAIN, step_time, ">= 1.0"),
    "masks": ("our masked step: time of our plain step", OURS_MASKED, OURS_PLAIN, step_time, "<= 1.03"),
    "peer-masks": ("the peer's masked step: time of transformers' plain step", PEER_MASKED, HF, step_time, "<= 1.15"),
    "peer-plain": ("the peer's plain step: time of transformers' plain step", PEER_PLAIN, HF, step_time, ""),
    "memory": ("prune step: peak memory of the peer's", OURS_MASKED, PEER_MASKED, model_memory, "<= 0.5"),
    "plain-memory": ("plain step: peak memory of transformers'", OURS_PLAIN, HF, model_memory, ""),
}
# Not asked for in the targets and slow to compile: only by name.
BY_NAME_ONLY = {"prune-compiled", "peer-plain"}
SHAPES = ("tiny", "small", "base")
DEFAULT_SHAPES = ("small", "base")
DTYPES = ("fp32", "bf16")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = ", ".join((*SHAPES, *DTYPES, *ROWS))
    parser.add_argument("--only", default="", metavar="WORDS", help=f"comma-separated, of: {words}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/shearling")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here as well")
    options = parser.parse_args()
    chosen = {word for word in options.only.split(",") if word}
    unknown = chosen - {*SHAPES, *DTYPES, *ROWS}
    if unknown:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}; it knows {words}")
    if min(options.rounds, options.steps) < 1 or options.warmup < 0:
        parser.error("--rounds and --steps must be at least 1, --warmup not negative")
    options.shapes = [shape for shape in SHAPES if shape in chosen] or DEFAULT_SHAPES
    options.dtypes = [dtype for dtype in DTYPES if dtype in chosen] or DTYPES
    options.rows = [row for row in ROWS if row in chosen] or [row for row in ROWS if row not in BY_NAME_ONLY]
    return options


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def command(side, shape, dtype, options):
    program, model = side
    common = ["--shape", shape, "--dtype", dtype, "--steps", options.steps, "--warmup", options.warmup]
    common += ["--device", "cpu", "--json"]
    if program == "shearling":
        masks = "on" if model == "masked" else "off"
        return [options.binary, "bench", "step", "--masks", masks, *common]
    if shape == "tiny":  # the peer's own has a small vocabulary
        common += ["--vocab", 32000]
    return [options.python, FOLDER / "step.py", "--model", model, *common]


def run(side, shape, dtype, options):
    """One process; the object it printed."""
    words = [str(word) for word in command(side, shape, dtype, options)]
    threads = str(options.threads)
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    started = time.monotonic()
    finished = subprocess.run(words, env=variables, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{finished.stderr}\nerror: exit code {finished.returncode} of {' '.join(words)}")
    result = json.loads(finished.stdout)
    used = result.get("threads")
    if used is not None and used != options.threads:
        sys.exit(f"error: {' '.join(words)} ran on {used} threads, not {options.threads}: the ratio would mean nothing")
    seconds = time.monotonic() - started
    note(f"{shape} {dtype} {side[0]} {side[1]}: {step_time(result):.0f} ms per step ({seconds:.0f} s in all)")
    return result


def note(text):
    print(text, file=sys.stderr, flush=True)


def needed_sides(rows):
    """Every side that a row needs, ours first, each once."""
    sides = dict.fromkeys(side for row in rows for side in (ROWS[row][2], ROWS[row][1]))
    return sorted(sides, key=lambda side: side[0] != "shearling")


def compare(shape, dtype, options):
    """All rounds of one shape and type: table rows, and the raw measurements by side."""
    sides = needed_sides(options.rows)
    measured = {side: [] for side in sides}
    for number in range(options.rounds):
        note(f"round {number + 1} of {options.rounds}: {shape} {dtype}")
        for side in sides:
            measured[side].append(run(side, shape, dtype, options))
    ratios = []
    for row in options.rows:
        what, above, below, quantity, target = ROWS[row]
        pairs = [(quantity(a), quantity(b)) for a, b in zip(measured[above], measured[below])]
        values = [a / b for a, b in pairs if a is not None and b]
        if values:
            spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            ratios.append({"shape": shape, "dtype": dtype, "row": row, "what": what, "target": target, **spread})
    return ratios, {" ".join(side): results for side, results in measured.items()}


def table(ratios):
    lines = [("shape", "dtype", "what", "ratio", "min - max", "target")]
    for r in ratios:
        spread = f"{r['min']:.2f} - {r['max']:.2f}"
        lines.append((r["shape"], r["dtype"], r["what"], f"{r['median']:.2f}", spread, r["target"]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def machine(options):
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {"cpu": model, "threads": options.threads, "system": platform.platform()}


def main():
    options = arguments()
    if not options.binary.is_file():
        sys.exit(f"error: {options.binary} is not there: `make bench-peer` builds it, or give --binary")
    options.python = environment.python()
    report = {"machine": machine(options), "rounds": options.rounds, "steps": options.steps, "ratios": [], "runs": {}}
    for shape in options.shapes:
        for dtype in options.dtypes:
            ratios, runs = compare(shape, dtype, options)
            report["ratios"] += ratios
            report["runs"][f"{shape} {dtype}"] = runs
            if options.json:  # after every part: a long comparison that is stopped keeps what it has
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["ratios"]))


if __name__ == "__main__":
    main()
