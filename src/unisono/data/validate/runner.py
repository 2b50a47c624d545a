"""The whole examination: manifests, then every file once, then what the lines and the files say of each other.

What grows with the number of lines is kept as numbers in arrays, or in temporary files: some 200 bytes a line.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unisono.data.manifest import Fields, is_finite_number
from unisono.data.validate.audio_checks import Found, input_findings, target_findings
from unisono.data.validate.content_job import ContentJob, content_job
from unisono.data.validate.corpora import Manifests, find_manifests
from unisono.data.validate.facts import AudioFacts, measure_job
from unisono.data.validate.findings import Finding, Findings, of_error
from unisono.data.validate.limits import Limits
from unisono.data.validate.lines import Corpus, SplitNames, check_lines
from unisono.data.validate.model_inputs import ModelInputs, voice_findings
from unisono.data.validate.parallel import CRASHED, run_jobs
from unisono.data.validate.recordings import NONE, Recordings
from unisono.data.validate.result import Validated, count_names, is_spoken, last_notes
from unisono.data.validate.sharing import Items, Shared, near_audio, shared_audio, shared_ids, shared_texts
from unisono.data.validate.spool import Digests, digest_of, group_numbers, repeated
from unisono.data.validate.store import (
    MEASURES_VERSION,
    READ,
    FactStore,
    audio_key,
    open_store,
    settled_stamp,
    stamp_of,
)
from unisono.data.validate.text_checks import (
    CAPTIONED,
    caption_findings,
    normalized,
    note_findings,
    notes_of,
    rate_findings,
    repeated_caption,
    texts_of,
    unknown_symbols,
)
from unisono.errors import UserError
from unisono.media.locations import Location
from unisono.text.phonemes import PHONEMES
from unisono.workers import default_workers


def validate(
    paths: Sequence[Path],
    *,
    task: str | None = None,
    limits: Limits | None = None,
    vocabulary: frozenset[str] | None = None,
    model: Mapping[str, ModelInputs] | None = None,
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
        model: by modality, what the model's encoders take; goes before ``vocabulary``. See ``read_model_inputs``.
        align: judge English sentences by forced alignment; reads those recordings once more.
        workers: processes; default: one per core.
        store: SQLite file of measurements, kept from run to run; None keeps nothing.
        progress: show bars.

    Raises:
        UserError: no manifests, an unknown task, pocketsphinx missing, a manifest that is changed meanwhile.
    """
    if align:
        from unisono.data.validate.alignment import require_aligner

        require_aligner()
    manifests = find_manifests(paths, task)
    with open_store(store) as kept:
        examination = _Examination(manifests, limits or Limits(), kept, workers or default_workers(), progress)
        examination.vocabulary, examination.model = frozenset(vocabulary or PHONEMES), model
        return examination.run(align)


class _Examination:
    def __init__(
        self, manifests: Sequence[Manifests], limits: Limits, store: FactStore, workers: int, progress: bool
    ) -> None:
        self.limits, self.store, self.workers, self.progress = limits, store, workers, progress
        self.vocabulary: frozenset[str] = frozenset()
        self.model: Mapping[str, ModelInputs] | None = None
        paths = [path for one in manifests for path in (one.content, one.audio) if path is not None]
        self.findings, self.splits = Findings(paths), SplitNames()
        self.corpora = [Corpus(i, one, self.splits, self.findings.add) for i, one in enumerate(manifests)]
        self.texts, self.having = Digests(), array("I")

    def run(self, align: bool) -> Validated:
        for corpus in self.corpora:
            corpus.read()
        self.recordings = Recordings(self.corpora)
        self.items = Items(self.corpora, self.splits)
        self.good = np.zeros(len(self.items), dtype=bool)
        self.result = Validated(self.corpora, self.recordings, self.findings, self.splits, self.limits)
        self._measure()
        self._lines()
        self._shared()
        if align:
            self._align()
        last_notes(self.result, compared=self.model is not None)
        return self.result

    def _run(
        self, function: Callable[[Any], dict[str, Any]], jobs: Iterable[Any], bar: tqdm
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        for job, result in run_jobs(function, jobs, self.workers):
            bar.update(1)
            yield job, result

    def _bar(self, total: int, unit: str) -> tqdm:
        return tqdm(total=total, desc=unit, disable=not self.progress or not total)

    # -- recordings ---------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Facts of every recording, from the store or from the file."""
        with self._bar(len(self.recordings), "recordings") as bar:
            for job, result in self._run(_measure_job, self._unmeasured(bar), bar):
                number, location, stamp = job
                if "facts" in result:
                    facts = AudioFacts(**result["facts"])
                    self.recordings.put(number, facts)
                    self.store.put(audio_key(location), stamp, facts.values())
                elif result == CRASHED:
                    fault = f"{location}: the decoder crashed on it; re-encode it as wav or flac, or remove the line"
                    self.recordings.put_fault(number, {"kind": "unreadable_audio", "fault": fault})
                else:
                    self.recordings.put_fault(number, result)

    def _unmeasured(self, bar: tqdm) -> Iterator[tuple[int, Location, bytes | None]]:
        for number, location in self.recordings.locations():
            known = self.store.get(audio_key(location), stamp_of([location]))
            if known is None or known == READ:
                yield number, location, settled_stamp(location)
            else:
                self.recordings.put(number, AudioFacts(*known))
                bar.update(1)

    # -- items --------------------------------------------------------------------------------------------------------

    def _lines(self) -> None:
        with self._bar(len(self.items), "lines") as bar:
            for job, found in self._run(content_job, self._content_jobs(bar), bar):
                self._content(job.place, found)
                if "fault" not in found and found != CRASHED:
                    self.store.put(*self._content_key(job), found)

    def _content_jobs(self, bar: tqdm) -> Iterator[ContentJob]:
        """Examine each line; yields what is to be read of those whose content lies in files."""
        for corpus in self.corpora:
            self.result.symbols.append(Counter())
            self.result.speakers.append(Counter())
            first_text = len(self.texts)
            for item in range(len(corpus)):
                line = corpus.line(item)
                job = None
                if self._item(corpus, item, line):
                    self.good[self.items.first(corpus) + item] = True
                    job = self._content_job(corpus, item, line)
                if job is None:
                    bar.update(1)
                elif (known := self.store.get(*self._content_key(job, line))) is not None:
                    self._content(job.place, known)
                    bar.update(1)
                else:
                    yield job
            if corpus.task in CAPTIONED:
                self._repeated_captions(corpus, first_text)

    def _item(self, corpus: Corpus, item: int, line: Fields) -> bool:
        """Note what is wrong with an item; tells whether its content can be looked into."""
        target = corpus.target_line(item)
        facts = self._recordings(corpus, item, line, target)
        if not check_lines(corpus.dataset, line, target, facts.duration_s if facts else None, self.findings.add):
            return False
        for text in texts_of(line, corpus.task):
            self.texts.add(_text_key(corpus.task, text))
            self.having.append(self.items.first(corpus) + item)
        if corpus.task in CAPTIONED:
            self._note(line, *caption_findings(line))
        speaker = line.record.get("speaker")
        if isinstance(speaker, str):
            count_names(self.result.speakers[corpus.place], [speaker])
            self._note(line, *voice_findings(self._model(corpus), speaker=speaker))
        if is_spoken(corpus):
            sounding_s = facts.duration_s * (1 - facts.silent_share) if facts else 0.0
            self._note(line, *rate_findings(line, corpus.task, sounding_s, self.limits))
            self._units(corpus, line, line.record.get("phonemes") or [], notes_of(line))
        return True

    def _model(self, corpus: Corpus) -> ModelInputs | None:
        return None if self.model is None else self.model.get(corpus.dataset.task_row.modality)

    def _units(self, corpus: Corpus, line: Fields, symbols: Sequence[str], notes: Sequence[float]) -> None:
        count_names(self.result.symbols[corpus.place], symbols)
        model = self._model(corpus)
        vocabulary = model.phonemes if model is not None else self.vocabulary
        self._note(line, *unknown_symbols(symbols, vocabulary), *note_findings(notes, self.limits))

    def _recordings(self, corpus: Corpus, item: int, line: Fields, target: Fields | None) -> AudioFacts | None:
        """Note what the measurements of target and input tell; returns the target's."""
        audio, degraded = int(corpus.items["audio"][item]), int(corpus.items["input"][item])
        whole = self.recordings.facts(audio)
        if target is not None and audio != NONE:
            found = target_findings(whole, corpus.task, self.limits) if whole else ()
            self._recording(target, "audio", audio, whole, found)
            if whole is not None:
                self._stated(target, whole)
        if degraded != NONE and (name := corpus.input_field) is not None:
            facts = self.recordings.facts(degraded)
            self._recording(line, name, degraded, facts, input_findings(facts, self.limits) if facts else ())
            if facts and whole and abs(facts.duration_s - whole.duration_s) > self.limits.duration_tolerance_s:
                message = (
                    f"field {name!r}: lasts {facts.duration_s:.3f} s, its target {whole.duration_s:.3f} s; they must "
                    f"agree within {self.limits.duration_tolerance_s} s and start together"
                )
                self._note(line, ("unequal_lengths", message, facts.duration_s))
        return whole

    def _stated(self, target: Fields, facts: AudioFacts) -> None:
        """Whether ``duration_s`` is the recording's, as near as its header can tell."""
        stated_s = target.record.get("duration_s")
        # What is no number at all is said by the check of the fields.
        seconds = float(stated_s) if is_finite_number(stated_s) else 0.0  # type: ignore[arg-type]
        tolerance_s = max(self.limits.duration_tolerance_s, facts.tolerance_s)
        if seconds > 0 and abs(seconds - facts.duration_s) > tolerance_s:
            message = f"field 'duration_s' is {stated_s}, but the recording lasts {facts.duration_s:.3f} s; correct it"
            self._note(target, ("wrong_duration", message, stated_s))

    def _recording(
        self, line: Fields, name: str, number: int, facts: AudioFacts | None, found: Iterable[Found]
    ) -> None:
        if facts is None:
            fault = self.recordings.fault(number)
            assert fault is not None, "a recording is measured or cannot be read"
            self._note(line, (fault["kind"], f"field {name!r}: {fault['fault']}", None))
            return
        for kind, message, value in found:
            self._note(line, (kind, f"field {name!r}: {line.location(name)}: {message}", value))

    def _note(self, line: Fields, *found: Found) -> None:
        for kind, message, value in found:
            told = of_error(kind, line.path, line.line, message, line.record["audio_id"])
            self.findings.add(Finding(kind, line.path, line.line, message, told.audio_id, told.field, value))

    def _repeated_captions(self, corpus: Corpus, first_text: int) -> None:
        """Captions that stand for implausibly many items of a corpus."""
        keys, having = self.texts.keys()[first_text:], np.asarray(self.having)[first_text:]
        for rows in repeated(group_numbers(keys)):
            if len(rows) > max(self.limits.max_caption_repeats, self.limits.max_caption_share * len(corpus)):
                line = corpus.line(int(having[rows[0]]) - self.items.first(corpus))
                key = keys[rows[0]].tobytes()
                caption = next(text for text in texts_of(line, corpus.task) if _text_key(corpus.task, text) == key)
                self._note(line, repeated_caption(normalized(caption), len(rows), len(corpus)))

    # -- content that lies in files -----------------------------------------------------------------------------------

    def _content_job(self, corpus: Corpus, item: int, line: Fields) -> ContentJob | None:
        try:
            if not corpus.dataset.other_files(line):
                return None
        except UserError:
            pass  # the job says what is wrong
        number = int(corpus.items["audio"][item])
        duration_s = self.recordings.duration_s_of(number)
        return ContentJob(corpus.task, line.path, line.line, line.record, duration_s, (corpus.place, item))

    def _content(self, place: tuple[int, int], found: dict[str, Any]) -> None:
        """What the files of an item say."""
        corpus = self.corpora[place[0]]
        line = corpus.line(place[1])
        if found == CRASHED:
            found = {"kind": "unreadable_content", "fault": "the decoder crashed on its files; replace them"}
        if "fault" in found:
            self.findings.add(of_error(found["kind"], line.path, line.line, found["fault"], line.record["audio_id"]))
            return
        self._units(corpus, line, found.get("symbols", []), found.get("notes", []))
        if (size := found.get("embedding_size")) is not None:
            self._note(line, *voice_findings(self._model(corpus), embedding_size=size))
        if found.get("voiced") == 0:
            message = "field 'f0_hz' is unvoiced throughout; was F0 estimated from this recording?"
            self._note(line, ("no_pitch", message, 0.0))

    def _content_key(self, job: ContentJob, line: Fields | None = None) -> tuple[bytes, bytes | None]:
        """Changes with the line, the recording's length and the files."""
        corpus = self.corpora[job.place[0]]
        line = line or corpus.line(job.place[1])
        try:
            files = [location for _, location in corpus.dataset.other_files(line)]
        except UserError:
            return b"", None
        folder = str(job.manifest.parent.absolute())
        # The seconds come as text: the same recording has the same.
        key = digest_of(f"content {MEASURES_VERSION}", job.task, folder, repr(line.record), repr(job.duration_s))
        return key, stamp_of(files)

    # -- between items ------------------------------------------------------------------------------------------------

    def _shared(self) -> None:
        self._tell(shared_audio(self.items, self.recordings))
        for near in near_audio(self.items, self.recordings, self.limits):
            if isinstance(near, int):
                self.result.notes.append(f"{near} recordings are too many to look for nearly equal ones among them")
            else:
                self._tell([near])
        self._tell(shared_ids(self.items))
        self._tell(shared_texts(self.texts.keys(), np.asarray(self.having), self.items))

    def _tell(self, found: Iterable[Shared]) -> None:
        for item, kind, message, value in found:
            corpus, row = self.items.locate(item)
            self._note(corpus.line(row), (kind, message, value))

    def _align(self) -> None:
        from unisono.data.validate.alignment import align_job

        with self._bar(int(self.good.sum()), "alignments") as bar:
            for job, found in self._run(align_job, self._align_jobs(bar), bar):
                if found == CRASHED:
                    found = {"kind": "unaligned_text", "fault": "the aligner crashed on it", "value": "crashed"}
                if found:
                    line = self.corpora[job.place[0]].line(job.place[1])
                    self._note(line, (found["kind"], f"field 'text': {found['fault']}", found["value"]))

    def _align_jobs(self, bar: tqdm) -> Iterator[Any]:
        from unisono.data.validate.alignment import AlignJob, is_alignable

        for number in np.flatnonzero(self.good):
            corpus, item = self.items.locate(int(number))
            line, target = corpus.line(item), corpus.target_line(item)
            facts = self.recordings.facts(int(corpus.items["audio"][item]))
            if facts and target and is_alignable(corpus.task, line.record, facts.duration_s):
                yield AlignJob(target.location("audio"), line.record["text"], (corpus.place, item))
            else:
                bar.update(1)


def _measure_job(job: tuple[int, Location, bytes | None]) -> dict[str, Any]:
    return measure_job(job[1])


def _text_key(task: str, text: str) -> bytes:
    return digest_of(task, normalized(text))
