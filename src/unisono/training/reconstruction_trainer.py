"""Adversarial training of autoencoders and vocoders.

One optimizer holds two groups of weights, those of the autoencoder and those of the discriminators. Each group's losses
are blind to the other's weights, and Adam treats every weight by itself; so one backward pass and one update are the
updates of two optimizers, both from the same weights (simultaneous gradient descent, Mescheder et al. 2017, section 2;
many vocoders update the discriminators first). Checkpoints, resuming, averaged weights and several processes are those
of every trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import DistributedType
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from unisono.errors import UserError
from unisono.files import replaced_folder
from unisono.models.reconstruction import ReconstructionModel
from unisono.training.reconstruction_losses import ReconstructionLoss
from unisono.training.trainer import Trainer
from unisono.types import Batch

_PREFIX = "autoencoder."


class ReconstructionTrainer(Trainer):
    """Trains a ``ReconstructionModel``; exports its autoencoder alone.

    Validation is by distances alone, which compare between runs; what discriminators say does not.

    Args:
        model: the autoencoder and its discriminators.
        optimizer: called with the two groups; AdamW or another that treats every weight by itself.
        discriminator_lr: of the discriminators; None is the optimizer's.
        adversarial_start_step: until then the autoencoder learns from distances alone, and the discriminators, whose
            passes are most of the work, rest: no update, no weight decay.
        max_grad_norm: gradients of the autoencoder and of the discriminators are clipped to it, each by itself.
        **options: see ``Trainer``.
    """

    raw_model: ReconstructionModel
    loss_fn: ReconstructionLoss

    def __init__(
        self,
        *,
        model: ReconstructionModel,
        optimizer: Callable[..., Optimizer],
        discriminator_lr: float | None = None,
        adversarial_start_step: int = 0,
        max_grad_norm: float | None = 1.0,
        **options: Any,
    ) -> None:
        if adversarial_start_step < 0:
            raise UserError(f"trainer.adversarial_start_step is {adversarial_start_step}; it must not be negative")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise UserError(f"trainer.max_grad_norm is {max_grad_norm}; it must be positive, or null for no clipping")
        groups: list[dict[str, Any]] = [{"params": part} for _, part in _networks(model)]
        if discriminator_lr is not None and len(groups) > 1:
            groups[1]["lr"] = discriminator_lr
        # The trainer's own clipping, to one norm over both, is off.
        super().__init__(model=model, optimizer=lambda _: optimizer(groups), max_grad_norm=None, **options)
        if self.accelerator.distributed_type is DistributedType.FSDP:
            raise UserError("autoencoders are small enough for every GPU; use configs/accelerate/8gpus.yaml, not FSDP")
        self.adversarial_start_step, self.max_norm_each = adversarial_start_step, max_grad_norm

    @property
    def is_adversarial(self) -> bool:
        """Whether the discriminators take part in this step."""
        return self.step >= self.adversarial_start_step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        result = self.loss_fn(self.model(batch, adversarial=self.is_adversarial))
        self.log("train/loss", result.distance)
        for name, values in result.parts.items():
            self.log(f"train/{name}", values)
        return result.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        result = self.loss_fn(self.raw_model(batch, adversarial=False))
        self.log("val/loss", result.distance)
        for name, values in result.parts.items():
            self.log(f"val/{name}", values)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for name, parameters in _networks(self.raw_model):
            if name == "discriminators" and not self.is_adversarial:
                for parameter in parameters:
                    parameter.grad = None  # zeros would move Adam's counters
                continue
            limit = float("inf") if self.max_norm_each is None else self.max_norm_each
            self.log(f"grad_norm/{name}", clip_grad_norm_(parameters, limit))

    def modules_to_compile(self, model: nn.Module) -> Iterable[nn.Module]:
        """The trained parts of the autoencoder; discriminators are called with other weights than their own."""
        assert isinstance(model, ReconstructionModel)
        return [part for part in model.autoencoder.children() if any(p.requires_grad for p in part.parameters())]

    def write_model(self, folder: Path, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """The autoencoder's weights, as its own constructor takes them, with its configuration and a card."""
        autoencoder: Any = self.raw_model.autoencoder
        kept = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
        metadata: dict[str, str] = {}
        if hasattr(autoencoder, "exported"):
            kept, metadata = autoencoder.exported(kept)
        setting = getattr(autoencoder, "weights_setting", "weights")
        with replaced_folder(folder) as temporary:
            save_file(kept, temporary / "model.safetensors", metadata=metadata)
            config = yaml.safe_dump(_config_of(cfg, setting), sort_keys=False, allow_unicode=True)
            (temporary / "config.yaml").write_text(config, encoding="utf-8")
            card = _card(type(autoencoder).__name__, setting, self.step, self.last_val_metrics)
            (temporary / "README.md").write_text(card, encoding="utf-8")


def _networks(model: ReconstructionModel) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The sides that have weights to train, the autoencoder first."""
    for name, part in (("autoencoder", model.autoencoder), ("discriminators", model.discriminators)):
        parameters = [p for p in part.parameters() if p.requires_grad]
        if parameters:
            yield name, parameters


def _config_of(cfg: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """The node ``model.autoencoder`` of a run as it is used afterwards: frozen, its weights still to be named."""
    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else dict(cfg)
    model = plain.get("model") if isinstance(plain, dict) else None
    node = model.get("autoencoder") if isinstance(model, Mapping) else None
    if not isinstance(node, Mapping):
        return {}
    return {"autoencoder": {**node, "trainable": False, setting: None}}


def _card(name: str, setting: str, step: int, metrics: Mapping[str, float]) -> str:
    values = "\n".join(f"| {key} | {value:.4f} |" for key, value in metrics.items()) or "| none | |"
    return f"""---
library_name: unisono
tags: [audio, reconstruction]
---

# Weights of a {name}

Trained for {step} steps. `config.yaml` has its settings; use it with `model.autoencoder.{setting}=THIS_FOLDER`.

| last validation | |
| --- | ---: |
{values}
"""
