"""The loss reaches every trainable parameter that a task uses, no frozen one, and leaves none without a gradient.

A parameter without a gradient tensor would stall the other processes of a distributed training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from feature_sources import save_text_encoder
from oobleck import HOP, SMALL, loaded, saved
from toy import randomised, toy_collator, toy_model
from unisono.data.collate import Collator
from unisono.models.backbone import InputFusionDiT, LayerFusionDiT
from unisono.models.content_adapter import ContentAdapter, CrossAttentionAdapter, PrefixAdapter
from unisono.models.content_adapter.base import DurationPredictor
from unisono.models.content_encoder import (
    AudioEncoder,
    ByteTextEncoder,
    PhonemeEncoder,
    PitchEncoder,
    PretrainedTextEncoder,
    ScoreEncoder,
    VideoEncoder,
)
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives import FlowMatching
from unisono.tasks import TASKS
from unisono.threads import one_torch_thread
from unisono.training.audio_generation_trainer import AudioGenerationTrainer
from unisono.training.losses import AudioGenerationLoss, DurationError, LossResult
from unisono.training.metrics import MeanMetrics
from unisono.types import (
    Alignment,
    AudioContent,
    Batch,
    Condition,
    Content,
    PhonemeContent,
    PitchContent,
    Sample,
    ScoreContent,
    TextContent,
    VideoContent,
)

DIM, FRAMES = 16, 30
RATE_HZ = 24_000 / HOP
VOICE = torch.tensor([1.0, -2.0, 0.5])
# Variants of one task that differ in what its encoder uses.
CASES = [*TASKS, "video_to_audio from features"]


def build(source: Path, variant: str) -> UnifiedAudioModel:
    """With weights everywhere, frozen ones too; no weight is at the zero where it begins."""
    torch.manual_seed(0)
    text: type | None = ByteTextEncoder if variant == "bytes" else None
    small = {"num_layers": 1, "num_heads": 2}
    voices = {**small, "phonemes": TOY_PHONEMES, "speakers": TOY_SPEAKERS, "speaker_embedding_dim": len(VOICE)}
    adapter, backbone = (CrossAttentionAdapter, InputFusionDiT) if text else (PrefixAdapter, LayerFusionDiT)
    model = UnifiedAudioModel(
        autoencoder=loaded(source / "oobleck.safetensors").requires_grad_(True),  # the model freezes it
        instruction_encoder=text(12, **small) if text else PretrainedTextEncoder(12, str(source), **small),
        content_encoders={
            "text": text(DIM, **small) if text else PretrainedTextEncoder(DIM, str(source), **small),
            "phoneme": PhonemeEncoder(DIM, inner_dim=8, **voices),
            "score": ScoreEncoder(DIM, **voices),
            "pitch": PitchEncoder(DIM, **voices),
            "audio": AudioEncoder(DIM, latent_dim=SMALL["latent_dim"], **small),
            "video": VideoEncoder(DIM, feature_dim=3, channels=8, **small),
        },
        content_adapter=adapter(DIM, instruction_dim=12, num_heads=2),
        backbone=backbone(latent_dim=SMALL["latent_dim"], dim=DIM, num_layers=4, num_heads=2, frames_dim=DIM),
        objective=FlowMatching(),
        instruction_drop_ratio=0.05,
    )
    return randomised(model).train()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower with two."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the frozen parts."""
    folder = save_text_encoder(tmp_path_factory.mktemp("frozen parts"))
    saved(folder)
    return folder


def content_of(case: str, number: int) -> Content:
    """One of three items: each names a voice in another way, or not at all."""
    g = torch.Generator().manual_seed(number)
    units = 4 + number
    phonemes = tuple(TOY_PHONEMES[i] for i in torch.randint(8, (units,), generator=g).tolist())
    durations_s = torch.full((units,), FRAMES / RATE_HZ / units)
    speaker = (TOY_SPEAKERS[0], VOICE, None)[number]
    notes = torch.randint(48, 72, (units,), generator=g) + 0.25
    f0_hz = 200 + 100 * torch.rand(FRAMES, generator=g)
    modality = TASKS[case.split()[0]].modality
    if case.endswith("features"):
        return VideoContent(RATE_HZ / 3, features=torch.randn(10, 3, generator=g))
    return {
        "text": TextContent(("two slow knocks", "rain on a tin roof", "a bell")[number]),
        "phoneme": PhonemeContent(phonemes, durations_s, speaker),
        "score": ScoreContent(phonemes, notes, durations_s * 2, torch.arange(units) % 2 == 1, durations_s, speaker),
        "pitch": PitchContent(phonemes, durations_s, f0_hz, torch.rand(FRAMES, generator=g) > 0.3, speaker),
        "audio": AudioContent(0.3 * torch.randn(FRAMES * HOP, generator=g)),
        "video": VideoContent(RATE_HZ / 3, torch.randint(256, (10, 16, 16, 3), generator=g, dtype=torch.uint8)),
    }[modality]


def batch_of(case: str, source: Path, variant: str) -> Batch:
    task = TASKS[case.split()[0]]
    samples = [
        Sample(
            f"{case} {number}",
            task.name,
            task.instructions[number],
            (content_of(case, number),),
            waveform=0.3 * torch.randn(FRAMES * HOP, generator=torch.Generator().manual_seed(number)),
        )
        for number in range(3)
    ]
    reader = None if variant == "bytes" else str(source)
    voices = {"phonemes": TOY_PHONEMES, "speakers": TOY_SPEAKERS}
    return Collator(**voices, hop_samples=HOP, text_tokenizer=reader, instruction_tokenizer=reader)(samples)


def backward(model: UnifiedAudioModel, batch: Batch, drop: Tensor | None) -> dict[str, Tensor]:
    """Gradients of the trainable parameters, after those of the frozen ones were looked for."""
    torch.manual_seed(0)
    AudioGenerationLoss()(model(batch, drop=drop)).total.backward()
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert any(name.startswith("autoencoder.") for name in frozen)
    assert not [name for name, p in frozen.items() if p.grad is not None]
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def is_used(name: str, model: UnifiedAudioModel, case: str) -> bool:
    """Whether the loss of an undisturbed item of the task depends on a trainable parameter."""
    modality = TASKS[case.split()[0]].modality
    alignment = model.content_encoders[modality].alignment
    part, _, rest = name.partition(".")
    if part == "content_encoders":
        own, _, rest = rest.partition(".")
        other = "pictures" if case.endswith("features") else "features"
        return own == modality and not (modality == "video" and rest.startswith(other))
    by_alignment = {
        "null_frame": alignment is Alignment.NONE,
        "null_context": alignment is not Alignment.NONE,
        "null_instruction": False,
        "global_predictor": alignment is Alignment.NONE,
        "local_predictor": alignment is Alignment.UNITS,
    }
    return by_alignment.get(part, by_alignment.get(rest.partition(".")[0], True))


def is_blind(name: str, model: UnifiedAudioModel, case: str) -> bool:
    """Whether the softmax of cross-attention cancels the gradient: it ignores what is added to all keys alike.

    With one key, the null context, there is nothing to choose, and so no gradient for what chooses. (In self-attention
    each position turns the keys its own way.)
    """
    if ".cross" not in name and ".summarise." not in name:
        return False
    alignment = model.content_encoders[TASKS[case.split()[0]].modality].alignment
    one_key = name.startswith("backbone.") and alignment is not Alignment.NONE
    choosing = ("cross_norm", "to_query", "query_norm", "key_norm")
    return name.endswith("key_norm.bias") or (one_key and any(part in name for part in choosing))


@pytest.mark.parametrize("variant", ["pretrained", "bytes"])
@pytest.mark.parametrize("case", CASES)
def test_a_task_alone(case: str, variant: str, source: Path) -> None:
    model = build(source, variant)
    gradients = backward(model, batch_of(case, source, variant), torch.zeros(3).bool())
    used = {name for name in gradients if is_used(name, model, case)}
    lost = [name for name in used if not is_blind(name, model, case) and float(gradients[name].abs().max()) < 1e-7]
    stray = [name for name in gradients.keys() - used if gradients[name].any()]
    assert not lost and not stray
    assert 50 < len(used) < len(gradients) - 50


@pytest.mark.parametrize("case", CASES)
def test_items_that_lose_their_conditions(case: str, source: Path) -> None:
    """Both null embeddings learn from them. When all do, an encoder learns from durations alone, by a tenth."""
    model, batch = build(source, "bytes"), batch_of(case, source, "bytes")
    some = backward(model, batch, torch.tensor([True, False, False]))
    assert some["null_frame"].any() and some["null_context"].any()
    modality = TASKS[case.split()[0]].modality
    has_durations = model.content_encoders[modality].alignment is not Alignment.FRAMES
    model.zero_grad()
    for name, gradient in backward(model, batch, torch.ones(3).bool()).items():
        if name.startswith(("content_encoders.", "instruction_encoder.")):
            is_own = name.startswith((f"content_encoders.{modality}.", "instruction_encoder."))
            assert bool(gradient.any()) == (is_own and has_durations), name


def test_items_that_lose_their_instruction(source: Path) -> None:
    model, batch = build(source, "bytes"), batch_of("speech_enhancement", source, "bytes")
    model.cfg_drop_ratio, model.instruction_drop_ratio = 0.0, 1.0
    for name, gradient in backward(model, batch, None).items():
        if name.startswith(("null_instruction", "instruction_encoder.")):
            assert bool(gradient.any()) == (name == "null_instruction"), name


@pytest.mark.parametrize("adapter", [PrefixAdapter, CrossAttentionAdapter])
def test_an_adapter_predicts_the_durations_that_a_content_has(adapter: type[ContentAdapter]) -> None:
    torch.manual_seed(0)
    layer = adapter(DIM, 12, num_heads=2)
    content = Condition(torch.randn(2, 5, DIM), torch.arange(5) < torch.tensor([[5], [3]]))
    instruction = Condition(torch.randn(2, 4, 12), torch.ones(2, 4).bool())
    both = layer(content, instruction)
    assert both.global_duration.shape == (2,) and both.local_duration.shape == (2, 5)
    for alignment in Alignment:
        made = layer(content, instruction, alignment)
        assert torch.equal(made.content.tensor, both.content.tensor)
        for name, kind in (("global_duration", Alignment.NONE), ("local_duration", Alignment.UNITS)):
            predicted = getattr(made, name)
            assert torch.equal(predicted, getattr(both, name)) if alignment is kind else predicted is None


def test_a_share_of_the_gradient_leaves_the_numbers_as_they_are() -> None:
    predictor = DurationPredictor(DIM, 0.1).bfloat16()
    x = torch.randn(64, DIM, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    made = predictor(x)
    assert torch.equal(made, predictor.network(x).squeeze(-1).float())
    (gradient,) = torch.autograd.grad(made.sum(), x)
    predictor.gradient_scale = 1.0
    (whole,) = torch.autograd.grad(predictor(x).sum(), x)
    torch.testing.assert_close(gradient, 0.1 * whole)
    assert whole.any()


def test_losses_are_reported_for_each_task() -> None:
    """Means over the items of a task; unknown durations do not count."""
    tasks = list(TASKS)
    names = ("text_to_audio", "text_to_speech", "text_to_speech", "video_to_audio", "text_to_music")
    task_index = torch.tensor([tasks.index(name) for name in names])
    local = DurationError(torch.tensor([1.0, 0.0]), torch.tensor([True, False]), task_index[1:3])
    whole = DurationError(torch.tensor([4.0, 8.0]), torch.ones(2).bool(), task_index[[0, 4]])
    result = LossResult(torch.tensor(0.0), torch.ones(5), torch.arange(5.0), {"local": local, "global": whole})
    metrics, batch = MeanMetrics(), Batch(tuple("abcde"), names, task_index, {})
    trainer = SimpleNamespace(log=lambda name, values, mask=None: metrics.update(name, values, mask))
    AudioGenerationTrainer._report(trainer, "val", result, batch)  # type: ignore[arg-type]
    assert metrics.compute() == {
        "val/loss": 2.0, "val/loss/text_to_audio": 0.0, "val/loss/text_to_speech": 1.5,
        "val/loss/video_to_audio": 3.0, "val/loss/text_to_music": 4.0,
        "val/local_duration_loss": 1.0, "val/local_duration_loss/text_to_speech": 1.0,
        "val/global_duration_loss": 6.0, "val/global_duration_loss/text_to_audio": 4.0,
        "val/global_duration_loss/text_to_music": 8.0,
    }  # fmt: skip


def test_a_batch_of_nothing_but_instructions_leaves_no_parameter_without_gradient() -> None:
    model = randomised(toy_model(32, 2)).train()
    sample = Sample("a", "text_to_audio", "Make a sound.", (), waveform=torch.randn(14_400) * 0.1)
    AudioGenerationLoss()(model(toy_collator()([sample]))).total.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
