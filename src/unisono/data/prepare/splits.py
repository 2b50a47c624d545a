"""Which clips are for training, which for validation and test: by a stable hash, and never the same content in two."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "val", "test")
HELD_OUT_SHARE = 0.05  # of val and of test


def split_of(key: str) -> str:
    """About 90 % train, 5 % val and 5 % test; the same key always falls into the same split."""
    place = _place(key)
    if place < HELD_OUT_SHARE:
        return "test"
    return "val" if place < 2 * HELD_OUT_SHARE else "train"


def tied_groups(ties: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The group of every clip.

    Args:
        ties: for each clip what must not lie on both sides of a split: its normalised text, the recording it was cut
            from. Clips that share one of these, directly or through other clips, form a group.

    Returns:
        Group names by clip; a group is called like the smallest of its ties.
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
            low, high = sorted((root(keys[0]), root(key)))
            parent[high] = low
    return {clip: root(keys[0]) for clip, keys in listed.items()}


def fill_splits(groups: Mapping[str, str], max_held_out: int) -> dict[str, str]:
    """Splits for few clips in groups of very different size, where ``split_of`` could leave the test set almost empty.

    Groups in the order of their hash fill the test set, then the validation set, up to the share of each; the others
    train. Groups of more than ``max_held_out`` clips always train, lest one of them fill a set.

    Args:
        groups: the group of every clip.

    Returns:
        The split of every clip.
    """
    sizes = Counter(groups.values())
    quota = HELD_OUT_SHARE * len(groups)
    waiting = sorted((group for group in sizes if sizes[group] <= max_held_out), key=_place)
    split_of_group = dict.fromkeys(sizes, "train")
    for split in ("test", "val"):
        filled = 0
        while waiting and filled < quota:
            group = waiting.pop(0)
            split_of_group[group] = split
            filled += sizes[group]
    return {clip: split_of_group[group] for clip, group in groups.items()}


def hash_splits(groups: Iterable[str], wanted: Sequence[str] = ("test", "val")) -> dict[str, str]:
    """The split of every group: that of ``split_of``, which does not depend on what other groups there are.

    Args:
        groups: their names.
        wanted: the held-out sets to make. Where the hash leaves one of them, or the training set, empty, and there are
            more groups than sets, the group nearest by hash fills it.
    """
    splits = {group: drawn if (drawn := split_of(group)) in wanted else "train" for group in groups}
    if len(splits) > len(wanted):
        for split in (*wanted, "train"):
            if split not in splits.values():
                common = Counter(splits.values()).most_common(1)[0][0]
                nearest = max if split == "train" else min
                splits[nearest((group for group in splits if splits[group] == common), key=_place)] = split
    return splits


def hash_order(keys: Iterable[str], seed: int) -> list[str]:
    """Keys in an order that the seed shuffles; taking away some keys leaves the order of the others."""
    return sorted(keys, key=lambda key: (_place(f"{seed}:{key}"), key))


def _place(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
