"""The pre-flight check: every fault of a configuration at once, in seconds, before any weight or data is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.config import rules
from unisono.config.data_rules import check_data
from unisono.config.entries import INFERENCE, EntryPoint
from unisono.config.faults import UNRESOLVED, Fault, items, join, resolve_all, written_references
from unisono.config.signatures import Misfit, find_target, misfits
from unisono.config.tree import NOT_GROUPS, config_dir, hydra_in
from unisono.data.datasets.if_present import IF_PRESENT
from unisono.errors import UserError
from unisono.suggest import did_you_mean

_NOT_A_GROUP = "its files are for Accelerate: accelerate launch --config_file configs/accelerate/NAME.yaml train.py"


def check_config(cfg: DictConfig, entry: EntryPoint, *, num_processes: int = 1, with_files: bool = True) -> list[Fault]:
    """All faults of a composed configuration.

    Args:
        cfg: as Hydra composed it, interpolations unresolved, without the node ``hydra``.
        entry: what it is for.
        num_processes: that will train together.
        with_files: also look whether the chosen manifests exist and hold enough lines.
    """
    raw = _plain(cfg)
    plain, faults = resolve_all(OmegaConf.create(raw))
    faults += _missing_nodes(plain, entry)
    misplaced = list(_targets(raw, plain, entry))
    faults += [fault for _, fault in misplaced if fault is not None]
    is_read = _reader(raw)
    faults += _unread(raw, entry, is_read)
    faults += _data_dict(plain, is_read)
    broken = {place.partition(".")[0] for place in (*(f.place for f in faults), *(node for node, _ in misplaced))}
    built, build_faults = rules.build(plain, [name for name in entry.built if name not in broken])
    faults += build_faults
    if entry is INFERENCE:
        faults += rules.check_inference(plain)
    if "optimizer" not in broken:
        faults += rules.check_optimizer(plain)
    if "trainer" not in broken:
        faults += rules.check_trainer(plain)
    faults += check_data(raw, plain, built, entry, num_processes, with_files)
    return _without_consequences(faults, raw)


def _without_consequences(faults: Sequence[Fault], raw: Mapping[str, Any]) -> list[Fault]:
    """Faults without those that only follow from another one, and with a hint where a group was meant."""
    places = Counter(fault.place for fault in dict.fromkeys(faults))
    kept: dict[Fault, None] = {}
    for fault in faults:
        if places[fault.place] > 1 and " takes no " in fault.message:
            continue  # said better by the other
        holder = re.search(r"node `([^`]+)` is not a container", fault.message)
        if holder and holder[1] in places:
            continue
        group, written = fault.place.replace(".", "/"), _written(raw, fault.place)
        if isinstance(written, str) and (config_dir() / group / f"{written}.yaml").is_file():
            fault = Fault(fault.place, f"{fault.message}; a file of a group is chosen with slashes: {group}={written}")
        kept[fault] = None
    return list(kept)


def _written(raw: Any, place: str) -> Any:
    """The value at a dotted name, None where there is none."""
    for part in place.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """As plain containers, interpolations as written, without Hydra's own node."""
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items() if key != "hydra"}


def _missing_nodes(plain: Mapping[str, Any], entry: EntryPoint) -> Iterator[Fault]:
    """Required top-level nodes that are absent or do not say what to build."""
    advice = f"write it, or take it over by `defaults: [{entry.config_name}, _self_]`"
    for name, example in entry.required.items():
        node = plain.get(name)
        if node is UNRESOLVED or (node is None and name in entry.nullable):
            continue
        if isinstance(node, Mapping) and "_target_" in node:
            if name in entry.partial and node.get("_partial_") is not True:
                yield Fault(name, "is called by the trainer, with arguments of its own; set _partial_: true")
            elif name not in entry.partial and node.get("_partial_") is True:
                yield Fault(name, "the object itself is needed; remove _partial_")
            continue
        what = "is missing" if node is None else "lacks _target_"
        yield Fault(name, f"{what}; {advice}, e.g. {name}: {{{example}}}")
    for name in entry.settings:
        if name not in plain:
            yield Fault(name, f"is missing; {advice}")


def _targets(raw: Mapping[str, Any], plain: Mapping[str, Any], entry: EntryPoint) -> Iterator[tuple[str, Fault | None]]:
    """Nodes whose ``_target_`` does not exist or does not take their arguments, each with its fault.

    One wrong setting may reach many nodes through pointers; its fault stands where it is written, and comes once.
    """
    reported: set[str] = set()

    def walk(raw_node: Any, node: Any, place: str) -> Iterator[tuple[str, Fault | None]]:
        if not isinstance(node, (Mapping, list)) or type(raw_node) is not type(node):
            return  # a pointer: checked where it points to
        if isinstance(node, Mapping) and node.get("_target_", UNRESOLVED) is not UNRESOLVED:
            for misfit in _node(node, entry, place):
                where = join(place, misfit.argument) if misfit.argument else place
                origin = _origin(raw, dict(raw_node).get(misfit.argument)) if misfit.of_value else None
                fault = Fault(origin or where, misfit.message)
                yield place, None if origin in reported else fault
                reported.update([origin] if origin else [])
        if isinstance(node, Mapping) and node.get("_recursive_") is False:
            return  # its inner nodes are for the object itself to build
        for key, value in items(node):
            yield from walk(raw_node[key], value, join(place, key))

    yield from walk(raw, plain, "")


def _node(node: Mapping[Any, Any], entry: EntryPoint, place: str) -> list[Misfit]:
    """What is wrong with one node."""
    try:
        target = find_target(node["_target_"])
    except UserError as error:
        return [Misfit("_target_", str(error))]
    known = {str(key): value for key, value in node.items() if value is not UNRESOLVED and key != IF_PRESENT}
    unresolved = [str(key) for key, value in node.items() if value is UNRESOLVED]
    return misfits(known, target, [*entry.given_later.get(place, ()), *unresolved])


def _origin(raw: Mapping[str, Any], written: Any) -> str | None:
    """The setting that a pointer such as ``${seed}`` leads to in the end; None for anything else."""
    found = None
    while isinstance(written, str) and (pointer := re.fullmatch(r"\$\{([\w.]+)\}", written)) and pointer[1] != found:
        found = pointer[1]
        written = _written(raw, found)
    return found


def _reader(raw: Mapping[str, Any]) -> Callable[[str], bool]:
    """Tells whether an interpolation, of the config or of Hydra's own settings, may refer to a place."""
    from hydra.core.hydra_config import HydraConfig

    read = written_references(dict(raw))
    if HydraConfig.initialized():
        read |= written_references(OmegaConf.to_container(HydraConfig.instance().cfg, resolve=False))
    # Relative interpolations name the last part only.
    return lambda place: (
        any(name == place or name.startswith(f"{place}.") for name in read) or (place.rpartition(".")[2] in read)
    )


def _unread(raw: Mapping[str, Any], entry: EntryPoint, is_read: Callable[[str], bool]) -> Iterator[Fault]:
    """Settings outside nodes with a ``_target_`` that the project does not know and nothing refers to."""
    import hydra

    with hydra_in(config_dir()):
        reference = _plain(hydra.compose(entry.config_name))

    def unread(node: Any, known: Any, place: str) -> Iterator[Fault]:
        if not isinstance(node, Mapping) or not isinstance(known, Mapping) or "_target_" in node or "_target_" in known:
            return
        for key, value in node.items():
            where = join(place, key)
            if where in ("data_dict", "generation.tasks", *entry.required) or str(key).startswith(("x-", "_", ".")):
                continue  # the latter hold what YAML anchors refer to
            if key in known:
                yield from unread(value, known[key], where)
            elif not is_read(where) and not (isinstance(value, Mapping) and "_target_" in value):
                hint = _NOT_A_GROUP if where in NOT_GROUPS else did_you_mean(str(key), map(str, known))
                hint += " (notes of your own begin with x-)" if not place else ""
                yield Fault(where, f"nothing reads this setting; {hint}")

    yield from unread(raw, reference, "")


def _data_dict(plain: Mapping[str, Any], is_read: Callable[[str], bool]) -> Iterator[Fault]:
    """Splits of named data sets that do not say what they are: a name misspelled behind a ``+``, as a rule."""
    sets = plain.get("data_dict")
    if not isinstance(sets, Mapping):
        return
    whole = [name for name, splits in sets.items() if isinstance(splits, Mapping) and _has_target(splits)]
    for name, splits in sets.items():
        if isinstance(splits, Mapping) and "_target_" in splits:
            continue  # a data set without splits
        for split, node in splits.items() if isinstance(splits, Mapping) else [("", splits)]:
            place = f"data_dict.{name}.{split}".rstrip(".")
            if (isinstance(node, Mapping) and "_target_" in node) or (not isinstance(node, Mapping) and is_read(place)):
                continue
            if name not in whole:
                hint = did_you_mean(str(name), map(str, whole), "there are")
                yield Fault(place, f"there is no data set {name!r}; {hint}")
            elif node is not UNRESOLVED:
                good = [str(key) for key, value in splits.items() if isinstance(value, Mapping) and "_target_" in value]
                yield Fault(place, f"lacks _target_; {did_you_mean(str(split), good, 'this data set has')}")


def _has_target(splits: Mapping[str, Any]) -> bool:
    return any(isinstance(node, Mapping) and "_target_" in node for node in splits.values())


def overrides_without_effect(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Warnings about overrides of data sets that no chosen list points to."""
    read = written_references({key: value for key, value in _plain(cfg).items() if key != "data_dict"})
    warnings = []
    for override in overrides:
        parts = override.lstrip("+~").partition("=")[0].split(".")
        if parts[0] != "data_dict" or len(parts) < 3:
            continue
        node = ".".join(parts[:3])
        if not any(name == node or node.startswith(f"{name}.") for name in read):
            warnings.append(f"{override}: no chosen list of data sets points to ${{{node}}}, so this has no effect")
    return warnings


def debug_without_effect(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Warnings about values of ``debug=NAME`` that the primary configuration, which comes after it, sets otherwise."""
    names = [value for key, _, value in (override.partition("=") for override in overrides) if key == "debug"]
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    warnings = []
    for name in names:
        path = config_dir() / "debug" / f"{name}.yaml"
        for place, value in _leaves(OmegaConf.load(path)) if path.is_file() else ():
            now = OmegaConf.select(cfg, place)
            if place not in given and now != value:
                warnings.append(
                    f"debug={name} says {place}={value}, your configuration says {now} after it, which counts; give "
                    f"{place}={value} on the command line"
                )
    return warnings


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, DictConfig):
            yield from _leaves(value, name)
        else:
            yield name, value
