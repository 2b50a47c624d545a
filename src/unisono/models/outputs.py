"""What the unified model makes of a batch on its way, and what it gives to the loss.

Shape letters: B items of a batch, N items of one modality, T latent frames, L content units, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unisono.models.content_adapter import AdaptedContent
from unisono.types import Alignment, Condition


@dataclass(frozen=True)
class EncodedContent:
    """One modality of a batch after encoder and adapter.

    Attributes:
        index: ``(N,)`` rows of the batch.
        content: what the encoder made of it.
        adapted: content and predicted durations.
        alignment: how the units lie in time.
        durations_s: ``(N, L)`` given durations, or None; a row of zeros has none.
    """

    index: Tensor
    content: Condition
    adapted: AdaptedContent
    alignment: Alignment
    durations_s: Tensor | None


@dataclass(frozen=True)
class DurationPrediction:
    """Durations in the log domain, ``(N, L)`` or ``(N,)``; ``mask``: which count; ``index (N,)``: rows of the batch."""

    prediction: Tensor
    target: Tensor
    mask: Tensor
    index: Tensor


@dataclass(frozen=True)
class TrainingOutput:
    """What the loss needs: ``prediction``, ``target (B, T, C)``, ``frame_mask (B, T)``, ``sigma (B,)``, durations.

    ``task_index (B,)`` is there to weigh and report tasks; the network never saw it.
    """

    prediction: Tensor
    target: Tensor
    frame_mask: Tensor
    sigma: Tensor
    local_durations: list[DurationPrediction]
    global_durations: list[DurationPrediction]
    task_index: Tensor
