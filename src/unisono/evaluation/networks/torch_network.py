"""What networks of torch have in common: one recording at a time, long ones in equal parts, no random numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

import unisono
from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks.checkpoints import fingerprint
from unisono.evaluation.networks.network import AudioNetwork
from unisono.features.pretrained import inference


@contextmanager
def listening(device: str) -> Iterator[None]:
    """Inference whose numbers depend neither on the number of threads nor on a GPU's shortcuts (TF32, autotuning)."""
    import torch

    reduced = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            inference(device),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = reduced


def check_device(device: str) -> str:
    """The device, if torch has it here; `UserError` if not."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device!r} is not to be had here ({reason}); use cpu") from error
    return device


def checked_waveform(waveform: np.ndarray, shortest_samples: int, sample_rate: int, name: str) -> np.ndarray:
    """float32 ``(S,)``; `MetricFailure` if it is shorter than the network's input or holds NaN."""
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    assert waveform.ndim == 1, f"mono audio (S,) is wanted, not {waveform.shape}"
    if len(waveform) < max(shortest_samples, 1):
        length_s, needed_s = len(waveform) / sample_rate, shortest_samples / sample_rate
        raise MetricFailure(f"{length_s:.2f} s are too short for {name}, which needs {needed_s:.2f} s")
    if not np.isfinite(waveform).all():
        raise MetricFailure("the waveform holds NaN or infinite samples")
    return waveform


def equal_parts(waveform: np.ndarray, longest_samples: int) -> list[np.ndarray]:
    """As few consecutive parts as possible of at most ``longest_samples``, as equal as possible."""
    return np.array_split(waveform, math.ceil(len(waveform) / longest_samples))


class TorchNetwork(AudioNetwork):
    """A network whose clips go through ``hear``, in equal parts where they are long.

    Attributes:
        shortest_samples: below that there is nothing to compute.
        longest_s: longer clips are cut into equal parts of at most that; frames and texts follow one another,
            everything else is averaged. None hears any length at once.
    """

    shortest_samples: ClassVar[int] = 1
    longest_s: ClassVar[float | None] = None

    def __init__(self, device: str, parameters: dict[str, Any]) -> None:
        self.device = check_device(device)
        self.implementation = f"{type(self).__module__}.{type(self).__name__}"
        self.version = unisono.__version__
        cut = "heard at once" if self.longest_s is None else f"equal parts of at most {self.longest_s:g} s, averaged"
        self.parameters = {"network": self.name, "sample_rate": self.sample_rate, "long_clips": cut, **parameters}
        self.fingerprint = fingerprint(self)

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        waveform = checked_waveform(waveform, self.shortest_samples, self.sample_rate, self.name)
        with listening(self.device):
            heard = [self.hear(part) for part in self.parts(waveform)]
        return {name: _joined(name, [arrays[name] for arrays in heard]) for name in heard[0]}

    def parts(self, waveform: np.ndarray) -> list[np.ndarray]:
        longest = len(waveform) if self.longest_s is None else int(self.longest_s * self.sample_rate)
        return equal_parts(waveform, longest)

    @abstractmethod
    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of one part, float32 ``(S,)``."""


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    if name == "text":
        words = [str(part[0]).strip() for part in parts]
        return np.array([" ".join(text for text in words if text)])
    if name == "frames":
        return np.concatenate(parts).astype(np.float32)
    return np.asarray(np.mean(np.stack(parts), axis=0, dtype=np.float64), dtype=np.float32)
