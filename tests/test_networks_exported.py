"""Exported networks: ONNX and TorchScript files by the YAML file beside them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks.cached import CachedNetwork
from unisono.evaluation.networks.exported import Exported
from unisono.evaluation.networks.table import load_network

RATE = 16_000


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal(round(duration_s * RATE))).astype(np.float32)


# (1, samples) -> embedding (1, 2): mean of the magnitude, mean; score (1,): mean of the magnitude. Opset 13, made with
# onnx.helper of Abs, ReduceMean and Concat.
ONNX = base64.b64decode(
    "CAgSADqCAgoLCgF3EgFhIgNBYnMKMAoBYRIBbSIKUmVkdWNlTWVhbioLCgRheGVzQAGgAQcqDwoIa2VlcGRpbXMYAaABAgowCgF3EgFkIgpSZWR1"
    "Y2VNZWFuKgsKBGF4ZXNAAaABByoPCghrZWVwZGltcxgBoAECCh4KAW0KAWQSAWUiBkNvbmNhdCoLCgRheGlzGAGgAQIKMAoBYRIBcyIKUmVkdWNl"
    "TWVhbioLCgRheGVzQAGgAQcqDwoIa2VlcGRpbXMYAKABAhIBZ1oUCgF3Eg8KDQgBEgkKAggBCgMSAW5iEwoBZRIOCgwIARIICgIIAQoCCAJiDwoB"
    "cxIKCggIARIECgIIAUIECgAQDQ=="
)
SIDECAR = {"file": "net.onnx", "sample_rate": RATE, "input": [1, "samples"], "outputs": ["embedding", "score"]}


class Means(torch.nn.Module):
    """The same sums as the ONNX file's."""

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        magnitude = waveform.abs().mean(dim=1, keepdim=True)
        return torch.cat([magnitude, waveform.mean(dim=1, keepdim=True)], dim=1), magnitude[:, 0]


class Watching(torch.nn.Module):
    def forward(self, waveform: Tensor, video: Tensor) -> Tensor:
        return waveform.abs().mean() + video.mean(dim=(0, 1, 3, 4))[0]


def sidecar(folder: Path, name: str = "net.yaml", **changes: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "net.onnx").write_bytes(ONNX)
    keys = {key: value for key, value in {**SIDECAR, **changes}.items() if value is not ...}
    (folder / name).write_text(yaml.safe_dump(keys))
    return str(folder / name)


def traced(module: torch.nn.Module, path: Path, *inputs: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.jit.trace(module, inputs).save(str(path))


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_exported_networks_are_run(runtime: str, tmp_path: Path) -> None:
    traced(Means(), tmp_path / "net.pt", torch.randn(1, 400))
    network = Exported(sidecar(tmp_path, file="net.onnx" if runtime == "onnx" else "net.pt"))
    x = noise(1.0)
    heard = network(x)
    assert heard["embedding"].shape == (2,) and heard["score"].shape == ()
    assert np.allclose(heard["embedding"], [np.abs(x).mean(), x.mean()], atol=1e-6)
    assert np.isclose(heard["score"], np.abs(x).mean(), atol=1e-6)
    json.dumps(network.parameters)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.onnx.data").write_bytes(b"weights beside")
    if runtime == "onnx":
        assert Exported(sidecar(tmp_path / "other")).fingerprint != network.fingerprint


def test_lengths_of_exported_networks(tmp_path: Path) -> None:
    x = noise(2.5) * np.linspace(0, 1, 40_000, dtype=np.float32)

    def score(clip: np.ndarray, **keys: object) -> float:
        return float(Exported(sidecar(tmp_path, **keys))(clip)["score"])

    thirds = [float(np.abs(part).mean()) for part in np.array_split(x, 3)]
    assert np.isclose(score(x, longest_s=1), np.mean(thirds), atol=1e-6)
    windows = [float(np.abs(x[start : start + RATE]).mean()) for start in (0, 12_000, 24_000)]
    assert np.isclose(score(x, input=[1, RATE]), np.mean(windows), atol=1e-6)
    short = x[:6_000]
    with pytest.raises(MetricFailure, match=r"0\.38 s are too short for exported, which needs 1\.00 s"):
        score(short, input=[1, RATE])
    assert np.isclose(score(short, input=[1, RATE], short_clips="zeros"), np.abs(short).sum() / RATE, atol=1e-6)
    repeated = np.abs(np.tile(short, 3)[:RATE]).mean()
    assert np.isclose(score(short, input=[1, RATE], short_clips="repeat"), repeated, atol=1e-6)
    with pytest.raises(MetricFailure, match="too short"):
        score(short, shortest_s=0.5)
    level = np.abs((x - x.mean()) / x.std()).mean()
    assert np.isclose(score(x, level="standardised"), level, atol=1e-4)


def test_networks_that_watch_as_well(tmp_path: Path) -> None:
    traced(Watching(), tmp_path / "net.pt", torch.randn(1, RATE), torch.randn(1, 4, 3, 8, 8))
    video = {"num_frames": 4, "frame_rate_hz": 25, "size": 8, "mean": [0.5, 0, 0], "std": [0.25, 1, 1]}
    source = sidecar(tmp_path, file="net.pt", input=[1, RATE], outputs=["score"], video=video)
    network = load_network("imagebind", source)
    x, frames = noise(1.5), np.full((6, 8, 8, 3), 255, np.uint8)
    expected = np.abs(x[:RATE]).mean() + 2.0
    assert network.name == "imagebind"
    cached = CachedNetwork(network, tmp_path / "cache")
    for _ in range(2):
        assert np.isclose(cached.with_video(x, frames)["score"], expected, atol=1e-5)
    darker = cached.with_video(x, frames // 2)["score"]
    assert (cached.heard, cached.remembered) == (2, 1) and darker < expected - 1
    with pytest.raises(MetricFailure, match="3 pictures, imagebind needs 4"):
        cached.with_video(x, frames[:3])
    with pytest.raises(MetricFailure, match="only together with a video"):
        network(x)


def test_what_their_metrics_need_is_checked_before_anything_is_heard(tmp_path: Path) -> None:
    traced(Watching(), tmp_path / "net.pt", torch.randn(1, RATE), torch.randn(1, 4, 3, 8, 8))
    video = {"num_frames": 4, "frame_rate_hz": 25, "size": 8}
    watching = {"file": "net.pt", "input": [1, RATE], "video": video}
    for name, wanted, other in (("imagebind", "score", "embedding"), ("synchformer", "logits", "score")):
        with pytest.raises(UserError, match=rf"outputs must name {wanted}, for networks\.{name}"):
            load_network(name, sidecar(tmp_path, **watching, outputs=[other]))
        with pytest.raises(UserError, match=rf"video is missing, for networks\.{name}"):
            load_network(name, sidecar(tmp_path, outputs=[wanted, None]))
    assert load_network("imagebind", sidecar(tmp_path, **watching, outputs=["score"])).sample_rate == RATE


def test_another_version_of_what_runs_it_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sidecar(tmp_path)
    before = Exported(source).fingerprint
    assert Exported(source).fingerprint == before
    with monkeypatch.context() as changed:
        changed.setattr("unisono.evaluation.networks.exported.library_version", lambda name: f"{name} of tomorrow")
        assert Exported(source).fingerprint != before
    monkeypatch.setattr("unisono.__version__", "next")
    assert Exported(source).fingerprint != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "gone.onnx"}, "gone.onnx does not exist"),
        ({"file": "net.pt2"}, "pickles, which may run code"),
        ({"file": ...}, "file is missing"),
        ({"sample_rate": "16k"}, "sample_rate is '16k'; it must be a number from 8000 to 192000"),
        ({"input": ["samples", "samples"]}, r"input is .*; it must be ones and either samples or a number"),
        ({"outputs": ["mos"]}, "outputs is .*; it must be a list of embedding"),
        ({"outputs": ["score"]}, "outputs names 1 arrays, but net.onnx gives 2"),
        ({"outputs": ["score", "embedding"]}, r"outputs: score has shape \(1, 2\)"),
        ({"input": [1, 1, "samples"]}, "does not run on such an input"),
        ({"short_clip": "zeros"}, "there is no key short_clip; did you mean short_clips"),
        ({"short_clips": "loop"}, "short_clips is 'loop'; it must be one of refuse, zeros, repeat"),
        ({"video": {"size": 8}}, r"video\.num_frames is missing"),
        ({"longest_s": -1}, "longest_s is -1"),
        ({"longest_s": 5, "input": [1, 800]}, "it must be left out, as input has a fixed length"),
    ],
)
def test_wrong_sidecars_are_explained(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Exported(sidecar(tmp_path, **changes))


def test_files_that_are_no_exported_networks(tmp_path: Path) -> None:
    source = sidecar(tmp_path)
    for name in ("bad.onnx", "bad.pt"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match=r"bad.*export it anew"):
            Exported(sidecar(tmp_path, file=name))
    with pytest.raises(UserError, match="does not exist"):
        Exported(str(tmp_path / "gone.yaml"))
    Path(source).write_text("a: [")
    with pytest.raises(UserError, match="is no YAML"):
        Exported(source)
    Path(source).write_text("just text")
    with pytest.raises(UserError, match="holds no keys"):
        Exported(source)
    with pytest.raises(UserError, match=r"outputs must name score, for networks\.utmos"):
        load_network("utmos", sidecar(tmp_path, outputs=["embedding", None]))
    assert set(load_network("utmos", sidecar(tmp_path))(noise(1.0))) == {"embedding", "score"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about:\n  a: &a [x]\n  b: [*a, *a]\n", "aliases"),
        ("[" * 5000, "is no YAML"),
        ("about: " + "x" * 70_000, "65536 bytes"),
        ("file: ../net.onnx\nsample_rate: 16000\ninput: [1, samples]\noutputs: [score]\n", "bare name"),
        ("file: net.onnx\nsample_rate: 16000\ninput: [1, samples]\noutputs: [[x]]\n", "outputs"),
        ("file: net.onnx\nsample_rate: 16000\ninput: [1, samples]\noutputs: [score]\nlevel: [x]\n", "level"),
    ],
)
def test_sidecars_of_somebody_else_cannot_hang_or_lead_elsewhere(text: str, message: str, tmp_path: Path) -> None:
    sidecar(tmp_path)
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        Exported(str(tmp_path / "net.yaml"))
