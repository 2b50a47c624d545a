"""A model of all eight tasks, small, untrained and saved: what the Python API and the command line are tried with."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.utils import instantiate

from toy import randomised
from unisono.config import compose
from unisono.inference.model_folder import save_model_folder

_SMALL = (
    *("experiment=eight_tasks", "data_root=absent"),
    *("model.content_adapter.dim=32", "model.content_adapter.instruction_dim=32", "model.backbone.dim=32"),
    *("model.backbone.num_layers=2", "model.backbone.num_heads=2", "+model.autoencoder.griffin_lim_steps=2"),
)


def small_model_folder(folder: Path, *overrides: str) -> Path:
    """A model folder whose model is random but in no way special; its speech lasts some 0.1 s a phoneme."""
    cfg = compose("default", [*_SMALL, *overrides])
    torch.manual_seed(0)
    model = randomised(instantiate(cfg.model))
    for predictor in (model.content_adapter.local_predictor, model.content_adapter.global_predictor):
        last = [module for module in predictor.modules() if isinstance(module, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 1.8)
    return save_model_folder(folder, model, cfg, {})
