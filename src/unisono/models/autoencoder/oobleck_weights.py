"""Weights of the Oobleck autoencoder from safetensors, by either of the names they are published under.

diffusers calls a layer ``encoder.block.0.res_unit1.conv1``, stable-audio-tools ``encoder.layers.1.layers.0.layers.1``.
Both keep direction and length of a normalised weight apart; a file may also hold the weight itself.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unisono.errors import UserError

logger = logging.getLogger(__name__)

# Layers of a block and of a residual unit, in the order of the sequences of stable-audio-tools.
_UNIT = ("snake1", "conv1", "snake2", "conv2")
_BLOCK = {
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}
_FIRST_LAYER = re.compile(r"(.*?)encoder\.(?:conv1|layers\.0)\.(?:parametrizations\.)?(?:weight|bias)")
_SEQUENCE = re.compile(r"(encoder|decoder)\.layers\.(\d+)((?:\.layers\.\d+)*)\.(.+)")
_OF_DIFFUSERS = {
    "sampling_rate": "sample_rate",
    "downsampling_ratios": "strides",
    "channel_multiples": "channel_multiples",
    "audio_channels": "audio_channels",
    "decoder_channels": "decoder_channels",
    "encoder_hidden_size": "encoder_channels",
    "decoder_input_channels": "latent_dim",
}
_SHOWN = 5


def read_oobleck_weights(
    source: str, expected: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any], load: bool = True
) -> dict[str, Tensor]:
    """Weights by our names, which are those of diffusers; with all their shapes checked.

    Args:
        source: a safetensors file, or a folder that has one; its ``config.json`` (of diffusers) or ``config.yaml`` (of
            this project's training) is compared with the settings. Tensors beside the autoencoder's (discriminators,
            a diffusion model) are left alone.
        expected: names and shapes.
        settings: the autoencoder's, for the comparison.
        load: False checks names and shapes, without reading any weight, and returns nothing.

    Raises:
        UserError: no such file, not safetensors, weights that are missing, unknown or of another shape.
    """
    path = _weights_file(Path(source), settings)
    try:
        with safe_open(path, "pt") as file:
            names = dict(_own_names(list(file.keys()), str(path), _num_blocks(expected)))
            shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in names.items()}
            _compare(str(path), expected, shapes)
            return {name: file.get_tensor(key).float() for name, key in names.items()} if load else {}
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or export it again") from error


def _weights_file(source: Path, settings: Mapping[str, Any]) -> Path:
    if source.is_dir():
        _compare_settings(source, settings)
        files = sorted(source.glob("*.safetensors"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise UserError(f"{source}: a folder of weights holds one safetensors file, this one has {found}; name it")
        return files[0]
    if not source.is_file():
        raise UserError(f"{source}: no such weights of an autoencoder; give a safetensors file or a folder with one")
    return source


def _compare_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """With the folder's own, where it has them: no shape tells the order of strides, or a sample rate."""
    try:
        if (path := folder / "config.json").is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            theirs = {_OF_DIFFUSERS.get(name, ""): value for name, value in found.items()}
        elif (path := folder / "config.yaml").is_file():
            theirs = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("autoencoder") or {}
        else:
            return
        shared = [(name, settings[name], theirs[name]) for name in settings if name in theirs]
        differ = [f"{name} is {value}, there {other}" for name, value, other in shared if value != other]
    except (ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not the settings of an autoencoder ({reason})") from error
    if differ:
        raise UserError(f"{path}: the weights are of another autoencoder: {'; '.join(differ)}; change the settings")


def _num_blocks(expected: Mapping[str, Any]) -> int:
    return len({name.split(".")[2] for name in expected if name.startswith("encoder.block.")})


def _own_names(keys: list[str], where: str, num_blocks: int) -> Iterator[tuple[str, str]]:
    """Our name and the file's own of each tensor of the autoencoder."""
    prefixes = sorted({match[1] for key in keys if (match := _FIRST_LAYER.fullmatch(_plain(key)[0]))})
    if len(prefixes) != 1:
        found = f"{len(prefixes)} of them ({', '.join(prefixes)})" if prefixes else "nothing of the kind"
        raise UserError(f"{where}: weights of an Oobleck autoencoder are wanted; the file has {found}")
    left_out = 0
    for key in keys:
        name = key.removeprefix(prefixes[0])
        if key.startswith(prefixes[0]) and name.startswith(("encoder.", "decoder.")):
            yield _renamed(name, num_blocks), key
        else:
            left_out += 1
    if left_out:
        logger.info("%s: %d tensors are not of the autoencoder, and not used", where, left_out)


def _plain(key: str) -> tuple[str, str]:
    """A name without the suffix that says which part of a normalised weight it is, and that suffix."""
    for theirs, ours in (("_g", "_g"), ("_v", "_v"), (".original0", "_g"), (".original1", "_v")):
        if key.endswith(f"weight{theirs}"):
            return key.removesuffix(theirs), ours
    return key, ""


def _renamed(name: str, num_blocks: int) -> str:
    plain, part = _plain(name)
    plain = plain.replace("parametrizations.weight", "weight")
    match = _SEQUENCE.fullmatch(plain)
    if match is None:
        return plain + part
    coder, layer, inner, parameter = match[1], int(match[2]), match[3], match[4]
    outer = ["conv1", *(f"block.{index}" for index in range(num_blocks)), "snake1", "conv2"]
    steps = [int(step) for step in re.findall(r"\d+", inner)]
    names = [outer, _BLOCK[coder], _UNIT]
    if len(steps) > 2 or any(step >= len(choice) for step, choice in zip([layer, *steps], names, strict=False)):
        return name  # unknown, and reported as such
    return (
        ".".join([coder, *(choice[step] for step, choice in zip([layer, *steps], names, strict=False)), parameter])
        + part
    )


def _compare(where: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    faults = []
    taken = set()
    for name, shape in expected.items():
        stem = re.sub(r"weight_[gv]$", "weight", name)
        own = name if name in found else stem
        taken.add(own)
        if own not in found:
            faults.append(f"missing: {name}")
        elif own != name and name.endswith("_g"):
            continue  # the length of a weight that is there itself
        elif _squeezed(found[own]) != _squeezed(shape):
            faults.append(f"shape of {own}: {found[own]} in the file, {shape} in the model")
    faults += [f"unknown: {name}" for name in found.keys() - taken]
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        # In one line: the check of a configuration shows no more.
        listed = "; ".join(sorted(faults)[:_SHOWN])
        raise UserError(f"{where}: the weights do not fit the configured autoencoder: {listed}{more}")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Snake's parameters are ``(C,)`` in one layout and ``(1, C, 1)`` in the other."""
    return tuple(size for size in shape if size != 1)


def in_shape(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by the expected names, plain ones taken apart into direction and length."""
    result = {}
    for name, shape in expected.items():
        if name in weights:
            result[name] = weights[name].reshape(shape)
            continue
        weight = weights[re.sub(r"weight_[gv]$", "weight", name)]
        if name.endswith("_g"):
            weight = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
        result[name] = weight.reshape(shape)
    return result
