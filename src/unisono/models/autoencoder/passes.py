"""Networks over long audio, some of it at a time.

Shape letters: B items, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[Tensor, Tensor], Tensor]


def in_passes(
    run: Run, x: Tensor, lengths: Tensor, rate: int, reach_frames: int | None, max_frames: int | None
) -> Tensor:
    """``run(x, lengths)``, but over no more than about ``max_frames`` frames at once.

    Several short items make a pass; of an item that is longer than a pass, each pass sees ``reach_frames`` more on both
    sides. Where the network looks no further than that, the result is that of one pass, but for rounding.

    Args:
        run: ``(b, t * rate, …)`` and the frames ``(b,)`` of each row to a result whose dimension 1 is a multiple of
            ``t``. It must treat the end of its input as it treats that of an item.
        x: ``(B, T * rate, …)``.
        lengths: ``(B,)`` frames.
        rate: values of ``x`` in a frame.
        reach_frames: see above; None where a network has a memory without end, so that items are never split.
        max_frames: None runs over everything at once.
    """
    num_items, num_frames = x.shape[0], x.shape[1] // rate
    if max_frames is None or num_items * num_frames <= max_frames:
        return run(x, lengths)
    if num_frames <= max_frames or reach_frames is None:
        rows = max(1, max_frames // num_frames)
        return torch.cat([run(a, b) for a, b in zip(x.split(rows), lengths.split(rows), strict=True)])
    return torch.cat(
        [
            _over_time(run, x[row : row + 1], lengths[row : row + 1], rate, reach_frames, max_frames)
            for row in range(num_items)
        ]
    )


def _over_time(run: Run, x: Tensor, lengths: Tensor, rate: int, reach_frames: int, max_frames: int) -> Tensor:
    num_frames = x.shape[1] // rate
    # Parts of equal length: shapes stay few, and no part is so short that it is mostly surroundings.
    own = math.ceil(num_frames / math.ceil(num_frames / max_frames))
    parts = []
    for start in range(0, num_frames, own):
        first, last = max(0, start - reach_frames), min(num_frames, start + own + reach_frames)
        part = run(x[:, first * rate : last * rate], (lengths - first).clamp(0, last - first))
        scale = part.shape[1] // (last - first)
        kept = min(own, num_frames - start)
        parts.append(part[:, (start - first) * scale : (start - first + kept) * scale])
    return torch.cat(parts, dim=1)
