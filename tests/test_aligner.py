"""The aligner that learns from a corpus: its search against all paths written out, its boundaries against eSpeak's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.data.mini.sentences import draw_sentences
from unisono.errors import UserError
from unisono.text.align import AlignmentFailure
from unisono.text.aligner import (
    AlignerLimits,
    CorpusAligner,
    Lattice,
    Pair,
    UnitAlignment,
    all_paths,
    best_paths,
    train_aligner,
    training,
)
from unisono.text.aligner.features import DIMENSIONS, cepstra
from unisono.text.aligner.mixtures import Mixtures, Statistics, log_sum
from unisono.text.aligner.search import IMPOSSIBLE
from unisono.text.aligner.units import Units
from unisono.text.espeak import Utterance, synthesize

pytest.importorskip("espeakng_loader")
RATE = 16_000


@pytest.fixture(scope="module")
def spoken() -> list[Utterance]:
    """64 sentences of two voices; the last 16 are for testing."""
    sentences = draw_sentences(np.random.default_rng(3), "train", 64)
    return [synthesize(text, ("en-us", "en-gb+f1")[i % 2]).resampled(RATE) for i, text in enumerate(sentences)]


def pairs_of(spoken: list[Utterance]) -> list[Pair]:
    return [Pair(f"u{i}", tuple(u.phonemes), u.waveform, u.sample_rate) for i, u in enumerate(spoken)]


@pytest.fixture(scope="module")
def aligner(spoken: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> CorpusAligner:
    folder = tmp_path_factory.mktemp("an aligner")
    train_aligner(pairs_of(spoken[:48]), folder, progress=False)
    return CorpusAligner.load(folder)


# -- search -----------------------------------------------------------------------------------------------------------


def random_lattice(rng: np.random.Generator, batch: int, frames: int, states: int, jump: int) -> Lattice:
    num_states = rng.integers(jump + 1, states + 1, batch)
    num_states[0] = states
    num_frames = rng.integers(1, frames + 1, batch)
    num_frames[-1] = frames
    plain = Lattice.plain(num_frames, num_states)
    jumps = (rng.random((batch, states)) < 0.4) & (np.arange(states) >= jump)
    plain.start[:, 1] = rng.random(batch) < 0.5
    plain.end[np.arange(batch), num_states - 2] = rng.random(batch) < 0.5
    costs = rng.normal(0, 1, (2, batch, states))
    return Lattice(num_frames, num_states, plain.start, plain.end, jumps, jump, costs[0], costs[1])


def written_out(scores: np.ndarray, lattice: Lattice, row: int) -> dict[tuple[int, ...], float]:
    """Every allowed path of an utterance with its log probability."""
    frames, states = int(lattice.num_frames[row]), int(lattice.num_states[row])
    found = {}
    for path in itertools.product(range(states), repeat=frames):
        total = sum(scores[row, t, n] for t, n in enumerate(path))
        allowed = lattice.start[row, path[0]] and lattice.end[row, path[-1]]
        for before, after in itertools.pairwise(path):
            if after == before:
                total += lattice.log_stay[row, before]
            elif after == before + 1 or (after == before + lattice.jump and lattice.jumps[row, after]):
                total += lattice.log_leave[row, before]
            else:
                allowed = False
        if allowed:
            found[path] = float(total)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_search_agrees_with_all_paths_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = random_lattice(rng, batch=4, frames=6, states=5, jump=2 + seed % 2)
    scores = rng.normal(0, 3, (4, 6, 5))
    best, best_log = best_paths(scores, lattice)
    posteriors, total_log = all_paths(scores, lattice)
    for row in range(4):
        frames = int(lattice.num_frames[row])
        paths = written_out(scores, lattice, row)
        if not paths:
            assert best_log[row] < IMPOSSIBLE / 2 and total_log[row] < IMPOSSIBLE / 2
            assert (best[row] == -1).all() and (posteriors[row] == 0).all()
            continue
        assert tuple(best[row, :frames]) == max(paths, key=paths.__getitem__)
        assert best_log[row] == pytest.approx(max(paths.values()))
        assert (best[row, frames:] == -1).all()
        assert total_log[row] == pytest.approx(np.logaddexp.reduce(list(paths.values())))
        expected = np.zeros((6, 5))
        for path, log_probability in paths.items():
            for t, n in enumerate(path):
                expected[t, n] += np.exp(log_probability - total_log[row])
        assert posteriors[row] == pytest.approx(expected, abs=1e-9)


def test_plain_search_is_that_of_glow_tts_and_a_batch_is_its_parts() -> None:
    rng = np.random.default_rng(1)
    num_frames, num_states = np.array([40, 23, 3]), np.array([11, 5, 7])
    scores = rng.normal(0, 1, (3, 40, 11))
    together, logs = best_paths(scores, Lattice.plain(num_frames, num_states))
    assert logs[2] < IMPOSSIBLE / 2  # three frames cannot hold seven states
    for row in (0, 1):
        frames, states = num_frames[row], num_states[row]
        # Q[t, n] of the paper.
        table = np.full((frames, states), -np.inf)
        table[0, 0] = scores[row, 0, 0]
        for t in range(1, frames):
            for n in range(min(t + 1, states)):
                table[t, n] = max(table[t - 1, n], table[t - 1, n - 1] if n else -np.inf) + scores[row, t, n]
        assert logs[row] == pytest.approx(table[-1, -1])
        path = together[row, :frames]
        assert path[0] == 0 and path[-1] == states - 1
        assert set(np.diff(path)) <= {0, 1}
        alone, _ = best_paths(scores[row : row + 1, :frames, :states], Lattice.plain([frames], [states]))
        assert (alone[0] == path).all()


# -- the model --------------------------------------------------------------------------------------------------------


def test_expectation_and_maximisation_find_the_mixture_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    data = np.concatenate([rng.normal(-2, 0.5, (3000, 2)), rng.normal(3, 1.0, (1000, 2))])
    mixtures = Mixtures.flat(2, data.mean(axis=0), data.var(axis=0)).split(np.array([4000.0, 10.0]), 40)
    assert mixtures.present.sum(axis=1).tolist() == [2, 1]
    logs = []
    for _ in range(60):
        of_gaussians = mixtures.log_likelihood(data, np.array([0]))
        of_states = log_sum(of_gaussians)
        logs.append(of_states.mean())
        statistics = Statistics(mixtures.means.shape)
        statistics.add(data, np.array([0]), np.exp(of_gaussians - of_states[..., None]))
        mixtures = statistics.estimate(mixtures.present)
    order = mixtures.means[0, :, 0].argsort()
    assert mixtures.means[0, order, 0] == pytest.approx([-2, 3], abs=0.1)
    assert mixtures.variances[0, order, 0] == pytest.approx([0.25, 1.0], abs=0.25)
    assert np.exp(mixtures.log_weights[0, order]) == pytest.approx([0.75, 0.25], abs=0.02)
    assert logs[-1] > logs[0] + 0.5
    # Nothing was heard of the second state: it is as the corpus is.
    assert mixtures.means[1, 0] == pytest.approx(data.mean(axis=0), abs=1e-6)


def test_features_do_not_depend_on_level_and_follow_the_length() -> None:
    rng = np.random.default_rng(0)
    for samples in (1, 79, 80, 81, 4000, 4001):
        assert cepstra(rng.normal(0, 0.1, samples), RATE).shape == (-(-samples // 80), DIMENSIONS)
    noise = rng.normal(0, 0.1, RATE)
    assert cepstra(noise, RATE) == pytest.approx(cepstra(noise * 0.2, RATE), abs=1e-3)
    assert np.isfinite(cepstra(np.zeros(RATE), RATE)).all()
    click = np.zeros(RATE)
    click[8_040] = 1.0  # in frame 100
    assert int(cepstra(click, RATE)[:, 0].argmax()) in (99, 100, 101)


def test_units_have_silence_at_both_ends_once() -> None:
    assert Units.of(["a", "b"]) == Units(("_", "a", "b", "_"), (-1, 0, 1, -1))
    assert Units.of(["_", "_", "a", "_", "_"]) == Units(("_", "a", "_"), (0, 2, 3))
    assert Units.of([]) == Units(("_",), (-1,))
    assert Units.of(["_"]).spoken == 0


# -- boundaries -------------------------------------------------------------------------------------------------------


def errors_s(aligner: CorpusAligner, spoken: list[Utterance]) -> np.ndarray:
    errors = []
    for utterance in spoken:
        result = aligner.align(utterance.phonemes, utterance.waveform, utterance.sample_rate)
        if isinstance(result, UnitAlignment) and list(result.phonemes) == utterance.phonemes:
            errors.append(np.cumsum(result.durations_s)[:-1] - np.cumsum(utterance.durations_s)[:-1])
    assert len(errors) >= 0.9 * len(spoken)
    return np.abs(np.concatenate(errors))


def test_boundaries_are_those_of_the_synthesiser(aligner: CorpusAligner, spoken: list[Utterance]) -> None:
    for some, most_s in ((spoken[:48], 0.05), (spoken[48:], 0.06)):
        known = [u for u in some if set(u.phonemes) <= aligner.inventory.keys()]
        errors = errors_s(aligner, known)
        assert np.median(errors) < 0.015
        assert np.quantile(errors, 0.9) < most_s


def test_durations_cover_the_recording_at_any_rate(aligner: CorpusAligner, spoken: list[Utterance]) -> None:
    for rate in (8_000, 22_050, 44_100):
        utterance = spoken[0].resampled(rate)
        result = aligner.align(utterance.phonemes, utterance.waveform, rate)
        if rate == 8_000 and isinstance(result, AlignmentFailure):
            continue  # a telephone's band is not what it was trained on, and it says so
        assert isinstance(result, UnitAlignment), result
        assert sum(result.durations_s) == pytest.approx(len(utterance.waveform) / rate, abs=1e-4)
        assert min(result.durations_s) > 0


def test_pauses_are_found_where_they_are_made_and_dropped_where_not(
    aligner: CorpusAligner, spoken: list[Utterance]
) -> None:
    utterance = next(u for u in spoken if "_" not in u.phonemes[1:-1])
    inner = [i for i, p in enumerate(utterance.phonemes) if p != "_"]
    middle = inner[len(inner) // 2]
    with_marks = [p for i in inner for p in (["_"] if i in (inner[3], middle) else []) + [utterance.phonemes[i]]]
    cut = round(sum(utterance.durations_s[:middle]) * RATE)
    pause = np.random.default_rng(0).normal(0, 1e-4, RATE // 4).astype(np.float32)
    waveform = np.concatenate([utterance.waveform[:cut], pause, utterance.waveform[cut:]])
    result = aligner.align(with_marks, waveform, RATE)
    assert isinstance(result, UnitAlignment), result
    inner_pauses = [i for i, p in enumerate(result.phonemes) if p == "_" and 0 < i < len(result.phonemes) - 1]
    assert len(inner_pauses) == 1
    assert result.durations_s[inner_pauses[0]] == pytest.approx(0.25, abs=0.06)
    assert [p for p in result.phonemes if p != "_"] == [utterance.phonemes[i] for i in inner]
    for source, symbol in zip(result.sources, result.phonemes, strict=True):
        assert symbol == ("_" if source < 0 else with_marks[source])


def test_what_is_not_said_is_rejected(aligner: CorpusAligner, spoken: list[Utterance]) -> None:
    kinds = []
    for i, utterance in enumerate(spoken[:12]):
        units, other = utterance.phonemes, spoken[i + 12].phonemes
        half = len(units) // 2
        for wrong in (other, units[:half], units[half:], units[: half - 4] + units[half + 4 :]):
            result = aligner.align(wrong, utterance.waveform, RATE)
            kinds.append(result.kind if isinstance(result, AlignmentFailure) else "accepted")
    assert kinds.count("accepted") <= 2, kinds
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    assert isinstance(aligner.align(spoken[0].phonemes, noise, RATE), AlignmentFailure)


def test_what_cannot_be_aligned_says_why(aligner: CorpusAligner, spoken: list[Utterance]) -> None:
    waveform = spoken[0].waveform

    def kind(phonemes: list[str], samples: np.ndarray) -> str:
        result = aligner.align(phonemes, samples, RATE)
        assert isinstance(result, AlignmentFailure)
        return result.kind

    assert kind(["h", "☃"], waveform) == "unknown_phonemes"
    assert kind(["_"], waveform) == "no_phonemes"
    assert kind([], waveform) == "no_phonemes"
    assert kind(spoken[0].phonemes, waveform[:800]) == "too_short"
    assert kind(spoken[0].phonemes * 60, np.tile(waveform, 60)) == "too_long"
    for bad, message in (
        (np.zeros((2, 800)), "shape"),
        (np.zeros(0), "empty"),
        (np.full(8_000, np.nan), "NaN"),
    ):
        with pytest.raises(UserError, match=message):
            aligner.align(spoken[0].phonemes, bad, RATE)
    assert isinstance(aligner.align(spoken[0].phonemes, np.zeros(2 * RATE), RATE), AlignmentFailure)
    with pytest.raises(UserError, match="above 1"):
        AlignerLimits(score_factor=0.5)


# -- training ---------------------------------------------------------------------------------------------------------


def weights(folder: Path) -> bytes:
    return (folder / "aligner.safetensors").read_bytes()


def test_a_training_that_was_cut_short_goes_on_to_the_same_aligner(
    spoken: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(spoken[:10])
    train_aligner(pairs, tmp_path / "whole", progress=False)
    passes = 0
    write_arrays = training.write_arrays

    def stop_after_four(*arguments: Any) -> None:
        nonlocal passes
        write_arrays(*arguments)
        passes += 1
        if passes == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_arrays", stop_after_four)
        with pytest.raises(KeyboardInterrupt):
            train_aligner(pairs, tmp_path / "cut", progress=False)
        assert not CorpusAligner.is_in(tmp_path / "cut")
        train_aligner(pairs, tmp_path / "cut", progress=False)
    assert passes == len(training._SCHEDULE)  # four, and the others
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["aligner.json", "aligner.safetensors"]


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(spoken: list[Utterance], tmp_path: Path) -> None:
    for workers in (1, 2):
        train_aligner(pairs_of(spoken[:10]), tmp_path / str(workers), workers=workers, progress=False)
    assert weights(tmp_path / "1") == weights(tmp_path / "2")


def test_only_as_much_is_trained_on_as_needed_and_rare_phonemes_are_in(spoken: list[Utterance]) -> None:
    pairs = pairs_of(spoken)
    rare = Pair("rare", ("_", "☃", "_"), spoken[0].waveform, RATE)
    chosen = training._chosen([*pairs, rare], 0, 30.0)
    assert "rare" in {pair.name for pair in chosen}
    assert chosen == training._chosen([*pairs, rare], 0, 30.0)
    assert len(training._chosen(pairs * 40, 0, 30.0)) < len(pairs) * 40
    assert len(training._chosen(pairs, 0, 1e9)) == len(pairs)


def test_recordings_that_cannot_be_used_are_told(
    spoken: list[Utterance], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    bad = [
        Pair("broken", ("a",), tmp_path / "broken.wav"),
        Pair("short", ("a",) * 900, spoken[0].waveform, RATE),
        Pair("wordless", ("_",), spoken[0].waveform, RATE),
        Pair("silent", ("a",), np.zeros(RATE), RATE),
    ]
    with caplog.at_level("WARNING"):
        trained = train_aligner([*pairs_of(spoken[:4]), *bad], tmp_path / "a", progress=False)
    assert (
        "1 of 8 recordings" in caplog.text
        and "3 recordings are" in caplog.text
        and "cannot hold 900 phonemes" in caplog.text
    )
    assert trained.training["utterances"] == 4
    for pairs, message in (
        ([], "nothing to train"),
        (bad[:1], "unreadable"),
        (bad[1:], "can be trained on; the first: short"),
    ):
        with pytest.raises(UserError, match=message):
            train_aligner(pairs, tmp_path / "b", progress=False)
    with pytest.raises(UserError, match="max_training_s"):
        train_aligner(bad, tmp_path / "c", max_training_s=0, progress=False)


def test_a_folder_holds_one_aligner_and_damage_is_seen(
    aligner: CorpusAligner, spoken: list[Utterance], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds no aligner"):
        CorpusAligner.load(tmp_path)
    aligner.save(tmp_path)
    assert CorpusAligner.load(tmp_path).fingerprint == aligner.fingerprint
    with pytest.raises(UserError, match="trained on other recordings"):
        train_aligner(pairs_of(spoken[:4]), tmp_path, progress=False)
    settings = json.loads((tmp_path / "aligner.json").read_text())
    (tmp_path / "aligner.json").write_text(json.dumps({**settings, "format_version": 99}))
    with pytest.raises(UserError, match="format 99"):
        CorpusAligner.load(tmp_path)
    (tmp_path / "aligner.json").write_text(json.dumps({**settings, "symbols": 3}))
    with pytest.raises(UserError, match="damaged aligner"):
        CorpusAligner.load(tmp_path)
    (tmp_path / "aligner.json").write_text(json.dumps(settings))
    (tmp_path / "aligner.safetensors").write_bytes(weights(tmp_path)[:-8])
    with pytest.raises(UserError, match="not the file"):
        CorpusAligner.load(tmp_path)
