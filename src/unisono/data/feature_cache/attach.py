"""Training from the cache: data sets read latents in place of recordings, where all that they need are there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.data.feature_cache.demands import Sources, input_sources, latent_parts
from unisono.data.feature_cache.encoders import latent_spec
from unisono.data.feature_cache.reading import CachedLatents
from unisono.data.feature_cache.scan import chunks, digests_of
from unisono.errors import UserError

if TYPE_CHECKING:
    from unisono.data.datasets.base import AudioGenerationDataset

logger = logging.getLogger(__name__)

MAX_CHECKED = 100_000
"""Items that are looked up before training starts; of more, so many evenly spread ones."""

_MAX_SHOWN = 5
_CHUNK = 1024


def attach(
    datasets: Sequence[AudioGenerationDataset],
    autoencoder: Any,
    cache: str | os.PathLike,
    dtype: str = "float32",
    max_checked: int = MAX_CHECKED,
) -> CachedLatents:
    """Let the data sets of one loader read latents from the cache: all targets, and all inputs unless one degrades.

    Args:
        datasets: of one loader; a batch has either latents or waveforms.
        autoencoder: the model's.
        cache: folder that ``unisono cache`` filled.
        dtype: that it stored.
        max_checked: look up so many recordings at most.

    Raises:
        UserError: latents are missing (how many, and what mends it), or a shard is damaged.
    """
    folder = Path(cache)
    for dataset in datasets:
        if not hasattr(dataset, "latents"):
            raise UserError(
                f"the feature cache serves the project's own data sets, not {type(dataset).__qualname__}; "
                "set feature_cache to null"
            )
        if dataset.sample_rate != autoencoder.sample_rate or dataset.hop_samples != autoencoder.hop_samples:
            raise UserError(
                f"{dataset.name}: the data set has {dataset.sample_rate} Hz and {dataset.hop_samples} samples per "
                f"latent frame, the autoencoder {autoencoder.sample_rate} Hz and {autoencoder.hop_samples}; make them "
                "equal"
            )
    spec = latent_spec(autoencoder, dtype)
    latents = CachedLatents(folder, spec, autoencoder.sample_rate, autoencoder.hop_samples)
    parts = latent_parts(datasets)
    _refuse_missing(latents, parts, max_checked)
    for dataset in datasets:
        dataset.latents = latents if dataset.has_targets else None
        if hasattr(dataset, "input_latents"):
            used = any(part is dataset and sources is input_sources for part, sources in parts)
            dataset.input_latents = latents if used else None
    return latents


def _refuse_missing(
    latents: CachedLatents, parts: Sequence[tuple[AudioGenerationDataset, Sources]], max_checked: int
) -> None:
    checked, missing = 0, 0
    shown: list[str] = []
    total = sum(len(dataset) for dataset, _ in parts)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in chunks(_sources(parts, min(total, max_checked)), _CHUNK):
            checked += len(chunk)
            found = digests_of([source for _, source in chunk], latents.files, pool)
            for (where, source), digest in zip(chunk, found, strict=True):
                if isinstance(digest, UserError):
                    raise UserError(f"{where}: {digest}")
                if latents.store.find(digest) is None:
                    missing += 1
                    if len(shown) < _MAX_SHOWN:
                        shown.append(f"{where}: {source}")
    latents.files.save()
    if missing:
        among = f"{checked} recordings" if checked >= total else f"{checked} recordings looked at, of {total},"
        listed = "\n  ".join(shown) + ("\n  …" if missing > len(shown) else "")
        raise UserError(
            f"{missing} of {among} have no latent in {latents.store.folder}; run `unisono cache` with the settings of "
            f"this training, or train without it (feature_cache=null):\n  {listed}"
        )
    logger.info("latents of %d recordings are read from %s", total, latents.store.folder)


def _sources(parts: Sequence[tuple[AudioGenerationDataset, Sources]], count: int) -> Iterator[tuple[str, Any]]:
    """Sources of ``count`` evenly spread items."""
    ends = np.cumsum([0, *(len(dataset) for dataset, _ in parts)])
    for item in np.linspace(0, max(int(ends[-1]) - 1, 0), count).round().astype(np.int64).tolist():
        part = int(np.searchsorted(ends, item, side="right")) - 1
        dataset, sources = parts[part]
        yield from sources(dataset, item - int(ends[part]))
