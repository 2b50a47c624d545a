"""Models of ``transformers`` by folder or hub id: loaded without running foreign code, told apart by their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.threads import one_torch_thread

HARMLESS = frozenset({"masked_spec_embed", "position_ids", "relative_position_index", "num_batches_tracked"})
"""Last parts of names that older files have or lack: only training uses them, or the model computes them itself."""


def load_pretrained(from_pretrained: Callable[..., Any], name: str, wanted: str, **options: Any) -> Any:
    """Call a ``from_pretrained`` with a folder or hub id.

    Args:
        from_pretrained: of a class of ``transformers``.
        name: folder, or id on the Hugging Face Hub, ``id@revision`` to pin a version.
        wanted: for the message: what is expected there.
        options: for ``from_pretrained``; for weights ``use_safetensors=True``, as pickled ones may run code.

    Raises:
        UserError: nothing there, something else there, weights in another format.
    """
    from safetensors import SafetensorError

    source, revision = name, None
    if not Path(name).exists():
        source, _, revision = name.partition("@")
    try:
        return from_pretrained(source, revision=revision or "main", trust_remote_code=False, **options)
    # RuntimeError: weights of other shapes than the settings beside them.
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "give a folder or an id on the Hugging Face Hub, with weights in safetensors"
        raise UserError(f"{name}: cannot be loaded as {wanted} ({reason}); {remedy}") from error


def load_weights(from_pretrained: Callable[..., Any], name: str, wanted: str) -> Any:
    """A model for inference; every weight it needs must be there.

    Raises:
        UserError: also where a part of the model would be left at random, as with a head that was never trained.
    """
    model, report = load_pretrained(from_pretrained, name, wanted, use_safetensors=True, output_loading_info=True)
    if missing := sorted(key for key in report["missing_keys"] if not is_harmless(key)):
        raise UserError(f"{name}: has no weights for {len(missing)} parts of {wanted}, the first is {missing[0]}")
    return quiet(model).eval()


def is_harmless(name: str) -> bool:
    """Whether a weight may be missing, as older files lack it: only training uses it, or the model computes it."""
    return name.rpartition(".")[2] in HARMLESS


def quiet(model: Any) -> Any:
    """A model whose harmless weights are zero: where the file lacks them, they would be random."""
    for name, parameter in model.named_parameters():
        if is_harmless(name):
            parameter.data.zero_()
    return model


def weights_fingerprint(model: Any) -> str:
    """Of a torch module's class, settings and weights; not of where it was loaded from."""
    config = model.config.to_diff_dict() if hasattr(model, "config") else {}
    apart = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
    settings = {key: value for key, value in config.items() if key not in apart}
    digest = hashlib.sha256(json.dumps([type(model).__name__, settings], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def inference(device: Any) -> Iterator[None]:
    """Without gradients, on one CPU thread: processes share the processors, and results do not depend on how many."""
    import torch

    with one_torch_thread() if torch.device(device).type == "cpu" else nullcontext(), torch.inference_mode():
        yield
