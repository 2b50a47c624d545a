"""What networks make of recordings, kept on disk by content, so that nothing is heard twice."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks.network import AudioNetwork
from unisono.files import cache_dir, remove_abandoned, replaced_file

logger = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]

_DAMAGED = (OSError, ValueError, TypeError, EOFError, LookupError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a file whose bytes were lost or changed may raise, by where they were."""


def default_cache() -> Path:
    """``embeddings`` in the project's cache folder (``unisono.files.cache_dir``)."""
    return cache_dir() / "embeddings"


class CachedNetwork:
    """A network with a memory.

    Several processes may share the folder: a file appears whole or not at all, and whoever writes last writes the same
    thing. A damaged file is written anew. Where nothing can be written (read-only folder, full disk) that is said once,
    and the network goes on without a memory.

    Args:
        network: what listens.
        cache: folder; one file per recording and network. None keeps nothing.
    """

    def __init__(self, network: AudioNetwork, cache: Path | None) -> None:
        self.network = network
        self.folder = None if cache is None else cache / f"{network.name}-{network.fingerprint[:16]}"
        self.heard, self.remembered = 0, 0
        self._writable = self.folder is not None
        if self.folder is not None and self.folder.is_dir():
            remove_abandoned(self.folder)

    def __call__(self, waveform: np.ndarray) -> Arrays:
        """The network's arrays of mono float32 audio ``(S,)`` at its rate; `MetricFailure` as the network raises it."""
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
        return self._recalled(waveform.tobytes(), lambda: self.network(waveform))

    def with_video(self, waveform: np.ndarray, frames: np.ndarray) -> Arrays:
        """The same of a recording and uint8 pictures ``(T, H, W, 3)``, for networks that take both (`Exported`)."""
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
        key = f"{waveform.shape}{frames.shape}".encode() + waveform.tobytes() + frames.tobytes()
        return self._recalled(key, lambda: self.network.with_video(waveform, frames))  # type: ignore[attr-defined]

    def _recalled(self, key: bytes, listen: Callable[[], Arrays]) -> Arrays:
        path = None if self.folder is None else self.folder / f"{hashlib.sha256(key).hexdigest()}.npz"
        if path is not None and (found := _read(path)) is not None:
            self.remembered += 1
            return found
        arrays = listen()
        self.heard += 1
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise MetricFailure(f"{self.network.name} gave NaN or infinite values ({name})")
        if path is not None and self._writable:
            self._keep(path, arrays)
        return arrays

    def _keep(self, path: Path, arrays: Arrays) -> None:
        try:
            with replaced_file(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            self._writable = False
            logger.warning(
                "%s: cannot be written (%s); what %s hears is not kept, and will be computed again next time",
                path.parent,
                error.strerror or error,
                self.network.name,
            )


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """A damaged file counts as none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except _DAMAGED:
        return None
    return found or None
