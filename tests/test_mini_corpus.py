"""The mini corpus: items, and building that survives kills and company."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unisono.data.degrade import active_power
from unisono.data.manifest import load_manifest
from unisono.data.mini import corpus
from unisono.data.mini.corpus import SPEAKERS, build_mini_corpus
from unisono.data.mini.events import KINDS
from unisono.data.mini.plan import DEFAULT_COUNTS, checked_counts
from unisono.data.mini.sentences import split_of
from unisono.data.mini.synthesis import Take
from unisono.data.validate import Limits, validate, write_report
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.text.phonemes import check_phonemes

SPLITS = ("train", "val", "test")
SMALL = {
    "text_to_audio": (4, 2, 2),
    "text_to_speech": (7, 2, 2),
    "speech_enhancement": (9, 2, 3),
    "text_to_music": (2, 1, 1),
    "singing_voice_synthesis": (3, 1, 1),
    "singing_acoustic_modeling": (4, 1, 1),
    "audio_super_resolution": (6, 1, 1),
    "video_to_audio": (2, 1, 1),
}
TINY = {"text_to_audio": (0, 0, 0), "text_to_speech": (1, 1, 1), "speech_enhancement": (1, 0, 0)}
NOTHING = dict.fromkeys(TINY, (0, 0, 0))


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def place(fields, name: str) -> Path:
    """Where a field's path leads."""
    path = Path(os.path.normpath(fields.path.parent / fields.record[name]))
    assert path.is_file()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return build_mini_corpus(tmp_path_factory.mktemp("mini") / "corpus", counts=SMALL, workers=1, progress=False)


# ---------------------------------------------------------------------------------------------- contents


def test_manifests_load_and_every_file_exists(small):
    for task, counts in zip(corpus.TASKS, SMALL.values(), strict=True):
        for split, count in zip(SPLITS, counts, strict=True):
            content = load_manifest(small / task / split / "content.jsonl")
            audio = load_manifest(small / task / split / "audio.jsonl")
            assert list(content) == list(audio)
            assert len(audio) == count
            for fields in audio.values():
                waveform = read_audio(place(fields, "audio"), 24_000)
                assert fields.seconds("duration_s") == pytest.approx(len(waveform) / 24_000, abs=1e-5)
                assert np.abs(waveform).max() > 0.01
    referenced = {
        place(fields, name)
        for task in corpus.TASKS
        for split in SPLITS
        for manifest, name in (
            ("audio.jsonl", "audio"),
            ("content.jsonl", "noisy_audio"),
            ("content.jsonl", "narrow_audio"),
        )
        for fields in load_manifest(small / task / split / manifest).values()
        if name in fields.record
    }
    assert referenced == set(small.rglob("*.flac"))


def test_paths_of_scores_contours_and_videos_exist(small):
    fields = {"text_to_music": ["score_midi"], "singing_voice_synthesis": ["score_midi", "f0_hz"]}
    fields |= {"singing_acoustic_modeling": ["f0_hz"], "video_to_audio": ["video"]}
    referenced = {
        place(line, name)
        for task, names in fields.items()
        for split in SPLITS
        for line in load_manifest(small / task / split / "content.jsonl").values()
        for name in names
    }
    assert referenced == {*small.rglob("*.mid"), *small.rglob("*.npy"), *small.rglob("*.mp4")}
    assert len(referenced) == 4 + 5 + 5 + 4


def test_scenes_have_captions_and_events(small):
    captions = {}
    for split in SPLITS:
        lines = load_manifest(small / "text_to_audio" / split / "content.jsonl").values()
        captions[split] = {line.text("caption") for line in lines}
        assert all(line.record["events"] and isinstance(line.record["events"][0], dict) for line in lines)
    assert not captions["train"] & (captions["val"] | captions["test"])
    assert len(captions["test"]) == 2


def test_speech_durations_sum_to_the_recording(small):
    speakers = set()
    for split in SPLITS:
        audio = load_manifest(small / "text_to_speech" / split / "audio.jsonl")
        for audio_id, fields in load_manifest(small / "text_to_speech" / split / "content.jsonl").items():
            phonemes, durations_s = fields.symbols("phonemes"), fields.durations("durations_s")
            check_phonemes(phonemes, fields.where)
            assert len(phonemes) == len(durations_s)
            samples = len(read_audio(place(audio[audio_id], "audio"), 24_000))
            assert sum(durations_s) == pytest.approx(samples / 24_000, abs=1 / 24_000)
            assert split_of(fields.text("text")) == split
            speakers.add(fields.text("speaker"))
    assert speakers == set(SPEAKERS)


def test_noise_is_as_loud_as_recorded(small):
    """What enhancement adds to dry items has the recorded ratio; the target is a recording of text_to_speech."""
    dry = 0
    for split in SPLITS:
        audio = load_manifest(small / "speech_enhancement" / split / "audio.jsonl")
        for audio_id, fields in load_manifest(small / "speech_enhancement" / split / "content.jsonl").items():
            clean = read_audio(place(audio[audio_id], "audio"), 24_000).astype(float)
            noisy = read_audio(place(fields, "noisy_audio"), 24_000).astype(float) / 10 ** (
                fields.record["gain_db"] / 20
            )
            assert place(audio[audio_id], "audio").parent == small / "text_to_speech" / "audio"
            assert len(noisy) == len(clean)
            assert 0 <= fields.record["snr_db"] <= 15
            if fields.record["rt60_s"] is None:
                snr_db = 10 * np.log10(active_power(clean) / np.mean((noisy - clean) ** 2))
                assert snr_db == pytest.approx(fields.record["snr_db"], abs=0.1)
                dry += 1
    assert 0 < dry < 14


def test_the_doctor_finds_nothing_wrong_with_any_task(small, tmp_path):
    """No DC offset, no clipping, nothing else."""
    write_report(validate([small], store=None, workers=1, progress=False), tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["task"] for one in report["corpora"]} == set(corpus.TASKS)
    # There are more items of enhancement here than recordings that they share.
    assert set(report["kinds"]) <= {"duplicate_audio"} and report["errors"] == 0


@pytest.mark.parametrize("pitch", [0.5, 1.0, 1.95])
def test_no_kind_of_event_lies_off_zero(pitch):
    """Engines, creaks and frogs are made of pulses, which all push the same way."""
    for kind in KINDS.values():
        longest_s = kind.duration_s[1] if kind.duration_s else 3.0
        sound = kind.render(np.random.default_rng(0), Take(longest_s, pitch))
        assert abs(sound.mean()) < Limits.max_dc / 2, kind.name


def test_summary_says_what_was_built(small):
    summary = json.loads((small / "corpus.json").read_text())
    assert summary["seed"] == 0
    assert summary["counts"]["text_to_speech"] == {"train": 7, "val": 2, "test": 2}
    assert summary["license"] == "CC0-1.0"
    assert summary["clips"] == sum(sum(counts) for counts in SMALL.values())
    assert 0 < summary["minutes"]["text_to_speech"] < summary["minutes"]["total"]


# ---------------------------------------------------------------------------------------------- building


def test_two_workers_build_the_same_bytes(small, tmp_path):
    again = build_mini_corpus(tmp_path / "corpus", counts=SMALL, workers=2, progress=False)
    assert digests(again) == digests(small)
    assert os.listdir(tmp_path) == ["corpus"]


def test_fewer_items_are_the_first_of_more(small, tmp_path):
    fewer = {"text_to_audio": (0, 0, 0), "text_to_speech": (2, 1, 0), "speech_enhancement": (2, 1, 0)}
    root = build_mini_corpus(tmp_path / "corpus", counts=fewer, workers=1, progress=False)
    of_small = digests(small)
    flacs = {name: value for name, value in digests(root).items() if name.endswith(".flac")}
    assert len(flacs) == 6
    assert flacs.items() <= of_small.items()
    assert not (root / "text_to_audio").exists()


def test_another_seed_is_another_corpus(tmp_path):
    others = ("text_to_music", "singing_voice_synthesis", "audio_super_resolution", "video_to_audio")
    counts = TINY | dict.fromkeys(others, (1, 0, 0))
    first, second = (
        build_mini_corpus(tmp_path / str(seed), seed=seed, counts=counts, workers=1, progress=False) for seed in (0, 1)
    )
    assert not set(digests(first).values()) & set(digests(second).values())


def test_second_call_returns_at_once_and_others_are_refused(tmp_path, monkeypatch):
    out = tmp_path / "corpus"
    built = build_mini_corpus(out, counts=TINY, workers=1, progress=False)
    before = digests(built)
    monkeypatch.setattr(corpus, "_make_items", lambda *_: pytest.fail("built again"))
    assert build_mini_corpus(out, counts=TINY, workers=4, overwrite=True) == built
    with pytest.raises(UserError, match=r"seed 0 \(asked for: 1\).*overwrite=True"):
        build_mini_corpus(out, seed=1, counts=TINY)
    assert digests(built) == before
    monkeypatch.undo()
    build_mini_corpus(out, seed=1, counts=TINY, workers=1, overwrite=True, progress=False)
    assert json.loads((out / "corpus.json").read_text())["seed"] == 1
    assert os.listdir(tmp_path) == ["corpus"]


def test_failed_build_keeps_the_old_corpus(tmp_path, monkeypatch):
    out = build_mini_corpus(tmp_path / "corpus", counts=TINY, workers=1, progress=False)
    before = digests(out)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(corpus, "make_item", fail)
    with pytest.raises(OSError, match="disk full"):
        build_mini_corpus(out, seed=1, counts=TINY, workers=1, overwrite=True, progress=False)
    assert digests(out) == before
    assert os.listdir(tmp_path) == ["corpus"]


def test_stale_folders_of_a_killed_build_are_removed(tmp_path):
    for name in (".tmp_corpus", ".old_corpus"):
        (tmp_path / name / "text_to_speech").mkdir(parents=True)
        (tmp_path / name / "text_to_speech" / "junk.flac").write_text("half")
    (tmp_path / ".corpus.lock").touch()
    out = build_mini_corpus(tmp_path / "corpus", counts=TINY, workers=1, progress=False)
    assert os.listdir(tmp_path) == ["corpus"]
    assert not list(out.rglob("junk*"))


def test_concurrent_builds_of_one_folder_share_the_work(tmp_path, monkeypatch):
    calls, original = [], corpus._make_items
    monkeypatch.setattr(corpus, "_make_items", lambda *a: calls.append(1) or time.sleep(0.2) or original(*a))
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(build_mini_corpus(tmp_path / "c", counts=TINY, workers=1, progress=False))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "c"] * 3
    assert len(calls) == 1
    assert os.listdir(tmp_path) == ["c"]


def test_without_counts_all_tasks_are_built_and_else_those_that_are_named(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(corpus, "_build", lambda out, settings, *_: asked.append(settings["counts"]))
    build_mini_corpus(tmp_path / "all")
    build_mini_corpus(tmp_path / "music", counts={"text_to_music": (1, 0, 0)})
    everything, named = asked
    assert {task: tuple(splits.values()) for task, splits in everything.items()} == DEFAULT_COUNTS
    assert all(min(splits.values()) > 0 for splits in everything.values())
    assert {task for task, splits in named.items() if any(splits.values())} == {"text_to_music"}


def test_a_share_has_the_first_items_of_every_task(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(corpus, "_build", lambda out, settings, *_: asked.append(settings["counts"]))
    build_mini_corpus(tmp_path / "quarter", share=0.25)
    build_mini_corpus(tmp_path / "little", counts={"text_to_music": (9, 1, 0)}, share=0.1)
    quarter, little = asked
    assert {task: tuple(4 * n for n in splits.values()) for task, splits in quarter.items()} == DEFAULT_COUNTS
    assert tuple(little["text_to_music"].values()) == (1, 1, 0)
    for share in (0, 1.01, float("nan")):
        with pytest.raises(UserError, match="share is"):
            build_mini_corpus(tmp_path / "none", share=share)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"text_to_audio": (1, 2)}, r"counts of text_to_audio are \(1, 2\)"),
        ({"text_to_speech": (1, -2, 0)}, "three whole numbers"),
        ({"text_to_speech": (0, 1, 1)}, "1 items of speech_enhancement in train, but for none of text_to_speech"),
        ({"text_to_speech": (0, 0, 0), "speech_enhancement": (0, 0, 0)}, "at least one item"),
        ({"singing_acoustic_modeling": (0, 1, 0)}, "none of singing_voice_synthesis"),
        (
            {**NOTHING, "audio_super_resolution": (1, 0, 0)},
            "none of text_to_audio and text_to_music and text_to_speech",
        ),
        ({"text_to_music": (1, 2.5, 0)}, "counts of text_to_music"),
        ({"text_to_music": None}, "counts of text_to_music are None"),
        ({"text_to_music": "111"}, "counts of text_to_music are '111'"),
        ({"text_to_musik": (1, 0, 0)}, "counts names text_to_musik; the tasks are text_to_audio, "),
    ],
)
def test_bad_counts_are_explained(counts, message):
    with pytest.raises(UserError, match=message):
        checked_counts({**TINY, **counts})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"workers": 0}, "workers is 0"),
        ({"counts": [1, 0, 0]}, "give a mapping"),
        ({"counts": {}}, "at least one item"),
    ],
)
def test_bad_settings_are_explained(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        build_mini_corpus(tmp_path / "corpus", **{"counts": TINY, **arguments}, progress=False)
    assert os.listdir(tmp_path) == []


def test_missing_packages_are_named_before_anything_is_built(tmp_path, monkeypatch):
    for package in ("mido", "av"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"needs av, mido; run pip install 'unisono\[speech,singing,video\]'"):
        build_mini_corpus(
            tmp_path / "c", counts={"text_to_music": (1, 0, 0), "video_to_audio": (1, 0, 0)}, progress=False
        )
    assert os.listdir(tmp_path) == []
    build_mini_corpus(tmp_path / "c", counts={"text_to_audio": (1, 0, 0)}, workers=1, progress=False)


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a mini corpus"):
        build_mini_corpus(tmp_path / "mine", counts=TINY, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "corpus.json").write_text("[1]")
    with pytest.raises(UserError, match="not the summary of a mini corpus"):
        build_mini_corpus(tmp_path / "other", counts=TINY, overwrite=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="not a mini corpus"):
        build_mini_corpus(tmp_path / "file", counts=TINY, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "mine", "other"]
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_captions_are_drawn_again_until_they_differ(tmp_path, monkeypatch):
    """With five captions in all, two test and two val items take four and training is left with the fifth."""

    def make_scene(rng, split):
        waveform = 0.1 * rng.standard_normal(240).astype(np.float32)
        return SimpleNamespace(caption=f"sound {rng.integers(5)}", waveform=waveform, events=())

    monkeypatch.setitem(sys.modules, "unisono.data.mini.scenes", SimpleNamespace(make_scene=make_scene))
    monkeypatch.setattr(corpus, "_MAX_ATTEMPTS", 200)
    counts = {"text_to_audio": (3, 2, 2)}
    root = build_mini_corpus(tmp_path / "c", counts=counts, workers=1, progress=False)
    captions = {
        split: [f.text("caption") for f in load_manifest(root / "text_to_audio" / split / "content.jsonl").values()]
        for split in SPLITS
    }
    assert len({*captions["test"], *captions["val"]}) == 4
    assert len(set(captions["train"])) == 1
    assert not set(captions["train"]) & {*captions["test"], *captions["val"]}
    monkeypatch.setattr(corpus, "_MAX_ATTEMPTS", 3)
    with pytest.raises(UserError, match="ask for fewer items"):
        build_mini_corpus(tmp_path / "d", counts={"text_to_audio": (3, 3, 3)}, workers=1, progress=False)
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the workers in /proc")
def test_killed_build_can_be_started_again(tmp_path, small):
    code = (
        "from unisono.data.mini.corpus import build_mini_corpus\n"
        "if __name__ == '__main__':\n"
        f"    build_mini_corpus({str(tmp_path / 'corpus')!r}, counts={{'text_to_speech': (400, 9, 9)}}, workers=2)\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)])
    partial = tmp_path / ".tmp_corpus"
    deadline = time.monotonic() + 60
    while len(list(partial.rglob("*.flac"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}/status").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}/status").exists()]
    assert partial.exists()
    assert not (tmp_path / "corpus").exists()
    root = build_mini_corpus(tmp_path / "corpus", counts=SMALL, workers=2, progress=False)
    assert digests(root) == digests(small)
    assert sorted(os.listdir(tmp_path)) == ["build.py", "corpus"]
