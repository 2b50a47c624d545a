"""Training from the cache: data sets read features in place of what they were made from, if all are there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.data.feature_cache.demands import Demand, Part, Source, demands_of
from unisono.data.feature_cache.digests import FileDigests
from unisono.data.feature_cache.reading import CachedFiles, digests_folder
from unisono.data.feature_cache.scan import chunks, digests_of
from unisono.errors import UserError

if TYPE_CHECKING:
    from unisono.data.datasets.base import AudioGenerationDataset

logger = logging.getLogger(__name__)

MAX_CHECKED = 100_000
"""Items of each encoder that are looked up before training starts; of more, so many evenly spread ones."""

READERS = ("latents", "input_latents", "captions", "instructions", "voices", "frames")
"""Attributes of data sets that read from the cache."""

_MAX_SHOWN = 5
_CHUNK = 1024


def attach(
    datasets: Sequence[AudioGenerationDataset],
    parts: Mapping[str, Any],
    cache: str | os.PathLike,
    dtype: str = "float32",
    max_checked: int = MAX_CHECKED,
) -> dict[str, Any]:
    """Let the data sets of one loader read from the cache what frozen encoders would compute of them.

    Args:
        datasets: of one loader; a batch has either latents or waveforms, either tokens or embeddings.
        parts: of the model, see ``parts_of``.
        cache: folder that ``unisono cache`` filled.
        dtype: that it stored.
        max_checked: see ``MAX_CHECKED``.

    Returns:
        The readers, by the attribute of the data sets.

    Raises:
        UserError: features are missing (how many, and what mends it), or a shard is damaged.
    """
    for dataset in datasets:
        _check_dataset(dataset, parts["autoencoder"])
    readers: dict[str, Any] = {}
    demands = demands_of(parts, [datasets], dtype)
    made = [demand.encoder.reader(Path(cache)) for demand in demands]
    for demand, reader in zip(demands, made, strict=True):
        # What is learned here of files goes to the workers with the reader, be the folder writable or not.
        files = reader.files if isinstance(reader, CachedFiles) else FileDigests(digests_folder(Path(cache)))
        _refuse_missing(demand, reader, files, max_checked)
    for dataset in datasets:
        for name in READERS:
            if hasattr(dataset, name):
                setattr(dataset, name, None)
    for demand, reader in zip(demands, made, strict=True):
        for part in demand.parts:
            setattr(part.dataset, part.reader, reader)
            readers[part.reader] = reader
    return readers


def _check_dataset(dataset: AudioGenerationDataset, autoencoder: Any) -> None:
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


def _refuse_missing(demand: Demand, reader: Any, files: FileDigests, max_checked: int) -> None:
    checked, missing = 0, 0
    shown: list[str] = []
    total = len(demand)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in chunks(_sources(demand.parts, min(total, max_checked)), _CHUNK):
            checked += len(chunk)
            found = digests_of([source for _, source in chunk], files, pool)
            for (where, source), digest in zip(chunk, found, strict=True):
                if isinstance(digest, UserError):
                    raise UserError(f"{where}: {digest}")
                if reader.store.find(digest) is None:
                    missing += 1
                    if len(shown) < _MAX_SHOWN:
                        shown.append(f"{where}: {str(source)[:80]}")
    files.save()
    if missing:
        among = f"{checked} inputs" if total <= max_checked else f"{checked} inputs looked at"
        listed = "\n  ".join(shown) + ("\n  …" if missing > len(shown) else "")
        raise UserError(
            f"{missing} of {among} have no {reader.store.spec.kind} in {reader.store.folder}; run `unisono cache` with "
            f"the settings of this training, or train without it (feature_cache=null):\n  {listed}"
        )
    logger.info("%s of %d items are read from %s", reader.store.spec.kind, total, reader.store.folder)


def _sources(parts: Sequence[Part], count: int) -> Iterator[Source]:
    """Sources of ``count`` evenly spread items."""
    ends = np.cumsum([0, *(len(part.dataset) for part in parts)])
    for item in np.linspace(0, max(int(ends[-1]) - 1, 0), count).round().astype(np.int64).tolist():
        place = int(np.searchsorted(ends, item, side="right")) - 1
        yield from parts[place].sources(parts[place].dataset, item - int(ends[place]))
