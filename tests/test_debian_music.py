"""The recipe ``debian``: music from pieces in G.722 and from loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from unisono.data.prepare.debian import music as debian_music
from unisono.data.prepare.debian.effects import EFFECT_PACKAGES, EffectJob
from unisono.data.prepare.debian.music import MusicJob, cut_evenly, effect_music_jobs, piece_jobs, prepare_music
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.errors import UserError
from unisono.media.audio import read_audio


def music_job(path: Path, **options: object) -> MusicJob:
    return MusicJob("it", "sonic-pi-samples", path.stem, path, "a loop", "CC0-1.0", "", path.parent / "made", **options)


def tones(duration_s: float, sample_rate: int) -> np.ndarray:
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


def test_short_loops_are_repeated_without_a_seam(tmp_path: Path) -> None:
    sf.write(tmp_path / "loop.wav", tones(1.5, 44_100), 44_100)  # 330 periods: it closes on itself
    record = prepare_music(music_job(tmp_path / "loop.wav", loop=True, beats=4))
    assert record["repeats"] == 3
    assert record["tempo_bpm"] == 160.0
    (clip,) = record["clips"]
    assert clip["duration_s"] == pytest.approx(4.5, abs=1e-3)
    assert clip["caption"] == "a loop, 160 bpm"
    made = read_audio(tmp_path / "made/it.flac", 24_000)
    seam = slice(round(1.4 * 24_000), round(1.6 * 24_000))
    assert np.abs(np.diff(made[seam])).max() < 1.05 * np.abs(np.diff(made[5_000:10_000])).max()


def test_recordings_that_are_no_loops_are_played_once(tmp_path: Path) -> None:
    silence = np.zeros(22_050, np.float32)
    off_zero = 0.3 + np.concatenate([silence, tones(1.0, 22_050), silence])
    sf.write(tmp_path / "chord.wav", off_zero, 22_050)
    record = prepare_music(music_job(tmp_path / "chord.wav"))
    assert record["repeats"] == 1
    assert record["tempo_bpm"] is None
    assert record["clips"][0]["caption"] == "a loop"
    assert record["clips"][0]["duration_s"] == pytest.approx(1.06, abs=0.01)
    assert abs(read_audio(tmp_path / "made/it.flac", 24_000).mean()) < 0.002


def test_long_music_is_cut_into_equal_parts_that_keep_their_level(tmp_path: Path) -> None:
    music = tones(20.0, 16_000)
    music[: 6 * 16_000] *= 0.1
    sf.write(tmp_path / "song.wav", music, 16_000)
    clips = prepare_music(music_job(tmp_path / "song.wav"))["clips"]
    assert [clip["audio_id"] for clip in clips] == ["it_01", "it_02", "it_03"]
    assert sum(clip["duration_s"] for clip in clips) == pytest.approx(20.0, abs=0.01)
    assert max(clip["duration_s"] for clip in clips) <= 8.0
    quiet, loud = (read_audio(tmp_path / f"made/it_0{number}.flac", 24_000) for number in (1, 3))
    assert np.abs(quiet[:24_000]).max() == pytest.approx(0.1 * np.abs(loud).max(), rel=0.05)


def test_cuts_lose_nothing() -> None:
    music = np.ones(16_000 * 9, np.float32)
    parts = cut_evenly(music, 16_000)
    assert sum(map(len, parts)) == len(music)
    assert parts[0][0] == parts[1][-1] == 1.0, "the ends of the music are not faded"
    assert parts[0][-1] == parts[1][0] == 0.0
    assert len(cut_evenly(music[: 8 * 16_000], 16_000)) == 1


@pytest.mark.parametrize(
    ("samples", "reason"), [(np.zeros(8_000), "silent"), (np.zeros(0), "silent"), (None, "not readable")]
)
def test_what_is_no_music_is_left_out(tmp_path: Path, samples: np.ndarray | None, reason: str) -> None:
    path = tmp_path / "bad.wav"
    if samples is None:
        path.write_bytes(b"no audio at all")
    else:
        sf.write(path, samples, 16_000)
    job = music_job(path)
    record = prepare_music(job)
    assert reason in record["reason"]
    (entry,) = debian_music.write_music(tmp_path / "text_to_music", [job], [record], {"it": "train"})
    assert entry["file"] == "bad"
    assert reason in entry["reason"]


def test_parts_of_a_piece_share_a_split_and_effects_keep_theirs(tmp_path: Path) -> None:
    pieces = [
        MusicJob(f"moh_{n}", "moh", str(n), tmp_path, "music", "CC-BY-SA-3.0", "", tmp_path, is_piece=True)
        for n in range(5)
    ]
    loop = MusicJob("loop", "scratch", "loop", tmp_path, "a loop", "CC0-1.0", "by someone", tmp_path, loop=True)
    records = [
        {
            "clips": [{"audio_id": f"{job.job_id}_{n}", "caption": "music", "duration_s": 8.0} for n in range(3)],
            "tempo_bpm": None,
            "repeats": 1,
            "native_sample_rate": 16_000,
        }
        for job in [*pieces, loop]
    ]
    assert debian_music.write_music(tmp_path / "out", [*pieces, loop], records, {"loop": "test"}) == []
    found: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        lines = [json.loads(line) for line in (tmp_path / "out" / split / "content.jsonl").read_text().splitlines()]
        assert lines, "no split is empty"
        for line in lines:
            found.setdefault(line["audio_id"].rsplit("_", 1)[0], set()).add(split)
    assert all(len(splits) == 1 for splits in found.values())
    assert found["loop"] == {"test"}


def test_pieces_without_a_title_are_left_out_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/asterisk/moh"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="holds no piece of the table"):
        piece_jobs(tmp_path, tmp_path / "audio")
    for name in ("reno_project-system", "who-knows"):
        (folder / f"{name}.g722").write_bytes(b"\x00" * 80)
    jobs, left_out = piece_jobs(tmp_path, tmp_path / "audio")
    assert [job.caption for job in jobs] == ['"System", music by Reno Project']
    assert [entry["file"] for entry in left_out] == ["who-knows"]


def test_the_table_names_recordings_that_have_a_caption() -> None:
    recordings = load_table("music")["recordings"]
    for pattern, facts in recordings.items():
        package, _, name = pattern.partition("/")
        assert package in EFFECT_PACKAGES
        if facts is not None and "*" not in name:
            assert first_match(load_table(package)["captions"], name.replace("[12]", "1")), pattern
    effects = [
        EffectJob(name, "sonic-pi-samples", name, Path(name), "it", "CC0-1.0", "", Path())
        for name in ("loop_amen", "loop_3d_printer", "misc_crow", "bass_hit_c", "loop_perc2")
    ]
    jobs = {job.name: job for job in effect_music_jobs(effects, Path("audio"))}
    assert set(jobs) == {"loop_amen", "loop_perc2"}
    assert jobs["loop_amen"].beats == 4
