"""What to tell users about the errors of Hydra, OmegaConf and YAML: place, value, nearest valid name, remedy."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from unisono.config.faults import Fault, resolve_all
from unisono.config.tree import NOT_GROUPS, config_dir, hydra_in
from unisono.errors import UserError
from unisono.suggest import did_you_mean, dotted_keys, nearest, nearest_keys

_GRAMMAR = "docs/configuration.md shows how overrides are written"


@dataclass(frozen=True)
class Composition:
    """What was asked of Hydra: primary folder, name and overrides."""

    directory: Path
    config_name: str
    overrides: tuple[str, ...] = ()

    def _compose(self, overrides: Sequence[str]) -> DictConfig | None:
        """The composed config; None where it cannot be composed, which is reported by whoever asks for suggestions."""
        import hydra
        from hydra.errors import HydraException

        try:
            with hydra_in(self.directory):
                return hydra.compose(self.config_name, overrides=list(overrides), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError):
            return None

    def reference(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config without value overrides, not resolved, and Hydra's group choices; both empty if it fails."""
        cfg = self._compose(self._group_overrides()) or self._compose([])
        if cfg is None:
            return {}, {}
        plain, choices = OmegaConf.to_container(cfg), OmegaConf.to_container(cfg.hydra.runtime.choices)
        assert isinstance(plain, dict) and isinstance(choices, dict)
        return {str(k): v for k, v in plain.items()}, {str(k): v for k, v in choices.items()}

    def _group_overrides(self) -> list[str]:
        """Overrides that name a file of a group; they decide which keys there are."""
        groups = {group.rpartition("/")[2] for group in self.groups()} | set(self.groups())
        keys = ((override, override.lstrip("+~").partition("=")[0]) for override in self.overrides)
        return [override for override, key in keys if key.partition("@")[0] in groups]

    def interpolation_faults(self) -> list[Fault]:
        """All interpolations that do not resolve, but for those of Hydra's own node."""
        cfg = self._compose(self.overrides)
        if cfg is None:
            return []
        with open_dict(cfg):
            del cfg["hydra"]
        return resolve_all(cfg)[1]

    def not_utf8(self) -> Path | None:
        """The first config file that is not UTF-8."""
        for path in sorted(self.directory.rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                return path
        return None

    def groups(self) -> list[str]:
        """Config groups of the primary folder and of the project's tree, such as ``model/backbone``."""
        found: dict[str, None] = {}
        for root in (self.directory, config_dir()):
            for folder, inner, files in os.walk(root):
                inner[:] = sorted(name for name in inner if not name.startswith("."))
                relative = Path(folder).relative_to(root)
                if relative.parts and relative.parts[0] not in NOT_GROUPS and any(f.endswith(".yaml") for f in files):
                    found[relative.as_posix()] = None
        return list(found)

    def options(self, group: str) -> list[str]:
        """Names of the files of a group."""
        roots = (self.directory, config_dir())
        return sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})


def explain(error: BaseException, composition: Composition | None = None) -> str | None:
    """The message for an error that a user can mend; None for one that is ours, or in code of the user's own.

    Args:
        error: what was raised.
        composition: where it was raised while Hydra composed this, before any other code was run.
    """
    from hydra.errors import HydraException, InstantiationException

    meant: BaseException | None = error
    while meant is not None and not isinstance(meant, UserError):
        meant = meant.__cause__  # what was raised on purpose; an accident while handling an error is none of the user's
    if meant is not None:
        return str(meant)
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if composition is None:
        return None
    if isinstance(error, (HydraException, yaml.YAMLError)):
        return _hydra_message(error, composition)
    return _while_composing(error, composition)


def _while_composing(error: BaseException, composition: Composition) -> str | None:
    """Errors of other kinds that only a file or an override can have caused."""
    if isinstance(error, OmegaConfBaseException):
        faults = composition.interpolation_faults()
        if faults:
            return "\n  ".join(map(str, faults))
        where = f"{error.full_key}: " if error.full_key else ""
        return f"{where}{str(error).splitlines()[0]}"
    if isinstance(error, UnicodeDecodeError):
        return f"{composition.not_utf8() or 'a config file'} is not UTF-8; save it as UTF-8"
    if isinstance(error, RecursionError):
        return "a file holds itself: a defaults list that leads back to its own file, or a YAML alias inside its anchor"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, ValueError) and str(error):
        text = str(error).splitlines()[0]
        hint = (
            "; a group takes the name of a file, such as model=tiny, and ~GROUP leaves it out"
            if text.startswith("Config group")
            else ""
        )
        return f"{text}{hint}"
    return None


def _first(error: BaseException, wanted: Callable[[BaseException], bool]) -> BaseException | None:
    """The first error of a chain of causes that is ``wanted``."""
    cause: BaseException | None = error
    while cause is not None and not wanted(cause):
        cause = cause.__cause__ or cause.__context__
    return cause


def _instantiation(error: Exception) -> str | None:
    """A ValueError that a constructor of ours raises is about a value in the config that names it."""
    place = next((line for line in str(error).splitlines() if line.startswith("full_key: ")), "")
    cause = _first(error, lambda e: isinstance(e, ValueError))
    raised_in = traceback.extract_tb(cause.__traceback__)[-1].filename if cause is not None else ""
    if cause is None or not place or not raised_in.startswith(str(Path(__file__).parents[1])):
        return None
    return f"{re.sub(r'datasets([0-9]+)', r'datasets[' + chr(92) + r'1]', place.removeprefix('full_key: '))}: {cause}"


def _hydra_message(error: BaseException, composition: Composition) -> str:
    from hydra.errors import MissingConfigException, OverrideParseException

    marked = _first(error, lambda e: isinstance(e, yaml.MarkedYAMLError))
    if isinstance(marked, yaml.MarkedYAMLError) and marked.problem_mark is not None:
        mark = marked.problem_mark
        return f"{mark.name}:{mark.line + 1}: not valid YAML: {marked.problem or marked.context}"
    if isinstance(error, OverrideParseException):
        return _unparsed(error)
    if isinstance(error, MissingConfigException):
        return _missing_file(error, composition)
    text = str(error)
    unknown = re.match(r"Could not (override|delete from config\.) '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[2], text, error.__cause__, composition)
    if "looks like a config group override" in text:
        group = re.search(r"config group '([^']+)'", text)
        name = group[1] if group else ""
        return f"there is no config group {name!r}; {did_you_mean(name, composition.groups())}"
    cause = error.__cause__
    if cause is not None and (not text or text.startswith("Error merging override")):
        place = getattr(cause, "full_key", None) or text
        text = f"{place}: {str(cause).splitlines()[0]}".removeprefix(": ")
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "hydra.cc" not in line)


def _unparsed(error: Any) -> str:
    override = error.override
    if override is not None and "=" not in override:
        return f"override {override!r} has no value; write {override}=VALUE (or ~{override} to delete it). {_GRAMMAR}"
    lines = [line for line in str(error).splitlines() if not line.startswith(("See https", "Error parsing"))]
    problem = lines[0] if lines else "its grammar is not that of an override"
    return f"override {override!r} cannot be read ({problem}); quote special characters: 'key=\"value\"'. {_GRAMMAR}"


def _missing_file(error: Any, composition: Composition) -> str:
    missing, options = error.missing_cfg_file, list(error.options or ())
    place = re.match(r"In '([^']+)'", str(error))
    where = f" (asked for in {place[1]}.yaml or by an override)" if place else ""
    group, _, name = (missing or "").rpartition("/")
    if not missing:
        return str(error).splitlines()[0]
    if not group:
        names = [path.stem for root in (composition.directory, config_dir()) for path in sorted(root.glob("*.yaml"))]
        hint = did_you_mean(name.removesuffix(".yaml"), names)
        return f"there is no config {name!r} in {composition.directory} or the project's tree; {hint}"
    if not options and group not in composition.groups():
        return f"there is no config group {group!r}{where}; {did_you_mean(group, composition.groups())}"
    hint = did_you_mean(name, options or composition.options(group))
    near = nearest(name, options)
    everything = f" `{group}` has: {', '.join(options)}" if near else ""
    return f"the config group `{group}` has no {name!r}{where}; {hint}{everything}"


def _unknown_key(key: str, text: str, cause: BaseException | None, composition: Composition) -> str:
    if "Did you mean to override one of" in text:  # Hydra knows: the package is wrong
        return " ".join(text.splitlines()[:2])
    config, choices = composition.reference()
    if not key.startswith("hydra."):
        config.pop("hydra", None)
    inner = getattr(cause, "full_key", None)
    if isinstance(inner, str) and key in dotted_keys(config):  # a mapping was given, and one of its keys is unknown
        key = inner
    if key in NOT_GROUPS:
        return (
            f"{key} is not in the configuration; its files are for `{key} launch --config_file configs/{key}/NAME.yaml`"
        )
    # A dotted name at a group's place (model.content_adapter=x) and a group's name misspelled are both seen.
    groups = [name for name in choices if not name.startswith("hydra/")]
    near = [name for name in groups if name.startswith(f"{key}@")]
    near = near or (nearest(key, groups, 2) if "/" in key or "." not in key else [])
    if "/" not in key and not any("@" in name for name in near):
        near += [name for name in nearest_keys(key, config) if name not in near]
    everything = f"choose one of {', '.join(config)}" if config else "see --cfg job"
    hint = f"did you mean {' or '.join(near[:4])}?" if near else everything
    if ".datasets." in key:
        setting = key.rpartition(".")[2]
        return f"{key!r} is in a list; set it where the list points to: +data_dict.NAME.SPLIT.{setting}=VALUE"
    addable = _taken_by_parent(key, config)
    if addable:
        return f"{key!r} is not in the configuration, but {addable} takes it: write +{key}=VALUE"
    return f"{key!r} is not in the configuration; {hint}"


def _taken_by_parent(key: str, config: Any) -> str | None:
    """The ``_target_`` of the node that ``key`` would be set in, if it has such a parameter."""
    from unisono.config.signatures import find_target, parameters

    *parents, last = key.split(".")
    for part in parents:
        config = config.get(part) if isinstance(config, dict) else None
    target = config.get("_target_") if isinstance(config, dict) else None
    try:
        known = parameters(find_target(target)) if target else None
    except UserError:
        return None
    return str(target) if known is not None and last in known.named else None


def own_traceback(error: BaseException, hidden: Iterable[str]) -> str:
    """An error's traceback without the frames of files below the folders ``hidden``."""
    folders = tuple(hidden)
    shown: traceback.TracebackException | None = traceback.TracebackException.from_exception(error)
    top = shown
    while shown is not None:
        shown.stack = traceback.StackSummary.from_list(f for f in shown.stack if not f.filename.startswith(folders))
        shown = shown.__cause__ or shown.__context__
    assert top is not None
    return "".join(top.format()).rstrip()
