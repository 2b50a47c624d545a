"""What users get wrong: every fault is one error, before training, that names file, line, field and remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import TASKS, TOY_PHONEMES, TOY_SPEAKERS
from toy import DATASETS, toy_dataset, toy_model
from unisono.data import verify
from unisono.data.datasets import AudioGenerationDataset
from unisono.data.manifest import load_manifest, read_jsonl, write_jsonl
from unisono.data.verify import verify_audio
from unisono.errors import UserError
from unisono.inference.model_folder import load_model_folder, save_model_folder

SPEECH, CAPTION, NOISY = "text_to_speech", "text_to_audio", "speech_enhancement"


@pytest.fixture
def corpus(toy_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the toy corpus that may be broken."""
    return Path(shutil.copytree(toy_corpus, tmp_path / "corpus"))


def change(path: Path, line: int, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit one line (from 1) of a manifest in place."""
    records = [record for _, record in read_jsonl(path)]
    edit(records[line - 1])
    write_jsonl(path, records)


def refusal(corpus: Path, task: str) -> str:
    with pytest.raises(UserError) as caught:
        toy_dataset(corpus, task)
    return str(caught.value)


# -- the file as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{not json}", "not JSON"),
        (b'{"audio_id": "a"', "not JSON"),
        (b"[1, 2]", "a list, not a JSON object"),
        (b'"text"', "a str, not a JSON object"),
        (b"null", "a NoneType, not a JSON object"),
        (b'{"audio_id": "a"} {"audio_id": "b"}', "not JSON"),
        (b'{"audio_id": "a", "caption": "\\ud800"}', "escape without its other half"),
        (b"[" * 100_000, "not usable JSON"),
        (b'{"audio_id": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b'{"caption": "a"}', "field 'audio_id' is missing"),
    ],
)
def test_a_broken_line_is_named(corpus: Path, line: bytes, words: str) -> None:
    path = corpus / CAPTION / "content.jsonl"
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    assert f"{path}:3: " in refusal(corpus, CAPTION)
    assert words in refusal(corpus, CAPTION)


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"", "no items"), (b"\n \n\n", "no items"), (b'{"audio_id": "\xff"}\n', "not UTF-8"), (None, "no such manifest")],
)
@pytest.mark.parametrize("name", ["content.jsonl", "audio.jsonl"])
def test_a_file_that_is_no_manifest_is_named(corpus: Path, name: str, raw: bytes | None, words: str) -> None:
    path = corpus / CAPTION / name
    path.unlink() if raw is None else path.write_bytes(raw)
    message = refusal(corpus, CAPTION)
    assert str(path) in message and words in message


def test_byte_order_marks_line_ends_blank_lines_and_escapes_do_no_harm(corpus: Path) -> None:
    path = corpus / CAPTION / "content.jsonl"
    expected = [sample.content for sample in map(toy_dataset(corpus, CAPTION).__getitem__, range(8))]
    lines = [json.dumps(record, ensure_ascii=True) for _, record in read_jsonl(path)]
    path.write_bytes(b"\xef\xbb\xbf\r\n" + "\r\n\r\n".join(lines).encode())
    assert [sample.content for sample in map(toy_dataset(corpus, CAPTION).__getitem__, range(8))] == expected
    change(path, 1, lambda r: r.update(caption="🔔 rings\u2028 and rings"))
    assert toy_dataset(corpus, CAPTION)[0].content[0].text == "🔔 rings\u2028 and rings"
    write_jsonl(path, [{**r, "caption": "\\u0041 \\ud800 as typed"} for _, r in read_jsonl(path)])
    assert toy_dataset(corpus, CAPTION)[0].content[0].text == "\\u0041 \\ud800 as typed"


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"audio_id": "old"}])

    def torn():
        yield {"audio_id": "new"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, torn())
    assert list(load_manifest(path)) == ["old"] and list(tmp_path.iterdir()) == [path]


# -- fields ---------------------------------------------------------------------------------------------------------

MISSING = object()
FIELD_FAULTS = [
    ("text_to_audio", "content", "audio_id", bad)
    for bad in ("", " ", ".", "..", "../a", "a/b", "a\\b", "a\nb", "a\x00b", "x" * 201, "ä" * 101, 5, None, MISSING)
]
FIELD_FAULTS += [("text_to_audio", "content", "caption", bad) for bad in ("", " \t\n", 5, None, ["a"], MISSING)]
FIELD_FAULTS += [(task, "content", "instruction", bad) for task in TASKS for bad in ("", "  ", 7, ["a"])]
FIELD_FAULTS += [
    ("text_to_speech", "content", "phonemes", bad)
    for bad in ([], "abcd", [1, 2, 3, 4], ["a", "", "b", "c"], ["a", None, "b", "c"], None, MISSING)
]
FIELD_FAULTS += [
    ("text_to_speech", "content", "durations_s", bad)
    for bad in ([], 0.6, "0.6", ["0.1", 0.1, 0.2, 0.2], [True, 0, 0, 0], [0, 0, 0, 0], None, MISSING)
]
FIELD_FAULTS += [
    ("text_to_speech", "content", "durations_s", [first, 0.1, 0.1, 0.1])
    for first in (float("nan"), float("inf"), -0.1, 10**400, 1e308)
]
FIELD_FAULTS += [  # the wrong number of them, the wrong sum
    ("text_to_speech", "content", "durations_s", bad) for bad in ([0.3, 0.3], [0.12] * 5, [0.1] * 4, [0.6] * 4)
]
FIELD_FAULTS += [("text_to_speech", "content", "speaker", bad) for bad in ("", 3, ["ann"])]
FIELD_FAULTS += [("text_to_speech", "content", "text", bad) for bad in (3, ["a"], {})]
FIELD_FAULTS += [
    (task, manifest, field, bad)
    for task, manifest, field in ((NOISY, "content", "noisy_audio"), (CAPTION, "audio", "audio"))
    for bad in ("", 5, None, MISSING, "gone.flac", "audio", "a\x00b", "x" * 5000, "/")
]
FIELD_FAULTS += [
    ("text_to_audio", "audio", "duration_s", bad) for bad in (0, -1, "0.6", True, float("nan"), 10**400, 0.7)
]


@pytest.mark.parametrize(("task", "manifest", "field", "bad"), FIELD_FAULTS)
def test_a_bad_field_is_refused_with_file_line_field_and_remedy(corpus, task, manifest, field, bad) -> None:
    path = corpus / task / f"{manifest}.jsonl"
    change(path, 5, lambda r: r.pop(field) if bad is MISSING else r.update({field: bad}))
    message = refusal(corpus, task)
    # An id that no longer joins is reported where its partner stands alone, unless it is no id at all.
    assert message.startswith(f"{path}:5: ") and f"field '{field}'" in message
    assert re.search(r"must|correct|add it|replace", message), message
    assert len(message) < 5500


@pytest.mark.parametrize(("field", "value"), [("speaker", None), ("text", ""), ("text", None), ("instruction", None)])
def test_optional_fields_may_be_null(corpus: Path, field: str, value: Any) -> None:
    change(corpus / SPEECH / "content.jsonl", 1, lambda r: r.update({field: value}))
    assert toy_dataset(corpus, SPEECH)[0].content[0].text == ("" if field == "text" else "word 0")


def test_ids_are_unique_and_in_both_manifests(corpus: Path) -> None:
    content, audio = (corpus / CAPTION / f"{name}.jsonl" for name in ("content", "audio"))
    change(content, 4, lambda r: r.update(audio_id="text_to_audio_1"))
    assert refusal(corpus, CAPTION) == (
        f"{content}:4: audio_id 'text_to_audio_1' was used on line 2 already; ids are unique"
    )
    change(content, 4, lambda r: r.update(audio_id="alone"))
    assert f"{content}:4: audio_id 'alone' has no line in {audio}; add it there or remove" in refusal(corpus, CAPTION)
    change(content, 4, lambda r: r.update(audio_id="text_to_audio_3"))
    write_jsonl(content, [record for _, record in read_jsonl(content)][:-1])
    assert f"{audio}:8: audio_id 'text_to_audio_7' has no line in {content}" in refusal(corpus, CAPTION)


def test_noisy_and_clean_are_of_one_length(corpus: Path) -> None:
    noisy = corpus / NOISY / "noisy" / f"{NOISY}_4.flac"
    data, rate = sf.read(noisy)
    sf.write(noisy, data[:-1000], rate)  # 42 ms: filled up with silence
    sample = toy_dataset(corpus, NOISY)[4]
    assert sample.content[0].waveform.shape == sample.waveform.shape
    assert not sample.content[0].waveform[-1000:].any()
    sf.write(noisy, np.concatenate([data, data[:900]]), rate)
    assert toy_dataset(corpus, NOISY)[4].content[0].waveform.shape == sample.waveform.shape
    sf.write(noisy, data[:-2400], rate)
    message = refusal(corpus, NOISY)
    assert message.startswith(f"{corpus / NOISY / 'content.jsonl'}:5: field 'noisy_audio': {noisy} lasts 0.500 s")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_text("no sound"), "not readable as audio"),
        (lambda p: sf.write(p, np.zeros(0), 24_000, format="WAV"), "0 samples"),
        (lambda p: sf.write(p, np.zeros(300), 500), "sample rate 500"),
    ],
)
@pytest.mark.parametrize(
    ("task", "manifest", "field", "file"),
    [(CAPTION, "audio", "audio", "audio/text_to_audio_4"), (NOISY, "content", "noisy_audio", f"noisy/{NOISY}_4")],
)
def test_audio_with_a_broken_header_is_refused(corpus, write, words, task, manifest, field, file) -> None:
    write(corpus / task / f"{file}.flac")
    message = refusal(corpus, task)
    assert message.startswith(f"{corpus / task / manifest}.jsonl:5: field '{field}'") and words in message


# -- audio that only reading can judge ------------------------------------------------------------------------------


def damage(corpus: Path) -> list[str]:
    """Break three files behind intact headers; returns how the faults must be named."""
    sf.write(corpus / CAPTION / "audio" / "nan.wav", np.array([0.0] * 14_000 + [np.nan] * 400), 24_000, "FLOAT")
    change(corpus / CAPTION / "audio.jsonl", 2, lambda r: r.update(audio="audio/nan.wav"))
    for task, folder in ((SPEECH, "audio"), (NOISY, "noisy")):
        path = corpus / task / folder / f"{task}_4.flac"
        path.write_bytes(path.read_bytes()[:-2000])
    return [
        f"{corpus / CAPTION / 'audio.jsonl'}:2: field 'audio': {corpus}/text_to_audio/audio/nan.wav: sample 14000 is NaN",
        f"{corpus / SPEECH / 'audio.jsonl'}:5: field 'audio': {corpus}/{SPEECH}/audio/{SPEECH}_4.flac: damaged audio",
        f"{corpus / NOISY / 'content.jsonl'}:5: field 'noisy_audio': {corpus}/{NOISY}/noisy/{NOISY}_4.flac: damaged",
    ]


def all_tasks(corpus: Path) -> list[AudioGenerationDataset]:
    return [toy_dataset(corpus, task) for task in TASKS]


def test_all_damaged_files_are_listed_at_once(corpus: Path) -> None:
    verify_audio(all_tasks(corpus))
    expected = damage(corpus)
    with pytest.raises(UserError) as caught:
        verify_audio(all_tasks(corpus), cache=corpus / "verified.json")
    message = str(caught.value)
    assert message.startswith("3 of 32 audio files cannot be used:\n")
    assert all(fault in message for fault in expected), message
    # The same words when a run without the check meets the file.
    with pytest.raises(UserError, match=re.escape(expected[0])):
        toy_dataset(corpus, CAPTION)[1]
    with pytest.raises(UserError, match=re.escape(expected[2])):
        toy_dataset(corpus, NOISY)[4]


def test_a_long_list_of_faults_is_cut(corpus: Path) -> None:
    for task in TASKS:
        for path in (corpus / task / "audio").iterdir():
            path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError) as caught:
        verify_audio(all_tasks(corpus))
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[0].startswith("24 of 32") and lines[-1] == "  … and 4 more"


def test_a_second_start_reads_only_what_is_new_or_was_bad(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(verify, "_fault", lambda path, real=verify._fault: read.append(path) or real(path))
    cache = corpus / "new" / "verified.json"
    damage(corpus)
    with pytest.raises(UserError, match="3 of 32"):
        verify_audio(all_tasks(corpus), cache=cache)
    assert len(read) == 32
    read.clear()
    with pytest.raises(UserError, match="3 of 32"):  # the bad ones are not forgiven
        verify_audio(all_tasks(corpus), cache=cache)
    assert sorted(Path(path).name for path in read) == ["nan.wav", f"{NOISY}_4.flac", f"{SPEECH}_4.flac"]
    for task, folder in ((SPEECH, "audio"), (NOISY, "noisy")):
        shutil.copy(corpus / task / folder / f"{task}_3.flac", corpus / task / folder / f"{task}_4.flac")
    change(corpus / CAPTION / "audio.jsonl", 2, lambda r: r.update(audio="audio/text_to_audio_1.flac"))
    verify_audio(all_tasks(corpus), cache=cache)
    read.clear()
    verify_audio(all_tasks(corpus), cache=cache)
    assert read == []
    changed = corpus / CAPTION / "audio" / "text_to_audio_0.flac"
    os.utime(changed, ns=(0, 0))
    verify_audio(all_tasks(corpus), cache=cache)
    assert read == [str(changed.resolve())]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 0}', '{"version": 1, "files": 3}'])
def test_a_damaged_cache_costs_time_only(corpus: Path, content: str) -> None:
    cache = corpus / "verified.json"
    cache.write_text(content)
    damage(corpus)
    with pytest.raises(UserError, match="3 of 32"):
        verify_audio(all_tasks(corpus), cache=cache)
    assert len(json.loads(cache.read_text())["files"]) == 29


def test_a_file_that_went_away_is_named(corpus: Path) -> None:
    datasets = all_tasks(corpus)
    (corpus / CAPTION / "audio" / "text_to_audio_3.flac").unlink()
    with pytest.raises(UserError, match=r"audio.jsonl:4: field 'audio': .*text_to_audio_3.flac: no such audio file"):
        verify_audio(datasets, cache=corpus / "verified.json")


@pytest.mark.slow
def test_verifying_1500_short_files_takes_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(1500):
        (tmp_path / "audio").mkdir(exist_ok=True)
        sf.write(tmp_path / "audio" / f"{i}.flac", rng.uniform(-0.3, 0.3, 48_000), 24_000)
        lines.append({"audio_id": str(i), "caption": "noise", "audio": f"audio/{i}.flac"})
    dataset = DATASETS[CAPTION](write_jsonl(tmp_path / "c.jsonl", lines), write_jsonl(tmp_path / "a.jsonl", lines))
    for limit_s in (15.0, 1.0):
        begin = time.perf_counter()
        verify_audio([dataset], cache=tmp_path / "verified.json")
        assert time.perf_counter() - begin < limit_s


# -- model folders --------------------------------------------------------------------------------------------------

TOY_CONFIG = {
    "phonemes": list(TOY_PHONEMES),
    "speakers": list(TOY_SPEAKERS),
    "model": {
        "_target_": "unisono.models.unified.UnifiedAudioModel",
        "autoencoder": {
            "_target_": "unisono.models.autoencoder.LogMelAutoencoder",
            "n_mels": 40,
            "mean": -6.0,
            "std": 2.5,
            "griffin_lim_steps": 8,
        },
        "instruction_encoder": {
            "_target_": "unisono.models.content_encoder.ByteTextEncoder",
            "dim": 32,
            "num_layers": 1,
            "num_heads": 2,
            "ngram_buckets": 256,
        },
        "content_encoders": {
            "text": {
                "_target_": "unisono.models.content_encoder.ByteTextEncoder",
                "dim": 64,
                "num_layers": 1,
                "num_heads": 2,
                "ngram_buckets": 256,
            },
            "phoneme": {
                "_target_": "unisono.models.content_encoder.PhonemeEncoder",
                "dim": 64,
                "phonemes": list(TOY_PHONEMES),
                "speakers": list(TOY_SPEAKERS),
                "num_layers": 1,
                "num_heads": 2,
            },
            "audio": {"_target_": "unisono.models.content_encoder.AudioEncoder", "dim": 64, "latent_dim": 40},
        },
        "content_adapter": {
            "_target_": "unisono.models.content_adapter.PrefixAdapter",
            "dim": 64,
            "instruction_dim": 32,
            "num_heads": 2,
        },
        "backbone": {
            "_target_": "unisono.models.backbone.LayerFusionDiT",
            "latent_dim": 40,
            "dim": 64,
            "num_layers": 4,
            "num_heads": 2,
            "frames_dim": 64,
        },
        "objective": {"_target_": "unisono.objectives.FlowMatching"},
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    return save_model_folder(folder, toy_model(), TOY_CONFIG, {"val/loss": 1.0})


@pytest.fixture
def model_folder(exported: Path, tmp_path: Path) -> Path:
    """A folder that may be broken."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    cfg = yaml.safe_load((folder / "config.yaml").read_text())
    edit(cfg)
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg))


def folder_refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model_folder(folder)
    return str(caught.value)


def test_a_model_folder_gives_back_the_model(model_folder: Path) -> None:
    model, cfg = load_model_folder(model_folder)
    expected = toy_model().state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert cfg["speakers"] == list(TOY_SPEAKERS) and not model.training
    assert sorted(path.name for path in model_folder.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "unisono.data.manifest.read_jsonl",
        "unisono.models",
        "unisono.models.",
        "unisono.models..os.system",
        "unisono.models.unified.torch",
        "unisono.models.unified.torch.nn.Linear",
        "unisono.models.unified.nn.Linear",
        "unisono.models.unified.torch.hub.load",
        "unisono.models.layers.nn",
        "unisono.models.autoencoder.statistics.Path",
        "unisono.models.autoencoder.statistics.write_statistics",
        "unisono.models.autoencoder.base.Autoencoder",
        "unisono.models.autoencoder.NoSuchClass",
        "unisono.models.no_such_module.Thing",
        "unisono.models.unified.UnifiedAudioModel.from_pretrained",
        "",
        5,
        ["os.system"],
        {"_target_": "os.system"},
    ],
)
def test_only_the_package_s_own_model_classes_are_built(model_folder: Path, target: Any, monkeypatch) -> None:
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("ran a command"))
    edit_config(model_folder, lambda cfg: cfg["model"]["autoencoder"].update({"_target_": target}))
    message = folder_refusal(model_folder)
    assert message.startswith(f"{model_folder / 'config.yaml'}: model.autoencoder")
    assert str(target) in message


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_", "__class__"])
def test_hydra_s_own_keys_are_refused(model_folder: Path, key: str) -> None:
    edit_config(model_folder, lambda cfg: cfg["model"]["backbone"].update({key: True}))
    assert f"model.backbone has keys ['{key}']" in folder_refusal(model_folder)


def _nothing(cfg: dict[str, Any]) -> None:
    cfg.clear()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_nothing, "not a model config"),
        (lambda cfg: cfg.update(format_version=2), "format_version 1"),
        (lambda cfg: cfg.pop("model"), "not a model config"),
        (lambda cfg: cfg.update(model=3), "`model` builds a int"),
        (lambda cfg: cfg.update(model=cfg["model"]["backbone"]), "builds a LayerFusionDiT, not a UnifiedAudioModel"),
        (lambda cfg: cfg.update(speakers="ann"), "`speakers` is not a list of texts"),
        (lambda cfg: cfg.update(phonemes=[1]), "`phonemes` is not a list of texts"),
        (lambda cfg: cfg["model"]["backbone"].pop("dim"), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(dim="wide"), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(dim=-64), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(num_heads=0), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update({7: "number as key"}), "model.backbone"),
        (lambda cfg: cfg["model"]["autoencoder"].update(std=0.0), "std is 0.0"),
        (lambda cfg: cfg["model"]["autoencoder"].update(mean=[1.0, 2.0]), "mean is [1.0, 2.0]"),
        (lambda cfg: cfg["model"]["autoencoder"].update(n_mels=20), "20 channels, backbone 40"),
    ],
)
def test_a_bad_model_config_is_refused(model_folder: Path, edit: Callable, words: str) -> None:
    edit_config(model_folder, edit)
    message = folder_refusal(model_folder)
    assert str(model_folder / "config.yaml") in message and words in message


@pytest.mark.parametrize(
    "text", ["{", "\t- x", "!!python/object/apply:os.system ['true']", "\x00", "- 1", "a: &a [*a]", "model: &a {x: *a}"]
)
def test_a_config_that_is_no_plain_yaml_is_refused(model_folder: Path, text: str) -> None:
    for prefix in ("", "format_version: 1\n"):
        (model_folder / "config.yaml").write_text(prefix + text)
        assert str(model_folder / "config.yaml") in folder_refusal(model_folder)
    (model_folder / "config.yaml").write_bytes(b"\xff\xfe\xff")
    assert "not YAML" in folder_refusal(model_folder)


def test_weights_that_do_not_fit_are_listed_by_name(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    lost, reshaped = "null_frame", "null_context"
    del weights[lost]
    weights[reshaped] = torch.zeros(3)
    weights["extra.weight"] = torch.zeros(1)
    save_file(weights, path)
    message = folder_refusal(model_folder)
    assert str(path) in message
    assert f"missing: {lost}" in message and "unknown: extra.weight" in message
    assert f"shape of {reshaped}: (3,) in the file, (64,) in the model" in message


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(model_folder: Path, kept: float) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert f"{path}: damaged weights" in folder_refusal(model_folder)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_missing_part_is_named(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    assert name in folder_refusal(model_folder)


def test_an_export_that_fails_leaves_the_old_one(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("unisono.inference.model_folder.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model_folder(model_folder, toy_model(seed=1), TOY_CONFIG, {})
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert list(model_folder.parent.iterdir()) == [model_folder]
