#!/usr/bin/env python3
"""What the GPU does at most, measured: bf16 matrix product, attention of the 7B shape, device-to-device copy.

Random data: on zeros the chip is faster than on anything real.
"""

import json
import statistics

import torch
import torch.nn.functional as F


def median_seconds(function, repeats=20):
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def matmul(rows, inner, columns):
    a = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(columns, inner, device="cuda", dtype=torch.bfloat16)
    return 2 * rows * inner * columns / median_seconds(lambda: F.linear(a, b))


def attention(tokens, heads, size):
    """Causal forward: half of all scores count."""
    q, k, v = torch.randn(3, 1, heads, tokens, size, device="cuda", dtype=torch.bfloat16).unbind(0)
    seconds = median_seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return 2 * heads * tokens * tokens * size / seconds


def copy(size):
    source = torch.randint(255, (size,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source))


def main():
    torch.manual_seed(0)
    result = {
        "device": torch.cuda.get_device_name(),
        "matmul_8192_flops": matmul(8192, 8192, 8192),
        "matmul_7b_attention_flops": matmul(4096, 4096, 4096),
        "matmul_7b_mlp_flops": matmul(4096, 4096, 11008),
        "matmul_7b_head_flops": matmul(4096, 4096, 32000),
        "attention_7b_forward_flops": attention(4096, 32, 128),
        "copy_bytes_per_second": copy(4 << 30),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
