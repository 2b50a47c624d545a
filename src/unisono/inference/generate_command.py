"""What ``unisono generate`` does: arguments to requests, sounds to files."""

from __future__ import annotations

import glob
import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.errors import UserError
from unisono.files import exists
from unisono.inference.input_files import expanded
from unisono.inference.output_paths import check_extension, extension, free, is_folder, make_writable, name_of
from unisono.models.generation import GenerationOptions
from unisono.tasks import TASKS, get_task

if TYPE_CHECKING:
    from unisono.inference.generated import GeneratedAudio
    from unisono.inference.pipeline import Pipeline

logger = logging.getLogger(__name__)

# Where the demo leaves its model.
DEMO_MODELS = (Path("experiments/demo/model"), Path("experiments/demo_fast/model"))
_AUDIO = frozenset((".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".opus", ".m4a", ".aac"))
_VIDEO = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"))
_SHOWN = 20


@dataclass(frozen=True)
class Asked:
    """The command line; see ``unisono.inference.commands.generate``."""

    what: str
    prompt: str | None
    output: Path | None
    model: str | None
    text: str | None
    text_file: str | None
    speaker: str | None
    score: str | None
    audio: Sequence[str] | None
    video: Sequence[str] | None
    duration_s: float | None
    original: str | None
    keep: Sequence[str] | None
    seed: int
    variations: int
    language: str | None
    instruction: str | None
    num_steps: int | None
    guidance_scale: float | None
    solver: str | None
    speed: float | None
    settings: Sequence[str] | None
    device: str
    dtype: str
    batch_size: int
    as_json: bool
    quiet: bool


@dataclass(frozen=True)
class _Wanted:
    """One sound: arguments of ``Pipeline.__call__``, and where it goes."""

    arguments: dict[str, Any]
    path: Path
    video: Path | None

    @property
    def source(self) -> Path | None:
        """The file it is made from, for messages."""
        return self.arguments["audio"] or self.arguments["video"]


def run(asked: Asked) -> None:
    """Generate, write files, and say what was written.

    Raises:
        UserError: what cannot be done; where there are several sounds, those that could be are made nevertheless.
    """
    _log(asked.quiet)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter must not cost the sounds that follow
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _options(asked)
    task, prompts = _task_and_prompts(asked)
    wanted = list(_wanted(asked, task, prompts))
    folder = _model(asked.model)
    for path in {one.path.parent for one in wanted}:
        make_writable(path)
    from unisono.inference.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(folder, asked.device, asked.dtype)
    _generate_all(pipeline, asked, options, wanted)


def _log(quiet: bool) -> None:
    """What the project tells goes to standard error; other libraries keep theirs."""
    own = logging.getLogger("unisono")
    own.handlers = [logging.StreamHandler()]
    own.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    own.setLevel(logging.ERROR if quiet else logging.INFO)


def _options(asked: Asked) -> dict[str, Any]:
    """The settings of generation that were asked for."""
    own = {name: getattr(asked, name) for name in ("num_steps", "guidance_scale", "solver", "speed")}
    options = {name: value for name, value in own.items() if value is not None}
    known = [field.name for field in fields(GenerationOptions)]
    for text in asked.settings or ():
        name, _, value = (part.strip() for part in text.partition("="))
        if not value:
            raise UserError(f"--set {text}: write NAME=VALUE, such as window_s=5")
        if name not in known:
            raise UserError(f"--set {text}: {name!r} is no setting; choose from {', '.join(known)}")
        if name in options:
            raise UserError(f"{name} is there twice; give it once")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    """A number, true, false, or the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _generate_all(pipeline: Pipeline, asked: Asked, options: Mapping[str, Any], wanted: Sequence[_Wanted]) -> None:
    from tqdm import tqdm

    size = asked.batch_size if pipeline.device.type == "cuda" else 1
    failures: list[str] = []
    # Files are written after each batch: what is made is not lost if the next one fails.
    with tqdm(
        total=len(wanted), unit="sound", disable=True if asked.quiet or sys.stderr is None else None, leave=False
    ) as bar:

        def make(chunk: Sequence[_Wanted]) -> None:
            try:
                _generate(pipeline, asked, options, chunk, bar)
            except UserError as error:
                if len(wanted) == 1:
                    raise UserError(str(error).removeprefix("the request: ")) from error
                if len(chunk) == 1:
                    failures.append(f"{chunk[0].source or chunk[0].path}: {error}")
                    return
                for one in chunk:  # one of them is at fault
                    make([one])

        for begin in range(0, len(wanted), size):
            make(wanted[begin : begin + size])
            bar.n = min(begin + size, len(wanted))
    if failures:
        more = [f"… and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
        listed = "\n  ".join(failures[:_SHOWN] + more)
        raise UserError(f"{len(failures)} of {len(wanted)} sounds were not made, the others were:\n  {listed}")


def _generate(pipeline: Pipeline, asked: Asked, options: Mapping[str, Any], chunk: Sequence[_Wanted], bar: Any) -> None:
    """Make and write some sounds at once."""
    before = bar.n

    def tell(done: int, of: int) -> None:
        bar.n = round(before + len(chunk) * done / of, 2)
        bar.refresh()

    names = chunk[0].arguments.keys()
    several = len(chunk) > 1
    given = {name: [one.arguments[name] for one in chunk] if several else chunk[0].arguments[name] for name in names}
    started = time.perf_counter()
    made: Any = pipeline(**given, batch_size=asked.batch_size, callback=tell, **options)
    seconds = (time.perf_counter() - started) / len(chunk)
    for one, sound in zip(chunk, made if several else [made], strict=True):
        _report(asked, _write(one, sound), sound, seconds)


def _write(one: _Wanted, sound: GeneratedAudio) -> Path:
    path = one.path
    if one.video is not None and path.suffix.lower() in _VIDEO:
        from unisono.media.sound_track import write_with_sound

        return write_with_sound(path, one.video, sound.waveform, sound.sample_rate)
    return sound.save(path)


def _report(asked: Asked, path: Path, sound: GeneratedAudio, seconds: float) -> None:
    if asked.as_json:
        record = {
            **{"audio": str(path), "task": sound.task, "reason": sound.reason or None, "seed": sound.seed},
            "text": sound.text,
            **{"duration_s": round(sound.duration_s, 4), "sample_rate": sound.sample_rate},
            **{"seconds": round(seconds, 3)},
        }
        _say(json.dumps(record, ensure_ascii=False))
    elif not asked.quiet:
        why = f" (picked: {sound.reason})" if sound.reason else ""
        _say(f"{path}: {sound.duration_s:.2f} s of {sound.task}{why}, seed {sound.seed}, {seconds:.1f} s")


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise  # whoever listened has left
    except OSError as error:
        raise UserError(f"{line.partition(': ')[0]} is written, but standard output cannot be ({error})") from error


# -- what is asked --------------------------------------------------------------------------------------------------


def _task_and_prompts(asked: Asked) -> tuple[str | None, list[str | None]]:
    """The task if one is named, and the prompts: several where they are read from standard input."""
    names = {*TASKS, *(task.short for task in TASKS.values())}
    if asked.what not in names:
        if asked.prompt is not None:
            if re.fullmatch(r"[a-z0-9_]+", asked.what):
                get_task(asked.what)  # raises: a slip in a name, most likely
            raise UserError(
                f"{asked.what[:60]!r} is no task, so it is the instruction, and {asked.prompt[:60]!r} is one too many; "
                "give content as --text, --score, --audio or --video"
            )
        if asked.what != "-":
            return None, [asked.what]
        return None, list(_lines())
    if asked.prompt == "-":
        return asked.what, list(_lines())
    return asked.what, [asked.prompt]


def _lines() -> Iterator[str]:
    lines = [line.strip() for line in _standard_input().splitlines() if line.strip()]
    if not lines:
        raise UserError("nothing came from standard input; give one prompt a line")
    yield from lines


def _standard_input() -> str:
    if sys.stdin is None:
        raise UserError("standard input is closed; give the text on the command line, or as --text-file FILE")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is no text ({error}); give UTF-8") from error


def _text(asked: Asked) -> str | None:
    if asked.text_file is None:
        return asked.text
    if asked.text is not None:
        raise UserError("there are --text and --text-file; give one of them")
    if asked.text_file == "-":
        return _standard_input()
    path = expanded(asked.text_file)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text-file {path}: not readable as text ({error}); give a UTF-8 file") from error


def _inputs(given: Sequence[str], kinds: frozenset[str], option: str) -> list[Path]:
    """Files that are named, match a pattern, or lie in a folder."""
    found: list[Path] = []
    for name in given:
        path = expanded(name)
        if exists(path) and path.is_dir():
            seen = (p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts))
            own = sorted(p for p in seen if p.suffix.lower() in kinds and p.is_file())
            if not own:
                raise UserError(f"{option} {name}: no file in this folder ends with {', '.join(sorted(kinds))}")
        elif glob.has_magic(name) and not exists(path):
            own = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            if not own:
                raise UserError(f"{option} {name}: no file matches this pattern")
        elif exists(path) and path.is_file():
            own = [path]
        else:
            raise UserError(f"{option} {name}: there is no such file; check the path")
        found += own
    return list(dict.fromkeys(found))


def _wanted(asked: Asked, task: str | None, prompts: Sequence[str | None]) -> Iterator[_Wanted]:
    """Every sound with its file: each prompt, or each input, as often as there are variations."""
    recordings, videos = _inputs(asked.audio or (), _AUDIO, "--audio"), _inputs(asked.video or (), _VIDEO, "--video")
    files = recordings or videos
    if recordings and videos:
        raise UserError("there are --audio and --video; no task takes both: give one of them")
    if len(prompts) > 1 and len(files) > 1:
        raise UserError(f"{len(prompts)} prompts and {len(files)} files; give several of one of them")
    common: dict[str, Any] = {"task": task, "text": _text(asked), "speaker": asked.speaker, "score": asked.score}
    common |= {"language": asked.language, "instruction": asked.instruction, "duration_s": asked.duration_s}
    common |= {"original": asked.original, "keep_s": _spans(asked.keep or ())}
    sounds: list[dict[str, Any]] = [
        {**common, "prompt": prompt, "audio": file if recordings else None, "video": file if videos else None}
        for prompt in prompts
        for file in files or (None,)
    ]
    named = [expanded(name) for name in (asked.original, asked.score, asked.speaker, asked.text_file) if name]
    inputs = {path.resolve() for path in (*files, *named) if exists(path)}
    taken: set[Path] = set()
    names = [name_of(sound, asked.output is not None) for sound in sounds]
    folder = asked.output if asked.output is not None and is_folder(asked.output, len(sounds)) else None
    for sound, name in zip(sounds, names, strict=True):
        for variation in range(asked.variations):
            number = f"_{variation + 1}" if asked.variations > 1 else ""
            if asked.output is None or folder is not None:
                path = free((folder or Path()) / f"{name}{number}{extension(sound)}", taken, fresh=folder is None)
            else:
                path = asked.output.with_stem(asked.output.stem + number)
            check_extension(path, sound["video"])
            if path.resolve() in inputs:
                raise UserError(f"{path} is an input; name another output")
            taken.add(path)
            yield _Wanted({**sound, "seed": asked.seed + variation}, path, sound["video"])


def _spans(given: Sequence[str]) -> tuple[tuple[float, float | None], ...] | None:
    """``START:END`` in seconds; without START from the beginning, without END to the end."""
    spans = []
    for text in given:
        begin, colon, end = text.partition(":")
        try:
            spans.append((float(begin or 0), float(end) if end else None))
        except ValueError:
            colon = ""
        if not colon:
            raise UserError(f"--keep {text}: write seconds as START:END, such as 0:2.5 or 4:")
    return tuple(spans) or None


def _model(name: str | None) -> str | Path:
    if name is not None:
        return name
    found = next((folder for folder in DEMO_MODELS if folder.is_dir()), None)
    if found is None:
        raise UserError("there is no model of the demo here (experiments/demo/model); run make demo, or give --model")
    logger.info("model: %s", found)
    return found
