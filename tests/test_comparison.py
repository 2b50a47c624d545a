"""Systems side by side: differences item by item, and no two numbers in one column that were made differently."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from judging import QUIET, RATE, noisy, voice_like, write
from test_report import Page
from unisono.errors import UserError
from unisono.evaluation.bootstrap import FEWEST_PAIRS, Difference, paired_difference
from unisono.evaluation.commands import named
from unisono.evaluation.comparison import compare
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metrics.frechet import FrechetDistance
from unisono.evaluation.results import read_results
from unisono.evaluation.runner import evaluate
from unisono.evaluation.terminal import comparison_text


class Fake(FrechetDistance):
    """A distance that few dimensions would make sound."""

    def __init__(self) -> None:
        super().__init__("mel_statistics")


METRICS = ("mel_distance_db", "lsd", "si_sdr_db")
SETTINGS = dataclasses.replace(QUIET, metrics=METRICS)


def items_of(folder: Path, level: float, names: list[str]) -> list[EvaluationItem]:
    made = []
    for i, name in enumerate(names):
        clean = voice_like(1.0, seed=int(name.rpartition(" ")[2]))
        reference = write(folder / f"{name} reference.wav", clean)
        generated = write(folder / f"{name}.wav", noisy(clean, level * (1 + 0.1 * i)))
        made.append(EvaluationItem(name, "audio_super_resolution", "Widen.", name, generated, reference))
    return made


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory) -> dict[str, Path]:
    """Three systems of one test set: good, worse, and one that lacks an item."""
    folder = tmp_path_factory.mktemp("systems with space")
    names = [f"item {i}" for i in range(6)]
    result = {}
    for system, level, missing in (("good", 0.01, 0), ("worse", 0.03, 0), ("short", 0.02, 1)):
        items = items_of(folder / system, level, names[missing:])
        evaluate(items, folder / system / "evaluation", SETTINGS, title=system)
        result[system] = folder / system / "evaluation"
    return result


def test_results_are_read_back_as_they_were_written(evaluations):
    stored = read_results(evaluations["good"])
    assert [item.audio_id for item in stored.items] == [f"item {i}" for i in range(6)]
    assert list(stored.cards) and stored.cards["si_sdr_db"].parameters["sample_rate"] == RATE
    raw = [json.loads(line) for line in (evaluations["good"] / "items.jsonl").open()]
    for record, result in zip(raw, stored.results, strict=True):
        assert {n: o.value for n, o in result.outcomes["model"].items()} == record["metrics"]["model"]


def test_differences_are_paired_and_their_sign_follows_the_direction(evaluations, tmp_path):
    comparison = compare({"good": evaluations["good"], "worse": evaluations["worse"]}, tmp_path / "out")
    differences = comparison.differences["audio_super_resolution"]["system_2"]
    for name in ("mel_distance_db", "si_sdr_db"):
        card = comparison.summary.cards[name]
        difference = differences[name]
        assert difference.n == 6 and difference.verdict(card.direction) == "worse"
        low, high = difference.interval95
        assert low <= difference.mean <= high
    stored = json.loads((tmp_path / "out/comparison.json").read_text())
    told = stored["tasks"]["audio_super_resolution"]["differences"]["worse"]["si_sdr_db"]
    assert told["verdict"] == "worse" and told["mean"] == pytest.approx(-20 * np.log10(3), abs=0.2)
    text = comparison_text(comparison)
    assert "worse - good" in text and " worse" in text


def test_the_report_stands_for_itself(evaluations, tmp_path):
    moved = {name: tmp_path / name for name in ("good", "worse")}
    for name, folder in moved.items():
        shutil.copytree(evaluations[name], folder)
    out = tmp_path / "side by side"
    compare(moved, out)
    for folder in moved.values():
        shutil.rmtree(folder)
    page = Page(out / "report.html")
    players = [p["src"] for p in page.all("audio")]
    assert len(players) == 6 * 3 and all((out / p.replace("%20", " ")).is_file() for p in players)
    visible = " ".join("".join(page.text).split())
    assert "worse less good" in visible and "BCa" in visible


def test_items_that_one_system_lacks_are_told_and_not_compared(evaluations, tmp_path):
    comparison = compare({"good": evaluations["good"], "short": evaluations["short"]}, tmp_path)
    assert comparison.notes == ["short lacks 1 of 6 items"]
    assert comparison.differences["audio_super_resolution"]["system_2"]["si_sdr_db"].n == 5


def test_metrics_that_one_system_was_evaluated_without_are_told(evaluations, tmp_path):
    items = items_of(tmp_path / "audio", 0.02, [f"item {i}" for i in range(6)])
    evaluate(items, tmp_path / "few", dataclasses.replace(SETTINGS, metrics=("lsd",)), title="few")
    comparison = compare({"good": evaluations["good"], "few": tmp_path / "few"}, tmp_path / "out")
    (note,) = comparison.notes
    assert note.startswith("few was evaluated without ") and "si_sdr_db" in note and note.endswith("(2 of 3 metrics)")


def test_other_cards_are_refused_and_shown_when_allowed(evaluations, tmp_path):
    items = items_of(tmp_path / "audio", 0.02, [f"item {i}" for i in range(6)])
    other = dataclasses.replace(SETTINGS, sample_rate=24_000)
    evaluate(items, tmp_path / "other", other, title="other")
    both = {"good": evaluations["good"], "other": tmp_path / "other"}
    with pytest.raises(
        UserError, match=r"sample_rate is 16000 in good, 24000 in other.*\n[^$]*--allow-different-cards"
    ):
        compare(both, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    comparison = compare(both, tmp_path / "out", allow_different_cards=True)
    assert "sample_rate is 16000 in good, 24000 in other" in comparison.mismatches["si_sdr_db"]
    assert "made differently" in (tmp_path / "out/report.html").read_text()
    assert "do not compare" in comparison_text(comparison)


def test_items_of_one_name_with_other_references_are_refused(evaluations, tmp_path):
    items = items_of(tmp_path / "audio", 0.02, [f"item {i}" for i in range(6)])
    write(items[2].reference, voice_like(1.0, seed=99))
    evaluate(items, tmp_path / "other", SETTINGS, title="other")
    with pytest.raises(
        UserError, match="1 items of other have another reference or text than in good, such as 'item 2'"
    ):
        compare(
            {"good": evaluations["good"], "other": tmp_path / "other"}, tmp_path / "out", allow_different_cards=True
        )


def test_a_distance_of_another_number_of_clips_is_left_out_and_told(tmp_path):
    folders = {}
    for system, n in (("all", 110), ("fewer", 109)):
        items = []
        for i in range(110):
            clean = np.random.default_rng(i).normal(0, 0.1, RATE // 8).astype(np.float32)
            reference = write(tmp_path / f"{i}.wav", clean)
            generated = reference if i < n else tmp_path / "gone.wav"
            items.append(EvaluationItem(str(i), "text_to_audio", "Go.", f"sound {i}", generated, reference))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unisono.evaluation.runner.metrics_of", lambda rate: (Fake(),))
            folders[system] = tmp_path / system
            evaluate(items, folders[system], QUIET, title=system)
    comparison = compare(folders, tmp_path / "out")
    assert any("not compared: fd_mel_statistics (text_to_audio: " in note for note in comparison.notes)
    assert "fd_mel_statistics" not in comparison.differences["text_to_audio"]["system_2"]


def test_a_rank_among_other_references_is_left_out_and_told(tmp_path):
    folders = {}
    for system, n in (("all", 4), ("fewer", 3)):
        made = [
            dataclasses.replace(item, task="text_to_audio")
            for item in items_of(tmp_path / system, 0.01, [f"item {i}" for i in range(n)])
        ]
        folders[system] = tmp_path / system / "evaluation"
        settings = dataclasses.replace(QUIET, metrics=("retrieval_rank", "mel_distance_dtw_db"))
        evaluate(made, folders[system], settings, title=system)
    comparison = compare(folders, tmp_path / "out")
    assert "not compared: retrieval_rank (text_to_audio: references is 4 in all, 3 in fewer" in comparison.notes[1]
    assert comparison.notes[1].partition(",")[0] in (tmp_path / "out/report.html").read_text()
    of_task = comparison.summary.tasks["text_to_audio"]
    assert all(set(means) == {"mel_distance_dtw_db"} for means in of_task.means.values())
    assert set(comparison.differences["text_to_audio"]["system_2"]) == {"mel_distance_dtw_db"}
    assert "retrieval_rank" not in (tmp_path / "out/items.jsonl").read_text()
    both = compare(folders, tmp_path / "both", allow_different_cards=True)
    means = both.summary.tasks["text_to_audio"].means
    assert means["system_1"]["retrieval_rank"].n == 4 and means["system_2"]["retrieval_rank"].n == 3
    assert "retrieval_rank" in both.mismatches and "retrieval_rank" not in both.summary.tasks["text_to_audio"].best


def test_settings_that_differ_are_told_of_each_system(tmp_path):
    folders = {}
    for system, weights, steps in (("one", "aaaa", 8), ("two", "bbbb", 24)):
        made = [
            dataclasses.replace(
                item,
                details={"weights": weights, "solver": "euler", "steps_taken": steps + i, "take": i},
                predicted_duration_s=1.0 + (system == "two"),
                instruction=f"Widen, {system}.",
            )
            for i, item in enumerate(items_of(tmp_path / system, 0.01, ["item 0", "item 1"]))
        ]
        folders[system] = tmp_path / system / "evaluation"
        evaluate(made, folders[system], SETTINGS, title=f"run {system}")
    comparison = compare(folders, tmp_path / "out")
    assert comparison.settings == {"weights": "aaaa in one, bbbb in two"}
    assert json.loads((tmp_path / "out/comparison.json").read_text())["different_settings"] == comparison.settings
    (item, _) = (json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines())
    assert item["details"] == {"solver": "euler", "steps_taken": "8 in one, 24 in two", "take": 0}
    assert item["instruction"] == "Widen, one. in one, Widen, two. in two" and item["predicted_duration_s"] is None
    page = (tmp_path / "out/report.html").read_text()
    assert "aaaa in one, bbbb in two" in page and "<dd>euler</dd>" in page.replace("\n", "")


def hostile(evaluation: Path, folder: Path, change) -> Path:
    """A copy of an evaluation in which ``change(metrics, first item)`` was done."""
    shutil.copytree(evaluation, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    records = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    change(metrics, records)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def player(name: str, kind: str = "audio"):
    return lambda metrics, items: items[0]["clips"]["model"].update({kind: name})


def value(number):
    return lambda metrics, items: items[0]["metrics"]["model"].update(lsd=number)


@pytest.mark.parametrize(
    "change",
    [
        player("../outside.flac"),
        player("../outside.png", "picture"),
        player("/etc/hostname"),
        player("items.jsonl"),
        value(float("nan")),
        value(10**400),
        value(1e308),
        value("abc"),
        value(True),
        lambda metrics, items: items.append(items[0]),
        lambda metrics, items: items[0].update(audio_id=["a"]),
        lambda metrics, items: items[0].update(span_s="x"),
        lambda metrics, items: metrics.update(unavailable=["a"]),
        lambda metrics, items: metrics.update(sample_rate="x"),
        lambda metrics, items: metrics["cards"]["lsd"].update(decimals=10**9),
        lambda metrics, items: metrics["cards"]["lsd"].update(name="other"),
        lambda metrics, items: metrics["cards"]["lsd"].update(direction="sideways"),
        lambda metrics, items: metrics["cards"]["lsd"].update(parameters=None),
    ],
)
def test_an_evaluation_of_somebody_else_is_not_trusted(change, evaluations, tmp_path):
    (tmp_path / "outside.flac").write_bytes(b"mine")
    (tmp_path / "outside.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    folder = hostile(evaluations["worse"], tmp_path / "hostile", change)
    with pytest.raises(UserError, match="damaged results"):
        compare({"good": evaluations["good"], "hostile": folder}, tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    assert set(tmp_path.iterdir()) <= {*before, folder, tmp_path / "out"}


def test_a_link_out_of_an_evaluation_is_not_followed(evaluations, tmp_path):
    secret = tmp_path / "secret.flac"
    secret.write_bytes(b"secret")
    folder = hostile(evaluations["worse"], tmp_path / "hostile", lambda metrics, items: None)
    link = next(folder.rglob("model.flac"))
    link.unlink()
    link.symlink_to(secret)
    with pytest.raises(UserError, match="damaged results"):
        compare({"good": evaluations["good"], "hostile": folder}, tmp_path / "out")
    assert not any(path.read_bytes() == b"secret" for path in (tmp_path / "out").rglob("*.flac"))


def test_numbers_of_another_kind_under_one_name_are_refused_in_any_case(evaluations, tmp_path):
    folder = hostile(
        evaluations["worse"],
        tmp_path / "other",
        lambda metrics, items: metrics["cards"]["lsd"].update(direction="higher"),
    )
    with pytest.raises(UserError, match="lsd: its direction is higher and lower"):
        compare({"good": evaluations["good"], "o": folder}, tmp_path / "out", allow_different_cards=True)


def test_what_is_no_evaluation_is_one_clear_error(evaluations, tmp_path):
    good = evaluations["good"]
    with pytest.raises(UserError, match="two evaluations or more"):
        compare({"good": good}, tmp_path)
    with pytest.raises(UserError, match=r"metrics.json does not exist"):
        compare({"good": good, "none": tmp_path}, tmp_path / "out")
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    for text, words in (("{", "damaged"), ('{"format": 1}', "format 1"), ('{"format": 3}', "damaged")):
        (broken / "metrics.json").write_text(text)
        with pytest.raises(UserError, match=words):
            compare({"good": good, "broken": broken}, tmp_path / "out")
    with pytest.raises(UserError, match="name another folder"):
        compare({"good": good, "worse": evaluations["worse"]}, good)
    items = items_of(tmp_path / "audio", 0.02, ["stranger 0"])
    evaluate(items, tmp_path / "strange", SETTINGS, title="s")
    with pytest.raises(UserError, match="no item in common"):
        compare({"good": good, "strange": tmp_path / "strange"}, tmp_path / "out")


@pytest.mark.parametrize("n", [5, 12, 40])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_intervals_leave_the_true_mean_out_about_as_often_as_they_say(n, draw, monkeypatch):
    monkeypatch.setattr("unisono.evaluation.bootstrap.RESAMPLES", 999)
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(150):
        differences = 0.3 + (rng.normal(size=n) if draw == "normal" else rng.exponential(size=n) - 1)
        found = paired_difference({str(i): d for i, d in enumerate(differences)}, {str(i): 0.0 for i in range(n)})
        misses += not found.interval95[0] <= 0.3 <= found.interval95[1]
    # 7.5 are meant; skewed differences of few items are the hardest case for any interval.
    assert misses <= (15 if draw == "normal" else 24)


def test_differences_that_are_equal_but_for_rounding_are_no_verdict_by_chance():
    base = {str(i): 0.1 * i for i in range(7)}
    for sign, verdict in ((1, "better"), (-1, "worse")):
        found = paired_difference({name: v + sign * 0.1 for name, v in base.items()}, base)
        assert found.interval95 == (found.mean, found.mean) and found.verdict("higher") == verdict
    assert paired_difference(base, base).verdict("higher") == ""
    assert Difference(7, 1.0, (float("nan"), float("nan"))).verdict("lower") == ""


def test_bootstrap_of_few_equal_or_no_pairs():
    few = {str(i): float(i) for i in range(FEWEST_PAIRS - 1)}
    found = paired_difference(few, dict.fromkeys(few, 0.0))
    assert found.interval95 is None and found.mean == 1.5 and "needs 5" in found.reason
    same = paired_difference({str(i): 2.0 for i in range(9)}, {str(i): 1.0 for i in range(9)})
    assert same.interval95 == (1.0, 1.0) and same.verdict("higher") == "better" and same.verdict("lower") == "worse"
    assert paired_difference({"a": 1.0}, {"b": 1.0}).mean is None


def test_systems_are_named_by_as_little_of_their_path_as_tells_them_apart():
    assert list(named(["x/evaluation", "y/evaluation"])) == ["x/evaluation", "y/evaluation"]
    assert list(named(["x/a", "y/b"])) == ["a", "b"]
    assert next(iter(named(["ours=x/a", "y/a"]))) == "ours"
    with pytest.raises(UserError, match="called 'a'"):
        named(["a=x", "a=y"])
