"""Metrics of single clips over a network: transcripts, voices, predicted opinions, captions, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from test_metrics_sets import Ear
from unisono.evaluation.collection import Clips
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricFailure, NotApplicable
from unisono.evaluation.metrics.audio_visual import Desync, ImageBindScore, heard_with_video
from unisono.evaluation.metrics.clap_score import ClapScore
from unisono.evaluation.metrics.predicted_mos import PredictedMos
from unisono.evaluation.metrics.speaker_similarity import SpeakerSimilarity
from unisono.evaluation.metrics.word_error_rate import (
    WordErrorRate,
    character_errors,
    language_of,
    normalise,
    word_errors,
)
from unisono.evaluation.networks.cached import CachedNetwork
from unisono.evaluation.networks.sidecar import VideoInput
from unisono.media.locations import Location

jiwer = pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")


def item(index: int, text: object = None, **fields) -> EvaluationItem:
    details = {"text": text} | fields.pop("details", {})
    return EvaluationItem(f"a{index}", "text_to_speech", "", "", Path(f"{index}.flac"), details=details, **fields)


def heard(texts: Sequence[str | None], transcripts: Sequence[str | None], **details) -> Clips:
    """Clips of texts and what a recogniser read; None where it could not."""
    judged = ["silent" if t is None else {"text": np.array([t])} for t in transcripts]
    return Clips([item(i, text, details=details) for i, text in enumerate(texts)], judged, [None] * len(texts))


def measure(clips: Clips):
    result = WordErrorRate("ear")(clips, Ear())
    return {name: [o.value for o in outcomes] for name, outcomes in result.items.items()}, result.sets


TEXTS = ["the cat sat on the mat", "a dog", "rain fell all night long"]
HEARD = ["the cat sat on mat", "a dog barked twice", "rain fell all night long"]


def test_rates_are_jiwers() -> None:
    items, sets = measure(heard(TEXTS, HEARD))
    assert items["wer_ear_per_utterance"] == pytest.approx(
        [100 * jiwer.wer(t, h) for t, h in zip(TEXTS, HEARD, strict=True)]
    )
    assert items["cer_ear_per_utterance"] == pytest.approx(
        [100 * jiwer.cer(t, h) for t, h in zip(TEXTS, HEARD, strict=True)]
    )
    assert sets["wer_ear"].value == pytest.approx(100 * jiwer.wer(TEXTS, HEARD))
    assert sets["cer_ear"].value == pytest.approx(100 * jiwer.cer(TEXTS, HEARD))


def test_weighting_matters() -> None:
    """One of six words wrong, two put in beside two: 3 of 13 words, but 39 % on average."""
    items, sets = measure(heard(TEXTS, HEARD))
    assert items["wer_ear_per_utterance"] == pytest.approx([100 / 6, 100, 0])
    assert sets["wer_ear"].value == pytest.approx(100 * 3 / 13)
    # Who fails on the hard one says nothing about it: no match for those who were judged on all.
    fewer = measure(heard(TEXTS, [HEARD[0], None, HEARD[2]]))[1]
    assert fewer["wer_ear"].value < sets["wer_ear"].value
    assert (sets["wer_ear"].conditions, fewer["wer_ear"].conditions) == ({"items": 3}, {"items": 2})
    assert np.mean(items["wer_ear_per_utterance"]) == pytest.approx(350 / 9)


def test_the_normaliser_removes_what_nobody_hears() -> None:
    text = "I won't pay $20 for the colour, Mr. Smith!"
    transcript = "i will not pay twenty dollars for the color mister smith"
    assert jiwer.wer(text, transcript) > 0.5
    assert word_errors(text, transcript, "en").edits == 0
    assert word_errors(text, transcript.replace("color", "cooler"), "en").edits == 1
    # The basic one knows no English: numbers, contractions and spelling stay apart.
    assert word_errors(text, transcript, "de").edits > 3


def test_normalise() -> None:
    assert normalise("Grüße, Ärger!  ", "de") == "grüße ärger"
    assert normalise("हिन्दी", "hi") == "हिन्दी", "vowel signs are letters"
    assert normalise("", "en") == normalise("?!", "en") == ""


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en-us", "en"), ("EN_GB", "en"), ("cmn", "cmn"), (" de ", "de"), ("", "xx"), (None, "xx"), (3, "xx")],
)
def test_language_of(language, expected) -> None:
    assert language_of(item(0, details={"language": language}), "xx") == expected


def test_languages_without_spaces_have_characters_only() -> None:
    with pytest.raises(NotApplicable, match="without spaces"):
        word_errors("今天天气很好", "今天天气很好", "zh")
    found = character_errors("今天天气很好。", "今天 天汽 很好", "zh")
    assert (found.edits, found.units) == (1, 6)
    # Elsewhere a space is a character.
    assert character_errors("to day", "today", "en").edits == 1

    result = WordErrorRate("ear")(heard(["今天天气"], ["今天天汽"], language="zh-cn"), Ear())
    assert result.items["wer_ear_per_utterance"][0].status == "not_applicable"
    assert result.sets["wer_ear"].value is None and "without spaces" in result.sets["wer_ear"].reason
    assert result.items["cer_ear_per_utterance"][0].value == result.sets["cer_ear"].value == 25


def test_nothing_recognised_is_all_wrong_and_more_than_all_is_possible() -> None:
    items, sets = measure(heard(["a dog", "a dog"], ["", "the red fox ran far away"]))
    assert items["wer_ear_per_utterance"] == pytest.approx([100, 300])
    assert sets["wer_ear"].value == pytest.approx(200)


def test_items_without_text_or_transcript() -> None:
    clips = heard(["a dog", None, "?!", "a cat", 7], ["a dog", "a dog", "a dog", None, "a dog"])
    result = WordErrorRate("ear")(clips, Ear())
    outcomes = result.items["wer_ear_per_utterance"]
    assert [o.status for o in outcomes] == ["ok", "not_applicable", "not_applicable", "failed", "not_applicable"]
    assert outcomes[3].reason == "silent"
    assert "normalisation" in outcomes[2].reason
    # Only the clip that should have been read and could not be is missing.
    assert (result.sets["wer_ear"].n, result.sets["wer_ear"].missing, result.sets["wer_ear"].value) == (1, 1, 0)
    assert [WordErrorRate("ear").applies_to(i) for i in clips.items] == [True, False, True, True, False]


def test_more_wrong_words_cost_more() -> None:
    words = ["one", "of", "these", "old", "ships", "never", "came", "back", "home"]
    rates = []
    for wrong in range(len(words) + 1):
        transcript = " ".join(["blah"] * wrong + words[wrong:])
        rates.append(word_errors(" ".join(words), transcript, "fr").percent)
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == 100


# Voices


def voice(*values: float) -> dict[str, np.ndarray]:
    return {"embedding": np.array(values, np.float32)}


def test_similarity_to_the_reference_and_to_the_prompt_are_two_metrics() -> None:
    prompt = {"speaker_audio": Location(Path("p.wav"))}
    kept = {"speaker_audio_file": Location(Path("p.wav"))}
    clips = Clips(
        [item(0, files=prompt), item(1, files=kept), item(2), item(3, files=prompt), item(4, files=prompt)],
        [voice(1, 0), voice(3, 4), voice(1, 0), "silent", voice(0, 0)],
        [voice(2, 0), voice(1, 0), None, voice(1, 0), voice(1, 0)],
        companions={
            "speaker_audio": [voice(0, 1), None, None, voice(1, 0), "prompt: broken"],
            "speaker_audio_file": [None, voice(0, 1), None, None, None],
        },
    )
    to_reference = SpeakerSimilarity()(clips, Ear()).items["speaker_similarity"]
    assert [o.value for o in to_reference] == pytest.approx([1, 0.6, None, None, None])
    assert [o.status for o in to_reference] == ["ok", "ok", "not_applicable", "failed", "failed"]

    metric = SpeakerSimilarity("prompt")
    to_prompt = metric(clips, Ear()).items["speaker_similarity_prompt"]
    assert [o.value for o in to_prompt] == pytest.approx([0, 0.8, None, None, None])
    assert [o.status for o in to_prompt] == ["ok", "ok", "not_applicable", "failed", "failed"]
    assert to_prompt[4].reason == "prompt: broken"
    assert [metric.applies_to(i) for i in clips.items] == [True, True, False, True, True]


def test_similarity_hears_direction_only() -> None:
    """Scale of an embedding says nothing; an opposite one is as far as can be."""
    clips = Clips([item(i) for i in range(3)], [voice(5, 0), voice(0.1, 0), voice(-2, 0)], [voice(1, 0)] * 3)
    assert [o.value for o in SpeakerSimilarity()(clips, Ear()).items["speaker_similarity"]] == [1, 1, -1]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_predicted_mos_is_the_networks_score(shape) -> None:
    clips = Clips([item(0), item(1)], [{"score": np.full(shape, 3.25, np.float32)}, "silent"], [None, None])
    outcomes = PredictedMos()(clips, Ear()).items["utmos"]
    assert [o.value for o in outcomes] == [3.25, None]
    (card,) = PredictedMos().cards(Ear())
    assert card.direction == "higher" and card.parameters["checkpoint"] == "abc"


# Captions


def sound(index: int, task: str = "text_to_audio", content_text: str = "rain", **fields) -> EvaluationItem:
    return EvaluationItem(f"a{index}", task, "", content_text, Path(f"{index}.flac"), **fields)


def of_items(items: Sequence[EvaluationItem], name: str, judged: Sequence[np.ndarray | str]) -> Clips:
    return Clips(items, [j if isinstance(j, str) else {name: j} for j in judged], [None] * len(items))


class Reader(Ear):
    space = {"rain": [2.0, 0.0], "wind": [0.0, 1.0]}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([self.space[text] for text in texts])


def test_clap_score_is_the_cosine_with_the_caption() -> None:
    items = [sound(i, details={"caption": "rain"}) for i in range(5)]
    items[1] = sound(1, details={"caption": "wind", "text": "rain"})
    items[3] = sound(3, details={"text": "rain"})
    judged = [np.array([3.0, 0]), np.array([3.0, 4]), np.array([-1.0, 0]), "silent", np.zeros(2)]
    reader = Reader()
    found = ClapScore()(of_items(items, "embedding", judged), reader).items["clap_score"]
    assert [o.value for o in found] == pytest.approx([1, 0.8, -1, None, None])
    assert found[3].reason == "silent"
    assert "no direction" in found[4].reason
    assert sorted(reader.asked) == ["rain", "wind"], "a caption is read once"


@pytest.mark.parametrize("task", ["text_to_audio", "text_to_music", "video_to_audio"])
def test_what_an_item_is_called_is_no_caption(task: str) -> None:
    """Recordings joined by their names show the name where there is no text."""
    metric, items = ClapScore(), [sound(0, task, "rain"), sound(1, task, "rain", details={"caption": " "})]
    assert not any(map(metric.applies_to, items))
    assert metric.applies_to(sound(0, task, details={"caption": "rain"}))
    assert metric.applies_to(sound(0, task, details={"text": "rain"}))
    reader = Reader()
    found = metric(of_items(items, "embedding", [np.ones(2)] * 2), reader).items["clap_score"]
    assert [outcome.status for outcome in found] == ["not_applicable"] * 2 and not reader.asked


# Pictures


class Watching(Ear):
    video = VideoInput(num_frames=5, frame_rate_hz=10, size=8)

    def with_video(self, waveform: np.ndarray, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"score": np.array(frames.mean())}


def film(index: int, field: str = "video", path: str | Path = "v.mp4") -> EvaluationItem:
    return sound(index, "video_to_audio", files={field: Location(Path(path))})


def test_desync_is_the_likeliest_offset_without_its_sign() -> None:
    judged = [*np.eye(21)[[10, 0, 20, 7]], np.zeros(7), np.full(21, np.nan)]
    found = Desync()(of_items([film(i) for i in range(6)], "logits", judged), Ear()).items["desync_s"]
    assert [o.value for o in found] == pytest.approx([0, 2, 2, 0.6, None, None])
    assert "21 offsets" in found[4].reason
    assert "NaN" in found[5].reason


def test_items_without_video_are_not_applicable() -> None:
    metric, items = ImageBindScore(), [sound(0, "video_to_audio"), film(1, "video_file")]
    found = metric(of_items(items, "score", [np.array(0.5)] * 2), Ear()).items["imagebind_score"]
    assert [o.status for o in found] == ["not_applicable", "ok"]
    assert [metric.applies_to(i) for i in items] == [False, True]
    (found,) = metric(of_items([film(1)], "embedding", [np.ones(4)]), Ear()).items["imagebind_score"]
    assert found.reason == "the network gives no score, only embedding"


def test_heard_with_video(tmp_path, monkeypatch) -> None:
    path, waveform = tmp_path / "v.mp4", np.zeros(10, np.float32)
    with pytest.raises(NotApplicable):
        heard_with_video(CachedNetwork(Watching(), None), waveform, sound(0, "video_to_audio"))
    with pytest.raises(MetricFailure, match="without a video input"):
        heard_with_video(CachedNetwork(Ear(), None), waveform, film(0, path=path))
    with pytest.raises(MetricFailure):
        heard_with_video(CachedNetwork(Watching(), None), waveform, film(0, path=path))  # there is no such file

    asked = []

    def pictures(source, rate_hz, size):
        asked.append((source.path, rate_hz, size))
        yield from (np.full((size, size, 3), index, np.uint8) for index in range(200))

    monkeypatch.setattr("unisono.media.video.iterate_video_frames", pictures)
    heard = heard_with_video(CachedNetwork(Watching(), None), waveform, film(0, path=path))
    assert heard["score"] == 2, "the mean of 0 to 4: no more pictures than the network takes"
    assert asked == [(path, 10, 8)]
