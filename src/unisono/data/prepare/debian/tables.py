"""The hand-made tables beside this file: what is heard in a package's recordings, which transcripts are wrong."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

_FOLDER = resources.files("unisono.data.prepare.debian") / "tables"


def load_table(package: str) -> dict[str, Any]:
    return json.loads((_FOLDER / f"{package}.json").read_text(encoding="utf-8"))


def tables_fingerprint() -> str:
    """Changes when any table does."""
    digest = hashlib.sha256()
    for file in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def first_match(table: dict[str, Any], name: str) -> Any:
    """The value of the first pattern (``*``, ``?``, ``[…]``) that fits; None if none does. Exact names come first."""
    if name in table:
        return table[name]
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), None)
