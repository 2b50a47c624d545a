"""The shared library of eSpeak NG (the ``espeakng-loader`` wheel), loaded afresh for each use.

eSpeak NG keeps its state in global variables, and initialising it again does not clear them. A use therefore loads the
library, and unloads it at the end (15 ms in all). One use at a time: whoever calls :func:`fresh_library` holds
:data:`LIBRARY_LOCK`. Where another package has the same library loaded, it cannot be unloaded.
"""

from __future__ import annotations

import _ctypes
import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unisono.errors import UserError

LIBRARY_LOCK = threading.Lock()

# Constants of speak_lib.h.
_AUDIO_OUTPUT_RETRIEVAL = 1
_INITIALIZE_PHONEME_EVENTS, _INITIALIZE_PHONEME_IPA, _INITIALIZE_DONT_EXIT = 0x0001, 0x0002, 0x8000


def library_paths() -> tuple[str, Path]:
    """``(library, data folder)`` of the wheel."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(f"eSpeak NG is not installed ({error}); run pip install 'unisono[speech]'") from error
    return espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())


@contextmanager
def fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """A newly loaded, initialised library and its sample rate in Hz; unloaded at the end."""
    path, data = library_paths()
    library = ctypes.CDLL(path)
    try:
        options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT
        sample_rate = library.espeak_Initialize(_AUDIO_OUTPUT_RETRIEVAL, 0, str(data).encode(), options)
        if sample_rate <= 0:
            raise UserError(f"eSpeak NG cannot read its data in {data}; reinstall the package espeakng-loader")
        try:
            yield library, sample_rate
        finally:
            library.espeak_Terminate()
    finally:
        if sys.platform == "win32":
            _ctypes.FreeLibrary(library._handle)
        else:
            _ctypes.dlclose(library._handle)
