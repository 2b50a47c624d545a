"""Items of an evaluation from audio that came from anywhere: folders and manifests, joined by name.

A recording's id is its ``audio_id`` in a manifest, and its path below the folder without the suffix elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.data.degrade.recordings import AUDIO_SUFFIXES
from unisono.data.manifest import Fields, is_seconds, load_manifest, read_jsonl
from unisono.errors import UserError
from unisono.evaluation.dataset_items import named_files
from unisono.evaluation.items import EvaluationItem
from unisono.media.audio import audio_info
from unisono.media.locations import Location
from unisono.tasks import get_task

_INPUT_FIELDS = ("noisy_audio", "narrow_audio")
_TEXT_FIELDS = ("caption", "text")
_TOLD_BY_GENERATION = {"text_to_audio": "caption", "text_to_music": "caption", "text_to_speech": "text"}
_SHOWN = 3


@dataclass(frozen=True)
class Recording:
    """One recording and what a manifest says of it."""

    location: Location
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paired:
    """What is to be evaluated.

    Attributes:
        items: one per reference, or one per generated recording where there are no references.
        reference_set: recordings that stand for the reference as a set, where nothing is paired.
        notes: what did not match, for the user.
    """

    items: list[EvaluationItem]
    reference_set: list[Path]
    notes: list[str]


def pair(
    generated: Path,
    reference: Path | None,
    task: str,
    *,
    inputs: Path | None = None,
    content: Path | None = None,
    unpaired: bool = False,
) -> Paired:
    """Join generated recordings with references, inputs and content.

    Args:
        generated: folder of recordings, a manifest (``audio.jsonl``, or the ``manifest.jsonl`` that generation writes),
            or one recording.
        reference: the same (two single recordings are one pair, whatever their names); a folder with ``audio.jsonl``
            in it is read through that, with its ``content.jsonl``. None where there is none: metrics that need one are
            then not applicable.
        task: name or abbreviation.
        inputs: what the model was given (noisy, narrow), folder or manifest, where ``content`` does not name it.
        content: ``content.jsonl``: captions, text, events, notes.
        unpaired: the references are a set of their own, whatever their names.

    Raises:
        UserError: nothing there, a name twice, or not one name in common.
    """
    task = get_task(task).name
    made = recordings(generated, "GENERATED", task)
    known = {} if reference is None else recordings(reference, "REFERENCE", task)
    if content is None and reference is not None:
        beside = (reference.parent if reference.suffix.lower() == ".jsonl" else reference) / "content.jsonl"
        content = beside if beside.is_file() else None
    told = {} if content is None else load_manifest(content)
    given = {} if inputs is None else recordings(inputs, "--inputs", task)
    if _is_recording(generated):
        (name,) = made
        known = {name: next(iter(known.values()))} if reference is not None and _is_recording(reference) else known
        given = {name: next(iter(given.values()))} if inputs is not None and _is_recording(inputs) else given
    if unpaired:
        if not known:
            raise UserError("--unpaired needs a REFERENCE: the recordings that generated ones are compared with")
        paths = [plain_file(recording.location) for recording in known.values()]
        items = [_item(name, task, made, {}, given, told, generated) for name in made]
        return Paired(items, paths, [])
    notes = []
    if known and not made.keys() & known.keys():
        raise UserError(
            f"no recording of {generated} has the name of one of {reference}: {_some(made)} against {_some(known)}; "
            "name them alike (suffixes do not matter), give manifests, or compare them as sets with --unpaired"
        )
    wanted = list(known or made)
    if known and (extra := [name for name in made if name not in known]):
        notes.append(f"{len(extra)} generated recordings have no reference and are left out: {_some(extra)}")
    if absent := [name for name in known if name not in made]:
        notes.append(f"{len(absent)} references have no generated recording and count as failures: {_some(absent)}")
    for what, source in (("inputs", given), ("lines of content", told)):
        if source and (unknown := [name for name in wanted if name not in source]):
            notes.append(f"{len(unknown)} items are not among the {what}: {_some(unknown)}")
    return Paired([_item(name, task, made, known, given, told, generated) for name in wanted], [], notes)


def rate_note(items: Iterable[EvaluationItem], sample_rate: int) -> str | None:
    """What to tell where recordings hold more than the evaluation hears."""
    for item in items:
        try:
            rate = audio_info(item.reference or item.generated).sample_rate
        except (UserError, OSError, ValueError):
            continue  # told as a failure of the item
        if rate <= sample_rate:
            return None
        return (
            f"{item.audio_id!r} is at {rate} Hz and compared at {sample_rate} Hz: nothing above {sample_rate // 2} Hz "
            f"is heard; --sample-rate {rate} compares it whole"
        )
    return None


def recordings(source: Path, what: str, task: str) -> dict[str, Recording]:
    """Recordings by id, in the order of the manifest or of their names."""
    if not source.exists():
        raise UserError(f"{what}: {source} does not exist; give a folder of recordings, a manifest or a recording")
    if source.is_dir():
        for name in ("audio.jsonl", "manifest.jsonl"):
            if (source / name).is_file():
                return _from_manifest(source / name, what, task)
        return _from_folder(source, what)
    if source.suffix.lower() == ".jsonl":
        return _from_manifest(source, what, task)
    return {source.stem: Recording(Location.of(source))}


def _is_recording(source: Path) -> bool:
    """Whether it is one recording, no folder and no manifest."""
    return source.is_file() and source.suffix.lower() != ".jsonl"


def _from_folder(folder: Path, what: str) -> dict[str, Recording]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{what}: there is no recording below {folder} ({', '.join(AUDIO_SUFFIXES)}); correct the path")
    found: dict[str, Recording] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(
                f"{what}: {path} and {found[name].location} have one name; keep one of them, or give a manifest"
            )
        found[name] = Recording(Location(path))
    return found


def _from_manifest(path: Path, what: str, task: str) -> dict[str, Recording]:
    found: dict[str, Recording] = {}
    for number, record in read_jsonl(path):
        line = Fields(path, number, record)
        if line.record.get("task", task) != task:
            continue  # what generation writes holds every task
        name = line.audio_id()
        if name in found:
            raise line.fail(f"audio_id {name!r} is there twice; keep one of them")
        found[name] = Recording(line.location("audio"), line.record)
    if not found:
        raise UserError(f"{what}: {path} has no line of {task}; correct the path or the task")
    return found


def _item(
    name: str,
    task: str,
    made: Mapping[str, Recording],
    known: Mapping[str, Recording],
    given: Mapping[str, Recording],
    told: Mapping[str, Fields],
    generated: Path,
) -> EvaluationItem:
    record = made[name].record if name in made else {}
    line = told.get(name)
    details = {} if line is None else dict(line.record)
    if "num_steps" in record and task in _TOLD_BY_GENERATION:  # what generation writes holds the text that it was given
        details.setdefault(_TOLD_BY_GENERATION[task], str(record.get("content", "")))
    files = {} if line is None else named_files(line)
    input_audio = given[name].location if name in given else next((files[f] for f in _INPUT_FIELDS if f in files), None)
    text = next((details[f] for f in _TEXT_FIELDS if isinstance(details.get(f), str)), record.get("content", ""))
    source = made[name].location if name in made else Location(generated / f"{name} (missing)")
    reference = known[name].location if name in known else None
    return EvaluationItem(
        audio_id=name,
        task=task,
        instruction=str(record.get("instruction", "")),
        content_text=text or name,
        generated=source,
        reference=reference,
        input_audio=input_audio,
        predicted_duration_s=_seconds(record) if "num_steps" in record else None,
        true_duration_s=_seconds(known[name].record) if name in known else None,
        details=details,
        files=files,
    )


def _seconds(record: Mapping[str, Any]) -> float | None:
    return record["duration_s"] if is_seconds(record.get("duration_s")) else None


def plain_file(location: Location) -> Path:
    """The file of a location; members of archives have none of their own."""
    if location.member is not None:
        raise UserError(f"{location}: a member of an archive; unpack it first")
    return location.path


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
