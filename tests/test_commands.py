"""The documented commands, as users type them: from other folders, with configs of their own, with mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import SAMPLE_RATE
from unisono.config import compose
from unisono.data.manifest import write_jsonl
from unisono.data.mini.films import write_video
from unisono.media.audio import write_audio
from unisono.training.run import run_training

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch"]


def call(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "HF_HOME": str(cwd / "hf"), **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_training_with_nothing_prepared_builds_the_mini_corpus(tmp_path: Path) -> None:
    done = call(*LAUNCH, ROOT / "train.py", "debug=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "data/mini/corpus.json").is_file()
    assert (tmp_path / "experiments/debug/model/model.safetensors").is_file()
    config = (tmp_path / "experiments/debug/config.yaml").read_text()
    assert "data/mini/text_to_speech/train" in config and "${" not in config


@pytest.mark.slow
def test_a_config_folder_of_ones_own(tmp_path: Path, data_root: Path) -> None:
    folder = tmp_path / "path/to/config/dir"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "optimizer/sgd.yaml").write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 0.5\n")
    (folder / "conf.yaml").write_text(
        "defaults: [default, {override /debug: cpu}, {override /optimizer: sgd}, _self_]\n"
        f"data_root: {data_root}\nexp_dir: own run\nmodel: {{cfg_drop_ratio: 0.25}}\n"
    )
    arguments = ["--config-path", "path/to/config/dir", "--config-name", "conf"]
    done = call(*LAUNCH, ROOT / "train.py", *arguments, "model/backbone=input_fusion_dit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = (tmp_path / "own run/config.yaml").read_text()
    assert "torch.optim.SGD" in saved and "InputFusionDiT" in saved and "cfg_drop_ratio: 0.25" in saved


@pytest.mark.slow
def test_the_prefix_adapter_is_chosen_by_one_override(tmp_path: Path, data_root: Path) -> None:
    tiny = ["debug=cpu", f"data_root='{data_root}'", "exp_dir=run"]
    done = call(*LAUNCH, ROOT / "train.py", "model/content_adapter=prefix_adapter", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "PrefixAdapter" in (tmp_path / "run/model/config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "used"),
    [
        ("model/backbone=layer_fusion_dit", "LayerFusionDiT"),
        ("model/backbone=input_fusion_dit", "InputFusionDiT"),
        ("model/content_adapter=prefix_adapter", "PrefixAdapter"),
        ("model/content_adapter=cross_attention_adapter", "CrossAttentionAdapter"),
        ("model/objective=flow_matching", "FlowMatching"),
        ("model/objective=diffusion", "Diffusion"),
        ("lr_scheduler=constant", None),
        ("tracker@trackers=none", None),
    ],
)
def test_each_part_trains_for_a_few_steps(override: str, used: str | None, tmp_path: Path, data_root: Path) -> None:
    cfg = compose("default", ["debug=cpu", f"data_root='{data_root}'", f"exp_dir='{tmp_path}'", override])
    model = run_training(cfg)
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [record["step"] for record in losses] == [1, 2, 2] and losses[0]["train/loss"] != losses[1]["train/loss"]
    assert used is None or used in (model / "config.yaml").read_text()
    assert (tmp_path / "tensorboard").exists() == (override != "tracker@trackers=none")


@pytest.mark.slow
def test_inference_on_the_first_hundred_clips_of_a_set(tmp_path: Path, data_root: Path) -> None:
    cfg = compose("default", ["debug=cpu", f"data_root='{data_root}'", f"exp_dir='{tmp_path}/experiments/default'"])
    run_training(cfg)
    shutil.copytree(data_root, tmp_path / "data")
    folder = tmp_path / "data/vggsound/video_to_audio/test"
    names = [f"clip_{i:03d}" for i in range(103)]
    write_jsonl(folder / "content.jsonl", [{"audio_id": name, "video": "clip.mp4", "caption": name} for name in names])
    write_jsonl(folder / "audio.jsonl", [{"audio_id": name, "audio": "clip.wav"} for name in names])
    write_audio(folder / "clip.wav", [0.1] * (SAMPLE_RATE // 5), SAMPLE_RATE)
    write_video(folder / "clip.mp4", np.zeros((5, 64, 64, 3), np.uint8), 25)
    command = [sys.executable, ROOT / "inference.py", "+data_dict.vggsound_clip.test.max_samples=100"]
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = tmp_path / "experiments/default/inference/manifest.jsonl"
    made = [json.loads(line) for line in manifest.open()]
    assert len(made) == 100 + 9 and sum(record["audio_id"].startswith("clip_") for record in made) == 100
    assert {record["solver"] for record in made} == {"euler"} and {record["sway"] for record in made} == {-0.5}
    assert "max_samples: 100" in manifest.with_name("config.yaml").read_text()

    # A setting that the model's objective refuses costs nothing of what was made before.
    done = call(*command, "generation.solver=eulr", cwd=tmp_path)
    assert done.returncode == 1 and "did you mean euler" in done.stderr
    assert [json.loads(line) for line in manifest.open()] == made

    # Where the set was not prepared it is left out, and that is said.
    shutil.rmtree(folder)
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0 and "this data set is left out" in done.stdout + done.stderr


def test_a_mistake_ends_with_one_message_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("defaults: [default, _self_]\nseed: 1\nseed: 2\n")
    cases = {
        ("train.py", "optimzer.lr=1"): "did you mean optimizer.lr",
        ("train.py", "seed=abc", "+nothing=1"): "has 2 faults",
        ("train.py", "--cfg", "job", "--resolve", "seed=${sed}"): "sed",
        ("train.py", "--config-path", ".", "--config-name", "bad"): "bad.yaml:3",
        ("train.py", "--config-path", "nowhere"): "no such folder",
        ("train.py", "--config-path="): "--config-path is empty",
        ("train.py", "--cfg", "job", "--resolve", "seed=${seed}"): "seed: ${seed} leads back to itself",
        ("train.py", "--multirun", "optimizer.lr=-1,-2", "exp_dir=sweep"): "Invalid learning rate: -2",
        ("inference.py", "data@datasets=tset"): "did you mean test",
        ("evaluate.py", "+output=x"): "did you mean output_dir",
    }
    for (script, *arguments), expected in cases.items():
        done = call(sys.executable, ROOT / script, *arguments, cwd=tmp_path)
        assert done.returncode == 1 and expected in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr and "error: " in done.stderr, done.stderr
        assert done.stderr.count("error: ") == (2 if "--multirun" in arguments else 1), done.stderr
    full = call(sys.executable, ROOT / "train.py", "optimzer.lr=1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert full.returncode == 1 and "Traceback" in full.stderr


def test_an_error_in_code_of_the_users_own_shows_that_code_and_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def data(**options):\n    raise KeyError('in my own code')\n")
    overrides = ["++train_dataloader={_target_: mine.data}", "data_root=none", "exp_dir=run"]
    done = call(sys.executable, ROOT / "train.py", *overrides, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert 'mine.py", line 2' in done.stderr and "in my own code" in done.stderr
    assert "hydra/_internal" not in done.stderr and "unisono/config/entry.py" not in done.stderr


def test_faults_are_printed_by_the_first_process_only(tmp_path: Path) -> None:
    faults = [call(sys.executable, ROOT / "train.py", "seed=abc", cwd=tmp_path, RANK=rank) for rank in ("0", "1")]
    assert [done.returncode for done in faults] == [1, 1]
    assert "seed: is 'abc'" in faults[0].stderr and faults[1].stderr == ""


@pytest.mark.slow
def test_a_sweep_over_two_processes_ends_when_a_job_fails_in_one(tmp_path: Path, data_root: Path) -> None:
    launch = [*LAUNCH, "--config_file", ROOT / "configs/accelerate/2cpus.yaml", ROOT / "train.py", "--multirun"]
    # Only the first process reads the audio for both, and finds what is wrong.
    broken = tmp_path / "broken"
    shutil.copytree(data_root, broken)
    first = broken / "mini/text_to_audio/audio/t2a_train_00000.flac"
    first.write_bytes(first.read_bytes()[:200])
    arguments = ["debug=cpu", f"data_root='{broken}'", "exp_dir=sweep", "seed=1,2"]
    done = call(*launch, *arguments, cwd=tmp_path)
    assert done.returncode != 0 and first.name in done.stderr, done.stderr[-2000:]
