"""What an autoencoder alone loses: `unisono reconstruct`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from unisono.cli import app
from unisono.errors import UserError
from unisono.evaluation.reconstruction import reconstruction_report
from unisono.media.audio import read_audio, write_audio
from unisono.models.autoencoder import Autoencoder
from unisono.models.autoencoder.configured import configured_autoencoder

METRICS = ["stft_distance", "mel_distance_db", "lsd", "si_sdr_db"]


class Scaled(Autoencoder):
    """Keeps every sample, but for a factor and some noise."""

    sample_rate, hop_samples, latent_dim = 24_000, 480, 480

    def __init__(self, gain: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.gain, self.noise = gain, noise

    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        padded = torch.nn.functional.pad(waveform, (0, -waveform.shape[1] % 480))
        return padded.reshape(len(padded), -1, 480), (lengths + 479) // 480

    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sound = latent.flatten(1)
        return self.gain * sound + self.noise * torch.randn(sound.shape, generator=generator)

    def settings(self) -> dict[str, Any]:
        return {"gain": self.gain, "noise": self.noise}


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    time_s = np.arange(12_345) / 24_000
    paths = []
    for folder, frequency_hz in (("a", 300.0), ("b", 700.0)):
        sound = 0.5 * np.sin(2 * np.pi * frequency_hz * time_s) + 0.01 * rng.standard_normal(len(time_s))
        paths.append(write_audio(tmp_path / f"the {folder}" / "same name.wav", sound, 24_000))
    return paths


def test_a_perfect_autoencoder_loses_nothing(recordings: list[Path], tmp_path: Path) -> None:
    report = reconstruction_report(Scaled(), recordings, tmp_path / "out")
    assert report.mean("stft_distance") == pytest.approx(0, abs=1e-4)
    assert report.mean("mel_distance_db") == 0
    assert report.mean("lsd") == pytest.approx(0, abs=1e-6)
    assert report.mean("si_sdr_db") > 100
    for path, name in zip(recordings, ["same name.wav", "same name_2.wav"], strict=True):
        assert np.array_equal(read_audio(tmp_path / "out" / name, 24_000), read_audio(path, 24_000))


def test_worse_autoencoders_get_worse_numbers(recordings: list[Path]) -> None:
    better, worse = (reconstruction_report(Scaled(noise=noise), recordings) for noise in (0.003, 0.03))
    assert all(worse.mean(name) > better.mean(name) for name in METRICS[:3])
    assert worse.mean("si_sdr_db") < better.mean("si_sdr_db")
    quieter = reconstruction_report(Scaled(gain=0.5), recordings)
    assert quieter.mean("si_sdr_db") > 100  # deaf to level
    assert quieter.mean("mel_distance_db") == pytest.approx(6.02, abs=0.3)


def test_the_report_says_how_its_numbers_were_made(recordings: list[Path], tmp_path: Path) -> None:
    report = reconstruction_report(Scaled(gain=4.0), recordings, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert written["autoencoder"]["fingerprint"] == Scaled(gain=4.0).fingerprint
    assert list(written["metrics"]) == list(written["mean"]) == METRICS
    assert all(written["metrics"][name]["parameters"] for name in METRICS)
    values = [file["outcomes"]["lsd"]["value"] for file in written["files"]]
    assert written["mean"]["lsd"] == pytest.approx(np.mean(values))
    assert [file["source"] for file in written["files"]] == [str(path) for path in recordings]
    assert written["files"][0]["peak"] > 1.9  # the file itself is scaled to 1
    assert len(report.table().splitlines()) == 4


def test_what_cannot_be_measured_is_said_and_left_out_of_the_mean(recordings: list[Path], tmp_path: Path) -> None:
    silent = write_audio(tmp_path / "silent.wav", np.zeros(12_000), 24_000)
    report = reconstruction_report(Scaled(noise=0.01), [*recordings, silent])
    assert report.mean("lsd") == reconstruction_report(Scaled(noise=0.01), recordings).mean("lsd")
    assert report.as_json()["files_with_a_value"] == dict.fromkeys(METRICS, 2)
    assert "LSD: the recording is silent" in report.table()
    broken = reconstruction_report(Scaled(gain=float("nan")), recordings)
    assert broken.mean("lsd") is None and "NaN" in broken.table()


def test_bad_input_is_refused(recordings: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings"):
        reconstruction_report(Scaled(), [])
    with pytest.raises(UserError, match="no such audio file"):
        reconstruction_report(Scaled(), [tmp_path / "absent.wav"])
    before = recordings[0].read_bytes()
    with pytest.raises(UserError, match="take the place of a recording"):
        reconstruction_report(Scaled(), recordings, recordings[0].parent)
    assert recordings[0].read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model/autoencoder=oobleck"], r"model\.autoencoder\.weights"),
        (["model/autoencoder=oobleck", "model.autoencoder.weights=null"], "weights is null"),
        (["model/autoencoder=oobleck", "model.autoencoder.weights=no such file"], "no such weights"),
        (["model/autoencoder=codec", "model.autoencoder.pretrained=/"], "cannot be loaded as a codec"),
        (["model/autoencoder=no_such"], "no_such"),
        (["nonsense"], "nonsense"),
        (["model.autoencoder.std=0.0"], "std is 0.0"),
    ],
)
def test_settings_that_make_no_autoencoder_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        configured_autoencoder(overrides)


def test_the_command(recordings: list[Path], tmp_path: Path) -> None:
    fast = ["--set", "+model.autoencoder.griffin_lim_steps=2", "--device", "cpu"]
    result = CliRunner().invoke(app, ["reconstruct", *map(str, recordings), "-o", str(tmp_path / "out"), *fast])
    assert result.exit_code == 0, result.output
    assert "mean of 2" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "reconstruction.json",
        "same name.wav",
        "same name_2.wav",
    ]
