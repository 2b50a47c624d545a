"""Captions and instructions through a frozen encoder of transformers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from feature_sources import save_text_encoder
from toy import toy_dataset, toy_model
from unisono.data.collate import Collator
from unisono.data.feature_cache.attach import attach
from unisono.data.feature_cache.build import fill_demands
from unisono.data.feature_cache.demands import demands_of, parts_of
from unisono.errors import UserError
from unisono.models.content_encoder import PretrainedTextEncoder
from unisono.models.unified import UnifiedAudioModel
from unisono.text.tokens import PretrainedTokenizer
from unisono.threads import one_torch_thread
from unisono.training.weights import frozen_fingerprints, trainable_state

TEXTS = ["A dog barks.", "Rain on a tin roof, then thunder far away – ünd Wind.", "Hi"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("models") / "a tiny T5")


@pytest.fixture
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def test_a_text_is_encoded_alike_alone_in_a_batch_and_from_the_cache(folder: Path) -> None:
    encoder, tokenize = PretrainedTextEncoder(32, str(folder)), PretrainedTokenizer(str(folder))
    together = encoder(tokenize(TEXTS))
    embeddings = encoder.embed(TEXTS)
    padded = torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
    cached = encoder(embedding=padded, lengths=torch.tensor([len(e) for e in embeddings]))
    assert torch.equal(together.mask, cached.mask) and together.tensor.shape == (3, max(map(len, embeddings)), 32)
    for row, text in enumerate(TEXTS):
        valid = together.mask[row]
        alone = encoder(tokenize([text])).tensor[0]
        for other in (together.tensor[row][valid], cached.tensor[row][valid]):
            torch.testing.assert_close(other, alone, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(encoder(tokenize(["A cat"])).tensor[0, :3], together.tensor[0, :3], atol=1e-3)


def test_only_what_follows_the_encoder_is_trained_and_saved(tmp_path: Path) -> None:
    folder = save_text_encoder(tmp_path / "its own weights")
    encoder = PretrainedTextEncoder(32, str(folder), num_layers=1)
    assert PretrainedTextEncoder(16, str(folder)).encoder is encoder.encoder  # held once
    encoder.train()
    assert encoder.project.training and not any(module.training for module in encoder.encoder.modules())
    encoder(PretrainedTokenizer(str(folder))(TEXTS)).tensor.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder."), name
    assert {name.split(".")[0] for name in trainable_state(encoder)} == {"project", "transformer"}
    # A run does not go on beside another encoder.
    before = frozen_fingerprints(encoder)
    assert before == {"encoder": encoder.fingerprint}
    other = PretrainedTextEncoder(32, str(save_text_encoder(tmp_path / "other", "bert")), num_layers=1)
    assert frozen_fingerprints(other) != before


def test_what_cannot_be_an_encoder_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*text encoder"):
        PretrainedTextEncoder(32, str(tmp_path / "empty"))
    bert = PretrainedTextEncoder(32, str(save_text_encoder(tmp_path / "bert", "bert")))
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut: cannot be loaded as a text encoder.*safetensors"):
        PretrainedTextEncoder(32, str(cut))
    with pytest.raises(UserError, match=r"has 42 tokens.*reads 32"):
        bert(PretrainedTokenizer(str(tmp_path / "bert"))(["x" * 41]))
    with pytest.raises(UserError, match="have 3 values"):
        bert(embedding=torch.zeros(1, 2, 3), lengths=torch.tensor([2]))
    with pytest.raises(UserError, match="is empty"):
        PretrainedTokenizer(str(folder))(["good", " "])


def frozen_text_model(folder: Path) -> UnifiedAudioModel:
    model = toy_model(dim=32, layers=1)
    torch.manual_seed(3)
    model.instruction_encoder = PretrainedTextEncoder(32, str(folder))
    model.content_encoders["text"] = PretrainedTextEncoder(32, str(folder))
    return model.eval()


def test_a_model_sees_the_same_texts_with_and_without_the_cache(
    toy_corpus: Path, folder: Path, tmp_path: Path, one_thread: None
) -> None:
    model, dataset = frozen_text_model(folder), toy_dataset(toy_corpus, "text_to_audio")
    collate = Collator(TOY_PHONEMES, TOY_SPEAKERS, text_tokenizer=str(folder), instruction_tokenizer=str(folder))
    plain = collate([dataset.sample(item, epoch=2) for item in range(len(dataset))])
    demands = demands_of(parts_of(model), [[dataset]])
    assert sorted(demand.encoder.spec.kind for demand in demands) == ["latents", "texts"]  # one encoder, one store
    with pytest.raises(UserError, match=r"have no (latents|texts) in .*unisono cache"):
        attach([dataset], parts_of(model), tmp_path)
    assert dataset.captions is None and dataset.latents is None
    assert all(result.num_missing == 0 for result in fill_demands(demands, tmp_path, 1))
    attach([dataset], parts_of(model), tmp_path)
    cached = collate([dataset.sample(item, epoch=2) for item in range(len(dataset))])
    assert set(cached.instruction) == set(cached.contents["text"].inputs) == {"embedding", "lengths"}
    sigma, noise = torch.full((len(plain),), 0.5), torch.randn(len(plain), 30, 40)
    outputs = [model(batch, sigma=sigma, noise=noise) for batch in (plain, cached)]
    torch.testing.assert_close(outputs[0].prediction, outputs[1].prediction, atol=1e-5, rtol=1e-4)
    durations = [output.global_durations[0].prediction for output in outputs]
    torch.testing.assert_close(durations[0], durations[1], atol=1e-5, rtol=1e-4)
    # Other weights ask another store: a stale embedding cannot be read.
    other = frozen_text_model(save_text_encoder(tmp_path / "other", "bert"))
    with pytest.raises(UserError, match="have no texts"):
        attach([dataset], parts_of(other), tmp_path)


def test_the_check_counts_a_frozen_encoder_without_its_weights(folder: Path) -> None:
    from unisono.config import compose
    from unisono.training.fake_step import model_without_weights

    overrides = [
        "model/content_encoder@model.content_encoders.text=pretrained_text",
        f"model.content_encoders.text.pretrained='{folder}'",
    ]
    model = model_without_weights(compose("default", overrides).model)
    encoder = model.content_encoders["text"]  # type: ignore[index]
    assert all(parameter.is_meta for parameter in encoder.encoder.parameters())
    real = PretrainedTextEncoder(8, str(folder))
    assert real.fingerprint and not any(parameter.is_meta for parameter in real.parameters())
