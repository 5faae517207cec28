"""Prints the table of the experiment from WORK/seed-*/losses.json: mean and spread (standard deviation) over seeds."""

import json
import pathlib
import statistics
import sys

NAMES = ["source", "just pruned", "recovered", "from scratch", "one-shot continued"]


def main(work):
    runs = [json.loads(path.read_text())["models"] for path in sorted(pathlib.Path(work).glob("seed-*/losses.json"))]
    domains = [entry["domain"] for entry in runs[0][0]["domains"]]
    print("| domain | " + " | ".join(NAMES) + " |\n|---|" + "---:|" * len(NAMES))
    for row in domains + ["mean"]:
        cells = []
        for index in range(len(NAMES)):
            losses = [loss(run[index], row) for run in runs]
            spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
            cells.append(f"{statistics.mean(losses):.3f}{spread}")
        print(f"| {row} | " + " | ".join(cells) + " |")


def loss(model, row):
    if row == "mean":
        return model["mean_loss"]
    return next(entry["loss"] for entry in model["domains"] if entry["domain"] == row)


if __name__ == "__main__":
    main(sys.argv[1])
