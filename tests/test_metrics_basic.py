"""Metrics of this project and of small libraries: what they must be by their nature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from judging import RATE, noisy, sample, value, voice_like
from unisono.errors import UserError
from unisono.evaluation.catalogue import metrics_of
from unisono.evaluation.collection import Clips
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricFailure, NotApplicable
from unisono.evaluation.metrics import retrieval
from unisono.evaluation.metrics.durations import DurationError
from unisono.evaluation.metrics.mel_distance import MelDistance, MelDistanceDtw
from unisono.evaluation.metrics.si_sdr import SiSdr
from unisono.evaluation.metrics.stoi import Stoi
from unisono.evaluation.networks.mel_statistics import MelStatistics
from unisono.features.mel import MelFrontEnd, hz_to_mel, mel_filters, mel_to_hz, power_spectrogram

FRONT_END = MelFrontEnd.for_rate(RATE)

# The front end


def test_full_scale_sine_is_0_db_and_mel_scale_inverts():
    sine = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    spectrum = 10 * np.log10(power_spectrogram(sine, 1024, 256)[10:-10].max(axis=1))
    np.testing.assert_allclose(spectrum, 0.0, atol=0.05)
    frequencies_hz = np.array([0.0, 60.0, 999.0, 1001.0, 7999.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequencies_hz)), frequencies_hz, atol=1e-9)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_every_mel_band_has_bins_at_every_rate(rate):
    front_end = MelFrontEnd.for_rate(rate)
    assert (mel_filters(rate, front_end.n_fft, front_end.n_mels).sum(axis=1) > 0).all()


def test_too_low_a_rate_is_refused():
    with pytest.raises(UserError, match="4000"):
        metrics_of(4000)


# Spectral distances


@pytest.mark.parametrize("metric", [MelDistance(FRONT_END), MelDistanceDtw(FRONT_END)])
def test_spectral_distance_is_0_for_identity_and_grows_with_noise(metric):
    clean = voice_like()
    assert value(metric, clean, clean) == 0.0
    values = [value(metric, noisy(clean, level), clean) for level in (0.001, 0.01, 0.1)]
    assert 0 < values[0] < values[1] < values[2] < 80


def test_a_change_of_level_is_that_many_db():
    noise = noisy(np.zeros(RATE, dtype=np.float32), 0.1)
    assert value(MelDistance(FRONT_END), noise * np.float32(10 ** (-6 / 20)), noise) == pytest.approx(6.0, abs=0.02)


def test_dtw_forgives_timing_and_the_framewise_distance_does_not():
    clean = voice_like()
    shifted = np.concatenate([np.zeros(RATE // 3, np.float32), clean])[: len(clean)]
    frames = [FRONT_END(waveform) for waveform in (shifted, clean)]
    warped = value(MelDistanceDtw(FRONT_END), shifted, clean, task="text_to_speech")
    assert warped < 0.4 * np.abs(frames[0] - frames[1]).mean()
    other = voice_like(seed=5)
    assert value(MelDistanceDtw(FRONT_END), other, clean) > 2 * warped


def test_lengths_within_tolerance_are_cut_and_beyond_it_fail():
    clean = voice_like()
    assert value(MelDistance(FRONT_END), clean[: -RATE // 50], clean) < 0.5
    for metric in (MelDistance(FRONT_END), SiSdr(RATE), Stoi(RATE, False)):
        with pytest.raises(MetricFailure, match="lengths differ"):
            metric(sample(clean[: -RATE // 10], clean))


@pytest.mark.parametrize("delay", [-400, 40, 3_000])
def test_a_late_or_early_copy_is_told_and_not_measured(delay):
    clean = voice_like()
    moved = np.concatenate([np.zeros(delay, np.float32), clean])[: len(clean)] if delay > 0 else np.roll(clean, delay)
    word = "late" if delay > 0 else "early"
    with pytest.raises(MetricFailure, match=f"{abs(delay) / RATE * 1000:.1f} ms {word}"):
        SiSdr(RATE)(sample(noisy(moved, 0.01), clean))


def test_what_resembles_nothing_is_not_called_late():
    clean = voice_like()
    other = np.random.default_rng(0).normal(size=len(clean)).astype(np.float32)
    assert value(SiSdr(RATE), other, clean) < -20
    assert value(SiSdr(RATE), -clean, clean) > 100


def test_a_sustained_note_is_not_called_late():
    time_s = np.arange(2 * RATE) / RATE
    note, moved = (np.sign(np.sin(2 * np.pi * 200 * (time_s - shift))).astype(np.float32) for shift in (0, 0.0012))
    assert value(SiSdr(RATE), moved, note) < 10


# Speech


def test_si_sdr_of_a_case_done_by_hand():
    # alpha = <estimate, reference> / |reference|^2 = 12 / 8; target (3, 0, 3, 0) of energy 18, rest (0, 1, 0, -1) of 2.
    reference, estimate = np.array([2.0, 0.0, 2.0, 0.0]), np.array([3.0, 1.0, 3.0, -1.0])
    assert value(SiSdr(RATE), estimate, reference) == pytest.approx(10 * np.log10(9))


def test_si_sdr_ignores_scale_and_follows_the_noise():
    clean = voice_like()
    noise = np.random.default_rng(0).normal(size=len(clean))
    noise -= clean * (noise @ clean) / (clean @ clean)
    for snr_db in (-5.0, 10.0):
        mixture = clean + noise * np.sqrt(clean @ clean / (noise @ noise) / 10 ** (snr_db / 10))
        assert value(SiSdr(RATE), mixture, clean) == pytest.approx(snr_db, abs=1e-4)
        assert value(SiSdr(RATE), mixture * 0.01, clean) == pytest.approx(snr_db, abs=1e-4)
    assert value(SiSdr(RATE), clean, clean) > 100


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_is_1_for_identity_falls_with_noise_and_repeats(extended):
    clean, metric = voice_like(), Stoi(RATE, extended)
    assert value(metric, clean, clean) == pytest.approx(1.0, abs=1e-3)
    values = [value(metric, noisy(clean, level), clean) for level in (0.02, 0.1, 0.5)]
    assert 1 > values[0] > values[1] > values[2]
    assert value(metric, noisy(clean, 0.1), clean) == values[1]


@pytest.mark.parametrize("extended", [False, True])
def test_too_little_speech_is_a_failure_not_a_number(extended):
    mostly_silent = np.zeros(2 * RATE, dtype=np.float32)
    mostly_silent[: RATE // 5] = voice_like()[: RATE // 5]
    for reference in (mostly_silent, voice_like()[:100], voice_like()[: RATE // 4]):
        with pytest.raises(MetricFailure, match=r"0\.4"):
            Stoi(RATE, extended)(sample(reference, reference))


# Durations, retrieval


def test_duration_error():
    timed = DurationError()(sample(None, None, predicted_duration_s=1.8, true_duration_s=2.0))
    assert timed["duration_error_s"] == pytest.approx(0.2)
    assert timed["duration_error_percent"] == pytest.approx(10.0)
    with pytest.raises(NotApplicable):
        DurationError()(sample(None, None, predicted_duration_s=1.8))
    with pytest.raises(MetricFailure):
        DurationError()(sample(None, None, predicted_duration_s=1.8, true_duration_s=0.0))


def test_retrieval_ranks_identity_first_and_shares_ties():
    clips = {f"id{i}": voice_like(1.0, seed=i) for i in range(5)}
    names, own = list(clips), range(len(clips))
    references = np.stack([MelStatistics()(clip)["embedding"] for clip in clips.values()])
    assert retrieval.rank_own_references(references, own, references, names) == [retrieval.Rank(1, 5)] * 5
    (wrong,) = retrieval.rank_own_references(references[1:2], [0], references, names)
    assert wrong.rank > 1
    # A constant answer must get the chance rank, wherever it stands in the list.
    same = retrieval.rank_own_references(np.ones((5, 3)), own, np.zeros((5, 3)), names)
    assert {place.rank for place in same} == {3.0}
    # References with the same text do not compete.
    twins = retrieval.rank_own_references(
        references[1:2], [0], references, ["one text", " one text "] * 2 + ["one text"]
    )
    assert twins == [retrieval.Rank(1, 1)]


def test_retrieval_ranks_many_clips_as_one_by_one():
    """More clips than are compared at once; texts and embeddings that are there twice."""
    rng = np.random.default_rng(0)
    references = rng.integers(0, 3, (600, 4)).astype(np.float32)
    clips = references + rng.integers(-1, 2, references.shape).astype(np.float32)
    texts = [f"text {number}" for number in rng.integers(0, 300, 600)]
    own = rng.permutation(600)
    for clip, mine, found in zip(clips, own, retrieval.rank_own_references(clips, own, references, texts), strict=True):
        rivals = [references[i] for i in range(600) if texts[i] != texts[mine]]
        far = np.array([np.abs(rival - clip).mean() for rival in rivals])
        near = np.abs(references[mine] - clip).mean()
        assert found == retrieval.Rank(1 + (far < near).sum() + (far == near).sum() / 2, 1 + len(rivals))


def test_retrieval_says_why_an_item_has_no_rank():
    items = [EvaluationItem(f"a{i}", "text_to_audio", "", f"text {i}", Path("a.flac")) for i in range(5)]
    vectors = [{"embedding": np.full(2, float(i))} for i in range(5)]
    judged = ["silent", *vectors[1:3], {"score": np.zeros(())}, vectors[4]]
    references = [vectors[0], vectors[1], None, vectors[3], "broken"]
    found = retrieval.Retrieval()(Clips(items, judged, references), MelStatistics()).items["retrieval_rank"]
    assert [outcome.reason for outcome in found] == [
        *("silent", "", "the item has no reference", "the network gives no embedding, only score", "broken")
    ]
    assert found[1].value == 1
