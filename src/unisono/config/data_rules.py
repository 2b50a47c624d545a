"""Rules about the chosen data: lists, files, shards, batches, and what model and data must agree on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.config.entries import EntryPoint
from unisono.config.faults import UNRESOLVED, Fault, has_unresolved, join
from unisono.config.manifest_rules import ChosenSet, check_manifests, task_of
from unisono.config.rules import try_building
from unisono.data.datasets.if_present import IF_PRESENT
from unisono.suggest import nearest

LISTS = ("train_dataloader", "val_dataloader", "datasets")
STREAMED = "unisono.data.streaming.streamed_dataloader"


def check_data(
    raw: Mapping[str, Any],
    plain: Mapping[str, Any],
    built: Mapping[str, Any],
    entry: EntryPoint,
    num_processes: int,
    with_files: bool,
) -> Iterator[Fault]:
    """Faults of the chosen data sets, alone and against the model.

    Args:
        raw: the configuration as it is written.
        plain: resolved.
        built: its parts that could be built, the model among them.
        entry: what it is for.
        num_processes: that will train together.
        with_files: also look whether files are there, and read the lines of manifests (no recordings).
    """
    missing = _Missing(plain, entry)
    for name in LISTS:
        loader = plain.get(name)
        place, nodes = _list_of(plain, name)
        if loader is None or place is None or nodes is UNRESOLVED:
            continue  # none, or a loader or data set of the user's own
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
        for where, node in usable:
            yield from _against_model(where, node, built.get("model"))
            limit = node.get("max_samples")
            if isinstance(limit, int) and limit < 1:
                yield Fault(f"{where}.max_samples", f"is {limit}; it must be at least 1, or null for all")
            if node.get(IF_PRESENT) and isinstance(loader, Mapping):
                yield Fault(where, f"has {IF_PRESENT}, which lists for training must not; take a node without it")
            missing.look(where, node)
        batch_size = loader.get("batch_size") if isinstance(loader, Mapping) else None
        if isinstance(batch_size, int) and batch_size < 1:
            yield Fault(f"{name}.batch_size", f"is {batch_size}; a batch holds at least 1 item")
        if with_files and name == "train_dataloader" and len(usable) == len(nodes):
            yield from _batch(loader, usable, plain, num_processes)
    yield from _vocabulary(plain, built.get("model"))
    yield from _streams(plain, num_processes, with_files)
    if with_files:
        yield from missing.faults()
        yield from check_manifests(chosen_sets(raw, plain), plain)


def _list_of(plain: Mapping[Any, Any], name: str) -> tuple[str | None, Any]:
    """Place and nodes of a list of data sets; None for loaders of another kind."""
    loader = plain.get(name)
    if not isinstance(loader, Mapping):
        return name, loader
    dataset = loader.get("dataset")
    if not isinstance(dataset, Mapping) or "datasets" not in dataset:
        return None, None
    return f"{name}.dataset.datasets", dataset["datasets"]


def chosen_sets(raw: Mapping[str, Any], plain: Mapping[str, Any]) -> list[ChosenSet]:
    """The data sets of all lists, each under the name at which its settings can be overridden."""
    chosen = []
    for name in LISTS:
        loader = plain.get(name)
        place, nodes = _list_of(plain, name)
        if place is None or not isinstance(nodes, list):
            continue
        written: Any = raw
        for part in place.split("."):
            written = written.get(part) if isinstance(written, Mapping) else None
        collate = loader.get("collate_fn") if isinstance(loader, Mapping) else None
        for index, node in enumerate(nodes):
            if isinstance(node, Mapping) and not has_unresolved(node):
                text = written[index] if isinstance(written, list) and len(written) == len(nodes) else None
                pointer = re.fullmatch(r"\$\{([\w.]+)\}", text) if isinstance(text, str) else None
                origin = pointer[1] if pointer else join(place, index)
                chosen.append(ChosenSet(origin, node, task_of(node), collate if isinstance(collate, Mapping) else {}))
    return chosen


def data_warnings(cfg: DictConfig) -> list[str]:
    """What is allowed and rarely meant, of a resolved configuration."""
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    warnings = []
    for name in LISTS[1:]:
        place, nodes = _list_of(plain, name)
        for index, node in enumerate(nodes if isinstance(nodes, list) else ()):
            if isinstance(node, Mapping) and node.get("degradation") is not None:
                warnings.append(
                    f"{place}[{index}] ({node.get('content')}): inputs are degraded on the fly, so another seed or "
                    "degradation measures on other inputs; for validation and test let the lines name files"
                )
    return warnings


def _against_model(place: str, node: Mapping[str, Any], model: Any) -> Iterator[Fault]:
    """A data set against the model it feeds: sample rate, and an encoder for its content."""
    autoencoder = getattr(model, "autoencoder", None)
    rate_hz = node.get("sample_rate")
    if autoencoder is not None and rate_hz not in (None, UNRESOLVED) and rate_hz != autoencoder.sample_rate:
        yield Fault(f"{place}.sample_rate", f"is {rate_hz}, the model's autoencoder has {autoencoder.sample_rate}")
    row = task_of(node)
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


class _Missing:
    """Manifests that do not exist, gathered so that one corpus is one fault; a set may be in a list several times."""

    def __init__(self, plain: Mapping[str, Any], entry: EntryPoint) -> None:
        root = plain.get("data_root")
        self.root = Path(root).absolute() if isinstance(root, str) else None
        mini = None if self.root is None else self.root / "mini"
        is_absent = mini is not None and not (mini / "corpus.json").is_file()
        self.will_be_built = mini if entry.builds_mini_corpus and is_absent else None
        self.paths: dict[str, str] = {}  # path -> the setting that names it first

    def look(self, place: str, node: Mapping[str, Any]) -> None:
        """Note what a node names and is not there."""
        if node.get(IF_PRESENT):
            return
        for key in ("content", "audio"):
            path = node.get(key)
            if not isinstance(path, str) or path in self.paths or Path(path).is_file():
                continue
            if self.will_be_built is None or self.will_be_built not in Path(path).absolute().parents:
                self.paths[path] = f"{place}.{key}"

    def faults(self) -> Iterator[Fault]:
        """One for each corpus that was not prepared, one for each other file."""
        absent: dict[Path, list[str]] = {}
        for path, place in self.paths.items():
            corpus = self._corpus(path)
            if corpus is not None:
                absent.setdefault(corpus, []).append(path)
            else:
                yield Fault(place, f"{path} does not exist; {_nearest_path(Path(path))}")
        for corpus, paths in absent.items():
            what = f"{paths[0]} does not exist, there is no {corpus} at all"
            yield Fault(self.paths[paths[0]], f"{what}; {_how_to_prepare(corpus)}")

    def _corpus(self, path: str) -> Path | None:
        """The folder of ``data_root`` that a path lies in, if that is not there at all."""
        own = Path(path).absolute()
        if self.root is None or self.root not in own.parents:
            return None
        name = own.relative_to(self.root).parts[0]
        # As the path is written, which is what the user has to type.
        written = next((parent for parent in Path(path).parents if parent.name == name), None)
        return written if written is not None and not (self.root / name).is_dir() else None


def _how_to_prepare(corpus: Path) -> str:
    from unisono.data.prepare.recipes import RECIPES

    if corpus.name not in RECIPES:
        return "make it as docs/prepare_data.md shows (unisono prepare --help lists the recipes), or correct the path"
    source = " --source FOLDER" if RECIPES[corpus.name].needs_source else ""
    return f"prepare it: unisono prepare {corpus.name}{source} --out {corpus}, or correct the path"


def _nearest_path(path: Path) -> str:
    """Where a path leaves what exists, and what is there."""
    for parent in path.absolute().parents:
        if parent.is_dir():
            wanted = path.absolute().relative_to(parent).parts[0]
            there = [entry.name for entry in sorted(parent.iterdir()) if not entry.name.startswith(".")]
            near = f", where there is {' or '.join(nearest(wanted, there))}" if nearest(wanted, there) else ""
            return f"{parent} has no {wanted}{near}; prepare the data (`unisono prepare --help`) or correct the path"
    return "correct the path"


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


def _streams(plain: Mapping[str, Any], num_processes: int, with_files: bool) -> Iterator[Fault]:
    """A loader of tar shards: shards enough, streams for all workers, and an epoch of a given length."""
    loader = plain.get("train_dataloader")
    if not isinstance(loader, Mapping) or loader.get("_target_") != STREAMED:
        return
    if loader.get("dataset") is not None:
        yield Fault(
            "train_dataloader.dataset",
            "a streamed loader has no data sets of manifests; leave out what sets them (a recipe of experiment/, or "
            "data@train_dataloader.dataset.datasets), and list shards in train_dataloader.datasets",
        )
    if plain.get("epoch_length", UNRESOLVED) is None:
        yield Fault("epoch_length", "is null, but a stream does not know its own length; write epoch_length=STEPS")
    streams, workers = loader.get("num_streams"), loader.get("num_workers", 0)
    if with_files and not has_unresolved(loader) and isinstance(loader.get("datasets"), list):
        built, found = try_building({**loader, "collate_fn": None}, "train_dataloader")  # it reads nothing yet
        yield from found
        streams = getattr(getattr(built, "dataset", None), "num_streams", streams)
    if isinstance(streams, int) and isinstance(workers, int):
        readers = num_processes * max(workers, 1)
        if streams % readers:
            yield Fault(
                "train_dataloader.num_streams",
                f"is {streams}, which {num_processes} processes x {max(workers, 1)} workers do not divide; set it to a "
                f"multiple of {readers}, of no more than there are shards (unisono shard --max-mb makes smaller ones)",
            )
