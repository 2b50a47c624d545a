"""Metrics: what they must be by their nature, and that nothing broken ever enters a mean."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from unisono.errors import UserError
from unisono.evaluation import metric as metric_module
from unisono.evaluation import retrieval, speech
from unisono.evaluation.catalogue import default_metrics
from unisono.evaluation.durations import DurationError
from unisono.evaluation.events import EventCountError, count_onsets
from unisono.evaluation.metric import (
    CODED,
    INPUT,
    MODEL,
    EvaluationItem,
    MetricFailure,
    NotApplicable,
    Outcome,
    Sample,
)
from unisono.evaluation.runner import evaluate, folder_names
from unisono.evaluation.spectral import LogSpectralDistance, MelDistance, MelDistanceDtw, dtw_mean_cost
from unisono.evaluation.speech import SiSdr, Stoi
from unisono.evaluation.summary import best_row, mean_of
from unisono.features.mel import MelFrontEnd, hz_to_mel, mel_filters, mel_to_hz, power_spectrogram
from unisono.media.audio import write_audio

RATE = 16_000
FRONT_END = MelFrontEnd.for_rate(RATE)


def voice_like(duration_s: float = 2.0, seed: int = 0) -> np.ndarray:
    """A harmonic stack with syllables and changing timbre, float32 ``(S,)`` at `RATE`."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time_s + seed)) / RATE
    weights = rng.uniform(0.1, 1.0, (25, 8))
    turn = (time_s * 4).astype(int) % 8
    voiced = sum(weights[k - 1, turn] / k**0.5 * np.sin(k * phase) for k in range(1, 26))
    return (0.08 * voiced * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_s))).astype(np.float32)


def noisy(waveform: np.ndarray, level: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (waveform + level * rng.normal(size=len(waveform))).astype(np.float32)


def sample(waveform, reference, row: str = MODEL, task: str = "speech_enhancement", **fields) -> Sample:
    item = EvaluationItem("a", task, "Do it.", "text", Path("a.wav"), **fields)
    return Sample(row, waveform, reference, None, RATE, item)


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
        default_metrics(4000)


# Spectral distances


@pytest.mark.parametrize("metric", [MelDistance(FRONT_END), MelDistanceDtw(FRONT_END), LogSpectralDistance(RATE)])
def test_spectral_distance_is_0_for_identity_and_grows_with_noise(metric):
    clean = voice_like()
    assert metric(sample(clean, clean)) == 0.0
    values = [metric(sample(noisy(clean, level), clean)) for level in (0.001, 0.01, 0.1)]
    assert 0 < values[0] < values[1] < values[2] < 80


@pytest.mark.parametrize("metric", [MelDistance(FRONT_END), LogSpectralDistance(RATE)])
def test_a_change_of_level_is_that_many_db(metric):
    noise = noisy(np.zeros(RATE, dtype=np.float32), 0.1)
    assert metric(sample(noise * np.float32(10 ** (-6 / 20)), noise)) == pytest.approx(6.0, abs=0.02)


def test_dtw_agrees_with_the_table_filled_cell_by_cell_and_is_symmetric():
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (1, 6), (7, 1), (9, 5), (6, 11)):
        a, b = rng.normal(size=(rows, 3)), rng.normal(size=(columns, 3))
        total = np.full((rows + 1, columns + 1), np.inf)
        total[0, 0] = 0
        for i in range(rows):
            for j in range(columns):
                cost = np.abs(a[i] - b[j]).mean()
                total[i + 1, j + 1] = min(total[i, j] + 2 * cost, total[i, j + 1] + cost, total[i + 1, j] + cost)
        expected = total[rows, columns] / (rows + columns)
        assert dtw_mean_cost(a, b) == pytest.approx(expected)
        assert dtw_mean_cost(b, a) == pytest.approx(expected)


def test_dtw_forgives_timing_and_the_framewise_distance_does_not():
    clean = voice_like()
    shifted = np.concatenate([np.zeros(RATE // 3, np.float32), clean])[: len(clean)]
    framewise = MelDistance(FRONT_END)(sample(shifted, clean))
    assert MelDistanceDtw(FRONT_END)(sample(shifted, clean, task="text_to_speech")) < 0.4 * framewise
    other = voice_like(seed=5)
    assert MelDistanceDtw(FRONT_END)(sample(other, clean)) > 2 * MelDistanceDtw(FRONT_END)(sample(shifted, clean))


def test_lengths_within_tolerance_are_cut_and_beyond_it_fail():
    clean = voice_like()
    assert MelDistance(FRONT_END)(sample(clean[: -RATE // 50], clean)) < 0.5
    for metric in (MelDistance(FRONT_END), LogSpectralDistance(RATE), SiSdr(RATE), Stoi(RATE, False)):
        with pytest.raises(MetricFailure, match="lengths differ"):
            metric(sample(clean[: -RATE // 10], clean))


# Speech


def test_si_sdr_of_a_case_done_by_hand():
    # alpha = <estimate, reference> / |reference|^2 = 12 / 8; target (3, 0, 3, 0) of energy 18, rest (0, 1, 0, -1) of 2.
    reference, estimate = np.array([2.0, 0.0, 2.0, 0.0]), np.array([3.0, 1.0, 3.0, -1.0])
    assert SiSdr(RATE)(sample(estimate, reference)) == pytest.approx(10 * np.log10(9))


def test_si_sdr_ignores_scale_and_follows_the_noise():
    clean = voice_like()
    noise = np.random.default_rng(0).normal(size=len(clean))
    noise -= clean * (noise @ clean) / (clean @ clean)
    for snr_db in (-5.0, 10.0):
        mixture = clean + noise * np.sqrt(clean @ clean / (noise @ noise) / 10 ** (snr_db / 10))
        assert SiSdr(RATE)(sample(mixture, clean)) == pytest.approx(snr_db, abs=1e-4)
        assert SiSdr(RATE)(sample(mixture * 0.01, clean)) == pytest.approx(snr_db, abs=1e-4)
    assert SiSdr(RATE)(sample(clean, clean)) > 100


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_is_1_for_identity_falls_with_noise_and_repeats(extended):
    clean, metric = voice_like(), Stoi(RATE, extended)
    assert metric(sample(clean, clean)) == pytest.approx(1.0, abs=1e-3)
    values = [metric(sample(noisy(clean, level), clean)) for level in (0.02, 0.1, 0.5)]
    assert 1 > values[0] > values[1] > values[2]
    assert metric(sample(noisy(clean, 0.1), clean)) == values[1]


@pytest.mark.parametrize("extended", [False, True])
def test_too_little_speech_is_a_failure_not_a_number(extended):
    mostly_silent = np.zeros(2 * RATE, dtype=np.float32)
    mostly_silent[: RATE // 5] = voice_like()[: RATE // 5]
    for reference in (mostly_silent, voice_like()[:100], voice_like()[: RATE // 4]):
        with pytest.raises(MetricFailure, match=r"0\.4"):
            Stoi(RATE, extended)(sample(reference, reference))


# Durations, events, retrieval


def test_duration_error():
    timed = sample(None, None, predicted_duration_s=1.8, true_duration_s=2.0)
    assert DurationError("s")(timed) == pytest.approx(0.2)
    assert DurationError("%")(timed) == pytest.approx(10.0)
    with pytest.raises(NotApplicable):
        DurationError("s")(sample(None, None, predicted_duration_s=1.8))
    with pytest.raises(MetricFailure):
        DurationError("%")(sample(None, None, predicted_duration_s=1.8, true_duration_s=0.0))


def beeps(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time_s = np.arange(RATE // 5) / RATE
    parts = [np.zeros(RATE // 10)]
    for _ in range(count):
        parts += [np.sin(2 * np.pi * rng.uniform(300, 3000) * time_s) * np.exp(-12 * time_s), np.zeros(RATE // 8)]
    return (0.5 * np.concatenate(parts)).astype(np.float32)


def test_onsets_are_counted_and_the_error_is_the_difference():
    assert [count_onsets(beeps(n), FRONT_END) for n in (1, 2, 5)] == [1, 2, 5]
    judge = EventCountError(FRONT_END)

    def of(waveform, events):
        return judge(sample(waveform, beeps(3), task="text_to_audio", details={"events": events}))

    assert of(beeps(3, seed=1), [{}] * 3) == 0
    assert of(beeps(5), [{}] * 3) == 2
    with pytest.raises(NotApplicable, match="finds 3 of 4"):
        of(beeps(3), [{}] * 4)
    with pytest.raises(MetricFailure, match="not a list"):
        of(beeps(3), "three")
    assert not judge.applies_to(sample(None, None, task="text_to_audio").item)


def test_retrieval_ranks_identity_first_and_shares_ties():
    clips = {f"id{i}": voice_like(1.0, seed=i) for i in range(5)}
    references = {
        name: retrieval.Candidate(name, retrieval.mel_statistics(clip, FRONT_END)) for name, clip in clips.items()
    }
    for name in clips:
        assert retrieval.rank_own_reference(references[name].statistics, name, references) == retrieval.Rank(1, 5)
    wrong = retrieval.rank_own_reference(references["id1"].statistics, "id0", references)
    assert wrong.rank > 1
    # A constant answer must get the chance rank, wherever it stands in the list.
    same = {name: retrieval.Candidate(name, np.zeros(3)) for name in clips}
    assert {retrieval.rank_own_reference(np.ones(3), name, same).rank for name in same} == {3.0}
    # References with the same text do not compete.
    twins = {name: retrieval.Candidate("one text", c.statistics) for name, c in references.items()}
    assert retrieval.rank_own_reference(references["id1"].statistics, "id0", twins) == retrieval.Rank(1, 1)


# Means


def test_mean_leaves_out_what_has_no_value():
    outcomes = [Outcome("ok", v) for v in (1.0, 2.0, 3.0)] + [Outcome("failed", reason="x"), Outcome("not_applicable")]
    mean = mean_of(outcomes)
    assert (mean.mean, mean.n, mean.failed, mean.not_applicable) == (2.0, 3, 1, 1)
    assert mean.standard_error == pytest.approx(1 / np.sqrt(3))
    assert mean.interval95 == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)), abs=1e-5)
    assert mean_of([Outcome("failed", reason="x")]).mean is None
    assert mean_of([Outcome("ok", 1.0)]).interval95 is None


def test_best_row_is_judged_on_shared_items_only():
    # Row b looks better only because it failed on the hard item 1.
    values = {"a": {0: 1.0, 1: 9.0}, "b": {0: 2.0}}
    assert best_row(values, lower_is_better=True) == ("a", 1)
    assert best_row({"a": {0: 1.0}, "b": {0: 1.0}}, True) == (None, 1)
    assert best_row({"a": {0: 1.0}, "b": {}}, True) == (None, 0)


# Whole evaluations


def write(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, waveform, rate, subtype="FLOAT")
    return path


@pytest.fixture
def broken_items(tmp_path) -> list[EvaluationItem]:
    """Eight enhancement items: one good, the others broken in one way each."""
    clean = voice_like()
    nan = clean.copy()
    nan[500] = np.nan
    reference = write(tmp_path / "clean.wav", clean)
    noisy_input = write(tmp_path / "noisy.wav", noisy(clean, 0.05))
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    generated = {
        "good": write(tmp_path / "good.wav", noisy(clean, 0.02)),
        "missing": tmp_path / "missing.wav",
        "silent": write(tmp_path / "silent.wav", 0 * clean),
        "nan": write(tmp_path / "nan.wav", nan),
        "empty": write(tmp_path / "empty.wav", clean[:0]),
        "text": text,
        "short": write(tmp_path / "short.wav", clean[:RATE]),
        "long": write(tmp_path / "long.wav", np.tile(clean, 2)),
    }
    return [
        EvaluationItem(name, "speech_enhancement", "Clean.", name, path, reference, noisy_input)
        for name, path in generated.items()
    ]


def test_every_kind_of_broken_audio_is_a_counted_failure(broken_items, tmp_path):
    summary = evaluate(
        broken_items,
        tmp_path / "out",
        sample_rate=RATE,
        recode=None,
        history=None,
        title="t",
        workers=0,
        progress=False,
    )
    means = summary.tasks["speech_enhancement"].means
    for name in ("si_sdr_db", "stoi", "estoi", "mel_distance_db", "lsd_db"):
        assert (means[MODEL][name].n, means[MODEL][name].failed) == (1, 7)
        assert (means[INPUT][name].n, means[INPUT][name].failed) == (8, 0)
    reasons = {f.audio_id: f.reason for f in summary.failures}
    assert set(reasons) == {"missing", "silent", "nan", "empty", "text", "short", "long"}
    assert reasons["missing"] == "missing.wav does not exist"
    assert "silent" in reasons["silent"]
    assert "NaN" in reasons["nan"]
    assert str(tmp_path) not in summary.metrics_file.read_text()
    stored = json.loads(summary.metrics_file.read_text(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert stored["tasks"]["speech_enhancement"]["means"]["model"]["stoi"]["n"] == 1
    assert {"implementation", "version", "parameters", "direction", "unit", "value_range"} <= set(
        stored["cards"]["stoi"]
    )


def test_other_sample_rates_are_resampled_and_noted(tmp_path):
    import soxr

    clean = voice_like()
    item = EvaluationItem(
        "a",
        "speech_enhancement",
        "Clean.",
        "a",
        write(tmp_path / "gen.wav", soxr.resample(clean, RATE, 48_000), 48_000),
        write(tmp_path / "ref.wav", clean),
    )
    summary = evaluate(
        [item], tmp_path / "out", sample_rate=RATE, recode=None, history=None, title="t", workers=0, progress=False
    )
    assert summary.tasks["speech_enhancement"].means[MODEL]["si_sdr_db"].mean > 30
    record = json.loads(summary.items_file.read_text())
    assert record["clips"]["model"]["notes"] == ["resampled from 48000 Hz"]


def test_recoded_references_are_a_row_and_a_bad_autoencoder_fails_items(tmp_path):
    items = []
    for i in range(3):
        path = write_audio(tmp_path / f"ref{i}.wav", voice_like(1.0, seed=i), RATE)
        items.append(EvaluationItem(f"i{i}", "text_to_audio", "Go.", f"sound {i}", path, path))
    calls = []

    def recode(waveform: np.ndarray) -> np.ndarray:
        calls.append(len(waveform))
        return waveform * np.nan if len(calls) == 2 else noisy(waveform, 0.001)

    summary = evaluate(
        items, tmp_path / "out", sample_rate=RATE, recode=recode, history=None, title="t", workers=0, progress=False
    )
    means = summary.tasks["text_to_audio"].means
    assert calls == [RATE] * 3
    assert (means[MODEL]["mel_distance_dtw_db"].mean, means[MODEL]["retrieval_rank"].mean) == (0.0, 1.0)
    assert (means[CODED]["mel_distance_dtw_db"].n, means[CODED]["mel_distance_dtw_db"].failed) == (2, 1)
    assert (means[CODED]["retrieval_top1"].n, means[CODED]["retrieval_top1"].failed) == (2, 1)
    assert summary.tasks["text_to_audio"].best["mel_distance_dtw_db"] == MODEL


# Enhancement loads torch in every worker, which takes seconds.
@pytest.mark.parametrize("task", ["text_to_audio", pytest.param("speech_enhancement", marks=pytest.mark.slow)])
def test_numbers_do_not_depend_on_the_number_of_workers(task, broken_items, tmp_path):
    items = [dataclasses.replace(item, task=task) for item in broken_items[:3]]
    files = {}
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        evaluate(
            items,
            out,
            sample_rate=RATE,
            recode=lambda waveform: waveform * 0.5,
            history=None,
            title="t",
            workers=workers,
            progress=False,
        )
        files[workers] = [(out / name).read_bytes() for name in ("metrics.json", "items.jsonl")]
    assert files[0] == files[2]


def test_a_missing_library_makes_its_metrics_unavailable(broken_items, tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "missing", lambda module: module)
    summary = evaluate(
        broken_items[:1], tmp_path, sample_rate=RATE, recode=None, history=None, title="t", workers=0, progress=False
    )
    assert set(summary.unavailable) == {"si_sdr_db", "stoi", "estoi"}
    assert "pip install 'unisono[eval]'" in summary.unavailable["stoi"]
    assert set(summary.tasks["speech_enhancement"].means[MODEL]) >= {"mel_distance_db", "lsd_db"}
    assert "not installed" in summary.report.read_text()
    assert metric_module.missing("surely_no_such_module") == "surely_no_such_module"


def test_a_bug_in_a_metric_is_not_hidden(broken_items, tmp_path, monkeypatch):
    def broken(self, sample):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(LogSpectralDistance, "__call__", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        evaluate(
            broken_items[:1],
            tmp_path,
            sample_rate=RATE,
            recode=None,
            history=None,
            title="t",
            workers=0,
            progress=False,
        )
    assert "'good'" in caught.value.__notes__[0]


def test_ids_are_checked_and_folders_are_safe_and_unique():
    def item(audio_id: str, task: str = "t") -> EvaluationItem:
        return EvaluationItem(audio_id, task, "", "", Path("x.wav"))

    ids = ["a b", "a#b", "a%b", "a_b", "A_B", "ü", "..", "con", "日本", "x" * 300, "x" * 301, "a/b"]
    names = folder_names([item(i) for i in ids])
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(name.isascii() and len(name) < 80 and "." not in name and name.count("/") == 1 for name in names)
    assert names[3] == "t/a_b"
    assert "t/con" not in names
    with pytest.raises(UserError, match="given twice"):
        evaluate([item("a"), item("a")], Path("."), sample_rate=RATE, recode=None, history=None, title="")
    with pytest.raises(UserError, match="workers"):
        evaluate([], Path("."), sample_rate=RATE, recode=None, history=None, title="", workers=-1)


def test_importing_the_package_is_cheap():
    code = (
        "import sys, unisono.evaluation; print([m for m in ('torch', 'numpy', 'jinja2', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = (
        "import sys, unisono.evaluation.runner; print([m for m in ('torch', 'pystoi', 'librosa') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
