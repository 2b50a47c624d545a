"""From where on something is worth a finding."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UserError
from unisono.media import tolerances


@dataclass(frozen=True)
class Limits:
    """Thresholds; levels are in dB below full scale.

    Attributes:
        duration_tolerance_s: by which ``duration_s``, and an input's length, may differ from the recording. As in
            training.
        min_duration_s: one latent frame of the default model.
        silent_peak_dbfs: a recording whose peak is lower has no sound.
        max_silent_share: of frames below -60 dBFS.
        max_pause_s: longest silence in speech and singing.
        quiet_dbfs: of the 95th percentile of the 50 ms frames that are not silent.
        max_clipped_share: of samples that follow two others at full scale in the same channel; one in ten thousand is a
            click every half second.
        max_dc: by which the samples lie off zero, full scale 1; it must also be a tenth of the signal's RMS.
        max_cancelling_db: by which averaging may lower the level of several channels; unrelated ones lose 10 log10 of
            their number.
        min_bandwidth_share: of half the sample rate, for recordings that end at an edge.
        min_bandwidth_hz: what each target must reach, however it ends; None asks nothing.
        near_similarity: cosine of two loudness-free fingerprints from which sounds are nearly the same.
        max_caption_repeats: lines that one caption may have, beside ``max_caption_share`` of the split.
        max_caption_share: see there.
        characters_per_s: least and most in alphabetic writing, over the time that is not silent.
        ideographs_per_s: the same in Chinese, Japanese and Korean.
        phonemes_per_s: the same of phonemes in speech; in singing only the upper bound counts.
        min_characters: shorter texts are not judged by their rate.
        notes: lowest and highest MIDI number that is sung.
    """

    duration_tolerance_s: float = tolerances.LENGTH_S
    min_duration_s: float = 0.02
    silent_peak_dbfs: float = -80.0
    max_silent_share: float = 0.95
    max_pause_s: float = 3.0
    quiet_dbfs: float = -50.0
    max_clipped_share: float = 1e-4
    max_dc: float = 0.01
    max_cancelling_db: float = 15.0
    min_bandwidth_share: float = 0.6
    min_bandwidth_hz: float | None = None
    near_similarity: float = 0.999
    max_caption_repeats: int = 10
    max_caption_share: float = 0.02
    characters_per_s: tuple[float, float] = (4.0, 35.0)
    ideographs_per_s: tuple[float, float] = (1.0, 12.0)
    phonemes_per_s: tuple[float, float] = (3.0, 30.0)
    min_characters: int = 12
    notes: tuple[float, float] = (36.0, 96.0)

    def __post_init__(self) -> None:
        for name in ("max_silent_share", "min_bandwidth_share", "near_similarity", "max_clipped_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        if self.min_bandwidth_hz is not None and not self.min_bandwidth_hz > 0:
            raise UserError(f"min_bandwidth_hz is {self.min_bandwidth_hz}; give Hz above 0")
