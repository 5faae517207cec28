#!/usr/bin/env python3
"""How libtorch's threads should wait for one another: training, evaluation and decoding on a quiet machine and beside
busy neighbours, with the ways of waiting in turn. Prints a Markdown table; about ten minutes on two cores.

    waiting.py                                       # libgomp's own way (spin), ours (default), asleep at once (passive)
    waiting.py --settings spin,500,default,8000      # a number: GOMP_SPINCOUNT, to choose the default by
    waiting.py --only decode --model FOLDER          # a real model instead of random weights

Each measurement is a process of its own. A neighbour is a process that computes without end on the same cores. In each
round every setting runs once under every load, and ratios are taken inside a round; the table has their median, smallest
and largest. The quiet rows mean something only if nothing else runs on the machine.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_NUM_THREADS")
# What libgomp does when nobody says anything: 300,000 turns.
SETTINGS = {"spin": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"}, "default": {}}
QUIET = 0.1  # of one core, used by others
EVAL_TOKENS = 256


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/shearling")
    parser.add_argument("--settings", default="spin,default,passive", help="the first is what the others are compared with")
    parser.add_argument("--only", default=",".join(WORK), metavar="WORDS", help="comma-separated, of: " + ", ".join(WORK))
    parser.add_argument("--neighbours", default="0,1,2", help="how many, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="for eval and decode, with its tokenizer.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here as well")
    parser.add_argument("--anyway", action="store_true", help="also on a machine that is not quiet")
    options = parser.parse_args()
    options.settings, options.only = options.settings.split(","), options.only.split(",")
    options.neighbours = [int(count) for count in options.neighbours.split(",")]
    unknown = [name for name in options.settings if name not in SETTINGS and not name.isdigit()]
    unknown += [name for name in options.only if name not in WORK]
    if unknown:
        parser.error(f"not known: {', '.join(unknown)}")
    return options


def variables(setting):
    own = SETTINGS.get(setting, {"GOMP_SPINCOUNT": setting})
    return {**{name: value for name, value in os.environ.items() if name not in VARIABLES}, **own}


def shearling(options, words, setting="default"):
    """Standard output of one process, and the seconds it took."""
    words = [str(word) for word in (options.binary, *words)]
    started = time.monotonic()
    finished = subprocess.run(words, env=variables(setting), capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{finished.stderr}\nerror: exit code {finished.returncode} of {' '.join(words)}")
    return finished.stdout, time.monotonic() - started


def train(shape, more):
    def rate(options, setting):
        words = ["bench", "step", "--shape", shape, *more, "--device", "cpu", "--json", "--peak-tflops", 1]
        return json.loads(shearling(options, words, setting)[0])["tokens_per_second"]

    return rate


def decode(options, setting):
    model = [options.model] if options.model else ["--shape", "small"]
    words = ["bench", "latency", *model, "--prompt-tokens", 64, "--new-tokens", 64, "--rounds", 2, "--device", "cpu"]
    return json.loads(shearling(options, [*words, "--json"], setting)[0])["models"][0]["decode"]["tokens_per_second"]


def evaluate(options, setting):
    """Tokens per second, from the time that more rows take than few."""
    seconds = []
    for rows in (1, 9):
        words = ["eval", options.eval_model, "--data", options.data, "--rows", rows, "--micro-batch", 1]
        seconds.append(shearling(options, [*words, "--device", "cpu", "--dtype", "bf16", "--json"], setting)[1])
    return 2 * (9 - 1) * EVAL_TOKENS / max(seconds[1] - seconds[0], 1e-3)


# name: (what it says, measurement)
WORK = {
    "tiny": ("training, `tiny`", train("tiny", ("--steps", 9))),
    "small": ("training, `small`, rows of 512", train("small", ("--rows", 1, "--tokens", 512, "--steps", 3, "--warmup", 1))),
    "eval": ("evaluation, rows of 256", evaluate),
    "decode": ("decoding, batch size 1", decode),
}


def prepare(options, folder):
    """Text of two domains in rows, and for `eval` a model with random weights that reads them."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 7))) for _ in range(2000)]
    for domain in ("one", "two"):
        (folder / "text" / domain).mkdir(parents=True)
        lines = (json.dumps({"text": " ".join(draw.choices(words, k=400))}) for _ in range(300))
        (folder / "text" / domain / "text.jsonl").write_text("\n".join(lines) + "\n")
    options.data, options.eval_model = folder / "data", options.model
    tokenizer = ["--tokenizer", options.model / "tokenizer.json"] if options.model else ["--train-tokenizer", 1000]
    common = ["--sequence-length", EVAL_TOKENS, "--out", options.data]
    shearling(options, ["data", "prepare", "--from", folder / "text", *tokenizer, *common])
    if options.model:
        return
    config = folder / "random.toml"
    config.write_text(
        f"[run]\ndirectory = '{folder}/run'\ndevice = 'cpu'\n[data]\npath = '{options.data}'\n"
        "[model.random]\nhidden_size = 512\nintermediate_size = 1376\nnum_hidden_layers = 8\nnum_attention_heads = 8\n"
        "[train]\nsteps = 1\nbatch_rows = 1\nlearning_rate = 1e-5\n[eval]\nrows_per_domain = 1\n"
    )
    shearling(options, ["pretrain", "--config", config])
    options.eval_model = folder / "run" / "model"


class Neighbours:
    """Processes that compute without end."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self.count)]

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def cores_in_use():
    """Cores that something uses now, over two seconds; None where the system does not tell."""
    def busy():
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers) - numbers[3] - numbers[4]

    try:
        before = busy()
        time.sleep(2)
        return (busy() - before) / os.sysconf("SC_CLK_TCK") / 2
    except OSError:
        return None


def measure(options, result):
    total = len(options.neighbours) * len(options.only) * len(options.settings)
    for number in range(options.rounds):
        for count in options.neighbours:
            for work in options.only:
                for setting in options.settings:
                    with Neighbours(count):
                        rate = WORK[work][1](options, setting)
                    result["rates"].setdefault(f"{work} {count} {setting}", []).append(rate)
                    print(f"round {number + 1}: {work}, {count} neighbours, {setting}: {rate:.1f} tokens/s", file=sys.stderr)
                if options.json:  # a long measurement that is stopped keeps what it has
                    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.rounds} rounds of {total} measurements", file=sys.stderr)


def table(options, rates):
    first, others = options.settings[0], options.settings[1:]
    head = ["what", "busy neighbours", *(f"{name}, tokens/s" for name in options.settings)]
    head += [f"{name} / {first} (min – max)" for name in others]
    lines = [head, ["---"] * len(head)]
    for work in options.only:
        for count in options.neighbours:
            base = rates[f"{work} {count} {first}"]
            cells = [WORK[work][0], str(count)]
            cells += [f"{statistics.median(rates[f'{work} {count} {name}']):,.0f}" for name in options.settings]
            for name in others:
                ratios = [own / other for own, other in zip(rates[f"{work} {count} {name}"], base)]
                cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})")
            lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}, {platform.platform()}"


def main():
    options = arguments()
    if not options.binary.is_file():
        sys.exit(f"error: {options.binary} is not there: build it with `cargo build --release`, or give --binary")
    used = cores_in_use()
    if used is not None and used > QUIET and not options.anyway:
        sys.exit(f"error: {used:.1f} cores are in use already: wait until the machine is quiet, or give --anyway")
    print(shearling(options, ["doctor", "--device", "cpu"])[0], file=sys.stderr)
    result = {"machine": machine(), "cores_in_use_before": used, "settings": options.settings, "rates": {}}
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, Path(folder))
        started = time.monotonic()
        measure(options, result)
    print(f"{machine()}; {options.rounds} rounds in {(time.monotonic() - started) / 60:.0f} min\n")
    print(table(options, result["rates"]))


if __name__ == "__main__":
    main()
