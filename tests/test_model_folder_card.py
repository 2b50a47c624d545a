"""What a model folder says of its model: how to ask it, what it was trained on; and where it is found."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import errors
from omegaconf import OmegaConf

from test_model_folder import TOY_CONFIG, edit_config, folder_refusal
from toy import toy_model
from unisono.data.manifest import read_jsonl, write_jsonl
from unisono.errors import UserError
from unisono.inference.model_folder import (
    InputSettings,
    load_model_folder,
    local_folder,
    save_model_folder,
    settings_for,
)
from unisono.models.unified import GenerationSettings

# -- defaults of generation -------------------------------------------------------------------------------------------


def with_generation(node: Any) -> dict[str, Any]:
    return {**copy.deepcopy(TOY_CONFIG), "generation": node}


def test_settings_of_a_task_replace_those_of_all(tmp_path: Path) -> None:
    node = {
        "default": {"num_steps": 8, "guidance_scale": 3},
        "tasks": {
            "text_to_speech": {"num_steps": 4, "solver": "ab2", "predict_durations": True},
            "speech_enhancement": {},
        },
    }
    folder = save_model_folder(tmp_path / "model", toy_model(), with_generation(node), {})
    _, cfg = load_model_folder(folder)
    general = GenerationSettings(num_steps=8, guidance_scale=3.0)
    assert settings_for(cfg) == settings_for(cfg, "speech_enhancement") == settings_for(cfg, "t2a") == general
    assert settings_for(cfg, "tts") == replace(general, num_steps=4, solver="ab2", predict_durations=True)
    with pytest.raises(UserError, match="unknown task 'humming'"):
        settings_for(cfg, "humming")
    assert "| text_to_speech | num_steps 4, solver ab2, predict_durations True |" in (folder / "README.md").read_text()


def test_without_settings_those_of_the_code_are_written_down(tmp_path: Path) -> None:
    _, cfg = load_model_folder(save_model_folder(tmp_path / "model", toy_model(), TOY_CONFIG, {}))
    assert settings_for(cfg, "tts") == GenerationSettings()
    assert cfg["generation"]["default"]["num_steps"] == GenerationSettings().num_steps


def test_a_model_that_cannot_be_guided_is_not_asked_to(tmp_path: Path) -> None:
    model = toy_model()
    model.cfg_drop_ratio = 0.0
    cfg = copy.deepcopy(TOY_CONFIG)
    cfg["model"]["cfg_drop_ratio"] = 0.0
    loaded, cfg = load_model_folder(save_model_folder(tmp_path / "model", model, cfg, {}))
    assert settings_for(cfg).guidance_scale == 1.0
    loaded.settle(settings_for(cfg))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ([], "it has `default` and `tasks`"),
        ({"num_steps": 3}, "it has `default` and `tasks`"),
        ({"default": {"steps": 3}}, "generation.default has 'steps', which is no setting; choose from num_steps"),
        ({"default": {"num_steps": "24"}}, "generation.default.num_steps is '24'; it must be int"),
        ({"default": {"num_steps": 4.5}}, "it must be int"),
        ({"default": {"num_steps": True}}, "it must be int"),
        ({"default": {"num_steps": None}}, "it must be int"),
        ({"default": {"sway": "x"}}, "it must be float or null"),
        ({"default": {"num_steps": 0}}, "generation.default: num_steps is 0"),
        ({"default": {"num_steps": 10_000}}, "at most 1000"),
        ({"default": {"max_duration_s": 1e6}}, "at most 3600"),
        ({"default": {"guidance_scale": float("inf")}}, "guidance_scale is inf"),
        ({"tasks": {"text_to_speech": {"solver": "magic"}}}, "generation.tasks.text_to_speech: solver"),
        ({"tasks": {"text_to_speech": {"instruction_guidance_scale": 3.0}}}, "instruction_guidance_scale is 3.0, but"),
        ({"tasks": {"text_to_speech": 4}}, "generation.tasks.text_to_speech is 4"),
        ({"tasks": []}, None),
        ({"tasks": [1]}, "generation.tasks is [1]"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, node: Any, words: str | None) -> None:
    if words is None:
        words = "generation.tasks is []"
    with pytest.raises(UserError) as caught:
        save_model_folder(tmp_path / "model", toy_model(), with_generation(node), {})
    assert words in str(caught.value) and not (tmp_path / "model").exists()
    if "inf" in words or isinstance(node, list):
        return  # refused before, as no setting at all
    folder = save_model_folder(tmp_path / "other", toy_model(), TOY_CONFIG, {})
    edit_config(folder, lambda cfg: cfg.update(generation=node))
    message = folder_refusal(folder)
    assert words in message and str(folder / "config.yaml") in message


# -- the card ---------------------------------------------------------------------------------------------------------


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def trained_on(corpus: Path, root: Path, **of_speech: Any) -> Any:
    """A training configuration over the toy corpus; recordings of speech have licences."""
    shutil.copytree(corpus, root)
    audio = root / "text_to_speech/audio.jsonl"
    lines = [line for _, line in read_jsonl(audio)]
    write_jsonl(audio, [{**line, "license": "CC0-1.0" if i < 5 else "CC-BY-4.0"} for i, line in enumerate(lines)])
    content = root / "text_to_speech/content.jsonl"
    lines = [line for _, line in read_jsonl(content)]
    write_jsonl(content, [{**line, "split": "train" if i % 2 else "val"} for i, line in enumerate(lines)])

    def node(task: str, name: str, **more: Any) -> dict[str, Any]:
        files = {kind: str(root / task / f"{kind}.jsonl") for kind in ("content", "audio")}
        return {"_target_": f"unisono.data.datasets.{name}", **files, **more}

    return OmegaConf.create(
        {
            **TOY_CONFIG,
            "data_dict": {"my_speech": {"train": node("text_to_speech", "TextToSpeechDataset", **of_speech)}},
            "train_dataloader": {
                "dataset": {
                    "datasets": ["${data_dict.my_speech.train}", node("text_to_audio", "TextToAudioDataset")],
                }
            },
        }
    )


@pytest.mark.parametrize(
    ("settings", "items", "licenses"),
    [
        ({}, 8, {"CC0-1.0": 5, "CC-BY-4.0": 3}),
        ({"split": "train"}, 4, {"CC0-1.0": 2, "CC-BY-4.0": 2}),
        ({"split": "train", "max_samples": 2}, 2, {"CC0-1.0": 2}),
    ],
)
def test_the_card_says_what_a_model_was_trained_on(
    toy_corpus: Path, tmp_path: Path, settings: dict[str, Any], items: int, licenses: dict[str, int]
) -> None:
    cfg = trained_on(toy_corpus, tmp_path / "data", **settings)
    folder = save_model_folder(tmp_path / "model", toy_model(), cfg, {"val/loss": 0.5, "val/broken": float("nan")})
    _, loaded = load_model_folder(folder)
    speech, sounds = loaded["training"]["data"]
    seconds = (
        sum(line["duration_s"] for _, line in read_jsonl(tmp_path / "data/text_to_speech/audio.jsonl")) * items / 8
    )
    assert speech == {
        "name": "my_speech", "task": "text_to_speech", "items": items, "hours": round(seconds / 3600, 3),
        "longest_s": 0.6,
        "licenses": licenses,
    }  # fmt: skip
    assert (sounds["name"], sounds["items"], sounds["licenses"]) == ("data/text_to_audio", 8, {})
    card = (folder / "README.md").read_text()
    shown = ", ".join(f"{name} ({count})" for name, count in licenses.items())
    assert f"| my_speech | tts | {items} |" in card and f"| {shown} |" in card and "| not stated |" in card
    assert "| val/loss | 0.5000 |" in card and "nan" not in card
    assert "| tasks | text_to_audio, text_to_speech |" in card and "| audio | mono, 24000 Hz |" in card
    assert str(tmp_path) not in card + (folder / "config.yaml").read_text()
    assert front_matter(folder) == {
        "library_name": "unisono", "pipeline_tag": "text-to-audio", "license": "unknown",
        "tags": ["audio-generation", "flow-matching", "text-to-speech"],
    }  # fmt: skip


def test_the_card_adds_up(tmp_path: Path) -> None:
    model = toy_model()
    card = (save_model_folder(tmp_path / "model", model, TOY_CONFIG, {}) / "README.md").read_text()
    rows = card.split("## Sizes")[1].split("##")[0].strip().splitlines()[2:]
    counts = [int(row.split("|")[2].replace(",", "")) for row in rows]
    apart = model.null_frame.numel() + model.null_context.numel()
    assert sum(counts) + apart == sum(p.numel() for p in model.parameters())
    assert "Not recorded." in card.split("## Training data")[1].split("##")[0]


def test_a_licence_and_what_the_trainer_counted_are_taken(tmp_path: Path) -> None:
    data = [{"name": "mine | yours\n# x", "task": "humming", "items": 3, "hours": None, "licenses": {"<b>": 3}}]
    cfg = {**TOY_CONFIG, "license": "cc-by-4.0"}
    folder = save_model_folder(tmp_path / "model", toy_model(), cfg, {"val/loss": 1.0}, data=data)
    card = (folder / "README.md").read_text()
    assert front_matter(folder)["license"] == "cc-by-4.0" and "not stated a licence" not in card
    assert "| mine \\| yours # x | humming | 3 | not known | &lt;b> (3) |" in card
    # A model folder's own config has all of it: nothing is lost where it is saved again.
    again = save_model_folder(tmp_path / "again", *load_model_folder(folder), {})
    assert (again / "README.md").read_text() == card


def test_manifests_that_are_gone_cost_numbers_and_not_the_model(
    toy_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = trained_on(toy_corpus, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/text_to_speech")
    folder = save_model_folder(tmp_path / "model", toy_model(), cfg, {})
    assert "my_speech" in caplog.text and "no such manifest" in caplog.text
    assert "| my_speech | tts | not counted | not known | not stated |" in (folder / "README.md").read_text()


def test_streams_are_named_though_not_counted(tmp_path: Path) -> None:
    stream = {
        "_target_": "unisono.data.streaming.TarShards",
        "shards": "corpora/mine/shards/*.tar",
        "dataset": {"_target_": "unisono.data.datasets.TextToAudioDataset", "content": None},
    }
    cfg = {**TOY_CONFIG, "train_dataloader": {"datasets": [stream]}}
    card = (save_model_folder(tmp_path / "model", toy_model(), cfg, {}) / "README.md").read_text()
    assert "| mine/shards | t2a | not counted | not known | not stated |" in card


# -- the Hugging Face Hub ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_folder(tmp_path_factory.mktemp("hub") / "model", toy_model(), TOY_CONFIG, {})


def test_a_model_on_the_hub_is_loaded_by_its_id(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("org/model", "org/model@v1.0", "org/model@refs/pr/3"):
        model, _ = load_model_folder(name)
        assert model.state_dict().keys() == toy_model().state_dict().keys()
    assert [entry[:2] for entry in asked] == [("org/model", None), ("org/model", "v1.0"), ("org/model", "refs/pr/3")]
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.yaml", "model.safetensors", "README.md", "parts/autoencoder/model.safetensors"]
    others = [
        "pytorch_model.bin",
        "model.py",
        "parts/a/x.py",
        "parts/a/x.bin",
        "checkpoints/trainer.pt",
        "x/config.yaml",
    ]
    assert list(filter_repo_objects(files + others, allow_patterns=asked[0][2])) == files


def test_a_folder_comes_before_the_hub(published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "org/model")
    monkeypatch.chdir(tmp_path)
    assert local_folder("org/model", lambda *_, **__: pytest.fail("asked the Hub")) == Path("org/model")
    assert local_folder(published, None) == published


RESPONSE: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.RevisionNotFoundError("no", response=RESPONSE), "has no revision 'v9'; leave @v9 out"),
        (errors.RepositoryNotFoundError("no", response=RESPONSE), "has no model 'org/model', or not for you"),
        (errors.GatedRepoError("no", response=RESPONSE), "asks for consent first"),
        (errors.LocalEntryNotFoundError("no"), "cannot be reached; connect"),
        (errors.OfflineModeIsEnabled("no"), "unset HF_HUB_OFFLINE"),
        (errors.HfHubHTTPError("503 no", response=RESPONSE), "did not answer; try again later"),
        (ConnectionError("no"), "did not answer"),
        (OSError(28, "No space left on device"), "make room, or set HF_HOME"),
    ],
)
def test_a_download_that_fails_says_what_to_do(error: Exception, words: str) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    with pytest.raises(UserError) as caught:
        local_folder("org/model@v9", download)
    message = str(caught.value)
    assert message.startswith("org/model@v9: ") and words in message and type(error).__name__ in message


@pytest.mark.parametrize(
    "name",
    ["", "no folder", "a/b/c", "experiments/demo/model", "../org/model", "org/..", "org/model@", "org/model@-x", "@v1",
     "https://example.org/x", "org/mo--del", "/no/folder", "org/model@a b", "org/" + "m" * 5000, "x\x00y"],
)  # fmt: skip
def test_names_that_are_no_ids_are_not_asked_for(name: str) -> None:
    download: Callable[..., str] = lambda *_, **__: pytest.fail("asked the Hub")  # noqa: E731
    with pytest.raises(UserError):
        load_model_folder(local_folder(name, download))


def test_windows_are_as_long_as_what_was_trained_on(tmp_path: Path) -> None:
    from unisono.inference.model_folder.defaults import with_windows

    facts = [
        {"name": "a", "task": "text_to_audio", "longest_s": 4.0},
        {"name": "b", "task": "text_to_audio", "longest_s": 9.5},
        {"name": "c", "task": "speech_enhancement", "longest_s": 0.01},
        {"name": "d", "task": "text_to_music", "longest_s": None},
        {"name": "e", "task": None, "longest_s": 3.0},
    ]
    found = with_windows({"tasks": {"text_to_audio": {"num_steps": 3}}}, facts)
    assert found == {
        "tasks": {"text_to_audio": {"window_s": 9.5, "num_steps": 3}, "speech_enhancement": {"window_s": 0.1}}
    }
    assert with_windows({"tasks": {"text_to_audio": {"window_s": 2.0}}}, facts)["tasks"]["text_to_audio"] == {
        "window_s": 2.0
    }
    for stated in ({"default": {"window_s": None}}, {"default": 3}, {"tasks": []}, [], 4):
        assert with_windows(stated, facts) is stated
    cfg = save_model_folder(tmp_path / "model", toy_model(), TOY_CONFIG, {}, data=facts)
    assert settings_for(load_model_folder(cfg)[1], "t2a").window_s == 9.5


def test_longest_clips_are_read_off_manifests_and_crops(tmp_path: Path) -> None:
    from unisono.inference.model_folder.training_data import training_data

    write_jsonl(tmp_path / "content.jsonl", [{"audio_id": name, "caption": "x"} for name in "abc"])
    lines = [{"audio_id": name, "audio": "x.wav", "duration_s": s} for name, s in (("a", 3.0), ("b", 7.5), ("c", 1.0))]
    write_jsonl(tmp_path / "audio.jsonl", lines)
    node = {"_target_": "unisono.data.datasets.TextToAudioDataset"}
    node |= {"content": str(tmp_path / "content.jsonl"), "audio": str(tmp_path / "audio.jsonl")}
    for settings, longest_s in (
        ({}, 7.5),
        ({"crop_s": 2.0}, 2.0),
        ({"max_duration_s": 5}, 5.0),
        ({"max_samples": 1}, 3.0),
    ):
        cfg = {"train_dataloader": {"dataset": {"datasets": [node | settings]}}}
        assert training_data(cfg)[0]["longest_s"] == longest_s, settings


def test_a_text_is_read_in_the_language_of_its_speaker(tmp_path: Path) -> None:
    lines = [
        {"audio_id": str(i), "phonemes": ["a"], "speaker": speaker, "language": language}
        for i, (speaker, language) in enumerate(
            [("ann", "de"), ("ann", "de"), ("ann", "fr"), ("bob", "fr"), ("eve", "fr")]
        )
    ]
    write_jsonl(tmp_path / "content.jsonl", [*lines, {"audio_id": "x", "phonemes": ["a"]}])
    node = {"_target_": "unisono.data.datasets.TextToSpeechDataset", "content": str(tmp_path / "content.jsonl")}
    cfg = copy.deepcopy(TOY_CONFIG) | {"train_dataloader": {"dataset": {"datasets": [node]}}}
    _, saved = load_model_folder(save_model_folder(tmp_path / "model", toy_model(), cfg, {}))
    assert saved["inputs"]["languages"] == {"ann": "de", "bob": "fr", "eve": "fr"}
    assert "languages" not in saved["training"]["data"][0]
    settings = InputSettings(**saved["inputs"])
    assert [settings.language(speaker) for speaker in ("ann", "bob", "zoe", None)] == ["de", "fr", "fr", "fr"]
    assert InputSettings().language(None) == "en-us"
    copied = save_model_folder(tmp_path / "copy", toy_model(), saved, {})
    assert load_model_folder(copied)[1]["inputs"] == saved["inputs"]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"video_rate_hz": 0}, "video_rate_hz is 0"),
        ({"video_size": 1_000_000}, "between 8 and 4096"),
        ({"video_size": "64"}, "inputs.video_size is '64'"),
        ({"speaker_encoder": "/etc/passwd"}, "speaker_encoder is '/etc/passwd'"),
        ({"video_encoder": "../other"}, "video_encoder is '../other'"),
        ({"languages": {"ann": 3}}, "languages"),
        ({"languages": ["de"]}, "inputs.languages"),
        ({"camera": 3}, "inputs has 'camera'"),
    ],
)
def test_settings_of_inputs_are_checked(tmp_path: Path, node: Any, words: str) -> None:
    folder = save_model_folder(tmp_path / "model", toy_model(), TOY_CONFIG, {})
    edit_config(folder, lambda cfg: cfg.update(inputs=node))
    assert words in folder_refusal(folder)
