"""Generate the items of test manifests: the body of ``inference.py``.

Writes ``${output_dir}/<task>/<audio_id>.wav`` and ``manifest.jsonl``. Finished items are not redone: an item counts as
finished when its line and its file are there and were made from the same content with the same weights and settings.
Several processes, as ``accelerate launch`` or ``torchrun`` start them, share the work.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf

from unisono.config import hydra_entry, save_config
from unisono.config.entries import INFERENCE
from unisono.errors import UserError
from unisono.files import locked, write_json
from unisono.tasks import TASKS
from unisono.threads import one_torch_thread
from unisono.workers import default_workers

if TYPE_CHECKING:
    from accelerate import PartialState

    from unisono.inference.batch.generating import Generator
    from unisono.inference.batch.items import Batch, ItemSet
    from unisono.inference.batch.manifest import Key, Manifest, Record
    from unisono.inference.checkpoints import LoadedModel
    from unisono.inference.pipeline import Pipeline
    from unisono.models.generation import GenerationSettings
    from unisono.models.unified import UnifiedAudioModel

logger = logging.getLogger(__name__)

_SHOWN_FAILURES = 10
_LOOK_EVERY_S = 0.2


@hydra_entry(INFERENCE)
def main(cfg: DictConfig) -> None:
    run_inference(cfg)


def run_inference(cfg: DictConfig) -> Path:
    """Generate everything that is not there yet; returns the manifest's path.

    Raises:
        UserError: before anything is touched, for what cannot work; in the end, for items that could not be generated
            (all others are there).
    """
    import torch

    from unisono.inference.batch.sharing import from_main
    from unisono.training.processes import process_state

    state = process_state()
    threads = min(torch.get_num_threads(), default_workers())
    # Whatever the device: some of what decides on a sound is computed on the CPU, when the model is built.
    with one_torch_thread(), ExitStack() as stack:
        generator = _generator(state, cfg, threads)
        manifest = generator.manifest
        plan = from_main(state, lambda: _plan(cfg, generator, stack))
        try:
            _generate(state, generator, plan)
        except (KeyboardInterrupt, UserError) as error:
            if state.num_processes == 1:  # others may still be writing: their parts are merged at the next start
                with suppress(UserError):
                    manifest.merge(manifest.read()[0], plan.order)
            if isinstance(error, UserError):
                raise
            logger.warning("stopped; finished items are kept, and the same command goes on")
            sys.exit(130)
        from_main(state, lambda: _conclude(manifest, plan))
    return manifest.path


def _generator(state: PartialState, cfg: DictConfig, threads: int) -> Generator:
    """Data sets, model and settings; all that can be refused is refused here, before anything is touched."""
    from hydra.utils import instantiate

    from unisono.inference.batch.generating import Generator
    from unisono.inference.batch.manifest import Manifest
    from unisono.inference.batch.sharing import main_first, own_device
    from unisono.inference.model_folder import settings_for
    from unisono.inference.pipeline import Pipeline

    device = main_first(state, lambda: own_device(state, cfg.device))
    sets = main_first(state, lambda: _item_sets(cfg))
    loaded = _load_model(state, cfg)
    pipeline = Pipeline(loaded.model, loaded.cfg, device, cfg.dtype)
    options = instantiate(cfg.generation)

    def settle() -> dict[str, GenerationSettings]:
        _check_modalities(sets, pipeline.model)
        return {task: pipeline.model.settle(settings_for(pipeline.cfg, task, options)) for task in TASKS}

    settings = main_first(state, settle)
    provenance = {task: _provenance(cfg, loaded, pipeline, own) for task, own in settings.items()}
    manifest = Manifest(Path(cfg.output_dir), state.process_index)
    return Generator(
        pipeline, sets, cfg.seed, settings, provenance, loaded.chosen.label, manifest, side_by_side=threads
    )


# -- what is to be done -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What the main process decides for all.

    Attributes:
        name: of this run, unlike any other's.
        order: of the manifest's lines.
        batches: largest first.
    """

    name: str
    order: list[Key]
    batches: list[Batch]


def _item_sets(cfg: DictConfig) -> list[ItemSet]:
    from hydra.utils import instantiate

    from unisono.data.datasets.if_present import without_absent_sets
    from unisono.inference.batch.items import ItemSet

    plain: Any = OmegaConf.to_container(cfg.datasets)
    nodes = without_absent_sets(plain)
    if not nodes:
        raise UserError("datasets names no data set that is there; choose some, for example data@datasets=test")
    return [ItemSet.of(instantiate(node), node) for node in nodes]


def _load_model(state: PartialState, cfg: DictConfig) -> LoadedModel:
    """The model of this process: the main one chooses, since checkpoints may come and go."""
    from unisono.inference.batch.sharing import from_main
    from unisono.inference.checkpoints import load_chosen, load_newest

    loaded: list[LoadedModel] = []

    def choose() -> Any:
        loaded.append(load_newest(cfg.exp_dir, cfg.model_dir, cfg.checkpoint, cfg.weights, cfg.allow))
        return loaded[0].chosen

    chosen = from_main(state, choose)
    own = loaded[0] if loaded else load_chosen(chosen, cfg.allow)
    logger.info("model: %s, weights %s", chosen.label, own.weights_hash)
    return own


def _check_modalities(sets: Sequence[ItemSet], model: UnifiedAudioModel) -> None:
    """Raise for data sets whose content the model cannot read at all."""
    for own in sets:
        modality = TASKS[own.task].modality
        if modality not in model.content_encoders:
            raise UserError(
                f"{own.dataset.name}: items of {own.task} bring {modality} content, and the model has encoders for "
                f"{', '.join(model.content_encoders)} alone; leave the data set out: data@datasets=…"
            )


def _provenance(
    cfg: DictConfig, loaded: LoadedModel, pipeline: Pipeline, settings: GenerationSettings
) -> dict[str, Any]:
    """What makes an item what it is, beside its content."""
    # How often an item's generation asks the network, and for how many predictions: guidance wants several at once.
    levels = pipeline.model.noise_levels(settings)
    predictions = sum(len(settings.guidance.branches(level)) for level in levels)
    return {
        "weights": loaded.weights_hash,
        "model": loaded.model_hash,
        "seed": cfg.seed,
        "dtype": cfg.dtype,
        **dataclasses.asdict(settings),
        "network_evaluations": len(levels),
        "network_predictions": predictions,
    }


def _plan(cfg: DictConfig, generator: Generator, stack: ExitStack) -> _Plan:
    """Take the output folder, find what is finished and lay out the rest; in the main process alone."""
    from unisono.inference.batch.items import all_items, make_batches
    from unisono.inference.batch.manifest import explained

    manifest, sets, settings = generator.manifest, generator.sets, generator.settings
    items = all_items(sets)
    with explained(manifest.path):
        refusal = (
            f"another process generates into {manifest.folder}; wait until it has ended, or choose another output_dir"
        )
        stack.enter_context(locked(manifest.folder / ".inference.lock", refusal=refusal))
        manifest.remove_temporary_files()
        save_config(manifest.folder / "config.yaml", cfg)
    done = _finished(manifest, generator.provenance, sets, items)
    manifest.merge(done, items)
    pending = [place for key, place in items.items() if key not in done]
    # On a CPU each item is computed by itself, see unisono.inference.batch.generating.
    batch_size = 1 if generator.pipeline.device.type == "cpu" else cfg.batch_size
    batches = make_batches(sets, pending, settings, batch_size, cfg.max_batch_frames)
    logger.info("%d items to generate, %d finished already", len(pending), len(items) - len(pending))
    return _Plan(uuid4().hex, list(items), batches)


def _finished(
    manifest: Manifest,
    provenance: Mapping[str, Mapping[str, Any]],
    sets: Sequence[ItemSet],
    items: Mapping[Key, tuple[int, int]],
) -> dict[Key, Record]:
    """Lines of items made from the same content with these very settings.

    A line of an item that is not asked for now stays, if its settings are the same.
    """
    made, _ = manifest.read()
    kept: dict[Key, Record] = {}
    for key, record in made.items():
        same = key[0] in provenance and all(record.get(name) == value for name, value in provenance[key[0]].items())
        if same and key in items:
            number, index = items[key]
            try:
                same = record.get("content_hash") == sets[number].content_hash(index)
            except UserError:  # said when it is loaded
                same = False
        if same and (manifest.folder / str(record.get("audio"))).is_file():
            kept[key] = record
    if len(kept) < len(made):
        logger.info(
            "%d items were made with other content, weights or settings: they are made anew", len(made) - len(kept)
        )
    return kept


# -- doing it ---------------------------------------------------------------------------------------------------------


def _generate(state: PartialState, generator: Generator, plan: _Plan) -> None:
    """This process's part; the main process waits for the others."""
    from unisono.inference.batch.progress import Progress
    from unisono.inference.batch.sharing import Tally

    if not plan.batches:
        return
    tally = Tally(state, plan.name)
    items = sum(len(batch.places) for batch in plan.batches)
    frames = sum(batch.frames for batch in plan.batches)
    with Progress(tally, items, frames, state.is_main_process) as progress:
        generator.run(plan.batches, tally, progress)
        while state.is_main_process and progress.done < items:
            time.sleep(_LOOK_EVERY_S)
            progress.show()


def _conclude(manifest: Manifest, plan: _Plan) -> None:
    """One manifest of all parts; raise for what is not in it."""
    from unisono.inference.batch.manifest import FAILED, explained

    made, failed = manifest.read()
    manifest.merge(made, plan.order)
    report = manifest.folder / "failed.json"
    with explained(report):
        report.unlink(missing_ok=True)
        if failed:
            write_json(report, failed)
    if failed:
        shown = "\n  ".join(
            f"{record['task']}/{record['audio_id']}: {record[FAILED]}" for record in failed[:_SHOWN_FAILURES]
        )
        more = f"\n  … and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
        raise UserError(
            f"{len(failed)} of {len(plan.order)} items could not be generated (all others are there; the same command "
            f"tries these again; {report} has all of them):\n  {shown}{more}"
        )
