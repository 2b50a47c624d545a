"""Which networks there are, and what the user gives for each: the one place where a network gets its weights."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.errors import UserError
from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.network import AudioNetwork
from unisono.suggest import did_you_mean

_HERE = "unisono.evaluation.networks"


@dataclass(frozen=True)
class NetworkRow:
    """One network of the table.

    Attributes:
        name: key of the setting `networks.NAME`.
        takes: what the setting is given: a file, a folder, an id on the Hub.
        builder: ``module:function`` that takes (source, device, options by name) and returns the network.
        options: settings beside the weights, for ``networks.NAME: {source: …, OPTION: …}``.
        built_in: it needs nothing from the user.
        package: the distribution that brings its weights, if one does: installed, nothing needs to be given.
    """

    name: str
    takes: str
    builder: str
    options: tuple[str, ...] = ()
    built_in: bool = False
    package: str | None = None


_HUB = "folder or Hugging Face Hub id"
_EXPORTED = "the .yaml file beside an exported network"

_ROWS = (
    NetworkRow("mel_statistics", "nothing", f"{_HERE}.mel_statistics:MelStatistics", built_in=True),
    NetworkRow("vggish", "file vggish-10086976.pth of torchvggish", f"{_HERE}.vggish:Vggish"),
    NetworkRow("panns16k", "file Cnn14_16k_mAP=0.438.pth of PANNs", f"{_HERE}.panns:Panns16k"),
    NetworkRow("panns32k", "file Cnn14_mAP=0.431.pth of PANNs", f"{_HERE}.panns:Panns32k"),
    NetworkRow("passt", "file passt-s-f128-p16-s10-ap.476-swa.pt of PaSST", f"{_HERE}.passt:Passt"),
    NetworkRow("aisfx", "file checkpoint.pth of aisfx", f"{_HERE}.aisfx:Aisfx", package="aisfx"),
    NetworkRow("clap", f"{_HUB} of a ClapModel, such as laion/clap-htsat-unfused", f"{_HERE}.clap:Clap"),
    NetworkRow("mert", f"{_HUB} of MERT, such as m-a-p/MERT-v1-95M", f"{_HERE}.mert:Mert", options=("layer",)),
    NetworkRow(
        "whisper",
        f"{_HUB} of Whisper, such as openai/whisper-small",
        f"{_HERE}.asr:Whisper",
        options=("language",),
    ),
    NetworkRow("ctc", f"{_HUB} of a CTC model, such as facebook/wav2vec2-base-960h", f"{_HERE}.asr:Ctc"),
    NetworkRow(
        "speaker",
        f"resemblyzer, or {_HUB} of an x-vector model, such as microsoft/wavlm-base-plus-sv",
        f"{_HERE}.speaker:Speaker",
        package="resemblyzer",
    ),
    NetworkRow("utmos", f"file utmos22_strong_step7459_v1.pt of SpeechMOS, or {_EXPORTED}", f"{_HERE}.utmos:load"),
    NetworkRow("imagebind", _EXPORTED, f"{_HERE}.exported:imagebind"),
    NetworkRow("synchformer", _EXPORTED, f"{_HERE}.exported:synchformer"),
    NetworkRow("exported", _EXPORTED, f"{_HERE}.exported:Exported"),
)

NETWORKS = {row.name: row for row in _ROWS}

Source = str | Mapping[str, Any]


def load_network(name: str, source: Source | None = None, device: str = "cpu") -> AudioNetwork:
    """Build a network of the table.

    Args:
        name: of the table.
        source: what its row takes, or a mapping of ``source`` and its options; None for one that is built in or whose
            package brings the weights.
        device: torch device.

    Raises:
        UserError: no such name, no weights given, or weights that are not this network's.
    """
    if name not in NETWORKS:
        raise UserError(f"there is no network {name!r}; {did_you_mean(name, NETWORKS)}")
    row = NETWORKS[name]
    if (reason := why_absent(name, source)) is not None:
        raise UserError(f"{name}: {reason}")
    source, options = _parted(row, source)
    module, _, function = row.builder.partition(":")
    build = getattr(importlib.import_module(module), function)
    return build() if row.built_in else build(source, device, **options)


def why_absent(name: str, source: Source | None) -> str | None:
    """Why the network cannot be had, or None: nothing was given, and nothing that is installed brings it."""
    row = NETWORKS[name]
    if row.built_in or _parted(row, source)[0] is not None:
        return None
    if row.package is None:
        return f"no weights; give {name}: {row.takes} (--network {name}=…, networks.{name}=…)"
    if library_version(row.package) == "not installed":
        return f"no weights; install {row.package}, or give {name}: {row.takes} (--network {name}=…, networks.{name}=…)"
    return None


def _parted(row: NetworkRow, given: Source | None) -> tuple[str | None, dict[str, Any]]:
    """Source and options of what the user gave."""
    options = dict(given) if isinstance(given, Mapping) else {"source": given}
    source = options.pop("source", None)
    if source is not None and not isinstance(source, str | os.PathLike):
        raise UserError(f"networks.{row.name}: {source!r} is neither a path nor an id; give {row.takes}")
    for option in options:
        if option not in row.options:
            known = ("source", *row.options)
            raise UserError(f"networks.{row.name}: there is no {option!r}; {did_you_mean(option, known)}")
    return (None if source is None else os.path.expanduser(source)), options
