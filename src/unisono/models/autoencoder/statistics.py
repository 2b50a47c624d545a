"""Normalisation statistics of a latent, from audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from unisono.data.manifest import load_manifest
from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import read_audio
from unisono.media.locations import Location
from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.configured import configured_autoencoder

_MIN_RELATIVE_STD = 0.1


def channel_statistics(autoencoder: Autoencoder, paths: Sequence[Location]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all frames of the files, each file weighing its length."""
    total = torch.zeros(autoencoder.latent_dim, dtype=torch.float64)
    squares, frames, device = torch.zeros_like(total), 0, autoencoder.device
    for path in tqdm(paths, unit="file", desc="statistics", dynamic_ncols=True):
        waveform = torch.from_numpy(read_audio(path, autoencoder.sample_rate))[None].to(device)
        lengths = torch.tensor([waveform.shape[1]], device=device)
        latent = autoencoder.encode(waveform, lengths)[0][0].double().cpu()
        total += latent.sum(0)
        squares += (latent**2).sum(0)
        frames += latent.shape[0]
    if not frames:
        raise UserError("no audio files were given; name manifests that have items")
    mean = total / frames
    std = (squares / frames - mean**2).clamp_min(0).sqrt()
    if float(std.mean()) < 1e-6:
        raise UserError(f"the latents of all {len(paths)} files are constant; is the audio silent?")
    # A channel that is constant here (above the band of narrow recordings) is not so everywhere: divided by next to
    # nothing, its first real value would drown all other channels.
    return mean.tolist(), std.clamp_min(_MIN_RELATIVE_STD * float(std.mean())).tolist()


def _significant(value: float) -> float:
    """Four digits: latents of a trained network may lie within hundredths."""
    return float(f"{value:.4g}")


def write_statistics(
    manifests: Sequence[Path], output: Path, overrides: Sequence[str] = (), device: str = "cpu"
) -> Path:
    """Write the configured autoencoder's ``mean`` and ``std`` as YAML, to be put into its config."""
    from unisono.inference.pipeline import choose_device

    paths = [line.file("audio") for manifest in manifests for line in load_manifest(manifest).values()]
    raw = ["++model.autoencoder.mean=0.0", "++model.autoencoder.std=1.0"]
    autoencoder, settings = configured_autoencoder([*raw, *overrides])
    mean, std = channel_statistics(autoencoder.to(choose_device(device)), paths)
    settings |= {"mean": [_significant(v) for v in mean], "std": [_significant(v) for v in std]}
    with replaced_file(output) as temporary:
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)
        temporary.write_text(text, encoding="utf-8")
    return output
