#!/usr/bin/env python3
"""What a training step should take on a GPU: bytes and FLOPs of every kernel over ceilings that were measured.

    gpu_predict.py                  the shapes of gpu.sh on an H200, beside what was measured there before
    gpu_predict.py --shape 7b --rows 1 --recomputed --masks

It knows nothing of gaps between launches, of waves that are not full, or of clocks: a step is slower than this, not faster.
"""

import argparse
from dataclasses import dataclass

# hidden, intermediate, layers, heads, KV heads; vocabulary 32,000
SHAPES = {
    "1.3b": (2048, 5504, 24, 16, 16),
    "2.7b": (2560, 6912, 32, 20, 20),
    "7b": (4096, 11008, 32, 32, 32),
}
VOCABULARY = 32_000
TOKENS = 4096
BF16 = 2

# docs/benchmarks/2026-11-26-gpu.md: an H200.
PRODUCT_FLOPS = 650e12  # products of these shapes
HEAD_FLOPS = 732e12
ATTENTION_FLOPS = 476e12  # causal, forward; the backward has 2.5 times the FLOPs, at about four fifths of the rate
ATTENTION_BACKWARD = 2.5 / 0.8
COPY_BYTES = 4.09e12  # read and written
PEAK_FLOPS = 989e12
SMALL_LAUNCH = 3e-6  # a kernel over a few thousand numbers

# Tokens per second of the PyTorch peer (7b, masked, recomputed) and of transformers, eager (plain), in the same page.
MEASURED = {"7b": 9371, "1.3b": 37_909, "2.7b": 19_835}


@dataclass
class Step:
    """Seconds of one row of TOKENS tokens, by what takes them."""

    products: float
    attention: float
    elementwise: float
    masks: float
    loss: float
    optimizer: float

    def total(self):
        return sum(vars(self).values())


def predict(shape, rows, batch, masks, recomputed):
    """Of one row, in micro-batches of `rows` rows and steps of `batch`."""
    d, f, layers, heads, kv_heads = SHAPES[shape]
    e = d // heads
    q, kv = heads * e, kv_heads * e
    weights = d * (q + 2 * kv) + q * d + 3 * d * f
    forward_flops = 2 * TOKENS * weights
    passes = 4 if recomputed else 3
    products = layers * passes * forward_flops / PRODUCT_FLOPS
    attention_flops = 4 * TOKENS * TOKENS * q / 2
    attention = layers * ((2 if recomputed else 1) + ATTENTION_BACKWARD) * attention_flops / ATTENTION_FLOPS

    stream, inner = TOKENS * d * BF16, TOKENS * f * BF16
    heads_bytes = TOKENS * (q + kv) * BF16
    # Two norms (read, write), rope of q and k, two residual copies, SwiGLU (two read, one written).
    forward = 4 * stream + 2 * heads_bytes + 4 * stream + 3 * inner
    # Norms read x, the gradient and the stream's, write one; rope; SwiGLU reads three and writes two; sums of input gradients
    # inside products (q, k, v: two more reads; gate, up: one).
    backward = 2 * 4 * stream + 2 * heads_bytes + 5 * inner + 3 * stream
    elementwise = layers * ((2 if recomputed else 1) * forward + backward) / COPY_BYTES

    folded = (q * d + d * f) * BF16
    # Folding reads and writes, in forward, recomputation and backward; unfolding reads the gradient and the weight and adds
    # to fp32.
    per_micro_batch = (3 if recomputed else 2) * 2 * folded + 2 * folded + 4 * folded
    mask_launches = 12 * SMALL_LAUNCH
    mask_seconds = layers * (per_micro_batch / COPY_BYTES + mask_launches) / rows if masks else 0.0

    logits = TOKENS * VOCABULARY
    # The kernel reads twice and writes once.
    loss = 3 * 2 * logits * d / HEAD_FLOPS + 3 * logits * BF16 / COPY_BYTES
    parameters = layers * weights + 2 * VOCABULARY * d
    # Master (in two halves), gradient and two moments in fp32, read and written.
    optimizer = parameters * 32 / COPY_BYTES / batch
    return Step(products, attention, elementwise, mask_seconds, loss, optimizer), parameters


def describe(shape, rows, batch, masks, recomputed):
    step, parameters = predict(shape, rows, batch, masks, recomputed)
    total = step.total()
    # 6 per parameter and token, and attention's.
    d, _, layers, *_ = SHAPES[shape]
    flops = TOKENS * (6 * parameters + 12 * layers * d * TOKENS / 2)
    other = total - step.products - step.attention - step.optimizer - 6 * TOKENS * VOCABULARY * d / HEAD_FLOPS
    name = f"{shape}, {'masked' if masks else 'plain'}, {'all blocks recomputed' if recomputed else 'nothing recomputed'}"
    parts = ", ".join(f"{part} {1e3 * seconds:.1f}" for part, seconds in vars(step).items() if seconds)
    print(f"{name}: {TOKENS / total:,.0f} tokens/s, {100 * flops / total / PEAK_FLOPS:.0f} % MFU")
    print(f"    ms per row: {parts}; neither product nor attention nor optimizer {100 * other / total:.1f} %")
    print(f"    {TOKENS / total / MEASURED[shape]:.2f} times the {MEASURED[shape]:,} tokens/s measured in PyTorch")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rows", type=int, default=1, help="rows per micro-batch")
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--recomputed", action="store_true", help="every block is computed again in the backward")
    options = parser.parse_args()
    if options.shape:
        describe(options.shape, options.rows, options.batch, options.masks, options.recomputed)
        return
    describe("7b", 1, 16, True, True)
    describe("7b", 1, 16, True, False)
    describe("2.7b", 2, 8, False, False)
    describe("1.3b", 4, 8, False, False)
    describe("1.3b", 4, 8, True, False)


if __name__ == "__main__":
    main()
