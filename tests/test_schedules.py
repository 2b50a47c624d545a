"""Schedules of torch and transformers from YAML: their rates, their warm-up, and going on in the middle."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from composing import composed
from plain import plain_trainer, records
from unisono.errors import UserError
from unisono.training.schedules import WarmedUp, make_scheduler, needs_metric, warmup_updates

PEAK, LENGTH, WARMUP = 0.1, 12, 3
TORCH = "torch.optim.lr_scheduler"
TRANSFORMERS = "transformers.get_scheduler"

# Class -> its scalar arguments, and those that the trainer is to add.
SCHEDULES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "StepLR": ({"step_size": 3, "gamma": 0.5}, ()),
    "CosineAnnealingLR": ({"eta_min": 0.001}, ("T_max",)),
    "OneCycleLR": ({"max_lr": 0.3}, ("total_steps",)),
    "ExponentialLR": ({"gamma": 0.9}, ()),
    "PolynomialLR": ({"total_iters": 7, "power": 2.0}, ()),
    "CosineAnnealingWarmRestarts": ({"T_0": 2, "T_mult": 2}, ()),
    "CyclicLR": ({"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 2}, ()),
    "LinearLR": ({"start_factor": 0.5, "total_iters": 4}, ()),
    "ConstantLR": ({"factor": 0.25, "total_iters": 4}, ()),
}
PLATEAU = {"_target_": f"{TORCH}.ReduceLROnPlateau", "patience": 0, "factor": 0.1}


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=PEAK, momentum=0.5)


def from_yaml(optimizer: torch.optim.Optimizer, node: dict[str, Any], warmup: int = 0, length: int = LENGTH) -> Any:
    """What a run makes of ``lr_scheduler: {...}``."""
    factory = instantiate(OmegaConf.create({**node, "_partial_": True}))
    return make_scheduler(factory, optimizer, warmup, length)


def rates(optimizer: torch.optim.Optimizer, scheduler: Any, updates: int) -> list[float]:
    """The learning rate of each update."""
    found = []
    for _ in range(updates):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def reference(name: str, updates: int, length: int) -> list[float]:
    """By the plain scheduler of torch."""
    arguments, lengths = SCHEDULES[name]
    optimizer = sgd()
    cls = getattr(importlib.import_module(TORCH), name)
    return rates(optimizer, cls(optimizer, **arguments, **dict.fromkeys(lengths, length)), updates)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_torch_schedule_is_itself(name: str) -> None:
    optimizer = sgd()
    scheduler = from_yaml(optimizer, {"_target_": f"{TORCH}.{name}", **SCHEDULES[name][0]})
    assert type(scheduler).__name__ == name
    assert rates(optimizer, scheduler, LENGTH) == reference(name, LENGTH, LENGTH)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_goes_before_a_torch_schedule(name: str) -> None:
    optimizer = sgd()
    found = rates(
        optimizer, from_yaml(optimizer, {"_target_": f"{TORCH}.{name}", **SCHEDULES[name][0]}, WARMUP), LENGTH
    )
    own = reference(name, LENGTH - WARMUP, LENGTH - WARMUP)
    rising = [own[0] * (update + 1) / WARMUP for update in range(WARMUP)]
    assert found == pytest.approx(rising + own, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("broken_after", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_where_it_was(name: str, broken_after: int, warmup: int, tmp_path: Path) -> None:
    """Through a file that is read without pickle, as a checkpoint is."""
    node = {"_target_": f"{TORCH}.{name}", **SCHEDULES[name][0]}
    optimizer = sgd()
    whole = rates(optimizer, from_yaml(optimizer, node, warmup), LENGTH)
    first = sgd()
    scheduler = from_yaml(first, node, warmup)
    rates(first, scheduler, broken_after)
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = sgd()
    resumed = from_yaml(second, node, warmup)
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])
    assert rates(second, resumed, LENGTH - broken_after) == whole[broken_after:]


@pytest.mark.parametrize(
    ("node", "lengths"),
    [
        ({"_target_": f"{TORCH}.CosineAnnealingLR", "T_max": 4}, {"T_max": 4}),
        ({"_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.3, "total_steps": 40}, {"total_steps": 40}),
        ({"_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.3, "epochs": 5, "steps_per_epoch": 8}, {"total_steps": 40}),
    ],
)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_lengths_that_a_user_set_stay(node: dict[str, Any], lengths: dict[str, int], warmup: int) -> None:
    scheduler = from_yaml(sgd(), node, warmup)
    inner = scheduler.scheduler if isinstance(scheduler, WarmedUp) else scheduler
    assert {name: getattr(inner, name) for name in lengths} == lengths


def test_a_users_own_warm_up_stays() -> None:
    optimizer = sgd()
    node = {"_target_": TRANSFORMERS, "name": "linear", "num_warmup_steps": 5, "num_training_steps": 10}
    found = rates(optimizer, from_yaml(optimizer, node, WARMUP), 10)
    assert found == pytest.approx([PEAK * min(u / 5, (10 - u) / 5) for u in range(10)])


def expected_transformers(name: str, update: int) -> float:
    """Transformers' own warm-up starts at zero; afterwards ``done`` runs from 0 to 1."""
    if name == "constant":  # has none: the trainer's goes before it
        return PEAK * min(1.0, (update + 1) / WARMUP)
    if update < WARMUP:
        return PEAK * update / WARMUP
    done = (update - WARMUP) / (LENGTH - WARMUP)
    factors = {
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "constant_with_warmup": 1.0,
        "inverse_sqrt": math.sqrt(WARMUP / update),
        "polynomial": (1 - done) + done * 1e-7 / PEAK,
    }
    return PEAK * factors[name]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_a_schedule_of_transformers(name: str) -> None:
    optimizer = sgd()
    found = rates(optimizer, from_yaml(optimizer, {"_target_": TRANSFORMERS, "name": name}, WARMUP), LENGTH)
    assert found == pytest.approx([expected_transformers(name, update) for update in range(LENGTH)], rel=1e-6)


def test_a_schedule_of_transformers_with_arguments_of_its_own() -> None:
    optimizer = sgd()
    node = {"_target_": TRANSFORMERS, "name": "cosine_with_min_lr", "scheduler_specific_kwargs": {"min_lr": 0.05}}
    found = rates(optimizer, from_yaml(optimizer, node, 2), LENGTH + 1)
    assert found[0] == 0.0 and found[2] == pytest.approx(PEAK) and found[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("node", [PLATEAU, {"_target_": TRANSFORMERS, "name": "reduce_lr_on_plateau"}])
def test_a_plateau_waits_for_the_warm_up_and_for_the_metric(node: dict[str, Any]) -> None:
    optimizer = sgd()
    scheduler = from_yaml(optimizer, node, 2)
    assert needs_metric(scheduler) and isinstance(scheduler, WarmedUp)
    found = []
    for _ in range(4):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.count()
    assert found == pytest.approx([PEAK / 2, PEAK, PEAK, PEAK])
    patience = scheduler.scheduler.patience
    for _ in range(patience + 2):  # the first is the best, and as many as patience are forgiven
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(PEAK * 0.1)


def test_a_plateau_in_a_run_follows_the_monitored_metric(tmp_path: Path) -> None:
    """With a threshold that no metric passes each validation is one without improvement."""
    node = {**PLATEAU, "_partial_": True, "threshold": 1e9, "threshold_mode": "abs"}
    trainer = plain_trainer(tmp_path, lr=PEAK, lr_scheduler=instantiate(OmegaConf.create(node)))
    trainer.fit()
    found = [record["lr"] for record in records(tmp_path) if "lr" in record]
    # The first validation, after step 3, is better than none; those after 6 and 9 are not. Logged before they count.
    assert found == pytest.approx([PEAK] * 6 + [PEAK / 10] * 3 + [PEAK / 100] * 3)


def test_a_plateau_needs_a_validation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ReduceLROnPlateau.*val"):
        plain_trainer(
            tmp_path, val_dataloader=None, lr_scheduler=instantiate(OmegaConf.create({**PLATEAU, "_partial_": True}))
        )


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "OneCycleLR"])
def test_a_longer_run_does_not_climb_a_finished_schedule_again(name: str, tmp_path: Path) -> None:
    """The state of these two holds their length, and their rates cannot be stretched afterwards."""
    node = {"_target_": f"{TORCH}.{name}", **SCHEDULES[name][0], "_partial_": True}
    plain_trainer(tmp_path, epochs=1, lr_scheduler=instantiate(OmegaConf.create(node))).fit()
    longer = plain_trainer(tmp_path, epochs=3, lr_scheduler=instantiate(OmegaConf.create(node)))
    with pytest.raises(UserError, match=r"step_00000006: .*=6 updates, now 18"):
        longer.fit()


@pytest.mark.parametrize(
    ("warmup", "updates"),
    [
        (None, 0),
        ({}, 0),
        ({"warmup_steps": 5, "warmup_epochs": None}, 5),
        ({"warmup_epochs": 2}, 200),
        ({"warmup_epochs": 0.5}, 50),
    ],
)
def test_warm_up_is_counted_in_updates(warmup: dict[str, Any] | None, updates: int) -> None:
    assert warmup_updates(warmup, epoch_length=100) == updates


def test_without_a_schedule_the_rate_warms_up_and_stays() -> None:
    optimizer = sgd()
    assert rates(optimizer, make_scheduler(None, optimizer, 4, LENGTH), 6) == pytest.approx(
        [PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK, PEAK, PEAK]
    )


def test_each_group_warms_up_to_its_own_rate() -> None:
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.4}], lr=PEAK)
    scheduler = from_yaml(optimizer, {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.5}, 2)
    found = []
    for _ in range(4):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert found == [[PEAK / 2, 0.2], [PEAK, 0.4], [PEAK, 0.4], [PEAK / 2, 0.2]]


def yaml_overrides(node: dict[str, Any]) -> list[str]:
    return [
        "~lr_scheduler",
        *(f"+lr_scheduler.{name}={value}" for name, value in {**node, "_partial_": "true"}.items()),
    ]


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "OneCycleLR"])
def test_the_check_accepts_a_schedule_of_torch(name: str) -> None:
    cfg = composed(*yaml_overrides({"_target_": f"{TORCH}.{name}", **SCHEDULES[name][0]}))
    assert cfg.lr_scheduler._target_ == f"{TORCH}.{name}"


def test_the_check_accepts_others() -> None:
    assert composed(*yaml_overrides(PLATEAU)).lr_scheduler.patience == 0
    assert composed(*yaml_overrides({"_target_": TRANSFORMERS, "name": "cosine"})).lr_scheduler.name == "cosine"
