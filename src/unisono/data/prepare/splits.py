"""Which clips are for training, which for validation and test: a stable hash, and never the same content in two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

SPLITS = ("train", "val", "test")
_HELD_OUT_SHARE = 0.05  # of val and of test


def split_of(key: str) -> str:
    """About 90 % train, 5 % val and 5 % test; the same key always falls into the same split."""
    place = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    if place < _HELD_OUT_SHARE:
        return "test"
    return "val" if place < 2 * _HELD_OUT_SHARE else "train"


def assign_splits(ties: Mapping[str, Iterable[str]], max_held_out: int | None = None) -> dict[str, str]:
    """A split for every clip, the same for clips that are tied.

    Args:
        ties: for each clip what must not lie on both sides: its normalised text, the recording it was cut from. Clips
            that share one of these, directly or through others, form a group; a group's smallest tie decides its split.
        max_held_out: groups with more clips always train, lest one caption fill a small test set.

    Returns:
        The split by clip.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    listed = {clip: sorted(set(keys)) for clip, keys in ties.items()}
    for clip, keys in listed.items():
        assert keys, f"clip {clip} has no tie"
        for key in keys[1:]:
            # The smaller name becomes the root, so that the order of clips does not matter.
            low, high = sorted((root(keys[0]), root(key)))
            parent[high] = low
    groups = {clip: root(keys[0]) for clip, keys in listed.items()}
    sizes: dict[str, int] = {}
    for group in groups.values():
        sizes[group] = sizes.get(group, 0) + 1
    return {
        clip: "train" if max_held_out is not None and sizes[group] > max_held_out else split_of(group)
        for clip, group in groups.items()
    }
