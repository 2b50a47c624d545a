"""Finding a corpus in the folder a user names, its tables and its recordings."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from unisono.data.prepare.corpora.items import LeaveOut, LeftOut
from unisono.errors import UserError

# In the order of preference where a clip is there twice: lossless first.
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".webm", ".mp4", ".mkv")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z")
_DEPTH = 2
_MAX_LINES_OF_A_RECORD = 20


def corpus_root(source: Path, title: str, required: Sequence[Sequence[str]]) -> Path:
    """The folder in which a corpus lies: ``source``, or the one folder in it (two levels deep) that looks like it.

    Args:
        source: what the user named.
        title: of the corpus, for messages.
        required: what the folder must hold; each entry lists names (or patterns) of which one must be there.

    Raises:
        UserError: no such folder, nothing that looks like the corpus, several that do.
    """
    if not source.is_dir():
        raise UserError(f"--source {source}: no such folder; give the folder that {title} was unpacked to")
    level = [source]
    for _ in range(_DEPTH + 1):
        found = [folder for folder in level if all(_has_any(folder, names) for names in required)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(folder) for folder in found[:3])
            raise UserError(f"--source {source} holds {title} {len(found)} times ({listed}); give one of these folders")
        level = [Path(entry.path) for folder in level for entry in _entries(folder) if entry.is_dir()]
    looked_for = " and ".join(" or ".join(names) for names in required)
    names = [entry.name for entry in _entries(source)]
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    has = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
    hint = f"; unpack {archives[0]} first" if archives else ""
    raise UserError(
        f"--source {source} does not look like {title}: looked for {looked_for} in it and in its folders; {has}; "
        f"give the folder that the corpus was unpacked to{hint}"
    )


def _has_any(folder: Path, names: Sequence[str]) -> bool:
    matches = (path.name.lower() for name in names for path in folder.glob(name))
    return any(not name.endswith(_ARCHIVES) for name in matches)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def walk_files(folder: Path, suffixes: Iterable[str]) -> Iterator[str]:
    """Paths below ``folder`` with one of the suffixes (any case), sorted; hidden files and folders are passed over."""
    wanted = tuple(suffixes)
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(wanted) and not name.startswith("."):
                yield os.path.join(parent, name)


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, list[str]]:
    """Paths below ``folder`` by name without suffix, normalised to NFC (macOS unpacks to NFD)."""
    found: dict[str, list[str]] = {}
    for path in walk_files(folder, suffixes):
        stem = os.path.splitext(os.path.basename(path))[0]
        found.setdefault(unicodedata.normalize("NFC", stem), []).append(path)
    return found


def one_path(paths: Sequence[str], suffixes: Sequence[str], folder_words: Sequence[str] = ()) -> str:
    """The path to take where several have the right name.

    Those in a folder with one of ``folder_words`` in its name come first, then the suffix decides.

    Raises:
        LeaveOut: still more than one.
    """
    inside = [p for p in paths if any(word in os.path.dirname(p).split(os.sep)[-1].lower() for word in folder_words)]
    best = sorted(inside or paths, key=lambda p: suffixes.index(os.path.splitext(p)[1].lower()))
    rivals = [p for p in best if os.path.splitext(p)[1].lower() == os.path.splitext(best[0])[1].lower()]
    if len(rivals) > 1:
        raise LeaveOut("ambiguous", f"{len(rivals)} files fit: {', '.join(rivals[:3])}; keep one below the source")
    return best[0]


def read_text(path: str | os.PathLike) -> str:
    """A text file without the white space around it.

    Raises:
        LeaveOut: missing, not UTF-8, empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise LeaveOut("missing_text", f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LeaveOut("bad_text", f"{path} cannot be read as UTF-8 text ({error})") from None
    if not text:
        raise LeaveOut("missing_text", f"{path} is empty")
    return text


class Row(dict[str, str]):
    """Fields of a table's line by column; ``where`` names file and line."""

    where: str


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    header: bool = True,
    quoted: bool = True,
    min_fields: int | None = None,
) -> tuple[list[Row], list[LeftOut]]:
    """Read a CSV table.

    Args:
        path: UTF-8; bytes that are none are read as Latin-1 (Clotho's metadata).
        columns: that must be there; with ``header=False`` the names of the fields in order.
        delimiter: between fields.
        header: the first line names the columns, in any order; more columns are allowed.
        quoted: fields may be quoted as in CSV and then go over several lines.
        min_fields: a line may have so few fields; None: exactly as many as columns.

    Returns:
        ``(rows, left_out)``; a line with another number of fields, or with a quote that is not closed, is left out.

    Raises:
        UserError: the file cannot be read, or a column is missing.
    """
    lines = _decoded_lines(path)
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    names = list(columns)
    number = 0
    while number < len(lines):
        where = f"{path.name}:{number + 1}"
        fields, span, fault = _record(lines, number, delimiter, quoted)
        if not fault and header:
            header, names = False, [name.strip().lower() for name in fields]
            if missing := [column for column in columns if column not in names]:
                raise UserError(f"{path}:1: column {missing[0]} is missing (there are: {', '.join(names)})")
        elif not fault and any(field.strip() for field in fields):
            if (min_fields or len(names)) <= len(fields) <= len(names):
                row = Row({name: " ".join(field.split()) for name, field in zip(names, fields, strict=False)})
                row.where = where
                rows.append(row)
            else:
                fault = f"{len(fields)} fields instead of {len(names)}"
        if fault:
            # Lines that a quote joined to this one are looked at by themselves.
            left_out.append(LeftOut(where, "broken_line", fault))
            span = 1
        number += span
    return rows, left_out


def _record(lines: list[str], first: int, delimiter: str, quoted: bool) -> tuple[list[str], int, str]:
    """``(fields, number of lines, fault)`` of the record that begins in a line."""
    for span in range(1, _MAX_LINES_OF_A_RECORD + 1):
        text = io.StringIO("".join(lines[first : first + span]), newline="")
        try:
            rows = (
                csv.reader(text, delimiter=delimiter, strict=True)
                if quoted
                else csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            )
            return next(rows, []), span, ""
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return [], span, f"not a line of a CSV table ({error})"
    return [], 1, "a quote is not closed"


def _decoded_lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); is the corpus complete?") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    # Not splitlines(): it splits at more than line ends.
    return list(io.StringIO(text.replace("\0", ""), newline=""))
