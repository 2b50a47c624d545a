"""What ``unisono cache`` does: compute beforehand what training would compute in every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.errors import UserError

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from unisono.data.feature_cache.build import Filled

_MAX_FAULTS_SHOWN = 20


def fill_cache(
    cfg: DictConfig,
    folder: Path,
    workers: int | None = None,
    device: str = "auto",
    dry_run: bool = False,
    progress: bool = True,
) -> str:
    """Fill the cache for a resolved training configuration; returns a table of what is there.

    Raises:
        UserError: inputs that cannot be read (after all others are done), no room.
    """
    from unisono.data.feature_cache.build import fill_demands
    from unisono.data.feature_cache.demands import demands_of
    from unisono.workers import default_workers

    demands = demands_of(_frozen_parts(cfg.model), _data_sets(cfg), cfg.get("feature_cache_dtype", "float32"))
    results = fill_demands(demands, folder, workers or default_workers(), _chosen_device(device), dry_run, progress)
    faults = [fault for result in results for fault in result.faults]
    if faults:
        shown = "\n  ".join(faults[:_MAX_FAULTS_SHOWN])
        more = f"\n  … and {len(faults) - _MAX_FAULTS_SHOWN} more" if len(faults) > _MAX_FAULTS_SHOWN else ""
        others = "nothing was encoded (dry run)" if dry_run else "all others are cached"
        raise UserError(f"{len(faults)} inputs cannot be encoded; {others}:\n  {shown}{more}")
    return _table([_row(result) for result in results])


def _chosen_device(name: str) -> torch.device | None:
    """The GPU to encode on; None for the CPU's processes."""
    import torch

    if name == "cpu":
        return None
    if name == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else None
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used ({str(error).splitlines()[0]}); say auto or cpu") from error
    return None if device.type == "cpu" else device


def _frozen_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a model's configuration that may be frozen encoders, built; not the backbone, which is large."""
    from hydra.utils import instantiate

    if not isinstance(model.get("autoencoder"), Mapping):
        raise UserError("the model has no autoencoder in its configuration; the cache knows only models that have one")
    names = ("autoencoder", "instruction_encoder", "content_encoders")
    return {name: instantiate(model[name]) for name in names if model.get(name) is not None}


def _data_sets(cfg: DictConfig) -> list[list[Any]]:
    """The data sets of the training and of the validation loader."""
    from hydra.utils import instantiate

    from unisono.data.mini.ensure import ensure_mini_corpus

    ensure_mini_corpus(cfg)
    lists = []
    for name in ("train_dataloader", "val_dataloader"):
        if cfg.get(name) is None:
            continue
        node = cfg[name].get("dataset")
        if node is None:
            raise UserError(f"{name} has no data set of manifests (a stream has none); the feature cache needs one")
        datasets = getattr(instantiate(node), "datasets", None)
        if datasets is None or not all(hasattr(dataset, "latents") for dataset in datasets):
            raise UserError(f"{name} has data sets of your own; the feature cache serves the project's only")
        lists.append(list(datasets))
    return lists


# -- words ------------------------------------------------------------------------------------------------------------


def shown_bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _row(result: Filled) -> tuple[str, ...]:
    store, cached = result.store, result.num_inputs - result.num_missing
    return store.spec.kind, str(cached), str(result.num_missing), shown_bytes(store.size_bytes), str(store.folder)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head = ("kind", "cached", "missing", "size", "folder")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
