"""What reading sound and reading pictures from a container have in common."""

from __future__ import annotations

from typing import Any, BinaryIO

from unisono.errors import UserError

_TEXT_BYTES = frozenset(b"\t\r\n" + bytes(range(32, 127)) + b"\xef\xbb\xbf")
_PLAYLIST_MARKS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"c=IN IP", b"[playlist]")


def zero_s(container: Any) -> float:
    """Time zero of an open PyAV container: the earliest start of any of its streams, for sound and pictures alike."""
    begins = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
    # Some versions of FFmpeg let a sound track begin before 0 by the warm-up of its coder, which is not played.
    pictures = [(s.start_time or 0) * (s.time_base or 0) for s in container.streams.video]
    return float(max(min(begins, default=0), min([*pictures, 0])))


def film_stream(container: Any) -> Any:
    """The first stream of moving pictures, None if there is none; the cover of a song counts as a stream too."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def refuse_text(file: BinaryIO, where: str, kind: str) -> None:
    """Playlists, scripts and session descriptions are text; FFmpeg would open the files and addresses they name."""
    head = file.read(4096)
    file.seek(0)
    readable = sum(byte in _TEXT_BYTES for byte in head)
    is_text = b"\0" not in head and readable > 0.9 * len(head)
    if head and (is_text or any(mark in head for mark in _PLAYLIST_MARKS)):
        raise UserError(f"{where}: not readable as {kind} (it is a text, such as a playlist); give a recording")
