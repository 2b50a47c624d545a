"""Every recording that the lines name, once: what is known of it, in arrays; what is long, in temporary files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unisono.data.manifest import Fields
from unisono.data.validate.facts import FINGERPRINT_BYTES, AudioFacts
from unisono.data.validate.lines import Corpus
from unisono.data.validate.spool import RowFile, Spool, group_numbers
from unisono.media.locations import Location

NONE = -1

_MEASURED = np.dtype(
    [
        ("sample_rate", np.uint32),
        ("num_channels", np.uint16),
        ("num_samples", np.int64),
        ("peak", np.float32),
        ("clipped_share", np.float32),
        ("offset", np.float32),
        ("rms", np.float32),
        ("active_dbfs", np.float32),
        ("silent_share", np.float32),
        ("longest_silence_s", np.float32),
        ("cancelling_db", np.float32),
        ("bandwidth_hz", np.float32),
        ("tolerance_s", np.float32),
        ("cut_off", np.bool_),
        ("non_finite", np.int64),
        ("samples_hash", np.uint64, (2,)),
    ]
)
_NUMBERS = (_MEASURED.names or ())[:-1]
_KNOWN, _FAULTY = 1, 2


class Recordings:
    """What is known of each recording; a number stands for its name: about 110 bytes each, whatever the name.

    Args:
        corpora: after ``Corpus.read``; their items get the numbers of their recordings here.

    Attributes:
        measured: structured array ``(R,)``; rows that are not ``known`` are zeros.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self.corpora = corpora
        uses = [keys for corpus in corpora for keys in corpus.take_recordings()]
        sizes = [len(keys) for keys in uses]
        keys = np.concatenate(uses) if uses else np.zeros((0, 2), np.uint64)
        del uses
        named = np.flatnonzero(keys.any(axis=1))
        numbers = np.full(len(keys), NONE, dtype=np.int32)
        numbers[named] = group_numbers(keys[named])
        del keys
        # From the lines' order, in which they are found again without leaps.
        _, first, ordered = np.unique(numbers[named], return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int32)
        rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
        numbers[named] = rank[ordered]
        self._first_use = named[np.sort(first)]
        self._use_ends = np.cumsum(sizes)
        for place, part in enumerate(np.split(numbers, self._use_ends[:-1]) if sizes else []):
            corpus = corpora[place // 2]
            none = np.full(len(corpus), NONE, dtype=np.int32)
            corpus.items[("audio", "input")[place % 2]] = np.array(part) if len(part) else none
        self.measured = np.zeros(len(self._first_use), dtype=_MEASURED)
        self._state = np.zeros(len(self), dtype=np.uint8)
        self._fault_at = np.zeros(len(self), dtype=np.int64)
        self._faults = Spool()
        self.fingerprints = RowFile(FINGERPRINT_BYTES)

    def __len__(self) -> int:
        return len(self._first_use)

    @property
    def known(self) -> np.ndarray:
        """bool ``(R,)``: which could be measured."""
        return self._state == _KNOWN

    @property
    def duration_s(self) -> np.ndarray:
        """float64 ``(R,)``; 0 where it is not known."""
        return self.measured["num_samples"] / np.maximum(self.measured["sample_rate"], 1)

    def duration_s_of(self, number: int) -> float | None:
        """None for no recording, or one that cannot be used."""
        if number == NONE or self._state[number] != _KNOWN:
            return None
        row = self.measured[number]
        return int(row["num_samples"]) / int(row["sample_rate"])

    def location(self, number: int) -> Location:
        """Where a recording lies, read from the line that names it first."""
        use = int(self._first_use[number])
        place = int(np.searchsorted(self._use_ends, use, side="right"))
        item = use - (int(self._use_ends[place - 1]) if place else 0)
        corpus = self.corpora[place // 2]
        line: Fields | None
        if place % 2:
            line, field = corpus.line(item), corpus.input_field
        else:
            line, field = corpus.target_line(item), "audio"
        assert line is not None and field is not None
        return line.location(field)

    def locations(self) -> Iterator[tuple[int, Location]]:
        return ((number, self.location(number)) for number in range(len(self)))

    def put(self, number: int, facts: AudioFacts) -> None:
        samples_hash = np.frombuffer(bytes.fromhex(facts.samples_hash), dtype=np.uint64)
        self.measured[number] = (*(getattr(facts, name) for name in _NUMBERS), samples_hash)
        if facts.fingerprint:
            self.fingerprints.write(number, np.frombuffer(base64.b64decode(facts.fingerprint), dtype=np.uint8))
        self._state[number] = _KNOWN

    def put_fault(self, number: int, fault: dict[str, Any]) -> None:
        """Note why it cannot be used: ``kind`` and ``fault``."""
        self._fault_at[number] = self._faults.add(json.dumps(fault).encode())
        self._state[number] = _FAULTY

    def facts(self, number: int) -> AudioFacts | None:
        """None for no recording, or one that cannot be used."""
        if number == NONE or self._state[number] != _KNOWN:
            return None
        *values, samples_hash = self.measured[number].item()
        fingerprint = self.fingerprints.read(number, 1).tobytes()
        return AudioFacts(
            **dict(zip(_NUMBERS, values, strict=True)),
            samples_hash=samples_hash.tobytes().hex(),
            fingerprint=base64.b64encode(fingerprint).decode() if any(fingerprint) else "",
        )

    def fault(self, number: int) -> dict[str, Any] | None:
        return json.loads(self._faults.read(self._fault_at[number])) if self._state[number] == _FAULTY else None

    def sounds(self) -> np.ndarray:
        """int32 ``(R,)``: equal numbers for equal sound; a recording that is not known is like no other."""
        keys = np.array(self.measured["samples_hash"])
        unknown = np.flatnonzero(~self.known)
        keys[unknown, 0], keys[unknown, 1] = unknown, np.iinfo(np.uint64).max
        return group_numbers(keys)
