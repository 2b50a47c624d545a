"""One run per folder: two that write the same checkpoints and logs would destroy each other's."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO

from unisono.errors import UserError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Context that holds ``${exp_dir}/.lock``; entered again within itself, it does nothing.

    The system lets go of it when the process ends, however it ends. File systems without locks are trusted.

    Args:
        exp_dir: folder of the run.
        enabled: False in processes other than the main one.
    """

    def __init__(self, exp_dir: Path, enabled: bool) -> None:
        self.path, self.enabled = exp_dir / ".lock", enabled and fcntl is not None
        self._depth = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        self._depth += 1
        if not self.enabled or self._depth > 1:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            self._depth -= 1
            raise UserError(
                f"{holder} is training in {self.path.parent}; wait until it has ended, stop it, or choose another "
                "exp_dir"
            ) from None
        except OSError:
            return  # no locks here
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            self._file.close()
            self._file = None
