"""Reads the event files of a run with the real `tensorboard` and compares them with its metrics.jsonl.

    read_back.py RUN [EVENTS]                          EVENTS: default RUN/tensorboard

Three readers: TensorBoard's event accumulator (Python), and its web server with each of its two loaders (the Python one
and the data server, `--load_fast`), asked over HTTP as the browser asks it.
"""

import json
import re
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator


def read_metrics(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def as_fp32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def expected_scalars(records):
    """Tag to [(step, value)], written down here a second time: not taken from the program's own table."""
    found = {}

    def point(tag, step, value):
        if value is not None:
            found.setdefault(tag, []).append((step, as_fp32(float(value))))

    for record in records:
        step = record["step"]
        if record["type"] == "step":
            for key in ("total", "cross_entropy", "perplexity", "lagrangian"):
                point(f"loss/{key}", step, record["loss"][key])
            for group in ("learning_rate", "gradient_norm"):
                for key, value in record[group].items():
                    point(f"{group}/{key}", step, value)
            for name, domain in record["domains"].items():
                point(f"loss/domain/{name}", step, domain["loss"])
                for key in ("proportion", "rows", "rows_total", "rows_left", "epochs"):
                    point(f"{key}/{name}", step, domain[key])
            for c in record.get("constraints", []):
                point(f"sparsity/expected/{c['module']}", step, c["expected_sparsity"])
                point(f"sparsity/target/{c['module']}", step, c["target_sparsity"])
                point(f"multipliers/lambda_1/{c['module']}", step, c["lambda_1"])
                point(f"multipliers/lambda_2/{c['module']}", step, c["lambda_2"])
                for key in ("violation", "worst_row_violation", "loss"):
                    point(f"constraint/{key}/{c['module']}", step, c[key])
            if "sparsity" in record:
                point("sparsity/expected/all", step, record["sparsity"]["expected"])
                point("sparsity/target/all", step, record["sparsity"]["target"])
                point("sparsity/expected_parameters", step, record["sparsity"]["expected_parameters"])
            point("gradient_norm/clip_scale", step, record["clip_scale"])
            for key in ("tokens", "applied", "skipped"):
                point(f"progress/{key}", step, record[key])
            for key in ("seconds", "tokens_per_second", "model_flops_per_second"):
                point(f"throughput/{key}", step, record[key])
            point("memory/peak_bytes", step, record["peak_memory_bytes"])
        elif record["type"] == "eval":
            cut = record["gates"] == "target"
            group = "eval_cut" if cut else "eval"
            point(f"{group}/mean_loss", step, record["mean_loss"])
            for name, domain in record["domains"].items():
                for key in ("loss", "standard_error", "perplexity", "reference", "excess"):
                    point(f"{group}/{key}/{name}", step, domain[key])
            if not cut:
                for module, rows in record["row_sparsity"].items():
                    for row, value in enumerate(rows):
                        point(f"row_sparsity/{module}/{row:03}", step, value)
                for mask in (record["masks"] or {}).get("modules", []):
                    point(f"masks/undecided/{mask['module']}", step, sum(mask["undecided"]))
                    point(f"masks/half_alive/{mask['module']}", step, mask["half_alive"]["count"])
                    point(f"masks/still_open/{mask['module']}", step, mask["still_open"]["count"])
    return found


def histograms(records):
    """Tag to [(step, counts)]."""
    found = {}
    for record in records:
        if record["type"] == "eval" and record["gates"] == "expected":
            for mask in record["masks"]["modules"]:
                found.setdefault(f"gates/{mask['module']}", []).append((record["step"], mask["histogram"]))
    return found


def by_accumulator(events):
    everything = {"scalars": 0, "tensors": 0, "histograms": 0}
    reader = event_accumulator.EventAccumulator(str(events), size_guidance=everything)
    reader.Reload()
    tags = reader.Tags()
    scalars = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    counts = {
        tag: [(e.step, list(e.histogram_value.bucket)) for e in reader.Histograms(tag)] for tag in tags["histograms"]
    }
    texts = {tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in reader.Tensors(tag)] for tag in tags["tensors"]}
    return scalars, counts, texts


def by_server(events, fast, expected):
    command = ["tensorboard", "--logdir", str(events), "--port", "0", "--host", "127.0.0.1"]
    # The server keeps a thousand points of a curve unless it is told otherwise.
    command += [f"--load_fast={fast}", "--samples_per_plugin=scalars=100000"]
    command[0] = str(Path(sys.executable).parent / "tensorboard")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+", line)))
            return ask(url, expected)
        finally:
            server.terminate()


def ask(url, expected):
    def get(path):
        with urllib.request.urlopen(url.rstrip("/") + path, timeout=30) as answer:
            return json.loads(answer.read())

    before = None
    for _ in range(60):
        time.sleep(1)
        tags = get("/data/plugin/scalars/tags")
        if tags and tags == before:
            break
        before = tags
    (run,) = tags
    scalars = {}
    for tag in tags[run]:
        query = urllib.parse.urlencode({"run": run, "tag": tag})
        scalars[tag] = [(step, value) for _, step, value in get(f"/data/plugin/scalars/scalars?{query}")]
    shown = {name: sorted(get(f"/data/plugin/{name}/tags").get(run, {})) for name in ("histograms", "text")}
    return scalars, shown


def differences(found, expected):
    tags = sorted(set(found) ^ set(expected))
    curves = [tag for tag in set(found) & set(expected) if found[tag] != expected[tag]]
    return f"{len(found)} tags, {sum(map(len, found.values()))} points, differing: {tags + curves or 'nothing'}"


def main(run, events=None):
    events = Path(events or Path(run) / "tensorboard")
    records = read_metrics(run)
    expected = expected_scalars(records)
    scalars, counts, texts = by_accumulator(events)
    print(f"{len(records)} records, {len(list(events.iterdir()))} event file(s)")
    print("accumulator, scalars:   ", differences(scalars, expected))
    print("accumulator, histograms:", differences(counts, histograms(records)))
    print("accumulator, texts:     ", {tag: [step for step, _ in found] for tag, found in texts.items()})
    resolved = (Path(run) / "resolved.toml").read_text()
    shown = texts["config"][-1][1]
    print("config is resolved.toml:", "\n".join(line[4:] for line in shown.splitlines()) == resolved.rstrip("\n"))
    for fast in ("false", "true"):
        scalars, shown = by_server(events, fast, expected)
        print(f"server, load_fast={fast}, scalars:", differences(scalars, expected))
        print(f"server, load_fast={fast}, others: ", shown)


main(*sys.argv[1:])
