"""Our answers beside those of lm-evaluation-harness.

    python3 compare.py ANSWERS HARNESS_OUT

ANSWERS is what `shearling eval --answers` wrote, HARNESS_OUT the folder given to `lm_eval --output_path` (with
`--log_samples`). Prints a table of accuracies, and how far apart the log-likelihoods are.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path


def ours(path):
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        answer = json.loads(line)
        found[Path(answer["model"]).parts[-2], answer["task"]].append(answer)
    return found


def theirs(folder):
    found = {}
    for path in sorted(folder.glob("*/samples_local_*.jsonl")):
        # The folder is the model's path with its slashes doubled as underscores.
        model = path.parent.name.split("__")[-2]
        task = path.name.removeprefix("samples_local_").rsplit("_", 1)[0]
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        found[model, task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


def main(answers, harness):
    own, other = ours(answers), theirs(harness)
    print("| model | task | acc, harness | acc, ours | acc_norm, harness | acc_norm, ours | other answers | log-likelihood |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for (model, task), mine in own.items():
        samples = other[model, task]
        assert len(mine) == len(samples)
        mean = lambda lines, key: sum(line[key] for line in lines) / len(lines)
        apart = different = 0
        for answer, sample in zip(mine, samples):
            scores = [float(pair[0]) for pair in sample["filtered_resps"]]
            apart = max(apart, *(abs(a - b) for a, b in zip(answer["log_likelihoods"], scores, strict=True)))
            different += (answer["acc"], answer["acc_norm"]) != (sample["acc"], sample["acc_norm"])
        figures = [f"{mean(lines, key):.4f}" for key in ("acc", "acc_norm") for lines in (samples, mine)]
        print(f"| {model} | {task} | {' | '.join(figures)} | {different} of {len(mine)} | {apart:.1e} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
