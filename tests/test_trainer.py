"""The loop: resuming, order over processes, checkpoints, validation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TASKS
from toy import toy_collator, toy_dataset, toy_model
from unisono.data.datasets import ConcatDataset
from unisono.data.loader import eval_dataloader, train_dataloader
from unisono.errors import UserError
from unisono.models.unified import GenerationSettings
from unisono.training.audio_generation_trainer import AudioGenerationTrainer
from unisono.training.checkpoint import CheckpointFolder, read_weights
from unisono.training.losses import AudioGenerationLoss
from unisono.training.samples import SampleLogger
from unisono.training.schedules import constant_with_warmup, cosine_with_warmup
from unisono.training.weights import load_strictly

ROOT = Path(__file__).resolve().parents[1]


def make_trainer(corpus: Path, exp_dir: Path, *, epochs: int = 1, num_workers: int = 0, **options: Any):
    datasets = ConcatDataset([toy_dataset(corpus, task) for task in TASKS])
    settings = {
        "lr_scheduler": partial(cosine_with_warmup, min_ratio=0.1),
        "epoch_length": 6,
        "seed": 3,
        "warmup_params": {"warmup_steps": 2},
        "mixed_precision": "no",
        "ema_decay": 0.9,
        "val_sigmas": (0.3, 0.7),
        "log_every_n_steps": 1,
        "val_every_n_steps": 3,
        "save_every_n_steps": 2,
        "progress": False,
        "model": toy_model(16, 2) if "model" not in options else None,
        "val_dataloader": eval_dataloader(datasets, 8, toy_collator()),
    }
    return AudioGenerationTrainer(
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        loss_fn=AudioGenerationLoss(),
        train_dataloader=train_dataloader(datasets, 4, toy_collator(), num_workers=num_workers, seed=3),
        exp_dir=exp_dir,
        epochs=epochs,
        **{**settings, **options},
    )


def logged(exp_dir: Path) -> list[dict]:
    """Everything but speeds."""
    records = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "items_per_s"} for record in records]


class Killed(Exception):
    pass


@pytest.mark.parametrize(("killed_at", "workers", "accumulation"), [(3, 0, 1), (5, 2, 1), (3, 0, 2)])
def test_a_resumed_run_prints_the_same_losses(
    killed_at: int, workers: int, accumulation: int, toy_corpus: Path, tmp_path: Path
) -> None:
    make_trainer(toy_corpus, tmp_path / "whole", gradient_accumulation_steps=accumulation).fit()
    broken = make_trainer(toy_corpus, tmp_path / "broken", gradient_accumulation_steps=accumulation)

    def die(*_: Any) -> None:
        if broken.step == killed_at:
            raise Killed

    broken.on_train_batch_end = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        broken.fit()
    resumed = make_trainer(
        toy_corpus, tmp_path / "broken", num_workers=workers, gradient_accumulation_steps=accumulation
    )
    resumed.fit()
    assert logged(tmp_path / "broken") == logged(tmp_path / "whole")
    a = read_weights(tmp_path / "whole/checkpoints/last/ema.safetensors")
    b = read_weights(tmp_path / "broken/checkpoints/last/ema.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again(toy_corpus: Path, tmp_path: Path) -> None:
    make_trainer(toy_corpus, tmp_path).fit()
    before = (tmp_path / "metrics.jsonl").read_text()
    again = make_trainer(toy_corpus, tmp_path)
    again.fit()
    assert again.step == 6 and (tmp_path / "metrics.jsonl").read_text() == before
    with pytest.raises(UserError, match="resume=never"):
        make_trainer(toy_corpus, tmp_path, resume="never").fit()


def test_the_schedule_counts_updates(toy_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(toy_corpus, tmp_path, lr_scheduler=constant_with_warmup, warmup_params={"warmup_steps": 4})
    trainer.fit()
    rates = [record["lr"] for record in logged(tmp_path) if "lr" in record]
    # Logged after the update: the rate of the next one.
    assert rates == pytest.approx([0.0005, 0.00075, 0.001, 0.001, 0.001, 0.001])


def test_old_checkpoints_go_only_after_the_new_one_is_there(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, save_last_k=2)
    weights = {"model": {"w": torch.ones(2)}}
    for step in range(1, 6):
        folder.save(step, weights, {"step": step}, is_best=step == 2)
    assert [path.name for path in folder.steps()] == ["step_00000002", "step_00000004", "step_00000005"]
    assert folder.best() == tmp_path / "step_00000002"
    assert (tmp_path / "last").resolve().name == "step_00000005"
    (tmp_path / ".tmp_step_00000006").mkdir()  # a save that was killed
    assert folder.latest_whole() == tmp_path / "step_00000005"


def test_weights_that_do_not_fit_are_listed() -> None:
    model = toy_model(16, 2)
    weights = {name: p.detach() for name, p in model.state_dict().items()}
    weights["backbone.output.weight"] = torch.zeros(3, 3)
    weights["surplus"] = weights.pop("null_frame")
    with pytest.raises(UserError) as error:
        load_strictly(model, weights, "here")
    for part in ("missing: null_frame", "unknown: surplus", "shape of backbone.output.weight", "here"):
        assert part in str(error.value)


def test_validation_is_the_same_whatever_the_batch_size(toy_corpus: Path, tmp_path: Path) -> None:
    means = []
    datasets = ConcatDataset([toy_dataset(toy_corpus, task) for task in TASKS])
    for batch_size in (3, 24):
        loader = eval_dataloader(datasets, batch_size, toy_collator())
        trainer = make_trainer(toy_corpus, tmp_path / str(batch_size), val_dataloader=loader)
        trainer.exp_dir.mkdir()
        trainer._validate()
        means.append(trainer.last_val_metrics)
    for name in means[0]:
        assert means[0][name] == pytest.approx(means[1][name], rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates(toy_corpus: Path, tmp_path: Path) -> None:
    """The same micro-batches with the same noise, so the same updates but for the order of summation."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_trainer import make_trainer\n"
        "make_trainer(Path(sys.argv[2]), Path(sys.argv[3])).fit()\n"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(script), str(ROOT / "tests"), str(toy_corpus), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    make_trainer(toy_corpus, tmp_path / "one", gradient_accumulation_steps=2).fit()
    for two, one in zip(logged(tmp_path / "two"), logged(tmp_path / "one"), strict=True):
        assert two.keys() == one.keys()
        for name in two.keys() - {"grad_norm", "train/total_loss"}:  # the latter weighs durations per micro-batch
            assert two[name] == pytest.approx(one[name], rel=2e-3), (two["step"], name)
    a = read_weights(tmp_path / "two/checkpoints/last/model.safetensors")
    b = read_weights(tmp_path / "one/checkpoints/last/model.safetensors")
    assert all(torch.allclose(a[name], b[name], atol=2e-3) for name in a)


def test_going_back_to_an_older_checkpoint_keeps_the_new_branch(toy_corpus: Path, tmp_path: Path) -> None:
    make_trainer(toy_corpus, tmp_path, save_last_k=5).fit()
    older = tmp_path / "checkpoints/step_00000002"
    going_back = make_trainer(toy_corpus, tmp_path, resume=str(older))
    going_back.load_checkpoint()
    assert going_back.step == 2 and (tmp_path / "checkpoints/last").resolve() == older.resolve()
    make_trainer(toy_corpus, tmp_path, save_last_k=1, resume=str(older)).fit()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert "step_00000006" in names and "abandoned_1_step_00000006" in names
    assert (tmp_path / "checkpoints/last").resolve().name == "step_00000006"
    assert [record["step"] for record in logged(tmp_path) if "lr" in record] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_stops_the_run(toy_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(toy_corpus, tmp_path)

    def spoil(loss: torch.Tensor) -> None:
        if trainer.step == 3:
            next(trainer.raw_model.parameters()).data.fill_(float("nan"))

    trainer.on_before_backward = spoil  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"step 4: the model became infinite or NaN"):
        trainer.fit()
    weights = read_weights(tmp_path / "checkpoints/last/model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("warmup", [{"warmup_steps": 1, "warmup_epochs": 1}, {"warmup": 3}])
def test_a_warm_up_is_said_once(warmup: dict, toy_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="warmup_params"):
        make_trainer(toy_corpus, tmp_path, warmup_params=warmup)


def test_training_losses_are_binned_by_sigma_and_by_task(toy_corpus: Path, tmp_path: Path) -> None:
    make_trainer(toy_corpus, tmp_path, log_every_n_steps=6, epochs=2).fit()
    [*_, last] = [record for record in logged(tmp_path) if "lr" in record]
    binned = {name for name in last if name.startswith("train/loss_sigma/")}
    assert binned == {f"train/loss_sigma/{low / 5:.1f}-{low / 5 + 0.2:.1f}" for low in range(5)}
    assert {f"train/loss/{task}" for task in TASKS} <= last.keys()
    assert min(last[name] for name in binned) <= last["train/loss"] <= max(last[name] for name in binned)
    [*_, validated] = [record for record in logged(tmp_path) if "val/loss" in record]
    assert {"val/loss_sigma/0.3", "val/loss_sigma/0.7"} <= validated.keys()


def test_gradient_checkpointing_changes_memory_and_nothing_else(toy_corpus: Path, tmp_path: Path) -> None:
    models = [toy_model(16, 2), toy_model(16, 2)]
    models[1].backbone.gradient_checkpointing = True
    for name, model in zip(("whole", "checkpointed"), models, strict=True):
        make_trainer(toy_corpus, tmp_path / name, model=model).fit()
    assert logged(tmp_path / "whole") == logged(tmp_path / "checkpointed")


@pytest.mark.parametrize(
    "options", [{"backend": "aot_eager"}, pytest.param({"dynamic": True}, marks=pytest.mark.slow, id="inductor")]
)
def test_compiled_blocks_train_alike_and_keep_the_names_of_weights(
    options: dict[str, Any], toy_corpus: Path, tmp_path: Path
) -> None:
    make_trainer(toy_corpus, tmp_path / "plain", epoch_length=3).fit()
    trainer = make_trainer(toy_corpus, tmp_path / "compiled", epoch_length=3, torch_compile=options)
    assert all(block._compiled_call_impl is not None for block in trainer.raw_model.backbone.blocks)
    trainer.fit()
    for plain, compiled in zip(logged(tmp_path / "plain"), logged(tmp_path / "compiled"), strict=True):
        assert {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in plain.items()} == compiled
    a, b = (read_weights(tmp_path / name / "checkpoints/last/model.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys()


def test_an_exported_model_has_the_averaged_weights(toy_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(toy_corpus, tmp_path)
    trainer.fit()
    trainer.export(tmp_path / "model", {"model": {}, "phonemes": [], "speakers": []})
    exported = read_weights(tmp_path / "model/model.safetensors")
    average = read_weights(tmp_path / "checkpoints/last/ema.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert not all(
        torch.equal(exported[name], p) for name, p in trainer.raw_model.named_parameters() if name in average
    )


def test_samples_come_again_where_they_are_due_after_a_resume(toy_corpus: Path, tmp_path: Path) -> None:
    def samples() -> SampleLogger:
        generation = GenerationSettings(num_steps=2, max_duration_s=1.0)
        return SampleLogger(tmp_path, num_items=1, every_n_steps=6, generation=generation)

    make_trainer(toy_corpus, tmp_path, samples=samples(), epoch_length=8).fit()
    make_trainer(toy_corpus, tmp_path, samples=samples(), epoch_length=8, epochs=2).fit()
    found = sorted(path.name for path in (tmp_path / "samples").glob("step_*"))
    assert found == ["step_00000006", "step_00000008", "step_00000012", "step_00000016"]
