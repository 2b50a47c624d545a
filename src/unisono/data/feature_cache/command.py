"""``unisono cache``: compute beforehand what training would compute in every epoch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.errors import UserError

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from unisono.data.feature_cache.build import Filled

_MAX_FAULTS_SHOWN = 20


def cache(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, as given to train.py.")] = None,
    config_name: Annotated[
        str, typer.Option("--config-name", "-cn", help="default (training), or your own.")
    ] = "default",
    config_path: Annotated[str | None, typer.Option("--config-path", "-cp", help="Folder of your own configs.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the cache; default: feature_cache.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; a GPU encodes in one process.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Values as float32 (exact), bfloat16 or float16 (half the size).")
    ] = "float32",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is cached and what is missing.")] = False,
) -> None:
    """Compute the latents of a training's recordings once, and whatever else its frozen encoders make of its data.

    What is in the cache already is left as it is; a run that was killed goes on. Example:
    unisono cache feature_cache=data/cache model=base, then python train.py feature_cache=data/cache model=base
    """
    from unisono.config.entries import TRAINING
    from unisono.config.preflight import compose_checked

    sys.path.insert(0, str(Path.cwd()))  # as `python train.py` finds modules beside the script
    cfg, entry, warnings = compose_checked(config_name, overrides or [], config_path)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    if entry is not TRAINING:
        raise UserError(f"{config_name} is a configuration for {entry.purpose}; the cache is made for training")
    folder = out or cfg.get("feature_cache")
    if folder is None:
        raise UserError("there is no folder for the cache; say feature_cache=FOLDER, as to train.py, or --out FOLDER")
    typer.echo(fill_cache(cfg, Path(folder), workers, device, dtype, dry_run=dry_run))


def fill_cache(
    cfg: DictConfig,
    folder: Path,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    dry_run: bool = False,
    progress: bool = True,
) -> str:
    """Fill the cache for a resolved training configuration; returns a table of what is there.

    Raises:
        UserError: inputs that cannot be read (after all others are done), no room.
    """
    from unisono.data.feature_cache.build import fill_demands
    from unisono.data.feature_cache.demands import demands_of
    from unisono.data.prepare.steps import default_workers

    demands = demands_of(_frozen_parts(cfg.model), _data_sets(cfg), dtype)
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
        node = (cfg.get(name) or {}).get("dataset")
        if node is None:
            continue
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
