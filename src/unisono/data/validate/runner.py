"""The whole examination: manifests, then every file once, then what the lines and the files say of each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unisono.data.manifest import Fields, is_finite_number
from unisono.data.validate.audio_checks import Found, input_findings, target_findings
from unisono.data.validate.content_job import ContentJob, content_job
from unisono.data.validate.corpora import Manifests, find_manifests
from unisono.data.validate.facts import VERSION, AudioFacts, measure_job
from unisono.data.validate.findings import ERROR, Finding, of_error
from unisono.data.validate.limits import Limits
from unisono.data.validate.lines import Corpus, Item, check_lines
from unisono.data.validate.parallel import CRASHED, run_jobs
from unisono.data.validate.sharing import near_audio, shared_audio, shared_ids, shared_texts
from unisono.data.validate.store import FactStore, default_store, key_of, open_store, stamp_of
from unisono.data.validate.text_checks import (
    CAPTIONED,
    caption_findings,
    normalized,
    note_findings,
    notes_of,
    rate_findings,
    repeated_captions,
    texts_of,
    unknown_symbols,
)
from unisono.errors import UserError
from unisono.media.locations import Location
from unisono.text.phonemes import PHONEMES
from unisono.workers import default_workers


@dataclass
class Validated:
    """What was found.

    Attributes:
        corpora: the pairs of manifests with their items.
        facts: measurements by recording.
        findings: in the order of manifests and lines.
        notes: what could not be looked into.
        symbols: phonemes by corpus, with their counts.
        speakers: lines per speaker by corpus.
        limits: that were applied.
    """

    corpora: list[Corpus]
    facts: dict[str, AudioFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    symbols: list[Counter[str]] = field(default_factory=list)
    speakers: list[Counter[str]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == ERROR]


def validate(
    paths: Sequence[Path],
    *,
    task: str | None = None,
    limits: Limits | None = None,
    vocabulary: frozenset[str] | None = None,
    align: bool = False,
    workers: int | None = None,
    store: Path | str | None = "default",
    progress: bool = True,
) -> Validated:
    """Examine manifests and everything that they name.

    Args:
        paths: see ``find_manifests``.
        task: of manifests in whose path no folder has a task's name.
        limits: thresholds.
        vocabulary: phonemes that are allowed; None takes ``unisono.text.phonemes.PHONEMES``.
        align: judge English sentences by forced alignment; reads those recordings once more.
        workers: processes; default: one per core.
        store: SQLite file of measurements, kept from run to run; None keeps nothing.
        progress: show bars.

    Raises:
        UserError: no manifests, an unknown task, pocketsphinx missing.
    """
    if align:
        from unisono.data.validate.alignment import require_aligner

        require_aligner()
    manifests = find_manifests(paths, task)
    place = default_store() if store == "default" else (Path(store) if store is not None else None)
    with open_store(place) as kept:
        examination = _Examination(manifests, limits or Limits(), kept, workers or default_workers(), progress)
        return examination.run(frozenset(vocabulary or PHONEMES), align)


class _Examination:
    def __init__(
        self, manifests: Sequence[Manifests], limits: Limits, store: FactStore, workers: int, progress: bool
    ) -> None:
        self.limits, self.store, self.workers, self.progress = limits, store, workers, progress
        self.findings: list[Finding] = []
        self.corpora = [Corpus(i, one, self.findings.append) for i, one in enumerate(manifests)]
        self.facts: dict[str, AudioFacts] = {}
        self.faults: dict[str, dict[str, Any]] = {}
        self.texts: dict[tuple[str, str], list[Item]] = defaultdict(list)

    def run(self, vocabulary: frozenset[str], align: bool) -> Validated:
        result = Validated(self.corpora, self.facts, self.findings, limits=self.limits)
        locations: dict[str, Location] = {}
        for corpus in self.corpora:
            for location in corpus.read():
                locations.setdefault(str(location), location)
        self._measure(locations)
        contents: list[ContentJob] = []
        alignable: list[tuple[int, int]] = []
        for corpus in self.corpora:
            result.symbols.append(Counter())
            result.speakers.append(Counter())
            captions: dict[str, list[Item]] = defaultdict(list)
            for number, item in enumerate(corpus.items):
                line = corpus.line(item)
                if self._item(corpus, item, line, vocabulary, result, captions):
                    contents.extend(self._content_jobs(corpus, item, line, number))
                    alignable.append((corpus.place, number))
            for item, found in repeated_captions(captions, len(corpus.items), self.limits):
                self._note(item, found)
        self._contents(contents, vocabulary, result)
        self._shared(result)
        if align:
            self._align(alignable)
        order = {corpus.manifests.content.parent: corpus.place for corpus in self.corpora}
        self.findings.sort(key=lambda f: (order.get(f.path.parent, -1), f.path.name != "content.jsonl", f.line))
        return result

    # -- recordings ---------------------------------------------------------------------------------------------------

    def _measure(self, locations: dict[str, Location]) -> None:
        waiting: list[Location] = []
        stamps: dict[str, str | None] = {}
        for name, location in locations.items():
            stamps[name] = stamp_of([location])
            known = self.store.get(_audio_key(location), stamps[name])
            if known is not None:
                self.facts[name] = AudioFacts(**known)
            else:
                waiting.append(location)
        for location, result in self._jobs(measure_job, waiting, len(locations), "recordings"):
            name = str(location)
            if "facts" in result:
                self.facts[name] = AudioFacts(**result["facts"])
                self.store.put(_audio_key(location), stamps[name], result["facts"])
            elif result == CRASHED:
                fault = f"{location}: the decoder crashed on it; re-encode it as wav or flac, or remove the line"
                self.faults[name] = {"kind": "unreadable_audio", "fault": fault}
            else:
                self.faults[name] = result

    def _jobs(self, function: Any, jobs: Sequence[Any], total: int, unit: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        with tqdm(total=total, initial=total - len(jobs), desc=unit, disable=not self.progress) as bar:
            for job, result in run_jobs(function, jobs, self.workers):
                bar.update(1)
                yield job, result

    # -- items --------------------------------------------------------------------------------------------------------

    def _item(
        self,
        corpus: Corpus,
        item: Item,
        line: Fields,
        vocabulary: frozenset[str],
        result: Validated,
        captions: dict[str, list[Item]],
    ) -> bool:
        """Note what is wrong with an item; tells whether its content can be looked into."""
        target = corpus.target_line(item)
        self._recordings(corpus, item, line, target)
        facts = self.facts.get(item.audio or "")
        if not check_lines(corpus, line, target, facts.duration_s if facts else None, self.findings.append):
            return False
        for text in texts_of(line, corpus.task):
            key = normalized(text)
            self.texts[corpus.task, key].append(item)
            if corpus.task in CAPTIONED:
                captions[key].append(item)
        if corpus.task in CAPTIONED:
            self._note(item, *caption_findings(line))
        speaker = line.record.get("speaker")
        if isinstance(speaker, str):
            result.speakers[corpus.place][speaker] += 1
        if corpus.task.endswith(("speech", "synthesis", "modeling")):
            sounding_s = facts.duration_s * (1 - facts.silent_share) if facts else 0.0
            self._note(item, *rate_findings(line, corpus.task, sounding_s, self.limits))
            self._units(item, line.record.get("phonemes") or [], notes_of(line), vocabulary, result)
        return True

    def _units(
        self, item: Item, symbols: Sequence[str], notes: Sequence[float], vocabulary: frozenset[str], result: Validated
    ) -> None:
        result.symbols[item.corpus].update(symbols)
        self._note(item, *unknown_symbols(symbols, vocabulary), *note_findings(notes, self.limits))

    def _recordings(self, corpus: Corpus, item: Item, line: Fields, target: Fields | None) -> None:
        """The target's and the inputs' measurements."""
        if target is not None and item.audio is not None:
            self._recording(item, target, "audio", item.audio, is_target=True, task=corpus.task)
            facts, stated_s = self.facts.get(item.audio), target.record.get("duration_s")
            # What is no number at all is said by the check of the fields.
            seconds = float(stated_s) if is_finite_number(stated_s) else 0.0  # type: ignore[arg-type]
            if facts and seconds > 0 and abs(seconds - facts.duration_s) > self.limits.duration_tolerance_s:
                message = (
                    f"field 'duration_s' is {stated_s}, but the recording lasts {facts.duration_s:.3f} s; correct it"
                )
                self.findings.append(
                    Finding("wrong_duration", target.path, target.line, message, item.audio_id, "duration_s", stated_s)
                )
        for name, recording in item.inputs:
            self._recording(item, line, name, recording, is_target=False, task=corpus.task)
            facts, whole = self.facts.get(recording), self.facts.get(item.audio or "")
            if facts and whole and abs(facts.duration_s - whole.duration_s) > self.limits.duration_tolerance_s:
                message = (
                    f"field {name!r}: lasts {facts.duration_s:.3f} s, its target {whole.duration_s:.3f} s; they must "
                    f"agree within {self.limits.duration_tolerance_s} s and start together"
                )
                self.findings.append(
                    Finding("unequal_lengths", line.path, line.line, message, item.audio_id, name, facts.duration_s)
                )

    def _recording(self, item: Item, line: Fields, name: str, recording: str, is_target: bool, task: str) -> None:
        if (fault := self.faults.get(recording)) is not None:
            message = f"field {name!r}: {fault['fault']}"
            self.findings.append(of_error(fault["kind"], line.path, line.line, message, item.audio_id))
            return
        facts = self.facts[recording]
        found = target_findings(facts, task, self.limits) if is_target else input_findings(facts, self.limits)
        for kind, message, value in found:
            message = f"field {name!r}: {recording}: {message}"
            self.findings.append(Finding(kind, line.path, line.line, message, item.audio_id, name, value))

    def _note(self, item: Item, *found: Found) -> None:
        path = self.corpora[item.corpus].manifests.content
        for kind, message, value in found:
            named = of_error(kind, path, item.content_line, message, item.audio_id)
            self.findings.append(Finding(kind, path, item.content_line, message, item.audio_id, named.field, value))

    # -- content that lies in files -----------------------------------------------------------------------------------

    def _content_jobs(self, corpus: Corpus, item: Item, line: Fields, number: int) -> Iterator[ContentJob]:
        facts = self.facts.get(item.audio or "")
        try:
            needed = bool(corpus.dataset.other_files(line))
        except UserError:
            needed = True  # the job says what is wrong
        if needed:
            yield ContentJob(
                corpus.task,
                corpus.manifests.content,
                item.content_offset,
                item.content_line,
                facts.duration_s if facts else None,
                (corpus.place, number),
            )

    def _contents(self, jobs: list[ContentJob], vocabulary: frozenset[str], result: Validated) -> None:
        waiting: list[ContentJob] = []
        results: dict[tuple[int, int], dict[str, Any]] = {}
        for job in jobs:
            known = self.store.get(*self._content_key(job))
            if known is not None:
                results[job.place] = known
            else:
                waiting.append(job)
        for job, found in self._jobs(content_job, waiting, len(jobs), "content files") if jobs else ():
            results[job.place] = found
            if "fault" not in found and found != CRASHED:
                self.store.put(*self._content_key(job), found)
        for place, number in sorted(results):
            found, item = results[place, number], self.corpora[place].items[number]
            if found == CRASHED:
                found = {"kind": "unreadable_content", "fault": "the decoder crashed on its files; replace them"}
            if "fault" in found:
                path = self.corpora[place].manifests.content
                self.findings.append(of_error(found["kind"], path, item.content_line, found["fault"], item.audio_id))
            self._units(item, found.get("symbols", []), found.get("notes", []), vocabulary, result)
            if found.get("voiced") == 0:
                message = "field 'f0_hz' is unvoiced throughout; was F0 estimated from this recording?"
                self._note(item, ("no_pitch", message, 0.0))

    def _content_key(self, job: ContentJob) -> tuple[str, str | None]:
        """Changes with the line, the recording's length and the files."""
        corpus = self.corpora[job.place[0]]
        line = corpus.line(corpus.items[job.place[1]])
        try:
            files = [location for _, location in corpus.dataset.other_files(line)]
        except UserError:
            return "", None
        folder = str(job.manifest.parent.absolute())
        # The seconds come as text: the same recording has the same.
        return key_of(f"content {VERSION}", job.task, folder, repr(line.record), repr(job.duration_s)), stamp_of(files)

    # -- between items ------------------------------------------------------------------------------------------------

    def _shared(self, result: Validated) -> None:
        for item, kind, message, value in shared_audio(self.corpora, self.facts):
            self._note(item, (kind, message, value))
        told: set[tuple[int, str, str]] = set()  # of many that are alike, each is told of once
        for near in near_audio(self.corpora, self.facts, self.limits):
            if isinstance(near, int):
                result.notes.append(f"{near} recordings are too many to look for nearly equal ones among them")
            elif (key := (near[0].corpus, near[0].audio_id, near[1])) not in told:
                told.add(key)
                self._note(near[0], near[1:])
        for item, kind, message, value in shared_ids(self.corpora):
            self._note(item, (kind, message, value))
        for item, kind, message, value in shared_texts(self.texts, self.corpora):
            self._note(item, (kind, message, value))

    def _align(self, places: Sequence[tuple[int, int]]) -> None:
        from unisono.data.validate.alignment import AlignJob, align_job, is_alignable

        jobs = []
        for place, number in places:
            corpus = self.corpora[place]
            item = corpus.items[number]
            facts, line, target = self.facts.get(item.audio or ""), corpus.line(item), corpus.target_line(item)
            if facts and target and is_alignable(corpus.task, line.record, facts.duration_s):
                jobs.append(AlignJob(target.location("audio"), line.record["text"], (place, number)))
        for job, found in self._jobs(align_job, jobs, len(jobs), "alignments"):
            if found == CRASHED:
                found = {"kind": "unaligned_text", "fault": "the aligner crashed on it", "value": "crashed"}
            if found:
                item = self.corpora[job.place[0]].items[job.place[1]]
                self._note(item, (found["kind"], f"field 'text': {found['fault']}", found["value"]))


def _audio_key(location: Location) -> str:
    return key_of(f"audio {VERSION}", str(location.path.absolute()), location.member or "")
