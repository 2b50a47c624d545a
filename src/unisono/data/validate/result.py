"""All that an examination found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from unisono.data.datasets.units import UnitDataset
from unisono.data.validate.findings import ERROR, WARNING, Findings
from unisono.data.validate.limits import Limits
from unisono.data.validate.lines import Corpus, SplitNames
from unisono.data.validate.recordings import Recordings

_MAX_NAMES = 100_000
"""Different speakers, or symbols, of a corpus that are counted one by one."""
_SHOWN = 5


@dataclass
class Validated:
    """What was found.

    Attributes:
        corpora: the pairs of manifests with their items.
        recordings: what is known of each.
        findings: in the order of manifests and lines.
        splits: names of the splits that items have as numbers.
        notes: what could not be looked into, and what is worth knowing besides.
        symbols: phonemes by corpus, with their counts.
        speakers: lines per speaker by corpus.
        limits: that were applied.
    """

    corpora: list[Corpus]
    recordings: Recordings
    findings: Findings
    splits: SplitNames
    limits: Limits
    notes: list[str] = field(default_factory=list)
    symbols: list[Counter[str]] = field(default_factory=list)
    speakers: list[Counter[str]] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        return self.findings.levels()[ERROR]

    @property
    def num_warnings(self) -> int:
        return self.findings.levels()[WARNING]


def is_spoken(corpus: Corpus) -> bool:
    """Whether the task's content is phonemes in a voice."""
    return isinstance(corpus.dataset, UnitDataset)


def count_names(counts: Counter[str], names: Iterable[str]) -> None:
    """Add to counts, up to so many names."""
    for name in names:
        if name in counts or len(counts) < _MAX_NAMES:
            counts[name] += 1


def last_notes(validated: Validated, compared: bool) -> None:
    """Note what the lines as a whole tell; ``compared``: with a model's speakers."""
    for corpus in validated.corpora:
        if corpus.degrades:
            validated.notes.append(
                f"{corpus.manifests.content}: no line has {corpus.input_field!r}, so the data set needs `degradation` "
                "in its configuration (docs/data_format.md)"
            )
    voiced = [counts for corpus, counts in zip(validated.corpora, validated.speakers, strict=True) if is_spoken(corpus)]
    names = sorted({name for counts in voiced for name in counts})
    if names and not compared:
        shown = ", ".join(names[:_SHOWN]) + (f" … ({len(names)} in all)" if len(names) > _SHOWN else "")
        validated.notes.append(
            f"the speakers {shown} were compared with no model's; --config NAME takes those of a configuration"
        )
    if any(len(counts) >= _MAX_NAMES for counts in (*validated.speakers, *validated.symbols)):
        validated.notes.append(f"of speakers and of phonemes only the first {_MAX_NAMES} names are counted")
