"""Rules across the parts of a configuration: model and data must speak of the same rates, symbols and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unisono.config.entries import EntryPoint
from unisono.config.faults import UNRESOLVED, Fault, has_unresolved, join
from unisono.config.signatures import find_target
from unisono.data.datasets.if_present import IF_PRESENT
from unisono.errors import UserError

_LISTS = ("train_dataloader", "val_dataloader", "datasets")


def build(plain: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
    """Build nodes without memory for weights; what their constructors refuse are faults.

    The parts of a node are built one by one first, so that each reports its own fault; then the whole, which sees
    whether they fit together. Parameters lie on the meta device, everything else is real, so that constructors may
    look at their numbers.
    """
    from accelerate import init_empty_weights

    built: dict[str, Any] = {}
    faults: list[Fault] = []
    with init_empty_weights(include_buffers=False):
        for name in names:
            node = plain.get(name)
            if not isinstance(node, Mapping) or "_target_" not in node or has_unresolved(node):
                continue
            parts = node.items() if node.get("_recursive_", True) else ()
            found = [fault for key, part in parts for fault in _try(part, join(name, key))[1]]
            if not found:
                built[name], found = _try(node, name)
            faults += found
    return {name: value for name, value in built.items() if value is not None}, faults


def _try(node: Any, place: str) -> tuple[Any, list[Fault]]:
    """The object of a node, or why its constructor refuses."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping):
        return node, []
    if "_target_" not in node:
        parts = {key: _try(value, join(place, key)) for key, value in node.items()}
        return {key: part for key, (part, _) in parts.items()}, [f for _, found in parts.values() for f in found]
    try:
        return instantiate(dict(node)), []
    except Exception as error:
        cause = error.__cause__ or error if isinstance(error, InstantiationException) else error
        if not isinstance(cause, (ValueError, TypeError, AssertionError)):
            return None, []  # a fault in code; building it in earnest shows where
        return None, [Fault(place, f"{node['_target_'].rpartition('.')[2]}: {_first_line(cause)}")]


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_trainer(plain: Mapping[str, Any]) -> list[Fault]:
    """Numbers that the trainer refuses, without a trainer."""
    from unisono.training.settings import refused_settings
    from unisono.training.trainer import Trainer

    node = plain.get("trainer")
    if not isinstance(node, Mapping) or has_unresolved(node):
        return []
    target = find_target(node["_target_"])
    if not isinstance(target, type) or not issubclass(target, Trainer):
        return []
    return [Fault(f"trainer.{name}", message) for name, message in refused_settings(node)]


def check_inference(plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Settings of ``inference.py`` that are read by its code."""
    from unisono.inference.pipeline import choose_device

    try:
        choose_device(str(plain.get("device", "auto")))
    except UserError as error:
        yield Fault("device", str(error))
    precision, batch_size = plain.get("mixed_precision"), plain.get("batch_size")
    if precision not in ("no", "bf16", UNRESOLVED):
        quoted = '; YAML takes a bare no for false, so write "no"' if precision is False else ""
        yield Fault("mixed_precision", f"is {precision!r}; use no or bf16{quoted}")
    if batch_size is not UNRESOLVED and (not isinstance(batch_size, int) or batch_size < 1):
        yield Fault("batch_size", f"is {batch_size!r}; a batch holds at least 1 item")


def check_optimizer(plain: Mapping[str, Any]) -> list[Fault]:
    """Settings that the optimizer refuses, such as a negative learning rate."""
    import torch
    from hydra.utils import instantiate

    node = plain.get("optimizer")
    if not isinstance(node, Mapping) or not node.get("_partial_") or has_unresolved(node):
        return []
    try:
        instantiate(dict(node))([torch.nn.Parameter(torch.zeros(2, 2))])
    except ValueError as error:
        return [Fault("optimizer", _first_line(error))]
    except Exception:  # a factory that needs the real parameters
        return []
    return []


def check_data(
    plain: Mapping[str, Any], built: Mapping[str, Any], entry: EntryPoint, num_processes: int, with_files: bool
) -> Iterator[Fault]:
    """Faults of the chosen data sets, alone and against the model."""
    mini = Path(str(plain.get("data_root")), "mini").absolute()
    will_be_built = mini if entry.builds_mini_corpus and not (mini / "corpus.json").is_file() else None
    for name in _LISTS:
        loader = plain.get(name)
        place, nodes = name, loader
        if isinstance(loader, Mapping):
            dataset = loader.get("dataset")
            place, nodes = f"{name}.dataset.datasets", dataset.get("datasets") if isinstance(dataset, Mapping) else None
            if not isinstance(dataset, Mapping) or "datasets" not in dataset:
                continue  # a loader or data set of the user's own
        elif loader is None:
            continue
        if nodes is UNRESOLVED:
            continue
        if not isinstance(nodes, list) or not nodes:
            yield Fault(
                place, f"is {nodes!r}, not a list of data sets; point it to a file such as configs/data/train.yaml"
            )
            continue
        usable = [(join(place, i), node) for i, node in enumerate(nodes) if isinstance(node, Mapping)]
        for index, node in enumerate(nodes):
            if not isinstance(node, Mapping) and node is not UNRESOLVED:
                yield Fault(
                    join(place, index), f"is {node!r}, not a data set; write a pointer: - ${{data_dict.NAME.SPLIT}}"
                )
        seen: set[str] = set()
        for where, node in usable:
            yield from _against_model(where, node, built.get("model"))
            limit = node.get("max_samples")
            if isinstance(limit, int) and limit < 1:
                yield Fault(f"{where}.max_samples", f"is {limit}; it must be at least 1, or null for all")
            if node.get(IF_PRESENT) and isinstance(loader, Mapping):
                yield Fault(where, f"has {IF_PRESENT}, which lists for training must not; take a node without it")
            if with_files:
                yield from _files(where, node, will_be_built, seen)
        batch_size = loader.get("batch_size") if isinstance(loader, Mapping) else None
        if isinstance(batch_size, int) and batch_size < 1:
            yield Fault(f"{name}.batch_size", f"is {batch_size}; a batch holds at least 1 item")
        if with_files and name == "train_dataloader" and len(usable) == len(nodes):
            yield from _batch(loader, usable, plain, num_processes)
    yield from _vocabulary(plain, built.get("model"))


def _against_model(place: str, node: Mapping[str, Any], model: Any) -> Iterator[Fault]:
    """A data set against the model it feeds: sample rate, and an encoder for its content."""
    from unisono.tasks import TASKS

    autoencoder = getattr(model, "autoencoder", None)
    rate_hz = node.get("sample_rate")
    if autoencoder is not None and rate_hz not in (None, UNRESOLVED) and rate_hz != autoencoder.sample_rate:
        yield Fault(f"{place}.sample_rate", f"is {rate_hz}, the model's autoencoder has {autoencoder.sample_rate}")
    try:
        row = TASKS.get(getattr(find_target(node.get("_target_")), "task", ""))
    except UserError:
        return
    encoders = getattr(model, "content_encoders", None)
    if row is not None and encoders is not None and row.modality not in encoders:
        yield Fault(
            place,
            f"{row.name} has {row.modality!r} content, and model.content_encoders has only {', '.join(encoders)}; "
            f"add an encoder for it or leave the data set out",
        )


def _vocabulary(plain: Mapping[str, Any], model: Any) -> Iterator[Fault]:
    """The collator numbers phonemes and speakers; the model must number them alike."""
    encoders = dict(getattr(model, "content_encoders", None) or {}) if model is not None else {}
    for name in ("train_dataloader", "val_dataloader"):
        loader = plain.get(name)
        collate = loader.get("collate_fn") if isinstance(loader, Mapping) else None
        if not isinstance(collate, Mapping):
            continue
        for modality, encoder in encoders.items():
            for key in ("phonemes", "speakers"):
                given, own = collate.get(key), getattr(encoder, key, None)
                if isinstance(given, list) and own is not None and tuple(given) != tuple(own):
                    yield Fault(
                        f"{name}.collate_fn.{key}",
                        f"differs from model.content_encoders.{modality}.{key}; let both point to ${{{key}}}",
                    )


def _files(place: str, node: Mapping[str, Any], will_be_built: Path | None, seen: set[str]) -> Iterator[Fault]:
    """Manifests that do not exist, each once; a set may be in a list several times."""
    if node.get(IF_PRESENT):
        return
    for key in ("content", "audio"):
        path = node.get(key)
        if not isinstance(path, str) or path in seen or Path(path).is_file():
            continue
        if will_be_built is None or will_be_built not in Path(path).absolute().parents:
            seen.add(path)
            advice = "prepare the data (`unisono prepare --help`) or correct the path"
            yield Fault(f"{place}.{key}", f"{path} does not exist; {advice}")


def _batch(
    loader: Any, nodes: Sequence[tuple[str, Mapping[str, Any]]], plain: Mapping[str, Any], num_processes: int
) -> Iterator[Fault]:
    """One step must not need more items than there are."""
    trainer = plain.get("trainer")
    accumulation = trainer.get("gradient_accumulation_steps", 1) if isinstance(trainer, Mapping) else 1
    batch_size = loader.get("batch_size")
    if not isinstance(batch_size, int) or not isinstance(accumulation, int):
        return
    if batch_size < 1 or accumulation < 1:
        return
    needed, found = batch_size * num_processes * accumulation, 0
    for _, node in nodes:
        path, limit = node.get("content"), node.get("max_samples")
        if not isinstance(path, str) or not Path(path).is_file():
            return  # not known yet
        with Path(path).open("rb") as lines:
            for count, _ in enumerate(lines):
                if found >= needed or (isinstance(limit, int) and count >= limit):
                    break
                found += 1
    if found < needed:
        parts = f"{batch_size} items x {num_processes} processes x {accumulation} micro-batches"
        yield Fault(
            "train_dataloader.batch_size",
            f"one step takes {needed} items ({parts}), but the training sets hold {found}; lower one of them",
        )
