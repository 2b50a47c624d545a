"""Whole evaluations: nothing broken ever enters a mean, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from judging import QUIET, RATE, noisy, voice_like, write
from unisono.errors import UserError
from unisono.evaluation.items import CODED, INPUT, MODEL, EvaluationItem
from unisono.evaluation.metric import BUG, Outcome
from unisono.evaluation.metrics.mel_distance import MelDistance
from unisono.evaluation.metrics.stoi import Stoi
from unisono.evaluation.networks.mel_statistics import MelStatistics
from unisono.evaluation.output_folder import folder_names
from unisono.evaluation.run import _recoder
from unisono.evaluation.runner import evaluate
from unisono.evaluation.summary import best_row, mean_of
from unisono.evaluation.terminal import summary_text
from unisono.files import locked
from unisono.media.audio import write_audio

FEW = ("si_sdr_db", "stoi", "estoi", "mel_distance_db")
SOME = dataclasses.replace(QUIET, metrics=FEW)


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
    summary = evaluate(broken_items, tmp_path / "out", SOME, title="t")
    means = summary.tasks["speech_enhancement"].means
    assert set(means[MODEL]) == set(FEW)
    for name in FEW:
        assert (means[MODEL][name].n, means[MODEL][name].failed) == (1, 7)
        assert (means[INPUT][name].n, means[INPUT][name].failed) == (8, 0)
    reasons = {f.audio_id: f.reason for f in summary.failures}
    assert set(reasons) == {"missing", "silent", "nan", "empty", "text", "short", "long"}
    assert reasons["missing"] == "the file does not exist"
    assert "silent" in reasons["silent"]
    assert "NaN" in reasons["nan"]
    assert str(tmp_path) not in summary.metrics_file.read_text()
    stored = json.loads(summary.metrics_file.read_text(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert stored["tasks"]["speech_enhancement"]["means"]["model"]["stoi"]["n"] == 1
    card = stored["cards"]["stoi"]
    assert {"implementation", "version", "parameters", "direction", "unit", "value_range", "blind_to"} <= set(card)
    text = summary_text(summary)
    assert "7 of 8 items of the model" in text and "the file does not exist" in text


def test_a_broken_reference_fails_what_needs_it_and_nothing_else(tmp_path):
    clean = voice_like()
    item = EvaluationItem(
        "a", "text_to_speech", "Say.", "a", write(tmp_path / "g.wav", clean), tmp_path / "gone.wav", None, 1.0, 2.0
    )
    settings = dataclasses.replace(QUIET, metrics=("mel_distance_dtw_db", "duration_error_s", "dnsmos_ovrl"))
    summary = evaluate([item], tmp_path / "out", settings, title="t")
    means = summary.tasks["text_to_speech"].means[MODEL]
    assert means["mel_distance_dtw_db"].failed == 1
    assert means["duration_error_s"].mean == pytest.approx(1.0)
    assert means["dnsmos_ovrl"].n == 1


def test_other_sample_rates_are_resampled_and_noted(tmp_path):
    import soxr

    clean = voice_like()
    generated = write(tmp_path / "gen.wav", soxr.resample(clean, RATE, 48_000), 48_000)
    item = EvaluationItem("a", "speech_enhancement", "Clean.", "a", generated, write(tmp_path / "ref.wav", clean))
    summary = evaluate([item], tmp_path / "out", SOME, title="t")
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

    summary = evaluate(items, tmp_path / "out", QUIET, recode=recode, title="t")
    means = summary.tasks["text_to_audio"].means
    assert calls == [RATE] * 3
    assert (means[MODEL]["mel_distance_dtw_db"].mean, means[MODEL]["retrieval_rank"].mean) == (0.0, 1.0)
    assert (means[CODED]["mel_distance_dtw_db"].n, means[CODED]["mel_distance_dtw_db"].failed) == (2, 1)
    assert (means[CODED]["retrieval_top1"].n, means[CODED]["retrieval_top1"].failed) == (2, 1)
    assert summary.tasks["text_to_audio"].best["mel_distance_dtw_db"] == MODEL


def test_an_autoencoder_that_fails_or_has_another_rate(tmp_path):
    path = write_audio(tmp_path / "ref.wav", voice_like(1.0), RATE)
    item = EvaluationItem("a", "text_to_audio", "Go.", "sound", path, path)

    def broken(waveform: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    settings = dataclasses.replace(QUIET, metrics=("mel_distance_dtw_db",))
    means = evaluate([item], tmp_path / "out", settings, recode=broken, title="t").tasks["text_to_audio"].means
    assert means[MODEL]["mel_distance_dtw_db"].n == 1 and means[CODED]["mel_distance_dtw_db"].failed == 1

    class Codec:
        sample_rate = 24_000

    with pytest.raises(UserError, match="code_references=false"):
        _recoder(Codec(), 48_000)


def test_a_fault_outside_the_metrics_costs_its_item(broken_items, tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError("4 TiB")

    monkeypatch.setattr("unisono.evaluation.measure.write_clips", no_memory)
    summary = evaluate(broken_items[:2], tmp_path, SOME, title="t")
    assert summary.tasks["speech_enhancement"].means[MODEL]["stoi"].failed == 2
    assert all(f.reason.startswith(BUG) for f in summary.failures)


def test_a_broken_recording_of_a_reference_set_is_left_out_and_told(tmp_path):
    items = [
        EvaluationItem(str(i), "text_to_audio", "Go.", f"{i}", write(tmp_path / f"{i}.wav", voice_like(0.5, seed=i)))
        for i in range(6)
    ]
    (tmp_path / "text.wav").write_text("not audio")
    references = [*(item.generated for item in items), tmp_path / "text.wav"]
    settings = dataclasses.replace(QUIET, metrics=("kad_mel_statistics",))
    summary = evaluate(items, tmp_path / "out", settings, reference_set=references, title="t")
    assert summary.tasks["text_to_audio"].means[MODEL]["kad_mel_statistics"].mean is not None
    (failure,) = summary.failures
    assert failure.audio_id == "reference set: text.wav" and failure.metric == "mel_statistics"


def test_a_reference_set_is_known_by_its_recordings_not_by_what_a_machine_makes_of_them(tmp_path, monkeypatch):
    files = [write(tmp_path / f"{i}.wav", voice_like(0.5, seed=i)) for i in range(6)]
    items = [
        EvaluationItem(str(i), "text_to_audio", "Go.", f"{i}", path, path if i < 3 else None)
        for i, path in enumerate(files)
    ]
    settings = dataclasses.replace(QUIET, metrics=("kad_mel_statistics",))

    def set_of(name: str, others: list[Path]) -> str:
        summary = evaluate(items, tmp_path / name, settings, reference_set=others, title="t")
        return summary.tasks["text_to_audio"].means[MODEL]["kad_mel_statistics"].conditions["reference_set"]

    first = set_of("first", files[3:])
    assert set_of("backwards", files[:2:-1]) == first
    assert set_of("fewer", files[4:]) != first
    heard = MelStatistics.__call__
    monkeypatch.setattr(MelStatistics, "__call__", lambda self, x: {k: v + 1e-3 for k, v in heard(self, x).items()})
    assert set_of("another machine", files[3:]) == first
    write(files[5], voice_like(0.5, seed=99))
    assert set_of("changed", files[3:]) != first


# Enhancement loads torch in every worker, which takes seconds.
@pytest.mark.parametrize("task", ["text_to_audio", pytest.param("speech_enhancement", marks=pytest.mark.slow)])
def test_numbers_do_not_depend_on_the_number_of_workers(task, broken_items, tmp_path):
    items = [dataclasses.replace(item, task=task) for item in broken_items[:3]]
    files = {}
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        settings = dataclasses.replace(QUIET, workers=workers, skip=("visqol_speech",))
        evaluate(items, out, settings, recode=lambda waveform: waveform * 0.5, title="t")
        files[workers] = [(out / name).read_bytes() for name in ("metrics.json", "items.jsonl")]
    assert files[0] == files[2]


def test_a_missing_library_makes_its_metrics_unavailable(broken_items, tmp_path, monkeypatch):
    monkeypatch.setattr(Stoi, "libraries", ("surely_no_such_module",))
    summary = evaluate(broken_items[:1], tmp_path, SOME, title="t")
    assert set(summary.unavailable) == {"stoi", "estoi"}
    assert "pip install 'unisono[eval]'" in summary.unavailable["stoi"]
    assert set(summary.tasks["speech_enhancement"].means[MODEL]) == {"si_sdr_db", "mel_distance_db"}
    assert "not installed" in summary.report.read_text()
    assert "stoi, estoi: surely_no_such_module not installed" in summary_text(summary)


def test_a_bug_in_a_metric_costs_its_own_numbers_and_is_told(broken_items, tmp_path, monkeypatch):
    def broken(self, sample):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(MelDistance, "__call__", broken)
    summary = evaluate(broken_items[:1], tmp_path, SOME, title="t")
    means = summary.tasks["speech_enhancement"].means[MODEL]
    assert means["mel_distance_db"].failed == 1 and means["stoi"].n == 1
    (failure,) = (f for f in summary.failures if f.row == MODEL)
    assert failure.reason.startswith(f"{BUG} (ZeroDivisionError: a bug)") and "'good'" in failure.reason
    assert "please report" in summary_text(summary)


def test_a_metric_that_gives_other_names_than_its_cards_costs_its_own_numbers(broken_items, tmp_path, monkeypatch):
    monkeypatch.setattr(MelDistance, "__call__", lambda self, sample: {"mel": 1.0})
    summary = evaluate(broken_items[:1], tmp_path, SOME, title="t")
    means = summary.tasks["speech_enhancement"].means[MODEL]
    assert means["mel_distance_db"].failed == 1 and means["stoi"].n == 1
    assert "MelDistance gave ['mel'], its cards are ['mel_distance_db']" in summary.failures[0].reason


def test_metrics_that_these_items_cannot_have_are_one_clear_error(broken_items, tmp_path):
    for settings in ({"metrics": ("event_count_error",)}, {"metrics": ("stoi",), "skip": ("stoi",)}):
        with pytest.raises(UserError, match=r"nothing is left to measure.*speech_enhancement"):
            evaluate(broken_items, tmp_path / "out", dataclasses.replace(QUIET, **settings), title="t")


def test_distances_between_sets_are_not_available_without_any_reference(tmp_path):
    items = [
        EvaluationItem(str(i), "text_to_audio", "Make.", "", write(tmp_path / f"{i}.wav", voice_like(1.0, seed=i)))
        for i in range(6)
    ]
    metrics = ("kad_mel_statistics", "fd_mel_statistics", "duration_error_s")
    summary = evaluate(items, tmp_path / "out", dataclasses.replace(QUIET, metrics=metrics), title="t")
    assert summary.unavailable == dict.fromkeys(metrics[1::-1], "no item has a reference")
    assert summary.failures == ()


@dataclasses.dataclass(frozen=True)
class Deadly(MelDistance):
    """Takes its process down for one item."""

    def __call__(self, sample):
        if sample.item.audio_id == "missing":
            raise AssertionError("never measured: the file is missing")
        if sample.item.audio_id == "good":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(sample)


@pytest.mark.slow
def test_an_item_that_takes_its_process_down_is_one_failure(broken_items, tmp_path, monkeypatch):
    from unisono.evaluation import runner
    from unisono.features.mel import MelFrontEnd

    monkeypatch.setattr(runner, "metrics_of", lambda rate: (Deadly(MelFrontEnd.for_rate(rate)),))
    more = [dataclasses.replace(broken_items[0], audio_id=f"fine{i}") for i in range(6)]
    items = [*more[:2], broken_items[0], *more[2:], broken_items[1]]
    settings = dataclasses.replace(QUIET, workers=2)
    summary = evaluate(items, tmp_path / "out", settings, title="t")
    mean = summary.tasks["speech_enhancement"].means[MODEL]["mel_distance_db"]
    assert (mean.n, mean.failed) == (6, 2)
    reasons = {f.audio_id: f.reason for f in summary.failures if f.row == MODEL}
    assert "ended its process" in reasons["good"] and reasons["missing"] == "the file does not exist"


def _alive(group: int) -> bool:
    """Whether a process group has a process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_leaves_no_process(tmp_path):
    clean = voice_like(20.0)
    for i in range(8):
        write(tmp_path / f"noisy/{i}.wav", noisy(clean, 0.1))
        write(tmp_path / f"clean/{i}.wav", clean)
    command = [sys.executable, "-m", "unisono.cli", "evaluate", "noisy", "clean", "-t", "se", "-o", "out", "-j", "2"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(12)  # workers are up and measure
    assert running.poll() is None, "it ended before it could be interrupted"
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert running.returncode != 0
    while _alive(running.pid) and time.monotonic() < started + 15:  # what watches over shared memory ends last
        time.sleep(0.2)
    assert not _alive(running.pid)


def test_settings_are_checked_before_anything_is_measured(broken_items, tmp_path):
    item = broken_items[0]
    for settings, words in (
        ({"metrics": ("stoj",)}, "did you mean stoi"),
        ({"skip": ("nothing_like_it",)}, "there is no metric 'nothing_like_it'"),
        ({"networks": {"clab": "x"}}, "did you mean clap"),
        ({"workers": -1}, "workers"),
        ({"sample_rate": 4_000}, "4000"),
        ({"sample_rate": 10**8}, "100000000"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate([item], tmp_path / "out", dataclasses.replace(QUIET, **settings), title="t")
    with pytest.raises(UserError, match="given twice"):
        evaluate([item, item], tmp_path / "out", QUIET, title="t")
    with pytest.raises(UserError, match="no items"):
        evaluate([], tmp_path / "out", QUIET, title="t")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "nul\0byte.wav", "/proc/self/mem"])
def test_names_and_devices_that_cannot_be_read_are_failures(name, tmp_path):
    item = EvaluationItem("a", "text_to_audio", "Go.", "sound", tmp_path / name, tmp_path / name)
    settings = dataclasses.replace(QUIET, metrics=("mel_distance_dtw_db",))
    summary = evaluate([item], tmp_path / "out", settings, recode=lambda waveform: waveform, title="t")
    assert summary.tasks["text_to_audio"].means[MODEL]["mel_distance_dtw_db"].failed == 1


def test_audio_far_above_full_scale_is_no_audio(tmp_path):
    clean = voice_like(1.0)
    loud = write(tmp_path / "loud.wav", clean * 1e30)
    item = EvaluationItem("a", "speech_enhancement", "Clean.", "a", loud, write(tmp_path / "ref.wav", clean))
    (failure, *_) = evaluate([item], tmp_path / "out", SOME, title="t").failures
    assert "full scale is 1" in failure.reason


def test_a_clip_that_is_missing_from_a_distance_is_told(tmp_path):
    items = []
    for i in range(7):
        path = write(tmp_path / f"{i}.wav", voice_like(0.5, seed=i))
        items.append(EvaluationItem(str(i), "text_to_audio", "Go.", f"{i}", path if i else tmp_path / "gone.wav", path))
    settings = dataclasses.replace(QUIET, metrics=("kad_mel_statistics",))
    summary = evaluate(items, tmp_path / "out", settings, title="t")
    mean = summary.tasks["text_to_audio"].means[MODEL]["kad_mel_statistics"]
    assert (mean.n, mean.failed) == (6, 1) and mean.conditions["judged_items"].startswith("6 (")
    (failure,) = summary.failures
    assert (failure.audio_id, failure.metric, failure.reason) == ("0", "kad_mel_statistics", "the file does not exist")
    assert "1 of 7 items of the model" in summary_text(summary)


def test_an_output_folder_that_cannot_be_used_is_one_error(tmp_path):
    path = write_audio(tmp_path / "ref.wav", voice_like(1.0), RATE)
    item = EvaluationItem("a", "text_to_audio", "Go.", "sound", path, path)
    settings = dataclasses.replace(QUIET, metrics=("mel_distance_dtw_db",))
    (tmp_path / "taken/report.html").mkdir(parents=True)
    for out, words in (
        (path, "cannot be written"),
        (path / "x", "cannot be written"),
        (tmp_path / "taken", "is a folder"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate([item], out, settings, title="t")
    with locked(tmp_path / "busy/.lock"), pytest.raises(UserError, match="another evaluation is writing there"):
        evaluate([item], tmp_path / "busy", settings, title="t")


def test_reasons_that_differ_in_numbers_alone_are_one(tmp_path):
    clean = write(tmp_path / "clean.wav", voice_like(2.0))
    items = [
        EvaluationItem(
            str(i), "speech_enhancement", "", "", write(tmp_path / f"{i}.wav", voice_like(0.5 + i / 10)), clean
        )
        for i in range(4)
    ]
    text = summary_text(evaluate(items, tmp_path / "out", SOME, title="t"))
    assert "4 x 0.50 s against 2.00 s of reference" in text


def test_folders_are_safe_and_unique():
    def item(audio_id: str, task: str = "t") -> EvaluationItem:
        return EvaluationItem(audio_id, task, "", "", Path("x.wav"))

    ids = ["a b", "a#b", "a%b", "a_b", "A_B", "ü", "..", "con", "日本", "x" * 300, "x" * 301, "a/b"]
    names = folder_names([item(i) for i in ids])
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(name.isascii() and len(name) < 80 and "." not in name and name.count("/") == 1 for name in names)
    assert names[3] == "t/a_b"
    assert "t/con" not in names
