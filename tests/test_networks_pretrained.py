"""Networks of transformers, with tiny random weights in the layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from feature_sources import save_x_vector_model
from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure
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
