"""Conversions between seconds, samples and frames; reading, checking and writing of waveforms."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from unisono import timing
from unisono.errors import UserError
from unisono.media.audio import audio_info, read_audio, verify_audio_file, write_audio

RATE = 24_000


def sine(f0_hz: float, duration_s: float, sample_rate: int = RATE, level: float = 0.5) -> np.ndarray:
    t = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * f0_hz * t)).astype(np.float32)


# -- timing ---------------------------------------------------------------------------------------------------------


def test_cumulative_rounding_does_not_drift() -> None:
    # 0.031 s is 1.55 frames of 20 ms: rounded each, a unit gains 9 ms.
    durations = torch.full((1, 200), 0.031)
    ends = timing.unit_boundaries(durations, 50.0)
    exact = torch.arange(1, 201, dtype=torch.float64) * 0.031 * 50
    assert (ends[0] - exact).abs().max() <= 0.5 + 1e-6
    per_unit = torch.floor(durations * 50 + 0.5).sum()
    assert per_unit - exact[-1] > 80  # 1.8 s: what the rule prevents


def test_boundaries_are_exact_over_an_hour_in_float32() -> None:
    ends = timing.unit_boundaries(torch.full((1, 36_000), 0.1), 50.0)
    assert ends[0].tolist() == [5 * (i + 1) for i in range(36_000)]


def test_boundaries_never_fall_and_padding_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    durations = torch.from_numpy(rng.exponential(0.02, (4, 60)))
    durations[:, 40:] = 0
    ends = timing.unit_boundaries(durations, 50.0)
    assert (ends.diff(dim=1) >= 0).all()
    assert (ends[:, 39:] == ends[:, 39:40]).all()


@pytest.mark.parametrize("hop", [1, 160, 480])
def test_frames_cover_all_samples_and_no_more(hop: int) -> None:
    samples = torch.arange(0, 3 * hop + 2)
    frames = timing.samples_to_frames(samples, hop)
    spanned = timing.frames_to_samples(frames, hop)
    assert (spanned >= samples).all() and (spanned - samples < hop).all()
    assert (timing.samples_to_frames(spanned, hop) == frames).all()
    assert frames.tolist() == [timing.samples_to_frames(int(s), hop) for s in samples]


def test_seconds_round_half_up_and_have_at_least_one_frame() -> None:
    assert timing.seconds_to_samples(2.5 / RATE, RATE) == 3  # Python's own round() gives 2
    assert timing.seconds_to_samples(3.5 / RATE, RATE) == 4
    assert all(timing.seconds_to_samples(n / RATE, RATE) == n for n in range(0, 100_000, 77))
    frames = torch.tensor([0.0, 0.4, 0.5, 1.5, 2.5, 2.6])
    # At 64 Hz halves of a frame are exact numbers.
    assert timing.seconds_to_frames(frames / 64, 64.0).tolist() == [1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("total_s", [0.29, 1.23, 4.57, 1000.01])
def test_the_length_of_a_clip_is_the_end_of_its_only_unit(total_s: float) -> None:
    for rate_hz in (50.0, 43.066, 86.13, 93.75):
        whole = timing.seconds_to_frames(total_s, rate_hz)
        assert whole == timing.unit_boundaries(torch.tensor([[total_s]], dtype=torch.float64), rate_hz)[0, 0]


@pytest.mark.parametrize("rate_hz", [50.0, 86.1328125, 93.75, 100.0, 24_000.0, 44_100.0])
def test_edges_of_neighbouring_stretches_meet_and_lie_nearest(rate_hz: float) -> None:
    rng = np.random.default_rng(0)
    edges_s = np.cumsum(rng.exponential(0.07, 400))
    indices = timing.seconds_to_index(edges_s, rate_hz)
    assert indices.dtype == np.int64 and (np.diff(indices) >= 0).all()
    assert np.abs(indices - edges_s * rate_hz).max() <= 0.5
    assert indices.tolist() == [timing.seconds_to_index(edge_s, rate_hz) for edge_s in edges_s]
    # One rule: samples, values and the units of a sentence are rounded alike.
    assert indices.tolist() == [timing.seconds_to_samples(edge_s, rate_hz) for edge_s in edges_s]
    ends = timing.unit_boundaries(torch.from_numpy(np.diff(edges_s, prepend=0.0))[None], rate_hz)
    assert (ends[0] - torch.from_numpy(indices)).abs().max() == 0


def test_a_time_before_the_beginning_rounds_up_as_well() -> None:
    assert [timing.seconds_to_index(time_s, 1.0) for time_s in (-1.5, -0.5, 0.5, 1.5)] == [-1, 0, 1, 2]


@pytest.mark.parametrize(("rate", "hop"), [(24_000, 480), (44_100, 512), (16_000, 320), (22_050, 1)])
def test_a_clip_has_the_frames_of_its_samples_however_its_length_is_written(rate: int, hop: int) -> None:
    samples = np.unique(np.random.default_rng(0).integers(1, 20 * rate, 500))
    samples = np.concatenate([samples, np.arange(1, 60) * hop, np.arange(1, 60) * hop + 1])
    frames = timing.samples_to_frames(samples, hop)
    for durations_s in (samples / rate, np.round(samples / rate, 6), (samples / rate).astype(np.float32)):
        assert (timing.clip_frames(durations_s, rate, hop) == frames).all()
        assert timing.clip_frames(float(durations_s[7]), rate, hop) == frames[7]
    assert timing.clip_frames(0.0, rate, hop) == 1


@pytest.mark.parametrize("rate_hz", [1.0, 25.0, 29.97, 50.0, 100.0, 200.0, 1000.0])
def test_frames_cover_a_recording_and_none_is_empty(rate_hz: float) -> None:
    rng = np.random.default_rng(0)
    for samples in rng.integers(1, 60 * RATE, 300).tolist():
        seconds = samples / RATE
        frames = timing.frames_covering(seconds, rate_hz)
        assert frames / rate_hz >= seconds - 1e-6
        assert frames == 1 or (frames - 1) / rate_hz < seconds
        assert timing.frames_within(seconds, rate_hz) in (frames - 1, frames)
    for frames in range(1, 2000, 7):
        # Whole frames stay as many when their length is written to six decimals.
        for seconds in (frames / rate_hz, round(frames / rate_hz, 6), frames * (1 / rate_hz)):
            assert timing.frames_covering(seconds, rate_hz) == timing.frames_within(seconds, rate_hz) == frames
    assert timing.frames_covering(0.0, rate_hz) == 1 and timing.frames_within(0.0, rate_hz) == 0


@pytest.mark.parametrize("count", [timing.latent_rate_hz, lambda rate, hop: timing.clip_frames(1.0, rate, hop)])
@pytest.mark.parametrize(("rate", "hop"), [(0, 480), (24_000, 0), (-1, 480)])
def test_a_rate_needs_positive_numbers(count: Callable[[int, int], float], rate: int, hop: int) -> None:
    with pytest.raises(ValueError, match=str(rate if rate <= 0 else hop)):
        count(rate, hop)


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_and_channels_become_the_same_mono_sound(tmp_path: Path, rate: int, channels: int) -> None:
    path = tmp_path / "with space" / "größe 音.wav"
    path.parent.mkdir()
    tone = sine(440, 0.5, rate)
    # Each channel has a level of its own; their mean is the tone.
    levels = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)
    sf.write(path, tone[:, None] * levels, rate)
    waveform = read_audio(path, RATE)
    assert waveform.dtype == np.float32 and waveform.shape == (RATE // 2,)
    middle = slice(2000, -2000)
    assert np.abs(waveform - sine(440, 0.5))[middle].max() < 2e-3
    assert audio_info(path)[:3] == (rate, 0.5, channels)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 1e-2),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "PCM_32", 1e-6),
        ("wav", "FLOAT", 1e-7),
        ("wav", "DOUBLE", 1e-7),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 5e-2),
    ],
)
def test_sample_formats_keep_their_scale(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    sf.write(tmp_path / f"a.{suffix}", sine(440, 0.3), RATE, subtype=subtype)
    assert np.abs(read_audio(tmp_path / f"a.{suffix}", RATE) - sine(440, 0.3)).max() < tolerance


@pytest.mark.parametrize("native", [8_000, 22_050, 44_100, 96_000])
def test_resampled_lengths_follow_the_rounding_rule(tmp_path: Path, native: int) -> None:
    for samples in (5, 101, 1003, 9999):
        sf.write(tmp_path / "a.wav", np.zeros(samples), native)
        assert len(read_audio(tmp_path / "a.wav", RATE)) == timing.seconds_to_samples(samples / native, RATE)


def faulty_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that must be refused, with words of the reason."""
    tone = sine(440, 1.0)
    for name in ("nan", "inf"):
        broken = np.stack([tone, tone], axis=1)
        broken[1234, 1] = float(name)
        sf.write(folder / f"{name}.wav", broken, RATE, subtype="FLOAT")
    sf.write(folder / "empty.wav", np.zeros(0), RATE)
    (folder / "text.wav").write_text("not a sound\n" * 50)
    (folder / "zero_bytes.flac").write_bytes(b"")
    sf.write(folder / "whole.flac", tone, RATE)
    whole = (folder / "whole.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + 200, b"WAVEfmt ", 16, 1, 1, 0, 0, 2, 16, b"data", 200)
    (folder / "rate_zero.wav").write_bytes(header + bytes(200))
    sf.write(folder / "slow.wav", tone, 500)
    return {
        "nan": (folder / "nan.wav", "sample 1234 is NaN"),
        "inf": (folder / "inf.wav", "sample 1234 is NaN or infinite"),
        "empty": (folder / "empty.wav", "0 samples"),
        "text": (folder / "text.wav", "not readable as audio"),
        "zero_bytes": (folder / "zero_bytes.flac", "not readable as audio"),
        "truncated": (folder / "truncated.flac", "damaged audio"),
        "rate_zero": (folder / "rate_zero.wav", "not readable as audio"),
        "slow": (folder / "slow.wav", "sample rate 500"),
        "missing": (folder / "missing.wav", "no such audio file"),
        "folder": (folder, "no such audio file"),
    }


@pytest.mark.parametrize("reader", [lambda path: read_audio(path, RATE), verify_audio_file], ids=["read", "verify"])
def test_faulty_files_are_refused_by_name_reason_and_remedy(tmp_path: Path, reader) -> None:
    for name, (path, reason) in faulty_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            reader(path)
        assert str(path) in str(caught.value) and reason in str(caught.value), name


@pytest.mark.parametrize("reader", [lambda path: read_audio(path, RATE), verify_audio_file], ids=["read", "verify"])
def test_a_file_shorter_than_its_header_is_refused(tmp_path: Path, reader) -> None:
    if "MP3" not in sf.available_formats():
        pytest.skip("this libsndfile has no mp3, the format whose header promises a length")
    sf.write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE), RATE)
    whole = (tmp_path / "a.mp3").read_bytes()
    reader(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut off \(\d+ bytes promised, \d+ there\)"):
        reader(tmp_path / "a.mp3")


def test_an_mp3_may_lack_half_a_second_of_what_its_header_estimates(tmp_path: Path) -> None:
    if "MP3" not in sf.available_formats():
        pytest.skip("this libsndfile has no mp3")
    sf.write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.3, 0.3, 4 * RATE), RATE)
    whole = bytearray((tmp_path / "a.mp3").read_bytes())
    kept, place = round(len(whole) * 0.9), max(whole.find(b"Info"), whole.find(b"Xing"))
    whole[place + 12 : place + 16] = kept.to_bytes(4, "big")  # its bytes are all there, its length is an estimate
    (tmp_path / "a.mp3").write_bytes(whole[:kept])
    assert 3.3 < len(read_audio(tmp_path / "a.mp3", RATE)) / RATE < 3.8
    assert audio_info(tmp_path / "a.mp3").tolerance_s == 0.6


def test_one_sample_is_enough_unless_resampling_leaves_none(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.full(1, 0.5), RATE)
    assert read_audio(tmp_path / "a.wav", RATE) == pytest.approx([0.5], abs=1e-4)
    assert read_audio(tmp_path / "a.wav", 48_000).shape == (2,)
    with pytest.raises(UserError, match="none at 8000 Hz"):
        read_audio(tmp_path / "a.wav", 8_000)


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_written_audio_reads_back(tmp_path: Path, suffix: str) -> None:
    path = write_audio(tmp_path / "new folder" / f"ä b{suffix}", sine(300, 0.2), RATE)
    assert np.abs(read_audio(path, RATE) - sine(300, 0.2)).max() < 1e-4


def test_peaks_over_one_are_scaled_not_clipped(tmp_path: Path) -> None:
    loud = sine(300, 0.2, level=3.0)
    written = read_audio(write_audio(tmp_path / "a.wav", loud, RATE), RATE)
    assert np.abs(written - loud / np.abs(loud).max()).max() < 1e-4
    full_scale = np.array([1.0, -1.0, 0.0], dtype=np.float32)
    assert np.abs(read_audio(write_audio(tmp_path / "b.wav", full_scale, RATE), RATE) - full_scale).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "waveform", "rate", "words"),
    [
        ("a.wav", np.array([0.0, np.nan]), RATE, "sample 1 is NaN"),
        ("a.wav", np.array([np.inf]), RATE, "infinite"),
        ("a.wav", np.zeros(0), RATE, "empty"),
        ("a.wav", np.zeros(10), 0, "sample rate 0"),
        ("a.wav", np.zeros(10), 24_000.5, "sample rate 24000.5"),
        ("a.m4a", np.zeros(10), RATE, "'.m4a'"),
        ("a", np.zeros(10), RATE, "use .wav, .flac, .ogg or .mp3"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, name: str, waveform, rate, words: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(UserError, match=words):
        write_audio(tmp_path / name, waveform, rate)
    assert (tmp_path / name).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "a.wav", sine(300, 0.2), RATE)
    before = path.read_bytes()

    def torn(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sf.SoundFile, "write", torn)
    with pytest.raises(KeyboardInterrupt):
        write_audio(path, sine(500, 0.2), RATE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    code = f"""
import numpy as np
from unisono.media.audio import write_audio
while True:
    for level in (0.25, 0.5):
        write_audio({str(path)!r}, np.full(3_000_000, level, dtype=np.float32), 24_000)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    try:
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(20):  # a reader beside the writer never sees half a file
            waveform = read_audio(path, RATE)
            assert len(waveform) == 3_000_000 and np.ptp(waveform) == 0
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    waveform = read_audio(path, RATE)
    assert len(waveform) == 3_000_000 and np.ptp(waveform) == 0
