"""The commands of a user who caches: the same losses, a message where the cache lacks something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_sources import save_text_encoder, write_video
from unisono.data.manifest import write_jsonl
from unisono.media.audio import audio_info

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
UNISONO = [sys.executable, "-m", "unisono.cli"]
TRAIN = [sys.executable, "train.py"]


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics(exp_dir: Path) -> list[dict[str, float]]:
    """What was logged, without what depends on the clock."""
    lines = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "items_per_s" not in key} for line in lines]


def test_training_from_the_cache_prints_the_same_losses(data_root: Path, tmp_path: Path) -> None:
    common = ["debug=cpu", f"data_root={data_root}", "epoch_length=5", "trainer.val_every_n_steps=5"]
    cache = f"feature_cache={tmp_path / 'a cache'}"
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    run(*TRAIN, *common, f"exp_dir={plain}")
    # Nothing is cached yet: training says so before it starts, and with what command to mend it.
    said = run(*TRAIN, *common, f"exp_dir={cached}", cache, code=1)
    assert "unisono cache" in said and "Traceback" not in said
    table = run(*UNISONO, "cache", *common, cache)
    assert "latent" in table
    run(*TRAIN, *common, f"exp_dir={cached}", cache)
    assert len(metrics(plain)) > 5 and metrics(plain) == metrics(cached)
    # Two workers and two processes of caching change nothing either.
    both = tmp_path / "workers"
    run(*TRAIN, *common, f"exp_dir={both}", cache, "train_dataloader.num_workers=2")
    assert metrics(both) == metrics(plain)


def test_all_that_is_frozen_comes_from_the_cache(data_root: Path, tmp_path: Path) -> None:
    """Captions and instructions by T5, voices of reference recordings, features of pictures: the same losses."""
    mini, own = data_root / "mini", tmp_path / "own data"
    sets = [
        {"_target_": "unisono.data.datasets.TextToAudioDataset", **manifests(mini / "text_to_audio/val")},
        {
            "_target_": "unisono.data.datasets.TextToSpeechDataset",
            **manifests(speakers_as_recordings(mini / "text_to_speech/val", own)),
            "speaker_encoder": "statistics",
        },
        {
            "_target_": "unisono.data.datasets.VideoToAudioDataset",
            **manifests(silent_films(mini / "text_to_audio/val", tmp_path / "films")),
            "frame_encoder": "luminance",
        },
    ]
    t5 = save_text_encoder(tmp_path / "t5")
    common = [
        "debug=cpu", f"data_root={data_root}", "epoch_length=3",
        "trainer.val_every_n_steps=3", "trainer.log_every_n_steps=1",
        f"train_dataloader.dataset.datasets={as_override(sets)}",
        f"val_dataloader.dataset.datasets={as_override(sets)}",
        "model/content_encoder@model.content_encoders.text=pretrained_text",
        "model/content_encoder@model.instruction_encoder=pretrained_instruction",
        f"model.content_encoders.text.pretrained='{t5}'", f"model.instruction_encoder.pretrained='{t5}'",
        "model.content_encoders.phoneme.speaker_embedding_dim=42", "model.content_encoders.video.feature_dim=128",
    ]  # fmt: skip
    plain, cached, cache = tmp_path / "plain", tmp_path / "cached", tmp_path / "a cache"
    run(*TRAIN, *common, f"exp_dir={plain}")
    table = run(*UNISONO, "cache", *common, f"feature_cache={cache}")
    for kind in ("latents", "texts", "speakers", "video"):
        assert kind in table and list(cache.glob(f"{kind}/*/shard-*.safetensors")), kind
    said = run(*TRAIN, *common, f"exp_dir={cached}", f"feature_cache={cache}")
    assert all(f"{kind} of" in said for kind in ("latents", "texts", "speakers", "video"))
    assert len(metrics(plain)) == len(metrics(cached)) > 3
    for one, other in zip(metrics(plain), metrics(cached), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():  # a padded batch of texts differs from one text by rounding
            assert other[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


def as_override(nodes: list[dict[str, str]]) -> str:
    """A list of nodes as Hydra's command line has it: its keys are not quoted."""
    items = ("{" + ",".join(f"{key}:{json.dumps(value)}" for key, value in node.items()) + "}" for node in nodes)
    return "[" + ",".join(items) + "]"


def manifests(folder: Path) -> dict[str, str]:
    return {"content": str(folder / "content.jsonl"), "audio": str(folder / "audio.jsonl")}


def silent_films(source: Path, folder: Path, count: int = 4) -> Path:
    """Pictures of noise that last as long as some of the sounds, without captions."""
    audio = [json.loads(line) for line in (source / "audio.jsonl").read_text().splitlines()[:count]]
    content, rng = [], np.random.default_rng(0)
    folder.mkdir()
    for line in audio:
        line["audio"] = str((source / line["audio"]).resolve())
        shape = (round(25 * audio_info(line["audio"]).duration_s), 64, 64, 3)
        film = write_video(folder / f"{line['audio_id']}.mp4", rng.integers(0, 255, shape).astype(np.uint8))
        content.append({"audio_id": line["audio_id"], "video": str(film)})
    write_jsonl(folder / "content.jsonl", content)
    write_jsonl(folder / "audio.jsonl", audio)
    return folder


def speakers_as_recordings(source: Path, folder: Path) -> Path:
    """The manifests with a recording of the speaker in place of the name."""
    audio = [json.loads(line) for line in (source / "audio.jsonl").read_text().splitlines()]
    for line in audio:
        line["audio"] = str((source / line["audio"]).resolve())
    content = [json.loads(line) for line in (source / "content.jsonl").read_text().splitlines()]
    for number, line in enumerate(content):
        del line["speaker"]
        line["speaker_audio"] = audio[number // 2]["audio"]
    write_jsonl(folder / "content.jsonl", content)
    write_jsonl(folder / "audio.jsonl", audio)
    return folder
