"""Files and members of archives behind one kind of path.

A manifest's path names a file (``clips/a.flac``) or, after ``::``, a member of an archive: ``shards/000.tar::a.flac``,
``clips.h5::train/a``, ``features.safetensors::a``. Members are read where they lie; nothing is unpacked. Archives stay
open within a process and are opened anew in a forked one.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unisono.errors import UserError

_SEPARATOR = "::"
_TAR = (".tar",)
_HDF5 = (".h5", ".hdf5", ".hdf")
_SAFETENSORS = (".safetensors",)
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_OPEN_ARCHIVES = 32
_KNOWN_TARS = 4096
_MAX_SOFT_LINKS = 16
MAX_MEMBER_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Location:
    """A file, or a member of an archive.

    Attributes:
        path: of the file or the archive.
        member: name within the archive; None for a plain file.
        data: the member's bytes, where they came with a stream.
    """

    path: Path
    member: str | None = None
    data: bytes | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of(source: str | os.PathLike | Location) -> Location:
        """A path as it is written in a manifest, relative to the working directory."""
        return source if isinstance(source, Location) else parse_location(os.fspath(source), None)

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}{_SEPARATOR}{self.member}"

    @property
    def suffix(self) -> str:
        return (self.path.suffix if self.member is None else os.path.splitext(self.member)[1]).lower()

    @property
    def stem(self) -> str:
        return (self.path if self.member is None else Path(self.member)).stem

    @property
    def is_hdf5(self) -> bool:
        return self.member is not None and self.data is None and self.path.suffix.lower() in _HDF5

    @property
    def is_tar(self) -> bool:
        return self.member is not None and self.data is None and self.path.suffix.lower() in _TAR

    def is_file(self) -> bool:
        """Whether the file or the archive is there."""
        return self.data is not None or self.path.is_file()

    def exists(self) -> bool:
        """Whether the file, and the member in it, is there.

        Raises:
            UserError: the archive is there and cannot be read.
            OSError: a name that is too long, a folder that may not be entered.
        """
        if not self.is_file():
            return False
        if self.is_tar:
            return _tar_members(self.path).find(str(self.member)) is not None
        if self.is_hdf5:
            return _hdf5_get(self) is not None
        return self.member is None or self.member in _safetensors_names(self)

    def stamp(self) -> list[int]:
        """Size in bytes and times of the last changes in nanoseconds, of the file or the whole archive.

        The second time is the system's own record of a change, which ``touch`` and ``cp -p`` cannot set.
        """
        status = os.stat(self.path)
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    def read_bytes(self) -> bytes:
        """The bytes of a file, of a tar member, or of an HDF5 data set (its values)."""
        if self.data is not None:
            return self.data
        if self.member is None:
            return self.path.read_bytes()
        if self.is_tar:
            return _read_tar_member(self)
        if self.is_hdf5:
            return read_array(self).tobytes()
        return np.ascontiguousarray(read_array(self)).tobytes()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A seekable binary file; a member is held in memory."""
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
        else:
            yield io.BytesIO(self.read_bytes())


def parse_location(text: str, folder: Path | None) -> Location:
    """A manifest's path, relative to ``folder``.

    Raises:
        UserError: ``::`` after what is no archive, or nothing after it.
    """
    archive, separator, member = text.partition(_SEPARATOR)
    path = Path(os.path.normpath(archive if folder is None else folder / archive))
    if not separator:
        return Location(path)
    known = (*_TAR, *_HDF5, *_SAFETENSORS)
    if path.suffix.lower() not in known:
        if path.name.lower().endswith(_COMPRESSED_TAR):
            raise UserError(f"{text}: members of a compressed tar cannot be found in place; make a plain .tar")
        raise UserError(f"{text}: '::' names a member of an archive ({', '.join(known)}); {path.name} is none")
    if not member:
        raise UserError(f"{text}: the name of the member is missing after '::'")
    return Location(path, member)


# -- tar --------------------------------------------------------------------------------------------------------------


class StrictTarInfo(tarfile.TarInfo):
    """Headers that must be whole: tarfile itself takes a damaged one, and a missing end mark, for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
        try:
            header = super().frombuf(buf, encoding, errors)
            if header.size < 0:
                raise tarfile.TarError(f"member {header.name!r} has a size of {header.size} bytes")
            return header
        except tarfile.HeaderError as error:
            if buf and not buf.strip(b"\0"):
                raise  # the end mark
            raise tarfile.TarError("no end mark" if not buf else "no header follows") from error


class _TarMembers:
    """Where an archive's members lie, 24 bytes a member; found by the hash of their names."""

    def __init__(self, hashes: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        order = np.argsort(hashes)
        self.hashes, self.offsets, self.sizes = hashes[order], offsets[order], sizes[order]

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, name: str) -> tuple[int, int] | None:
        """``(offset, size)`` of a member."""
        wanted = np.uint64(_name_hash(os.path.normpath(name)))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            return None
        return int(self.offsets[place]), int(self.sizes[place])


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def _tar_members(path: Path) -> _TarMembers:
    status = os.stat(path)
    return _scan_tar(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_KNOWN_TARS)
def _scan_tar(path: str, size: int, mtime_ns: int) -> _TarMembers:
    """Read all headers; a changed archive is scanned anew."""
    rows: dict[int, tuple[int, int]] = {}
    last = "its beginning"
    try:
        with tarfile.open(path, "r:", tarinfo=StrictTarInfo) as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it remembers all it has read
                last = f"member {info.name!r}"
                if info.size < 0:  # a pax record may say so
                    raise tarfile.TarError(f"a size of {info.size} bytes")
                if not info.isreg() or info.issparse():
                    continue
                name = os.path.normpath(info.name)
                if info.offset_data + info.size > size:
                    raise UserError(
                        f"{path}: cut off within member {name!r} ({info.size} bytes promised, "
                        f"{max(0, size - info.offset_data)} there); copy the archive again"
                    )
                if rows.setdefault(_name_hash(name), (info.offset_data, info.size))[0] != info.offset_data:
                    raise UserError(f"{path}: member {name!r} is there twice; names must be unique")
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged tar archive after {last} ({error}); copy or make it again") from error
    places = np.array(list(rows.values()), dtype=np.int64).reshape(-1, 2)
    return _TarMembers(np.array(list(rows), dtype=np.uint64), places[:, 0].copy(), places[:, 1].copy())


def _read_tar_member(location: Location) -> bytes:
    assert location.member is not None
    members = _tar_members(location.path)
    place = members.find(location.member)
    if place is None:
        raise UserError(f"{location}: the archive has {len(members)} members, none of that name")
    offset, size = place
    with location.path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise UserError(f"{location}: cut off ({len(data)} of {size} bytes); copy the archive again")
    return data


# -- HDF5 -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _open_hdf5(path: str, mtime_ns: int, process: int) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: HDF5 files need h5py; run: pip install 'unisono[archives]'") from error
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path}: not readable as HDF5 ({error}); copy or make it again") from error


def _hdf5_get(location: Location) -> Any:
    # A handle does not survive a fork: the process is part of the key.
    file = _open_hdf5(str(location.path), os.stat(location.path).st_mtime_ns, os.getpid())
    import h5py

    try:
        found = _hdf5_follow(file, str(location.member), location, _MAX_SOFT_LINKS)
    except (KeyError, RuntimeError, OSError) as error:
        raise UserError(f"{location}: damaged HDF5 file ({error}); copy or make it again") from error
    return found if isinstance(found, h5py.Dataset) else None


def _hdf5_follow(group: Any, name: str, location: Location, links_left: int) -> Any:
    """What lies at ``name``, step by step, so that no link to another file is followed; None where there is nothing."""
    import h5py

    found = group.file["/"] if name.startswith("/") else group
    for step in name.split("/"):
        if step in ("", "."):
            continue
        if not isinstance(found, h5py.Group):
            return None
        link = found.get(step, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{location}: {step!r} is a link to another file; name that one")
        if isinstance(link, h5py.SoftLink):
            found = _hdf5_follow(found, link.path, location, links_left - 1) if links_left else None
        else:
            found = found.get(step)
    return found


def hdf5_dataset(location: Location) -> Any:
    """The ``h5py.Dataset`` that a location names; it holds numbers, no objects.

    Raises:
        UserError: no such data set, objects in it, damage.
    """
    if not location.path.is_file():
        raise UserError(f"{location.path}: no such file; check the path")
    found = _hdf5_get(location)
    if found is None:
        raise UserError(f"{location}: the file has no data set of that name")
    if found.external or found.is_virtual:
        raise UserError(f"{location}: its values lie in other files; store them in this one")
    if found.nbytes > MAX_MEMBER_BYTES:
        raise UserError(f"{location}: {found.nbytes} bytes are more than a clip has (at most {MAX_MEMBER_BYTES})")
    if found.dtype.kind not in "iufb":
        raise UserError(
            f"{location}: holds {found.dtype}, not numbers; store encoded audio as uint8, samples as float32"
        )
    return found


# -- arrays -----------------------------------------------------------------------------------------------------------


# What numpy raises for files that are damaged or made to harm: headers it cannot parse, sizes it cannot allocate.
_NPY_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, SyntaxError),
    *(ArithmeticError, MemoryError, RecursionError),
)


def read_array(source: str | os.PathLike | Location) -> np.ndarray:
    """An array of numbers from ``.npy``, ``.safetensors`` or HDF5, plain or as a member; never by pickle.

    Raises:
        UserError: missing, of another kind, damaged, holding objects.
    """
    location = Location.of(source)
    if location.is_hdf5:
        dataset = hdf5_dataset(location)
        try:
            return np.asarray(dataset[()])
        except OSError as error:
            raise UserError(f"{location}: damaged HDF5 file ({error}); copy or make it again") from error
    if not location.is_file():
        raise UserError(f"{location}: no such file; check the path")
    kind = location.path.suffix.lower() if location.path.suffix.lower() in _SAFETENSORS else location.suffix
    try:
        if kind in _SAFETENSORS:
            return _read_safetensors(location)
        if kind == ".npy":
            with location.open() as file:
                return _read_npy(file, location)
    except UserError:
        raise
    except _NPY_ERRORS as error:
        hint = str(error).split("\n")[0] or type(error).__name__
        if "allow_pickle" in hint:
            hint = "it holds Python objects"
        raise UserError(f"{location}: not readable as an array ({hint}); save numbers with numpy.save") from error
    raise UserError(
        f"{location}: arrays are .npy, .safetensors or HDF5 (file.h5::name), not {location.suffix or 'this'}"
    )


def _read_npy(file: BinaryIO, location: Location) -> np.ndarray:
    """``ValueError`` and its like for what is damaged."""
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        raise UserError(f"{location}: is no .npy file, whatever its name; save numbers with numpy.save")
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _safetensors_names(location: Location) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(location.path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{location}: not readable as safetensors ({error}); copy or make it again") from error


def _read_safetensors(location: Location) -> np.ndarray:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load

    try:
        if location.is_tar or location.data is not None:
            tensors = list(load(location.read_bytes()).values())
            if len(tensors) != 1:
                raise UserError(f"{location}: holds {len(tensors)} tensors; a member of a tar must hold one")
            return tensors[0]
        with safe_open(location.path, framework="numpy") as file:
            names = list(file.keys())
            name = location.member or (names[0] if len(names) == 1 else None)
            if name not in names:
                raise UserError(f"{location}: name one of its tensors after '::' ({', '.join(names[:5])})")
            return file.get_tensor(name)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{location}: not readable as safetensors ({error}); copy or make it again") from error
