"""Forward and backward time of fused attention on the CPU in bfloat16 and float32: why layers.py chooses float32.

python benchmarks/attention.py
"""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn import functional as F

BATCH, HEADS, HEAD_DIM, REPEATS = 16, 4, 64, 15


def measure(queries: int, keys: int, dtype: torch.dtype) -> tuple[float, float]:
    """Median milliseconds of the forward and the backward pass."""

    def tensor(length: int) -> torch.Tensor:
        return torch.randn(BATCH, HEADS, length, HEAD_DIM, dtype=dtype, requires_grad=True)

    query, key, value = tensor(queries), tensor(keys), tensor(keys)
    mask = torch.arange(keys).expand(BATCH, 1, 1, -1) < keys - 5
    forward, backward = [], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        middle = time.perf_counter()
        out.sum().backward()
        forward.append(middle - begin)
        backward.append(time.perf_counter() - middle)
    return 1e3 * statistics.median(forward), 1e3 * statistics.median(backward)


def main() -> None:
    print(f"batch {BATCH}, {HEADS} heads of {HEAD_DIM}, {torch.get_num_threads()} threads; ms, median of {REPEATS}")
    for queries, keys in ((100, 100), (100, 60), (250, 250), (500, 500)):
        for dtype in (torch.bfloat16, torch.float32):
            forward, backward = measure(queries, keys, dtype)
            print(f"{queries:4d} x {keys:<4d} {dtype!s:<15} forward {forward:6.2f}  backward {backward:6.2f}")


if __name__ == "__main__":
    main()
