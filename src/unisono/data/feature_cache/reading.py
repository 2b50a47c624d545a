"""Readers of the feature cache that data sets carry into loader workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unisono.data.feature_cache.digests import FileDigests, text_digest
from unisono.data.feature_cache.shards import Entry
from unisono.data.feature_cache.store import FeatureStore, StoreSpec
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.locations import Location
from unisono.timing import latent_rate_hz, samples_to_frames, seconds_to_index, seconds_to_samples

if TYPE_CHECKING:
    from unisono.data.datasets.base import Window


def digests_folder(cache: Path) -> Path:
    """Where a cache remembers which file holds what."""
    return cache / "files"


class CachedFiles:
    """Features of files, recognised by what is in them: a file that was changed is another input.

    Args:
        cache: folder of all stores.
        spec: which store of it.
    """

    def __init__(self, cache: Path, spec: StoreSpec) -> None:
        self.store = FeatureStore(cache, spec)
        self.files = FileDigests(digests_folder(cache))

    def find(self, location: Location) -> Entry | None:
        """Where a file's feature lies; a file that is not remembered is read, to recognise it."""
        return self.store.find(self.files.digest(location))

    def entry(self, location: Location) -> Entry:
        found = self.find(location)
        if found is None:
            raise _missing(self.store, f"{location} (is it new, or was it changed?)")
        return found


def _missing(store: FeatureStore, what: str) -> UserError:
    return UserError(
        f"{what}: {store.folder} has no feature of it; run `unisono cache` with the settings of the training, or train "
        "without the cache (feature_cache=null)"
    )


class CachedLatents(CachedFiles):
    """Latents of recordings.

    Args:
        cache, spec: see ``CachedFiles``.
        sample_rate, hop_samples: of the autoencoder.
    """

    def __init__(self, cache: Path, spec: StoreSpec, sample_rate: int, hop_samples: int) -> None:
        super().__init__(cache, spec)
        self.sample_rate, self.hop_samples = sample_rate, hop_samples

    def read(
        self, location: Location, window: Window | None = None, num_samples: int | None = None
    ) -> tuple[Tensor, int]:
        """Latent float32 ``(T, C)`` of a recording, or of the part in ``window``, and the samples it stands for.

        A part is cut from the latent of the whole, at the frame nearest to its start. Its first and last frames know of
        what surrounds it, as those of a recording cut before it is encoded would not.

        Args:
            location: of the recording.
            window: a part; shorter by what the recording lacks at its end, at most ``tolerances.LENGTH_S``.
            num_samples: length that the result must have: cut, or its last frame repeated, by no more than that.

        Raises:
            UserError: the recording is not cached, or too short.
        """
        entry = self.entry(location)
        have, first = entry.num_samples, 0
        if window is not None:
            first = seconds_to_index(window.start_s, latent_rate_hz(self.sample_rate, self.hop_samples))
            have = min(seconds_to_samples(window.duration_s, self.sample_rate), have - first * self.hop_samples)
            self._check_length(location, have, seconds_to_samples(window.duration_s, self.sample_rate))
        latent = self.store.read(entry, first, samples_to_frames(have, self.hop_samples))
        if num_samples is None or num_samples == have:
            return latent, have
        self._check_length(location, have, num_samples)
        frames = samples_to_frames(num_samples, self.hop_samples)
        if frames > len(latent):
            latent = torch.cat([latent, latent[-1:].expand(frames - len(latent), -1)])
        return latent[:frames], num_samples

    def _check_length(self, location: Location, have: int, wanted: int) -> None:
        if have <= 0 or wanted - have > tolerances.LENGTH_S * self.sample_rate:
            raise UserError(
                f"{location} ends {(wanted - have) / self.sample_rate:.3f} s before the part of it that was asked for, "
                f"more than {tolerances.LENGTH_S} s; correct 'duration_s' in its manifest"
            )


class CachedTexts:
    """Embeddings of texts.

    Args:
        cache, spec: see ``CachedFiles``.
    """

    def __init__(self, cache: Path, spec: StoreSpec) -> None:
        self.store = FeatureStore(cache, spec)

    def find(self, text: str) -> Entry | None:
        return self.store.find(text_digest(text))

    def read(self, text: str) -> Tensor:
        """Embedding float32 ``(L, D)``."""
        entry = self.find(text)
        if entry is None:
            raise _missing(self.store, f"the text {text[:80]!r}")
        return self.store.read(entry)


class CachedVectors(CachedFiles):
    """One vector per recording: whose voice it is."""

    def read(self, location: Location) -> Tensor:
        """float32 ``(D,)``."""
        return self.store.read(self.entry(location))


class CachedSequences(CachedFiles):
    """Vectors at a steady rate: features of a video's pictures.

    Args:
        cache, spec: see ``CachedFiles``.
        rate_hz: of the vectors.
    """

    def __init__(self, cache: Path, spec: StoreSpec, rate_hz: float) -> None:
        super().__init__(cache, spec)
        self.rate_hz = rate_hz

    def read(self, location: Location, window: Window | None = None) -> Tensor:
        """float32 ``(T, D)``: those whose pictures are shown within the window, at least one."""
        entry = self.entry(location)
        if window is None:
            return self.store.read(entry)
        first, end = window.indices(self.rate_hz)
        first = min(first, entry.rows - 1)
        return self.store.read(entry, first, min(end, entry.rows) - first)
