"""llama.cpp (the wheel `xllamacpp`) and transformers on the same folder: ids of texts, greedy tokens, log-probabilities.

    compare_tokens.py FOLDER FILE.gguf [TOKENS]

The first 40 of the greedy tokens by default. Log-probabilities are those of the tokens both chose.
"""

import sys

import torch
import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "Once upon a time, there was a dog.",
    "def area(width, height):\n    return width * height  # 3 33 1234567\n",
    "They're said: \"I'm not sure we'll make it\"…\n\n\t  naïve café 你好 🦙",
]


def greedy(folder, ids, count):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, len(ids) :].tolist()
    chosen = [torch.log_softmax(step[0], -1)[token].item() for step, token in zip(out.logits, tokens)]
    return tokens, chosen


def server(file):
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = 128
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def complete(llama, prompt, count):
    request = dict(prompt=prompt, n_predict=count, temperature=0.0, n_probs=1, ignore_eos=True, cache_prompt=False)
    request |= dict(return_tokens=True, samplers=["temperature"], post_sampling_probs=False)
    return llama.handle_completions(request)


def main(folder, file, count=40):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llama = server(file)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        tokens, expected = greedy(folder, ids, int(count))
        answer = complete(llama, ids, int(count))
        found = [step["id"] for step in answer["completion_probabilities"]]
        chances = [step["logprob"] for step in answer["completion_probabilities"]]
        same = next((i for i, (a, b) in enumerate(zip(tokens, found)) if a != b), min(len(tokens), len(found)))
        apart = max((abs(a - b) for a, b in zip(expected[:same], chances)), default=0.0)
        # Both begin with BOS where the folder says so; the ids are those that llama.cpp itself makes of the text.
        own = complete(llama, text, 1)
        agree = "same" if own["tokens_evaluated"] == len(ids) else f"{own['tokens_evaluated']} against {len(ids)}"
        print(f"{folder}: {len(ids)} ids ({agree} in llama.cpp), greedy {same}/{len(tokens)}, log p apart {apart:.1e}")


main(*sys.argv[1:])
