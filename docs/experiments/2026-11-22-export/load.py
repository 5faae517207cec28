"""Loads folders with transformers, as a user would, and generates.

    load.py FOLDER…

Fails if a weight is missing or left over.
"""

import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

for folder in sys.argv[1:]:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    prompt.pop("token_type_ids", None)
    out = model.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(out[0], skip_special_tokens=True)
    kind = next(model.parameters()).dtype
    print(f"{transformers.__version__} {folder}: {type(model).__name__} {kind} {type(tokenizer).__name__} {text!r}")
