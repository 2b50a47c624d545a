"""One process's part of a run: take a batch, load it, generate it, write it, until none is left.

On a CPU each item is computed by itself, on one thread. A matrix product sums in another order when it has another
shape or another number of threads, and attention over padded keys takes another kernel; Griffin-Lim then makes other
phases of the last bits. So an item is the same to the last bit whatever it is generated beside and however many
processes share the work. Several threads generate items side by side, which is faster than several for one item.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from unisono.errors import UserError
from unisono.inference.batch.items import Batch, ItemSet
from unisono.inference.batch.manifest import FAILED, Manifest, Record
from unisono.inference.batch.progress import Progress
from unisono.inference.batch.sharing import Tally
from unisono.inference.generated import GeneratedAudio
from unisono.inference.pipeline import Pipeline, is_out_of_memory
from unisono.media.audio import write_audio
from unisono.models.generation import GenerationSettings
from unisono.types import Sample

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Loaded:
    """A batch with what the model is given for those of its items that could be read, and the hashes of that."""

    batch: Batch
    places: Sequence[tuple[int, int]]
    samples: Sequence[Sample]
    hashes: Sequence[str]


@dataclass(frozen=True)
class Made:
    """What came of the samples of a batch, and the seconds it took."""

    results: Sequence[GeneratedAudio | UserError]
    seconds: float


class Generator:
    """Generates batches that it takes from those that all processes share.

    Args:
        pipeline: model, device and precision.
        sets: of items.
        seed: an item's noise follows from ``(seed, audio_id)``.
        settings: of each task.
        provenance: of each task: what its lines in the manifest have in common, and what makes an item the same.
        checkpoint: what people call the weights.
        manifest: in the output folder.
        side_by_side: items that a CPU computes at a time, each on a thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sets: Sequence[ItemSet],
        seed: int,
        settings: Mapping[str, GenerationSettings],
        provenance: Mapping[str, Mapping[str, Any]],
        checkpoint: str,
        manifest: Manifest,
        side_by_side: int = 1,
    ) -> None:
        self.pipeline, self.sets, self.seed = pipeline, sets, seed
        self.settings, self.provenance, self.checkpoint = settings, provenance, checkpoint
        self.manifest, self.side_by_side = manifest, side_by_side

    def run(self, batches: Sequence[Batch], tally: Tally, progress: Progress) -> None:
        """Until every batch is taken and this process's own are written.

        Raises:
            UserError: the disk is full, or memory does not suffice. (An item that fails is a line of the part.)
        """
        size = self.side_by_side if self.pipeline.device.type == "cpu" else 1
        with _pool(size, self.pipeline.device) as pool:
            running: dict[Future[Made], Loaded] = {}
            ahead = 0  # the first batch alone: what libraries load at first use is not made for several threads
            while (number := tally.add("batches", 1) - 1) < len(batches):
                loaded = self._load(batches[number])
                running[pool.submit(self._make, loaded)] = loaded
                while len(running) > ahead:
                    self._finish_some(running, progress)
                ahead = size  # one more than there are threads is loaded
            while running:
                self._finish_some(running, progress)

    def _load(self, batch: Batch) -> Loaded:
        read: list[tuple[tuple[int, int], Sample, str]] = []
        for number, index in batch.places:
            own = self.sets[number]
            try:
                read.append(((number, index), own.sample(index), own.content_hash(index)))
            except UserError as error:
                self._fail(number, index, error)
        places, samples, hashes = zip(*read, strict=True) if read else ((), (), ())
        return Loaded(batch, places, samples, hashes)

    def _make(self, loaded: Loaded) -> Made:
        """In a thread of the pool."""
        started_s = time.perf_counter()
        results = self._generate(loaded.samples, loaded.batch.task)
        return Made(results, time.perf_counter() - started_s)

    def _generate(self, samples: Sequence[Sample], task: str) -> list[GeneratedAudio | UserError]:
        try:
            return [*self.pipeline.generate(samples, seed=self.seed, settings=self.settings[task])]
        except UserError as error:
            if len(samples) == 1:
                return [error]
            # One of them is at fault; alone, each fails or succeeds for itself.
            return [result for sample in samples for result in self._generate([sample], task)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"the memory of {self.pipeline.device} does not suffice for a batch of {len(samples)} items such as "
                f"{samples[0].item_name}; lower batch_size or max_batch_frames (or generation.max_duration_s, or give "
                "generation.window_s)"
            ) from error

    def _finish_some(self, running: dict[Future[Made], Loaded], progress: Progress) -> None:
        """Write what is there, as soon as something is."""
        done, _ = wait(running, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
        for future in done:
            loaded = running.pop(future)
            self._write(loaded, future.result())
            progress.add(len(loaded.batch.places), loaded.batch.frames)
        if not done:
            progress.show()

    def _write(self, loaded: Loaded, made: Made) -> None:
        records: list[Record] = []
        items = zip(loaded.places, loaded.samples, loaded.hashes, made.results, strict=True)
        for (number, index), sample, content_hash, result in items:
            if isinstance(result, UserError):
                self._fail(number, index, result)
                continue
            relative = f"{sample.task}/{sample.audio_id}.wav"
            write_audio(self.manifest.folder / relative, result.waveform, result.sample_rate)
            own, seconds = self.sets[number], made.seconds / len(loaded.samples)
            records.append(
                {
                    "audio_id": sample.audio_id,
                    "task": sample.task,
                    "audio": relative,
                    "instruction": sample.instruction,
                    "content": own.dataset.describe(own.dataset.line(index)),
                    "duration_s": result.duration_s,
                    "seconds": round(seconds, 4),
                    "real_time_factor": round(seconds / result.duration_s, 4),
                    "content_hash": content_hash,
                    "checkpoint": self.checkpoint,
                    "device": self.pipeline.device.type,
                    **self.provenance[sample.task],
                }
            )
        self.manifest.append(records)

    def _fail(self, number: int, index: int, error: UserError) -> None:
        own = self.sets[number]
        logger.warning("left out: %s", error)
        self.manifest.append(
            [{"audio_id": own.dataset.audio_id(index), "task": own.task, FAILED: str(error).splitlines()[0]}]
        )


@contextmanager
def _pool(size: int, device: torch.device) -> Iterator[ThreadPoolExecutor]:
    def begin() -> None:
        torch.set_num_threads(1)  # a thread does not inherit it
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)

    pool = ThreadPoolExecutor(size, "generate", begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
