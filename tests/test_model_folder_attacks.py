"""Model folders that mean harm: too large, too deep, not what they say, or elsewhere."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from test_model_folder import TOY_CONFIG, edit_config, folder_refusal
from toy import toy_model
from unisono.inference.model_folder import load_model_folder, save_model_folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that may be broken."""
    return save_model_folder(tmp_path / "model", toy_model(), TOY_CONFIG, {})


GREAT = 10**6


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda model: model["backbone"].update(num_layers=GREAT), "num_layers is 1000000; a model folder may have"),
        (lambda model: model["autoencoder"].update(n_fft=GREAT, n_mels=GREAT), "a model folder may have"),
        (lambda model: model["autoencoder"].update(griffin_lim_steps=GREAT), "griffin_lim_steps is 1000000"),
        (lambda model: model["autoencoder"].update(hop_samples=1e300), "hop_samples is 1e+300"),
        (lambda model: model["content_encoders"]["text"].update(ngram_sizes=[3] * 100), "has 100 values"),
        (lambda model: model["content_encoders"]["text"].update(ngram_sizes=[GREAT]), "ngram_sizes[0] is 1000000"),
        (
            lambda model: model["content_encoders"]["text"].update(ngram_buckets=10**12),
            "ngram_buckets is 1000000000000",
        ),
        # Within bounds one by one; terabytes together.
        (lambda model: model["backbone"].update(dim=GREAT), "the weights do not fit"),
        (lambda model: model["backbone"].update(modulation="low_rank", modulation_rank=GREAT), "missing: backbone"),
        (lambda model: model["content_adapter"].update(prefix_length=1024), "shape of content_adapter.queries"),
        (lambda model: model["content_encoders"]["text"].update(ngram_buckets=GREAT), "in the file, (1000000, 64)"),
        (lambda model: model.update(instruction_drop_ratio=0.1), "missing: null_instruction"),
    ],
)
def test_sizes_are_refused_before_memory_is_taken(model_folder: Path, edit: Callable, words: str) -> None:
    edit_config(model_folder, lambda cfg: edit(cfg["model"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert words in folder_refusal(model_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_an_honest_wide_model_takes_its_weights_without_a_second_copy(model_folder: Path) -> None:
    """Tensors of the file become the parameters; nothing is drawn first, and the state of the generator stays."""
    state = torch.random.get_rng_state()
    model, _ = load_model_folder(model_folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("autoencoder."))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 100 + "]" * 100, "deep"),
        ("a: &x [1]\n" + "b: [" + "*x, " * 9 + "]", "aliases"),
        ("a: " + "9" * 5000, "5000 characters"),
        ("a: " + ":".join(["59"] * 100_000), "characters"),
        ("a: 1\na: 2", "`a` is there twice"),
        ("a: {b: 1, b: 2}", "`b` is there twice"),
        ("a: [" + "1," * 600_000 + "]", "more than 500000 values"),
        ("a: '" + "x" * 5_000_000 + "'", "MiB"),
        ("a:\n" + "- " * 5000 + "a", "deep"),
    ],
)
def test_a_config_that_would_cost_much_is_refused_at_once(model_folder: Path, text: str, words: str) -> None:
    (model_folder / "config.yaml").write_text("format_version: 2\nmodel: {}\n" + text)
    started = time.process_time()
    assert words in folder_refusal(model_folder)
    assert time.process_time() - started < 5


def test_flipped_bits_are_found(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    for position in (len(data) - 1, len(data) // 2):
        data[position] ^= 1
        path.write_bytes(data)
        assert f"{path}: damaged weights" in folder_refusal(model_folder)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_links_that_lead_out_are_refused(model_folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    os.replace(model_folder / name, elsewhere)
    (model_folder / name).symlink_to(elsewhere)
    assert "a link that leads out of the model folder" in folder_refusal(model_folder)
    (model_folder / name).unlink()
    (model_folder / name).symlink_to("/dev/zero")
    assert "leads out" in folder_refusal(model_folder)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(model_folder: Path) -> None:
    for name in ("model.safetensors", "config.yaml"):
        (model_folder / name).unlink()
        os.mkfifo(model_folder / name)
        assert name in folder_refusal(model_folder)


def test_weights_of_another_kind_are_refused_and_of_half_the_size_are_read(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_config(model_folder, lambda cfg: cfg["files"].update({path.name: digest}))
    model, _ = load_model_folder(model_folder)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    save_file({name: tensor.to(torch.int32) for name, tensor in weights.items()}, path)
    assert "type of backbone" in folder_refusal(model_folder)


def test_more_than_the_machine_has_is_refused(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.inference.model_folder.building._memory_bytes", lambda: 1e6)
    assert "this machine has 0.0 GB of memory" in folder_refusal(model_folder)
