"""The recipe ``debian``: drawn films that sound with recordings."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from unisono.data.datasets import VideoToAudioDataset
from unisono.data.mini.actors import ACTORS, COLOURS, SIZES
from unisono.data.mini.films import FRAME_RATE_HZ, Part
from unisono.data.prepare.debian import films as debian_films
from unisono.data.prepare.debian.effects import EFFECT_PACKAGES, EffectJob
from unisono.data.prepare.debian.films import (
    LICENSES,
    SAMPLE_RATE,
    FilmJob,
    FilmSound,
    film_caption,
    film_jobs,
    film_sounds,
    mix_strikes,
    onset_sample,
    prepare_film,
)
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.media.audio import read_audio, write_audio

av = pytest.importorskip("av")

LEAD_S = 0.04


def click(duration_s: float = 0.25, decay_s: float = 0.03) -> np.ndarray:
    """Noise that sets in at ``LEAD_S``, after a murmur."""
    time_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE - LEAD_S
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.9, 0.9, len(time_s)) * np.exp(-np.maximum(time_s, 0) / decay_s)
    return np.where(time_s < 0, 0.01 * sound, sound).astype(np.float32)


def effect(folder: Path, name: str, caption: str, license_name: str = "CC0-1.0", **sound: float) -> EffectJob:
    write_audio(folder / f"{name}.flac", click(**sound), SAMPLE_RATE)
    return EffectJob(name, "sonic-pi-samples", name, Path("original"), caption, license_name, "", folder)


@pytest.fixture
def sounds(tmp_path: Path) -> tuple[FilmSound, ...]:
    return (
        FilmSound("hammer", "", "a knock", (effect(tmp_path, "knock", "a knock"),)),
        FilmSound("boot", "", "a step", (effect(tmp_path, "step", "a step", "CC-BY-SA-3.0"),)),
    )


def onsets_s(waveform: np.ndarray) -> list[float]:
    """Where the level over 2 ms is four times that of the 20 ms before it."""
    block = SAMPLE_RATE // 500
    level = np.sqrt((waveform[: len(waveform) // block * block].reshape(-1, block) ** 2).mean(axis=1)) + 1e-3
    rises = [n for n in range(10, len(level)) if level[n] > 4 * level[n - 10 : n].max() and level[n] > 0.2]
    return [n * block / SAMPLE_RATE for n in rises]


def test_every_event_is_heard_when_the_line_says_and_nothing_else_is(
    tmp_path: Path, sounds: tuple[FilmSound, ...]
) -> None:
    checked = 0
    for number in range(6):
        record = prepare_film(FilmJob(f"film_train_{number:03d}", tmp_path / "out", sounds, seed=1))
        waveform = read_audio(tmp_path / f"out/audio/film_train_{number:03d}.flac", SAMPLE_RATE)
        assert 3.0 <= record["duration_s"] <= 4.0
        assert np.abs(waveform).max() == pytest.approx(0.9, abs=0.01)
        times_s = [event["start_s"] for event in record["events"]]
        assert times_s == sorted(times_s)
        # Strikes of two actors may follow too closely to be told apart.
        if len(times_s) > 1 and min(np.diff(times_s)) < 0.25:
            continue
        assert np.allclose(onsets_s(waveform), times_s, atol=0.0035), record["events"]
        checked += len(times_s)
    assert checked >= 6


def test_the_striker_is_lowest_when_it_strikes(tmp_path: Path, sounds: tuple[FilmSound, ...]) -> None:
    hammer = FilmJob("film_val_000", tmp_path / "out", sounds[:1], seed=5)
    record = prepare_film(hammer)
    with av.open(str(tmp_path / "out/video/film_val_000.mp4")) as container:
        assert not container.streams.audio
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) / FRAME_RATE_HZ == record["duration_s"]
    colour = next(np.array(rgb) for name, rgb in COLOURS.items() if name in record["caption"])
    rows = np.arange(frames[0].shape[0])[:, None]
    heights = np.array(
        [(rows * near).sum() / near.sum() for near in (np.abs(f - colour).sum(axis=2) < 90 for f in frames)]
    )
    for event in record["events"]:
        now = event["start_s"] * FRAME_RATE_HZ
        around = np.arange(max(0, round(now) - 4), min(len(heights), round(now) + 5))
        assert abs(around[np.argmax(heights[around])] - now) <= 1


def test_films_are_a_function_of_the_seed(tmp_path: Path, sounds: tuple[FilmSound, ...]) -> None:
    job = FilmJob("film_train_000", tmp_path / "one", sounds, seed=0)
    record = prepare_film(job)
    assert prepare_film(replace(job, folder=tmp_path / "two")) == record
    for name in ("audio/film_train_000.flac", "video/film_train_000.mp4"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert prepare_film(replace(job, folder=tmp_path / "three", seed=1))["events"] != record["events"]


def test_a_film_carries_the_strictest_licence_of_its_recordings(tmp_path: Path, sounds: tuple[FilmSound, ...]) -> None:
    seen = set()
    for number in range(12):
        record = prepare_film(FilmJob(f"film_test_{number:03d}", tmp_path / "out", sounds, seed=2))
        has_step = any(event["recording"] == "step" for event in record["events"])
        assert record["license"] == ("CC-BY-SA-3.0" if has_step else "CC0-1.0")
        seen.add(record["license"])
    assert len(seen) == 2


def test_sounds_start_at_their_onset_even_at_the_beginning_and_long_ones_fade(tmp_path: Path) -> None:
    long = effect(tmp_path, "gong", "a gong", duration_s=3.0, decay_s=5.0)
    assert abs(onset_sample(click()) - LEAD_S * SAMPLE_RATE) < 48
    waveform = mix_strikes(np.random.default_rng(0), [(0.01, long)], 4.0)
    assert len(waveform) == 4 * SAMPLE_RATE
    assert abs(onset_sample(waveform) - 0.01 * SAMPLE_RATE) < 48
    assert np.abs(waveform[round(1.5 * SAMPLE_RATE) + 300 :]).max() < 0.01
    late = mix_strikes(np.random.default_rng(0), [(3.9, long)], 4.0)
    assert abs(onset_sample(late) - 3.9 * SAMPLE_RATE) < 96


def test_captions_say_what_is_seen_and_heard() -> None:
    boot, drop = (FilmSound(actor, "", caption, ()) for actor, caption in (("boot", "a step"), ("drop", "a drip")))
    assert (
        film_caption([Part("boot", "red", "", 3)], [boot])
        == "a red boot stamps on the floor three times with the sound of a step"
    )
    assert (
        film_caption([Part("boot", "red", "", 1), Part("drop", "blue", "", 2)], [boot, drop])
        == "on the left a red boot stamps on the floor once with the sound of a step, "
        "on the right two blue drops fall into the water with the sound of a drip"
    )


def test_no_sound_is_in_two_splits_and_held_out_effects_stay_held_out(tmp_path: Path) -> None:
    captions = {"drum_tom_mid_hard": "a", "drum_tom_lo_hard": "b", "drum_snare_hard": "c", "drum_snare_soft": "c"}
    captions |= {"drum_bass_hard": "d", "perc_bell": "e", "misc_crow": "f"}
    effects = [
        EffectJob(name, "sonic-pi-samples", name, tmp_path, caption, "CC0-1.0", "", tmp_path)
        for name, caption in captions.items()
    ]
    splits = {job.job_id: "train" for job in effects} | {"drum_tom_lo_hard": "test"}
    found = film_sounds(effects, splits)
    held = {split: {sound.caption for sound in found[split]} for split in found}
    assert "b" in held["test"]
    assert held["val"], "of the other drums one is held out"
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == 5
    assert not any(sound.caption == "f" for split in found for sound in found[split])
    (snare,) = (sound for split in found for sound in found[split] if sound.caption == "c")
    assert len(snare.takes) == 2
    jobs = film_jobs({**found, "test": []}, tmp_path, seed=0)
    assert {job.job_id.split("_")[1] for job in jobs} == {"train", "val"}


def test_the_table_fits_the_actors_and_the_other_tables() -> None:
    for actor, patterns in load_table("films").items():
        assert actor in ACTORS
        for pattern, size in patterns.items():
            package, _, name = pattern.partition("/")
            assert size in SIZES
            assert not size or ACTORS[actor].has_size
            assert package in EFFECT_PACKAGES
            table = load_table(package)
            known = [key for key in table["captions"] if fnmatchcase(key, name) or fnmatchcase(name, key)]
            assert known, pattern
            for key in known:
                assert (first_match(table.get("licenses", {}), key) or table["license"]) in LICENSES


def test_the_data_set_reads_what_was_written(tmp_path: Path, sounds: tuple[FilmSound, ...]) -> None:
    jobs = [FilmJob(f"film_{split}_000", tmp_path, sounds, seed=0) for split in ("train", "test")]
    debian_films.write_films(tmp_path, jobs, [prepare_film(job) for job in jobs])
    for split in ("train", "test"):
        manifests = tmp_path / split
        data = VideoToAudioDataset(
            manifests / "content.jsonl", manifests / "audio.jsonl", sample_rate=SAMPLE_RATE, hop_samples=480, seed=0
        )
        sample = data[0]
        video = sample.content[0]
        assert abs(video.frames.shape[0] / video.rate_hz - sample.waveform.shape[0] / SAMPLE_RATE) < 0.05
        assert json.loads((manifests / "content.jsonl").read_text())["audio_id"] == f"film_{split}_000"
