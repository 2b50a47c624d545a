"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.errors import UserError
from unisono.types import Sample


class ConcatDataset(Dataset[Sample]):
    """Several data sets one after the other.

    An index beyond the end means a later epoch: ``dataset[epoch * len(dataset) + item]``. So what is random in an item
    travels with the index, into any number of loader workers, and no worker has to be told the epoch.

    Args:
        datasets: at least one.
    """

    def __init__(self, datasets: Sequence[AudioGenerationDataset]) -> None:
        if not datasets:
            raise UserError("the list of data sets is empty; name at least one, as in configs/data/train.yaml")
        self.datasets = list(datasets)
        self.ends = np.cumsum([len(dataset) for dataset in self.datasets])

    @property
    def durations_s(self) -> np.ndarray:
        """float32 ``(items,)``, made when asked for: workers have no use for it."""
        return np.concatenate([dataset.durations_s for dataset in self.datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def locate(self, item: int) -> tuple[AudioGenerationDataset, int]:
        """Data set and position of an item."""
        which = int(np.searchsorted(self.ends, item, side="right"))
        return self.datasets[which], item - (int(self.ends[which - 1]) if which else 0)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def sample(self, index: int, heard: bool = False) -> Sample:
        """The item; ``heard``: see ``AudioGenerationDataset.sample``."""
        epoch, item = divmod(index, len(self))
        dataset, position = self.locate(item)
        try:
            return dataset.sample(position, epoch, heard)
        except Exception as error:  # say of which item
            raise _told(dataset, position, error) from error


def _told(dataset: AudioGenerationDataset, position: int, error: Exception) -> Exception:
    try:
        line = dataset.line(position)
    except UserError as unreadable:
        return unreadable
    audio_id = line.record["audio_id"]
    if isinstance(error, UserError):
        return UserError(f"{audio_id}: {error}")
    return RuntimeError(f"{audio_id} ({line.where}) could not be read: {type(error).__name__}: {error}")
