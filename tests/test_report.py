"""The report is one folder that opens from disk: references are relative files that exist, captions are only text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.report import curves
from unisono.evaluation.report.pictures import (
    HEIGHT_PX,
    WIDTH_PX,
    colour_palette,
    frequency_ticks,
    mel_picture,
    time_ticks,
)
from unisono.evaluation.runner import Settings, evaluate
from unisono.evaluation.summary import Summary
from unisono.media.audio import write_audio

RATE = 16_000
METRICS = ("mel_distance_dtw_db", "mel_distance_db", "stoi", "si_sdr_db", "retrieval_rank", "duration_error_s")
HOSTILE = "<script>alert(1)</script> \"quoted\" & 'single' </article> {{ 7 * 7 }}"


class Page(HTMLParser):
    """Collects every reference, id, element and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.references += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def tone(frequency_hz: float, duration_s: float = 1.0) -> np.ndarray:
    time_s = np.arange(int(duration_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time_s) * (1 + np.sin(2 * np.pi * 4 * time_s)) / 2).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[EvaluationItem]:
    """Three tasks; ids with every awkward character, and two that differ in these only."""
    folder = tmp_path_factory.mktemp("audio")
    ids = ["plain", "a b", "a#b", "100%25", "ü 日本", "a?b&c=d"]
    result = []
    for i, (task, audio_id) in enumerate((t, a) for t in ("text_to_audio", "text_to_speech") for a in ids):
        reference = write_audio(folder / f"r{i}.wav", tone(200 + 100 * i), RATE)
        generated = write_audio(folder / f"g{i}.wav", tone(210 + 100 * i, 1.2), RATE)
        result.append(
            EvaluationItem(
                audio_id,
                task,
                f"Say it {HOSTILE}",
                f"caption {i} {HOSTILE}",
                generated,
                reference,
                None,
                1.2,
                1.0,
                {"seed": 0, "phonemes": ["h", "ə", HOSTILE], "object": {"path": Path("x"), "nan": float("nan")}},
            )
        )
    result.append(
        EvaluationItem(
            "no audio",
            "speech_enhancement",
            "Clean.",
            "n.wav",
            folder / "none.wav",
            folder / "r0.wav",
            folder / "r1.wav",
        )
    )
    return result


def run(items, out: Path, history: Path | None = None, **options) -> Summary:
    settings = Settings(sample_rate=RATE, metrics=METRICS, workers=0, progress=False, cache=None)
    return evaluate(
        items, out, settings, recode=lambda waveform: waveform * 0.9, history=history, title=f"Run {HOSTILE}", **options
    )


@pytest.fixture(scope="module")
def summary(items, tmp_path_factory) -> Summary:
    out = tmp_path_factory.mktemp("report with space #1")
    history = out / "run.jsonl"
    lines = [
        {
            "step": s,
            "epoch": 0,
            "train/loss": 1 / s,
            "train/loss/text_to_speech": 2 / s,
            "val/loss": 1.1 / s,
            "lr": 1e-4,
        }
        | {f"val/loss_sigma/{sigma}": sigma / s for sigma in (0.1, 0.5, 0.9)}
        for s in range(1, 40)
    ]
    history.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 40, "tra')
    return run(items, out, history, facts={"Checkpoint": HOSTILE})


def test_every_reference_is_a_relative_file_that_exists(summary):
    page = Page(summary.report)
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    files = set()
    for reference in page.references:
        parts = urlsplit(reference)
        if reference == "data:,":
            continue
        assert not parts.scheme, reference
        assert not parts.netloc, reference
        if not parts.path:
            assert parts.fragment in anchors, reference
            continue
        path = unquote(parts.path)
        assert not path.startswith("/")
        assert (summary.report.parent / path).is_file(), reference
        files.add(path)
    # 12 items of three clips; the last one has no generated file but input, reference and coded reference.
    assert len([f for f in files if f.endswith(".flac")]) == 13 * 3
    assert len([f for f in files if f.endswith(".png")]) == 13 * 3


def test_no_network_and_nothing_hidden_in_the_page(summary):
    text = summary.report.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_html_in_captions_is_text(summary):
    page = Page(summary.report)
    assert len(page.all("script", type="application/json")) + 1 == len(page.all("script"))
    assert "<script>alert" not in summary.report.read_text(encoding="utf-8")
    visible = "".join(page.text)
    assert visible.count(f"caption 3 {HOSTILE}") == 1
    assert f"Run {HOSTILE}" in visible


def test_players_pictures_and_controls_are_accessible(summary):
    page = Page(summary.report)
    players = page.all("audio")
    assert len(players) == 39
    for player in players:
        assert player["preload"] == "none"
        assert "controls" in player
        assert player["aria-label"]
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert page.all("html", lang="en")
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_means_failures_and_cards_are_shown(summary):
    visible = " ".join("".join(Page(summary.report).text).split())
    for words in ("Reference coded by the autoencoder", "Input itself", "n = 6", "the file does not exist", "± "):
        assert words in visible
    for card in summary.cards.values():
        assert card.name in visible
        assert card.implementation in visible
    # The seed is the same for all items of two tasks but not of the third, so it stays with the items.
    assert "Loss, all tasks" in visible
    assert "Loss, Text to speech" in visible
    assert "1 broken line in run.jsonl left out." in visible


def test_sort_values_are_json_with_null_for_failures(summary):
    values = [json.loads(card["data-values"]) for card in Page(summary.report).all("article")]
    assert len(values) == 13
    assert all(isinstance(v["mel_distance_dtw_db"], float) for v in values[:12])
    assert values[12]["stoi"] is None


def test_same_inputs_give_the_same_numbers_and_audio(items, summary, tmp_path):
    again = run(items, tmp_path)
    assert again.metrics_file.read_bytes() == summary.metrics_file.read_bytes()
    for name in ("audio/text_to_speech/plain/model.flac", "pictures/text_to_speech/plain/model.png"):
        assert (again.report.parent / name).read_bytes() == (summary.report.parent / name).read_bytes()


@pytest.mark.parametrize(
    "content", [None, "", "\n", "garbage\n[1]\n", '{"step": 1}\n', '{"step": 1, "train/loss": NaN}\n']
)
def test_a_history_without_losses_is_no_error(items, content, tmp_path):
    history = tmp_path / "metrics.jsonl"
    if content is not None:
        history.write_text(content)
    page = Page(run(items[:1], tmp_path / "out", history).report)
    assert not any("loss" in svg["aria-label"].lower() for svg in page.all("svg"))
    assert len(page.all("audio")) == 3


def test_items_without_reference_or_of_an_unknown_task(items, tmp_path):
    alone = EvaluationItem("x", "yodelling", "Yodel.", "\ud800 broken", items[0].generated)
    summary = run([alone], tmp_path)
    assert summary.failures == ()
    assert "Nothing could be measured." in "".join(Page(summary.report).text)


def test_what_cannot_be_written_leaves_no_half_report_and_no_old_one(items, tmp_path, monkeypatch):
    run(items[:1], tmp_path)

    def disk_full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("unisono.files.os.replace", disk_full)
        with pytest.raises(UserError, match="no space"):
            run(items[:2], tmp_path)
    # The players are those of the new items, so the old page would lie.
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".*"))
    assert run(items[:2], tmp_path).report.is_file()


def test_of_many_items_the_worst_are_shown_and_no_dot_leads_nowhere(items, tmp_path, monkeypatch):
    monkeypatch.setattr("unisono.evaluation.report.page.MOST_CARDS", 3)
    page = Page(run(items, tmp_path).report)
    assert len(page.all("article")) == 3 + 3 + 1
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [reference[1:] for reference in page.references if reference.startswith("#")]
    assert links and set(links) <= anchors
    assert "the worst 3 of 6; all are in items.jsonl" in "".join(page.text)


# Curves and pictures


def test_curves_are_read_sorted_and_thinned(tmp_path):
    path = tmp_path / "metrics.jsonl"
    steps = [5, 3, 4, 3]
    path.write_text("".join(json.dumps({"step": s, "train/loss": i}) + "\n" for i, s in enumerate(steps)))
    history = curves.read_history(path)
    np.testing.assert_array_equal(history.series["train/loss"][0], [3, 4, 5])
    np.testing.assert_array_equal(history.series["train/loss"][1], [3, 2, 0])
    assert history.last_step == 5

    x = np.arange(10_000.0)
    y = np.sin(x)
    y[7_777] = 50.0
    thin_x, thin_y = curves.thinned(x, y, keep_extremes=True)
    assert len(thin_x) <= curves.MAX_POINTS
    assert 50.0 in thin_y
    assert (np.diff(thin_x) > 0).all()


def test_smoothing_has_no_start_up_bias_and_keeps_constants():
    np.testing.assert_allclose(curves.smoothed(np.full(100, 3.0)), 3.0)
    values = np.random.default_rng(0).normal(size=2000)
    assert curves.smoothed(values)[500:].std() < 0.3
    assert curves.smoothed(values)[0] == values[0]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-12, 1e12], [-1.0, 1.0]])
def test_charts_of_odd_values_stay_inside_the_box(values):
    y = np.array(values)
    chart = curves.make_chart("t", "step", [("training", "raw", np.arange(len(y), dtype=float), y)])
    pixels = np.array([point[2:] for point in chart.lines[0].points])
    assert np.isfinite(pixels).all()
    assert (pixels >= 0).all()
    assert (pixels[:, 0] <= curves.VIEW_WIDTH).all()
    assert (pixels[:, 1] <= curves.VIEW_HEIGHT).all()
    assert all(0 <= tick.percent <= 100 for tick in chart.x_ticks + chart.y_ticks)


def test_mel_picture_has_low_frequencies_below_and_stops_where_the_clip_does(tmp_path):
    mel_db = np.full((50, 80), -80.0)
    mel_db[:, :20] = 0.0
    path = mel_picture(mel_db, duration_s=1.0, span_s=2.0, loudest_db=0.0, path=tmp_path / "p.png")
    image = Image.open(path)
    assert image.size == (WIDTH_PX, HEIGHT_PX)
    rgba = np.asarray(image.convert("RGBA")).astype(int)
    assert rgba[-10, 100, :3].sum() > 600
    assert rgba[10, 100, :3].sum() < 100
    assert (rgba[:, : WIDTH_PX // 2 - 1, 3] == 255).all()
    assert (rgba[:, WIDTH_PX // 2 + 1 :, 3] == 0).all()


def test_colours_get_steadily_lighter():
    red, green, blue = colour_palette()[:255].astype(float).T
    assert (np.diff(0.2126 * red + 0.7152 * green + 0.0722 * blue) > -0.6).all()


@pytest.mark.parametrize("span_s", [1e-4, 0.03, 0.9, 1.0, 7.3, 61.0, 3600.0])
def test_ticks_lie_on_their_axes(span_s):
    ticks = time_ticks(span_s)
    assert 1 <= len(ticks) <= 11
    assert all(0 <= tick.percent < 100 for tick in ticks)
    assert all(abs(float(tick.label) / span_s * 100 - tick.percent) < 0.01 for tick in ticks)
    assert all(0 < tick.percent < 100 for tick in frequency_ticks(24_000))
