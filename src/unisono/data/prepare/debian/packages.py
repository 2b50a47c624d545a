"""Debian packages as sources of recordings: downloaded with apt-get, unpacked with dpkg-deb, nothing installed.

Neither step needs root. A package already in the cache is used as it is, without the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unisono.errors import UserError


@dataclass(frozen=True)
class Package:
    """A package in the cache: ``deb`` is its file."""

    name: str
    version: str
    deb: Path


def fetch_package(name: str, cache: Path) -> Package:
    """The package's file, from the cache or else from the Debian archive that apt is set up for.

    Raises:
        UserError: no apt-get or dpkg-deb, no network, unknown package, damaged file.
    """
    _require("dpkg-deb")
    cached = sorted(cache.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime_ns)
    deb = cached[-1] if cached else _download(name, cache)
    try:
        version = _run(["dpkg-deb", "--field", str(deb), "Version"])
    except _CommandError as error:
        raise UserError(f"{deb} is not a Debian package ({error}); remove it and run again") from None
    return Package(name, version.strip(), deb)


def unpack_package(package: Package, folder: Path) -> Path:
    """Unpack into ``folder/NAME_VERSION``, whole or not at all; returns that folder."""
    target = folder / f"{package.name}_{package.version.replace(':', '%3a')}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
        unpacked = Path(temporary) / "root"
        try:
            _run(["dpkg-deb", "--extract", str(package.deb), str(unpacked)])
        except _CommandError as error:
            raise UserError(f"{package.deb} cannot be unpacked ({error}); remove it and run again") from None
        os.replace(unpacked, target)
    return target


class _CommandError(Exception):
    pass


def _download(name: str, cache: Path) -> Path:
    _require("apt-get")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
        try:
            _run(["apt-get", "download", "-q", name], cwd=temporary)
        except _CommandError as error:
            raise UserError(
                f"apt-get cannot download the package {name} ({error}); check the network, run 'apt-get update' as "
                f"root, or put the package's .deb file into {cache}"
            ) from None
        found = list(Path(temporary).glob(f"{name}_*.deb"))
        assert len(found) == 1, f"apt-get download {name} left {found}"
        deb = cache / found[0].name
        os.replace(found[0], deb)
    return deb


def _require(command: str) -> None:
    if shutil.which(command) is None:
        raise UserError(
            f"{command} is not on the PATH; the recipe 'debian' needs a Debian or Ubuntu system (a container will do), "
            "elsewhere use 'unisono prepare mini'"
        )


def _run(command: Sequence[str], cwd: str | None = None) -> str:
    """Standard output of a command; its complaint as an exception."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise _CommandError("; ".join(lines[-2:]) or f"status {done.returncode}")
    return done.stdout
