"""Read a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from unisono.inference.model_folder.allowed import read_nodes
from unisono.inference.model_folder.building import build, check_header, load_weights
from unisono.inference.model_folder.config_file import CONFIG, WEIGHTS, read_config
from unisono.inference.model_folder.defaults import checked_generation
from unisono.inference.model_folder.hub import boundary_of, local_folder
from unisono.inference.model_folder.parts import check_file, check_fingerprints, inside, resolve_parts
from unisono.models.unified import UnifiedAudioModel


def load_model_folder(name: str | os.PathLike, allow: Sequence[str] = ()) -> tuple[UnifiedAudioModel, dict[str, Any]]:
    """Model (in eval mode, on the CPU) and config of a model folder; nothing in it can run code of its own.

    Args:
        name: a folder, or an id on the Hugging Face Hub: ``organisation/model``, or ``organisation/model@revision``.
        allow: classes of one's own that its config may build, besides those in ``allowed``, by the names it has for
            them. Their constructors get whatever the config says.

    Returns:
        The model, and the config with paths of this machine in the place of those within the folder.

    Raises:
        UserError: no such folder; a config that may not be built; weights that are not whole, or fit no such model.
    """
    folder = local_folder(name)
    config, weights, boundary = folder / CONFIG, folder / WEIGHTS, boundary_of(folder)
    if os.path.lexists(config):
        inside(folder, CONFIG, boundary, f"{folder}: the config")
    cfg = read_config(config)
    root = read_nodes(cfg["model"], str(config), allow)
    resolve_parts(root, cfg["model"], folder, boundary, cfg["files"])
    model = build(root, str(config))
    assert isinstance(model, UnifiedAudioModel), "read_nodes lets nothing else stand there"
    if os.path.lexists(weights):
        inside(folder, WEIGHTS, boundary, f"{folder}: the file of weights")
    check_header(model, weights)
    check_file(folder, WEIGHTS, boundary, cfg["files"])
    check_fingerprints(cfg["frozen"], model, str(config))
    cfg["generation"] = checked_generation(cfg["generation"], model, str(config))
    load_weights(model, weights)
    return model.eval(), cfg
