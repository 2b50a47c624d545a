"""Composition, resolvers, the pre-flight check and what is said about mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from composing import ABSENT, composed, own
from unisono.config import compose, config_dir, register_omegaconf_resolvers
from unisono.config.check import check_config
from unisono.config.entries import ENTRY_POINTS, EVALUATION, TRAINING
from unisono.config.faults import resolve_all
from unisono.config.preflight import compose_checked
from unisono.config.signatures import fits, parameters
from unisono.config.tree import NOT_GROUPS, hydra_in
from unisono.errors import UserError

__all__ = ["own"]  # a fixture
TREE = config_dir()


# -- every file of the tree -----------------------------------------------------------------------------------------


def every_file() -> list[tuple[str, list[str]]]:
    """For each YAML file of the tree: the entry point and the overrides that bring it in."""
    cases: list[tuple[str, list[str]]] = [(name, []) for name in (*ENTRY_POINTS, "common")]
    where = {
        "data": "data@train_dataloader.dataset.datasets",
        "dataloader": "dataloader@train_dataloader",
        "loss": "loss@loss_fn",
        "tracker": "tracker@trackers",
    }
    for path in sorted(TREE.rglob("*.yaml")):
        group, name = path.relative_to(TREE).parent.as_posix(), path.stem
        if group == "." or group in NOT_GROUPS or path == TREE / "model/unified.yaml":
            continue  # the last is what all sizes share, and has no widths of its own
        if group == "data/datasets":
            lists = [f"++train_dataloader.dataset.datasets=[${{data_dict.{name}.train}}]"]
            cases.append(("default", [*lists, f"++val_dataloader.dataset.datasets=[${{data_dict.{name}.val}}]"]))
        elif group == "data/examples":
            if name == "shards":
                lists = ["dataloader@train_dataloader=streamed", "+data@train_dataloader.datasets=examples/shards"]
                cases.append(("default", [*lists, "epoch_length=10"]))
            else:
                mine = f"${{data_dict.my_{name}.train}}"
                cases.append(("default", [f"+{group}@data_dict={name}", f"++val_dataloader.dataset.datasets=[{mine}]"]))
        elif group == "dataloader" and name == "streamed":
            continue  # it comes in with the example of its list
        elif group == "model/discriminators":
            cases.append(("default", ["model=vocoder", "experiment=vocoder", f"{group}={name}"]))
        elif group == "model/autoencoder" and name != "log_mel":
            continue  # they want weights, see below
        elif group == "model/content_encoder":
            continue  # composed by every model, at a package of the model's own
        elif group == "data":
            if name.endswith("test"):
                cases += [("inference", [f"data@datasets={name}"]), ("evaluate", [f"data@datasets={name}"])]
            else:
                cases.append(("default", ["data@data_dict=all" if name == "all" else f"{where[group]}={name}"]))
        else:
            cases.append(("default", [f"{where.get(group, group)}={name}"]))
    return cases


@pytest.mark.parametrize(("config_name", "overrides"), every_file(), ids=str)
def test_every_file_composes_and_passes_the_check(config_name: str, overrides: list[str]) -> None:
    import hydra

    with hydra_in(TREE):
        cfg = hydra.compose(config_name, overrides=overrides)
    entry = ENTRY_POINTS.get(config_name, EVALUATION)
    assert [str(fault) for fault in check_config(cfg, entry, with_files=False)] == []


@pytest.mark.parametrize(
    ("name", "setting"), [("log_mel_vocoder", "vocoder_weights"), ("oobleck", "weights"), ("codec", "pretrained")]
)
def test_an_autoencoder_without_its_weights_is_a_fault(name: str, setting: str) -> None:
    with pytest.raises(UserError, match=r"has a fault:\n  model\.autoencoder: \w+: nowhere"):
        composed(f"model/autoencoder={name}", f"model.autoencoder.{setting}=nowhere")


def test_files_for_accelerate_say_that_they_are_not_hydras() -> None:
    files = sorted((TREE / "accelerate").glob("*.yaml"))
    assert {"8gpus", "2cpus"} <= {path.stem for path in files}
    for path in files:
        first = path.read_text().splitlines()[0]
        assert "Accelerate" in first and "Hydra" in first, path


def test_the_defaults_list_is_as_documented() -> None:
    defaults = yaml.safe_load((TREE / "default.yaml").read_text())["defaults"]
    assert {"data@train_dataloader.dataset.datasets": "train"} in defaults
    cfg = compose("default")
    lists = yaml.safe_load((TREE / "data/train.yaml").read_text())
    assert len(cfg.train_dataloader.dataset.datasets) == len(lists)


# -- pointers and resolvers -----------------------------------------------------------------------------------------


def test_the_innermost_field_takes_effect_through_the_pointer() -> None:
    cfg = composed("+data_dict.vggsound_clip.test.max_samples=100", config_name="inference")
    assert [node.max_samples for node in cfg.datasets if "vggsound" in node.content] == [100]
    cfg = composed("+data_dict.mini_text_to_audio.train.max_samples=7", "train_dataloader.batch_size=2")
    assert [node.get("max_samples") for node in cfg.train_dataloader.dataset.datasets] == [7, None, None]


def test_an_override_of_a_set_that_no_list_points_to_is_pointed_out() -> None:
    *_, warnings = compose_checked("default", ["+data_dict.vggsound_clip.test.max_samples=1", ABSENT])
    assert len(warnings) == 1 and "no chosen list" in warnings[0]
    assert compose_checked("default", ["+data_dict.mini_text_to_audio.train.max_samples=20", ABSENT])[2] == []


def test_resolvers() -> None:
    register_omegaconf_resolvers()
    register_omegaconf_resolvers()
    cfg = OmegaConf.create(
        {
            "sums": ["${add:1,2,3}", "${sub:3,1}", "${mul:2,3,4}", "${div:3,2}", "${floordiv:7,2}", "${add:0.5,1}"],
            "lengths": ["${len:${sums}}", "${len:abc}"],
            "rate": "${latent_rate_hz:24000,480}",
            "data": "${project_path:data/mini}",
            "joined": "${concat:[a,b],[b,c],${sums}}",
            "speakers": "${mini_speakers:me}",
            "phonemes": '${phoneme_inventory:"\u0298"}',
            "one": {"train": {"path": "x/${split:}/y"}, "val": {"path": "${split:}"}, "other": "${one.val}"},
            "many": ["${one.train}"],
            "file": "${config_path:accelerate/2cpus.yaml}",
        }
    )
    assert list(cfg.sums) == [6, 2, 24, 1.5, 3, 1.5]
    assert list(cfg.lengths) == [6, 3] and cfg.rate == 50.0
    assert list(cfg.joined) == ["a", "b", "c", 6, 2, 24, 1.5, 3]
    assert list(cfg.speakers)[-1] == "me" and "en-us" in cfg.speakers and list(cfg.phonemes)[-1] == "\u0298"
    assert (cfg.one.train.path, cfg.one.other.path, cfg.many[0].path) == ("x/train/y", "val", "x/train/y")
    assert cfg.data == str(TREE.parent / "data/mini") and Path(cfg.file).is_file()


def test_a_resolver_of_the_users_own_survives() -> None:
    code = (
        "from omegaconf import OmegaConf\n"
        "OmegaConf.register_new_resolver('add', lambda a, b: 'mine')\n"
        "OmegaConf.register_new_resolver('lucky', lambda: 7)\n"
        "from unisono.config import compose\n"
        "cfg = compose('default', ['epochs=${lucky:}', '+optimizer.eps=${add:1,2}'])\n"
        "print(cfg.epochs, cfg.optimizer.eps)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["7", "mine"], done.stderr


# -- folders of the user's own --------------------------------------------------------------------------------------


def test_a_folder_outside_comes_first_and_the_projects_groups_stay_reachable(own: Path) -> None:
    cfg = composed("model/content_adapter=cross_attention_adapter", config_name="conf", config_path=own)
    assert cfg.model.backbone.dim == 384 and cfg.epochs == 3
    assert cfg.model.content_adapter._target_.endswith("CrossAttentionAdapter")


OWN_MODULE = """
import dataclasses, torch
from omegaconf import DictConfig
class MySGD(torch.optim.SGD): pass
class Frames(torch.utils.data.Dataset):
    durations_s = [1.0] * 50
    def __init__(self, n: int = None): self.n = n
    def __len__(self): return 50
class Child(Frames): pass
@dataclasses.dataclass
class Settings: a: int = 1
class Loss:
    def __init__(self, settings: Settings = None, device: torch.device = "cpu", **more): pass
class Lazy(torch.nn.Module):
    def __init__(self, inner: DictConfig, parts: torch.nn.ModuleDict = None): super().__init__()
class Peeks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.name = f"{torch.ones(3).sum():.1f}" + str(torch.equal(torch.ones(2), torch.ones(2)))
def schedule(optimizer, num_training_steps, power: float = 1): ...
def broken_code(): {}["gone"]
"""
LEGITIMATE = [
    ["optimizer._target_=own.MySGD", "~optimizer.betas", "~optimizer.fused", "+optimizer.momentum=0.9"],
    ["optimizer._target_=torch.optim.SGD", "~optimizer.betas"],
    ["lr_scheduler._target_=own.schedule", "~lr_scheduler.min_ratio"],
    ["lr_scheduler._target_=torch.optim.lr_scheduler.LinearLR", "~lr_scheduler.min_ratio"],
    ["~train_dataloader.dataset", "+train_dataloader.dataset={_target_: own.Child, n: null}"],
    ["~loss_fn", "+loss_fn={_target_: own.Loss, settings: {a: 2}, device: cuda, anything: 3}"],
    ["~model", "+model={_target_: own.Lazy, _recursive_: false, inner: {_target_: torch.nn.Linear, in_features: 2}}"],
    ["~model", "+model={_target_: own.Lazy, inner: {x: 1}, parts: {a: {_target_: own.Peeks}}}"],
    ["~loss_fn", "+loss_fn={_target_: own.broken_code}"],  # not the configuration's fault: it shows when it is built
    ["+table={a: 1e-3, b: 1e-2}", "+which=b", "optimizer.lr='${table.${which}}'"],
    ["+rate=0.1", "optimizer.lr='${oc.select:rate,0.2}'", "+tag=x", "hydra.job.name='${tag}'"],
    ["+x-note='written by hand'", "optimizer.betas=[0.9,0.95]", "trainer.max_grad_norm=1", "trainer.ema_decay=null"],
    [
        "+data_dict.mine={_target_: unisono.data.datasets.TextToAudioDataset, content: a.jsonl}",
        "++val_dataloader.dataset.datasets=['${data_dict.mine}']",
    ],
    ["+train_dataloader.pin_memory=true", "+train_dataloader.prefetch_factor=null"],
]


@pytest.mark.parametrize("overrides", LEGITIMATE, ids=str)
def test_no_false_alarm(overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert composed(*overrides).trainer.epochs == 20  # a fault would have been raised


def test_one_step_must_not_need_more_items_than_there_are(toy_corpus: Path) -> None:
    node = {
        "_target_": "unisono.data.datasets.TextToAudioDataset",
        "content": str(toy_corpus / "text_to_audio/content.jsonl"),
        "audio": str(toy_corpus / "text_to_audio/audio.jsonl"),
    }
    raw = compose("default", [ABSENT, "train_dataloader.batch_size=4"])
    raw.train_dataloader.dataset.datasets = [node]
    raw.val_dataloader.dataset.datasets = [node]
    assert check_config(raw, TRAINING, num_processes=2) == []
    (fault,) = check_config(raw, TRAINING, num_processes=4)
    assert "one step takes 16 items" in fault.message and "hold 8" in fault.message
    raw.train_dataloader.dataset.datasets[0].max_samples = 7
    assert "hold 7" in check_config(raw, TRAINING, num_processes=2)[0].message


def test_settings_that_are_read_by_name_are_read() -> None:
    assert composed("+foo=3", "epochs=${oc.select:foo,5}").epochs == 3
    assert composed("exp_dir=${hydra:runtime.cwd}/runs").exp_dir.endswith("/runs")


def test_a_misspelled_manifest_of_the_mini_corpus_is_found_once_the_corpus_is_there(data_root: Path) -> None:
    misspelled = f"data_dict.mini_text_to_audio.train.content='{data_root}/mini/text_to_adio/train/content.jsonl'"
    with pytest.raises(UserError, match=r"text_to_adio/train/content.jsonl does not exist"):
        compose_checked("default", [f"data_root='{data_root}'", misspelled])
    with pytest.raises(UserError, match=r"absent/mini/.* does not exist"):
        compose_checked("inference", [ABSENT])


def test_the_check_keeps_no_weights_and_reads_no_audio(monkeypatch: pytest.MonkeyPatch, toy_corpus: Path) -> None:
    import unisono.media.audio
    from unisono.config import rules

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("audio was opened")

    monkeypatch.setattr(unisono.media.audio.sf, "SoundFile", refuse)
    monkeypatch.setattr(unisono.media.audio.sf, "info", refuse)
    built: list[dict[str, Any]] = []
    original = rules.build

    def recorded(*args: Any) -> Any:
        result = original(*args)
        built.append(result[0])
        return result

    monkeypatch.setattr(rules, "build", recorded)
    cfg = compose("default", ["model=large", "train_dataloader.batch_size=2"])
    node = {"_target_": "unisono.data.datasets.TextToAudioDataset"}
    node |= {name: str(toy_corpus / f"text_to_audio/{name}.jsonl") for name in ("content", "audio")}
    cfg.train_dataloader.dataset.datasets = cfg.val_dataloader.dataset.datasets = [node]
    assert check_config(cfg, TRAINING) == []
    parameters = list(built[0]["model"].parameters())
    assert sum(p.numel() for p in parameters) > 0.9e9 and {p.device.type for p in parameters} == {"meta"}


# -- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True), (1.0, int, False), (True, int, False), (True, bool, True), (0, bool, False),
        (None, int, False), (None, int | None, True), ("a", int | str, True), ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False), ([1, 2, 3], tuple[int, ...], True), ([1, "a"], Sequence[int], False),
        ([1], list, True), ("abc", list, False), ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False),
        ("x", Path, True), (3, Path, False), ("x", Any, True), (3, "unknown", True),
        ({"_target_": "torch.nn.Linear"}, object, True), ({"_target_": "collections.OrderedDict"}, dict, True),
        ({"_target_": "pathlib.Path"}, dict, False),
    ],
)  # fmt: skip
def test_types(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


def test_a_class_that_passes_options_on_takes_those_of_its_base() -> None:
    from unisono.training.audio_generation_trainer import AudioGenerationTrainer

    class Ours(AudioGenerationTrainer):
        def __init__(self, depth: int = 1, **options: Any) -> None: ...

    class Theirs(dict):
        def __init__(self, depth: int = 1, **options: Any) -> None: ...

    known = parameters(Ours)
    assert {"depth", "val_sigmas", "save_last_k"} < set(known.named) and not known.open_ended
    assert "model" in known.required and "depth" not in known.required
    assert set(parameters(Theirs).named) == {"depth"} and parameters(Theirs).open_ended


def test_only_causes_are_reported_not_what_points_to_them() -> None:
    cfg = OmegaConf.create({"a": "${nope}", "b": "${a}", "c": ["${b}", 3], "d": {"e": "${c}"}, "f": "fine"})
    plain, faults = resolve_all(cfg)
    assert [fault.place for fault in faults] == ["a"] and plain["f"] == "fine" and plain["c"][1] == 3


def test_containers_that_hold_each_other_end_in_a_fault() -> None:
    cfg = OmegaConf.create({"a": {"b": "${c}"}, "c": {"d": "${a}"}})
    _, faults = resolve_all(cfg)
    assert faults and all("leads back to itself" in fault.message for fault in faults)


def test_what_debug_says_and_an_own_configuration_overrules_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [default, _self_]\nepoch_length: 1000\nexp_dir: experiments/mine\n")
    overrides = ["debug=cpu", "++data_root=absent", "exp_dir=elsewhere"]
    _, _, notes = compose_checked("mine", overrides, str(tmp_path), with_files=False)
    (told,) = (note for note in notes if note.startswith("debug=cpu"))
    assert "epoch_length=2" in told and "1000" in told
    _, _, notes = compose_checked("mine", [*overrides, "epoch_length=2"], str(tmp_path), with_files=False)
    assert not any(note.startswith("debug=cpu") for note in notes)
