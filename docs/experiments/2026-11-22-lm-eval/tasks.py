"""Task files by which lm-evaluation-harness asks questions from local files, prompts and cleaning being its own.

    python3 tasks.py QUESTIONS OUT

writes OUT/local_{hellaswag,arc,piqa}.yaml: each includes the harness's own task and replaces where its data is.
"""

import sys
from pathlib import Path

import lm_eval.tasks

OWN = {"hellaswag": "hellaswag/hellaswag.yaml", "arc": "arc/arc_easy.yaml", "piqa": "piqa/piqa.yaml"}


def task(name, questions):
    return f"""\
include: {Path(lm_eval.tasks.__file__).parent / OWN[name]}
task: local_{name}
tag: null
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    validation: {questions / (name + ".jsonl")}
training_split: null
validation_split: validation
test_split: null
"""


def main(questions, out):
    out.mkdir(parents=True, exist_ok=True)
    for name in OWN:
        (out / f"local_{name}.yaml").write_text(task(name, questions.resolve()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
