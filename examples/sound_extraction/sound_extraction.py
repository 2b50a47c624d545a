"""A ninth task: take the sound that a caption names out of a mixture. docs/add_a_task.md walks through it."""

from typing import Any

import numpy as np

from unisono.data.datasets.base import Target
from unisono.data.datasets.restoration import RestorationDataset
from unisono.data.manifest import Fields
from unisono.tasks import Task, register_task
from unisono.training.run import main
from unisono.types import Content

# 1. One row of the task table: a name, an abbreviation, the modality that it cannot do without, ways to ask for it.
register_task(
    Task(
        name="sound_extraction",
        short="sx",
        modality="audio",
        instructions=("Keep only the sound that is described.", "Take this sound out of the mixture."),
    )
)


# 2. One data set: which fields a line has, and what the model is given of them.
class SoundExtractionDataset(RestorationDataset):
    """Mixtures (``mixture``: a recording that lies in time as its target does) and a ``caption`` of what to keep."""

    task = "sound_extraction"
    input_field = "mixture"

    def check(self, line: Fields, duration_s: float | None) -> None:
        super().check(line, duration_s)
        line.texts("caption")

    def check_target(self, line: Fields, waveform: Any) -> None:
        """Any sound may be a target."""

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        return (*super().load_content(line, target, rng), self.caption(line, target, rng))

    def describe(self, line: Fields) -> str:
        return line.texts("caption")[0]


if __name__ == "__main__":
    main()
