"""UTMOS: names and shapes of the published weights, and its sums written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unisono.errors import UserError
from unisono.evaluation.networks import utmos
from unisono.evaluation.networks.table import load_network


def utmos_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of utmos22_strong_step7459_v1.pt, which are fairseq's."""
    shapes: dict[str, tuple[int, ...]] = {
        "domain_emb": (1, 128), "judge_emb": (1, 128), "wav2vec2.mask_emb": (768,),
        "wav2vec2.encoder.pos_conv.0.bias": (768,), "wav2vec2.encoder.pos_conv.0.weight_g": (1, 1, 128),
        "wav2vec2.encoder.pos_conv.0.weight_v": (768, 48, 128),
    }  # fmt: skip
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"wav2vec2.feature_extractor.conv_layers.{i}.0.weight"] = (512, 1 if i == 0 else 512, kernel)
    named = {"wav2vec2.feature_extractor.conv_layers.0.2": (512,), "wav2vec2.layer_norm": (512,)}
    named |= {"wav2vec2.post_extract_proj": (768, 512), "wav2vec2.encoder.layer_norm": (768,)}
    named |= {"projection.0": (2048, 1024), "projection.2": (1, 2048)}
    for i in range(layers):
        at = f"wav2vec2.encoder.layers.{i}"
        named |= {f"{at}.self_attn.{part}_proj": (768, 768) for part in ("q", "k", "v", "out")}
        named |= {f"{at}.self_attn_layer_norm": (768,), f"{at}.final_layer_norm": (768,)}
        named |= {f"{at}.fc1": (3072, 768), f"{at}.fc2": (768, 3072)}
    for name, shape in named.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for end in ("", "_reverse"):
        shapes |= {f"blstm.weight_ih_l0{end}": (2048, 1024), f"blstm.weight_hh_l0{end}": (2048, 512)}
        shapes |= {f"blstm.bias_{part}_l0{end}": (2048,) for part in ("ih", "hh")}
    return shapes


def utmos_score(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published network with one layer, of a waveform ``(1, S)``, written out."""

    def linear(y: Tensor, name: str) -> Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    at = "wav2vec2.feature_extractor.conv_layers"
    for i, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        x = F.conv1d(x if i else x[:, None], w[f"{at}.{i}.0.weight"], stride=stride)
        if i == 0:  # each channel for itself, over time
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
            x = x * w[f"{at}.0.2.weight"][:, None] + w[f"{at}.0.2.bias"][:, None]
        x = F.gelu(x)
    x = linear(norm(x[0].T, "wav2vec2.layer_norm"), "wav2vec2.post_extract_proj")
    direction = w["wav2vec2.encoder.pos_conv.0.weight_v"]
    kernel = w["wav2vec2.encoder.pos_conv.0.weight_g"] * direction / direction.norm(dim=(0, 1), keepdim=True)
    position = F.conv1d(x.T[None], kernel, w["wav2vec2.encoder.pos_conv.0.bias"], padding=64, groups=16)
    x = norm(x + F.gelu(position[0, :, :-1]).T, "wav2vec2.encoder.layer_norm")
    at = "wav2vec2.encoder.layers.0"
    q, k, v = (linear(x, f"{at}.self_attn.{part}_proj") for part in "qkv")
    heads = [torch.softmax(q[:, h : h + 64] @ k[:, h : h + 64].T / 8, 1) @ v[:, h : h + 64] for h in range(0, 768, 64)]
    x = norm(x + linear(torch.cat(heads, dim=1), f"{at}.self_attn.out_proj"), f"{at}.self_attn_layer_norm")
    x = norm(x + linear(F.gelu(linear(x, f"{at}.fc1")), f"{at}.fc2"), f"{at}.final_layer_norm")
    x = torch.cat([x, w["domain_emb"].expand(len(x), -1), w["judge_emb"].expand(len(x), -1)], dim=1)
    x = torch.cat([lstm(w, x, ""), lstm(w, x.flip(0), "_reverse").flip(0)], dim=1)
    return linear(linear(x, "projection.0").clamp(min=0), "projection.2").mean() * 2 + 3


def lstm(w: dict[str, Tensor], x: Tensor, end: str) -> Tensor:
    hidden, cell, out = torch.zeros(512), torch.zeros(512), []
    for frame in x:
        gates = w[f"blstm.weight_ih_l0{end}"] @ frame + w[f"blstm.bias_ih_l0{end}"]
        gates = gates + w[f"blstm.weight_hh_l0{end}"] @ hidden + w[f"blstm.bias_hh_l0{end}"]
        i, f, g, o = gates.split(512)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        out.append(hidden)
    return torch.stack(out)


def test_utmos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utmos.UtmosNet, "layers", 1)
    generator = torch.Generator().manual_seed(0)
    w = {
        name: torch.randn(shape, generator=generator) * (1.5 / max(1, np.prod(shape[1:])) ** 0.5)
        for name, shape in utmos_shapes(1).items()
    }
    torch.save(w, tmp_path / "utmos.pt")
    network = load_network("utmos", str(tmp_path / "utmos.pt"))
    x = (0.1 * np.random.default_rng(0).standard_normal(11_200)).astype(np.float32)  # an odd number of frames
    expected = float(utmos_score(w, torch.from_numpy(x)[None]))
    score = network(x)["score"]
    assert score.shape == () and score.dtype == np.float32 and np.isclose(score, expected, atol=1e-4)
    assert abs(expected - 3) > 0.01
    del w["judge_emb"]
    torch.save(w, tmp_path / "less.pt")
    with pytest.raises(UserError, match="1 missing: judge_emb"):
        load_network("utmos", str(tmp_path / "less.pt"))


def test_the_published_utmos_weights_fit() -> None:
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in utmos.UtmosNet().state_dict().items()}
    assert ours == {utmos.renamed(name): shape for name, shape in utmos_shapes(12).items()}
