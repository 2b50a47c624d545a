"""Does a node fit what its ``_target_`` names? Names, required arguments and types, without calling it."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, cast, get_args, get_origin

from unisono.config.faults import UNRESOLVED
from unisono.errors import UserError
from unisono.suggest import did_you_mean, nearest


@dataclass(frozen=True)
class Parameters:
    """What a callable takes.

    Attributes:
        named: parameter -> annotation (``inspect.Parameter.empty`` where there is none).
        defaults: parameter -> default (``inspect.Parameter.empty`` where there is none).
        open_ended: further keywords are taken and cannot be checked.
    """

    named: dict[str, Any]
    defaults: dict[str, Any]
    open_ended: bool

    @property
    def required(self) -> list[str]:
        """Parameters without a default."""
        return [name for name, default in self.defaults.items() if default is inspect.Parameter.empty]


@dataclass(frozen=True)
class Misfit:
    """What is wrong with an argument ("" for the node itself); ``of_value`` if only its value is."""

    argument: str
    message: str
    of_value: bool = False


def find_target(target: Any) -> Callable[..., Any]:
    """The callable that a ``_target_`` names; an error says which part of the name does not exist."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"{target!r} is not a dotted name such as torch.optim.AdamW")
    parts = target.split(".")
    found: Any = None
    for index, part in enumerate(parts):
        name = ".".join(parts[: index + 1])
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
                raise UserError(f"{target}: importing {name} fails: {error}; install what is missing") from error
            raise UserError(_not_found(parts, index, found)) from error
        except Exception as error:  # a module of the user's own may fail in any way
            raise UserError(f"{target}: importing {name} fails: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UserError(f"{target} is a {type(found).__name__}, not a class or function")
    return found


def _not_found(parts: list[str], index: int, holder: Any) -> str:
    target, part = ".".join(parts), parts[index]
    if holder is None:
        return f"{target}: there is no package {part!r}; install it, or correct the name"
    names = [name for name in dir(holder) if not name.startswith("_")]
    names += [module.name for module in pkgutil.iter_modules(getattr(holder, "__path__", ()))]
    hint = did_you_mean(part, names) if nearest(part, names) else "correct the name"
    return f"{target}: {'.'.join(parts[:index])} has no {part!r}; {hint}"


def parameters(target: Callable[..., Any]) -> Parameters:
    """Parameters of a class or function.

    A class with ``**options`` whose base is one of this project's hands them on to it, so those of the base are known
    as well; where the options of other classes go cannot be seen.
    """
    bases = [cls for cls in getattr(target, "__mro__", ())[1:] if "__init__" in vars(cls)]
    layers = [target, *(vars(cls)["__init__"] for cls in bases if cls.__module__.startswith("unisono."))]
    named: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    open_ended = True
    for layer in layers:
        try:
            signature = inspect.signature(layer)
        except (TypeError, ValueError):  # some built-ins have none
            return Parameters(named, defaults, True)
        hints = _type_hints(cast(Any, layer).__init__ if isinstance(layer, type) else layer)
        open_ended = False
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.kind is not parameter.VAR_POSITIONAL and name != "self" and name not in named:
                named[name] = hints.get(name, parameter.annotation)
                defaults[name] = parameter.default
        if not open_ended:
            break
    return Parameters(named, defaults, open_ended)


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that exist for type checkers only
        return {}


def misfits(node: Mapping[str, Any], target: Callable[..., Any], given_later: Collection[str] = ()) -> list[Misfit]:
    """What is wrong with the arguments in ``node``.

    Args:
        node: resolved node with a ``_target_``.
        target: what it names.
        given_later: arguments that the code passes when it builds the object.
    """
    known = parameters(target)
    name = node["_target_"].rpartition(".")[2]
    found: list[Misfit] = []
    special = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
    for key, value in node.items():
        if key in special:
            continue
        if key not in known.named:
            if not known.open_ended or key.startswith("_"):
                choices = list(known.named) + (list(special) if key.startswith("_") else [])
                hint = did_you_mean(key, choices, "it takes") if choices else "it takes nothing"
                found.append(Misfit(key, f"{name} takes no {key!r}; {hint}"))
            continue
        wanted = known.named[key]
        if value != known.defaults[key] and not fits(value, wanted):
            wish = f"{_type_name(wanted)}{_near(value, wanted)}"
            found.append(Misfit(key, f"is {_shown(value)}, but {name} wants {wish}", of_value=True))
    if node.get("_convert_", "none") not in ("none", "partial", "object", "all"):
        found.append(Misfit("_convert_", f"is {node['_convert_']!r}; choose one of none, partial, object, all"))
    for key in ("_partial_", "_recursive_"):
        if not isinstance(node.get(key, False), bool):
            found.append(Misfit(key, f"is {node[key]!r}; it must be true or false"))
    if inspect.isabstract(target):
        found.append(Misfit("_target_", f"{name} is abstract; take a class that is made from it"))
    # What is given later to a partial is given by position first: the optimizer to a scheduler, parameters to it.
    is_partial = bool(node.get("_partial_"))
    required = known.required[1:] if is_partial else known.required
    absent = [key for key in required if key not in node and key not in given_later]
    if absent and "_args_" not in node and (given_later or not is_partial):
        advice = "give them" if is_partial else "give them, or say _partial_: true if the code that uses it does"
        found.append(Misfit("", f"{name} needs {', '.join(map(repr, absent))}; {advice}"))
    return found


def fits(value: Any, annotation: Any) -> bool:
    """Whether a configured value can be what an annotation asks for; what cannot be decided fits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    undecided = annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, (str, typing.TypeVar))
    if undecided or value is UNRESOLVED:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if annotation is None or annotation is type(None):
        return value is None
    wanted = origin or annotation
    if not isinstance(wanted, type):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return _builds(value, wanted)
    return _plain_fits(value, wanted, arguments)


def _plain_fits(value: Any, wanted: type, arguments: tuple[Any, ...]) -> bool:
    """``fits`` for numbers, texts, lists and mappings; what a class makes of them is its own affair."""
    scalars = (bool, int, float, str)
    if isinstance(value, Mapping):
        element = arguments[1] if len(arguments) == 2 else Any
        refused = wanted in (*scalars, list, tuple, set) or _is_ours(wanted)
        return not refused and all(fits(item, element) for item in value.values())
    if isinstance(value, list):  # YAML has no tuples or sets: a list stands for every collection
        if wanted in (*scalars, dict) or _is_ours(wanted):
            return False
        if wanted is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        element = arguments[0] if arguments else Any
        return all(fits(item, element) for item in value)
    if wanted in scalars:
        return type(value) is wanted or (wanted is float and type(value) is int)
    if value is None or _is_subclass(wanted, os.PathLike, undecided=False):
        return wanted is object or isinstance(value, str)
    collection = any(_is_subclass(kind, wanted, undecided=False) for kind in (list, dict))
    collection = collection or wanted in (tuple, set, frozenset)
    return wanted is object or not (collection or _is_ours(wanted))


def _is_ours(wanted: type) -> bool:
    """Whether only an object can be meant: a network, or a class of this project."""
    if wanted.__module__ == "torch.nn.modules.container":  # a mapping or list of networks serves as well
        return False
    return any(cls.__module__.startswith("unisono.") or cls.__qualname__ == "Module" for cls in wanted.__mro__)


def _is_subclass(cls: type, wanted: type, undecided: bool = True) -> bool:
    """``issubclass``; protocols and typed mappings cannot be asked and give ``undecided``."""
    try:
        return issubclass(cls, wanted)
    except TypeError:
        return undecided


def _builds(node: Mapping[str, Any], wanted: type) -> bool:
    """Whether a node with a ``_target_`` builds a ``wanted``; an unusable target is reported at its own place."""
    try:
        target = find_target(node["_target_"])
    except UserError:
        return True
    if wanted.__module__.startswith("omegaconf."):
        return True  # it takes the node as it is
    if node.get("_partial_"):
        return not _is_ours(wanted)
    if not isinstance(target, type):
        result = _type_hints(target).get("return")
        return not isinstance(result, type) or _is_subclass(result, wanted) or _is_subclass(wanted, result)
    return _is_subclass(target, wanted)


def _shown(value: Any) -> str:
    text = (
        f"a {value['_target_'].rpartition('.')[2]}"
        if isinstance(value, Mapping) and "_target_" in value
        else repr(value)
    )
    return text if len(text) < 80 else text[:77] + "..."


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in get_args(annotation))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    if annotation is type(None):
        return "null"
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_args(annotation)
        else str(annotation).replace("collections.abc.", "").replace("typing.", "")
    )


def _near(value: Any, annotation: Any) -> str:
    """The nearest choice, where a text stands for one of several."""
    options = annotation if get_origin(annotation) in (Union, types.UnionType) else None
    literals = [a for a in (get_args(options) if options else (annotation,)) if get_origin(a) is Literal]
    choices = [str(choice) for literal in literals for choice in get_args(literal)]
    hint = did_you_mean(value, choices) if isinstance(value, str) and choices else ""
    return f"; {hint}" if hint.startswith("did") else ""
