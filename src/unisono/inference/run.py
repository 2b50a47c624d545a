"""Generate the items of test manifests: the body of ``inference.py``.

Writes ``${output_dir}/<task>/<audio_id>.wav`` and ``manifest.jsonl``. Finished items are not redone: an item counts as
finished when its line and its file are there and were made from the same content with the same weights and settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from omegaconf import DictConfig
from tqdm import tqdm

from unisono.config import hydra_entry, save_config
from unisono.config.entries import INFERENCE
from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import write_audio

if TYPE_CHECKING:
    from unisono.data.datasets import AudioGenerationDataset
    from unisono.models.generation import GenerationSettings
    from unisono.objectives import Objective

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # task, audio_id
Item: TypeAlias = "tuple[AudioGenerationDataset, int]"


@hydra_entry(INFERENCE)
def main(cfg: DictConfig) -> None:
    run_inference(cfg)


def run_inference(cfg: DictConfig) -> Path:
    """Generate everything that is not there yet; returns the manifest's path."""
    from hydra.utils import instantiate

    from unisono.data.datasets.if_present import without_absent_sets
    from unisono.inference.pipeline import Pipeline, weights_hash

    datasets: list[AudioGenerationDataset] = list(instantiate(without_absent_sets(cfg.datasets)))
    folder = _model_dir(cfg)
    pipeline = Pipeline.from_pretrained(folder, cfg.device, cfg.mixed_precision)
    settings = instantiate(cfg.generation)
    # Before anything is touched: settings that the model's objective refuses must not cost what was made with others.
    settings = pipeline.model.settle(settings)
    output_dir = Path(cfg.output_dir)
    provenance = {
        "weights": weights_hash(folder),
        "seed": cfg.seed,
        **dataclasses.asdict(settings),
        **_network_work(pipeline.model.objective, settings),
        "mixed_precision": cfg.mixed_precision,
    }
    manifest = output_dir / "manifest.jsonl"
    save_config(output_dir / "config.yaml", cfg)
    items = _all_items(datasets)
    done = _finished(manifest, provenance, {key: content_hash(*item) for key, item in items.items()})
    pending = _by_length([item for key, item in items.items() if key not in done])
    logger.info("%d items to generate, %d finished already", len(pending), len(items) - len(pending))
    if not pending:
        return manifest
    with tqdm(total=len(pending), unit="item", desc="generate", dynamic_ncols=True) as bar:
        for begin in range(0, len(pending), cfg.batch_size):
            chunk = pending[begin : begin + cfg.batch_size]
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
                        "content": dataset.describe(dataset.line(index)),
                        "duration_s": audio.duration_s,
                        "seconds": round(seconds, 4),
                        "content_hash": content_hash(dataset, index),
                        **provenance,
                    }
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
            bar.update(len(chunk))
    return manifest


def _network_work(objective: Objective, settings: GenerationSettings) -> dict[str, int]:
    """How often an item's generation asks the network, and for how many predictions: guidance wants several at once."""
    levels = objective.noise_levels(settings.num_steps, settings.solver, settings.sway, settings.shift)
    predictions = sum(len(settings.guidance.branches(level)) for level in levels)
    return {"network_evaluations": len(levels), "network_predictions": predictions}


def _model_dir(cfg: DictConfig) -> Path:
    folder = Path(cfg.model_dir)
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} holds no model (model.safetensors); train first: python train.py exp_dir={cfg.exp_dir}"
        )
    return folder


def content_hash(dataset: AudioGenerationDataset, index: int) -> str:
    """Hash of what the model is given: instruction, content line, input recordings and other files."""
    line = dataset.line(index)
    digest = hashlib.sha256(dataset.instruction(line, epoch=0).encode())
    digest.update(json.dumps(line.record, sort_keys=True).encode())
    for _, location in (*dataset.input_files(line), *dataset.other_files(line)):
        digest.update(location.read_bytes())
    return digest.hexdigest()[:16]


def _finished(manifest: Path, provenance: dict[str, Any], hashes: dict[Key, str]) -> set[Key]:
    """Items made from the same content with these very settings; other and torn lines leave the manifest.

    A line of an item that is not asked for now stays, if its settings are the same.
    """
    if not manifest.is_file():
        return set()
    kept: dict[Key, str] = {}
    for line in manifest.read_text(encoding="utf-8").split("\n"):  # splitlines() would also split captions, at U+2028
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the end, or what a killed run tore; that item is made again
        key = (record["task"], record["audio_id"])
        same = all(record.get(name) == value for name, value in provenance.items())
        same = same and record.get("content_hash") == hashes.get(key, record.get("content_hash"))
        if same and (manifest.parent / record["audio"]).is_file():
            kept[key] = line
    with replaced_file(manifest) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept.values()), encoding="utf-8")
    return set(kept)


def _all_items(datasets: Sequence[AudioGenerationDataset]) -> dict[Key, Item]:
    """Every item by task and id; one output name for two items is an error."""
    items: dict[Key, Item] = {}
    for dataset in datasets:
        for index in range(len(dataset)):
            line = dataset.line(index)
            key = (dataset.task, line.record["audio_id"])
            if key in items:
                other = items[key][0].line(items[key][1]).where
                raise line.fail(f"audio_id {key[1]!r} of {key[0]} is also at {other}; ids name output files")
            items[key] = (dataset, index)
    return items


def _by_length(items: Sequence[Item]) -> list[Item]:
    """Items of one task and like length side by side, so that batches have little padding."""
    return sorted(items, key=lambda item: (item[0].task, -float(item[0].durations_s[item[1]])))
