"""The ninth task of docs/add_a_task.md trains by its documented command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import SAMPLE_RATE, tone
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.media.audio import write_audio
from unisono.tasks import TASKS, Task, register_task, task_index
from unisono.training.losses import AudioGenerationLoss

ROOT = Path(__file__).parents[1]


def mixtures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    content, audio = [], []
    for number in range(8):
        low, high = tone(200.0 + 20 * number, 1.0, rng), tone(2000.0 + 200 * number, 1.0, rng)
        write_audio(folder / f"mixture {number}.wav", 0.5 * (low + high), SAMPLE_RATE)
        for name, waveform in (("low", low), ("high", high)):
            write_audio(folder / f"{name} {number}.wav", 0.5 * waveform, SAMPLE_RATE)
            audio_id = f"{name}{number}"
            caption = f"the {name} tone"
            content.append({"audio_id": audio_id, "mixture": f"mixture {number}.wav", "caption": caption})
            audio.append({"audio_id": audio_id, "audio": f"{name} {number}.wav"})
    write_jsonl(folder / "content.jsonl", content)
    write_jsonl(folder / "audio.jsonl", audio)


@pytest.mark.slow
def test_the_ninth_task_trains_by_its_documented_command(tmp_path: Path) -> None:
    mixtures(tmp_path / "mixtures")
    text = (ROOT / "docs/add_a_task.md").read_text()
    command = re.findall(r"```sh\n(python examples.*?)```", text, flags=re.S)[0].replace("\\\n", " ").split()
    command = [word.replace("=mixtures/", f"={tmp_path}/mixtures/") for word in command]
    options = ["debug=cpu", f"exp_dir={tmp_path / 'run'}", "train_dataloader.batch_size=4"]
    done = subprocess.run(
        [sys.executable, *command[1:], *options], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("train/loss/sound_extraction" in line for line in lines)
    assert any("val/loss/sound_extraction" in line for line in lines)


def test_a_row_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.tasks.TASKS", dict(TASKS))
    row = Task("humming", "hum", "audio", ("Hum.",))
    assert register_task(row) is row and register_task(Task("humming", "hum", "audio", ("Hum.",))) is row
    assert task_index("humming") == len(TASKS)
    for taken in (Task("humming", "hm", "audio", ("Hum.",)), Task("whistling", "tts", "audio", ("Whistle.",))):
        with pytest.raises(UserError, match="is taken by"):
            register_task(taken)
    with pytest.raises(UserError, match="no instructions"):
        register_task(Task("silence", "x", "audio", ()))


def test_a_task_is_weighed_in_the_loss() -> None:
    import torch

    from unisono.models.outputs import TrainingOutput

    error = torch.tensor([1.0, 2.0, 4.0])
    index = torch.tensor([task_index(name) for name in ("text_to_audio", "text_to_speech", "text_to_speech")])
    prediction = error.sqrt()[:, None, None].expand(3, 5, 2)
    output = TrainingOutput(
        prediction, torch.zeros_like(prediction), torch.ones(3, 5).bool(), torch.zeros(3), [], [], index
    )
    assert float(AudioGenerationLoss()(output).total) == pytest.approx(7 / 3)
    assert float(AudioGenerationLoss(task_weights={"text_to_speech": 2})(output).total) == pytest.approx(13 / 3)
    assert float(AudioGenerationLoss(task_weights={"text_to_speech": 0})(output).total) == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="unknown task"):
        AudioGenerationLoss(task_weights={"speech": 1})
    with pytest.raises(UserError, match=r"text_to_speech is -1"):
        AudioGenerationLoss(task_weights={"text_to_speech": -1})
