"""Scenes of the mini corpus: captions say what the events are, the sound is what the events say, splits are apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import find_peaks

from unisono.data.mini.captions import ADVERBS, NUMBERS, TIMES, WORDINGS, caption, clause, noun_phrase
from unisono.data.mini.compositions import (
    LONGEST_SCENE_S,
    SHORTEST_SCENE_S,
    SPLITS,
    Composition,
    Group,
    draw_composition,
)
from unisono.data.mini.events import KINDS
from unisono.data.mini.scenes import SAMPLE_RATE, EventTruth, Scene, make_scene, render_scene
from unisono.data.mini.synthesis import Take
from unisono.errors import UserError

PITCHED = sorted(name for name, kind in KINDS.items() if kind.has_pitch)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[tuple[str, Composition]]]:
    """A caption and its composition, 1500 times in each split, without sound."""
    out = {}
    for split in SPLITS:
        rng = np.random.default_rng(11)
        compositions = [draw_composition(rng, split) for _ in range(1_500)]
        out[split] = [(caption(rng, composition), composition) for composition in compositions]
    return out


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(np.random.default_rng(seed), SPLITS[seed % 3]) for seed in range(60)]


def solo(kind: str, seed: int = 0, **attributes: object) -> Scene:
    """A scene of one group, two events where the kind is counted."""
    attributes.setdefault("count", 0 if KINDS[kind].is_sustained else 2)
    return render_scene(np.random.default_rng(seed), Composition((Group(kind, **attributes),)))


# --- captions ---------------------------------------------------------------------------------------------------------


def parse_group(text: str) -> Group | None:
    """The group that a noun phrase or a clause names."""
    counts = {"one": 1, "a": 1, "an": 1, **{word: count for count, word in NUMBERS.items()}}
    for kind, wording in WORDINGS.items():
        head = rf"(?:(?P<article>a|an|the|one|two|three|four) )?(?P<distant>distant )?{'(?P<speed>slow |fast )?'}"
        names = "|".join(filter(None, (wording.noun, wording.plural)))
        found = re.fullmatch(rf"{head}(?P<pitch>low |high )?(?:{names})", text)
        if found:
            count = 0 if KINDS[kind].is_sustained else counts[found["article"]]
            speed, pitch = (found["speed"] or "medium").strip(), (found["pitch"] or "middle").strip()
            return Group(kind, count, pitch, speed, "distant" if found["distant"] else "near")
        times, adverbs = "|".join(TIMES.values()), "|".join(filter(None, ADVERBS.values()))
        tail = rf"(?: (?P<times>{times}))?(?: (?P<adverb>{adverbs}))?(?P<distant> in the distance)?"
        found = re.fullmatch(rf"{wording.subject} {wording.verb}{tail}", text) if wording.verb else None
        if found:
            count = {word: count for count, word in TIMES.items()}.get(found["times"], 0)
            speed = {word: speed for speed, word in ADVERBS.items()}[found["adverb"] or ""]
            return Group(kind, count, "middle", speed, "distant" if found["distant"] else "near")
    return None


# Pattern, order of its parts in the composition, together.
TEMPLATES = (
    (r"(.+)", (0,), False),
    (r"(.+), then (.+)", (0, 1), False),
    (r"first (.+), then (.+)", (0, 1), False),
    (r"(.+) followed by (.+)", (0, 1), False),
    (r"(.+) after (.+)", (1, 0), False),
    (r"(.+), then (.+), then (.+)", (0, 1, 2), False),
    (r"first (.+), then (.+), and finally (.+)", (0, 1, 2), False),
    (r"(.+) with (.+)", (0, 1), True),
    (r"(.+) with (.+) in the background", (1, 0), True),
    (r"(.+) during (.+)", (1, 0), True),
    (r"(.+) while (.+)", (0, 1), True),
    (r"(.+) while (.+)", (1, 0), True),
)


def readings(text: str) -> Iterator[Composition]:
    """Every composition that the caption could mean."""
    for pattern, order, together in TEMPLATES:
        found = re.fullmatch(pattern, text)
        parts = [parse_group(part) for part in found.groups()] if found else [None]
        groups = [group for group in parts if group is not None]
        if len(groups) != len(order):
            continue
        groups = [groups[index] for index in order]
        if not together or (groups[0].is_sustained and not groups[1].is_sustained):
            yield Composition(tuple(groups), together)


def test_every_caption_has_one_reading_and_it_is_the_composition(drawn):
    for pairs in drawn.values():
        for text, composition in pairs:
            assert list(readings(text)) == [composition], text


def test_splits_share_no_caption_and_no_composition(drawn):
    for part in (0, 1):
        seen = [{str(pair[part]) for pair in drawn[split]} for split in SPLITS]
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]


def test_train_has_every_kind_with_every_attribute_and_every_word(drawn):
    groups = {group for _, composition in drawn["train"] for group in composition.groups}
    for name, kind in KINDS.items():
        mine = [group for group in groups if group.kind == name]
        assert {group.distance for group in mine} == {"near", "distant"}, name
        assert {group.pitch for group in mine} == ({"low", "middle", "high"} if kind.has_pitch else {"middle"}), name
        assert {group.speed for group in mine} == ({"slow", "medium", "fast"} if kind.has_speed else {"medium"}), name
        assert {group.count for group in mine} >= ({0} if kind.is_sustained else {1, 2, 3}), name
    words = {split: {word for text, _ in drawn[split] for word in re.findall(r"\w+", text)} for split in SPLITS}
    assert words["test"] | words["val"] <= words["train"]


def test_split_of_a_composition_never_changes():
    # Pinned: a corpus built by another version or on another machine must hold out the same captions.
    splits = [
        Composition((Group(kind, count),)).split
        for kind, count in (("bark", 4), ("bell", 3), ("drip", 4), ("knock", 3))
    ]
    assert splits == ["test", "val", "val", "train"]


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Group("knock", 3, "low", "slow"), {"three slow low knocks"}),
        (Group("owl", 1), {"an owl hoot", "one owl hoot"}),
        (Group("owl", 1, "high"), {"a high owl hoot", "one high owl hoot"}),
        (Group("bell", 2, distance="distant"), {"two distant bell chimes"}),
        (Group("engine", 0), {"an engine hum"}),
        (Group("engine", 0, "low"), {"a low engine hum"}),
        (Group("rain", 0, distance="distant"), {"distant rain"}),
        (Group("bee", 0, "high"), {"the high buzzing of a bee"}),
    ],
)
def test_noun_phrases(group, expected):
    assert {noun_phrase(np.random.default_rng(seed), group) for seed in range(30)} == expected


def test_clauses():
    assert clause(Group("bark", 2, speed="fast", distance="distant")) == "a dog barks twice quickly in the distance"
    assert clause(Group("crickets", 0, speed="slow")) == "crickets chirp slowly"
    assert clause(Group("rain", 0)) == "it rains"


def test_every_kind_is_worded_and_there_are_enough():
    assert set(WORDINGS) == set(KINDS)
    assert len(KINDS) >= 24
    for name, wording in WORDINGS.items():
        assert bool(wording.plural) != KINDS[name].is_sustained, name


def test_an_unknown_split_is_the_users_mistake():
    with pytest.raises(UserError, match=r"'dev'.*train, val, test"):
        make_scene(np.random.default_rng(0), "dev")


# --- truth ------------------------------------------------------------------------------------------------------------


def grouped(events: tuple[EventTruth, ...]) -> list[list[EventTruth]]:
    return [[event for event in events if event.group == index] for index in range(1 + max(e.group for e in events))]


def test_events_are_what_the_caption_says(scenes):
    for scene in scenes:
        (meant,) = readings(scene.caption)
        heard = grouped(scene.events)
        assert len(heard) == len(meant.groups)
        for group, events in zip(meant.groups, heard, strict=True):
            assert len(events) == max(group.count, 1), scene.caption
            for event in events:
                truth = (event.kind, event.pitch, event.speed, event.distance)
                assert truth == (group.kind, group.pitch, group.speed, group.distance), scene.caption
        if meant.together:
            behind, front = heard
            assert behind[0].start_s < front[0].start_s
            assert behind[0].end_s > max(event.end_s for event in front)
        else:
            for earlier, later in pairwise(heard):
                assert max(event.end_s for event in earlier) < later[0].start_s, scene.caption


def test_speeds_do_not_overlap():
    for name, kind in KINDS.items():
        if not kind.has_speed or kind.is_sustained:
            continue
        intervals = {}
        for speed in ("slow", "medium", "fast"):
            onsets = [[e.start_s for e in solo(name, seed, count=3, speed=speed).events] for seed in range(3)]
            intervals[speed] = np.diff(onsets, axis=1)
        assert intervals["fast"].max() * 1.4 < intervals["medium"].min(), name
        assert intervals["medium"].max() * 1.4 < intervals["slow"].min(), name


# --- sound ------------------------------------------------------------------------------------------------------------


def centroid_hz(waveform: np.ndarray) -> float:
    """Centre of the power spectrum, as a geometric mean (pitch is a ratio) of what is above -40 dB."""
    power = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    frequency_hz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    kept = (frequency_hz > 30) & (power > 1e-4 * power.max())
    return float(np.exp(np.average(np.log(frequency_hz[kept]), weights=power[kept])))


def power_share_above(waveform: np.ndarray, edge_hz: float) -> float:
    power = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    return float(power[np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE) > edge_hz].sum() / power.sum())


def onset_count(waveform: np.ndarray, apart_s: float, prominence: float = 0.25) -> int:
    """Peaks of the envelope that stand out by a share ``prominence`` of the highest and are ``apart_s`` apart."""
    hop = SAMPLE_RATE // 200
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    envelope = np.pad(np.abs(frames).max(axis=1), 1)
    envelope = np.convolve(envelope, np.ones(3) / 3, mode="same")
    return len(find_peaks(envelope, prominence=prominence * envelope.max(), distance=max(int(apart_s * 200), 1))[0])


def test_same_seed_same_scene_to_the_bit():
    for seed in range(6):
        first, second = (make_scene(np.random.default_rng(seed), "train") for _ in range(2))
        assert first.caption == second.caption
        assert first.events == second.events
        np.testing.assert_array_equal(
            *(np.round(scene.waveform * 32_767).astype(np.int16) for scene in (first, second))
        )
    assert len({make_scene(np.random.default_rng(seed), "train").caption for seed in range(6)}) > 1


def test_form_level_and_length(scenes):
    for scene in scenes:
        assert scene.waveform.dtype == np.float32
        assert scene.waveform.ndim == 1
        assert SHORTEST_SCENE_S - 0.01 <= len(scene.waveform) / SAMPLE_RATE <= LONGEST_SCENE_S
        peak = np.abs(scene.waveform).max()
        assert peak <= 0.95
        all_distant = all(event.distance == "distant" for event in scene.events)
        assert peak >= (0.2 if all_distant else 0.69)
        assert 0.05 <= scene.events[0].start_s <= 0.2


def test_sound_is_where_the_truth_says(scenes):
    """Silence outside the spans of near events, and sound soon after each onset."""
    for scene in scenes:
        inside = np.zeros(len(scene.waveform), dtype=bool)
        for event in scene.events:
            assert type(event.start_s) is type(event.end_s) is float
            start, end = (round(second * SAMPLE_RATE) for second in (event.start_s, event.end_s))
            tail = SAMPLE_RATE // 2 if event.distance == "distant" else 2
            inside[max(start - 2, 0) : end + tail] = True
            assert np.abs(scene.waveform[start : start + SAMPLE_RATE // 5]).max() > 0.003, (scene.caption, event)
        assert np.abs(scene.waveform[~inside]).max() < 1e-6, scene.caption


@pytest.mark.parametrize("kind", ["knock", "clap", "tick", "beep", "bark", "chirp", "drum", "drip", "pluck", "zap"])
def test_events_can_be_counted_in_the_sound(kind):
    for count in (1, 2, 3, 4):
        for speed in ("medium", "slow", "fast") if count > 1 else ("medium",):
            scene = solo(kind, seed=count, count=count, speed=speed)
            assert onset_count(scene.waveform, apart_s=0.1) == count, scene.caption


@pytest.mark.parametrize("kind", PITCHED)
def test_low_is_lower_than_middle_is_lower_than_high(kind):
    low, middle, high = (
        [centroid_hz(solo(kind, seed, pitch=pitch).waveform) for seed in range(2)]
        for pitch in ("low", "middle", "high")
    )
    assert max(low) < min(middle), (low, middle)
    assert max(middle) < min(high), (middle, high)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_distant_is_quieter_and_duller(kind):
    peaks, shares = [], []
    for seed in range(2):
        near, far = (solo(kind, seed, distance=distance).waveform for distance in ("near", "distant"))
        peaks.append([np.abs(waveform).max() for waveform in (near, far)])
        edge_hz = max(1.2 * centroid_hz(near), 1_000)
        shares.append([power_share_above(waveform, edge_hz) for waveform in (near, far)])
    assert max(far for _, far in peaks) < 0.55 * min(near for near, _ in peaks)
    near_share, far_share = np.mean(shares, axis=0)
    assert far_share < 0.9 * near_share


@pytest.mark.parametrize("kinds", [("beep", "knock"), ("bell", "drum"), ("clap", "frog")])
def test_distance_stays_between_groups_of_a_scene(kinds):
    def loudness(waveform: np.ndarray) -> float:
        """Of the loudest 100 ms."""
        return float(np.convolve(waveform**2, np.ones(SAMPLE_RATE // 10), mode="valid").max() ** 0.5)

    for near, far in (kinds, kinds[::-1]):
        groups = (Group(near, 2), Group(far, 2, distance="distant"))
        scene = render_scene(np.random.default_rng(0), Composition(groups))
        change = round(grouped(scene.events)[1][0].start_s * SAMPLE_RATE)
        assert loudness(scene.waveform[change:]) < 0.6 * loudness(scene.waveform[:change]), (near, far)


def test_whistles_go_where_their_names_say():
    for kind, sign in (("rising_whistle", 1), ("falling_whistle", -1)):
        scene = solo(kind, count=1)
        event = scene.events[0]
        whistle = scene.waveform[round(event.start_s * SAMPLE_RATE) : round(event.end_s * SAMPLE_RATE)]
        third = len(whistle) // 3
        assert sign * np.log2(centroid_hz(whistle[-third:]) / centroid_hz(whistle[:third])) > 0.7


@pytest.mark.parametrize(
    ("kind", "apart_s", "prominence"), [("crickets", 0.1, 0.6), ("saw", 0.15, 0.25), ("typing", 0.05, 0.25)]
)
def test_sustained_kinds_repeat_faster_when_fast(kind, apart_s, prominence):
    rates = {}
    for speed, rate in (("slow", 0.53), ("medium", 1.0), ("fast", 1.9)):
        waves = [KINDS[kind].render(np.random.default_rng(seed), Take(3.0, rate=rate)) for seed in range(3)]
        rates[speed] = np.mean([onset_count(wave, apart_s, prominence) for wave in waves])
    assert 1.3 * rates["slow"] < rates["medium"], rates
    assert 1.3 * rates["medium"] < rates["fast"], rates


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """``(frames, 32)`` log energies on the mel scale over the first second, -60 dB at the least."""
    size = 600
    frames = np.pad(waveform, (0, SAMPLE_RATE))[:SAMPLE_RATE].reshape(-1, size) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = 2_595 * np.log10(1 + np.fft.rfftfreq(size, 1 / SAMPLE_RATE) / 700)
    band = np.minimum((mel / mel[-1] * 32).astype(int), 31)
    energy = np.stack([power[:, band == index].sum(axis=1) for index in range(32)], axis=1)
    return 10 * np.log10(np.maximum(energy / energy.max(), 1e-6))


def test_kinds_sound_more_different_than_takes_of_one_kind():
    mels = []
    for kind in KINDS.values():
        duration_s = 1.0 if kind.duration_s is None else float(np.mean(kind.duration_s))
        mels.append([log_mel(kind.render(np.random.default_rng(seed), Take(duration_s))) for seed in range(4)])
    takes = np.asarray(mels).reshape(len(KINDS), 4, -1)
    # What a kind is, is its mean over time where single crackles or drops fall by chance.
    spectra = np.asarray(mels).mean(axis=2)
    for features in (takes, spectra):
        distance = np.abs(features[:, :, None, None] - features[None, None]).mean(axis=-1)
        same = np.eye(len(KINDS), dtype=bool)[:, None, :, None] & np.ones((1, 4, 1, 4), dtype=bool)
        within = distance[same].sum() / (same.sum() - 4 * len(KINDS))
        assert distance[~same].mean() > 3 * within
    # Of any take, the most similar other take is one of its own kind.
    flat = takes.reshape(4 * len(KINDS), -1)
    distance = np.stack([np.abs(flat - one).mean(axis=1) for one in flat]) + 1e6 * np.eye(len(flat))
    assert np.mean(distance.argmin(axis=1) // 4 == np.arange(len(flat)) // 4) > 0.97
