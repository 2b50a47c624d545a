"""Learning the acoustic model of an aligner from a corpus alone.

All states begin as one and the same Gaussian. The order of the phonemes, the same in speech as in writing, tells them
apart: over some passes with all paths weighted by their probability, then along the best path only, with more and
more Gaussians per state. Paths have no prior: with the beta-binomial one of One TTS Alignment in the first passes,
boundaries of 30 utterances came out worse and those of 300 much the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unisono.errors import UserError
from unisono.files import locked
from unisono.media.audio import AudioPath, audio_info, read_audio
from unisono.media.locations import Location
from unisono.text.aligner.aligner import CorpusAligner, write_arrays
from unisono.text.aligner.expectation import Pass, Utterance, batches
from unisono.text.aligner.features import FRAME_S, SAMPLE_RATE, cepstra
from unisono.text.aligner.mixtures import Mixtures, Statistics
from unisono.text.aligner.units import STATES, Units
from unisono.workers import set_up_worker

logger = logging.getLogger(__name__)

# Raise it when the same pairs would give another aligner.
TRAINING_VERSION = 1
MAX_UTTERANCE_S = 60.0
_CHECKPOINT = "training.safetensors"
_MIN_FRAMES_PER_GAUSSIAN = 40.0
_WANTED_EXAMPLES = 20  # of each phoneme, where the corpus has them


@dataclass(frozen=True)
class _Step:
    """One pass: are Gaussians split before it, do all paths count or the best alone?"""

    split: bool
    soft: bool


_SCHEDULE = (
    *(_Step(split=False, soft=True),) * 6,
    *(_Step(split=False, soft=False),) * 2,
    *(_Step(split=True, soft=False), _Step(split=False, soft=False)) * 3,
)


@dataclass(frozen=True)
class Pair:
    """A recording and what is said in it.

    Attributes:
        name: for messages.
        phonemes: in order; ``_`` where there may be a pause. Silence at the ends need not be written.
        audio: path or location, or samples ``(S,)``.
        sample_rate: Hz, of samples.
    """

    name: str
    phonemes: tuple[str, ...]
    audio: AudioPath | np.ndarray
    sample_rate: int = SAMPLE_RATE

    @property
    def duration_s(self) -> float:
        if isinstance(self.audio, np.ndarray):
            return len(self.audio) / self.sample_rate
        return audio_info(self.audio).duration_s

    def features(self) -> np.ndarray:
        """``(T, D)``; :class:`UserError` also for digital silence, from which nothing is learned."""
        if isinstance(self.audio, np.ndarray):
            waveform, rate = self.audio, self.sample_rate
        else:
            waveform, rate = read_audio(self.audio, SAMPLE_RATE), SAMPLE_RATE
        if waveform.size and not waveform.any():
            raise UserError(f"{self.name}: silent")
        return cepstra(waveform, rate, self.name)

    def stamp(self) -> list[Any]:
        """Changes when the recording or the phonemes do."""
        if isinstance(self.audio, np.ndarray):
            digest = hashlib.sha256(self.audio.tobytes()).hexdigest()
            return [self.name, self.phonemes, digest, self.sample_rate]
        location = Location.of(self.audio)
        # Not the times that a copy of the corpus would change.
        return [self.name, self.phonemes, str(location), location.stamp()[:2]]


def train_aligner(
    pairs: Sequence[Pair],
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    max_training_s: float = 3600.0,
    workers: int = 1,
    progress: bool = True,
) -> CorpusAligner:
    """Learn to align from recordings and their phonemes, without times and without a model of the language.

    A minute of CPU time per half hour of speech. A killed training goes on after its last pass; an aligner that is
    there already for these pairs is loaded. The number of workers changes nothing but the time.

    Args:
        pairs: of one language; several speakers are fine. 30 utterances give useful, 300 good boundaries.
        folder: of the aligner: ``aligner.json`` and ``aligner.safetensors``.
        seed: of the choice of recordings where there are more than are needed.
        max_training_s: how much speech is needed, in seconds; more hardly makes boundaries better. Rare phonemes are
            chosen first.
        workers: processes.
        progress: show a bar.

    Raises:
        UserError: no usable pair, or a folder with another aligner.
    """
    folder = Path(folder)
    if not pairs:
        raise UserError("there is nothing to train an aligner on; give recordings with their phonemes")
    if not max_training_s > 0:
        raise UserError(f"max_training_s is {max_training_s}; give a positive number of seconds")
    fingerprint = _fingerprint(pairs, seed, max_training_s)
    with locked(folder.with_name(f".{folder.name}.lock")), _mapper(workers) as run:
        if CorpusAligner.is_in(folder):
            aligner = CorpusAligner.load(folder)
            if aligner.training["fingerprint"] == fingerprint:
                return aligner
            raise UserError(
                f"{folder} holds an aligner trained on other recordings; remove it or choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        utterances = _utterances(_chosen(pairs, seed, max_training_s), run)
        training = {
            "fingerprint": fingerprint,
            "version": TRAINING_VERSION,
            "seed": seed,
            "utterances": len(utterances),
            "minutes": round(sum(len(u.features) for u in utterances) * FRAME_S / 60, 2),
        }
        inventory = _inventory(utterances)
        mixtures = _train(utterances, inventory, folder / _CHECKPOINT, fingerprint, run, progress)
        aligner = CorpusAligner.calibrated(mixtures, inventory, utterances, training, run)
        aligner.save(folder)
        (folder / _CHECKPOINT).unlink(missing_ok=True)
    return aligner


Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@contextmanager
def _mapper(workers: int) -> Iterator[Mapper]:
    """``map`` over processes, results in order."""
    if workers <= 1:
        yield lambda function, items: map(function, items)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), set_up_worker) as pool:
        try:
            yield lambda function, items: pool.map(function, items)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fingerprint(pairs: Sequence[Pair], seed: int, max_training_s: float) -> str:
    digest = hashlib.sha256(json.dumps([TRAINING_VERSION, seed, max_training_s]).encode())
    for pair in pairs:
        try:
            digest.update(json.dumps(pair.stamp(), ensure_ascii=False).encode())
        except OSError as error:
            raise UserError(f"{pair.name}: {pair.audio} cannot be read ({error.strerror}); correct the path") from error
    return digest.hexdigest()


# -- what is learned from ---------------------------------------------------------------------------------------------


def _chosen(pairs: Sequence[Pair], seed: int, max_training_s: float) -> list[Pair]:
    """All pairs, or a draw of so many seconds that has each phoneme often enough if the corpus does."""
    durations_s = [_duration_or_none(pair) for pair in pairs]
    usable = [i for i, duration_s in enumerate(durations_s) if duration_s is not None and duration_s <= MAX_UTTERANCE_S]
    if not usable:
        raise UserError(
            f"none of {len(pairs)} recordings can be trained on: all are unreadable or longer than {MAX_UTTERANCE_S:g} "
            f"s, the first is {pairs[0].name}; cut them at pauses"
        )
    if len(usable) < len(pairs):
        logger.warning(
            "%d of %d recordings are not trained on: unreadable or over %g s",
            len(pairs) - len(usable),
            len(pairs),
            MAX_UTTERANCE_S,
        )
    order = [usable[i] for i in np.random.default_rng(seed).permutation(len(usable))]
    total_in_corpus = Counter(symbol for i in order for symbol in pairs[i].phonemes)
    heard: Counter[str] = Counter()
    chosen: list[int] = []
    # Twice through the same order: first those with a phoneme that is still rare, then anything up to the budget.
    for wanted in (_WANTED_EXAMPLES, np.inf):
        spent_s = sum(durations_s[i] or 0.0 for i in chosen)
        taken = set(chosen)
        for i in order:
            rare = any(heard[symbol] < min(wanted, total_in_corpus[symbol]) for symbol in pairs[i].phonemes)
            if i in taken or not rare or (spent_s >= max_training_s and wanted == np.inf):
                continue
            chosen.append(i)
            heard.update(pairs[i].phonemes)
            spent_s += durations_s[i] or 0.0
    return [pairs[i] for i in sorted(chosen)]


def _duration_or_none(pair: Pair) -> float | None:
    try:
        return pair.duration_s
    except UserError:
        return None


def _utterances(pairs: Sequence[Pair], run: Mapper) -> list[Utterance]:
    utterances, unusable = [], []
    for pair, result in zip(pairs, run(_features_or_error, pairs), strict=True):
        units = Units.of(pair.phonemes)
        if isinstance(result, str):
            unusable.append(result)
        elif units.spoken == 0:
            unusable.append(f"{pair.name}: no phonemes")
        elif len(result) < units.min_frames:
            unusable.append(f"{pair.name}: {len(result) * FRAME_S:.2f} s cannot hold {units.spoken} phonemes")
        else:
            utterances.append(Utterance(units, result))
    if not utterances:
        raise UserError(f"none of {len(pairs)} recordings can be trained on; the first: {unusable[0]}")
    if unusable:
        logger.warning("%d recordings are not trained on; the first: %s", len(unusable), unusable[0])
    return utterances


def _features_or_error(pair: Pair) -> np.ndarray | str:
    try:
        return pair.features()
    except UserError as error:
        return str(error)


def _inventory(utterances: Sequence[Utterance]) -> dict[str, int]:
    symbols = sorted({symbol for utterance in utterances for symbol in utterance.units.symbols})
    return {symbol: number for number, symbol in enumerate(symbols)}


# -- passes -----------------------------------------------------------------------------------------------------------


def _train(
    utterances: Sequence[Utterance],
    inventory: dict[str, int],
    checkpoint: Path,
    fingerprint: str,
    run: Mapper,
    progress: bool,
) -> Mixtures:
    groups = batches(utterances)
    total_frames = sum(len(utterance.features) for utterance in utterances)
    done, mixtures, frames = _resume(checkpoint, fingerprint) or (0, _flat(utterances, len(inventory)), None)
    with tqdm(total=len(_SCHEDULE), initial=done, desc="training the aligner", disable=not progress) as bar:
        for number, step in enumerate(_SCHEDULE[done:], done + 1):
            if step.split and frames is not None:
                mixtures = mixtures.split(frames, _MIN_FRAMES_PER_GAUSSIAN)
            statistics, total = Statistics(mixtures.means.shape), 0.0
            for part, log_probability in run(Pass(mixtures, inventory, step.soft), groups):
                statistics.merge(part)
                total += log_probability
            mixtures, frames = statistics.estimate(mixtures.present), statistics.frames.sum(axis=1)
            write_arrays(
                checkpoint,
                {"means": mixtures.means, "variances": mixtures.variances, "log_weights": mixtures.log_weights}
                | {"frames": frames},
                {"fingerprint": fingerprint, "done": str(number)},
            )
            bar.set_postfix_str(f"log likelihood {total / total_frames:.2f}")
            bar.update()
    return mixtures


def _flat(utterances: Sequence[Utterance], num_symbols: int) -> Mixtures:
    frames = sum(len(utterance.features) for utterance in utterances)
    mean = sum(u.features.sum(axis=0, dtype=np.float64) for u in utterances) / frames
    square = sum((u.features.astype(np.float64) ** 2).sum(axis=0) for u in utterances) / frames
    return Mixtures.flat(num_symbols * STATES, mean, np.maximum(square - mean**2, 1e-3))


def _resume(checkpoint: Path, fingerprint: str) -> tuple[int, Mixtures, np.ndarray] | None:
    """Passes done, their result and the frames of each state; None if there is nothing of these pairs."""
    from safetensors import SafetensorError, safe_open

    if not checkpoint.is_file():
        return None
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            notes = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
    except SafetensorError as error:
        raise UserError(f"{checkpoint}: damaged ({error}); remove it to train from the beginning") from error
    if notes.get("fingerprint") != fingerprint:
        logger.warning("%s is of other recordings or settings: training begins anew", checkpoint)
        return None
    frames = arrays.pop("frames")
    return int(notes["done"]), Mixtures(**arrays), frames
