"""The YAML file beside an exported network: what it takes, and what it gives.

::

    file: utmos.onnx              # beside this file
    sample_rate: 16000            # Hz of the mono audio it takes
    input: [1, samples]           # shape of the audio; a number in place of `samples` is a fixed length
    outputs: [score]              # in the order in which it returns them; null for one that is not wanted
    # and where needed:
    shortest_s: 0.1               # shorter clips are failures
    longest_s: 30                 # longer clips are heard in equal parts, whose arrays are averaged
    short_clips: zeros            # with a fixed length: fill with zeros, repeat the clip, or refuse (the default)
    level: none                   # or standardised: zero mean, variance 1
    about: {network: "…", recipe: "…"}   # anything the cards should say
    video:                        # it takes (audio, video), video float32 (1, T, 3, H, H)
      num_frames: 125             # T
      frame_rate_hz: 25
      size: 224                   # H, pixels
      mean: [0.5, 0.5, 0.5]       # of each colour, taken from values in 0 to 1 …
      std: [0.5, 0.5, 0.5]        # … which are then divided by this

Outputs are named `embedding`, `frames`, `logits` and `score`, and have the shapes of
``AudioNetwork``, with or without a leading axis of length 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unisono.errors import UserError
from unisono.suggest import did_you_mean

DIMENSIONS = {"embedding": 1, "frames": 2, "logits": 1, "score": 0}
"""Number of axes of each output."""

SHORT_CLIPS, LEVELS, RUNTIMES = ("refuse", "zeros", "repeat"), ("none", "standardised"), (".onnx", ".pt", ".ts")


_LARGEST_BYTES = 64 * 1024


@dataclass(frozen=True)
class VideoInput:
    """Pictures that a network takes beside the audio, both from their beginning.

    Attributes:
        num_frames: T.
        frame_rate_hz: of the pictures.
        size: pixels of each side.
        mean, std: of each colour.
    """

    num_frames: int
    frame_rate_hz: float
    size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Sidecar:
    """See the head of the module; ``shape`` is `input`, ``fixed_samples`` its number in place of `samples`."""

    path: Path
    file: Path
    sample_rate: int
    shape: tuple[int | str, ...]
    outputs: tuple[str | None, ...]
    shortest_s: float = 0.0
    longest_s: float | None = None
    short_clips: str = "refuse"
    level: str = "none"
    about: dict[str, Any] = field(default_factory=dict)
    video: VideoInput | None = None

    @property
    def fixed_samples(self) -> int | None:
        numbers = [size for size in self.shape if isinstance(size, int) and size != 1]
        return numbers[0] if numbers else None


def read_sidecar(source: str) -> Sidecar:
    """Read and check the file; `UserError` names the key that is wrong and what would be right."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: does not exist; give the .yaml file beside an exported network")
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise yaml.YAMLError(f"more than {_LARGEST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise yaml.YAMLError("aliases, which may multiply without end")
        given = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or ["nested too deeply"])[0]
        raise UserError(f"{path}: is no YAML ({reason}); see unisono.evaluation.networks.sidecar") from error
    needed = ("file", "sample_rate", "input", "outputs")
    optional = ("shortest_s", "longest_s", "short_clips", "level", "about", "video")
    keyed = _Keys(path, "", given, (*needed, *optional), needed)
    if Path(keyed.text("file")).name != keyed.text("file"):
        raise keyed.wrong("file", f"the bare name of a file beside {path.name}")
    file = path.parent / keyed.text("file")
    if file.suffix not in RUNTIMES:
        pickled = " (torch.export files are pickles, which may run code)" if file.suffix == ".pt2" else ""
        raise keyed.wrong("file", f"a file that ends with {', '.join(RUNTIMES)}{pickled}")
    if not file.is_file():
        raise keyed.wrong("file", f"a file beside {path.name}; {file} does not exist")
    shape = keyed.shape("input")
    outputs = keyed.outputs("outputs")
    video = keyed.video("video")
    if "samples" not in shape and given.get("longest_s") is not None:
        raise keyed.wrong("longest_s", "left out, as input has a fixed length")
    if video is not None and "samples" in shape:
        raise keyed.wrong("input", "a number in place of samples, as pictures come in a fixed number too")
    return Sidecar(
        path=path,
        file=file,
        sample_rate=int(keyed.number("sample_rate", 8_000, 192_000)),
        shape=shape,
        outputs=outputs,
        shortest_s=keyed.number("shortest_s", 0.0, 60.0, 0.0),
        longest_s=keyed.number("longest_s", 0.1, 3600.0) if given.get("longest_s") is not None else None,
        short_clips=keyed.choice("short_clips", SHORT_CLIPS),
        level=keyed.choice("level", LEVELS),
        about=dict(given.get("about") or {}) if isinstance(given.get("about") or {}, Mapping) else {},
        video=video,
    )


class _Keys:
    """The keys of one mapping of the file, each checked as it is read."""

    def __init__(self, path: Path, place: str, given: Any, known: Collection[str], needed: Collection[str]) -> None:
        self.path, self.place, self.given = path, place, given
        if not isinstance(given, Mapping):
            raise UserError(f"{path}: {place or 'the file'} holds no keys; {place or 'it'} needs {', '.join(needed)}")
        for key in given:
            if key not in known:
                raise UserError(f"{path}: there is no key {place}{key}; {did_you_mean(str(key), known)}")
        for key in needed:
            if given.get(key) is None:
                raise UserError(f"{path}: {place}{key} is missing; see unisono.evaluation.networks.sidecar")

    def wrong(self, key: str, right: str) -> UserError:
        return UserError(f"{self.path}: {self.place}{key} is {self.given.get(key)!r}; it must be {right}")

    def text(self, key: str) -> str:
        if not isinstance(self.given[key], str):
            raise self.wrong(key, "text")
        return self.given[key]

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        value = self.given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.given.get(key, choices[0])
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return value

    def shape(self, key: str) -> tuple[int | str, ...]:
        value = self.given[key]
        long = [size for size in value if size != 1] if isinstance(value, list) else []
        fits = len(long) == 1 and (long[0] == "samples" or (isinstance(long[0], int) and long[0] > 1))
        if not fits:
            raise self.wrong(key, "ones and either samples or a number of samples, such as [1, samples]")
        return tuple(value)

    def outputs(self, key: str) -> tuple[str | None, ...]:
        value = self.given[key]
        names = [name for name in value if name is not None] if isinstance(value, list) else []
        known = all(isinstance(name, str) and name in DIMENSIONS for name in names)
        if not names or not known or len(set(names)) < len(names):
            raise self.wrong(key, f"a list of {', '.join(DIMENSIONS)} or null, each name once")
        return tuple(value)

    def video(self, key: str) -> VideoInput | None:
        if self.given.get(key) is None:
            return None
        known = ("num_frames", "frame_rate_hz", "size", "mean", "std")
        keyed = _Keys(self.path, f"{key}.", self.given[key], known, needed=known[:3])
        return VideoInput(
            num_frames=int(keyed.number("num_frames", 1, 10_000)),
            frame_rate_hz=keyed.number("frame_rate_hz", 0.1, 1_000),
            size=int(keyed.number("size", 8, 4_096)),
            mean=keyed.colours("mean", 0.0),
            std=keyed.colours("std", 1.0),
        )

    def colours(self, key: str, default: float) -> tuple[float, ...]:
        value = self.given.get(key, [default] * 3)
        numbers = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != 3 or (key == "std" and min(value) <= 0):
            raise self.wrong(key, "three numbers, one for each colour")
        return tuple(map(float, value))
