"""Mistakes on the command line and in YAML: one message that names value, place and the nearest valid name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from composing import composed, own, refusal

__all__ = ["own"]  # a fixture


def test_settings_of_generation_per_task_are_no_mistake() -> None:
    cfg = composed("license=mit", "+generation.tasks.text_to_speech={guidance_scale: 3.0}")
    assert cfg.generation.tasks.text_to_speech.guidance_scale == 3.0
    assert "generation.default.steps" in refusal("+generation.default.steps=3")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("defaults: [defalt]\n", ["no config 'defalt'", "did you mean default"]),
        ("defaults: [default, {modle: tiny}]\n", ["no config group 'modle'", "did you mean model"]),
        ("defaults: [default, {override /model: tinny}]\n", ["`model` has no 'tinny'", "did you mean tiny"]),
        ("defaults: [default, _self_]\nepochs: [1\n", ["bad.yaml:", "not valid YAML"]),
        ("defaults: [default, _self_]\nseed: 1\nseed: 2\n", ["bad.yaml:3", "duplicate key"]),
        ("defaults: [default, _self_]\nepoch_lenght: 3\n", ["epoch_lenght", "did you mean epoch_length"]),
        ("defaults: [default, _self_]\noptimizer: {lrr: 3}\n", ["optimizer.lrr", "did you mean lr"]),
        ("defaults: [default, _self_]\nseed: ${sed}\n", ["seed: ${sed} points to nothing", "did you mean seed"]),
        ("epochs: 3\n", ["model: is missing", "bad.yaml", "e.g. model: {_target_"]),
        ("defaults: [default, _self_]\nmodel: null\n", ["model: is missing"]),
        ("- a\n- b\n", ["must be a DictConfig"]),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_named(content: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    message = refusal(config_name="bad", config_path=tmp_path)
    assert all(word in message for word in words), message


def test_a_config_or_folder_that_does_not_exist_is_named(own: Path) -> None:
    assert "did you mean conf" in refusal(config_name="cnof", config_path=own)
    assert "is a file; folder and name are given apart" in refusal(config_path=own / "conf.yaml")
    assert "did you mean" in refusal(config_path=own.parent / "my confgis") and "my configs" in refusal(
        config_path=own.parent / "my confgis"
    )


# -- mistakes on the command line -----------------------------------------------------------------------------------

MISTAKES: list[tuple[Sequence[str], Sequence[str]]] = [
    (["optimzer.lr=1"], ["'optimzer.lr'", "did you mean optimizer.lr"]),
    (["lr=1"], ["did you mean optimizer.lr?"]),
    (["batch_size=4"], ["train_dataloader.batch_size or val_dataloader.batch_size"]),
    (["optimizer.eps=1"], ["torch.optim.AdamW takes it: write +optimizer.eps=VALUE"]),
    (["model/content_adpater=x"], ["did you mean model/content_adapter"]),
    (["model.content_adapter=prefix_adapter"], ["model/content_adapter=prefix_adapter"]),
    (["modl=tiny"], ["did you mean model?"]),
    (["model=tinny"], ["`model` has no 'tinny'", "did you mean tiny?"]),
    (["loss=x"], ["did you mean loss@loss_fn?"]),
    (["accelerate=8gpus"], ["accelerate launch --config_file"]),
    (["+accelerate=8gpus"], ["accelerate launch --config_file"]),
    (["experiment=dmeo"], ["did you mean demo"]),
    (["data@train_dataloader.dataset.datasets=tran"], ["did you mean train"]),
    (["data@nowhere=train"], ["data@train_dataloader.dataset.datasets"]),
    (["foo"], ["'foo' has no value"]),
    (["seed=[1,2"], ["cannot be read", "quote"]),
    (["seed=1,2"], ["--multirun"]),
    (["+seed=3"], ["already at 'seed'"]),
    (["~sed"], ["did you mean seed"]),
    (["hydra.run.dri=x"], ["did you mean hydra.run.dir"]),
    (["seed=abc"], ["seed: is 'abc'", "wants int"]),
    (["epochs=1.5"], ["epochs: is 1.5", "wants int"]),
    (["trainer.max_grad_norm=much"], ["trainer.max_grad_norm: is 'much'", "wants float or null"]),
    (["trainer.mixed_precision=bf15"], ["did you mean bf16"]),
    (["model.objective.sigma_sampling=logitnormal"], ["did you mean logit_normal"]),
    (["optimizer.betas=3"], ["optimizer.betas: is 3"]),
    (["optimizer.betas=[0.9]"], ["optimizer.betas"]),
    (["optimizer.lr=-1"], ["optimizer: Invalid learning rate"]),
    (["optimizer._target_=torch.optim.AdamX"], ["torch.optim has no 'AdamX'", "Adam"]),
    (["optimizer._target_=torch.optm.AdamW"], ["did you mean optim"]),
    (["optimizer._target_=trch.optim.AdamW"], ["no package 'trch'"]),
    (["optimizer._target_=torch"], ["not a class or function"]),
    (["optimizer._target_=3"], ["not a dotted name"]),
    (["optimizer._partial_=false"], ["optimizer: is called by the trainer", "_partial_: true"]),
    (["+optimizer._partail_=true"], ["_partial_"]),
    (["~optimizer"], ["optimizer: is missing", "default.yaml", "_target_: torch.optim.AdamW"]),
    (["~loss_fn._target_"], ["loss_fn: lacks _target_"]),
    (["++train_dataloader=null"], ["train_dataloader: is missing"]),
    (["optimizer.lr=${nope.x}"], ["optimizer.lr: ${nope.x} points to nothing"]),
    (["optimizer.lr=${optimzer.weight_decay}"], ["did you mean optimizer.weight_decay"]),
    (["seed=${seed}"], ["seed: ${seed} leads back to itself"]),
    (["seed=${epochs}", "epochs=${seed}"], ["seed: ${epochs} leads back", "epochs: ${seed} leads back"]),
    (["model.backbone.dim=${model.backbone}"], ["model.backbone.dim", "leads back"]),
    (["seed=${ad:1,2}"], ["there is no resolver 'ad'; did you mean add"]),
    (["optimizer.lr=${div:1,0}"], ["division by zero"]),
    (["optimizer.lr=${oc.env:UNISONO_NOT_SET}"], ["UNISONO_NOT_SET"]),
    (["model.backbone.dim=???"], ["model.backbone.dim: has no value yet"]),
    (["+data_dict.vggsound_clp.test.max_samples=1"], ["no data set 'vggsound_clp'; did you mean vggsound_clip"]),
    (["+data_dict.vggsound_clip.tset.max_samples=1"], ["did you mean test"]),
    (["+data_dict.vggsound_clip.test.max_sample=1"], ["did you mean max_samples"]),
    (["data@data_dict=train"], ["data_dict"]),
    (["++train_dataloader.dataset.datasets=[]"], ["train_dataloader.dataset.datasets: is []"]),
    (["++train_dataloader.dataset.datasets=[mini]"], ["is 'mini', not a data set"]),
    (["+epoch_lenght=3"], ["nothing reads this setting; did you mean epoch_length"]),
    (["+warmup_params.warmup_stepz=3"], ["did you mean warmup_steps"]),
    (["train_dataloader.batch_size=0"], ["batch holds at least 1"]),
    (["model/objective=diffusion", "model.backbone.latent_dim=99"], ["backbone.latent_dim is 99"]),
    (["model/objective=diffusion", "~model.content_encoders.audio"], ["speech_enhancement has 'audio' content"]),
    (["model/objective=diffusion", "model.objective.num_train_timesteps=0"], ["model.objective: Diffusion"]),
    (["hop_samples=abc"], ["hop_samples: is 'abc'"]),
    (["trainer.gradient_accumulation_steps=0"], ["trainer.gradient_accumulation_steps: is 0"]),
    (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps: is 0; it must be at least 1"]),
    (["trainer.ema_decay=1.5"], ["trainer.ema_decay: is 1.5"]),
    (["epochs=0"], ["trainer.epochs: is 0"]),
    (["warmup_params.warmup_steps=-5"], ["warm-up cannot be negative"]),
    (["warmup_params.warmup_epochs=1"], ["give warmup_steps or warmup_epochs"]),
    (["val_dataloader.batch_size=0"], ["val_dataloader.batch_size: is 0"]),
    (["data@val_dataloader.dataset.datasets=test"], ["has if_present, which lists for training must not"]),
    (["model.backbone.num_layers=0"], ["model.backbone: LayerFusionDiT", "num_layers (0)"]),
    (["+data_dict.mini_text_to_audio.train.max_samples=0"], ["datasets[0].max_samples: is 0"]),
    (["+train_dataloader.num_worker=3"], ["did you mean num_workers"]),
    (["+model._partial_=true"], ["model: the object itself is needed; remove _partial_"]),
    (["lr_scheduler._partial_=false"], ["lr_scheduler: is called by the trainer", "_partial_: true"]),
    (["~lr_scheduler.min_ratio", "lr_scheduler._target_=torch.optim.lr_scheduler.StepLR"], ["needs 'step_size'"]),
    (["trainer._target_=unisono.training.trainer.Trainer"], ["trainer._target_: Trainer is abstract"]),
    (["+model._convert_=nonsense"], ["choose one of none, partial, object, all"]),
    (["seed=-1"], ["trainer.seed: is -1"]),
    (["speakers=abc"], ["speakers: is 'abc'", "Sequence[str]"]),
    (["model={a:1}"], ["'model.a' is not in the configuration"]),
    (["SEED=3"], ["did you mean seed"]),
    (["batchsize=3"], ["did you mean train_dataloader.batch_size"]),
    (["model=null"], ["a group takes the name of a file"]),
    (["~seed"], ["${seed} points to nothing"]),
    (["train_dataloader.dataset.datasets.0.max_samples=3"], ["+data_dict.NAME.SPLIT.max_samples=VALUE"]),
    (["model.backbone=3"], ["model.backbone: is 3", "DiffusionTransformer"]),
    (["model.backbone.num_heads=5"], ["model.backbone: LayerFusionDiT", "num_heads (5)"]),
    (["model.autoencoder.n_mels=80"], ["a list of 100", "80 channels"]),
    (["model.backbone.latent_dim=99"], ["backbone.latent_dim is 99, but autoencoder.latent_dim is 100"]),
    (["model.backbone.frames_dim=64"], ["backbone.frames_dim is 64, but content_adapter.dim is 128"]),
    (["model.content_encoders.text.dim=64"], ["content_encoders.text.dim is 64, but content_adapter.dim is 128"]),
    (["model.instruction_encoder.dim=64"], ["content_adapter.instruction_dim is 128"]),
    (["model.autoencoder.sample_rate=16000"], ["sample_rate: is 24000, the model's autoencoder has 16000"]),
    (["~model.content_encoders.audio"], ["speech_enhancement has 'audio' content", "only text, phoneme"]),
    (["collate_fn.speakers=[x]"], ["collate_fn.speakers: differs from model.content_encoders.phoneme.speakers"]),
    (["data@train_dataloader.dataset.datasets=debian_train"], ["absent/debian/", "does not exist", "unisono prepare"]),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES, ids=str)
def test_a_mistake_is_named_with_the_nearest_valid_name(overrides: list[str], words: list[str]) -> None:
    message = refusal(*overrides)
    assert all(word in message for word in words), message
    assert "Traceback" not in message and len(message) < 1800, message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"defaults: [default, _self_]\nexp_dir: \xff\xfe\n", ["odd.yaml", "not UTF-8"]),
        (b"defaults: default\n", ["defaults list"]),
        (b"defaults: [odd]\n", ["leads back to its own file"]),
        (b"defaults: [default, _self_]\na: &a {b: *a}\n", ["a YAML alias inside its anchor"]),
        (b"defaults: [default, _self_]\nexp_dir: ${seed\n", ["exp_dir", "${seed"]),
    ],
)
def test_a_file_that_is_no_config_is_told_from_an_accident(content: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    message = refusal(config_name="odd", config_path=tmp_path)
    assert all(word in message for word in words) and len(message) < 500, message


def test_all_faults_are_reported_at_once_and_each_once() -> None:
    message = refusal(
        "seed=abc", "+optimizer.lrr=2", "~loss_fn._target_", "model.backbone.num_heads=5", "trainer.save_last_k=x",
        "+nothing=1", "optimizer.lr=${x.y}", "train_dataloader._target_=no.such", "++val_dataloader.batch_size=0.5",
    )  # fmt: skip
    places = {line.split(":")[0].strip() for line in message.splitlines()[1:]}
    assert len(places) == len(message.splitlines()) - 1 == 9, message
    assert places > {"seed", "optimizer.lrr", "loss_fn", "model.backbone", "trainer.save_last_k", "nothing"}
    assert places > {"optimizer.lr", "train_dataloader._target_", "val_dataloader.batch_size"}


def test_one_wrong_setting_is_one_fault() -> None:
    for override in ("hop_samples=abc", "speakers=${nope}", "seed=abc", "sample_rate=null"):
        assert len(refusal(override).splitlines()) == 2, refusal(override)


def test_inference_is_checked_too() -> None:
    assert "generation.num_steps: is 'many'" in refusal("generation.num_steps=many", config_name="inference")
    assert "num_stepz" in refusal("+generation.num_stepz=3", config_name="inference")
    assert "num_steps is 0" in refusal("generation.num_steps=0", config_name="inference")
    assert "device is 'cudaa'" in refusal("device=cudaa", config_name="inference")
    assert "dtype: is 'bf16'" in refusal("dtype=bf16", config_name="inference")
    assert "batch_size: is 0" in refusal("batch_size=0", config_name="inference")
    assert composed(config_name="evaluate").output_dir.endswith("evaluation")
