"""Rules between the lines of the chosen manifests and the configuration: symbols, voices, features, inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.config.faults import Fault
from unisono.config.manifest_facts import ManifestFacts, facts_of
from unisono.config.resolvers import register_omegaconf_resolvers
from unisono.config.signatures import find_target
from unisono.data.manifest import Fields
from unisono.errors import UserError

_INPUTS = {
    "speech_enhancement": ("noisy_audio", "SpeechDegradation"),
    "audio_super_resolution": ("narrow_audio", "BandwidthDegradation"),
}
_INTEREST = ("noisy_audio", "narrow_audio", "speaker_audio", "video")
_PLAIN = re.compile(r"[A-Za-z_][\w./+@-]*", re.ASCII)
_SHOWN = 8


@dataclass(frozen=True)
class ChosenSet:
    """A data set that a list points to.

    Attributes:
        place: dotted name of its node: where it is written, so that it can be overridden there.
        node: resolved.
        task: row of the task table that its class is for; None for classes of the user's own.
        collate: node of the collate function of its loader.
    """

    place: str
    node: Mapping[str, Any]
    task: Any
    collate: Mapping[str, Any]

    def facts(self) -> ManifestFacts | None:
        """What its lines ask for; None where the manifest is not there, or its settings are no usable ones.

        Raises:
            UserError: a line that is no JSON object.
        """
        content, split, limit = (self.node.get(name) for name in ("content", "split", "max_samples"))
        usable = (split is None or isinstance(split, str)) and (limit is None or (isinstance(limit, int) and limit > 0))
        if not isinstance(content, str) or not usable or not Path(content).is_file():
            return None
        return facts_of(Path(content), split, limit, _INTEREST)


def task_of(node: Mapping[str, Any]) -> Any:
    """Row of the task table that a data set's class is for; None for other classes."""
    from unisono.tasks import TASKS

    try:
        return TASKS.get(getattr(find_target(node.get("_target_")), "task", ""))
    except UserError:
        return None


def check_manifests(chosen: Sequence[ChosenSet], plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults that would end a training at its first item, or later: each with the setting that mends it."""
    facts: list[tuple[ChosenSet, ManifestFacts]] = []
    for one in chosen:
        try:
            found = one.facts()
        except UserError as error:
            yield Fault(f"{one.place}.content", str(error))
            continue
        if found is None:
            continue
        facts.append((one, found))
        if not found.num_lines and found.is_whole:
            split = one.node.get("split")
            of_split = "" if split is None else f" of the split {split!r}"
            yield Fault(f"{one.place}.content", f"{found.path} has no items{of_split}; fill it or leave the set out")
    yield from _unknown("speakers", "mini_speakers", facts, plain)
    yield from _unknown("phonemes", "phoneme_inventory", facts, plain)
    for one, found in facts:
        yield from _inputs(one, found)
        yield from _sizes(one, found, plain)


def unread_manifests(chosen: Sequence[ChosenSet]) -> list[str]:
    """Notes about manifests of which only the first lines were compared with the model."""
    notes: dict[str, None] = {}
    for one in chosen:
        try:
            found = one.facts()
        except UserError:  # a fault by itself
            continue
        if found is not None and not found.is_whole:
            notes[f"{found.path}: only the first {found.num_lines} lines were looked at; training reads all"] = None
    return list(notes)


# -- symbols ----------------------------------------------------------------------------------------------------------


def _unknown(
    name: str, default: str, facts: Sequence[tuple[ChosenSet, ManifestFacts]], plain: Mapping[str, Any]
) -> Iterator[Fault]:
    """Phonemes or speakers of the manifests that a collate function does not know, in one fault."""
    unknown: dict[str, str] = {}
    known: Any = None
    for one, found in facts:
        mine = one.collate.get(name)
        if not isinstance(mine, list) or one.task is None or one.task.modality not in ("phoneme", "score", "pitch"):
            continue
        for symbol, line in getattr(found, name).items():
            if symbol not in mine:
                known = mine
                unknown.setdefault(symbol, found.where(line))
    if not unknown:
        return
    new = list(unknown)
    shown = ", ".join(f"{symbol!r} ({where})" for symbol, where in list(unknown.items())[:_SHOWN])
    more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
    have = ", ".join(map(str, known)) if 0 < len(known) <= _SHOWN else len(known) or "none"
    setting = name if plain.get(name) == known else f"collate_fn.{name}"
    yield Fault(
        setting,
        f"the manifests name {shown}{more}, which the model does not know (it has: {have}); correct the lines, or "
        f"{_remedy(setting, known, default, new, next(iter(unknown.values())).rpartition(':')[0])}",
    )


def _remedy(setting: str, known: Sequence[Any], default: str, new: Sequence[str], manifest: str) -> str:
    """How to add to a list of symbols."""
    from omegaconf import OmegaConf

    register_omegaconf_resolvers()
    is_default = list(known) == list(OmegaConf.create({"x": f"${{{default}:}}"}).x)
    if len(new) > _SHOWN:
        before = f"${{{default}:}}" if is_default else f"[{','.join(map(_quoted, known))}]"
        return f"write, in a YAML file, {setting}: ${{concat:{before},${{speakers_of:{_quoted(manifest)}}}}}"
    if any(character in "{}$\\\n" for symbol in (*known, *new) for character in str(symbol)):
        return f"write out the list {setting} in a YAML file: an override cannot hold such names"
    if is_default:
        return f"write {setting}='${{{default}:{','.join(map(_quoted, new))}}}'"
    return f"write {setting}='[{','.join(map(_quoted, [*known, *new]))}]'"


def _quoted(text: Any) -> str:
    """A text in an interpolation or an override: quoted where their grammar would read it otherwise."""
    if _PLAIN.fullmatch(str(text)) and str(text).lower() not in ("null", "true", "false", "inf", "nan"):
        return str(text)
    return json.dumps(str(text), ensure_ascii=False)


# -- inputs and sizes -------------------------------------------------------------------------------------------------


def _inputs(one: ChosenSet, found: ManifestFacts) -> Iterator[Fault]:
    """Lines without what the data set is to read."""
    task, node = getattr(one.task, "name", ""), one.node
    field, degradation = _INPUTS.get(task, ("", ""))
    if field in found.lacking and node.get("degradation") is None:
        yield Fault(
            f"{one.place}.degradation",
            f"{found.where(found.lacking[field])} names no {field}; add it to the lines, or make the inputs from the "
            f"targets: '+{one.place}.degradation={{_target_: unisono.data.degrade.{degradation}}}'",
        )
    has_reference = "speaker_audio" in found.given and getattr(one.task, "modality", "") in _VOICED
    if has_reference and node.get("speaker_encoder") is None:
        yield Fault(
            f"{one.place}.speaker_encoder",
            f"{found.where(found.given['speaker_audio'])} has speaker_audio, whose voice needs an encoder; write "
            f"+{one.place}.speaker_encoder=statistics (or another name as for `unisono speaker`)",
        )


_VOICED = ("phoneme", "score", "pitch")


def _sizes(one: ChosenSet, found: ManifestFacts, plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Vectors of voices and of pictures against the sizes that the content encoders take."""
    modality = getattr(one.task, "modality", "")
    if modality in _VOICED:
        field, axis, setting, what = "speaker_embedding", 0, "speaker_embedding_dim", "a speaker embedding"
    elif modality == "video":
        field, axis, setting, what = "video_features", 1, "feature_dim", "a frame of the video features"
    else:
        return
    model = plain.get("model")
    encoders = model.get("content_encoders") if isinstance(model, Mapping) else None
    encoder = encoders.get(modality) if isinstance(encoders, Mapping) else None
    if not isinstance(encoder, Mapping):
        return  # a model of the user's own, or no encoder at all, which is another fault
    place, taken = f"model.content_encoders.{modality}.{setting}", encoder.get(setting)
    sizes: dict[int, str] = {}
    for line in found.arrays.get(field, {}).values():
        try:
            sizes.setdefault(_size(line, field, axis), line.where)
        except UserError as error:
            yield Fault(f"{one.place}.content", str(error))
    made = _encoder_size(one, found)
    if made is not None:
        sizes.setdefault(*made)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} ({where})" for size, where in sizes.items())
        yield Fault(f"{one.place}.content", f"{what} has different sizes: {listed}; make all with one encoder")
    elif sizes and taken not in sizes:
        size, where = next(iter(sizes.items()))
        sign = "" if setting in encoder else "+"
        takes = "none" if taken is None else taken
        yield Fault(place, f"{what} ({where}) has {size} values, the model takes {takes}; write {sign}{place}={size}")


def _size(line: Fields, field: str, axis: int) -> int:
    from unisono.media.locations import read_array

    location = line.file(field)
    try:
        shape = read_array(location).shape
    except (OSError, ValueError) as error:
        raise line.fail(f"field {field!r}: {error}") from error
    if len(shape) != axis + 1:
        raise line.fail(f"field {field!r}: {location} has shape {shape}; it must have {axis + 1} dimensions")
    return int(shape[axis])


def _encoder_size(one: ChosenSet, found: ManifestFacts) -> tuple[int, str] | None:
    """Size of the vectors that the data set makes itself, where that is known without loading weights."""
    from unisono.features.speaker import STATISTICS, SpectralStatistics
    from unisono.features.video import LUMINANCE, Luminance

    for field, encoder, name, dim in (
        ("speaker_audio", "speaker_encoder", STATISTICS, SpectralStatistics.dim),
        ("video", "frame_encoder", LUMINANCE, Luminance.dim),
    ):
        if field in found.given and one.node.get(encoder) == name:
            return dim, f"{one.place}.{encoder}"
    return None
