"""English speech with texts: aligned by force, so that every phoneme has its seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from unisono.data.prepare.corpora.engine import Corpus, RunOptions, Step, build_corpus
from unisono.data.prepare.corpora.files import read_text
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.media.audio import audio_info, read_audio
from unisono.text.align import SAMPLE_RATE, AlignmentFailure
from unisono.text.english import EnglishAligner

TASK = "text_to_speech"
LANGUAGE = "en-us"


def speech_corpus(
    name: str, version: int, license_name: str, groups: str, find: Callable[[Path], Found], align: bool
) -> Corpus:
    """A corpus of one data set, ``text_to_speech``; without alignment its lines have no phonemes yet.

    Items carry their text in ``fields["text"]``, or the path of its file in ``data``.
    """
    if align:
        step = Step("align", "aligning", align_utterance, chunk_items=32)
    else:
        step = Step("measure", "reading headers", measure_utterance, chunk_items=512)
    return Corpus(
        name=name,
        version=version,
        license=license_name,
        tasks=(TASK,),
        groups=groups,
        find=find,
        steps=(step,),
        lines=speech_lines,
        options={"align": align},
    )


def prepare_speech(corpus: Corpus, out: Path, align: bool, run: RunOptions) -> Path:
    if align:
        _aligner()  # missing packages are told before anything is read
    return build_corpus(corpus, out, run)


def speech_lines(item: Item, record: Record) -> dict[str, Record]:
    names = ("phonemes", "durations_s", "guessed_words")
    line: Record = {name: record[name] for name in names if name in record}
    return {TASK: {**line, **item.fields, "text": record["text"], "language": LANGUAGE}}


def measure_utterance(item: Item) -> Record:
    """Length and text alone."""
    return {"duration_s": _duration_s(item), "text": _text(item)}


def align_utterance(item: Item) -> Record:
    """When each phoneme is spoken; words whose pronunciation was guessed by eSpeak NG are named."""
    text = _text(item)
    duration_s = _duration_s(item)
    result = _aligner().align(read_audio(item.audio, SAMPLE_RATE), text, SAMPLE_RATE, duration_s)
    if isinstance(result, AlignmentFailure):
        raise LeaveOut(result.kind, f"alignment: {result.detail}")
    record: Record = {"duration_s": duration_s, "text": text, "phonemes": list(result.phonemes)}
    record["durations_s"] = list(result.durations_s)
    return {**record, "guessed_words": list(result.guessed_words)} if result.guessed_words else record


def _text(item: Item) -> str:
    return item.fields["text"] if item.data is None else " ".join(read_text(item.data).split())


def _duration_s(item: Item) -> float:
    duration_s = audio_info(item.audio)[1]
    if duration_s == 0:
        raise UserError(f"{item.audio} is empty (0 samples)")
    return duration_s


@lru_cache(maxsize=1)
def _aligner() -> EnglishAligner:
    """One model per process."""
    return EnglishAligner()
