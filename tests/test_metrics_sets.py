"""Metrics over sets of clips: Fréchet and kernel distance, tags, inception score, and their plumbing."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from scipy.special import softmax

from unisono.evaluation.collection import Arrays, Clips, CollectionMetric, CollectionResult, cosine, each_item
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricFailure, NotApplicable
from unisono.evaluation.metrics.clap_score import caption_of
from unisono.evaluation.metrics.frechet import FrechetDistance, frechet_distance
from unisono.evaluation.metrics.kernel_distance import KernelDistance, kernel_audio_distance, median_distance
from unisono.evaluation.metrics.over_networks import collection_metrics
from unisono.evaluation.metrics.tagging import InceptionScore, TagDivergence, inception_score, kl_divergence
from unisono.evaluation.networks.mel_statistics import MelStatistics
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.table import NETWORKS
from unisono.media.locations import Location
from unisono.tasks import TASKS


class Ear(AudioNetwork):
    """A network that is never asked to listen: the tests give its arrays themselves."""

    name = "ear"
    sample_rate = 16_000
    fingerprint = "f"
    implementation = "ear"
    version = "1"

    parameters = {"checkpoint": "abc"}  # noqa: RUF012

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        raise AssertionError("metrics work on what was heard, they do not listen")

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 2))


def item(index: int, task: str = "text_to_audio", **fields) -> EvaluationItem:
    return EvaluationItem(f"a{index}", task, "", fields.pop("content_text", "rain"), Path(f"{index}.flac"), **fields)


def clips(
    judged: Sequence[np.ndarray | str], references: Sequence[np.ndarray | str | None], name: str = "embedding", **fields
) -> Clips:
    def arrays(given: np.ndarray | str | None) -> Arrays | str | None:
        return {name: given} if isinstance(given, np.ndarray) else given

    fields.setdefault("items", [item(i) for i in range(len(judged))])
    return Clips(judged=[arrays(a) for a in judged], references=[arrays(a) for a in references], **fields)


def rows(vectors: np.ndarray) -> list[np.ndarray]:
    return list(vectors)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Fréchet distance


def test_frechet_of_axis_aligned_gaussians_by_hand() -> None:
    """Four corners have variance 4/3 of a square half side; roots of diagonal covariances are taken one by one."""
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=float)
    judged, references = corners * [3, 1] + [5, 0], corners * [1, 4] + [0, 2]
    by_hand = 25 + 4 + 4 / 3 * ((3 - 1) ** 2 + (1 - 4) ** 2)
    assert frechet_distance(judged, references) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "dims"), [(300, 200, 8), (300, 40, 60), (30, 40, 60)])
def test_frechet_agrees_with_the_root_of_the_product(rng, n, m, dims) -> None:
    mixing = rng.normal(size=(dims, dims))
    judged, references = rng.normal(size=(n, dims)) @ mixing + 0.3, rng.normal(size=(m, dims)) * 2
    first, second = np.cov(judged, rowvar=False), np.cov(references, rowvar=False)
    expected = ((judged.mean(0) - references.mean(0)) ** 2).sum()
    expected += np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)
    # Of singular covariances sqrtm itself is right to some six digits only.
    assert frechet_distance(judged, references) == pytest.approx(expected, rel=1e-10 if min(n, m) > dims else 1e-6)


def test_frechet_invariances(rng) -> None:
    judged, references = rng.normal(size=(120, 6)) * 3 + 1, rng.normal(size=(150, 6))
    distance = frechet_distance(judged, references)
    rotation = scipy.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert frechet_distance(judged @ rotation, references @ rotation) == pytest.approx(distance)
    assert frechet_distance(judged + 1000, references + 1000) == pytest.approx(distance)
    assert frechet_distance(10 * judged, 10 * references) == pytest.approx(100 * distance)
    assert frechet_distance(references, judged) == pytest.approx(distance)
    assert frechet_distance(judged[::-1], references) == pytest.approx(distance)
    assert 0 <= frechet_distance(judged, judged) < 1e-9 * distance


def test_frechet_is_biased_at_small_n_and_kernel_distance_is_not(rng) -> None:
    """Two samples of one distribution: the bias halves, more or less, where n doubles."""
    draw = {n: [(rng.normal(size=(n, 40)), rng.normal(size=(n, 40))) for _ in range(30)] for n in (50, 100, 200)}
    frechet = {n: np.mean([frechet_distance(*pair) for pair in pairs]) for n, pairs in draw.items()}
    assert frechet[50] > 1.6 * frechet[100] > 1.6**2 * frechet[200] > 5
    for pairs in draw.values():
        values = np.array([kernel_audio_distance(*pair) for pair in pairs])
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


def test_frechet_refuses_few_clips_and_low_rank(rng) -> None:
    ear = Ear()
    outcome = only(FrechetDistance("ear")(clips(rows(rng.normal(size=(3, 4))), [None] * 3), ear))
    assert outcome.value is None and outcome.n == 3
    assert "3 clips and 0 references; needs 100" in outcome.reason

    metric = FrechetDistance("ear", minimum_clips=10, full_rank=True)
    for n, reason in ((20, "needs 21 of each"), (21, "")):
        vectors = rng.normal(size=(n, 20))
        outcome = only(metric(clips(rows(vectors), rows(vectors)), ear))
        assert (outcome.value is None) == bool(reason)
        assert reason in outcome.reason
    with pytest.raises(ValueError, match="at least 2"):
        FrechetDistance("ear", minimum_clips=1)


def test_frechet_says_what_must_agree(rng) -> None:
    """Failed clips are missing, references of no item count, and the fingerprint goes with the number."""
    vectors = rng.normal(size=(12, 3))
    judged = [*rows(vectors[:10]), "silent", "missing"]
    references = [*rows(vectors[:9]), "broken", None, vectors[9]]
    outcome = only(
        FrechetDistance("ear", minimum_clips=5)(
            clips(judged, references, others=[{"embedding": v} for v in vectors], reference_set="abc"), Ear()
        )
    )
    assert (outcome.n, outcome.missing) == (10, 2)
    assert outcome.conditions == {"n": 10, "references": 22, "reference_set": "abc", "pooling": "embedding"}
    expected = frechet_distance(vectors[:10], np.concatenate([vectors[:9], vectors[9:10], vectors]))
    assert outcome.value == pytest.approx(expected)


def test_frechet_over_frames_takes_every_frame(rng) -> None:
    judged = [rng.normal(size=(t, 3)) for t in (4, 9, 1)]
    references = [rng.normal(size=(t, 3)) + 1 for t in (5, 2, 7)]
    metric = FrechetDistance("ear", array="frames", minimum_clips=3)
    outcome = only(metric(clips(judged, references, "frames"), Ear()))
    assert outcome.value == pytest.approx(frechet_distance(np.concatenate(judged), np.concatenate(references)))
    assert outcome.n == 3

    one_frame = [frames[:1] for frames in judged]
    assert only(metric(clips([one_frame[0]] * 3, references, "frames"), Ear())).value > 0

    reason = only(metric(clips(judged, references, "embedding"), Ear())).reason
    assert reason == "the network gives no frames, only embedding"


# Kernel distance


def slow_kernel_distance(judged: np.ndarray, references: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return np.exp(-((x - y) ** 2).sum() / (2 * width**2))

    def within(vectors: np.ndarray) -> float:
        return np.mean([kernel(x, y) for i, x in enumerate(vectors) for j, y in enumerate(vectors) if i != j])

    pairs = [np.linalg.norm(x - y) for i, x in enumerate(references) for y in references[:i]]
    width = np.median(pairs)
    between = np.mean([kernel(x, y) for x in judged for y in references])
    return 100 * (within(judged) + within(references) - 2 * between)


def test_kernel_distance_against_loops(rng) -> None:
    judged, references = rng.normal(size=(9, 4)) + 0.5, rng.normal(size=(14, 4))
    assert kernel_audio_distance(judged, references) == pytest.approx(slow_kernel_distance(judged, references))
    # Far from zero the expanded square would lose every digit.
    shifted = kernel_audio_distance(judged + 1e7, references + 1e7)
    assert shifted == pytest.approx(slow_kernel_distance(judged, references), rel=1e-5)


def test_kernel_distance_in_blocks(rng, monkeypatch) -> None:
    judged, references = rng.normal(size=(50, 4)) + 0.5, rng.normal(size=(40, 4))
    whole = kernel_audio_distance(judged, references)
    monkeypatch.setattr("unisono.evaluation.metrics.kernel_distance._ROWS", 7)
    assert kernel_audio_distance(judged, references) == pytest.approx(whole)


def test_kernel_distance_invariances_and_ceiling(rng) -> None:
    judged, references = rng.normal(size=(30, 5)) + 1, rng.normal(size=(40, 5))
    distance = kernel_audio_distance(judged, references)
    rotation = scipy.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert kernel_audio_distance(judged @ rotation, references @ rotation) == pytest.approx(distance)
    assert kernel_audio_distance(10 * judged, 10 * references) == pytest.approx(distance)
    # The bandwidth is that of the references: it stays when the judged clips change.
    assert median_distance(references) == pytest.approx(median_distance(references + 3))
    one_point = np.repeat(judged[:1] + 1e3, 30, axis=0)
    far = kernel_audio_distance(one_point, references)
    assert 100 < far <= 200


def test_distances_grow_with_noise(rng) -> None:
    references, clean = rng.normal(size=(200, 10)), rng.normal(size=(200, 10))
    noise = rng.normal(size=(200, 10))
    for distance in (kernel_audio_distance, frechet_distance):
        values = [distance(clean + level * noise, references) for level in (0, 0.5, 1, 2, 4)]
        assert values == sorted(values)


def test_copies_draw_the_kernel_distance_below_zero(rng) -> None:
    """As the card says: the unbiased estimate is for independent sets."""
    vectors = rng.normal(size=(20, 5))
    assert kernel_audio_distance(vectors, vectors) < 0


def test_kernel_distance_refusals(rng) -> None:
    ear, metric = Ear(), KernelDistance("ear")
    few = rows(rng.normal(size=(4, 3)))
    assert "4 clips and 4 references; needs 5" in only(metric(clips(few, few), ear)).reason
    alike = [np.ones(3)] * 6
    outcome = only(metric(clips(rows(rng.normal(size=(6, 3))), alike), ear))
    assert outcome.value is None
    assert "exactly alike" in outcome.reason
    nothing = only(metric(clips(["silent"] * 6, ["broken"] * 6), ear))
    assert (nothing.value, nothing.n, nothing.missing) == (None, 0, 6)


def test_bandwidth_of_many_references_is_that_of_a_spread_subset(rng, monkeypatch) -> None:
    vectors = rng.normal(size=(400, 8))
    whole = median_distance(vectors)
    monkeypatch.setattr("unisono.evaluation.metrics.kernel_distance._BANDWIDTH_CLIPS", 100)
    assert median_distance(vectors) == pytest.approx(whole, rel=0.05)
    assert median_distance(vectors) != whole


# Tags


def test_kl_by_hand_and_its_direction() -> None:
    reference, judged = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert kl_divergence(judged, reference) == pytest.approx(np.log(2), abs=1e-5)
    # The other way round, a class that the reference does not have costs log(0.5 / 1e-6).
    assert kl_divergence(reference, judged) == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-6), abs=1e-5)
    assert abs(kl_divergence(reference, reference)) < 1e-5


def test_kl_is_what_torch_gives(rng) -> None:
    """The formula that AudioCraft and AudioLDM-eval share, on softmax of logits."""
    torch = pytest.importorskip("torch")
    judged, reference = rng.normal(size=527) * 3, rng.normal(size=527) * 3
    expected = torch.nn.functional.kl_div(
        (torch.tensor(judged).softmax(0) + 1e-6).log(), torch.tensor(reference).softmax(0), reduction="sum"
    )
    (outcome,) = TagDivergence("ear")(clips([judged], [reference], "logits"), Ear()).items["kl_ear"]
    assert outcome.value == pytest.approx(float(expected), rel=1e-9)


def test_kl_does_not_depend_on_a_shift_of_the_logits_and_survives_large_ones() -> None:
    judged, reference = np.array([1000.0, 0, 0], np.float32), np.array([0.0, 1000, 0], np.float32)
    first, second = TagDivergence("ear")(
        clips([judged, judged + 5], [reference, reference - 9], "logits"), Ear()
    ).items["kl_ear"]
    assert first.value == pytest.approx(-np.log(1e-6))
    assert second.value == pytest.approx(first.value)


def test_kl_per_item_reasons() -> None:
    logits = np.zeros(3)
    outcomes = (
        TagDivergence("ear")(
            clips([logits, logits, "silent", logits], [logits, None, logits, "reference: broken"], "logits"), Ear()
        )
    ).items["kl_ear"]
    assert [o.status for o in outcomes] == ["ok", "not_applicable", "failed", "failed"]
    assert [o.reason for o in outcomes[1:]] == ["the item has no reference", "silent", "reference: broken"]


def test_inception_score_by_hand() -> None:
    alike = np.tile([0.7, 0.2, 0.1], (40, 1))
    assert inception_score(alike, splits=4) == pytest.approx(1)
    # One class per clip, both classes equally often: 2, whatever the order, in one split.
    assert inception_score(np.tile(np.eye(2), (20, 1)), splits=1) == pytest.approx(2)
    # p(y) = (.5, .5); KL of (.9, .1) from it = log 2 - H(.9).
    soft = np.tile([[0.9, 0.1], [0.1, 0.9]], (10, 1))
    entropy = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert inception_score(soft, splits=1) == pytest.approx(2 * np.exp(-entropy))


def test_inception_score_is_torch_fidelitys(rng) -> None:
    """Shuffle by the legacy generator with seed 2020, cut at i n // splits, average of the splits' scores."""
    probabilities = softmax(rng.normal(size=(103, 6)) * 3, axis=1)
    shuffled = probabilities[np.random.RandomState(2020).permutation(103)]
    scores = []
    for i in range(10):
        part = shuffled[i * 103 // 10 : (i + 1) * 103 // 10]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert inception_score(probabilities, 10) == pytest.approx(np.mean(scores))


@pytest.mark.parametrize(("n", "splits"), [(9, 0), (10, 1), (57, 5), (100, 10), (230, 10)])
def test_inception_score_takes_fewer_splits_of_few_clips(rng, n, splits) -> None:
    judged = [*rows(rng.normal(size=(n, 5))), "silent"]
    outcome = only(InceptionScore("ear")(clips(judged, [None] * (n + 1), "logits"), Ear()))
    assert outcome.conditions == {"n": n, "splits": splits}
    assert (outcome.value is None) == (splits == 0)
    assert (outcome.n, outcome.missing) == (n, 1)


# Plumbing


def only(result: CollectionResult):
    (outcome,) = result.sets.values()
    return outcome


def test_each_item_keeps_reasons_apart_and_lets_bugs_escape() -> None:
    def judge(index: int):
        if index == 0:
            raise NotApplicable("nothing there")
        if index == 1:
            return {"a": 1.0, "b": MetricFailure("odd")}
        return {"a": float("nan"), "b": 2.0}

    found = each_item(clips(["", "", ""], [None] * 3), ["a", "b"], judge)
    assert [o.status for o in found["a"]] == ["not_applicable", "ok", "failed"]
    assert [o.status for o in found["b"]] == ["not_applicable", "failed", "ok"]

    with pytest.raises(ZeroDivisionError) as caught:
        each_item(clips([""], [None]), ["a"], lambda index: {"a": 1 / index})
    assert "'a0'" in caught.value.__notes__[0]


def test_cosine() -> None:
    assert cosine(np.array([1, 0], np.float32), np.array([[0, 5]])) == 0
    # 1 + 2e-16 would be out of range.
    vector = np.full(7, 0.1)
    assert cosine(vector, 3 * vector) <= 1
    with pytest.raises(MetricFailure):
        cosine(vector, 0 * vector)


def test_names_are_unique_and_networks_exist() -> None:
    metrics = collection_metrics()
    names = [name for metric in metrics for name in metric.names]
    assert len(set(names)) == len(names)
    assert {metric.network for metric in metrics} <= set(NETWORKS)
    for metric in metrics:
        assert metric.tasks <= set(TASKS)
        assert pickle.loads(pickle.dumps(metric)).names == metric.names


@pytest.mark.parametrize("metric", collection_metrics(), ids=lambda metric: metric.names[0])
def test_every_metric_answers_for_every_clip_that_could_not_be_heard(metric: CollectionMetric) -> None:
    """Nothing but reasons where nothing was heard; cards and outcomes are those of ``names``, and name the network."""
    if reason := metric.unavailable():
        pytest.skip(reason)
    cards = metric.cards(Ear())
    assert tuple(card.name for card in cards) == metric.names
    for card in cards:
        assert card.parameters["checkpoint"] == "abc" and card.parameters["network"] == "ear"
        assert all((card.title, card.value_range, card.definition, card.blind_to, card.source, card.version))
    task, files = sorted(metric.tasks)[0], dict.fromkeys(("video", "speaker_audio"), Location(Path("f")))
    items = [item(0, task, details={"text": "a b", "caption": "rain"}, files=files), item(1, task)]
    assert metric.applies_to(items[0])
    result = metric(clips(["silent", "missing"], ["broken", None], items=items), Ear())
    assert {*result.items, *result.sets} == set(metric.names)
    for card in cards:
        if card.scope == "item":
            assert all(o.value is None and o.reason for o in result.items[card.name])
        else:
            assert result.sets[card.name].value is None and result.sets[card.name].reason


@pytest.mark.parametrize("task", ["text_to_audio", "text_to_music", "video_to_audio"])
def test_the_kernel_distance_without_downloads_hears_noise(rng, task) -> None:
    """Eight clips, as small as the smallest test set: the built-in network tells tones from noise."""
    ear = MelStatistics()
    metrics = [m for m in collection_metrics() if m.network == ear.name and task in m.tasks]
    kernel = next(m for m in metrics if m.names == ("kad_mel_statistics",))
    frechet = next(m for m in metrics if m.names == ("fd_mel_statistics",))
    time_s = np.arange(ear.sample_rate // 2) / ear.sample_rate

    def tones() -> list[Arrays]:
        return [ear(np.sin(2 * np.pi * f * time_s).astype(np.float32)) for f in rng.uniform(200, 800, 8)]

    references = tones()
    noise = [ear(rng.normal(size=len(time_s)).astype(np.float32)) for _ in references]
    items = [item(i, task) for i in range(8)]
    like, unlike = (only(kernel(Clips(items, judged, references), ear)).value for judged in (tones(), noise))
    assert unlike > like + 20
    outcome = only(frechet(Clips(items, noise, references), ear))
    assert outcome.value is None and "8 clips and 8 references" in outcome.reason


def test_of_several_captions_the_first_is_judged():
    def caption(**details) -> str | None:
        return caption_of(EvaluationItem("a", "text_to_audio", "", "a.wav", Path("a.wav"), details=details))

    assert caption(caption=["rain", "water"]) == "rain" and caption(caption=["", "water"]) == "water"
    assert caption(caption=[], text="wind") == "wind" and caption(caption=[1]) is None and caption() is None
