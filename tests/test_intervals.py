"""Items of one recording are one draw of the test set, in every interval."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from judging import QUIET, noisy, voice_like, write
from unisono.evaluation.bootstrap import paired_difference
from unisono.evaluation.comparison import compare
from unisono.evaluation.intervals import error_of_mean, numbered
from unisono.evaluation.items import MODEL, EvaluationItem
from unisono.evaluation.metric import Outcome
from unisono.evaluation.runner import evaluate
from unisono.evaluation.summary import mean_of
from unisono.evaluation.terminal import comparison_text, summary_text


def test_items_without_a_source_stand_for_themselves():
    numbers = numbered(["x", "", "y", "x", ""])
    assert numbers[0] == numbers[3] and len(set(numbers.tolist())) == 4
    assert numbered([]).shape == (0,)
    assert len(set(numbered(["item 1", ""]).tolist())) == 2  # no text is taken for the name of an item


def test_error_of_a_mean_by_hand():
    values = np.array([1.0, 1.0, 3.0, 3.0])
    own, half = error_of_mean(values, np.arange(4))
    assert own == pytest.approx(values.std(ddof=1) / 2)
    assert half == pytest.approx(3.182446 * own, rel=1e-6)  # t of 3 degrees of freedom
    # Two recordings with means 1 and 3: sd sqrt 2 over sqrt 2, and t of one degree of freedom.
    assert error_of_mean(values, np.array([7, 7, 2, 2])) == (pytest.approx(1.0), pytest.approx(12.706205, rel=1e-6))
    assert error_of_mean(values, np.zeros(4, int)) is None


def clustered(rng: np.random.Generator, sources: int, each: int) -> tuple[np.ndarray, list[str]]:
    """Differences with mean 0.3 that depend more on the recording than on its version."""
    values = 0.3 + rng.normal(size=(sources, 1)) + 0.3 * rng.normal(size=(sources, each))
    return values.ravel(), [f"recording {i}" for i in range(sources) for _ in range(each)]


def test_intervals_of_means_cover_what_they_say_for_versions_of_few_recordings():
    rng = np.random.default_rng(0)
    missed = np.zeros(2)
    for _ in range(400):
        values, sources = clustered(rng, 12, 4)
        outcomes = [Outcome("ok", float(value)) for value in values]
        for kind, numbers in enumerate((numbered(sources), None)):
            low, high = mean_of(outcomes, numbers).interval95
            missed[kind] += not low <= 0.3 <= high
    assert missed[0] <= 32  # 20 are meant
    assert missed[1] > 100  # what counting versions as independent would do


def test_differences_cover_what_they_say_for_versions_of_recordings(monkeypatch):
    monkeypatch.setattr("unisono.evaluation.bootstrap.RESAMPLES", 999)
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        values, sources = clustered(rng, 24, 3)
        system = {str(i): value for i, value in enumerate(values)}
        found = paired_difference(system, dict.fromkeys(system, 0.0), dict(zip(system, sources, strict=True)))
        missed += not found.interval95[0] <= 0.3 <= found.interval95[1]
    assert missed <= 15  # 7.5 are meant


@pytest.mark.parametrize("n", [8, 30])
def test_the_same_item_three_times_makes_nobody_surer(n):
    rng = np.random.default_rng(1)
    once = {f"{i}": value for i, value in enumerate(rng.normal(size=n))}
    thrice = {f"{i}/{take}": value for i, value in once.items() for take in range(3)}
    sources = {name: name.partition("/")[0] for name in thrice}
    found = paired_difference(thrice, dict.fromkeys(thrice, 0.0), sources)
    alone = paired_difference(once, dict.fromkeys(once, 0.0))
    assert found.n == 3 * n and found.mean == pytest.approx(alone.mean)
    # Resampled in another order, so equal but for the bootstrap's own chance.
    assert found.interval95 == pytest.approx(alone.interval95, abs=0.03)


def test_few_recordings_have_no_interval_however_many_versions_there_are():
    system = {str(i): float(i % 7) for i in range(40)}
    found = paired_difference(system, dict.fromkeys(system, 0.0), {name: str(int(name) % 4) for name in system})
    assert found.interval95 is None and "40 items of 4 recordings or texts in both" in found.reason


def test_versions_of_one_recording_are_found_by_its_samples(tmp_path):
    def evaluated(system: str, level: float) -> Path:
        items = []
        for recording in range(6):
            clean = voice_like(1.0, seed=recording)
            for version in range(2):
                name = f"{recording} version {version}"
                generated = write(tmp_path / system / f"{name}.wav", noisy(clean, level * (1 + version)))
                reference = write(tmp_path / "clean" / f"{name}.wav", clean)  # a file of its own for each
                items.append(EvaluationItem(name, "speech_enhancement", "Clean.", name, generated, reference))
        settings = dataclasses.replace(QUIET, metrics=("mel_distance_db",))
        summary = evaluate(items, tmp_path / system / "evaluation", settings, title=system)
        of_task = summary.tasks["speech_enhancement"]
        assert (of_task.items, of_task.sources) == (12, 6)
        assert "12 items of 6 recordings" in summary_text(summary)
        assert "12 items of 6 recordings" in summary.report.read_text()
        mean = of_task.means[MODEL]["mel_distance_db"]
        low, high = mean.interval95
        assert high - low == pytest.approx(2 * 2.570582 * mean.standard_error, rel=1e-6)  # 5 degrees of freedom
        return tmp_path / system / "evaluation"

    systems = {"a": evaluated("a", 0.01), "b": evaluated("b", 0.02)}
    comparison = compare(systems, tmp_path / "compared")
    assert comparison.summary.tasks["speech_enhancement"].sources == 6
    assert "12 items of 6 recordings" in comparison_text(comparison)


def test_takes_of_one_caption_without_references_share_a_source(tmp_path):
    captions = ("rain", "rain", "wind", None)
    items = [
        EvaluationItem(
            str(i),
            "text_to_audio",
            "Make it.",
            str(i),
            write(tmp_path / f"{i}.wav", voice_like(1.0, seed=i)),
            details={} if caption is None else {"caption": caption},
        )
        for i, caption in enumerate(captions)
    ]
    summary = evaluate(items, tmp_path / "out", dataclasses.replace(QUIET, metrics=("clap_score",)), title="t")
    assert summary.tasks["text_to_audio"].sources == 3
