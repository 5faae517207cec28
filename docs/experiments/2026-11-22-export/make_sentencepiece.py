"""A SentencePiece `tokenizer.model` from a tokenizer.json of the Llama 2 kind.

    make_sentencepiece.py TOKENIZER.JSON TOKENIZER.MODEL

For the experiment only, where the original file was not at hand: a real Llama 2 folder has it. In a BPE of that kind
pieces are numbered in the order of their merges, and a piece's score is the negative of its place.
"""

import json
import sys

from sentencepiece import sentencepiece_model_pb2 as model


def main(source, target):
    tokenizer = json.load(open(source))
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    Piece = model.ModelProto.SentencePiece
    made = model.ModelProto()
    first = 3 + 256
    for text, place in vocabulary:
        kind = Piece.NORMAL
        if text == "<unk>":
            kind = Piece.UNKNOWN
        elif text in ("<s>", "</s>"):
            kind = Piece.CONTROL
        elif place < first:
            kind = Piece.BYTE
        made.pieces.add(piece=text, score=float(first - place) if place >= first else 0.0, type=kind)
    made.trainer_spec.model_type = model.TrainerSpec.BPE
    made.trainer_spec.byte_fallback = True
    made.trainer_spec.unk_id, made.trainer_spec.bos_id, made.trainer_spec.eos_id = 0, 1, 2
    made.trainer_spec.pad_id = -1
    made.normalizer_spec.name = "identity"
    made.normalizer_spec.add_dummy_prefix = True
    made.normalizer_spec.remove_extra_whitespaces = False
    made.normalizer_spec.escape_whitespaces = True
    open(target, "wb").write(made.SerializeToString())


main(*sys.argv[1:])
