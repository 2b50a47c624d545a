"""What frozen encoders make of inputs: how an input is read, what else the result depends on, how it is recognised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from unisono.data.feature_cache.reading import CachedLatents, CachedSequences, CachedTexts, CachedVectors
from unisono.data.feature_cache.shards import Feature
from unisono.data.feature_cache.store import StoreSpec
from unisono.media.audio import read_audio
from unisono.media.locations import Location

if TYPE_CHECKING:
    from unisono.features.speaker import SpeakerEncoder
    from unisono.features.video import VideoEncoder
    from unisono.models.autoencoder import Autoencoder

Input = Location | str
"""A file or an archive's member, or a text."""


class FrozenTextEncoder(Protocol):
    """Texts to sequences of vectors ``(L, D)``; each alone, however many are asked for at once."""

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Sequence[Tensor]: ...


class FeatureEncoder(ABC):
    """An encoder with all that decides what it makes of an input; may be pickled, for worker processes.

    Attributes:
        spec: of the store that its features belong to.
        batch_size: inputs that a GPU encodes at once; on a CPU each is encoded alone.
    """

    spec: StoreSpec
    encoder: Any
    batch_size = 1

    @abstractmethod
    def reader(self, cache: Path) -> Any:
        """What reads the features in a data set."""

    @abstractmethod
    def load(self, source: Input) -> Any:
        """Read and decode an input; this is what several threads do side by side."""

    @abstractmethod
    def encode(self, loaded: Sequence[Any]) -> list[Feature]:
        """Features, one per input, on any device."""

    def to(self, device: torch.device) -> None:
        """Move the encoder, if it computes with torch."""
        module = self.encoder if isinstance(self.encoder, torch.nn.Module) else getattr(self.encoder, "model", None)
        if isinstance(module, torch.nn.Module):
            module.to(device)


def _words(encoder: Any) -> str:
    return f"{type(encoder).__module__}.{type(encoder).__qualname__}"


class LatentEncoder(FeatureEncoder):
    """Recordings to latents ``(T, C)``, encoded whole."""

    batch_size = 16

    def __init__(self, autoencoder: Autoencoder, dtype: str = "float32") -> None:
        self.encoder, self.sample_rate = autoencoder, autoencoder.sample_rate
        self.spec = latent_spec(autoencoder, dtype)

    def reader(self, cache: Path) -> CachedLatents:
        return CachedLatents(cache, self.spec, self.sample_rate, self.encoder.hop_samples)

    def load(self, source: Input) -> Tensor:
        assert isinstance(source, Location)
        return torch.from_numpy(read_audio(source, self.sample_rate))

    @torch.no_grad()
    def encode(self, loaded: Sequence[Tensor]) -> list[Feature]:
        lengths = torch.tensor([waveform.shape[0] for waveform in loaded])
        tensors = (*self.encoder.parameters(), *self.encoder.buffers())
        device = tensors[0].device if tensors else torch.device("cpu")
        waveform = torch.nn.utils.rnn.pad_sequence(list(loaded), batch_first=True)
        latent, frames = self.encoder.encode(waveform.to(device), lengths.to(device))
        return [
            Feature(row[:count], samples)
            for row, count, samples in zip(latent, frames.tolist(), lengths.tolist(), strict=True)
        ]


def latent_spec(autoencoder: Autoencoder, dtype: str = "float32") -> StoreSpec:
    settings = {"sample_rate": autoencoder.sample_rate, "hop_samples": autoencoder.hop_samples}
    return StoreSpec("latents", autoencoder.fingerprint, _words(autoencoder), settings, dtype)


class TextFeatureEncoder(FeatureEncoder):
    """Texts to embeddings ``(L, D)``."""

    batch_size = 64

    def __init__(self, encoder: FrozenTextEncoder, dtype: str = "float32") -> None:
        self.encoder = encoder
        self.spec = text_spec(encoder, dtype)

    def reader(self, cache: Path) -> CachedTexts:
        return CachedTexts(cache, self.spec)

    def load(self, source: Input) -> str:
        assert isinstance(source, str)
        return source

    @torch.no_grad()
    def encode(self, loaded: Sequence[str]) -> list[Feature]:
        return [Feature(row) for row in self.encoder.embed(loaded)]


def text_spec(encoder: FrozenTextEncoder, dtype: str = "float32") -> StoreSpec:
    return StoreSpec("texts", encoder.fingerprint, _words(encoder), {}, dtype)


class SpeakerFeatureEncoder(FeatureEncoder):
    """Recordings to vectors ``(D,)`` of their speakers."""

    def __init__(self, encoder: SpeakerEncoder, dtype: str = "float32") -> None:
        self.encoder = encoder
        self.spec = speaker_spec(encoder, dtype)

    def reader(self, cache: Path) -> CachedVectors:
        return CachedVectors(cache, self.spec)

    def load(self, source: Input) -> Any:
        assert isinstance(source, Location)
        return read_audio(source, self.encoder.sample_rate)

    @torch.no_grad()
    def encode(self, loaded: Sequence[Any]) -> list[Feature]:
        return [Feature(torch.as_tensor(self.encoder(waveform))) for waveform in loaded]


def speaker_spec(encoder: SpeakerEncoder, dtype: str = "float32") -> StoreSpec:
    settings = {"sample_rate": encoder.sample_rate}
    return StoreSpec("speakers", encoder.fingerprint, _words(encoder), settings, dtype)


class FrameFeatureEncoder(FeatureEncoder):
    """Videos to vectors ``(T, D)`` of their pictures, ``rate_hz`` of them a second."""

    def __init__(self, encoder: VideoEncoder, rate_hz: float, dtype: str = "float32") -> None:
        self.encoder, self.rate_hz = encoder, rate_hz
        self.spec = frame_spec(encoder, rate_hz, dtype)

    def reader(self, cache: Path) -> CachedSequences:
        return CachedSequences(cache, self.spec, self.rate_hz)

    def load(self, source: Input) -> Location:
        assert isinstance(source, Location)
        return source

    @torch.no_grad()
    def encode(self, loaded: Sequence[Location]) -> list[Feature]:
        from unisono.features.video import video_features

        return [Feature(torch.from_numpy(video_features(place, self.encoder, self.rate_hz))) for place in loaded]


def frame_spec(encoder: VideoEncoder, rate_hz: float, dtype: str = "float32") -> StoreSpec:
    settings = {"rate_hz": rate_hz, "size": encoder.size}
    return StoreSpec("video", encoder.fingerprint, _words(encoder), settings, dtype)


@dataclass(frozen=True)
class Wanted:
    """An input that is to be encoded, by the digest of its content.

    Attributes:
        stamp: of a file when the digest was taken; it must not have changed when the file is encoded.
        where: manifest line, for messages.
    """

    digest: bytes
    source: Input
    stamp: list[int] | None = None
    where: str = ""
