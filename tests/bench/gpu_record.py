#!/usr/bin/env python3
"""Keeps the measurements of gpu.sh: `add FILE NAME COMMAND` appends the JSON object on stdin as one line, `table FILE`
prints what was kept, with the speed relative to the first peer in the same file."""

import json
import statistics
import sys
from pathlib import Path


def add(path, name, command):
    result = json.load(sys.stdin)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"name": name, "command": command, **result}) + "\n")


def gibibytes(result):
    peak, base = result.get("peak_memory_bytes"), result.get("base_memory_bytes") or 0
    return "-" if peak is None else f"{(peak - base) / 2**30:.1f}"


def latency_table(results):
    answers = [(result["name"], model) for result in results for model in result.get("models", [])]
    if answers:
        print(f"{'what':32} {'model':>8} {'prefill tokens/s':>17} {'decode tokens/s':>16} {'of roofline %':>14}")
    for name, model in answers:
        part = model["decode"].get("fraction_of_roofline")
        roofline = "-" if part is None else f"{100 * part:.0f}"
        prefill, decode = model["prefill"]["tokens_per_second"], model["decode"]["tokens_per_second"]
        print(f"{name:32} {model['model']:>8} {prefill:17.0f} {decode:16.1f} {roofline:>14}")


def table(path):
    results = [json.loads(line) for line in Path(path).read_text().splitlines()]
    latency_table(results)
    for check in (check for result in results for check in result.get("checks", [])):
        verdict = "ok" if check["passed"] else "DIFFERS"
        print(f"{check['name']:32} {check['difference']:.1e} (at most {check['bound']:.1e}) {verdict}")
    for key, value in (item for result in results if "matmul_8192_flops" in result for item in result.items()):
        if isinstance(value, float):
            print(f"{key:32} {value:.3e}")
    timed = [result for result in results if "tokens_per_second" in result]
    if not timed:
        return
    first_peer = next((result["name"] for result in timed if result["name"].startswith("peer")), None)
    peers = [result["tokens_per_second"] for result in timed if result["name"] == first_peer]
    reference = statistics.median(peers) if peers else None
    print(f"{'what':32} {'tokens/s':>10} {'MFU %':>6} {'GiB':>6} {'x peer':>7}  ms by phase")
    for result in timed:
        rate = result["tokens_per_second"]
        utilisation = "-" if result.get("mfu") is None else f"{100 * result['mfu']:.1f}"
        ratio = "-" if reference is None else f"{rate / reference:.2f}"
        phases = ", ".join(f"{name} {ms:.0f}" for name, ms in result.get("phases_ms", {}).items())
        print(f"{result['name']:32} {rate:10.0f} {utilisation:>6} {gibibytes(result):>6} {ratio:>7}  {phases}")


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    {"add": add, "table": table}[verb](*rest)
