"""A model folder by its path, or by its id on the Hugging Face Hub."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.files import exists
from unisono.inference.model_folder.config_file import CARD, CONFIG, PARTS, WEIGHTS

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a model folder has, and nothing else that lies in a repository.
_PATTERNS = [CONFIG, WEIGHTS, CARD, *(f"{PARTS}/*.{kind}" for kind in ("json", "txt", "safetensors"))]


def local_folder(name: str | os.PathLike, download: Callable[..., str] | None = None) -> Path:
    """The folder on this machine of a path or a Hub id; what is on the Hub is downloaded, once.

    Args:
        name: a folder, or ``organisation/model``, with ``@revision`` (branch, tag or commit) to pin a version.
        download: ``huggingface_hub.snapshot_download``, or what stands in for it.

    Raises:
        UserError: neither; nothing there, or not for this user; no connection.
    """
    folder = Path(name).expanduser()
    if exists(folder) or isinstance(name, os.PathLike):
        return folder
    repository, _, revision = str(name).partition("@")
    if not _ID.fullmatch(repository) or len(repository) > 96 or ".." in repository or "--" in repository:
        if "@" not in str(name):
            raise UserError(f"{name} is no model folder (there is no such folder); train first, or check the path")
        raise UserError(f"{name}: neither a folder nor an id on the Hugging Face Hub (organisation/model@revision)")
    if "@" in str(name) and not re.fullmatch(r"\w[\w./-]*", revision):
        raise UserError(f"{name}: {revision!r} is no revision; give a branch, a tag or a commit after the @")
    if download is None:
        from huggingface_hub import snapshot_download

        download = snapshot_download
    try:
        return Path(download(repository, revision=revision or None, allow_patterns=_PATTERNS))
    except Exception as error:
        message = _explained(str(name), repository, revision, error)
        if message is None:
            raise
        raise UserError(message) from error


def _explained(name: str, repository: str, revision: str, error: Exception) -> str | None:
    """Cause and remedy; None for what is no fault of the id or the connection."""
    from huggingface_hub import errors

    reason = (str(error).strip().splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    nor = f"there is no folder {name!r}, and"
    remedies: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
        (
            errors.RevisionNotFoundError,
            f"the model {repository!r} on the Hugging Face Hub has no revision {revision!r}; leave @{revision} out, or "
            "name a branch, tag or commit of it",
        ),
        (
            errors.GatedRepoError,
            f"the model {repository!r} on the Hugging Face Hub asks for consent first; give it on its page, then log "
            "in (hf auth login)",
        ),
        (
            errors.RepositoryNotFoundError,
            f"{nor} the Hugging Face Hub has no model {repository!r}, or not for you; check the spelling, or log in "
            "(hf auth login) if it is private",
        ),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            f"{nor} the Hugging Face Hub cannot be reached; connect (and unset HF_HUB_OFFLINE), or download the model "
            "elsewhere and give its folder",
        ),
        (errors.HFValidationError, f"{nor} this is no id on the Hugging Face Hub; write organisation/model@revision"),
    ]
    for kinds, remedy in remedies:
        if isinstance(error, kinds):
            return f"{name}: {remedy} ({reason[:300]})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        remedy = "the model cannot be written to the cache; make room, or set HF_HOME to a folder that takes it"
        return f"{name}: {remedy} ({reason[:300]})"
    if isinstance(error, OSError) or type(error).__module__.startswith("http"):  # of whichever library asks
        return f"{name}: {nor} the Hugging Face Hub did not answer; try again later, or give a folder ({reason[:300]})"
    return None


def boundary_of(folder: Path) -> Path:
    """What links in a model folder may lead to: the folder itself, or the files that downloads from the Hub share."""
    resolved: Any = folder.resolve()
    if resolved.parent.name == "snapshots" and (resolved.parent.parent / "blobs").is_dir():
        return resolved.parent.parent
    return resolved
