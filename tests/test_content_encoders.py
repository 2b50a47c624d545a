"""Encoders of scores, pitch contours and videos: every input counts, padding and neighbours do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from toy import toy_model
from unisono.data.collate import Collator
from unisono.errors import UserError
from unisono.models.content_encoder import PhonemeEncoder, PitchEncoder, ScoreEncoder, VideoEncoder
from unisono.types import Condition, PhonemeContent, PitchContent, Sample, ScoreContent, VideoContent

DIM, LATENT_RATE_HZ = 16, 50.0


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def encoders() -> dict[str, torch.nn.Module]:
    voices = {"phonemes": TOY_PHONEMES, "speakers": TOY_SPEAKERS, "num_heads": 2, "speaker_embedding_dim": 4}
    return {
        "phoneme": randomised(PhonemeEncoder(DIM, num_layers=1, **voices)),
        "score": randomised(ScoreEncoder(DIM, num_layers=1, **voices)),
        "pitch": randomised(PitchEncoder(DIM, num_layers=1, **voices)),
        "video": randomised(VideoEncoder(DIM, feature_dim=3, channels=4, num_layers=1, num_heads=2)),
    }


def contents(seed: int = 0, units: int = 4, frames: int = 30) -> dict[str, object]:
    g = torch.Generator().manual_seed(seed)
    durations = torch.rand(units, generator=g) + 0.05
    durations = durations / durations.sum() * frames / LATENT_RATE_HZ
    phonemes = tuple(TOY_PHONEMES[i] for i in torch.randint(8, (units,), generator=g).tolist())
    notes = torch.randint(48, 72, (units,), generator=g).float()
    return {
        "phoneme": PhonemeContent(phonemes, durations, "ann"),
        "score": ScoreContent(phonemes, notes, durations, torch.zeros(units).bool(), durations, "bob"),
        "pitch": PitchContent(
            phonemes, torch.full((units,), frames / 50 / units), 200 + 100 * torch.rand(frames, generator=g),
            torch.ones(frames).bool(), "ann",
        ),
        "video": VideoContent(25.0, torch.randint(256, (frames // 2, 16, 16, 3), generator=g, dtype=torch.uint8)),
    }  # fmt: skip


def encode(modality: str, *given: object) -> Condition:
    samples = [Sample(str(i), "text_to_audio", "x", (content,)) for i, content in enumerate(given)]
    inputs: dict = dict(Collator(TOY_PHONEMES, TOY_SPEAKERS)(samples).contents[modality].inputs)
    with torch.no_grad():
        return encoders()[modality](**inputs)


MODALITIES = ["phoneme", "score", "pitch", "video"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_padding_and_neighbours_do_not_change_an_item(modality: str) -> None:
    short, long = contents(0)[modality], contents(1, units=7, frames=44)[modality]
    alone, together = encode(modality, short), encode(modality, long, short)
    length = int(alone.mask.sum())
    assert int(together.mask[1].sum()) == length < together.tensor.shape[1]
    assert torch.allclose(together.tensor[1, :length], alone.tensor[0], atol=1e-5)


def changed(modality: str, name: str) -> object:
    content = contents()[modality]
    value = getattr(content, name)
    if name == "speaker":
        new: object = None
    elif name == "phonemes":
        new = (*value[:-1], "h" if value[-1] != "h" else "a")
    elif isinstance(value, Tensor):
        new = ~value if value.dtype == torch.bool else 255 - value if value.dtype == torch.uint8 else value * 1.3
    return type(content)(**{**content.__dict__, name: new})


INPUTS = [("phoneme", "phonemes"), ("phoneme", "speaker"), ("score", "phonemes"), ("score", "notes")]
INPUTS += [("score", "note_durations_s"), ("score", "slurs"), ("score", "speaker"), ("pitch", "phonemes")]
INPUTS += [("pitch", "f0_hz"), ("pitch", "voicing"), ("pitch", "speaker"), ("video", "frames")]


@pytest.mark.parametrize(("modality", "name"), INPUTS)
def test_everything_an_encoder_is_given_counts(modality: str, name: str) -> None:
    before, after = encode(modality, contents()[modality]), encode(modality, changed(modality, name))
    assert (before.tensor - after.tensor).abs().max() > 1e-3


def test_an_unvoiced_frame_has_no_pitch() -> None:
    content = contents()["pitch"]
    silent = [
        PitchContent(content.phonemes, content.durations_s, f0, torch.zeros(30).bool(), "ann")
        for f0 in (content.f0_hz, torch.zeros(30))
    ]
    assert torch.equal(encode("pitch", silent[0]).tensor, encode("pitch", silent[1]).tensor)


@pytest.mark.parametrize("modality", ["phoneme", "score", "pitch"])
def test_a_reference_voice_is_heard_and_its_size_is_checked(modality: str) -> None:
    content = contents()[modality]
    voice = type(content)(**{**content.__dict__, "speaker": torch.tensor([1.0, 2.0, 0.0, -1.0])})
    nobody = type(content)(**{**content.__dict__, "speaker": None})
    assert (encode(modality, voice).tensor - encode(modality, nobody).tensor).abs().max() > 1e-3
    both = encode(modality, content, voice)  # a name beside an embedding
    assert torch.allclose(both.tensor[0], encode(modality, content).tensor[0], atol=1e-5)
    larger = type(content)(**{**content.__dict__, "speaker": torch.ones(5)})
    with pytest.raises(
        UserError, match="a speaker embedding has 5 values, the model takes 4; set speaker_embedding_dim of model"
    ):
        encode(modality, larger)


def test_pictures_come_at_the_latent_rate_in_their_time() -> None:
    frames = torch.zeros(10, 16, 16, 3, dtype=torch.uint8)
    frames[4:] = 255  # white from 0.16 s on
    condition = encode("video", VideoContent(25.0, frames))
    assert condition.mask.shape == (1, 20)
    encoder = encoders()["video"]
    encoder.transformer = torch.nn.Identity()
    encoder.transformer.forward = lambda x, mask: x
    with torch.no_grad():
        sample = Sample("a", "video_to_audio", "x", (VideoContent(25.0, frames),))
        x = encoder(**Collator()([sample]).contents["video"].inputs).tensor[0]
    same = [bool(torch.allclose(x[i], x[i - 1], atol=1e-6)) for i in range(1, 20)]
    # Black, the change at 0.16 s for one picture, white.
    assert [i + 1 for i, equal in enumerate(same) if not equal] == [8, 10]


def test_features_of_another_size_are_refused() -> None:
    assert encode("video", VideoContent(10.0, features=torch.ones(5, 3))).mask.shape == (1, 25)
    with pytest.raises(UserError, match="video features have 7 values, the model takes 3; set feature_dim"):
        encode("video", VideoContent(10.0, features=torch.ones(5, 7)))


def test_one_batch_of_every_modality_trains_every_encoder() -> None:
    model = toy_model()
    kinds = {"num_layers": 1, "num_heads": 2, "phonemes": TOY_PHONEMES, "speakers": TOY_SPEAKERS}
    model.content_encoders["score"] = ScoreEncoder(64, **kinds)
    model.content_encoders["pitch"] = PitchEncoder(64, **kinds)
    model.content_encoders["video"] = VideoEncoder(64, channels=4)
    samples = [
        Sample(str(i), "text_to_audio", "x", (content,), waveform=torch.randn(14_400) * 0.1)
        for i, content in enumerate(contents().values())
    ]
    model.train()
    # The last layer begins at zero, and nothing would flow through it.
    torch.nn.init.normal_(model.backbone.output.weight)
    output = model(Collator(TOY_PHONEMES, TOY_SPEAKERS)(samples), drop=torch.zeros(4).bool())
    loss = output.prediction.square().mean() + sum(d.prediction.square().mean() for d in output.local_durations)
    loss.backward()
    for name in ("phoneme", "score", "pitch", "video"):
        grads = {n: p.grad for n, p in model.content_encoders[name].named_parameters()}
        missing = [n for n, grad in grads.items() if grad is None or not bool(grad.abs().sum() > 0)]
        assert not missing, (name, missing)
