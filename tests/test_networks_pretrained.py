"""Networks of transformers, UTMOS and exported files, with tiny random weights in the layout of the published ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from feature_sources import save_x_vector_model
from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks import utmos
from unisono.evaluation.networks.exported import Exported
from unisono.evaluation.networks.hearing import Hearing
from unisono.evaluation.networks.pretrained import quiet_parts
from unisono.evaluation.networks.table import load_network

RATE = 16_000
WAV2VEC = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LETTERS = sorted(ByteLevel.alphabet())


def noise(duration_s: float, sample_rate: int = RATE, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal(round(duration_s * sample_rate))).astype(np.float32)


def save_bpe(folder: Path, specials: list[str]) -> tuple[str, str, dict[str, int]]:
    """Files of a tokenizer that knows bytes and some special tokens."""
    folder.mkdir()
    vocabulary = {token: i for i, token in enumerate([*specials, *LETTERS])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return str(folder / "vocab.json"), str(folder / "merges.txt"), vocabulary


def save_clap(folder: Path, fused: bool = False) -> Path:
    torch.manual_seed(0)
    vocabulary_file, merges_file, vocabulary = save_bpe(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    transformers.RobertaTokenizer(vocabulary_file, merges_file).save_pretrained(folder)
    text = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 34, "pad_token_id": 1,
    }  # fmt: skip
    audio = {
        "hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1],
        "enable_fusion": fused, "fusion_num_hidden_layers": 1,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor().save_pretrained(folder)
    return folder


def save_whisper(folder: Path, multilingual: bool = True) -> Path:
    torch.manual_seed(0)
    names = ["endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "notimestamps"]
    specials = [f"<|{name}|>" for name in names]
    vocabulary_file, merges_file, vocabulary = save_bpe(folder, specials)
    transformers.WhisperTokenizer(vocabulary_file, merges_file, additional_special_tokens=specials[1:]).save_pretrained(
        folder
    )
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=16,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)  # else it says the same whatever it hears
    languages = {"lang_to_id": {"<|en|>": 2, "<|de|>": 3}, "task_to_id": {"translate": 4, "transcribe": 5}}
    settings = languages if multilingual else {}
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=1, max_length=12,
        is_multilingual=multilingual, no_timestamps_token_id=6, suppress_tokens=list(range(7)), **settings,
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def save_ctc(folder: Path) -> Path:
    """As facebook/wav2vec2-base-960h is stored: without the vector of masked frames."""
    torch.manual_seed(0)
    folder.mkdir()
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size=len(tokens), **WAV2VEC))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("masked_spec_embed")}
    model.save_pretrained(folder, state_dict=state)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def save_mert(folder: Path, **settings: object) -> Path:
    """As m-a-p/MERT-v1-95M is stored: its own model_type, a pickled file, older names of the weight normalisation."""
    torch.manual_seed(0)
    folder.mkdir()
    model = transformers.HubertModel(transformers.HubertConfig(**WAV2VEC))
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = tensor
    torch.save(state, folder / "pytorch_model.bin")
    config = {
        **model.config.to_dict(), "model_type": "mert_model", "architectures": ["MERTModel"], "sample_rate": 24_000,
        "feature_extractor_cqt": False, "feature_extractor_cqt_bins": 336, "deepnorm": False, "attention_relax": -1.0,
        **settings,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True).save_pretrained(folder)
    return folder


SAVED: dict[str, Callable[[Path], Path]] = {
    "clap": save_clap, "whisper": save_whisper, "ctc": save_ctc, "mert": save_mert, "speaker": save_x_vector_model,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub models")
    return {name: save(root / name) for name, save in SAVED.items()}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_heard_depends_on_the_recording_alone(name: str, folders: dict[str, Path]) -> None:
    network = load_network(name, str(folders[name]))
    json.dumps(network.parameters)
    x = noise(3.0, network.sample_rate)
    np.random.seed(3)  # noqa: NPY002
    drawn = np.random.get_state()[2]  # noqa: NPY002
    first = network(x)
    torch.manual_seed(99)
    assert np.random.get_state()[2] == drawn  # noqa: NPY002
    network(noise(1.0, network.sample_rate, seed=5))
    again = load_network(name, str(folders[name]))
    assert again.fingerprint == network.fingerprint
    for key, array in again(x).items():
        assert np.array_equal(array, first[key])
    other = network(noise(3.0, network.sample_rate, seed=1))
    key = "text" if "text" in first else "embedding"
    assert not np.array_equal(other[key], first[key])
    with pytest.raises(MetricFailure, match="too short"):
        network(x[:100])
    with pytest.raises(MetricFailure, match="NaN"):
        network(np.full(network.sample_rate, np.nan, np.float32))


@pytest.mark.parametrize("name", SAVED)
def test_other_models_are_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for other in SAVED:
        if other != name:
            with pytest.raises(UserError, match=str(folders[other])):
                load_network(name, str(folders[other]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        load_network(name, str(tmp_path / "empty"))


@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen"])
def test_weights_must_fit_without_a_rest(fault: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_ctc(tmp_path / "ctc")
    state = load_file(folder / "model.safetensors")
    if fault == "missing":
        del state["lm_head.weight"]
    elif fault == "unknown":
        state["second_head.weight"] = torch.zeros(3)
    else:
        state["lm_head.weight"] = torch.zeros(5, 16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    name = "second_head" if fault == "unknown" else "lm_head"
    with pytest.raises(UserError, match=rf"1 {fault}, such as {name}\.weight"):
        load_network("ctc", str(folder))


# -- CLAP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_clap_gives_the_vectors_of_the_model(fused: bool, tmp_path: Path) -> None:
    folder = save_clap(tmp_path / "clap", fused)
    network = load_network("clap", str(folder))
    model = transformers.ClapModel.from_pretrained(folder).eval()
    x, texts = noise(4.0, 48_000), ["a dog barks", "rain"]
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    audio = extractor(x, sampling_rate=48_000, truncation=truncation, return_tensors="pt")
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**audio, **tokens)
    assert np.allclose(network(x)["embedding"], expected.audio_embeds[0], atol=1e-5)
    assert np.allclose(network.embed_text(texts), expected.text_embeds, atol=1e-5)  # type: ignore[attr-defined]


def test_clap_hears_all_of_a_long_clip(folders: dict[str, Path]) -> None:
    network = load_network("clap", str(folders["clap"]))
    x = noise(16.0, 48_000)
    halves = [network(part)["embedding"] for part in np.split(x, 2)]
    mean = np.mean(halves, axis=0)
    assert np.allclose(network(x)["embedding"], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_caption_does_not_depend_on_its_neighbours(folders: dict[str, Path]) -> None:
    network = load_network("clap", str(folders["clap"]))
    embed = network.embed_text  # type: ignore[attr-defined]
    texts = ["a", "a much longer caption than that, which is cut somewhere " * 3, "glocken läuten"]
    vectors = embed(texts)
    assert vectors.shape == (3, 12) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], embed(["a"])[0]) and np.array_equal(vectors[2], embed(texts[2:])[0])
    assert embed([]).shape == (0, 12)


# -- MERT --------------------------------------------------------------------------------------------------------------


def test_mert_is_read_as_hubert(folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(**WAV2VEC)).eval()  # the weights that were saved
    x = noise(2.0, 24_000)
    normalised = torch.from_numpy((x - x.mean()) / np.sqrt(x.var() + 1e-7))[None]
    with torch.no_grad():
        hidden = model(normalised, output_hidden_states=True).hidden_states
    for layer in (None, 0, 1, 2):
        network = load_network("mert", {"source": str(folders["mert"]), "layer": layer})
        expected = hidden[2 if layer is None else layer][0].mean(dim=0)
        assert np.allclose(network(x)["embedding"], expected, atol=1e-5)
    whole = load_network("mert", str(folders["mert"]))
    first = load_network("mert", {"source": str(folders["mert"]), "layer": 1})
    assert first.fingerprint != whole.fingerprint
    with pytest.raises(UserError, match=r"networks\.mert\.layer: 3 is not a whole number from 0 to 2"):
        load_network("mert", {"source": str(folders["mert"]), "layer": 3})


def test_what_hubert_has_not_is_refused(tmp_path: Path) -> None:
    folder = save_mert(tmp_path / "cqt", feature_extractor_cqt=True, deepnorm=True)
    with pytest.raises(UserError, match="has feature_extractor_cqt and deepnorm, which HuBERT has not"):
        load_network("mert", str(folder))


# -- speech recognition ------------------------------------------------------------------------------------------------


def test_whisper_speaks_the_language_it_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    x = noise(2.0)
    source = str(folders["whisper"])
    german, english = (load_network("whisper", {"source": source, "language": name}) for name in ("German", "en"))
    assert german.parameters["language"] == "german" and english.fingerprint != german.fingerprint
    assert german(x)["text"].shape == (1,) and german(x)["text"][0] != english(x)["text"][0]
    with pytest.raises(UserError, match=r"'germn' is no language of Whisper; did you mean german"):
        load_network("whisper", {"source": source, "language": "germn"})
    english_only = save_whisper(tmp_path / "only", multilingual=False)
    assert load_network("whisper", str(english_only))(x)["text"][0]
    with pytest.raises(UserError, match="knows one language; leave language out"):
        load_network("whisper", {"source": str(english_only), "language": "en"})


def test_ctc_text_is_that_of_the_likeliest_letters(folders: dict[str, Path]) -> None:
    x = noise(2.0)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folders["ctc"]).eval()
    normalised = torch.from_numpy((x - x.mean()) / np.sqrt(x.var() + 1e-7))[None]
    with torch.no_grad():
        likeliest = model(normalised).logits[0].argmax(dim=1).tolist()
    letters = ["", "", "", "", " ", *"abcdefgh"]
    once = [letters[b] for a, b in zip([None, *likeliest], likeliest, strict=False) if a != b]
    text = load_network("ctc", str(folders["ctc"]))(x)["text"]
    assert text.shape == (1,) and text[0] == " ".join("".join(once).split())


@pytest.mark.parametrize("name", ["whisper", "ctc"])
def test_the_text_of_a_long_clip_is_that_of_its_parts(name: str, folders: dict[str, Path]) -> None:
    network = load_network(name, str(folders[name]))
    x = noise(36.0)
    x[25 * RATE - 800 : 25 * RATE + 800] *= 0.001  # where it is cut
    parts = [str(network(part)["text"][0]) for part in (x[: 25 * RATE], x[25 * RATE :])]
    assert str(network(x)["text"][0]) == " ".join(parts) and len(parts[0]) > 0


def test_parts_are_cut_where_it_is_quiet() -> None:
    x = noise(95.0)
    for second in (28, 50, 76):
        x[second * RATE - 800 : second * RATE + 800] = 0
    parts = quiet_parts(x, 30 * RATE, RATE)
    assert np.array_equal(np.concatenate(parts), x)
    assert np.cumsum([len(part) for part in parts]).tolist()[:3] == [28 * RATE, 50 * RATE, 76 * RATE]
    assert [len(part) for part in quiet_parts(x[: 30 * RATE], 30 * RATE, RATE)] == [30 * RATE]


# -- speakers ----------------------------------------------------------------------------------------------------------


def test_speaker_vectors_are_those_of_the_encoder(folders: dict[str, Path]) -> None:
    from unisono.features.speaker import load_speaker_encoder

    network = load_network("speaker", str(folders["speaker"]))
    x = noise(2.0)
    expected = load_speaker_encoder(str(folders["speaker"]))(x)
    assert np.array_equal(network(x)["embedding"], expected) and np.isclose(np.linalg.norm(expected), 1)
    with pytest.raises(MetricFailure, match="silent"):
        network(np.zeros(2 * RATE, np.float32))
    with pytest.raises(UserError, match="no measure of it; give resemblyzer"):
        load_network("speaker", "statistics")


# -- UTMOS -------------------------------------------------------------------------------------------------------------


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
    x = noise(0.7)  # an odd number of frames
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


# -- exported networks -------------------------------------------------------------------------------------------------

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
    hearing = Hearing(network, tmp_path / "cache")
    for _ in range(2):
        assert np.isclose(hearing.with_video(x, frames)["score"], expected, atol=1e-5)
    darker = hearing.with_video(x, frames // 2)["score"]
    assert (hearing.heard, hearing.remembered) == (2, 1) and darker < expected - 1
    with pytest.raises(MetricFailure, match="3 pictures, imagebind needs 4"):
        hearing.with_video(x, frames[:3])
    with pytest.raises(MetricFailure, match="only together with a video"):
        network(x)


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
