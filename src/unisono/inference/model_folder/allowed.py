"""What the config of a model folder may build: the classes named here, each in its place, of bounded sizes.

A class is on the list if its constructor does nothing but make layers from the numbers it is given, or reads one file
whose setting is in ``FILE_SETTINGS``; those files are checked on their own (``parts``, ``pretrained_files``). Not on
it: base classes, discriminators and whatever serves training alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.errors import UserError

_MODELS = "unisono.models"
# role: where classes are defined -> their names, and the package that offers them by a shorter name.
_ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {f"{_MODELS}.unified": ("UnifiedAudioModel",)},
    "autoencoder": {
        f"{_MODELS}.autoencoder.log_mel": ("LogMelAutoencoder",),
        f"{_MODELS}.autoencoder.vocoder_autoencoder": ("VocoderAutoencoder",),
        f"{_MODELS}.autoencoder.oobleck": ("OobleckAutoencoder",),
        f"{_MODELS}.autoencoder.codec": ("CodecAutoencoder",),
    },
    "vocoder": {f"{_MODELS}.autoencoder.vocoder": ("FourierVocoder",)},
    "encoder": {
        f"{_MODELS}.content_encoder.text": ("ByteTextEncoder",),
        f"{_MODELS}.content_encoder.pretrained_text": ("PretrainedTextEncoder",),
        f"{_MODELS}.content_encoder.phoneme": ("PhonemeEncoder",),
        f"{_MODELS}.content_encoder.score": ("ScoreEncoder",),
        f"{_MODELS}.content_encoder.pitch": ("PitchEncoder",),
        f"{_MODELS}.content_encoder.audio": ("AudioEncoder",),
        f"{_MODELS}.content_encoder.video": ("VideoEncoder",),
    },
    "content adapter": {
        f"{_MODELS}.content_adapter.prefix": ("PrefixAdapter",),
        f"{_MODELS}.content_adapter.cross_attention": ("CrossAttentionAdapter",),
    },
    "backbone": {f"{_MODELS}.backbone.fusion": ("LayerFusionDiT", "InputFusionDiT")},
    "objective": {
        "unisono.objectives.flow_matching": ("FlowMatching",),
        "unisono.objectives.diffusion": ("Diffusion",),
    },
}
# The arguments of a role's classes that are built, and the role of what stands there.
_PLACES: dict[str, dict[str, str]] = {
    "model": {
        "autoencoder": "autoencoder",
        "instruction_encoder": "encoder",
        "content_encoders": "encoder",  # one for each modality
        "content_adapter": "content adapter",
        "backbone": "backbone",
        "objective": "objective",
    },
    "autoencoder": {"vocoder": "vocoder"},
}
_MAPPINGS = ("content_encoders",)
_ANY = "any"  # the role of classes that the caller allows

FILE_SETTINGS = {
    "PretrainedTextEncoder": "pretrained",
    "CodecAutoencoder": "pretrained",
    "OobleckAutoencoder": "weights",
    "VocoderAutoencoder": "vocoder_weights",
}
"""The setting of a class that names weights: folders of ``transformers`` or Hub ids ("pretrained"), single files."""

# The largest sensible values; what is not named here is below _LARGEST. Layers are made one by one, spectrograms need
# real memory for their filters, and steps need time.
_LARGEST = 1_000_000
_LIMITS: dict[str, float] = {
    **dict.fromkeys(("num_layers", "num_heads", "prefix_length", "n_mels", "griffin_lim_steps", "mlp_ratio"), 1024),
    **dict.fromkeys(("n_fft", "latent_dim", "num_train_timesteps"), 16_384),
    **dict.fromkeys(("ngram_sizes", "channel_multiples", "audio_channels"), 64),
    "hop_samples": 65_536,
    "chunk_s": 3600,
}
_MAX_ITEMS = {"ngram_sizes": 64, "strides": 64, "channel_multiples": 64}


@dataclass(frozen=True)
class Node:
    """A class with its arguments, of which some are nodes, or mappings of nodes.

    Attributes:
        place: in the config, such as ``model.backbone``.
        target: what the config calls the class.
        cls: the class itself.
        arguments: everything but ``_target_``.
    """

    place: str
    target: str
    cls: type
    arguments: dict[str, Any]

    @property
    def is_listed(self) -> bool:
        """Whether the class is on the list here, and not only allowed by the caller."""
        return self.target in _KNOWN

    @property
    def file_setting(self) -> str | None:
        """Name of the argument that names weights, if the class has one."""
        return file_setting_of(self.target)

    def walk(self) -> Iterator[Node]:
        """This node and all within it."""
        yield self
        for value in self.arguments.values():
            for inner in value.values() if isinstance(value, dict) else [value]:
                if isinstance(inner, Node):
                    yield from inner.walk()


def _known() -> dict[str, tuple[str, str, str]]:
    """Every name by which a class may be called -> its role, the module that defines it, and its name there."""
    known = {}
    for role, modules in _ROLES.items():
        for module, names in modules.items():
            for name in names:
                for spelled in (module, module.rpartition(".")[0]):
                    known[f"{spelled}.{name}"] = (role, module, name)
    return known


_KNOWN = _known()


def file_setting_of(target: Any) -> str | None:
    """The setting of a class, by what a config calls it, that names weights."""
    return FILE_SETTINGS.get(_KNOWN[target][2]) if isinstance(target, str) and target in _KNOWN else None


def read_nodes(node: Any, where: str, allow: Sequence[str] = ()) -> Node:
    """The node ``model`` of a config with its classes found; nothing is built yet.

    Args:
        where: the config's file, for messages.
        allow: further classes, by the names that the config uses, which the caller vouches for.

    Raises:
        UserError: a class that is not on the list or not in its place, a key of Hydra's, a size beyond all bounds.
    """
    return _Reader(where, frozenset(allow)).node(node, "model", "model")


class _Reader:
    def __init__(self, where: str, allow: frozenset[str]) -> None:
        self.where, self.allow = where, allow

    def node(self, node: Any, place: str, role: str) -> Node:
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"{self.where}: {place} names no class; a _target_ that is {_a(role)} belongs there")
        target = node["_target_"]
        if unusual := sorted(key for key in map(str, node) if key != "_target_" and key.startswith("_")):
            raise UserError(f"{self.where}: {place} has keys {unusual}, which a model folder may not use")
        found, cls = self._find(target, place)
        if _ANY not in (role, found) and role != found:
            raise UserError(f"{self.where}: {place} names {target}, {_a(found)}; what belongs there is {_a(role)}")
        arguments = {
            key: self.value(value, f"{place}.{key}", key, _ANY if found == _ANY else _PLACES.get(found, {}).get(key))
            for key, value in node.items()
            if key != "_target_"
        }
        return Node(place, str(target), cls, arguments)

    def value(self, value: Any, place: str, name: str, role: str | None) -> Any:
        """Plain data where no class belongs, a node, or several by name."""
        is_mapping = isinstance(value, Mapping)
        if role is None or (role == _ANY and not (is_mapping and "_target_" in value)):
            if is_mapping and "_target_" in value:
                raise UserError(f"{self.where}: {place} names {value['_target_']!r:.100}; no class belongs there")
            self.check_sizes(value, place, name)
            return value
        if name in _MAPPINGS and is_mapping and "_target_" not in value:
            return {str(key): self.node(inner, f"{place}.{key}", role) for key, inner in value.items()}
        return self.node(value, place, role)

    def check_sizes(self, value: Any, place: str, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key == "_target_":
                    raise UserError(f"{self.where}: {place} names {inner!r:.100}; no class belongs there")
                self.check_sizes(inner, f"{place}.{key}", str(key))
        elif isinstance(value, (list, tuple)):
            if len(value) > (longest := _MAX_ITEMS.get(name, _LARGEST)):
                raise UserError(f"{self.where}: {place} has {len(value)} values; at most {longest} are allowed")
            for index, inner in enumerate(value):
                self.check_sizes(inner, f"{place}[{index}]", name)
        elif isinstance(value, (int, float)) and abs(value) > (most := _LIMITS.get(name, _LARGEST)):
            raise UserError(f"{self.where}: {place} is {value}; a model folder may have at most {most:g} there")

    def _find(self, target: Any, place: str) -> tuple[str, type]:
        """Role and class of a target; only modules on the list are imported, so that a name alone can do nothing."""
        if isinstance(target, str) and target in _KNOWN:
            role, module, name = _KNOWN[target]
        elif isinstance(target, str) and target in self.allow:
            role, (module, _, name) = _ANY, target.rpartition(".")
        else:
            raise UserError(
                f"{self.where}: {place} has the _target_ {target!r:.100}, which is not a class that a model folder may "
                "build; if you trust the folder and have the code, name it in load_model_folder(..., allow=[...])"
            )
        try:
            cls = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.where}: {place} names {target!r}, which does not exist ({error})") from error
        is_it = isinstance(cls, type) and (role == _ANY or (cls.__module__, cls.__qualname__) == (module, name))
        if not is_it:  # the resolved object decides: something else may go by that name by now
            raise UserError(f"{self.where}: {place} names {target!r}, which is {cls!r:.100} and not the class expected")
        return role, cls


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'aeo' else 'a'} {role}" if role != _ANY else "a class"
