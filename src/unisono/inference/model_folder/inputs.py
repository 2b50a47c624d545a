"""How a user's files are made into what the model was trained on: rates, sizes and encoders of the training's data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.errors import UserError
from unisono.inference.model_folder.training_data import listed_datasets

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_BUILT_IN = ("statistics", "resemblyzer", "luminance")


@dataclass(frozen=True)
class InputSettings:
    """The node ``inputs`` of a model folder.

    Attributes:
        video_rate_hz, video_size: pictures a second, and their height and width in pixels.
        video_encoder: name for ``load_video_encoder`` where the model takes features of pictures.
        speaker_encoder: name for ``load_speaker_encoder`` where it takes voices as vectors.
        languages: speaker -> language of the text they were trained on; "" of lines without a speaker.
    """

    video_rate_hz: float = 25.0
    video_size: int = 64
    video_encoder: str | None = None
    speaker_encoder: str | None = None
    languages: Mapping[str, str] = field(default_factory=dict)

    def language(self, speaker: Any) -> str:
        """The language to read a text in for a voice: its own, else that of most voices."""
        if isinstance(speaker, str) and speaker in self.languages:
            return self.languages[speaker]
        common = Counter(self.languages.values()).most_common(1)
        return self.languages.get("") or (common[0][0] if common else "en-us")

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for pair in self.languages.items() for text in pair):
            raise UserError("languages has something else than names of speakers and languages")
        if not 0 < self.video_rate_hz <= 1000 or not 8 <= self.video_size <= 4096:
            raise UserError(
                f"video_rate_hz is {self.video_rate_hz} and video_size {self.video_size}; a rate lies between 0 and "
                "1000 Hz, a size between 8 and 4096 pixels"
            )
        for name in ("video_encoder", "speaker_encoder"):
            value = getattr(self, name)
            if value is not None and value not in _BUILT_IN and not _HUB_ID.fullmatch(value):
                raise UserError(f"{name} is {value!r}; it must be {', '.join(_BUILT_IN)} or an id on the Hub")


def input_settings(cfg: DictConfig | Mapping[str, Any], trained: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The node ``inputs`` for the data of a training; that of a model folder stays as it is.

    An encoder that is a folder of this machine is left out: who generates then gives vectors.

    Args:
        cfg: of the training, or of a model folder.
        trained: what ``training_data`` found in its manifests.
    """
    resolved: Any = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    found: dict[str, Any] = dict(resolved.get("inputs") or {})
    names = {
        "frame_rate_hz": "video_rate_hz",
        "frame_size": "video_size",
        "frame_encoder": "video_encoder",
        "speaker_encoder": "speaker_encoder",
    }
    for node in listed_datasets(resolved):
        if not isinstance(node, Mapping):
            continue
        inner = node["dataset"] if isinstance(node.get("dataset"), Mapping) else node
        for setting, name in names.items():
            value = inner.get(setting)
            if value is None or (isinstance(value, str) and value not in _BUILT_IN and not _HUB_ID.fullmatch(value)):
                continue
            found.setdefault(name, value)
    for facts in trained:
        found["languages"] = {**facts.get("languages", {}), **found.get("languages", {})}
    return asdict(checked_inputs(found, "inputs"))


def checked_inputs(node: Any, where: str) -> InputSettings:
    """Raise for a node that says something else."""
    kinds: dict[str, tuple[type, ...]] = {"video_rate_hz": (int, float), "video_size": (int,), "languages": (dict,)}
    if not isinstance(node, Mapping):
        raise UserError(f"{where} is {str(node)[:100]}; it has {', '.join(asdict(InputSettings()))}")
    for name, value in node.items():
        if name not in asdict(InputSettings()):
            raise UserError(f"{where} has {name!r:.60}; it has {', '.join(asdict(InputSettings()))}")
        if isinstance(value, bool) or not isinstance(value, kinds.get(name, (str, type(None)))):
            raise UserError(f"{where}.{name} is {value!r:.60}, which it cannot be")
    try:
        return InputSettings(**node)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
