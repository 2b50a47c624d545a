"""Normalisation statistics of a latent, from audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from unisono.config import compose
from unisono.data.manifest import load_manifest
from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import read_audio
from unisono.media.locations import Location
from unisono.models.autoencoder.base import Autoencoder

_MIN_RELATIVE_STD = 0.1


def channel_statistics(autoencoder: Autoencoder, paths: Sequence[Location]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all frames of the files, each file weighing its length."""
    total = torch.zeros(autoencoder.latent_dim, dtype=torch.float64)
    squares, frames = torch.zeros_like(total), 0
    for path in tqdm(paths, unit="file", desc="statistics", dynamic_ncols=True):
        waveform = torch.from_numpy(read_audio(path, autoencoder.sample_rate))[None]
        latent = autoencoder.encode(waveform, torch.tensor([waveform.shape[1]]))[0][0].double()
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


def write_statistics(manifests: Sequence[Path], output: Path, overrides: Sequence[str] = ()) -> Path:
    """Write the configured autoencoder's ``mean`` and ``std`` as YAML, to be put into its config."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    paths = [line.file("audio") for manifest in manifests for line in load_manifest(manifest).values()]
    try:
        cfg = compose("default", ["++model.autoencoder.mean=0.0", "++model.autoencoder.std=1.0", *overrides])
        autoencoder = instantiate(cfg.model.autoencoder)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"--set {' '.join(overrides) or '(nothing)'}: {str(error).splitlines()[0]}") from error
    mean, std = channel_statistics(autoencoder, paths)
    settings = OmegaConf.to_container(cfg.model.autoencoder)
    assert isinstance(settings, dict)
    settings |= {"mean": [round(v, 3) for v in mean], "std": [round(v, 3) for v in std]}
    with replaced_file(output) as temporary:
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)
        temporary.write_text(text, encoding="utf-8")
    return output
