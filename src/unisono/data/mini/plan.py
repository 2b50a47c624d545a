"""What the mini corpus consists of: how many items of each task, and the jobs that make them.

Most items are made from nothing but their key. Those of ``DERIVED`` tasks are made from finished recordings, so they
come second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from unisono.data.mini.items import SPLITS, TASKS, Item, Job
from unisono.errors import UserError

Counts = dict[str, dict[str, int]]
"""Number of items by task and split."""

DEFAULT_COUNTS: dict[str, tuple[int, int, int]] = {
    "text_to_audio": (600, 24, 12),
    "text_to_speech": (400, 24, 12),
    "speech_enhancement": (400, 24, 12),
    "text_to_music": (160, 16, 8),
    "singing_voice_synthesis": (120, 12, 8),
    "singing_acoustic_modeling": (120, 12, 8),
    "audio_super_resolution": (200, 16, 8),
    "video_to_audio": (80, 12, 8),
}
"""Items in train, val and test."""

RECORDED_IN = {
    "speech_enhancement": ("text_to_speech",),
    "singing_acoustic_modeling": ("singing_voice_synthesis",),
    "audio_super_resolution": ("text_to_audio", "text_to_music", "text_to_speech"),
}
"""Tasks whose targets are recordings of other tasks, and of which."""

DERIVED = ("singing_acoustic_modeling", "audio_super_resolution")
CAPTIONED = ("text_to_audio", "text_to_music", "video_to_audio")
_LONGEST_LYRICS_WORDS = 5
_PACKAGES = {
    "text_to_speech": ("espeakng_loader",),
    "speech_enhancement": ("espeakng_loader", "pyroomacoustics"),
    "text_to_music": ("mido",),
    "singing_voice_synthesis": ("espeakng_loader", "pyworld", "mido"),
    "video_to_audio": ("av",),
}
"""Optional packages that tasks are made with, by the name they are imported by."""


def checked_counts(given: Mapping[str, Sequence[int]]) -> Counts:
    """Counts of every task from those given by task; a task that is not named has no items.

    Raises:
        UserError: an unknown task, counts that are no three whole numbers, recordings without their task, or no item.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"counts is {given!r}; give a mapping, such as {{'text_to_audio': (60, 6, 6)}}")
    if unknown := [str(task) for task in given if task not in TASKS]:
        raise UserError(f"counts names {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
    counts: Counts = {}
    for task in TASKS:
        asked = given.get(task, (0, 0, 0))
        numbers = list(asked) if isinstance(asked, Sequence | np.ndarray) and not isinstance(asked, str) else []
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in numbers)
        if len(numbers) != len(SPLITS) or not whole:
            raise UserError(f"counts of {task} are {asked!r}; give three whole numbers, items in train, val and test")
        counts[task] = {split: int(n) for split, n in zip(SPLITS, numbers, strict=True)}
    for task, sources in RECORDED_IN.items():
        for split in SPLITS:
            if counts[task][split] and not any(counts[source][split] for source in sources):
                raise UserError(
                    f"counts ask for {counts[task][split]} items of {task} in {split}, but for none of "
                    f"{' and '.join(sources)}, whose recordings they use; raise the latter"
                )
    if not any(n for splits in counts.values() for n in splits.values()):
        raise UserError("every count is 0; ask for at least one item")
    return counts


def share_of(counts: Counts, share: float) -> Counts:
    """A share of every count, at least one where there were any.

    Raises:
        UserError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UserError(f"share is {share!r}; give a number above 0 and at most 1, such as 0.25 for a quarter")
    return {
        task: {split: max(1, round(n * share)) if n else 0 for split, n in splits.items()}
        for task, splits in counts.items()
    }


def check_packages(counts: Counts) -> None:
    """Raise :class:`UserError` that names every package that is missing, before minutes are spent without it."""
    needed = {package for task, packages in _PACKAGES.items() if any(counts[task].values()) for package in packages}
    missing = sorted(package for package in needed if find_spec(package) is None)
    if missing:
        raise UserError(
            f"the mini corpus needs {', '.join(missing)}; run pip install 'unisono[speech,singing,video]', "
            "or ask only for tasks that do without"
        )


def first_jobs(folder: str, seed: int, counts: Counts) -> list[Job]:
    """Jobs of all tasks that are not derived, in the order of the manifests; sentences differ within a split."""
    jobs = []
    for task in TASKS:
        for split in SPLITS:
            if task in ("text_to_speech", "speech_enhancement"):
                jobs += _speech_jobs(folder, seed, task, split, counts)
            elif task not in DERIVED:
                number = counts[task][split]
                texts = _lyrics(seed, split, number) if task == "singing_voice_synthesis" else [""] * number
                jobs += [Job(seed, task, split, index, folder, text=text) for index, text in enumerate(texts)]
    return jobs


def _speech_jobs(folder: str, seed: int, task: str, split: str, counts: Counts) -> list[Job]:
    from unisono.data.mini.sentences import draw_sentences

    recordings = counts["text_to_speech"][split]
    rng = np.random.default_rng((seed, TASKS.index("text_to_speech"), SPLITS.index(split)))
    sentences = draw_sentences(rng, split, recordings)
    spoken = [index % recordings for index in range(counts[task][split])]
    return [Job(seed, task, split, index, folder, of, sentences[of]) for index, of in enumerate(spoken)]


def _lyrics(seed: int, split: str, number: int) -> list[str]:
    from unisono.data.mini.sentences import draw_sentences

    rng = np.random.default_rng((seed, TASKS.index("singing_voice_synthesis"), SPLITS.index(split)))
    return draw_sentences(rng, split, number, _LONGEST_LYRICS_WORDS)


def derived_jobs(items: Sequence[Item], seed: int, counts: Counts) -> list[Job]:
    """Jobs of the derived tasks, from the finished items of the others. They use each task in turn, and its items."""
    by_place: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_place.setdefault((item.job.task, item.job.split), []).append(item)
    jobs = []
    for task in DERIVED:
        for split in SPLITS:
            pools = [by_place[source, split] for source in RECORDED_IN[task] if (source, split) in by_place]
            for index in range(counts[task][split]):
                pool = pools[index % len(pools)]
                source = pool[index // len(pools) % len(pool)]
                jobs.append(Job(seed, task, split, index, source.job.folder, source=source))
    return jobs


def clashing_captions(items: Sequence[Item]) -> list[int]:
    """Places of items to draw again, so that captions of a task differ between splits and within val and test.

    Test goes first, then val, and train gives way to both; within train captions may repeat.
    """
    clashing: list[int] = []
    for task in CAPTIONED:
        taken: set[str] = set()
        for split in reversed(SPLITS):
            own: set[str] = set()
            for place, item in enumerate(items):
                if item.job.task != task or item.job.split != split:
                    continue
                caption = item.content["caption"]
                if caption in taken or (split != "train" and caption in own):
                    clashing.append(place)
                own.add(caption)
            taken |= own
    return clashing


def check_captions(items: Sequence[Item], draws: int) -> None:
    """Raise :class:`UserError` if a caption of train occurs in val or test after so many draws."""
    for task in CAPTIONED:
        captions = {
            split: {i.content["caption"] for i in items if i.job.task == task and i.job.split == split}
            for split in SPLITS
        }
        shared = captions["train"] & (captions["val"] | captions["test"])
        if shared:
            raise UserError(
                f"{len(shared)} captions of val and test occur in train after {draws} draws; "
                f"ask for fewer items of {task}: there are not so many that can be told apart"
            )
