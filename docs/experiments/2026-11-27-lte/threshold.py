"""Loss of a dense model that runs only the intermediate units above a threshold, without training: threshold.py MODEL DATA ROWS
DENSITY...; per layer the threshold is the quantile of |SiLU(gate)| over rows of the training text (CATS, arXiv 2404.08763). Prints
mean loss over the domains and density in %, on the first ROWS held-out rows of each. Needs torch, transformers, pyarrow."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

CALIBRATION_ROWS = 2
KEPT = 7  # of the calibration's numbers one in so many, a divisor of no width
BATCH = 2


def rows(data, domain, side, count):
    manifest = json.loads((data / "manifest.json").read_text())
    files = next(d for d in manifest["domains"] if d["name"] == domain)[side]["files"]
    found = []
    for file in files:
        found += pq.read_table(data / file["name"])["input_ids"].to_pylist()
        if len(found) >= count:
            break
    return torch.tensor(found[:count]).split(BATCH)


def loss(model, batches):
    total = count = 0
    for tokens in batches:
        logits = model(tokens).logits[:, :-1]
        targets = tokens[:, 1:].flatten()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum").item()
        count += len(targets)
    return total / count


@torch.no_grad()
def main():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    data, count = Path(sys.argv[2]), int(sys.argv[3])
    domains = [d["name"] for d in json.loads((data / "manifest.json").read_text())["domains"]]
    layers = model.model.layers
    seen = [[] for _ in layers]
    thresholds = [None] * len(layers)
    ran = []

    def watch(layer):
        def hook(_module, _inputs, output):
            if thresholds[layer] is None:
                seen[layer].append(output.abs().flatten()[::KEPT])
                return output
            runs = output.abs() >= thresholds[layer]
            ran.append(runs.float().mean().item())
            return output * runs

        return hook

    for layer, module in enumerate(layers):
        module.mlp.act_fn.register_forward_hook(watch(layer))
    for domain in domains:
        for tokens in rows(data, domain, "train", CALIBRATION_ROWS):
            model.model(tokens)
    sizes = [torch.cat(values).sort().values for values in seen]
    for density in map(float, sys.argv[4:]):
        for layer, values in enumerate(sizes):
            thresholds[layer] = values[int((1 - density) * (len(values) - 1))]
        ran.clear()
        losses = [loss(model, rows(data, domain, "validation", count)) for domain in domains]
        print(round(sum(losses) / len(losses), 4), round(100 * sum(ran) / len(ran), 1), flush=True)


if __name__ == "__main__":
    main()
