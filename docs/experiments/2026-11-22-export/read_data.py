"""Prepared data in Hugging Face `datasets`, and its tokenizer in `tokenizers`.

    read_data.py DATA

Every domain by its name in the folder's own README, both splits: rows and their length against manifest.json.
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from tokenizers import Tokenizer


def main(folder):
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    for domain in manifest["domains"]:
        found = load_dataset(folder, domain["name"])
        for split in ("train", "validation"):
            rows = found[split]
            assert rows.num_rows == domain[split]["rows"], (domain["name"], split, rows.num_rows)
            assert all(len(ids) == manifest["sequence_length"] for ids in rows["input_ids"])
            assert max(max(ids) for ids in rows["input_ids"]) < tokenizer.get_vocab_size() == manifest["vocab_size"]
        text = tokenizer.decode(found["train"][0]["input_ids"])
        print(f"{domain['name']}: {found['train'].num_rows} + {found['validation'].num_rows} rows, {text[:50]!r}")
    print("features:", found["train"].features)


main(*sys.argv[1:])
