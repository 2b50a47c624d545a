"""One model, two tasks, the same input: only the instruction says whether to denoise or to restore the treble.

Inputs are noisy *and* narrow-band. Enhancement's target is the clean narrow-band recording, super-resolution's the
noisy wide-band one, so an input does not tell which is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch

from conftest import SAMPLE_RATE
from eight_tasks import eight_task_collator, eight_task_model, fit, generate, log_mel_for
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.models.generation import Generated, GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.tasks import TASKS
from unisono.types import AudioContent, Batch, Sample

TARGETS = {"speech_enhancement": "clean_narrow", "audio_super_resolution": "noisy_wide"}
CLIP_S = 0.7
CUTOFF_HZ = 3000.0
NOISE_AMPLITUDE = 0.01
TRAINING_INPUTS, HELD_OUT_INPUTS = 192, 12
INPUTS_PER_STEP, LAYERS, STEPS = 6, 2, 450
_LOW_PASS = scipy.signal.butter(10, CUTOFF_HZ, fs=SAMPLE_RATE, output="sos")


@dataclass(frozen=True)
class Recording:
    """A voice in noise; all float32 ``(S,)``. ``sounding (S,)`` says where the voice is, and not only the noise."""

    degraded: np.ndarray
    clean_narrow: np.ndarray
    noisy_wide: np.ndarray
    sounding: np.ndarray


def low_passed(waveform: np.ndarray) -> np.ndarray:
    return scipy.signal.sosfiltfilt(_LOW_PASS, waveform)


def recording(number: int) -> Recording:
    """Two voiced syllables with gliding pitch and harmonics up to 10 kHz, in white noise."""
    rng = np.random.default_rng([number, 5])
    num_samples = round(CLIP_S * SAMPLE_RATE)
    voice, sounding = np.zeros(num_samples), np.zeros(num_samples, dtype=bool)
    lengths = rng.integers(2400, 4300, 2)
    pauses = (rng.dirichlet([2, 2, 2]) * (num_samples - lengths.sum())).astype(int)
    for first, length in zip((pauses[0], pauses[:2].sum() + lengths[0]), lengths, strict=True):
        f0_hz = np.geomspace(rng.uniform(90, 300), rng.uniform(90, 300), length)
        phase = 2 * np.pi * np.cumsum(f0_hz) / SAMPLE_RATE
        harmonics = np.arange(1, int(10_000 / f0_hz.max()) + 1)[:, None]
        syllable = (np.sin(harmonics * phase + rng.uniform(0, 6, harmonics.shape)) / harmonics**0.5).sum(axis=0)
        here = slice(first, first + length)
        voice[here] = 0.05 * rng.uniform(0.5, 1.5) * syllable * scipy.signal.windows.tukey(length, 0.2)
        sounding[here] = True
    noisy = voice + NOISE_AMPLITUDE * rng.standard_normal(num_samples)
    parts = (low_passed(noisy), low_passed(voice), noisy)
    return Recording(*(part.astype(np.float32) for part in parts), sounding)


def waveforms(recordings: list[Recording], name: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([getattr(r, name) for r in recordings]))


def latents(model: UnifiedAudioModel, recordings: list[Recording], name: str) -> torch.Tensor:
    """One signal of all recordings as latents ``(N, T, C)``."""
    signal = waveforms(recordings, name)
    return model.autoencoder.encode(signal, torch.full((len(signal),), signal.shape[1]))[0]


def training_batches(model: UnifiedAudioModel, recordings: list[Recording], seed: int = 0) -> Callable[[int], Batch]:
    """Each input stands in a step twice, once for each task, under any of the task's instructions."""
    latent = {name: latents(model, recordings, name) for name in ("degraded", *TARGETS.values())}
    num_samples, collate = round(CLIP_S * SAMPLE_RATE), eight_task_collator()

    def batch_of(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        return collate(
            [
                Sample(
                    audio_id=f"{task}_{i}",
                    task=task,
                    instruction=str(rng.choice(TASKS[task].instructions)),
                    content=(AudioContent(latent=latent["degraded"][i]),),
                    latent=latent[target][i],
                    num_samples=num_samples,
                )
                for i in rng.choice(len(recordings), INPUTS_PER_STEP, replace=False)
                for task, target in TARGETS.items()
            ]
        )

    return batch_of


def autoencoder(recordings: list[Recording]) -> LogMelAutoencoder:
    return log_mel_for([signal for target in TARGETS.values() for signal in waveforms(recordings, target)])


@pytest.fixture(scope="module")
def trained() -> UnifiedAudioModel:
    recordings = [recording(number) for number in range(TRAINING_INPUTS)]
    model = eight_task_model(autoencoder(recordings), layers=LAYERS)
    return fit(model, training_batches(model, recordings), STEPS)


@pytest.fixture(scope="module")
def held_out() -> list[Recording]:
    return [recording(1_000_000 + number) for number in range(HELD_OUT_INPUTS)]


def make(model: UnifiedAudioModel, recordings: list[Recording], instructions: Sequence[str]) -> Generated:
    """What the model makes of each input under the instructions in turn; an input's noise is always the same."""
    samples = [
        Sample("item", "speech_enhancement", instructions[i % len(instructions)], (AudioContent(waveform),))
        for i, waveform in enumerate(waveforms(recordings, "degraded"))
    ]
    return generate(model, samples, GenerationSettings(num_steps=16, guidance_scale=1.0))


@pytest.fixture(scope="module")
def made(trained: UnifiedAudioModel, held_out: list[Recording]) -> dict[str, Generated]:
    return {task: make(trained, held_out, TASKS[task].instructions) for task in TARGETS}


def band_level_db(waveform: np.ndarray, low_hz: float, high_hz: float, where: np.ndarray) -> float:
    """Power of a band in the samples ``where``, in dB of full scale."""
    band = scipy.signal.butter(6, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    return float(10 * np.log10(np.mean(scipy.signal.sosfiltfilt(band, waveform)[where] ** 2) + 1e-10))


def noise_db(source: Recording, waveform: np.ndarray) -> float:
    """Level below the cut-off in the pauses, 40 ms (half a window of the latent) away from the voice."""
    near_voice = scipy.ndimage.binary_dilation(source.sounding, iterations=960)
    return band_level_db(waveform, 200.0, CUTOFF_HZ, ~near_voice)


def treble_db(source: Recording, waveform: np.ndarray) -> float:
    """Level well above the cut-off where the voice sounds."""
    return band_level_db(waveform, 1.4 * CUTOFF_HZ, 9000.0, source.sounding)


def levels_db(
    measure: Callable[[Recording, np.ndarray], float], sources: list[Recording], signals: Iterable[np.ndarray]
) -> np.ndarray:
    return np.array([measure(source, signal) for source, signal in zip(sources, signals, strict=True)])


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Root mean square distance of each latent of ``a (N, T, C)`` from its own of ``b``, ``(N,)``."""
    return ((a - b) ** 2).mean(dim=(1, 2)).sqrt()


@pytest.mark.parametrize("task", TARGETS)
def test_each_output_is_nearest_to_what_the_instruction_asks(
    task: str, trained: UnifiedAudioModel, made: dict[str, Generated], held_out: list[Recording]
) -> None:
    """On inputs and noise that are the same for both; nearer to the own target than to the other and to the input."""
    to_own = distances(made[task].latent, latents(trained, held_out, TARGETS[task]))
    for name in {"degraded", *TARGETS.values()} - {TARGETS[task]}:
        to_other = distances(made[task].latent, latents(trained, held_out, name))
        assert (to_own < to_other / 2).all(), f"to the own target {to_own}, to {name} {to_other}"


def test_enhancement_removes_noise_and_super_resolution_keeps_it(
    made: dict[str, Generated], held_out: list[Recording]
) -> None:
    before = levels_db(noise_db, held_out, (source.degraded for source in held_out))
    change = {task: levels_db(noise_db, held_out, m.waveform.numpy()) - before for task, m in made.items()}
    assert (change["speech_enhancement"] < -10).all(), f"noise changed by {change['speech_enhancement'].round(1)} dB"
    kept = change["audio_super_resolution"]
    assert (np.abs(kept) < 6).all(), f"noise changed by {kept.round(1)} dB"


def test_super_resolution_adds_treble_and_enhancement_does_not(
    made: dict[str, Generated], held_out: list[Recording]
) -> None:
    wanted = levels_db(treble_db, held_out, (source.noisy_wide for source in held_out))
    excess = {task: levels_db(treble_db, held_out, m.waveform.numpy()) - wanted for task, m in made.items()}
    added = excess["audio_super_resolution"]
    assert (np.abs(added) < 6).all(), f"treble is {added.round(1)} dB off the target's"
    withheld = excess["speech_enhancement"]
    assert (withheld < -20).all(), f"treble is only {-withheld.round(1)} dB below that of the wide-band recording"
    # The input has next to none.
    assert (levels_db(treble_db, held_out, (source.degraded for source in held_out)) < wanted - 40).all()


@pytest.mark.parametrize("task", TARGETS)
def test_every_wording_asks_for_the_same(task: str, trained: UnifiedAudioModel, held_out: list[Recording]) -> None:
    """Under each of the task's ten instructions one input becomes the task's target and not the other's."""
    instructions = TASKS[task].instructions
    latent = make(trained, [held_out[0]] * len(instructions), instructions).latent
    to_own, to_other = (
        distances(latent, latents(trained, [held_out[0]], name))
        for name in sorted(TARGETS.values(), key=lambda name: name != TARGETS[task])
    )
    assert (to_own < to_other / 2).all(), f"to the own target {to_own}, to that of the other task {to_other}"
