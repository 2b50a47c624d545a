"""Trackers (TensorBoard, Weights & Biases, MLflow, …): Accelerate's own classes and mechanism.

A tracker is made by the configuration and starts in ``Trainer.fit``: before that, nothing is written anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import accelerate.tracking
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from unisono.errors import UserError

Setting = bool | int | float | str


class TensorBoardTracker(accelerate.tracking.TensorBoardTracker):
    """Accelerate's, with the settings in the run itself; its own way makes one more run of them at each start.

    Args:
        run_name, logging_dir: events go to ``{logging_dir}/{run_name}``.
        hparam_metrics: curves that the HParams tab shows beside the settings.
        **options: of ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(
        self,
        run_name: str,
        logging_dir: str | os.PathLike[str],
        hparam_metrics: Sequence[str] = ("val/loss",),
        **options: Any,
    ) -> None:
        super().__init__(run_name, logging_dir, **options)
        self.hparam_metrics = tuple(hparam_metrics)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        experiment, session_start, _ = hparams(values, dict.fromkeys(self.hparam_metrics, 0.0))
        for summary in (experiment, session_start):
            self.writer.file_writer.add_summary(summary)
        self.writer.flush()


def check_trackers(trackers: Mapping[str, GeneralTracker]) -> list[GeneralTracker]:
    """The trackers in a list; raises ``UserError`` for one whose package is missing."""
    missing = set(LoggerType.list()) - {str(name) for name in get_available_trackers()}
    for name, tracker in trackers.items():
        if not isinstance(tracker, GeneralTracker):
            raise UserError(
                f"trackers.{name} is {tracker!r}; its _target_ must be a class like those in configs/tracker"
            )
        if tracker.name in missing:
            raise UserError(
                f"trackers.{name} needs the package {tracker.name}, which is not installed; "
                f"pip install {tracker.name}, or choose other trackers (tracker@trackers=none for none)"
            )
    return list(trackers.values())


def start_trackers(accelerator: Accelerator, step: int, settings: Mapping[str, Any]) -> None:
    """Start what the accelerator logs with (main process only) and give it the settings of the run.

    Args:
        step: of the checkpoint that training goes on from. TensorBoard hides what an earlier start logged after it.
        settings: plain values in nested dicts and lists, as in a resolved configuration.
    """
    for tracker in accelerator.log_with:
        if isinstance(tracker, accelerate.tracking.TensorBoardTracker):
            tracker.init_kwargs["purge_step"] = step + 1
    flat = flat_settings(settings)
    try:
        accelerator.init_trackers("unisono", config=flat)
    except Exception as error:  # of somebody else's service: no account, no network, no room
        names = ", ".join(tracker.name for tracker in accelerator.log_with)
        raise UserError(
            f"trackers ({names}) did not start: {type(error).__name__}: {error}; mend that, or choose others "
            "(tracker@trackers=none for none)"
        ) from error


def finish_trackers(accelerator: Accelerator, exit_code: int) -> None:
    """Close what was started; an exit code other than 0 lets wandb's ``resume: auto`` go on with its run."""
    for tracker in accelerator.trackers:
        if tracker.name == "wandb" and exit_code:
            tracker.tracker.finish(exit_code=exit_code)
        else:
            tracker.finish()


def flat_settings(node: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Dotted name -> plain value; lists become their JSON text, empty values are left out."""
    flat: dict[str, Setting] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        elif isinstance(value, Setting):
            flat[f"{prefix}{key}"] = value
        elif value is not None:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat
