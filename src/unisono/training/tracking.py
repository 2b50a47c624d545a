"""Trackers (TensorBoard, Weights & Biases, MLflow, …): Accelerate's own classes and mechanism.

A tracker is made by the configuration and starts in ``Trainer.fit``: before that, nothing is written anywhere. One that
cannot start stops the run before its first step; from then on none can.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import accelerate.tracking
import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from unisono.errors import UserError
from unisono.media.audio import write_audio

logger = logging.getLogger(__name__)

Setting = bool | int | float | str
# A service out of reach can block for a minute at each call.
MAX_FAILURES = 3


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


class Trackers:
    """What a training logs with, from start to finish; every process calls, the main process alone has trackers.

    A started tracker that raises is warned of once and tried again with what comes next. After ``MAX_FAILURES`` in a
    row it is left out. Audio and pictures are counted for themselves: a tracker without them keeps its curves.

    TensorBoard, Weights & Biases and MLflow take audio and pictures. Any other tracker does if it has the methods
    ``log_audio({name: waveform}, sample_rate=…, step=…)`` and ``log_images({name: [picture]}, step=…)``.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._failures: dict[tuple[int, str], int] = {}  # in a row, by tracker and what it was given
        self._reported: set[tuple[int, str]] = set()

    def start(self, step: int, settings: Mapping[str, Any]) -> None:
        """Start what the accelerator logs with and give it the settings of the run.

        Args:
            step: of the checkpoint that training goes on from. TensorBoard hides what an earlier start logged after it.
            settings: plain values in nested dicts and lists, as in a resolved configuration.

        Raises:
            UserError: a tracker did not start.
        """
        if not self.accelerator.is_main_process:
            return
        for tracker in self.accelerator.log_with:
            if isinstance(tracker, accelerate.tracking.TensorBoardTracker):
                tracker.init_kwargs["purge_step"] = step + 1
            try:
                tracker.start()
                self.accelerator.trackers.append(tracker)
                tracker.store_init_configuration(flat_settings(settings))
            except Exception as error:  # of somebody else's service: no account, no network, no room
                raise UserError(
                    f"tracker {tracker.name} did not start: {type(error).__name__}: {error}; mend that, or choose "
                    "others (tracker@trackers=none for none)"
                ) from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Name -> value, of a step."""
        self._give("values", lambda tracker: _log(tracker, values, step))

    def log_audio(self, name: str, waveform: np.ndarray, sample_rate: int, step: int) -> None:
        """Float32 ``(S,)`` in [-1, 1]. One name shows one kind of thing: a picture needs another name."""
        self._give("audio", lambda tracker: _log_audio(tracker, name, waveform, sample_rate, step))

    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Uint8 ``(H, W, 3)``."""
        self._give("pictures", lambda tracker: _log_picture(tracker, name, picture, step))

    def finish(self, exit_code: int) -> None:
        """Close what was started; an exit code other than 0 lets wandb's ``resume: auto`` go on with its run."""
        for tracker in self.accelerator.trackers:
            try:
                if tracker.name == "wandb" and exit_code:
                    tracker.tracker.finish(exit_code=exit_code)
                else:
                    tracker.finish()
            except Exception as error:
                logger.warning(
                    "tracker %s could not be closed: %s: %s; metrics.jsonl holds everything",
                    tracker.name, type(error).__name__, error,
                )  # fmt: skip
        self.accelerator.trackers.clear()

    def _give(self, kind: str, give: Callable[[GeneralTracker], bool]) -> None:
        """Call ``give`` for each tracker that is not left out; it returns whether the tracker takes this kind."""
        for tracker in self.accelerator.trackers:
            key = (id(tracker), kind)
            if MAX_FAILURES in (self._failures.get(key), self._failures.get((id(tracker), "values"))):
                continue
            try:
                taken = give(tracker)
            except Exception as error:
                self._failures[key] = self._failures.get(key, 0) + 1
                self._report_failure(tracker, key, error)
                continue
            self._failures[key] = 0
            if not taken and key not in self._reported:
                self._reported.add(key)
                logger.info("tracker %s takes no %s; the files are in ${exp_dir}/samples", tracker.name, kind)

    def _report_failure(self, tracker: GeneralTracker, key: tuple[int, str], error: Exception) -> None:
        kind, what = key[1], f"{type(error).__name__}: {error}"
        if self._failures[key] == MAX_FAILURES:
            logger.warning(
                "tracker %s failed %d times in a row (%s) and gets no more %s of this run",
                tracker.name, MAX_FAILURES, what, kind,
            )  # fmt: skip
        elif key not in self._reported:
            self._reported.add(key)
            logger.warning(
                "tracker %s did not take %s: %s; training goes on, and %s holds everything. It is tried again with the "
                "next ones and left out after %d failures in a row",
                tracker.name, kind, what, "metrics.jsonl" if kind == "values" else "${exp_dir}/samples", MAX_FAILURES,
            )  # fmt: skip


def _log(tracker: GeneralTracker, values: Mapping[str, float], step: int) -> bool:
    tracker.log(dict(values), step=step)
    return True


def _log_audio(tracker: Any, name: str, waveform: np.ndarray, sample_rate: int, step: int) -> bool:
    if isinstance(tracker, accelerate.tracking.TensorBoardTracker):
        tracker.writer.add_audio(name, waveform, step, sample_rate)
        tracker.writer.flush()
    elif isinstance(tracker, accelerate.tracking.WandBTracker):
        import wandb

        tracker.log({name: wandb.Audio(waveform, sample_rate=sample_rate)}, step=step)
    elif isinstance(tracker, accelerate.tracking.MLflowTracker):
        _log_artifact(tracker, f"{name}.wav", step, lambda path: write_audio(path, waveform, sample_rate))
    elif hasattr(tracker, "log_audio"):
        tracker.log_audio({name: waveform}, sample_rate=sample_rate, step=step)
    else:
        return False
    return True


def _log_picture(tracker: Any, name: str, picture: np.ndarray, step: int) -> bool:
    if isinstance(tracker, accelerate.tracking.TensorBoardTracker):
        tracker.writer.add_image(name, picture, step, dataformats="HWC")
        tracker.writer.flush()
    elif isinstance(tracker, accelerate.tracking.MLflowTracker):
        from PIL import Image

        _log_artifact(tracker, f"{name}.png", step, Image.fromarray(picture).save)
    elif isinstance(tracker, accelerate.tracking.AimTracker | accelerate.tracking.ClearMLTracker):
        tracker.log_images({name: picture}, step=step)  # of all of Accelerate's, these two want no list
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: [picture]}, step=step)
    else:
        return False
    return True


def _log_artifact(
    tracker: accelerate.tracking.MLflowTracker, name: str, step: int, write: Callable[[Path], object]
) -> None:
    """Hand MLflow a file; it knows no steps for these, so the step becomes the last folder."""
    place = PurePosixPath(name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / place.name
        write(path)
        tracker.log_artifact(str(path), artifact_path=str(place.parent / f"step_{step:08d}"))


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
