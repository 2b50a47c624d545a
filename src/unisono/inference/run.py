"""Generate the items of test manifests: the body of ``inference.py``.

Writes ``${output_dir}/<task>/<audio_id>.wav`` and ``manifest.jsonl``. Finished items are not redone: an item counts as
finished when its line and its file are there and were made with the same weights and settings.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from unisono.audio import write_audio
from unisono.config import hydra_entry
from unisono.data.manifest import read_jsonl
from unisono.errors import UserError

logger = logging.getLogger(__name__)


@hydra_entry("inference")
def main(cfg: DictConfig) -> None:
    run_inference(cfg)


def run_inference(cfg: DictConfig) -> Path:
    """Generate everything that is not there yet; returns the manifest's path."""
    from hydra.utils import instantiate

    from unisono.data.datasets import AudioGenerationDataset
    from unisono.inference.pipeline import Pipeline, weights_hash

    datasets: list[AudioGenerationDataset] = list(instantiate(cfg.datasets))
    settings = instantiate(cfg.generation)
    output_dir = Path(cfg.output_dir)
    provenance = {
        "weights": weights_hash(_model_dir(cfg)),
        "seed": cfg.seed,
        **dataclasses.asdict(settings),
        "mixed_precision": cfg.mixed_precision,
    }
    manifest = output_dir / "manifest.jsonl"
    output_dir.mkdir(parents=True, exist_ok=True)
    done = _finished(manifest, provenance)
    items = _pending(datasets, done)
    logger.info("%d items to generate, %d finished already", len(items), len(done))
    if not items:
        return manifest
    pipeline = Pipeline.from_pretrained(_model_dir(cfg), cfg.device, cfg.mixed_precision)
    with tqdm(total=len(items), unit="item", desc="generate", dynamic_ncols=True) as bar:
        for begin in range(0, len(items), cfg.batch_size):
            chunk = items[begin : begin + cfg.batch_size]
            samples = [dataclasses.replace(dataset[index], waveform=None) for dataset, index in chunk]
            started = time.perf_counter()
            generated = pipeline.generate(samples, seed=cfg.seed, settings=settings)
            seconds = (time.perf_counter() - started) / len(samples)
            with manifest.open("a", encoding="utf-8") as out:
                for (dataset, index), sample, audio in zip(chunk, samples, generated, strict=True):
                    relative = f"{sample.task}/{sample.audio_id}.wav"
                    write_audio(output_dir / relative, audio.waveform, audio.sample_rate)
                    record = {
                        "audio_id": sample.audio_id,
                        "task": sample.task,
                        "audio": relative,
                        "instruction": sample.instruction,
                        "content": dataset.describe(dataset.items[index]),
                        "duration_s": audio.duration_s,
                        "seconds": round(seconds, 4),
                        **provenance,
                    }
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
            bar.update(len(chunk))
    return manifest


def _model_dir(cfg: DictConfig) -> Path:
    folder = Path(cfg.model_dir)
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} holds no model (model.safetensors); train first: python train.py exp_dir={cfg.exp_dir}"
        )
    return folder


def _finished(manifest: Path, provenance: dict[str, Any]) -> set[tuple[str, str]]:
    """``(task, audio_id)`` of items made with these very settings; other and torn lines leave the manifest."""
    if not manifest.is_file():
        return set()
    kept: dict[tuple[str, str], str] = {}
    lines = manifest.read_text(encoding="utf-8").split("\n")  # splitlines() would also split captions, at U+2028
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a killed run tears at most its last line; that item is made again
        same = all(record.get(key) == value for key, value in provenance.items())
        if same and (manifest.parent / record["audio"]).is_file():
            kept[record["task"], record["audio_id"]] = line
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept.values()), encoding="utf-8")
    temporary.replace(manifest)
    return set(kept)


def _pending(datasets: Sequence[Any], done: set[tuple[str, str]]) -> list[tuple[Any, int]]:
    """Items to generate, of like length together; one output name for two items is an error."""
    seen: dict[tuple[str, str], str] = {}
    pending = []
    for dataset in datasets:
        for index, record in enumerate(dataset.items):
            key = (dataset.task, record.record["audio_id"])
            if key in seen:
                raise UserError(
                    f"{record.where}: audio_id {key[1]!r} of {key[0]} is also at {seen[key]}; ids name output files"
                )
            seen[key] = record.where
            if key not in done:
                pending.append((dataset, index))
    return sorted(pending, key=lambda item: (item[0].task, -float(item[0].durations_s[item[1]])))


def read_generated(manifest: Path) -> list[dict[str, Any]]:
    """The lines of an inference manifest."""
    return [record for _, record in read_jsonl(manifest)]
