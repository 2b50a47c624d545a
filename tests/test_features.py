"""F0, voices and pictures as features."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_sources import RATE, save_x_vector_model, voice, write_flash
from unisono.errors import UserError
from unisono.features import f0, pretrained, speaker, video


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flash(tmp_path_factory.mktemp("a video") / "flash.mp4")


@pytest.fixture(scope="module")
def x_vector_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_x_vector_model(tmp_path_factory.mktemp("x vectors"))


def cents(found_hz: np.ndarray, true_hz: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(found_hz / true_hz)


# -- F0 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "rate_hz", "method"), [(16_000, 100.0, "harvest"), (24_000, 93.75, "dio")])
def test_f0_of_a_glide_stands_at_the_middle_of_its_frames(rate: int, rate_hz: float, method: str) -> None:
    pytest.importorskip("pyworld")
    duration_s, octaves_per_s = 0.803, 2.0
    glide_hz = 150 * 2 ** (octaves_per_s * np.arange(round(duration_s * rate)) / rate)
    found_hz = f0.estimate_f0(voice(glide_hz, duration_s, rate), rate, rate_hz, method=method)
    assert found_hz.dtype == np.float32
    assert len(found_hz) == int(np.ceil(round(duration_s * rate) * rate_hz / rate))
    true_hz = 150 * 2 ** (octaves_per_s * (np.arange(len(found_hz)) + 0.5) / rate_hz)
    inner = slice(5, -5)
    assert (found_hz[inner] > 0).mean() > 0.95
    voiced = np.flatnonzero(found_hz[inner] > 0) + 5
    # Half a frame off would be twelve cents.
    assert abs(np.median(cents(found_hz[voiced], true_hz[voiced]))) < 4


def test_f0_of_what_has_none_is_zero_and_short_recordings_do_no_harm() -> None:
    pytest.importorskip("pyworld")
    for samples, frames in ((1, 1), (160, 1), (161, 2), (3_000, 19)):
        assert f0.estimate_f0(np.zeros(samples), RATE).tolist() == [0.0] * frames
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    assert (f0.estimate_f0(noise, RATE, method="dio") > 0).mean() < 0.3


def test_f0_settings_out_of_range_are_told() -> None:
    pytest.importorskip("pyworld")
    tone = voice(200.0, 0.2)
    for message, options in (
        ("choose one of harvest, dio", {"method": "yin"}),
        ("rate_hz is 0", {"rate_hz": 0.0}),
        ("floor_hz is 500", {"floor_hz": 500.0, "ceil_hz": 400.0}),
        ("needs at least", {"ceil_hz": 4_000.0, "sample_rate": 6_000}),
        ("shape", {"waveform": np.zeros((2, 100))}),
        ("empty", {"waveform": np.zeros(0)}),
        ("NaN", {"waveform": np.full(100, np.nan)}),
    ):
        with pytest.raises(UserError, match=message):
            f0.estimate_f0(**{"waveform": tone, "sample_rate": RATE, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate_hz", "target_hz"), [(100, 50), (100, 93.75), (50, 100), (200, 50), (86.13, 50), (50, 50)]
)
def test_a_resampled_contour_keeps_pitch_and_voicing(rate_hz: float, target_hz: float) -> None:
    duration_s = 2.0
    frames, target_frames = round(duration_s * rate_hz), round(duration_s * target_hz)
    middles_s = (np.arange(frames) + 0.5) / rate_hz
    voiced = ((middles_s > 0.3) & (middles_s < 1.0)) | (middles_s > 1.3)
    contour = np.where(voiced, 200 * 2**middles_s, 0.0)
    found = f0.resample_f0(contour, rate_hz, target_hz, target_frames)
    assert found.shape == (target_frames,) and found.dtype == np.float32
    times_s = (np.arange(target_frames) + 0.5) / target_hz
    covering = np.minimum((times_s * rate_hz + 1e-9).astype(int), frames - 1)
    assert ((found > 0) == voiced[covering]).mean() > 0.97
    frame_s = 1 / min(rate_hz, target_hz)
    true_voiced = ((times_s > 0.3) & (times_s < 1.0)) | (times_s > 1.3)
    for place in np.flatnonzero((found > 0) != true_voiced):
        assert min(abs(times_s[place] - edge) for edge in (0.3, 1.0, 1.3)) <= frame_s
    both = found > 0
    assert np.abs(cents(found[both], 200 * 2 ** times_s[both])).max() <= 1200 * frame_s
    if rate_hz == target_hz:
        assert found == pytest.approx(contour)


@pytest.mark.parametrize("rate_hz", [50, 86.13, 100, 200])
def test_a_part_of_a_contour_begins_at_its_time_not_at_the_nearest_frame(rate_hz: float) -> None:
    slope = 100 + 300 * (np.arange(round(3 * rate_hz)) + 0.5) / rate_hz  # Hz, a line over time
    for start_s in (0.0, 0.013, 0.7531, 1.2345):
        part = f0.resample_f0(slope, rate_hz, 50, 60, start_s)
        times_s = start_s + (np.arange(60) + 0.5) / 50
        inside = times_s > 0.5 / rate_hz
        # Interpolated in log frequency, so within a few thousandths of the line.
        assert np.abs(cents(part[inside], 100 + 300 * times_s[inside])).max() < 2
    for start_s in (-0.1, 1.9):
        with pytest.raises(UserError, match=r"60 frames at 50 Hz, 1\.200 s, are wanted from"):
            f0.resample_f0(slope, rate_hz, 50, 60, start_s)


def test_a_contour_is_never_stretched_unsaid() -> None:
    contour = np.full(100, 220.0)
    for frames in (49, 50, 51):
        assert (f0.resample_f0(contour, 100, 50, frames) == 220).all()
    for frames in (0, 48, 52):
        with pytest.raises(UserError, match="may differ by one frame"):
            f0.resample_f0(contour, 100, 50, frames)
    for bad, message in ((np.array([1.0, np.nan]), "frame 1"), (np.array([-1.0]), "frame 0"), (np.zeros(0), "shape")):
        with pytest.raises(UserError, match=message):
            f0.resample_f0(bad, 100, 100, max(1, len(bad)))
    with pytest.raises(UserError, match="target_rate_hz is 0"):
        f0.resample_f0(contour, 100, 0, 1)


# -- voices -----------------------------------------------------------------------------------------------------------


def test_statistics_tell_voices_apart() -> None:
    pytest.importorskip("pyworld")
    encoder = speaker.load_speaker_encoder("statistics")
    rng = np.random.default_rng(0)

    def said_by(f0_hz: float, tilt: float) -> np.ndarray:
        melody = f0_hz * 2 ** (0.1 * np.sin(np.linspace(0, rng.uniform(10, 20), 2 * RATE)))
        vector = encoder(voice(melody, 2.0, tilt=tilt) * rng.uniform(0.3, 1.0))
        assert vector.shape == (encoder.dim,) and vector.dtype == np.float32
        return vector

    one, other = [said_by(110, 1.0) for _ in range(3)], [said_by(210, 1.6) for _ in range(3)]
    within = max(np.linalg.norm(a - b) for group in (one, other) for a in group for b in group)
    between = min(np.linalg.norm(a - b) for a in one for b in other)
    assert between > 2 * within
    for bad, message in ((np.zeros(RATE), "silent"), (np.ones(800), "too short"), (np.zeros((2, RATE)), "shape")):
        with pytest.raises(UserError, match=message):
            encoder(bad)


def test_a_model_of_transformers_gives_vectors(x_vector_model: Path) -> None:
    encoder = speaker.load_speaker_encoder(str(x_vector_model))
    noise = np.random.default_rng(0).normal(0, 0.1, 45 * RATE).astype(np.float32)
    long, short = encoder(noise), encoder(noise[:RATE])
    assert encoder.sample_rate == RATE
    assert long.shape == short.shape == (encoder.dim,) == (12,)
    assert np.linalg.norm(long) == pytest.approx(1, abs=1e-5)
    assert (encoder(noise[:RATE]) == short).all()
    again = speaker.load_speaker_encoder(str(x_vector_model))
    assert again.fingerprint == encoder.fingerprint
    with torch.no_grad():
        next(again.model.parameters()).add_(1e-3)
    assert pretrained.weights_fingerprint(again.model) != encoder.fingerprint


def test_what_is_no_speaker_model_is_refused(x_vector_model: Path, tmp_path: Path, monkeypatch) -> None:
    from transformers import WavLMModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nothing-here: cannot be loaded as a speaker model"):
        speaker.load_speaker_encoder(str(tmp_path / "nothing-here"))
    # Without its head, a model would get one of random numbers.
    WavLMModel.from_pretrained(x_vector_model).save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="has no weights for"):
        speaker.load_speaker_encoder(str(tmp_path / "headless"))
    # Pickled weights are not opened.
    (tmp_path / "pickled").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "pickled" / name).write_bytes((x_vector_model / name).read_bytes())
    torch.save({}, tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        speaker.load_speaker_encoder(str(tmp_path / "pickled"))


def test_resemblyzer_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "resemblyzer", None)
        with pytest.raises(UserError, match="webrtcvad-wheels"):
            speaker.load_speaker_encoder("resemblyzer")

    class VoiceEncoder(torch.nn.Linear):
        """Stands for theirs: the same names and shapes."""

        def __init__(self, device: str, verbose: bool) -> None:
            super().__init__(1, 256)
            self.device = torch.device(device)

        def embed_utterance(self, wav: np.ndarray) -> np.ndarray:
            return self(torch.tensor([[float(np.abs(wav).mean())]]))[0].numpy()

    module = types.ModuleType("resemblyzer")
    module.VoiceEncoder = VoiceEncoder  # type: ignore[attr-defined]
    module.preprocess_wav = lambda wav, source_sr: wav[np.abs(wav) > 0.01]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "resemblyzer", module)
    encoder = speaker.load_speaker_encoder("resemblyzer")
    assert encoder(voice(150.0, 1.0)).shape == (encoder.dim,)
    with pytest.raises(UserError, match=r"only 0\.00 s of speech"):
        encoder(np.full(RATE, 1e-3))


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_luminance_tells_when_and_where_something_happens(flash: Path) -> None:
    encoder = video.load_video_encoder("luminance")
    vectors = video.video_features(flash, encoder, 25.0)
    assert vectors.shape == (50, encoder.dim) and vectors.dtype == np.float32
    brightness, change = vectors[:, :64].reshape(50, 8, 8), vectors[:, 64:].reshape(50, 8, 8)
    assert set(np.flatnonzero(change.mean(axis=(1, 2)) > 0.1)) == {20, 30}
    assert brightness[25, :, :4].min() > 0.6 > 0.2 > brightness[25, :, 4:].max()
    assert (change[0] == 0).all()
    assert len(video.video_features(flash, encoder, 10.0)) == 20


def test_reading_a_few_pictures_at_a_time_changes_nothing(flash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = video.load_video_encoder("luminance")
    at_once = video.video_features(flash, encoder, 25.0)
    monkeypatch.setattr(video, "_BATCH_FRAMES", 3)
    assert (video.video_features(flash, encoder, 25.0) == at_once).all()


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained CLIP with the settings of its preprocessing."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=6)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    settings = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_a_vision_model_gives_its_own_vectors(clip_model: Path, flash: Path) -> None:
    from transformers import CLIPModel

    encoder = video.load_video_encoder(str(clip_model))
    vectors = video.video_features(flash, encoder, 5.0)
    assert vectors.shape == (10, encoder.dim) == (10, 6)
    assert encoder.size == 32
    from unisono.media.video import read_video_frames

    pixels = (read_video_frames(flash, 5.0, 32) / 255.0 - 0.4) / 0.3
    with torch.inference_mode():
        output = CLIPModel.from_pretrained(clip_model).get_image_features(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        )
    expected = getattr(output, "pooler_output", output)
    assert vectors == pytest.approx(expected.numpy(), abs=1e-4)


def test_what_is_no_vision_model_is_refused(x_vector_model: Path, clip_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no square pictures"):
        video.load_video_encoder(str(x_vector_model))
    for path in clip_model.iterdir():
        if path.name != "preprocessor_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        video.load_video_encoder(str(tmp_path))
