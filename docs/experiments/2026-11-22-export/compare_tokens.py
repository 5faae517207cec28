"""llama.cpp (the wheel `xllamacpp`) and transformers on the same folder: ids of texts, greedy tokens, log-probabilities.

    compare_tokens.py FOLDER FILE.gguf [TOKENS]

The first 40 greedy tokens by default, special ones and parts of characters left out on both sides. Log-probabilities
are those of the tokens that both chose.
"""

import sys

import torch
import xllamacpp
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "Once upon a time, there was a dog.",
    "def area(width, height):\n    return width * height  # 3 33 1234567\n",
    "They're said: \"I'm not sure we'll make it\"…\n\n\t  naïve café 你好 🦙",
]


def greedy(folder, ids, count, banned):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        suppress_tokens=banned,
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
    params.verbosity = 0
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    # As it comes, attention is computed and its cache kept in fp16; here the arithmetic is to be compared.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def half_characters(tokenizer, size):
    """Ids that llama.cpp's server would hold back until their character is whole, and the special ones."""
    return [i for i in range(size) if i >= len(tokenizer) or not tokenizer.decode([i], skip_special_tokens=True).isascii()]


def complete(llama, prompt, count, banned):
    """Greedy tokens, their log-probabilities, and how many ids the prompt has."""
    request = dict(prompt=prompt, n_predict=count, temperature=0.0, logprobs=1, ignore_eos=True, cache_prompt=False)
    request["logit_bias"] = [[token, False] for token in banned]
    answer = llama.handle_completions(request)
    steps = answer["choices"][0]["logprobs"]["content"]
    return [step["id"] for step in steps], [step["logprob"] for step in steps], answer["usage"]["prompt_tokens"]


def same_from_the_start(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def main(folder, file, count=40):
    count = int(count)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llama = server(file)
    banned = half_characters(tokenizer, AutoConfig.from_pretrained(folder).vocab_size) + tokenizer.all_special_ids
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        tokens, expected = greedy(folder, ids, count, banned)
        found, chances, _ = complete(llama, ids, count, banned)
        same = same_from_the_start(tokens, found)
        apart = max((abs(a - b) for a, b in zip(expected[:same], chances)), default=0.0)
        # From the text itself: what llama.cpp makes of it, with its own tokenizer, must go on in the same way.
        own, _, own_ids = complete(llama, text, count, banned)
        print(
            f"{folder}: {len(ids)} ids, greedy {same}/{count}, log p apart {apart:.1e}; "
            f"from the text {own_ids} ids, greedy {same_from_the_start(tokens, own)}/{count}"
        )


main(*sys.argv[1:])
