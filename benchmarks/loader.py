"""The loader alone: items per second and padding, recordings against cached latents; and the index of long manifests.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [--clips 600] [--rounds 5] [--seconds 4] [--folder DIR]
    python benchmarks/loader.py --training [--clips 200] [--rounds 5]
    OMP_NUM_THREADS=1 python benchmarks/loader.py --index 10000000 [--folder DIR]
    OMP_NUM_THREADS=1 python benchmarks/loader.py --streams [--clips 600] [--seconds 4] [--folder DIR]

The first makes its own clips of 8 to 12 seconds (24 kHz, mono, 16 bit) in a temporary folder, caches their latents and
runs the training loader with the real collator in batches of 16; every round tries all settings in turn, so that all
meet the same load. The second times training steps of the model `tiny` on flac files and on cached latents, in turns,
loaded in the training process itself. The third writes a manifest of so many lines, and tells what opening it costs and
what each of four workers keeps to itself. The fourth writes tar shards, streams them, and tells how long a resumed run
takes to its first batches. All files are read before they are timed: what is measured is the loader, not
the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from unisono.data.collate import Collator
from unisono.data.datasets import ConcatDataset, TextToAudioDataset
from unisono.data.feature_cache.attach import attach
from unisono.data.feature_cache.build import fill_demands
from unisono.data.feature_cache.demands import demands_of
from unisono.data.loader import train_dataloader
from unisono.data.manifest import write_jsonl
from unisono.data.order import TrainBatches
from unisono.data.streaming import TarShards, streamed_dataloader
from unisono.data.tar_shards import write_shards
from unisono.media.audio import write_audio
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.types import Batch

SAMPLE_RATE, BATCH_SIZE, WARM_UP_BATCHES = 24_000, 16, 8
WORKERS = (0, 1, 2, 4)
INDEX_WORKERS = 4


def make_clips(folder: Path, clips: int) -> None:
    """Manifests ``wav`` and ``flac`` of the same clips: partials over noise, 8 to 12 seconds."""
    rng = np.random.default_rng(0)
    for kind in ("wav", "flac"):
        (folder / kind).mkdir(parents=True)
    content, audio = [], []
    for number in range(clips):
        samples = int(rng.uniform(8.0, 12.0) * SAMPLE_RATE)
        time_s = np.arange(samples) / SAMPLE_RATE
        tones = sum(np.sin(2 * np.pi * rng.uniform(80, 4000) * time_s) for _ in range(4))
        waveform = (0.1 * tones + 0.02 * rng.standard_normal(samples)).astype(np.float32)
        content.append({"audio_id": f"clip{number}", "caption": f"four partials over noise, number {number}"})
        audio.append({"audio_id": f"clip{number}", "duration_s": samples / SAMPLE_RATE})
        for kind in ("wav", "flac"):
            write_audio(folder / kind / f"clip{number}.{kind}", waveform, SAMPLE_RATE)
    for kind in ("wav", "flac"):
        write_jsonl(folder / f"{kind}_content.jsonl", content)
        write_jsonl(folder / f"{kind}_audio.jsonl", [a | {"audio": f"{kind}/{a['audio_id']}.{kind}"} for a in audio])


def data_set(folder: Path, kind: str) -> TextToAudioDataset:
    return TextToAudioDataset(folder / f"{kind}_content.jsonl", folder / f"{kind}_audio.jsonl", check_files=False)


def cached_data_set(folder: Path) -> tuple[TextToAudioDataset, str]:
    """The wav clips with latents from a cache, and how long making it took."""
    dataset, autoencoder, cache = data_set(folder, "wav"), LogMelAutoencoder(), folder / "cache"
    begin = time.perf_counter()
    (filled,) = fill_demands(demands_of({"autoencoder": autoencoder}, [[dataset]]), cache, workers=2)
    end = time.perf_counter()
    assert not filled.faults, filled.faults
    attach([dataset], {"autoencoder": autoencoder}, cache)
    size = filled.store.size_bytes / 1e6
    return dataset, f"cache of {filled.num_inputs} clips, {size:.0f} MB, made in {end - begin:.1f} s by 2 processes"


def loaded(dataset: TextToAudioDataset, workers: int, seconds: float) -> tuple[float, float]:
    """Items per second, and the share of padding, over some seconds after a warm-up."""
    loader = train_dataloader(ConcatDataset([dataset]), BATCH_SIZE, Collator(), num_workers=workers)
    batches: Iterator[Batch] = iter(loader)
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    items, samples, room = 0, 0, 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        batch = next(batches)
        assert batch.waveform_lengths is not None
        items += len(batch)
        samples += int(batch.waveform_lengths.sum())
        room += len(batch) * int(batch.waveform_lengths.max())
    return items / (time.perf_counter() - begin), 1 - samples / room


def compare(folder: Path, clips: int, rounds: int, seconds: float) -> None:
    make_clips(folder, clips)
    cached, told = cached_data_set(folder)
    datasets = {"wav": data_set(folder, "wav"), "flac": data_set(folder, "flac"), "cached latents": cached}
    rates: dict[tuple[str, int], list[float]] = {(kind, workers): [] for workers in WORKERS for kind in datasets}
    padding: dict[str, list[float]] = {kind: [] for kind in datasets}
    for _ in range(rounds):
        for kind, workers in rates:
            rate, share = loaded(datasets[kind], workers, seconds)
            rates[kind, workers].append(rate)
            padding[kind].append(share)
    print(
        f"{clips} clips of 8 to 12 s, batches of {BATCH_SIZE}, {rounds} rounds of {seconds:g} s, {os.cpu_count()} cores"
    )
    print(f"{told}\n")
    print(
        "| items/s: median (least to most) | "
        + " | ".join(f"{workers} workers" for workers in WORKERS)
        + " | padding |"
    )
    print("| --- " * (len(WORKERS) + 2) + "|")
    for kind in datasets:
        measured = [rates[kind, workers] for workers in WORKERS]
        cells = [f"{statistics.median(rate):,.0f} ({min(rate):,.0f} to {max(rate):,.0f})" for rate in measured]
        print(f"| {kind} | " + " | ".join(cells) + f" | {100 * statistics.mean(padding[kind]):.1f} % |")


# -- training ---------------------------------------------------------------------------------------------------------

TRAINED_ITEMS, TRAINED_STEPS = 8, 6


def step_seconds(model: torch.nn.Module, dataset: TextToAudioDataset) -> float:
    """Median seconds of a training step, loading included."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batches = iter(train_dataloader(ConcatDataset([dataset]), TRAINED_ITEMS, Collator()))
    seconds = []
    for _ in range(TRAINED_STEPS):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(next(batches))
            loss = torch.nn.functional.mse_loss(output.prediction.float(), output.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def compare_training(folder: Path, clips: int, rounds: int) -> None:
    from hydra.utils import instantiate

    from unisono.config import compose

    make_clips(folder, clips)
    model = instantiate(compose("default").model).train()
    cached = data_set(folder, "wav")
    (filled,) = fill_demands(demands_of({"autoencoder": model.autoencoder}, [[cached]]), folder / "cache", workers=2)
    assert not filled.faults, filled.faults
    attach([cached], {"autoencoder": model.autoencoder}, folder / "cache")
    raw = data_set(folder, "flac")
    pairs = [(step_seconds(model, raw), step_seconds(model, cached)) for _ in range(rounds)]
    ratios = [cached_s / raw_s for raw_s, cached_s in pairs]
    print(
        f"steps of {TRAINED_ITEMS} clips of 8 to 12 s, model tiny, {rounds} rounds in turns, {os.cpu_count()} cores\n"
    )
    print("| | seconds per step: median (least to most) |\n| --- | --- |")
    for name, seconds in zip(("flac files", "cached latents"), zip(*pairs, strict=True), strict=True):
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) |")
    print(f"| ratio | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")


# -- index ------------------------------------------------------------------------------------------------------------


def write_manifests(folder: Path, lines: int) -> None:
    with (folder / "content.jsonl").open("w") as content, (folder / "audio.jsonl").open("w") as audio:
        for number in range(lines):
            audio_id = f"clip_{number:09d}"
            content.write(
                f'{{"audio_id": "{audio_id}", "caption": "sound number {number} of a long list of sounds"}}\n'
            )
            entry = {"audio_id": audio_id, "audio": f"audio/{audio_id}.flac", "duration_s": 1 + number % 2900 / 100}
            audio.write(json.dumps(entry) + "\n")


def own_memory_mb() -> np.ndarray:
    """What no other process has: all of it, and what was written to (the rest are pages of files, dropped at need)."""
    dirty = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "Private_Dirty" in line]
    return np.array([psutil.Process().memory_full_info().uss / 1e6, int(dirty[0].split()[1]) / 1e3])


def shown_mb(memory: np.ndarray) -> str:
    return " | ".join(f"{value:.0f}" for value in memory)


class LinesOnly(torch.utils.data.Dataset[Any]):
    """Reads the lines of items as training does, and tells what the worker keeps to itself; no audio."""

    def __init__(self, dataset: ConcatDataset) -> None:
        self.dataset, self.datasets = dataset, dataset.datasets

    @property
    def durations_s(self) -> np.ndarray:
        return self.dataset.durations_s

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        part, position = self.dataset.locate(index % len(self.dataset))
        part.line(position), part.target_line(position)
        return os.getpid(), own_memory_mb()


def open_index(folder: Path) -> tuple[TextToAudioDataset, float, np.ndarray]:
    """The data set, the seconds that opening it took, and the memory that it keeps."""
    before, begin = own_memory_mb(), time.perf_counter()
    dataset = TextToAudioDataset(folder / "content.jsonl", folder / "audio.jsonl", check_files=False)
    return dataset, time.perf_counter() - begin, own_memory_mb() - before


def measure_index(folder: Path, lines: int) -> None:
    os.environ["UNISONO_CACHE"] = str(folder / "index cache")
    write_manifests(folder, lines)
    size = sum((folder / name).stat().st_size for name in ("content.jsonl", "audio.jsonl")) / 1e9
    dataset, first_s, first_mb = open_index(folder)
    del dataset
    dataset, second_s, second_mb = open_index(folder)
    begin = time.perf_counter()
    loader = train_dataloader(LinesOnly(ConcatDataset([dataset])), BATCH_SIZE, list, num_workers=INDEX_WORKERS)
    batches = iter(loader)
    next(batches)
    batch_s = time.perf_counter() - begin
    seen: dict[int, np.ndarray] = {}
    for batch in islice(batches, 400):
        seen |= dict(batch)
    print(f"{lines:,} items, manifests of {size:.2f} GB\n")
    print("| | seconds | own memory, MB | of it written |\n| --- | --- | --- | --- |")
    print(f"| first start: read, joined, checked | {first_s:.1f} | {shown_mb(first_mb)} |")
    print(f"| second start: mapped | {second_s:.2f} | {shown_mb(second_mb)} |")
    print(f"| sampler and {INDEX_WORKERS} workers, to the first batch | {batch_s:.1f} | | |")
    print(f"| main process, all | | {shown_mb(own_memory_mb())} |")
    for number, own_mb in enumerate(seen.values(), 1):
        print(f"| worker {number}, all | | {shown_mb(own_mb)} |")


# -- streams ----------------------------------------------------------------------------------------------------------

STREAMS, RESUMED_TURNS = 4, (0, 1, 10, 100)


def streamed(folder: Path, workers: int, start: int = 0) -> Iterator[Batch]:
    source = TarShards(str(folder / "shards" / "*.tar"), TextToAudioDataset(None))
    loader = streamed_dataloader([source], BATCH_SIZE, Collator(), num_streams=STREAMS, num_workers=workers)
    return TrainBatches(loader, 0).stream(start)


def measure_streams(folder: Path, clips: int, seconds: float) -> None:
    os.environ["UNISONO_CACHE"] = str(folder / "cache")
    make_clips(folder, clips)
    begin = time.perf_counter()
    shards = write_shards(data_set(folder, "flac"), folder / "shards", progress=False)
    size_mb = sum(path.stat().st_size for path in shards) / 1e6
    written_s = time.perf_counter() - begin
    print(f"{clips} clips in {len(shards)} shards of {size_mb:.0f} MB in all, written in {written_s:.1f} s\n")
    print("| | |\n| --- | --- |")
    for workers in WORKERS:
        batches, items = streamed(folder, workers), 0
        for _ in range(max(WARM_UP_BATCHES, clips // BATCH_SIZE)):  # a turn, so that all shards are noted
            next(batches)
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            items += len(next(batches))
        print(f"| {workers} workers, items/s | {items / (time.perf_counter() - begin):,.0f} |")
    for turns in RESUMED_TURNS:
        begin = time.perf_counter()
        batches = streamed(folder, 0, turns * clips // BATCH_SIZE // STREAMS * STREAMS)
        for _ in range(STREAMS):
            next(batches)
        print(f"| seconds to a batch of each stream, after {turns} turns | {time.perf_counter() - begin:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--index", type=int, metavar="LINES")
    parser.add_argument("--streams", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        if given.index:
            measure_index(Path(temporary), given.index)
        elif given.streams:
            measure_streams(Path(temporary), given.clips, given.seconds)
        elif given.training:
            compare_training(Path(temporary), given.clips, given.rounds)
        else:
            compare(Path(temporary), given.clips, given.rounds, given.seconds)


if __name__ == "__main__":
    main()
