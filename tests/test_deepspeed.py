"""DeepSpeed's ZeRO: what it trains is what DDP trains, checkpoints are the same, and what it cannot do is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from plain import PlainTrainer, assert_same_run, records, saved
from test_processes import assert_close
from unisono.errors import UserError
from unisono.training.checkpoint import read_state
from unisono.training.deepspeed import _plugin, refuse_gradient_hooks

pytest.importorskip("deepspeed")
CLIPPED = {"batch_size": 4, "max_grad_norm": 0.3}


def optimizer_of(exp_dir: Path) -> dict[str, Any]:
    return read_state(exp_dir / "checkpoints/last")["optimizer"]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_clips_and_averages_like_ddp(accumulation: int, tmp_path: Path) -> None:
    options = {**CLIPPED, "epochs": 1, "gradient_accumulation_steps": accumulation}
    runs.run("plain", tmp_path / "zero", 2, zero_stage=1, **options)
    runs.run("plain", tmp_path / "ddp", 2, **options)
    assert min(r["grad_norm"] for r in records(tmp_path / "ddp") if "grad_norm" in r) > CLIPPED["max_grad_norm"]
    assert_close(tmp_path / "zero", tmp_path / "ddp")
    zero, ddp = optimizer_of(tmp_path / "zero"), optimizer_of(tmp_path / "ddp")
    assert zero["param_groups"] == ddp["param_groups"] and zero["state"].keys() == ddp["state"].keys()
    for name, entry in ddp["state"].items():
        assert entry.keys() == zero["state"][name].keys()
        for key, value in entry.items():
            assert torch.allclose(zero["state"][name][key], value, rtol=1e-4, atol=1e-7), (name, key)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, and a batch norm, whose running statistics are those of the main process everywhere."""
    options = {"zero_stage": 1, "gradient_accumulation_steps": 2, "warmup_params": {"warmup_steps": 8}}
    runs.run("plain", tmp_path / "whole", 2, epochs=2, **options)
    runs.run("plain", tmp_path / "broken", 2, epochs=1, **options)
    runs.run("plain", tmp_path / "broken", 2, epochs=2, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    whole, broken = optimizer_of(tmp_path / "whole"), optimizer_of(tmp_path / "broken")
    assert all(torch.equal(v, broken["state"][n][k]) for n, entry in whole["state"].items() for k, v in entry.items())


@pytest.mark.slow
def test_its_checkpoints_go_on_with_other_strategies_and_theirs_with_it(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.run("plain", whole, 1, batch_size=4, gradient_accumulation_steps=2, epochs=3)
    runs.run("plain", broken, 2, batch_size=4, zero_stage=1, epochs=1)
    runs.run("plain", broken, 1, batch_size=4, gradient_accumulation_steps=2, epochs=2)
    runs.run("plain", broken, 2, batch_size=4, zero_stage=1, epochs=3)
    assert_close(broken, whole)


@pytest.mark.slow
def test_weights_to_begin_with_are_what_it_updates(tmp_path: Path) -> None:
    runs.run("plain", tmp_path / "first", 2, batch_size=4, epochs=1)
    begin = {"initial_weights": str(tmp_path / "first/checkpoints/last"), "batch_size": 4, "epochs": 1}
    runs.run("plain", tmp_path / "zero", 2, zero_stage=1, **begin)
    runs.run("plain", tmp_path / "ddp", 2, **begin)
    assert_close(tmp_path / "zero", tmp_path / "ddp")


@pytest.mark.slow
def test_a_step_with_nan_is_left_out_and_counted(tmp_path: Path) -> None:
    options = {**CLIPPED, "epochs": 1, "gradient_accumulation_steps": 2, "nan_at_step": 3, "save_every_n_steps": 1}
    output = runs.run("plain", tmp_path / "zero", 2, zero_stage=1, **options)
    runs.run("plain", tmp_path / "ddp", 2, **options)
    assert "step 4: the loss is infinite or NaN, no update was made" in output
    assert_close(tmp_path / "zero", tmp_path / "ddp")
    assert records(tmp_path / "zero")[-2]["nonfinite_steps"] == 1
    before, after = saved(tmp_path / "zero", 3), saved(tmp_path / "zero", 4)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_parameter_without_a_gradient_ends_the_run(tmp_path: Path) -> None:
    process = runs.start("plain", tmp_path, 2, zero_stage=1, batch_size=4, unused_on_rank=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "2.weight, 2.bias had no part in the loss (2 parameters)" in output


@pytest.mark.slow
def test_bf16_is_autocast_over_float32_weights(tmp_path: Path) -> None:
    options = {"batch_size": 4, "epochs": 1, "mixed_precision": "bf16"}
    runs.run("plain", tmp_path / "zero", 2, zero_stage=1, **options)
    runs.run("plain", tmp_path / "ddp", 2, **options)
    runs.run("plain", tmp_path / "float32", 2, batch_size=4, epochs=1)
    assert_close(tmp_path / "zero", tmp_path / "ddp")
    assert all(tensor.dtype == torch.float32 for tensor in saved(tmp_path / "zero").values())
    zero, rounded_less = (records(tmp_path / name)[0]["train/total_loss"] for name in ("zero", "float32"))
    assert zero != pytest.approx(rounded_less, rel=1e-5)


@pytest.mark.slow
def test_the_unified_model_with_frozen_parts_and_samples(
    toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("plain").ENVIRONMENT, "TOY_CORPUS", str(toy_corpus))
    runs.run("toy", tmp_path / "zero", 2, zero_stage=1)
    runs.run("toy", tmp_path / "ddp", 2)
    assert_close(tmp_path / "zero", tmp_path / "ddp")


@pytest.mark.parametrize(
    ("variables", "precision", "message"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "no", "zero_stage is 3; use 1.*fsdp_8gpus"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "no", "zero_stage is 2; use 1.*fsdp_8gpus"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "no", "offloading is not supported"),
        ({}, "fp16", "bf16 or no"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "no", "trainer.torch_compile=true"),
    ],
)
def test_what_it_cannot_do_is_refused(
    variables: dict[str, str], precision: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        _plugin(precision, 1.0)


def test_sections_of_its_own_file_that_the_trainer_sets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}}')
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
    with pytest.raises(UserError, match="deepspeed_config_file has bf16"):
        _plugin("bf16", 1.0)


def test_the_trainer_decides_clipping_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    config = _plugin("bf16", 0.5).deepspeed_config
    assert config["gradient_clipping"] == 0.5 and config["gradient_accumulation_steps"] == 1
    assert config["torch_autocast"]["enabled"] and "bf16" not in config
    assert _plugin("no", None).deepspeed_config["gradient_clipping"] == 0.0


def test_hooks_that_want_gradients_are_refused() -> None:
    class Looking(PlainTrainer):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            print(optimizer)

    refuse_gradient_hooks(PlainTrainer.__new__(PlainTrainer))
    with pytest.raises(UserError, match=r"Looking\.on_before_optimizer_step would find no gradients"):
        refuse_gradient_hooks(Looking.__new__(Looking))
