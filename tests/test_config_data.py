"""Configuration of data: examples to copy, pointers to files, and a check that reads the manifests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from unisono.config import compose, config_dir, register_omegaconf_resolvers
from unisono.config import manifest_facts as facts_module
from unisono.config.data_rules import check_data, data_warnings
from unisono.config.entries import TRAINING
from unisono.config.faults import resolve_all
from unisono.config.manifest_rules import ChosenSet, check_manifests, task_of, unread_manifests
from unisono.config.preflight import compose_checked, longest_clip_s
from unisono.config.signatures import find_target, misfits, parameters
from unisono.config.tree import hydra_in
from unisono.data.manifest import write_jsonl
from unisono.data.mini.corpus import SPEAKERS
from unisono.errors import UserError
from unisono.tasks import TASKS
from unisono.text.phonemes import PHONEMES

EXAMPLES = config_dir() / "data/examples"
CLASSES = "unisono.data.datasets"


# -- examples and files of data sets --------------------------------------------------------------------------------


def uncommented(task: str) -> str:
    """An example with all its settings switched on."""
    return re.sub(r"^(    )# ?", r"\1", (EXAMPLES / f"{task}.yaml").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("task", TASKS)
def test_an_example_shows_every_setting_of_its_class_and_each_is_a_valid_one(task: str, tmp_path: Path) -> None:
    node = yaml.safe_load(uncommented(task))[f"my_{task}"]["train"]
    target = find_target(node["_target_"])
    assert getattr(target, "task", None) == task
    assert set(parameters(target).named) == set(node) - {"_target_"}
    if "degradation" in node:
        degradation = find_target(node["degradation"]["_target_"])
        assert set(parameters(degradation).named) == set(node["degradation"]) - {"_target_"}
    (tmp_path / "data/datasets").mkdir(parents=True)
    (tmp_path / f"data/datasets/my_{task}.yaml").write_text(uncommented(task), encoding="utf-8")
    (tmp_path / "conf.yaml").write_text(f"defaults: [default, data/datasets@data_dict: my_{task}, _self_]\n")
    cfg, _ = unresolved(tmp_path, f"++train_dataloader.dataset.datasets=['${{data_dict.my_{task}.train}}']")
    made = OmegaConf.to_container(cfg.train_dataloader.dataset.datasets[0], resolve=True)
    assert isinstance(made, dict) and misfits({str(key): value for key, value in made.items()}, target) == []
    assert made["content"] == f"data/mine/{task}/train/content.jsonl" and made["split"] == "train"


def unresolved(folder: Path, *overrides: str) -> tuple[DictConfig, list[str]]:
    """``conf.yaml`` of a folder, composed and not checked, with what does not resolve in it."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    with hydra_in(folder):
        cfg = hydra.compose("conf", overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg, [str(fault) for fault in resolve_all(cfg)[1]]


@pytest.mark.parametrize("task", ["speech_enhancement", "audio_super_resolution"])
def test_the_degradations_of_the_examples_can_be_built(task: str, tmp_path: Path) -> None:
    from hydra.utils import instantiate

    from unisono.media.audio import write_audio

    register_omegaconf_resolvers()
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32) * 0.1
    write_audio(tmp_path / "mine/noises/n.flac", noise, 24_000)
    write_audio(tmp_path / "mine/speech_enhancement/train/s.flac", noise, 24_000)
    write_jsonl(tmp_path / "mine/speech_enhancement/train/audio.jsonl", [{"audio_id": "s", "audio": "s.flac"}])
    made = OmegaConf.create({"data_root": str(tmp_path), **yaml.safe_load(uncommented(task))})
    degraded = instantiate(made[f"my_{task}"].train.degradation)(np.random.default_rng(1), noise, 24_000).waveform
    assert degraded.shape == noise.shape and not np.allclose(degraded, noise)


def test_splits_of_a_set_differ_in_their_folder_alone() -> None:
    sets = compose("default").data_dict
    assert len(sets) == len(list((config_dir() / "data/datasets").glob("*.yaml")))
    for name, splits in sets.items():
        assert list(splits) == ["train", "val", "test"], name
        for split, node in splits.items():
            there = {key: str(value).replace(f"/{split}/", "/train/") for key, value in node.items()}
            there.pop("if_present", None)
            assert there == {key: str(value) for key, value in splits.train.items()}, (name, split)
            assert f"/{split}/content.jsonl" in node.content and f"/{split}/audio.jsonl" in node.audio


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mine: {train: {}}\n", "add `- mine` to the list in data/all.yaml"),
        ("data_dict: {mine: {train: {}}}\n", "begins with data_dict:"),
        ("other: {train: {}}\n", "names its data set other; name it mine"),
        ("", "names its data set nothing"),
    ],
)
def test_a_file_that_nothing_takes_is_found(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data/datasets").mkdir(parents=True)
    (tmp_path / "data/datasets/mine.yaml").write_text(content)
    (tmp_path / "conf.yaml").write_text("defaults: [default, _self_]\n")
    lists = "++train_dataloader.dataset.datasets=['${data_dict.mine.train}']"
    (fault,) = unresolved(tmp_path, lists)[1]
    assert said in fault and str(tmp_path / "data/datasets/mine.yaml") in fault


# -- the lines of manifests -----------------------------------------------------------------------------------------


def chosen(folder: Path, task: str, lines: list[dict[str, Any]], **settings: Any) -> ChosenSet:
    write_jsonl(folder / "content.jsonl", [{"audio_id": f"a{i}", **line} for i, line in enumerate(lines)])
    names = {"text_to_speech": "TextToSpeechDataset", "video_to_audio": "VideoToAudioDataset"}
    names |= {"speech_enhancement": "SpeechEnhancementDataset", "text_to_audio": "TextToAudioDataset"}
    node = {"_target_": f"{CLASSES}.{names[task]}", "content": str(folder / "content.jsonl"), **settings}
    collate = {"speakers": list(SPEAKERS), "phonemes": list(PHONEMES)}
    return ChosenSet("data_dict.mine.train", node, task_of(node), collate)


def plain(**encoders: Any) -> dict[str, Any]:
    return {"speakers": list(SPEAKERS), "phonemes": list(PHONEMES), "model": {"content_encoders": encoders}}


def remedied(message: str, setting: str) -> Any:
    """The value of a setting once the override that a message names is given."""
    import hydra

    (override,) = shlex.split(message.partition("write ")[2])
    with hydra_in(config_dir()):
        return hydra.compose("default", overrides=[override])[setting]


@pytest.mark.parametrize("name", ["me", "Jürgen Groß", "null", "x,y", 'a"b', "p[225]", "007"])
def test_the_remedy_for_an_unknown_speaker_mends_it_and_keeps_the_others(name: str, tmp_path: Path) -> None:
    one = chosen(tmp_path, "text_to_speech", [{"speaker": SPEAKERS[0]}, {"speaker": name}])
    (fault,) = check_manifests([one], plain())
    assert fault.place == "speakers" and "content.jsonl:2" in fault.message
    assert list(remedied(fault.message, "speakers")) == [*SPEAKERS, name]
    own = ChosenSet(one.place, one.node, one.task, {"speakers": [SPEAKERS[0]], "phonemes": []})
    (fault,) = check_manifests([own], {"speakers": [SPEAKERS[0]]})
    assert list(remedied(fault.message, "speakers")) == [SPEAKERS[0], name]


@pytest.mark.parametrize("name", ["{x}", "${seed}", "a\\b"])
def test_names_that_no_override_can_hold_are_for_a_file(name: str, tmp_path: Path) -> None:
    (fault,) = check_manifests([chosen(tmp_path, "text_to_speech", [{"speaker": name}])], plain())
    assert fault.place == "speakers" and "write out the list speakers in a YAML file" in fault.message


def test_unknown_phonemes_of_all_sets_are_one_fault(tmp_path: Path) -> None:
    sets = [
        chosen(tmp_path / "a", "text_to_speech", [{"phonemes": ["_", "ʘ"]}, {"phonemes": ["ʘ"]}]),
        chosen(tmp_path / "b", "text_to_speech", [{"phonemes": ["ǃ", "ʘ"]}]),
        chosen(tmp_path / "c", "text_to_audio", [{"phonemes": ["what a caption's line says is not asked"]}]),
    ]
    (fault,) = check_manifests(sets, plain())
    assert fault.place == "phonemes" and list(remedied(fault.message, "phonemes"))[-2:] == ["ʘ", "ǃ"]


def test_many_unknown_speakers_are_taken_from_the_manifest(tmp_path: Path) -> None:
    one = chosen(tmp_path, "text_to_speech", [{"speaker": f"p{i}"} for i in range(20)])
    (fault,) = check_manifests([one], plain())
    assert "12 more" in fault.message
    register_omegaconf_resolvers()
    written = yaml.safe_load(fault.message.partition("YAML file, ")[2])
    made = OmegaConf.create(written).speakers
    assert list(made[: len(SPEAKERS)]) == list(SPEAKERS) and {f"p{i}" for i in range(20)} <= set(made)


def test_sizes_of_voices_and_of_pictures_are_compared_with_the_encoders(tmp_path: Path) -> None:
    for name, shape in {"v": 42, "w": 7}.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.ones(shape, np.float32))
    np.save(tmp_path / "f.npy", np.ones((5, 128), np.float32))
    voices = chosen(tmp_path, "text_to_speech", [{"speaker_embedding": "v/a.npy"}])
    (fault,) = check_manifests([voices], plain(phoneme={}))
    setting = "model.content_encoders.phoneme.speaker_embedding_dim"
    assert fault.place == setting and fault.message.endswith(f"write +{setting}=42")  # into a YAML file without it
    (fault,) = check_manifests([voices], plain(phoneme={"speaker_embedding_dim": None}))
    assert fault.message.endswith(f"takes none; write {setting}=42")
    (fault,) = check_manifests([voices], plain(phoneme={"speaker_embedding_dim": 8}))
    assert fault.message.endswith(f"takes 8; write {setting}=42")
    assert list(check_manifests([voices], plain(phoneme={"speaker_embedding_dim": 42}))) == []
    both = chosen(tmp_path, "text_to_speech", [{"speaker_embedding": f"{n}/a.npy"} for n in "vw"])
    (fault,) = check_manifests([both], plain(phoneme={"speaker_embedding_dim": 42}))
    assert "42 (" in fault.message and "7 (" in fault.message and "one encoder" in fault.message
    absent = chosen(tmp_path, "text_to_speech", [{"speaker_embedding": "x/a.npy"}])
    (fault,) = check_manifests([absent], plain(phoneme={}))
    assert "content.jsonl:1" in fault.message and "speaker_embedding" in fault.message
    films = chosen(tmp_path, "video_to_audio", [{"video_features": "f.npy"}])
    (fault,) = check_manifests([films], plain(video={"feature_dim": None}))
    assert fault.message.endswith("write model.content_encoders.video.feature_dim=128")


@pytest.mark.parametrize("folder", ["content_encoder", "content_adapter"])
def test_every_setting_of_a_part_can_be_overridden_as_errors_say(folder: str) -> None:
    """A key that a YAML file lacks would be refused without a plus."""
    files = [path for path in (config_dir() / "model" / folder).glob("*.yaml") if path.stem != "all"]
    assert len(files) > 1
    for file in files:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert set(parameters(find_target(node["_target_"])).named) == set(node) - {"_target_"}, file.name


def test_what_a_data_set_has_to_make_itself_is_asked_for(tmp_path: Path) -> None:
    clean = chosen(tmp_path / "a", "speech_enhancement", [{"noisy_audio": "x.flac"}, {}])
    (fault,) = check_manifests([clean], plain())
    assert fault.place == "data_dict.mine.train.degradation" and "content.jsonl:2" in fault.message
    degraded = {"degradation": {"_target_": "unisono.data.degrade.SpeechDegradation"}}
    assert list(check_manifests([chosen(tmp_path / "a", "speech_enhancement", [{}], **degraded)], plain())) == []
    heard = chosen(tmp_path / "b", "text_to_speech", [{"speaker_audio": "x.flac"}])
    (fault,) = check_manifests([heard], plain(phoneme={}))
    assert fault.place == "data_dict.mine.train.speaker_encoder"
    encoder = {"speaker_encoder": "statistics"}
    heard = chosen(tmp_path / "b", "text_to_speech", [{"speaker_audio": "x.flac"}], **encoder)
    (fault,) = check_manifests([heard], plain(phoneme={}))
    assert fault.message.endswith("speaker_embedding_dim=42")


def test_only_lines_that_are_used_count_and_damaged_ones_are_named(tmp_path: Path) -> None:
    lines = [{"speaker": SPEAKERS[0], "split": "train"}, {"speaker": "me", "split": "val"}]
    assert list(check_manifests([chosen(tmp_path, "text_to_speech", lines, split="train")], plain())) == []
    assert list(check_manifests([chosen(tmp_path, "text_to_speech", lines, max_samples=1)], plain())) == []
    assert len(list(check_manifests([chosen(tmp_path, "text_to_speech", lines)], plain()))) == 1
    one = chosen(tmp_path, "text_to_speech", lines)
    with (tmp_path / "content.jsonl").open("a") as content:
        content.write("{broken\n")
    (fault,) = check_manifests([one], plain())
    assert fault.place == "data_dict.mine.train.content" and "content.jsonl:3: not JSON" in fault.message
    (fault,) = check_manifests([chosen(tmp_path, "text_to_speech", lines, split="test")], plain())
    assert "has no items of the split 'test'" in fault.message
    (fault,) = check_manifests([chosen(tmp_path, "text_to_speech", [])], plain())
    assert "content.jsonl has no items;" in fault.message
    odd = chosen(tmp_path, "text_to_speech", [{"phonemes": 3, "speaker": ["x"]}, {"speaker_embedding": 3}])
    assert list(check_manifests([odd], plain(phoneme={}))) == []  # the data set itself names wrong types


def test_of_a_long_manifest_the_first_lines_are_read_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "LINES_READ", 5)
    one = chosen(tmp_path, "text_to_speech", [{}] * 5 + [{"speaker": "me"}])
    assert list(check_manifests([one], plain())) == []
    (note,) = unread_manifests([one])
    assert "first 5 lines" in note and str(tmp_path) in note
    assert unread_manifests([chosen(tmp_path, "text_to_speech", [{}] * 5)]) == []
    assert unread_manifests([chosen(tmp_path, "text_to_speech", [{}] * 9, max_samples=5)]) == []


def test_the_check_names_the_place_where_a_list_points_to(toy_corpus: Path) -> None:
    settings = {name: str(toy_corpus / f"text_to_speech/{name}.jsonl") for name in ("content", "audio")}
    overrides = [f"data_dict.mini_text_to_speech.train.{name}='{path}'" for name, path in settings.items()]
    lists = ["data_root=absent", "++train_dataloader.dataset.datasets=['${data_dict.mini_text_to_speech.train}']"]
    with pytest.raises(UserError) as caught:
        compose_checked("default", [*overrides, *lists, "train_dataloader.batch_size=2"])
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["speakers", "phonemes"]  # of the toy corpus
    assert "'ann'" in lines[0] and "text_to_speech/content.jsonl:1" in lines[0]


# -- corpora, shards, lengths, warnings -----------------------------------------------------------------------------


def faults(raw: dict[str, Any], processes: int = 1) -> list[str]:
    return [str(fault) for fault in check_data(raw, raw, {}, TRAINING, processes, True)]


def test_a_corpus_that_was_not_prepared_is_one_fault_with_its_command(tmp_path: Path) -> None:
    def node(corpus: str, task: str) -> dict[str, str]:
        return {key: f"{tmp_path}/{corpus}/{task}/train/{key}.jsonl" for key in ("content", "audio")}

    sets = [node("debian", "text_to_audio"), node("vctk", "text_to_speech"), node("debian", "text_to_speech")]
    raw = {"data_root": str(tmp_path), "datasets": [*sets, node("mine", "text_to_audio")]}
    debian, vctk, mine = faults(raw)
    assert f"unisono prepare debian --out {tmp_path}/debian" in debian and debian.startswith("datasets[0].content")
    assert "unisono prepare vctk --source FOLDER" in vctk and "docs/prepare_data.md" in mine
    (tmp_path / "debian/text_to_audoi").mkdir(parents=True)
    misspelled = [fault for fault in faults(raw) if "debian" in fault]
    assert len(misspelled) == 4 and "has no text_to_audio, where there is text_to_audoi" in misspelled[0]


def test_streams_need_shards_workers_and_a_length(tmp_path: Path) -> None:
    shards = {"_target_": "unisono.data.streaming.TarShards", "shards": f"{tmp_path}/*.tar"}
    shards |= {"dataset": {"_target_": f"{CLASSES}.TextToAudioDataset", "content": None}}
    loader = {"_target_": "unisono.data.streaming.streamed_dataloader", "datasets": [shards], "batch_size": 2}
    (none,) = faults({"train_dataloader": loader, "epoch_length": 10})
    assert "no such shard" in none and none.startswith("train_dataloader:")
    for k in range(4):
        (tmp_path / f"{k}.tar").touch()
    assert faults({"train_dataloader": loader, "epoch_length": 10}) == []
    assert faults({"train_dataloader": {**loader, "num_workers": 2}, "epoch_length": 10}, 2) == []
    (few,) = faults({"train_dataloader": {**loader, "num_streams": 6}, "epoch_length": 10})
    assert "4 shards cannot feed 6 streams" in few
    (uneven,) = faults({"train_dataloader": {**loader, "num_workers": 3}, "epoch_length": 10})
    assert uneven.startswith("train_dataloader.num_streams: is 4") and "multiple of 3" in uneven
    (endless,) = faults({"train_dataloader": loader, "epoch_length": None})
    assert endless.startswith("epoch_length") and "epoch_length=STEPS" in endless
    (mixed,) = faults({"train_dataloader": {**loader, "dataset": {"x": 1}}, "epoch_length": 10})[:1]
    assert mixed.startswith("train_dataloader.dataset: a streamed loader has no data sets of manifests")


def test_the_length_of_clips_is_told_with_its_reason(toy_corpus: Path) -> None:
    audio = str(toy_corpus / "text_to_speech/audio.jsonl")
    for node, expected in [
        ({"audio": audio, "crop_s": 0.25, "max_duration_s": 20}, (0.25, "crop_s of the training sets")),
        ({"audio": "absent", "crop_s": 4, "max_duration_s": 20}, (4.0, "crop_s of the training sets")),
        ({"audio": "absent", "crop_s": 30, "max_duration_s": 20}, (20.0, "max_duration_s of the training sets")),
        ({"audio": audio, "crop_s": 3}, (0.6, "the longest of the training manifests")),
    ]:
        for loader in ({"dataset": {"datasets": [node]}}, {"datasets": [{"shards": "x", "dataset": node}]}):
            assert longest_clip_s(OmegaConf.create({"train_dataloader": loader})) == expected


def test_inputs_that_are_made_in_validation_are_pointed_out() -> None:
    node = {"content": "c.jsonl", "degradation": {"_target_": "x"}}
    for name in ("val_dataloader", "train_dataloader"):
        warnings = data_warnings(OmegaConf.create({name: {"dataset": {"datasets": [{"content": "a"}, node]}}}))
        assert len(warnings) == (name == "val_dataloader") and all("datasets[1] (c.jsonl)" in w for w in warnings)
    assert data_warnings(OmegaConf.create({"val_dataloader": None, "datasets": None})) == []


def test_a_run_that_had_ended_says_what_was_given_in_vain(tmp_path: Path) -> None:
    from unisono.training.run import nothing_left

    OmegaConf.save(
        OmegaConf.create({"epochs": 2, "trainer": {"save_last_k": 2}, "list": [1]}), tmp_path / "config.yaml"
    )
    now = OmegaConf.create({"epochs": 2, "trainer": {"save_last_k": 3}, "list": [1], "resume": "auto"})
    said = nothing_left(tmp_path, now, step=7)
    assert "ended at step 7" in said and "trainer.save_last_k: 2 there, 3 now" in said and "epochs (now 2)" in said
    assert "list" not in said and "without effect" not in nothing_left(tmp_path / "none", now, step=7)
