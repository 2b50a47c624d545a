"""The entry points: which config each composes, what it requires and what it gives the objects it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EntryPoint:
    """An entry point as the pre-flight check sees it.

    Attributes:
        config_name: of the primary config.
        purpose: in words.
        job_folder: the setting that names where results go; each job of a sweep gets its own.
        required: top-level nodes that must be there with a ``_target_``, and an example of each.
        nullable: those of them that may be null, or absent.
        partial: those that the code calls itself.
        settings: top-level settings that the code itself reads.
        given_later: node -> arguments that the code passes when it builds the object.
        builds_mini_corpus: where it is absent and chosen, it is built.
        built: nodes cheap enough to be built for the check (a model on the meta device).
    """

    config_name: str
    purpose: str
    job_folder: str
    required: Mapping[str, str] = field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    given_later: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    builds_mini_corpus: bool = False
    built: tuple[str, ...] = ()


TRAINING = EntryPoint(
    config_name="default",
    purpose="training",
    job_folder="exp_dir",
    required={
        "train_dataloader": "_target_: unisono.data.loader.train_dataloader",
        "val_dataloader": "_target_: unisono.data.loader.eval_dataloader",
        "model": "_target_: unisono.models.unified.UnifiedAudioModel",
        "optimizer": "_target_: torch.optim.AdamW, _partial_: true, lr: 1.0e-3",
        "lr_scheduler": "_target_: unisono.training.schedules.cosine_with_warmup, _partial_: true",
        "loss_fn": "_target_: unisono.training.losses.AudioGenerationLoss",
        "trainer": "_target_: unisono.training.audio_generation_trainer.AudioGenerationTrainer",
    },
    nullable=("val_dataloader", "lr_scheduler", "loss_fn"),
    partial=("optimizer", "lr_scheduler"),
    settings=("exp_dir", "seed", "resume"),
    given_later={
        "optimizer": ("params",),
        "lr_scheduler": ("optimizer", "num_warmup_steps", "num_training_steps", "T_max", "total_steps", "total_iters"),
        "trainer": (
            "model",
            "optimizer",
            "lr_scheduler",
            "loss_fn",
            "train_dataloader",
            "val_dataloader",
            "trackers",
        ),
    },
    builds_mini_corpus=True,
    built=("model", "loss_fn"),
)
INFERENCE = EntryPoint(
    config_name="inference",
    purpose="generation",
    job_folder="output_dir",
    required={"generation": "_target_: unisono.models.generation.GenerationOptions"},
    settings=(
        *("datasets", "exp_dir", "checkpoint", "weights", "model_dir", "allow", "output_dir"),
        *("seed", "batch_size", "max_batch_frames", "device", "dtype"),
    ),
    built=("generation",),
)
EVALUATION = EntryPoint(config_name="evaluate", purpose="evaluation", job_folder="output_dir")
ENTRY_POINTS = {entry.config_name: entry for entry in (TRAINING, INFERENCE, EVALUATION)}
