"""What a model can be given: phonemes, speakers and voices, taken from the configuration it is trained with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.data.validate.audio_checks import Found
from unisono.errors import UserError

_MAX_SHOWN = 8


@dataclass(frozen=True)
class ModelInputs:
    """Of one content encoder.

    Attributes:
        phonemes: it knows.
        speakers: names it knows.
        speaker_embedding_dim: size of the voices it takes instead of names; None for none.
    """

    phonemes: frozenset[str]
    speakers: frozenset[str] = frozenset()
    speaker_embedding_dim: int | None = None


def read_model_inputs(config: str, config_path: str | None = None) -> dict[str, ModelInputs]:
    """By modality, what the model of a configuration takes.

    Args:
        config: name of a training configuration, with overrides after blanks (``"default speakers=[ann,bob]"``), as
            for ``train.py``; or a YAML file, such as the ``config.yaml`` of a run or of a model.
        config_path: folder of your own configurations.

    Raises:
        UserError: no such configuration, faults in it, no model in it.
    """
    try:
        words = shlex.split(config)
    except ValueError as error:
        raise UserError(f"--config {config!r}: {error}; give a name, then overrides") from error
    if not words:
        raise UserError("--config is empty; give a name, then overrides")
    if Path(config).suffix in (".yaml", ".yml"):
        values = _read_yaml(Path(config))
    else:
        from omegaconf import OmegaConf

        from unisono.config.preflight import compose_checked

        cfg, _, _ = compose_checked(words[0], words[1:], config_path, with_files=False)
        values = OmegaConf.to_container(cfg, resolve=True)
    encoders = _encoders(values)
    if encoders is None:
        raise UserError(f"{config}: there is no model with content_encoders in it; name a configuration for training")
    return {
        str(modality): _inputs(config, modality, node)
        for modality, node in encoders.items()
        if isinstance(node, Mapping) and node.get("phonemes") is not None
    }


def _read_yaml(path: Path) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # of the file, of YAML, of interpolations
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as a configuration ({reason}); give a run's or a model's config.yaml, or a name"
        ) from error


def _encoders(values: Any) -> Mapping[str, Any] | None:
    for node in (values.get("model"), values) if isinstance(values, Mapping) else ():
        if isinstance(node, Mapping) and isinstance(node.get("content_encoders"), Mapping):
            return node["content_encoders"]
    return None


def _inputs(config: str, modality: Any, node: Mapping[str, Any]) -> ModelInputs:
    phonemes, speakers, dim = node["phonemes"], node.get("speakers") or (), node.get("speaker_embedding_dim")
    for name, names in (("phonemes", phonemes), ("speakers", speakers)):
        if isinstance(names, str) or not all(isinstance(one, str) for one in names):
            raise UserError(f"{config}: {name} of content_encoders.{modality} must be a list of texts")
    return ModelInputs(frozenset(phonemes), frozenset(speakers), dim)


def voice_findings(
    model: ModelInputs | None, speaker: str | None = None, embedding_size: int | None = None
) -> Iterator[Found]:
    """What a model cannot make of a voice; nothing is compared without one."""
    if model is None:
        return
    if speaker and speaker not in model.speakers:
        known = sorted(model.speakers)
        shown = ", ".join(known[:_MAX_SHOWN]) + (" …" if len(known) > _MAX_SHOWN else "")
        yield (
            "unknown_speaker",
            f"field 'speaker' is {speaker!r}, unknown to the model (it has: {shown or 'none'}); correct it or extend "
            "`speakers` in the configuration",
            speaker,
        )
    if embedding_size is not None and embedding_size != model.speaker_embedding_dim:
        taken = "none" if model.speaker_embedding_dim is None else f"such of {model.speaker_embedding_dim}"
        yield (
            "wrong_embedding_size",
            f"field 'speaker_embedding' has {embedding_size} values, the model takes {taken}; set "
            "speaker_embedding_dim of the content encoder",
            embedding_size,
        )
