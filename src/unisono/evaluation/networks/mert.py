"""MERT: representations of music.

Li et al. 2024, "MERT: acoustic music understanding model with large-scale self-supervised training". On the Hub its
``model_type`` is ``mert_model`` with Python files of its own, so ``transformers`` loads it only by running them
(``trust_remote_code``), which is not done here. Those files define a HuBERT with two additions, an input of constant-Q
spectra (``feature_extractor_cqt``) and scaled residuals (``deepnorm``). Without them a checkpoint is that of a
``HubertModel``: ``config.json`` is read as one and the weights are loaded without a rest. With one it is refused.

Shapes: T frames at 75 Hz, D = 768 (95M) or 1024 (330M).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisono.errors import UserError
from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.checkpoints import fill, read_checkpoint, weights_of
from unisono.evaluation.networks.pretrained import check_rate, model_parameters
from unisono.evaluation.networks.torch_network import TorchNetwork
from unisono.features.pretrained import HARMLESS, load_pretrained, quiet

TAKES = "folder or Hub id of MERT, with config.json and model.safetensors or pytorch_model.bin"
_NOT_HUBERT = ("feature_extractor_cqt", "deepnorm")
_RENAMED = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}


class Mert(TorchNetwork):
    """`embedding` ``(D,)``: mean over time of one hidden layer.

    Args:
        layer: from 0 (what enters the first layer) to the number of layers; None for the last.
    """

    name = "mert"
    sample_rate = 24_000
    shortest_samples = 2_400
    longest_s = 30.0

    def __init__(self, source: str, device: str = "cpu", layer: int | None = None) -> None:
        from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

        settings = json.loads(_file(source, "config.json").read_text(encoding="utf-8"))
        if found := [name for name in _NOT_HUBERT if settings.get(name)]:
            raise UserError(f"{source}: has {' and '.join(found)}, which HuBERT has not; give MERT-v1-95M or -330M")
        if settings.get("model_type") not in ("mert_model", "hubert"):
            raise UserError(f"{source}: is a {settings.get('model_type')!r}, not MERT; give a {TAKES}")
        ours = HubertConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
        model = HubertModel(HubertConfig(**{name: value for name, value in settings.items() if name in ours}))
        _load(model, source)
        self.layer = _checked_layer(layer, model.config.num_hidden_layers)
        self.model = quiet(model).float().eval().requires_grad_(False)
        self.extractor: Any = load_pretrained(
            Wav2Vec2FeatureExtractor.from_pretrained, source, "the feature extractor of MERT"
        )
        check_rate(self.extractor, source, self.sample_rate)
        normalised = "zero mean, variance 1, of each part" if self.extractor.do_normalize else "none"
        parameters = model_parameters(self.model, source) | {
            "front_end": f"waveform, level normalisation: {normalised}",
            "transformers": library_version("transformers"),
            "embedding": f"mean over time of hidden layer {self.layer} of {model.config.num_hidden_layers}",
        }
        super().__init__(device, parameters)
        self.model.to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        inputs = self.extractor(waveform, sampling_rate=self.sample_rate, return_tensors="pt").input_values
        hidden = self.model(inputs.to(self.device), output_hidden_states=True).hidden_states[self.layer]
        return {"embedding": hidden[0].double().mean(dim=0).cpu().numpy()}


def _load(model: torch.nn.Module, source: str) -> None:
    """Older names of the weight normalisation, and an optional prefix, are those of the files on the Hub."""
    try:
        path = _file(source, "model.safetensors")
    except UserError:
        path = _file(source, "pytorch_model.bin")
    checkpoint = read_checkpoint(str(path), TAKES)
    weights = {}
    for name, tensor in weights_of(checkpoint, TAKES).items():
        name = name.removeprefix("mert_model.").removeprefix("hubert.")
        for old, new in _RENAMED.items():
            name = name[: -len(old)] + new if name.endswith(old) else name
        weights[name] = tensor
    fill(model, weights, checkpoint, TAKES, unused=lambda k: k.rpartition(".")[2] in HARMLESS, optional=HARMLESS)


def _file(source: str, name: str) -> Path:
    if Path(source).expanduser().exists():
        path = Path(source).expanduser() / name
        if not path.is_file():
            raise UserError(f"{source}: has no file {name}; give a {TAKES}")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: {name} cannot be had ({reason}); give a {TAKES}") from error


def _checked_layer(layer: int | None, num_layers: int) -> int:
    if layer is None:
        return num_layers
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= num_layers:
        raise UserError(f"networks.mert.layer: {layer!r} is not a whole number from 0 to {num_layers}")
    return layer
