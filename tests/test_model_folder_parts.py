"""Frozen parts of a model folder: they travel with it, are the same when they arrive, and lead nowhere else."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import oobleck
from feature_sources import save_text_encoder
from test_codecs import SETTINGS, _model
from test_model_folder import TOY_CONFIG, edit_config, folder_refusal
from test_vocoder import trained_file, vocoder
from unisono.inference.model_folder import load_model_folder, save_model_folder
from unisono.inference.model_folder.parts import own_tensors
from unisono.models.unified import UnifiedAudioModel

KINDS = ["text", "oobleck", "vocoder", "codec"]
PLACES = {"text": ("content_encoders", "text"), **dict.fromkeys(("oobleck", "vocoder", "codec"), ("autoencoder",))}
SETTING = {"text": "pretrained", "oobleck": "weights", "vocoder": "vocoder_weights", "codec": "pretrained"}


def node_of(cfg: dict[str, Any], kind: str) -> dict[str, Any]:
    node = cfg["model"]
    for key in PLACES[kind]:
        node = node[key]
    return node


def with_part(kind: str, folder: Path) -> dict[str, Any]:
    """A config whose part of this kind has its weights in a folder."""
    cfg: dict[str, Any] = copy.deepcopy(TOY_CONFIG)
    model = cfg["model"]
    if kind == "text":
        encoder = {
            "_target_": "unisono.models.content_encoder.PretrainedTextEncoder",
            "pretrained": str(save_text_encoder(folder)),
        }
        model["content_encoders"]["text"] = encoder | {"dim": 64}
        model["instruction_encoder"] = encoder | {"dim": 32}  # the same encoder reads both
        return cfg
    if kind == "oobleck":
        node = {**oobleck.SMALL, "weights": str(oobleck.saved(folder)), "_target_": "OobleckAutoencoder"}
    elif kind == "vocoder":
        trained_file(folder)
        node = {
            "_target_": "VocoderAutoencoder",
            "n_mels": 40,
            "vocoder_weights": str(folder),
            "vocoder": {"_target_": "unisono.models.autoencoder.vocoder.FourierVocoder", **vocoder().settings()},
        }
    else:
        _model("encodec").save_pretrained(folder)
        node = {"_target_": "CodecAutoencoder", "pretrained": str(folder), **SETTINGS["encodec"]}
    modules = {"VocoderAutoencoder": "unisono.models.autoencoder.vocoder_autoencoder."}
    node["_target_"] = modules.get(node["_target_"], "unisono.models.autoencoder.") + node["_target_"]
    latent_dim = node.get("latent_dim", 40)
    model["autoencoder"] = node
    model["backbone"]["latent_dim"] = model["content_encoders"]["audio"]["latent_dim"] = latent_dim
    return cfg


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, UnifiedAudioModel]]:
    """Model folders of each kind, whose sources are gone, with the models that were saved."""
    made = {}
    for kind in KINDS:
        sources = tmp_path_factory.mktemp(f"sources of {kind}")
        cfg = with_part(kind, sources)
        torch.manual_seed(0)
        model = instantiate(OmegaConf.create(cfg["model"]))
        folder = save_model_folder(tmp_path_factory.mktemp("a model") / kind, model, cfg, {})
        shutil.rmtree(sources)
        made[kind] = (folder, model.eval())
    return made


@pytest.fixture
def folders(exported: dict[str, tuple[Path, UnifiedAudioModel]], tmp_path: Path) -> Callable[[str], Path]:
    """Copies that may be broken, at another place than they were written."""
    return lambda kind: Path(shutil.copytree(exported[kind][0], tmp_path / "moved here" / kind))


def rehash(folder: Path) -> None:
    """What an attacker would do: the list of files says what is there."""
    files = [folder / "model.safetensors", *(path for path in (folder / "parts").rglob("*") if path.is_file())]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    edit_config(folder, lambda cfg: cfg.update(files=hashes))


def edit_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_travel_with_the_folder(exported: Any, folders: Any, kind: str) -> None:
    folder, saved = folders(kind), exported[kind][1]
    model, cfg = load_model_folder(folder)
    expected = saved.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not any(p.requires_grad for p in model.autoencoder.parameters())
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert node_of(written, kind)[SETTING[kind]].startswith("./parts/")
    assert Path(node_of(cfg, kind)[SETTING[kind]]).is_relative_to(folder)
    assert "sources of" not in (folder / "config.yaml").read_text() + (folder / "README.md").read_text()
    if kind != "text":
        return
    from unisono.text.tokens import PretrainedTokenizer

    read = PretrainedTokenizer(model.content_encoders["text"].pretrained)(["two bells"])
    condition, other = model.content_encoders["text"](read), saved.content_encoders["text"](read)
    assert torch.equal(condition.tensor, other.tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_again_it_is_as_portable_as_before(exported: Any, folders: Any, tmp_path: Path, kind: str) -> None:
    model, cfg = load_model_folder(folders(kind))
    again = save_model_folder(tmp_path / "again", model, cfg, {})
    for path in (path for path in exported[kind][0].rglob("*") if path.is_file()):
        other = again / path.relative_to(exported[kind][0])
        assert other.read_bytes() == path.read_bytes(), other
    in_its_own_place = tmp_path / "moved here" / kind
    load_model_folder(save_model_folder(in_its_own_place, model, cfg, {}))


def test_one_encoder_for_two_is_carried_once(exported: Any) -> None:
    folder, model = exported["text"]
    assert [path.name for path in (folder / "parts").iterdir()] == ["instruction_encoder"]
    loaded, _ = load_model_folder(folder)
    assert loaded.content_encoders["text"].encoder is loaded.instruction_encoder.encoder
    own = load_file(folder / "model.safetensors")
    assert own.keys() == own_tensors(model).keys() and not any(".encoder." in name for name in own)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "../elsewhere",
        "./../elsewhere",
        "./parts/../../elsewhere",
        "file:///etc",
        "./a\\..\\x",
        "~/x",
        "./" + "x" * 300,
    ],
)
def test_paths_that_lead_out_are_refused(folders: Any, tmp_path: Path, kind: str, value: str) -> None:
    folder = folders(kind)
    shutil.copytree(next((folder / "parts").iterdir()), folder.parent / "elsewhere")
    edit_config(folder, lambda cfg: node_of(cfg, kind).update({SETTING[kind]: value}))
    message = folder_refusal(folder)
    assert f"model.{'.'.join(PLACES[kind])}.{SETTING[kind]} is {value!r:.200}" in message
    assert any(words in message for words in ("outside it", "leads out of", "which is not there"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_folder_does_not_pass_for_an_id_on_the_hub(
    folders: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders(kind)
    shutil.copytree(folder / "parts", tmp_path / "org")
    monkeypatch.chdir(tmp_path)
    name = f"org/{next((tmp_path / 'org').iterdir()).name}"
    edit_config(folder, lambda cfg: node_of(cfg, kind).update({SETTING[kind]: name}))
    assert "nothing outside it" in folder_refusal(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_links_that_lead_out_are_refused(folders: Any, tmp_path: Path, kind: str) -> None:
    folder = folders(kind)
    part = next((folder / "parts").iterdir())
    if part.name == "content_encoders.text":
        part = folder / "parts/instruction_encoder"
    weights = part / "model.safetensors"
    os.replace(weights, tmp_path / "stolen")
    weights.symlink_to(tmp_path / "stolen")
    assert "a link that leads out of the model folder" in folder_refusal(folder)
    os.replace(tmp_path / "stolen", tmp_path / "x")
    shutil.rmtree(part)
    part.symlink_to(tmp_path)
    assert folder_refusal(folder).startswith(str(folder))


def test_links_within_the_cache_of_the_hub_are_followed(folders: Any, tmp_path: Path) -> None:
    """A download is a folder of links to files beside it."""
    folder = folders("oobleck")
    snapshot = tmp_path / "models--org--name/snapshots/0123"
    blobs = tmp_path / "models--org--name/blobs"
    blobs.mkdir(parents=True)
    for index, path in enumerate(path for path in folder.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(index))
        link.symlink_to(os.path.relpath(blobs / str(index), link.parent))
    load_model_folder(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert "leads out" in folder_refusal(snapshot)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_changed_are_refused_even_where_the_list_says_so(folders: Any, kind: str) -> None:
    folder = folders(kind)
    path = next((folder / "parts").rglob("model.safetensors"))
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(data)
        assert f"{path}: damaged weights" in folder_refusal(folder)
    path.write_bytes(whole[: len(whole) // 2])
    rehash(folder)
    assert str(path) in folder_refusal(folder) or "Error while deserializing" in folder_refusal(folder)
    path.write_bytes(whole)
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    changed = {name: tensor * 1.01 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(changed, path, metadata=metadata)
    rehash(folder)
    assert "was trained with another" in folder_refusal(folder)


def test_a_file_that_nobody_listed_is_refused(folders: Any) -> None:
    folder = folders("text")
    (folder / "parts/instruction_encoder/extra.txt").write_text("x")
    assert "is not among `files`" in folder_refusal(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda part: (part / "pytorch_model.bin").write_bytes(b"\x80\x04."), "does not belong in a model folder"),
        (lambda part: (part / "modeling.py").write_text("raise SystemExit"), "does not belong in a model folder"),
        (lambda part: (part / "adapter_config.json").write_text("{}"), "does not belong in a model folder"),
        (lambda part: (part / "deeper").mkdir(), "does not belong in a model folder"),
        (lambda part: edit_json(part / "config.json", auto_map={"AutoModel": "modeling.M"}), "has `auto_map`"),
        (lambda part: edit_json(part / "config.json", quantization_config={"x": 1}), "has `quantization_config`"),
        (lambda part: edit_json(part / "config.json", inner={"auto_map": {}}), "has `auto_map`"),
        (lambda part: edit_json(part / "tokenizer_config.json", vocab_file="/etc/passwd"), "has `vocab_file`"),
        (
            lambda part: edit_json(part / "model.safetensors.index.json", weight_map={"x": "../../model.safetensors"}),
            "which is no file beside it",
        ),
        (lambda part: edit_json(part / "config.json", num_layers=10**6), "num_layers"),
        (lambda part: edit_json(part / "config.json", vocab_size=10**12), "vocab_size"),
        (lambda part: edit_json(part / "config.json", vocab_size=10**7, d_model=10**6), "describes"),
        (lambda part: edit_json(part / "config.json", d_model=-5), "config.json"),
        (lambda part: (part / "config.json").write_text("{"), "not JSON"),
        (lambda part: (part / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda part: edit_json(part / "config.json", x=[0] * 5000), "has 5000 values"),
        (lambda part: (part / "config.json").write_text(" " * 2_000_000 + "{}"), "MiB"),
        (lambda part: edit_json(part / "config.json", model_type="no such kind"), "cannot be loaded"),
    ],
)
def test_what_transformers_would_follow_is_refused(folders: Any, spoil: Callable[[Path], Any], words: str) -> None:
    folder = folders("text")
    spoil(folder / "parts/instruction_encoder")
    rehash(folder)
    assert words in folder_refusal(folder)


def test_nothing_to_follow_is_left_in_a_copy(tmp_path: Path) -> None:
    cfg = with_part("text", tmp_path / "source")
    source = tmp_path / "source"
    for name in ("config.json", "tokenizer_config.json"):
        edit_json(source / name, auto_map={"AutoModel": "modeling.M"}, special_tokens_map_file="/home/me/x.json")
    (source / "modeling.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    shutil.copyfile(source / "model.safetensors", source / "model.fp16.safetensors")
    model = instantiate(OmegaConf.create(cfg["model"]))
    folder = save_model_folder(tmp_path / "model", model, cfg, {})
    copied = {path.name for path in (folder / "parts/instruction_encoder").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= copied
    assert not copied & {"modeling.py", "pytorch_model.bin", "model.fp16.safetensors"}
    load_model_folder(folder)


@pytest.mark.parametrize("kind", ["oobleck", "vocoder"])
def test_an_autoencoder_without_weights_is_refused(folders: Any, kind: str) -> None:
    folder = folders(kind)
    edit_config(folder, lambda cfg: node_of(cfg, kind).update({SETTING[kind]: None, "trainable": True}))
    assert "trainable is true" in folder_refusal(folder)
    edit_config(folder, lambda cfg: node_of(cfg, kind).update({"trainable": False}))
    assert "null" in folder_refusal(folder)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("oobleck", {"encoder_channels": 10**6}),
        ("oobleck", {"encoder_channels": 10**12}),
        ("vocoder", {"vocoder": {"_target_": "unisono.models.autoencoder.vocoder.FourierVocoder", "num_layers": 1000}}),
        ("codec", {"latent_dim": 16_000}),
    ],
)
def test_sizes_beyond_the_weights_are_refused(folders: Any, kind: str, edit: dict[str, Any]) -> None:
    folder = folders(kind)
    edit_config(folder, lambda cfg: node_of(cfg, kind).update(edit))
    assert "model.autoencoder" in folder_refusal(folder)


def test_an_id_on_the_hub_stays_one_with_the_revision_that_was_loaded(tmp_path: Path) -> None:
    cfg = with_part("text", tmp_path / "source")
    model = instantiate(OmegaConf.create(cfg["model"]))
    model.instruction_encoder.encoder.config._commit_hash = "c0ffee"
    for name in ("org/name", "org/name@main", "t5-small"):
        for node in (cfg["model"]["instruction_encoder"], cfg["model"]["content_encoders"]["text"]):
            node["pretrained"] = name
        folder = save_model_folder(tmp_path / "model", model, cfg, {})
        written = yaml.safe_load((folder / "config.yaml").read_text())
        assert node_of(written, "text")["pretrained"] == f"{name.partition('@')[0]}@c0ffee"
        assert not (folder / "parts").exists()


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    cfg = with_part("oobleck", tmp_path)
    model = instantiate(OmegaConf.create(cfg["model"]))
    node_of(cfg, "oobleck")["weights"] = str(tmp_path / "gone")
    with pytest.raises(Exception, match=r"model\.autoencoder\.weights is .*gone.* not there any more"):
        save_model_folder(tmp_path / "model", model, cfg, {})
    assert not (tmp_path / "model").exists()
