"""English speech with exact phoneme timing from eSpeak NG (the ``espeakng-loader`` wheel, through ctypes).

eSpeak NG keeps its state in global variables: the phases of its oscillators, its echo buffer and its random numbers go
on from one utterance to the next, and initialising it again does not clear them, so the same text would give other
samples each time. Therefore the library is loaded afresh for every utterance and unloaded after it (15 ms in all), with
its random generator seeded: what comes out is a function of the arguments alone. It is not thread-safe either; a lock
admits one call at a time, and parallel synthesis takes processes. Where another package has the same library loaded, it
cannot be unloaded: the speech stays right, its last bits then depend on what was said before.

The library is under the GPL; it is an optional dependency, and the audio it makes is not covered by its licence.
"""

from __future__ import annotations

import ctypes
import functools
import unicodedata
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise

import numpy as np

from unisono.errors import UserError
from unisono.text.espeak_library import LIBRARY_LOCK, fresh_library, library_paths
from unisono.text.phonemes import SILENCE, check_phonemes
from unisono.timing import seconds_to_samples

MIN_RATE_WPM, MAX_RATE_WPM = 80, 300  # beyond 300 eSpeak's event positions are no longer monotone
LEAD_S, TAIL_S = 0.05, 0.10
MIN_PAUSE_S = 0.02
LIQUID_SHARE = 0.4
_MAX_TEXT_CHARACTERS = 10_000
_LIQUIDS = ("l", "r", "ɹ")

# Constants of speak_lib.h.
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7
_CHARS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3

_Span = tuple[str, int, int]  # symbol, first sample, end sample


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Utterance:
    """Speech and its phonemes.

    Attributes:
        waveform: float32 ``(S,)`` in [-1, 1] at ``sample_rate``.
        sample_rate: Hz.
        phonemes: symbols of :data:`unisono.text.phonemes.PHONEMES`; first and last are silence.
        durations_s: seconds of each phoneme, whole samples; they sum to the waveform's length.
        text, voice: what was said and by whom.
    """

    waveform: np.ndarray
    sample_rate: int
    phonemes: list[str]
    durations_s: list[float]
    text: str
    voice: str

    def resampled(self, sample_rate: int) -> Utterance:
        """The same utterance at another rate; boundaries move by at most half a sample, the sum stays exact."""
        if sample_rate == self.sample_rate:
            return self
        import soxr

        waveform = soxr.resample(self.waveform, self.sample_rate, sample_rate, quality="HQ")
        ends = seconds_to_samples(np.cumsum(self.durations_s), sample_rate)
        ends[-1] = len(waveform)
        durations_s = np.diff(ends, prepend=0) / sample_rate
        return Utterance(
            waveform.astype(np.float32), sample_rate, self.phonemes, durations_s.tolist(), self.text, self.voice
        )


def synthesize(text: str, voice: str = "en-us", *, rate_wpm: int = 175, pitch: int = 50) -> Utterance:
    """Speak ``text``.

    Args:
        text: English text, at most 10 000 characters.
        voice: an English voice and optionally a variant, such as ``en-us``, ``en-gb`` or ``en-us+f1`` (:func:`voices`).
        rate_wpm: words per minute, 80 to 300.
        pitch: 0 to 99; 50 is the voice's own.

    Raises:
        UserError: unknown voice, value out of range, text without a word or in another script, missing wheel.
    """
    _check_number("rate_wpm", rate_wpm, MIN_RATE_WPM, MAX_RATE_WPM)
    _check_number("pitch", pitch, 0, 99)
    _check_text(text)
    full_voice = _full_voice_name(voice)
    pcm, events, sample_rate = _run(text, full_voice, rate_wpm, pitch)
    units = _units(pcm, events, sample_rate, f"text {_short(text)!r} as read by voice {voice!r}")
    waveform, units = _trim_ends(pcm.astype(np.float32) / 32768.0, units, sample_rate)
    phonemes = [symbol for symbol, _ in units]
    durations_s = [samples / sample_rate for _, samples in units]
    return Utterance(waveform, sample_rate, phonemes, durations_s, text, voice)


def phonemize(text: str, voice: str = "en-us") -> list[str]:
    """The phonemes that :func:`synthesize` would say, with silence at both ends and at pauses."""
    return synthesize(text, voice).phonemes


def voices() -> tuple[list[str], list[str]]:
    """``(English voices, variants)`` that eSpeak NG offers; any two join as ``voice+variant``."""
    base, variants = _voice_table()
    return sorted(base), sorted(variants)


# ---------------------------------------------------------------------------------------------- arguments


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}; give a whole number from {low} to {high}")


def _check_text(text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"text is {text!r}; give at least one word to speak")
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        raise UserError(f"text {_short(text)!r} holds control characters; remove them")
    if len(text) > _MAX_TEXT_CHARACTERS:
        raise UserError(f"text has {len(text)} characters; give at most {_MAX_TEXT_CHARACTERS} at a time")


@functools.cache
def _voice_table() -> tuple[dict[str, str], frozenset[str]]:
    """English voices by language code (with eSpeak's file name for each), and the variants."""
    _, data = library_paths()
    base = {}
    for path in sorted((data / "lang" / "gmw").iterdir()):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        codes = [line.split()[1] for line in lines if line.startswith("language ") and len(line.split()) > 1]
        # The Shavian voice reads another alphabet.
        if codes and codes[0].startswith("en") and codes[0] != "en-shaw":
            base[codes[0]] = f"gmw/{path.name}"
    return base, frozenset(path.name for path in (data / "voices" / "!v").iterdir())


def _full_voice_name(voice: str) -> str:
    """``en-gb+f1`` becomes ``gmw/en+f1``; eSpeak NG itself takes unknown variants without a word."""
    base, variants = _voice_table()
    code, plus, variant = str(voice).partition("+")
    if code not in base:
        raise UserError(
            f"voice {voice!r}: {code!r} is not an English voice of eSpeak NG; choose one of {', '.join(base)}"
        )
    if plus and variant not in variants:
        near = get_close_matches(variant, variants, n=4, cutoff=0.3) or ["f1", "m3"]
        raise UserError(f"voice {voice!r}: no variant is called {variant!r}; near it are {', '.join(near)}")
    return base[code] + plus + variant


# ---------------------------------------------------------------------------------------------- the library


def _run(text: str, full_voice: str, rate_wpm: int, pitch: int) -> tuple[np.ndarray, list[tuple[str, int]], int]:
    """``(int16 samples, [(eSpeak symbol, start sample)], sample rate)``."""
    blocks: list[np.ndarray] = []
    events: list[tuple[str, int]] = []

    @_SYNTH_CALLBACK
    def receive(samples, count, event):
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while event[index].type != _EVENT_LIST_TERMINATED:
            if event[index].type == _EVENT_PHONEME:
                events.append((event[index].id.string.decode("utf-8", "replace"), event[index].sample))
            index += 1
        return 0

    with LIBRARY_LOCK, fresh_library() as (library, sample_rate):
        library.espeak_SetSynthCallback(receive)
        status = library.espeak_SetVoiceByName(ctypes.c_char_p(full_voice.encode()))
        assert status == 0, f"eSpeak NG refused its own voice {full_voice} (status {status})"
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetParameter(_PARAMETER_RATE, int(rate_wpm), 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, int(pitch), 0)
        data = text.encode("utf-8", "replace") + b"\0"
        position_type_character, start, end = 1, 0, 0
        status = library.espeak_Synth(
            ctypes.c_char_p(data),
            ctypes.c_size_t(len(data)),
            ctypes.c_uint(start),
            position_type_character,
            ctypes.c_uint(end),
            ctypes.c_uint(_CHARS_UTF8),
            None,
            None,
        )
        assert status == 0, f"eSpeak NG failed with status {status} on {text!r}"
        library.espeak_Synchronize()
    pcm = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
    return pcm, events, sample_rate


# ---------------------------------------------------------------------------------------------- timing


def _units(pcm: np.ndarray, events: list[tuple[str, int]], sample_rate: int, where: str) -> list[tuple[str, int]]:
    """``[(phoneme, samples)]`` covering the whole waveform."""
    symbols = [_normalised(symbol) for symbol, _ in events]
    switched = [symbol for symbol in symbols if symbol.startswith("(")]
    if switched:
        raise UserError(f"{where}: a part is read as another language {switched[0]}; spell it in Latin letters")
    check_phonemes(symbols, where)
    if all(symbol == SILENCE for symbol in symbols):
        raise UserError(f"{where}: there is nothing to pronounce; give at least one word")
    starts = [start for _, start in events]
    edges = [0, *starts, len(pcm)]
    assert all(a <= b for a, b in pairwise(edges)), f"{where}: event positions go backwards: {starts}"
    # Before the first event nothing is heard.
    spans = list(zip([SILENCE, *symbols], edges[:-1], edges[1:], strict=True))
    energy = np.cumsum(np.append(0.0, pcm.astype(np.float64) ** 2))
    spans = _place_late_liquids(_drop_false_pauses(spans, energy), energy)
    return _join(spans, round(MIN_PAUSE_S * sample_rate))


def _normalised(symbol: str) -> str:
    """An event's name without stress, with IPA's length mark once; pauses have no name."""
    return symbol.replace("ˈ", "").replace("ˌ", "").replace(":", "ː").replace("ːː", "ː") or SILENCE


def _is_quiet(energy: np.ndarray, start: int, end: int) -> bool:
    """True if a span is empty or below a tenth of the utterance's RMS (pauses of most voices are exact zeros).

    ``energy`` is the running sum of squares, ``(S + 1,)``.
    """
    mean_power = energy[-1] / (len(energy) - 1)
    return bool(energy[end] - energy[start] <= 0.01 * mean_power * (end - start))


def _drop_false_pauses(spans: list[_Span], energy: np.ndarray) -> list[_Span]:
    """Join an unnamed unit that can be heard to the phoneme after it: between two vowels ("the old") it is a glide."""
    kept: list[_Span] = []
    pending_start: int | None = None
    for symbol, start, end in spans:
        if symbol == SILENCE and end < len(energy) - 1 and not _is_quiet(energy, start, end):
            pending_start = start if pending_start is None else pending_start
            continue
        kept.append((symbol, start if pending_start is None else pending_start, end))
        pending_start = None
    return kept


def _place_late_liquids(spans: list[_Span], energy: np.ndarray) -> list[_Span]:
    """Give liquids after a vowel a fair share of the span they are heard in.

    eSpeak NG draws the l of "bell" as the end of the vowel and reports it when it is over. A liquid whose own span is
    quiet takes 40 % of what it and the phoneme before it last together.
    """
    placed: list[_Span] = []
    for symbol, start, end in spans:
        if symbol in _LIQUIDS and placed and placed[-1][0] != SILENCE and _is_quiet(energy, start, end):
            before, before_start, _ = placed[-1]
            start = min(start, end - int(LIQUID_SHARE * (end - before_start)))
            placed[-1] = (before, before_start, start)
        placed.append((symbol, start, end))
    return placed


def _join(spans: list[_Span], min_pause_samples: int) -> list[tuple[str, int]]:
    """Units of ``(symbol, samples)``; empty spans vanish, pauses too short to be heard join the unit before them."""
    units: list[tuple[str, int]] = []
    for symbol, start, end in spans:
        if units and symbol == units[-1][0] == SILENCE:
            units[-1] = (SILENCE, units[-1][1] + end - start)
        elif end > start:
            units.append((symbol, end - start))
    joined: list[tuple[str, int]] = []
    for index, (symbol, samples) in enumerate(units):
        if 0 < index < len(units) - 1 and symbol == SILENCE and samples < min_pause_samples:
            joined[-1] = (joined[-1][0], joined[-1][1] + samples)
        else:
            joined.append((symbol, samples))
    return joined


def _trim_ends(
    waveform: np.ndarray, units: list[tuple[str, int]], sample_rate: int
) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Cut or pad the silence at the start to ``LEAD_S`` and at the end to ``TAIL_S``."""
    lead, tail = round(LEAD_S * sample_rate), round(TAIL_S * sample_rate)
    first = units[0][1] if units[0][0] == SILENCE else 0
    last = units[-1][1] if units[-1][0] == SILENCE else 0
    inner = [unit for index, unit in enumerate(units) if unit[0] != SILENCE or 0 < index < len(units) - 1]
    # Padding, then cutting, serves both cases.
    padded = np.concatenate([np.zeros(lead, np.float32), waveform, np.zeros(tail, np.float32)])
    trimmed = padded[first : len(padded) - last]
    return trimmed, [(SILENCE, lead), *inner, (SILENCE, tail)]
