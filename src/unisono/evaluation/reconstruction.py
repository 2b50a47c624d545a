"""What an autoencoder alone loses: recordings, encoded and decoded again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisono.errors import UserError
from unisono.evaluation.items import CODED, EvaluationItem, Sample
from unisono.evaluation.measure import SILENCE_PEAK
from unisono.evaluation.metric import Metric, MetricCard, Outcome, measure
from unisono.evaluation.metrics.lsd import LogSpectralDistance
from unisono.evaluation.metrics.mel_distance import MelDistance
from unisono.evaluation.metrics.si_sdr import SiSdr
from unisono.evaluation.metrics.stft_distance import MultiResolutionStft
from unisono.features.mel import MelFrontEnd
from unisono.files import write_json
from unisono.media.audio import read_audio, write_audio
from unisono.models.autoencoder import Autoencoder

REPORT = "reconstruction.json"


def reconstruction_metrics(sample_rate: int) -> list[Metric]:
    """Distances of spectra, and of samples."""
    return [
        MultiResolutionStft(sample_rate),
        MelDistance(MelFrontEnd.for_rate(sample_rate)),
        LogSpectralDistance(sample_rate),
        SiSdr(sample_rate),
    ]


@dataclass(frozen=True)
class ReconstructedFile:
    """One recording: where it lies, what became of it, and how near that is.

    Attributes:
        source: the recording.
        output: the decoded file's name within the output folder; None where none was written.
        duration_s: length.
        peak: largest magnitude of the decoded samples; above 1, the file that was written is scaled down to 1.
        outcomes: by metric.
    """

    source: str
    output: str | None
    duration_s: float
    peak: float
    outcomes: dict[str, Outcome]


@dataclass(frozen=True)
class ReconstructionReport:
    """What an autoencoder makes of recordings.

    Attributes:
        autoencoder: kind, rate, latent and fingerprint.
        cards: how each number is made.
        files: in the order given.
    """

    autoencoder: dict[str, Any]
    cards: list[MetricCard]
    files: list[ReconstructedFile]

    def mean(self, metric: str) -> float | None:
        """Over the files that have a value, each file weighing the same; None if none has."""
        values = [v for file in self.files if (v := file.outcomes[metric].value) is not None]
        return math.fsum(values) / len(values) if values else None

    def as_json(self) -> dict[str, Any]:
        counts = {c.name: sum(f.outcomes[c.name].value is not None for f in self.files) for c in self.cards}
        return {
            "autoencoder": self.autoencoder,
            "metrics": {card.name: asdict(card) for card in self.cards},
            "mean": {card.name: self.mean(card.name) for card in self.cards},
            "files_with_a_value": counts,
            "files": [asdict(file) for file in self.files],
        }

    def table(self) -> str:
        """A line per file, the means, and why values are missing."""
        head = ["file", *(f"{card.title}{f' ({card.unit})' if card.unit else ''}" for card in self.cards)]
        rows = [[Path(f.source).name, *self._shown([f.outcomes[c.name].value for c in self.cards])] for f in self.files]
        rows.append([f"mean of {len(self.files)}", *self._shown([self.mean(card.name) for card in self.cards])])
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (head, *rows)]
        reasons = {
            f"{card.title}: {file.outcomes[card.name].reason}": None
            for card in self.cards
            for file in self.files
            if file.outcomes[card.name].value is None
        }
        return "\n".join([*lines, *reasons])

    def _shown(self, values: Sequence[float | None]) -> list[str]:
        return [
            "-" if value is None else f"{value:.{card.decimals}f}"
            for value, card in zip(values, self.cards, strict=True)
        ]


def reconstruction_report(
    autoencoder: Autoencoder, paths: Sequence[Path], output_dir: Path | None = None
) -> ReconstructionReport:
    """Encode and decode recordings, compare, and write what was decoded.

    Args:
        autoencoder: on any device.
        paths: recordings, in any format and at any rate; compared at the autoencoder's.
        output_dir: for ``NAME.wav`` of each (``NAME_2.wav`` for the second of a name) and ``reconstruction.json``;
            None writes nothing.

    Raises:
        UserError: a recording that cannot be read, no recordings, an output that would take the place of a recording.
    """
    if not paths:
        raise UserError("no recordings were given; name some files")
    names = _output_names(paths)
    sources = {path.resolve() for path in paths}
    if output_dir is not None:
        for name in names:
            if (output_dir / name).resolve() in sources:
                raise UserError(f"{output_dir / name} would take the place of a recording; name another output folder")
    metrics = reconstruction_metrics(autoencoder.sample_rate)
    files = []
    for path, name in zip(paths, names, strict=True):
        reference = read_audio(path, autoencoder.sample_rate)
        decoded = reconstructed(autoencoder, reference)
        if output_dir is not None:
            write_audio(output_dir / name, decoded, autoencoder.sample_rate)
        files.append(
            ReconstructedFile(
                source=str(path),
                output=None if output_dir is None else name,
                duration_s=round(len(reference) / autoencoder.sample_rate, 6),
                peak=round(float(np.abs(decoded).max()), 6),
                outcomes=_outcomes(metrics, path, decoded, reference, autoencoder.sample_rate),
            )
        )
    facts = {
        "class": type(autoencoder).__name__,
        "fingerprint": autoencoder.fingerprint,
        "sample_rate": autoencoder.sample_rate,
        "latent_rate_hz": autoencoder.latent_rate_hz,
        "latent_dim": autoencoder.latent_dim,
    }
    report = ReconstructionReport(facts, [card for metric in metrics for card in metric.cards], files)
    if output_dir is not None:
        write_json(output_dir / REPORT, report.as_json())
    return report


def _output_names(paths: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for path in paths:
        name, count = f"{path.stem}.wav", 1
        while name in names:
            count += 1
            name = f"{path.stem}_{count}.wav"
        names.append(name)
    return names


def reconstructed(autoencoder: Autoencoder, waveform: np.ndarray) -> np.ndarray:
    """A waveform ``(S,)`` at the autoencoder's rate, encoded and decoded again."""
    samples = torch.from_numpy(waveform)[None].to(autoencoder.device)
    latent, frames = autoencoder.encode(samples, torch.tensor([len(waveform)], device=autoencoder.device))
    return autoencoder.decode(latent, frames)[0, : len(waveform)].float().cpu().numpy()


def _outcomes(
    metrics: Sequence[Metric], path: Path, decoded: np.ndarray, reference: np.ndarray, sample_rate: int
) -> dict[str, Outcome]:
    item = EvaluationItem(path.stem, "reconstruction", "", "", generated=path, reference=path)
    problem = ""
    if not np.isfinite(decoded).all():
        problem = "the decoded audio holds NaN or infinite samples"
    elif np.abs(reference).max() < SILENCE_PEAK:
        problem = "the recording is silent"
    sample = Sample(CODED, decoded, reference, None, sample_rate, item)
    outcomes: dict[str, Outcome] = {}
    for metric in metrics:
        reason = metric.unavailable() or problem
        failed = {card.name: Outcome("failed", reason=reason) for card in metric.cards}
        outcomes |= failed if reason else measure(metric, sample)
    return outcomes
