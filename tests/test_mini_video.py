"""Films of the mini corpus: the pictures, read back from the file, strike when the sound does; captions are true."""

import json
import re
import sys

import av
import numpy as np
import pytest

from unisono.data.manifest import load_manifest
from unisono.data.mini.actors import ACTORS, COLOURS, SIZES
from unisono.data.mini.captions import NUMBERS, TIMES
from unisono.data.mini.corpus import build_mini_corpus
from unisono.data.mini.films import (
    FIRST_S,
    FRAME_RATE_HZ,
    INTERVAL_S,
    PICTURE_PIXELS,
    Part,
    _draw_parts,
    caption,
    draw_frames,
    make_film,
    write_video,
)
from unisono.errors import UserError
from unisono.media.audio import read_audio

RATE = 24_000
SPLITS = ("train", "val", "test")


def read_pictures(path) -> np.ndarray:
    with av.open(str(path)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].average_rate == FRAME_RATE_HZ
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def striking_frames(pictures: np.ndarray, part: Part) -> list[int]:
    """Frames at which the striker is nearest to what it strikes, found from its colour alone."""
    colour = np.array(COLOURS[part.colour])
    gaps = []
    for picture in pictures.astype(int):
        mask = np.abs(picture - colour).max(axis=2) < 70
        columns, rows = np.flatnonzero(mask.sum(0) > 1), np.flatnonzero(mask.sum(1) > 1)
        if not len(rows):
            gaps.append(np.inf)
        elif part.actor in ("glasses", "gloves"):
            # How far apart two things of one colour are: the widest hole between their columns.
            gaps.append(np.diff(columns).max() - 1)
        elif part.actor == "pendulum":
            gaps.append(PICTURE_PIXELS - columns.max())
        else:
            gaps.append(PICTURE_PIXELS - rows.max())
    gaps = np.array(gaps, dtype=float)
    if part.actor == "drop":
        # It is last seen before it is swallowed.
        return [k for k in range(len(gaps) - 1) if np.isfinite(gaps[k]) and gaps[k + 1] > gaps[k] + 20]
    found, k = [], 1
    while k < len(gaps) - 1:
        stop = k
        while stop < len(gaps) - 1 and gaps[stop + 1] == gaps[k]:
            stop += 1
        # A dip, and for the ball that comes to rest also the first frame of the end.
        rises = stop < len(gaps) - 1 and gaps[stop + 1] > gaps[k]
        if gaps[k] < gaps[k - 1] and gaps[k] <= gaps.min() + 8 and (rises or stop == len(gaps) - 1):
            found.append(k)
        k = stop + 1
    return found


@pytest.mark.parametrize("colour", ["red", "yellow", "white"])
@pytest.mark.parametrize("actor", ACTORS)
def test_strikes_are_seen_in_the_file_when_they_are_said_to_be(actor, colour, tmp_path):
    rng = np.random.default_rng((len(actor), len(colour)))
    for strikes in (1, 4):
        for size in SIZES if ACTORS[actor].has_size else ("",):
            part = Part(actor, colour, size, strikes)
            times_s = ACTORS[actor].draw_times(rng, strikes, FIRST_S, INTERVAL_S)
            frames = draw_frames(rng, [part], [times_s], int((times_s[-1] + 0.7) * FRAME_RATE_HZ))
            pictures = read_pictures(write_video(tmp_path / "a film.mp4", frames, FRAME_RATE_HZ))
            assert pictures.shape == frames.shape
            assert np.abs(pictures.astype(int) - frames).mean() < 6
            found = striking_frames(pictures, part)
            assert len(found) == strikes, (size, found, times_s)
            for frame, time_s in zip(found, times_s, strict=True):
                assert abs(frame - time_s * FRAME_RATE_HZ) <= 1.0, (size, found, times_s)


def test_two_actors_keep_to_their_sides():
    rng = np.random.default_rng(0)
    for actor in ACTORS:
        part = Part(actor, "red", "large" if ACTORS[actor].has_size else "", 2)
        beside = Part("ball" if actor != "ball" else "boot", "green", "", 1)
        frames = draw_frames(rng, [part, beside], [(0.5, 1.0), (0.6,)], 50).astype(int)
        red = np.abs(frames - np.array(COLOURS["red"])).max(axis=3) < 60
        assert red[..., : PICTURE_PIXELS // 2].any() and not red[..., PICTURE_PIXELS // 2 + 1 :].any(), actor
        assert (red.sum((1, 2)) > 0).any()


@pytest.fixture(scope="module")
def films():
    return {
        split: [make_film(np.random.default_rng((4, k, i)), split) for i in range(8)] for k, split in enumerate(SPLITS)
    }


def test_sound_starts_with_the_first_strike_and_lasts_as_long_as_the_pictures(films):
    for film in [film for of_split in films.values() for film in of_split]:
        assert len(film.waveform) == len(film.frames) * RATE // FRAME_RATE_HZ
        assert 3.0 <= len(film.waveform) / RATE <= 4.0
        starts_s = [event.start_s for event in film.events]
        assert starts_s == sorted(starts_s) and len(starts_s) == sum(part.strikes for part in film.parts)
        first = round(starts_s[0] * RATE)
        assert not film.waveform[:first].any()
        for start_s in starts_s:
            # Every strike adds to what still rings.
            at = round(start_s * RATE)
            before, after = film.waveform[at - 240 : at], film.waveform[at : at + 720]
            assert np.abs(after).max() > np.abs(before).max()
        assert film.frames.dtype == np.uint8 and film.frames.shape[1:] == (PICTURE_PIXELS, PICTURE_PIXELS, 3)


def test_captions_name_who_strikes_how_often(films):
    counts = [(word, count) for table in (TIMES, NUMBERS) for count, word in table.items()]
    for film in [film for of_split in films.values() for film in of_split]:
        clauses = re.split(r" while |, on the right ", film.caption)
        assert len(clauses) == len(film.parts)
        for clause, part in zip(clauses, film.parts, strict=True):
            assert part.colour in clause
            assert (part.size in clause) if part.size else not re.search("small|large", clause)
            noun = {"stick": "cymbal", "glasses": "glass", "gloves": "glove"}.get(part.actor, part.actor)
            assert noun in clause
            # "two glasses" are always two.
            counted = clause.replace("two gl", "gl").replace(f"two {part.size} {part.colour} gl", "gl")
            counted = counted.replace(f"two {part.colour} gl", "gl")
            said = {count for word, count in counts if re.search(rf"\b{word}\b", counted)}
            assert said == {part.strikes} or (part.strikes == 1 and not said), film.caption
        assert not re.search(r"\ba [aeiou]|  |\{", film.caption)


def test_splits_share_no_caption():
    captions = {split: set() for split in SPLITS}
    for k, split in enumerate(SPLITS):
        for index in range(60):
            captions[split].add(caption(np.random.default_rng(index), _parts_of(split, k, index)))
    assert not captions["train"] & (captions["val"] | captions["test"]) and not captions["val"] & captions["test"]
    assert min(map(len, captions.values())) > 30


def _parts_of(split: str, k: int, index: int):
    from unisono.data.mini.compositions import held_out_split

    rng = np.random.default_rng((k, index))
    while held_out_split(repr(parts := _draw_parts(rng))) != split:
        pass
    return parts


def test_lines_name_files_and_events(tmp_path):
    root = build_mini_corpus(tmp_path / "c", counts={"video_to_audio": (3, 0, 0)}, workers=1, progress=False)
    folder = root / "video_to_audio" / "train"
    audio = load_manifest(folder / "audio.jsonl")
    for audio_id, fields in load_manifest(folder / "content.jsonl").items():
        pictures = read_pictures(folder / fields.record["video"])
        waveform = read_audio(folder / audio[audio_id].record["audio"], RATE)
        assert len(pictures) / FRAME_RATE_HZ == pytest.approx(len(waveform) / RATE, abs=1e-9)
        first_s = fields.record["events"][0]["start_s"]
        heard = np.flatnonzero(np.abs(waveform) > 1e-3)[0] / RATE
        assert first_s - 1e-4 <= heard < first_s + 0.02
        assert {event["kind"] for event in fields.record["events"]} <= {actor.kind for actor in ACTORS.values()}
        assert json.dumps(fields.record["caption"])


def test_the_same_pictures_give_the_same_bytes(films, tmp_path):
    frames = films["train"][0].frames
    first, second = (write_video(tmp_path / name, frames, FRAME_RATE_HZ).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert first == second and len(first) < 60_000


def test_without_an_h264_encoder_mpeg4_is_written(films, tmp_path, monkeypatch):
    frames = films["train"][1].frames
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = write_video(tmp_path / "a.mp4", frames, FRAME_RATE_HZ)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert np.abs(read_pictures(path).astype(int) - frames).mean() < 8


def test_writing_video_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[video\]'"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 25)
