"""llama.cpp's own converter, for folders whose byte-level BPE it does not know by name.

    LLAMA_CPP=path/to/llama.cpp to_gguf.py FOLDER --outfile FILE --outtype f32 [any option of convert_hf_to_gguf.py]

The converter knows a byte-level BPE by a hash of what it makes of one text, and a vocabulary that was trained on your
own data has a hash of its own. What the hash stands for is only how text is cut before the BPE, and `data prepare
--train-tokenizer` cuts as llama.cpp's `smollm` does: digits one by one, then GPT-2's pattern. So that is what we answer.
A folder whose tokenizer is of the Llama 2 kind never comes to ask.
"""

import os
import sys

sys.path.insert(1, os.environ["LLAMA_CPP"])
import convert_hf_to_gguf  # noqa: E402
from conversion import base  # noqa: E402

known = base.TextModel.get_vocab_base_pre


def pre_tokenizer(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "smollm"


base.TextModel.get_vocab_base_pre = pre_tokenizer
convert_hf_to_gguf.main()
