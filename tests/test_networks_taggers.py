"""VGGish, PANNs, PaSST and aiSFX: names and shapes of the published weights, front ends and sums done another way."""

from __future__ import annotations

import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from published_weights import NAMES, PUBLISHED, SMALL, WIDTHS, save, weights
from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks import aisfx, panns, passt, vggish
from unisono.evaluation.networks.checkpoints import read_checkpoint
from unisono.evaluation.networks.table import NETWORKS, load_network, why_absent

DIMS = {"vggish": 128, "panns16k": 16, "panns32k": 16, "passt": 768, "aisfx": 512}  # with the small widths below
ARRAYS = {name: {"embedding", "logits"} for name in ("panns16k", "panns32k", "passt")} | {
    "vggish": {"frames", "embedding"},
    "aisfx": {"embedding"},
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vggish.VggishNet, "hidden", 16)
    monkeypatch.setattr(panns.Cnn14, "widths", WIDTHS)
    monkeypatch.setattr(passt.PasstNet, "depth", 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("check points")
    return {name: save(folder / f"{name}.pt", name, weights(name, SMALL[name]())) for name in NAMES}


def sound(sample_rate: int, duration_s: float, seed: int = 0) -> np.ndarray:
    """A rising tone in noise."""
    t = np.arange(round(duration_s * sample_rate)) / sample_rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.3 * np.sin(2 * np.pi * (300 + 100 * seed + 200 * t) * t) + 0.03 * noise).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_weights_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # full widths
    unused = ("spectrogram_extractor.", "logmel_extractor.", "fc.")
    with torch.device("meta"):
        classes = {"vggish": vggish.VggishNet, "passt": passt.PasstNet, "aisfx": aisfx.AisfxNet}
        module = classes.get(name, panns.Cnn14)()
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    published = PUBLISHED[name]()
    kept = {k.removeprefix("embedding_net."): v for k, v in published.items() if not k.startswith(unused)}
    assert ours == kept


@pytest.mark.parametrize("name", NAMES)
def test_arrays_have_their_shapes_and_depend_on_the_recording_alone(name: str, files: dict[str, Path]) -> None:
    network = load_network(name, str(files[name]))
    x = sound(network.sample_rate, 2.5)
    first, other = network(x), network(sound(network.sample_rate, 2.5, seed=3))
    assert set(first) == ARRAYS[name]
    assert first["embedding"].shape == (DIMS[name],) and np.isfinite(first["embedding"]).all()
    assert np.abs(first["embedding"] - other["embedding"]).max() > 1e-3
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = network(x)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    for key, array in first.items():
        assert array.dtype == np.float32 and np.array_equal(array, again[key]), key
    if "logits" in first:
        assert first["logits"].shape == (527,) and first["logits"].min() < 0  # no probabilities


@pytest.mark.parametrize("name", NAMES)
def test_cards_tell_the_weights_and_the_front_end(
    name: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(name, str(files[name]))
    json.dumps(network.parameters)
    assert network.parameters["checkpoint_sha256"] == read_checkpoint(str(files[name]), "").sha256
    assert network.parameters["front_end"] and network.parameters["sample_rate"] == network.sample_rate
    moved = tmp_path / "elsewhere.pt"
    moved.write_bytes(files[name].read_bytes())
    assert load_network(name, str(moved)).fingerprint == network.fingerprint
    with monkeypatch.context() as changed:
        changed.setattr("unisono.__version__", "next")
        assert load_network(name, str(moved)).fingerprint != network.fingerprint
    with monkeypatch.context() as changed:
        changed.setattr(type(network), "front_end_version", 2)
        assert load_network(name, str(moved)).fingerprint != network.fingerprint
    assert load_network(name, str(moved)).fingerprint == network.fingerprint
    retrained = save(tmp_path / "retrained.pt", name, weights(name, SMALL[name](), seed=1))
    assert load_network(name, str(retrained)).fingerprint != network.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_too_short_and_broken_recordings_are_failures(name: str, files: dict[str, Path]) -> None:
    network = load_network(name, str(files[name]))
    shortest = network.shortest_samples  # type: ignore[attr-defined]
    assert np.isfinite(network(sound(network.sample_rate, 2.0)[:shortest])["embedding"]).all()
    assert np.isfinite(network(np.zeros(2 * network.sample_rate, np.float32))["embedding"]).all()
    with pytest.raises(MetricFailure, match="too short"):
        network(sound(network.sample_rate, 2.0)[: shortest - 1])
    with pytest.raises(MetricFailure, match="NaN or infinite"):
        network(np.full(network.sample_rate * 2, np.nan, np.float32))


@pytest.mark.parametrize(("name", "longest_s"), [("passt", 10.0), ("panns16k", 30.0)])
def test_long_clips_are_the_mean_of_their_equal_parts(name: str, longest_s: float, files: dict[str, Path]) -> None:
    network = load_network(name, str(files[name]))
    half = int(network.sample_rate * longest_s * 0.6)
    x = sound(network.sample_rate, 1.2 * longest_s)
    whole, parts = network(x), [network(x[:half]), network(x[half:])]
    for key, array in whole.items():
        assert np.allclose(array, np.mean([part[key] for part in parts], axis=0), atol=1e-6)


def test_vggish_hears_every_patch_for_itself(files: dict[str, Path]) -> None:
    network = load_network("vggish", str(files["vggish"]))
    x = sound(16_000, 40 * 0.96 + 0.1)  # more patches than go through at once
    frames = network(x)["frames"]
    assert frames.shape == (40, 128)
    hop, length = 96 * 160, 400 + 95 * 160
    for i in (0, 17, 39):
        alone = network(x[i * hop : i * hop + length])
        assert np.allclose(frames[i], alone["frames"][0], atol=1e-6 * np.abs(frames).max())
        assert np.allclose(alone["embedding"], alone["frames"][0])
    assert np.allclose(network(x)["embedding"], frames.mean(axis=0), atol=1e-6)


# -- front ends, against librosa, torch and transformers ---------------------------------------------------------------


def test_vggish_front_end() -> None:
    x = sound(16_000, 2.0)
    # librosa puts the window in the middle of n_fft; the magnitudes do not know.
    magnitude = np.abs(librosa.stft(np.pad(x, 56), n_fft=512, win_length=400, hop_length=160, center=False))
    mel = mel_filter_bank(257, 64, 125.0, 7500.0, 16_000, None, "kaldi", triangularize_in_mel_space=True)
    expected = np.log(magnitude.T @ mel + 0.01)
    patches = vggish.log_mel_patches(x)
    assert patches.shape == (2, 96, 64)
    assert np.allclose(patches.reshape(192, 64), expected[:192], atol=1e-4)


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        (panns.Panns16k, {"sr": 16_000, "n_fft": 512, "hop_length": 160, "fmax": 8000}),
        (panns.Panns32k, {"sr": 32_000, "n_fft": 1024, "hop_length": 320, "fmax": 14_000}),
    ],
)
def test_panns_front_end(network: type[panns.Panns], settings: dict) -> None:
    x = sound(settings["sr"], 1.0)
    mel = librosa.feature.melspectrogram(y=x, n_mels=64, fmin=50, pad_mode="reflect", **settings)
    assert np.allclose(network.front_end(x), librosa.power_to_db(mel, top_db=None).T, atol=1e-3)


def test_passt_front_end() -> None:
    x = sound(32_000, 1.0)
    emphasised = torch.from_numpy(x[1:] - 0.97 * x[:-1]).double()
    window = torch.hann_window(800, periodic=False, dtype=torch.float64)
    power = torch.stft(emphasised, 1024, 320, 800, window, return_complex=True).abs().square().numpy()
    mel = mel_filter_bank(513, 128, 0.0, 15_000.0, 32_000, None, "kaldi", triangularize_in_mel_space=True)
    expected = (np.log(mel.T @ power + 1e-5) + 4.5) / 5
    assert np.allclose(passt.log_mel_spectrogram(x), expected, atol=1e-4)


def test_aisfx_front_end() -> None:
    x = sound(44_100, 5.0)
    mel = librosa.feature.melspectrogram(
        y=x, sr=44_100, n_fft=2048, hop_length=1024, n_mels=96, htk=True, norm=1.0, fmax=22_050
    )
    expected = (np.log10(1e4 * mel + 1) / 9.457798957824707).T
    blocks = aisfx.log_mel_blocks(x)
    assert blocks.shape == (3, 100, 96)  # 216 frames
    for i, block in enumerate(blocks):
        assert np.allclose(block, expected[i * 50 : i * 50 + 100], atol=1e-4)
    short = aisfx.log_mel_blocks(x[:44_100])
    assert short.shape == (1, 100, 96) and not short[0, 44:].any() and short[0, :44].any()


# -- the networks' sums, written out -----------------------------------------------------------------------------------


def convolved(x: Tensor, w: dict[str, Tensor], block: str) -> Tensor:
    for i in (1, 2):
        x = F.conv2d(x, w[f"{block}.conv{i}.weight"], padding=1)
        mean, scale = w[f"{block}.bn{i}.running_mean"], (w[f"{block}.bn{i}.running_var"] + 1e-5).sqrt()
        gain = (w[f"{block}.bn{i}.weight"] / scale)[:, None, None]
        x = ((x - mean[:, None, None]) * gain + w[f"{block}.bn{i}.bias"][:, None, None]).clamp(min=0)
    return x


def test_cnn14() -> None:
    w = weights("panns16k", SMALL["panns16k"]())
    network = panns.Cnn14().eval()
    network.load_state_dict({k: v for k, v in w.items() if "extractor" not in k})
    x = torch.randn(1, 1, 70, 64, generator=torch.Generator().manual_seed(1))
    y = (x - w["bn0.running_mean"]) / (w["bn0.running_var"] + 1e-5).sqrt() * w["bn0.weight"] + w["bn0.bias"]
    for i in range(1, 7):
        y = convolved(y, w, f"conv_block{i}")
        if i < 6:
            rows, columns = y.shape[2] // 2, y.shape[3] // 2
            y = y[:, :, : 2 * rows, : 2 * columns].reshape(1, -1, rows, 2, columns, 2).mean(dim=(3, 5))
    y = y.mean(dim=3)
    y = y.max(dim=2).values + y.mean(dim=2)
    embedding = (y @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    logits = embedding @ w["fc_audioset.weight"].T + w["fc_audioset.bias"]
    with torch.no_grad():
        got = network(x)
    assert torch.allclose(got[0], embedding, atol=1e-5) and torch.allclose(got[1], logits, atol=1e-5)


def test_aisfx_network() -> None:
    w = {k.removeprefix("embedding_net."): v for k, v in weights("aisfx", SMALL["aisfx"]()).items()}
    network = aisfx.AisfxNet().eval()
    network.load_state_dict({k: v for k, v in w.items() if not k.startswith("fc.")})
    x = torch.rand(1, 100, 96, generator=torch.Generator().manual_seed(1))
    y = x[:, None]
    for i in range(1, 5):
        y = convolved(y, w, f"conv_block{i}")
        if i < 4:
            rows, columns = y.shape[2] // 2, y.shape[3] // 2
            y = y[:, :, : 2 * rows, : 2 * columns].reshape(1, -1, rows, 2, columns, 2).amax(dim=(3, 5))
    with torch.no_grad():
        assert torch.allclose(network(x), y.mean(dim=3).max(dim=2).values, atol=1e-4)


def test_vggish_network() -> None:
    w = weights("vggish", SMALL["vggish"]())
    network = vggish.VggishNet().eval()
    network.load_state_dict(w)
    x = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(1))
    y = x
    for i in (0, 3, 6, 8, 11, 13):
        y = F.conv2d(y, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1).clamp(min=0)
        if i not in (6, 11):
            y = F.max_pool2d(y, 2)
    assert y.shape == (2, 512, 6, 4)
    y = torch.stack([y[:, :, t, m] for t in range(6) for m in range(4)], dim=1).flatten(1)  # channels innermost
    for i in (0, 2, 4):
        y = y @ w[f"embeddings.{i}.weight"].T + w[f"embeddings.{i}.bias"]
        y = y.clamp(min=0) if i < 4 else y
    with torch.no_grad():
        assert torch.allclose(network(x), y, atol=1e-4)
    assert (y < 0).any()  # nothing was cut at zero


def test_passt_network() -> None:
    w = weights("passt", SMALL["passt"]())
    network = passt.PasstNet().eval()
    network.load_state_dict(w)
    x = torch.randn(1, 1, 128, 40, generator=torch.Generator().manual_seed(1))

    def norm(y: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        scaled = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + eps).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(y: Tensor, name: str) -> Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = []
    for f in range(12):
        for t in range(3):  # 16 frames every 10 of 40
            patch = x[0, 0, 10 * f : 10 * f + 16, 10 * t : 10 * t + 16].reshape(-1)
            vector = w["patch_embed.proj.weight"].reshape(768, -1) @ patch + w["patch_embed.proj.bias"]
            patches.append(vector + w["freq_new_pos_embed"][0, :, f, 0] + w["time_new_pos_embed"][0, :, 0, t])
    tokens = [w["cls_token"][0, 0] + w["new_pos_embed"][0, 0], w["dist_token"][0, 0] + w["new_pos_embed"][0, 1]]
    y = torch.stack([*tokens, *patches])
    for i in range(1):
        q, k, v = linear(norm(y, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(768, dim=1)
        heads = [
            torch.softmax(q[:, h : h + 64] @ k[:, h : h + 64].T / 8, dim=1) @ v[:, h : h + 64]
            for h in range(0, 768, 64)
        ]
        y = y + linear(torch.cat(heads, dim=1), f"blocks.{i}.attn.proj")
        y = y + linear(F.gelu(linear(norm(y, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    embedding = norm(y, "norm")[:2].mean(dim=0)
    logits = linear(norm(embedding, "head.0", eps=1e-5), "head.1")
    with torch.no_grad():
        got = network(x)
    assert torch.allclose(got[0][0], embedding, atol=1e-4) and torch.allclose(got[1][0], logits, atol=1e-4)


# -- what is no checkpoint of the network ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_of_other_networks_are_refused(name: str, files: dict[str, Path]) -> None:
    for other in NAMES:
        if other != name:
            with pytest.raises(UserError, match=r"(another (network|front end)|no weights by name).*give the file"):
                load_network(name, str(files[other]))


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = weights("vggish", SMALL["vggish"]())
    del state["embeddings.2.bias"]
    state["classifier.weight"] = torch.zeros(2)
    state["features.0.weight"] = torch.zeros(64, 3, 3, 3)
    path = save(tmp_path / "odd.pt", "vggish", state)
    message = (
        r"1 missing: embeddings\.2\.bias; 1 unknown: classifier\.weight; "
        r"1 of another shape: features\.0\.weight \(64, 3, 3, 3\) instead of \(64, 1, 3, 3\)"
    )
    with pytest.raises(UserError, match=message):
        load_network("vggish", str(path))


class Rogue:
    def __reduce__(self) -> tuple:
        return (Path("ran").touch, ())


def test_files_that_hold_no_plain_weights_are_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Rogue()}, tmp_path / "rogue.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    whole = save(tmp_path / "whole.pt", "vggish", weights("vggish", SMALL["vggish"]())).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    for name in ("rogue.pt", "text.pt", "empty.pt", "list.pt", "cut.pt", "cut.safetensors", "absent.pt", "."):
        with pytest.raises(UserError, match="give the file vggish"):
            load_network("vggish", str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = weights("vggish", SMALL["vggish"]())
    state["features.3.bias"][1] = float("nan")
    with pytest.raises(UserError, match=r"features\.3\.bias holds NaN"):
        load_network("vggish", str(save(tmp_path / "nan.pt", "vggish", state)))


def test_other_wrappings_of_the_same_weights_give_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = weights("passt", SMALL["passt"]())
    save_file(state, tmp_path / "passt.safetensors")
    torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "parallel.pt")
    x = sound(32_000, 1.0)
    expected = load_network("passt", str(files["passt"]))(x)["embedding"]
    for name in ("passt.safetensors", "parallel.pt"):
        assert np.array_equal(load_network("passt", str(tmp_path / name))(x)["embedding"], expected)


def test_a_network_says_what_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_absent("mel_statistics", None) is None
    assert why_absent("passt", None) == (
        f"no weights; give passt: {NETWORKS['passt'].takes} (--network passt=…, networks.passt=…)"
    )
    monkeypatch.setattr("unisono.evaluation.networks.table.library_version", lambda name: "not installed")
    assert why_absent("aisfx", None) == (
        "no weights; install aisfx, or give aisfx: file checkpoint.pth of aisfx (--network aisfx=…, networks.aisfx=…)"
    )
    assert why_absent("aisfx", "a/file") is None and why_absent("aisfx", {"source": "a/file"}) is None
    with pytest.raises(UserError, match="no weights"):
        load_network("aisfx")
    with pytest.raises(UserError, match=r"there is no network 'pasts'; did you mean passt\?"):
        load_network("pasts", "x")
    with pytest.raises(UserError, match=r"networks\.passt: there is no 'layer'"):
        load_network("passt", {"source": "x", "layer": 3})
    with pytest.raises(UserError, match="device 'cuda:99' is not to be had"):
        load_network("speaker", "resemblyzer", "cuda:99")


def test_the_packaged_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "aisfx" / "models"
    models.mkdir(parents=True)
    (tmp_path / "aisfx" / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    save(models / "checkpoint.pth", "aisfx", weights("aisfx", SMALL["aisfx"]()))
    monkeypatch.syspath_prepend(tmp_path)
    assert aisfx.Aisfx()(sound(44_100, 1.0))["embedding"].shape == (512,)
    (models / "checkpoint.pth").unlink()
    with pytest.raises(UserError, match=r"brings no checkpoint\.pth"):
        aisfx.Aisfx()
