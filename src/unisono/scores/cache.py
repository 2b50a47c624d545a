"""Units of score files, found once: kept in this process, and in the cache folder for others and the next run.

music21 takes half a second to start and 70 ms for a page; data sets are asked for an item's units in every epoch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from importlib import metadata
from pathlib import Path

from unisono.files import cache_dir, write_json
from unisono.scores.units import ScoreUnits

logger = logging.getLogger(__name__)

_VERSION = 1
"""Raise it whenever the code of ``scores/`` or ``text/`` finds other units in the same score."""
_PACKAGES = ("music21", "mido", "pocketsphinx", "espeakng-loader")
_IN_MEMORY = 1024
"""Scores a process keeps; one of 300 units takes some 50 kB. Reading an entry again takes less than a millisecond."""
_memory: dict[str, ScoreUnits] = {}


def score_file_units(data: bytes, name: str, language: str) -> ScoreUnits:
    """Units of a score file, and its lyrics, by the default phonemizer of a language. Treat them as read-only.

    An entry is found by the digest of all that decides what is in it: the file's bytes, the language, and the versions
    of this code and of the packages that it reads scores and words with. So a stale one cannot be found. A cache folder
    that cannot be written is told of, once, and done without.

    Args:
        data: of the file, MIDI or MusicXML.
        name: begins error messages.
        language: of the lyrics, as ``Phonemizer`` takes it.

    Raises:
        UserError: what ``read_score`` and ``score_units`` refuse.
    """
    key = _key(data, language)
    units = _memory.get(key)
    if units is None:
        place = cache_dir() / "scores" / key[:2] / f"{key}.json"
        units = _read(place)
        if units is None:
            units = _found(data, name, language)
            _write(place, units)
        if len(_memory) >= _IN_MEMORY:
            del _memory[next(iter(_memory))]
        _memory[key] = units
    return units


def _found(data: bytes, name: str, language: str) -> ScoreUnits:
    from unisono.scores.read import read_score
    from unisono.scores.units import score_units
    from unisono.text.phonemize import phonemizer

    return score_units(read_score(data, name), phonemizer(language))


def _key(data: bytes, language: str) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, language, _package_versions()]).encode())
    digest.update(b"\0" + data)
    return digest.hexdigest()


@functools.cache
def _package_versions() -> dict[str, str]:
    return {one.name: one.version for name in _PACKAGES for one in metadata.distributions(name=name)}


def _read(place: Path) -> ScoreUnits | None:
    """An entry; None where there is none, or none that is whole."""
    try:
        entry = json.loads(place.read_bytes())
        units = ScoreUnits(**{**entry, "remarks": tuple(entry["remarks"])})
        if len({len(values) for values in units.as_fields().values()}) == 1:
            return units
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.info("%s cannot be read (%s); the score is parsed again", place, error)
    return None


def _write(place: Path, units: ScoreUnits) -> None:
    try:
        write_json(place, {**units.as_fields(), "text": units.text, "remarks": list(units.remarks)})
    except (OSError, ValueError) as error:  # the latter where lyrics are no text that UTF-8 can hold
        _tell_once(place.parents[1], getattr(error, "strerror", None) or str(error))


@functools.cache
def _tell_once(folder: Path, reason: str) -> None:
    logger.warning("units of scores are not kept: %s (%s); each process parses every score itself", folder, reason)
