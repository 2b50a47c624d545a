"""The recipe ``debian`` on a miniature of the real packages: spoken by eSpeak NG, encoded and packed by the test.

What the single tasks are made of is tested in ``test_debian_*.py``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from unisono.data.manifest import load_manifest
from unisono.data.prepare.debian import corpus as debian
from unisono.data.prepare.debian import effects, films, noisy, packages, speech
from unisono.data.prepare.debian.report import TASKS
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.splits import SPLITS
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.text.espeak import synthesize
from unisono.text.phonemes import PHONEMES

av = pytest.importorskip("av")
pytest.importorskip("pocketsphinx")
pytest.importorskip("pyroomacoustics")
pytest.importorskip("pyworld")

PROMPTS = {
    "vm-saved": "Your message has been saved.",
    "please-try-again": "Please try again.",
    "conf-begin": "The conference will begin when the leader arrives.",
    "digits/today": "The weather is cold today.",
    "wrong": "Please try again.",
    "vm-intro": "Please leave your message after the tone.",
}
SPOKEN = {**PROMPTS, "wrong": "The conference will begin when the leader arrives."}


def write_g722(path: Path, waveform_16k: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.clip(waveform_16k * 32767, -32768, 32767).astype(np.int16)
    samples = np.pad(samples, (0, -len(samples) % 320))
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    buffer = BytesIO()
    sf.write(buffer, waveform, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_cat(path: Path, sounds: list[tuple[str, bytes]]) -> None:
    """The container of OpenTTD: a table of offsets and lengths, then names and sounds."""
    offset = 8 * len(sounds)
    table, body = b"", b""
    for name, sound in sounds:
        encoded = name.encode("latin-1") + b"\0"
        table += struct.pack("<II", offset + len(body), len(sound))
        body += bytes([len(encoded)]) + encoded + sound
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table + body)


def sound(rng: np.random.Generator, duration_s: float, sample_rate: int = 22_050) -> np.ndarray:
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    tone = np.sin(2 * np.pi * rng.uniform(200, 900) * time_s) * np.exp(-time_s / duration_s)
    return (0.4 * tone + 0.02 * rng.standard_normal(len(time_s))).astype(np.float32)


def build_tree(root: Path) -> None:
    """What ``dpkg-deb --extract`` would give for each package, in ``root/NAME``."""
    rng = np.random.default_rng(0)
    text = root / "asterisk-core-sounds-en" / "usr/share/doc/asterisk-core-sounds-en"
    text.mkdir(parents=True)
    lines = ["; a comment", *(f"{name}: {words}" for name, words in PROMPTS.items()), "unrecorded: Nothing."]
    (text / "core-sounds-en.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (text / "copyright").write_text("the voice's licence\n")
    prompts = root / "asterisk-core-sounds-en-g722" / "usr/share/asterisk/sounds/en_US_f_Allison"
    for name, words in SPOKEN.items():
        speech = synthesize(words, "en-us+f3", rate_wpm=150).resampled(16_000).waveform
        silence = np.zeros(8_000, np.float32)
        write_g722(prompts / f"{name}.g722", 0.7 * np.concatenate([silence, speech, silence]))
    write_g722(prompts / "silence/1.g722", np.zeros(16_000, np.float32))
    write_g722(prompts / "no-text.g722", np.zeros(16_000, np.float32))

    effects = {
        "sonic-pi-samples/usr/share/sonic-pi/samples": ["ambi_sauna.flac", "misc_crow.flac", "unheard_of.flac"],
        "scratch/usr/share/scratch/Media/Sounds": ["Animal/Dog1.wav", "Human/PartyNoise.wav", "Vocals/Ya.wav"],
        "minetest-data/usr/share/games/minetest/games/minetest_game/mods": [
            "carts/sounds/carts_cart_moving.1.ogg",
            "doors/sounds/doors_door_open.ogg",
        ],
    }
    for folder, names in effects.items():
        for name in names:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, sound(rng, 0.6), 22_050)
    samples = root / "sonic-pi-samples/usr/share/sonic-pi/samples"
    sf.write(samples / "perc_bell.flac", sound(rng, 9.5), 22_050)  # too long
    sf.write(samples / "elec_tick.flac", sound(rng, 0.02), 22_050)  # too short
    sf.write(samples / "elec_beep.flac", np.zeros(22_050), 22_050)  # silent
    (samples / "elec_ping.flac").write_bytes(b"no audio at all")
    shutil.copy(samples / "misc_crow.flac", samples / "perc_door.flac")  # a copy
    cats = [('"A". License: Creative Commons Zero 1.0.', write_wav_bytes(sound(rng, 0.5), 22_050)) for _ in range(4)]
    cats[3] = ('"Whistle". License: Creative Commons Attribution 3.0 Unported.', cats[3][1])
    write_cat(root / "openttd-opensfx/usr/share/games/openttd/baseset/opensfx/opensfx.cat", cats)
    # Wide, as super-resolution needs it; drums strike in the films.
    for name in ("drum_tom_mid_hard", "drum_tom_lo_hard", "drum_snare_hard", "loop_breakbeat"):
        sf.write(samples / f"{name}.flac", sound(rng, 0.5, 44_100), 44_100)
    music = root / "asterisk-moh-opsound-g722/usr/share/asterisk/moh"
    for name, duration_s in {"macroform-cold_day": 9.0, "reno_project-system": 1.0, "new-piece": 1.0}.items():
        write_g722(music / f"{name}.g722", sound(rng, duration_s, 16_000))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packages")
    build_tree(root)
    return root


def fake_apt(tree: Path, patch: pytest.MonkeyPatch) -> None:
    """Packages come from the tree; no command is run. eSpeak fits the model less well than the real voice."""

    def fetch(name: str, cache: Path) -> packages.Package:
        return packages.Package(name, "1.0-1", tree / name)

    def unpack(package: packages.Package, folder: Path) -> Path:
        target = folder / package.name
        if not target.is_dir():
            shutil.copytree(package.deb, target)
        return target

    patch.setattr(packages, "fetch_package", fetch)
    patch.setattr(packages, "unpack_package", unpack)
    patch.setattr(speech, "_MIN_SCORE", -45.0)
    patch.setattr(films, "FILMS", {"train": 2, "val": 1, "test": 1})
    speech._aligner.cache_clear()


@pytest.fixture
def apt(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(tree, monkeypatch)


def build(out: Path, **options: Any) -> Path:
    return debian.prepare_debian(out, workers=1, progress=False, **options)


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".cache" not in path.parts
    }


def lines(out: Path, task: str, name: str = "content") -> dict[str, dict[str, Any]]:
    """All lines of a task by id, with their split."""
    found: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        for line in (out / task / split / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            assert record["audio_id"] not in found
            found[record["audio_id"]] = {**record, "split": split}
    return found


@pytest.fixture(scope="module")
def corpus(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        fake_apt(tree, patch)
        return build(tmp_path_factory.mktemp("made") / "debian")


def left_out(corpus: Path, *tasks: str) -> dict[str, str]:
    entries = json.loads((corpus / "corpus.json").read_text())["left_out"]
    return {entry["file"]: entry["reason"] for entry in entries if entry["task"] in tasks}


def test_speech_is_trimmed_aligned_and_covered_by_phonemes(corpus: Path) -> None:
    content, audio = lines(corpus, "text_to_speech"), lines(corpus, "text_to_speech", "audio")
    assert (
        set(content)
        == set(audio)
        == {
            "asterisk_vm-saved",
            "asterisk_please-try-again",
            "asterisk_conf-begin",
            "asterisk_digits_today",
        }
    )
    for audio_id, line in content.items():
        path = corpus / "text_to_speech" / line["split"] / audio[audio_id]["audio"]
        info = sf.info(str(path))
        duration_s = info.frames / info.samplerate
        assert info.samplerate == 24_000
        assert info.channels == 1
        # Half a second of silence was added at both ends.
        assert duration_s < synthesize(line["text"], "en-us+f3", rate_wpm=150).waveform.size / 22_050 + 0.1
        assert sum(line["durations_s"]) == pytest.approx(duration_s, abs=1e-4)
        assert len(line["phonemes"]) == len(line["durations_s"])
        assert set(line["phonemes"]) <= set(PHONEMES)
        assert line["speaker"] == "allison"
        assert line["license"] == "CC-BY-SA-3.0"


def test_what_cannot_be_used_is_left_out_with_its_reason(corpus: Path) -> None:
    reasons = left_out(corpus, "text_to_speech", "text_to_audio", "text_to_music")
    assert reasons["wrong"].startswith("alignment:")
    assert reasons["no-text"] == "no transcript"
    assert "silence" in reasons["silence/1"]
    assert "tone" in reasons["vm-intro"]
    assert reasons["elec_beep"] == "silent"
    assert "not readable" in reasons["elec_ping"]
    assert reasons["unheard_of"] == "not in the table of captions"
    assert reasons["perc_door"] == "the same sound as sonic-pi_misc_crow"
    assert reasons["new-piece"] == "not in the table of pieces"
    assert "recorded at 22050 Hz" in left_out(corpus, "audio_super_resolution")["misc_crow"]
    sources = (corpus / "SOURCES.md").read_text()
    for name, reason in reasons.items():
        assert name in sources
        assert reason.split(",")[0] in sources
    assert not (corpus / "text_to_audio/audio/sonic-pi_perc_door.flac").exists()
    # Every file is used or accounted for.
    report = json.loads((corpus / "corpus.json").read_text())
    effects = [entry for entry in report["left_out"] if entry["task"] == "text_to_audio"]
    assert len(lines(corpus, "text_to_audio")) + len(effects) == 8 + 3 + 2 + 4 + 4


def test_effects_carry_caption_license_and_source(corpus: Path) -> None:
    content, audio = lines(corpus, "text_to_audio"), lines(corpus, "text_to_audio", "audio")
    assert content["sonic-pi_misc_crow"]["caption"] == "a crow cawing"
    assert content["minetest_doors_door_open"]["license"] == "CC-BY-3.0"
    assert content["opensfx_02"]["license"] == "CC0-1.0"
    assert content["opensfx_03"]["license"] == "CC-BY-3.0"
    assert "Whistle" in audio["opensfx_03"]["credit"]
    assert audio["sonic-pi_misc_crow"]["native_sample_rate"] == 22_050
    assert audio["sonic-pi_perc_bell"]["duration_s"] == pytest.approx(8.0, abs=0.01)
    assert audio["sonic-pi_elec_tick"]["duration_s"] == pytest.approx(0.25, abs=0.01)
    bell = read_audio(corpus / "text_to_audio/audio/sonic-pi_perc_bell.flac", 24_000)
    assert np.abs(bell[-240:]).max() < 0.05 * np.abs(bell).max()


def test_noisy_speech_has_the_stated_ratio_and_fits_the_clean_one(corpus: Path) -> None:
    content, audio = lines(corpus, "speech_enhancement"), lines(corpus, "speech_enhancement", "audio")
    assert content
    for audio_id, line in content.items():
        folder = corpus / "speech_enhancement" / line["split"]
        clean = read_audio(folder / audio[audio_id]["audio"], 24_000)
        noisy = read_audio(folder / line["noisy_audio"], 24_000)
        assert clean.shape == noisy.shape
        assert np.abs(noisy).max() < 1.0
        assert line["snr_db"] >= 0
        if line["rt60_s"] is None:
            ratio_db = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
            # The stated ratio leaves pauses out of the speech's level.
            assert line["snr_db"] - 3 < ratio_db < line["snr_db"] + 0.5


def test_manifests_are_readable_and_relative(corpus: Path) -> None:
    moved = corpus.parent / "moved elsewhere"
    shutil.copytree(corpus, moved)
    for task in TASKS:
        for fields in load_manifest(moved / task / "train" / "audio.jsonl").values():
            assert fields.file("audio").path.is_relative_to(moved)
            assert fields.record["license"].startswith("CC")


def test_derived_clips_keep_the_split_of_their_recording(corpus: Path) -> None:
    speech, effects = lines(corpus, "text_to_speech"), lines(corpus, "text_to_audio")
    for task, suffix in (("singing_voice_synthesis", "_sung"), ("singing_acoustic_modeling", "_contour")):
        sung, recordings = lines(corpus, task), lines(corpus, task, "audio")
        assert len(sung) == len(speech)
        for audio_id, line in sung.items():
            spoken = speech[audio_id.removesuffix(suffix)]
            assert (line["split"], line["text"]) == (spoken["split"], spoken["text"])
            assert (corpus / task / line["split"] / recordings[audio_id]["audio"]).is_file()
    narrow = lines(corpus, "audio_super_resolution")
    wide = {"drum_tom_mid_hard", "drum_tom_lo_hard", "drum_snare_hard", "loop_breakbeat"}
    assert {audio_id.rpartition("_narrow")[0] for audio_id in narrow} == {f"sonic-pi_{name}" for name in wide}
    for audio_id, line in narrow.items():
        assert line["split"] == effects[audio_id.rpartition("_narrow")[0]]["split"]
    music = lines(corpus, "text_to_music")
    assert music["sonic-pi_loop_breakbeat"]["split"] == effects["sonic-pi_loop_breakbeat"]["split"]
    assert music["sonic-pi_loop_breakbeat"]["tempo_bpm"] == 480.0
    assert music["moh_macroform-cold_day_01"]["split"] == music["moh_macroform-cold_day_02"]["split"]
    assert music["moh_macroform-cold_day_02"]["caption"] == 'the end of "Cold Day", music by Macroform'
    films = lines(corpus, "video_to_audio")
    recordings = {event["recording"] for line in films.values() for event in line["events"]}
    assert recordings <= {name for name in effects if "_drum_" in name or "_bell" in name}


def test_a_finished_corpus_holds_nothing_else_and_is_left_alone(
    apt: None, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(corpus)
    assert sorted(path.name for path in corpus.iterdir()) == [
        *("SOURCES.md", "audio_super_resolution", "corpus.json", "licenses", "singing_acoustic_modeling"),
        *("singing_voice_synthesis", "speech_enhancement", "text_to_audio", "text_to_music", "text_to_speech"),
        "video_to_audio",
    ]
    assert not [name for name in before if Path(name).name.startswith(".")]
    monkeypatch.setattr(packages, "fetch_package", lambda *_: pytest.fail("fetched again"))
    assert build(corpus) == corpus
    assert digests(corpus) == before
    with pytest.raises(UserError, match="holds another corpus"):
        build(corpus, seed=1)


def test_an_interrupted_run_goes_on_and_ends_the_same(
    apt: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    prepare = {"prompt": speech.prepare_prompt, "noisy": noisy.prepare_noisy}
    done: list[str] = []

    def interrupted_after(number: int, function: Any) -> Any:
        def work(job: Any) -> Any:
            if len(done) == number:
                # What a kill in the middle of writing leaves behind.
                folder = out / "text_to_speech" / "audio"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ".half.flac.x").write_bytes(b"half")
                raise KeyboardInterrupt
            done.append(job.job_id)
            return function(job)

        return work

    monkeypatch.setattr(speech, "prepare_prompt", interrupted_after(2, prepare["prompt"]))
    with pytest.raises(KeyboardInterrupt):
        build(out)
    assert not (out / "corpus.json").exists()
    with pytest.raises(UserError, match="unfinished corpus with another seed"):
        build(out, seed=1)
    monkeypatch.setattr(speech, "prepare_prompt", interrupted_after(99, prepare["prompt"]))
    monkeypatch.setattr(noisy, "prepare_noisy", interrupted_after(8, prepare["noisy"]))
    with pytest.raises(KeyboardInterrupt):
        build(out)
    monkeypatch.setattr(noisy, "prepare_noisy", interrupted_after(99, prepare["noisy"]))
    build(out)
    assert len(done) == len(set(done)), "finished work was done again"
    assert digests(out) == digests(corpus)


def test_another_seed_gives_other_noise_filters_melodies_and_films(apt: None, corpus: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", seed=7)
    changed = {name for name, digest in digests(other).items() if digests(corpus)[name] != digest}
    noisy = {name for name in changed if name.startswith("speech_enhancement/noisy/")}
    assert len(noisy) == len(lines(corpus, "speech_enhancement"))
    drawn = {"speech_enhancement", "audio_super_resolution", "singing_voice_synthesis", "singing_acoustic_modeling"}
    assert {name.partition("/")[0] for name in changed} == drawn | {"video_to_audio", "SOURCES.md", "corpus.json"}


def test_bad_folders_and_options_are_refused(apt: None, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match=r"holds other files \(thesis.txt\)"):
        build(tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        build(tmp_path / "mine" / "thesis.txt")
    with pytest.raises(UserError, match="seed is -1"):
        build(tmp_path / "new", seed=-1)
    with pytest.raises(UserError, match="workers is 0"):
        debian.prepare_debian(tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()


def test_noise_recordings_of_test_are_not_heard_in_training(tree: Path) -> None:
    for package in effects.EFFECT_PACKAGES:
        table = load_table(package)
        # A noise is one of the captioned recordings, and takes of one recording lie in one split.
        assert set(table["noises"].values()) <= set(SPLITS)
        for pattern in table["noises"]:
            assert first_match(table["captions"], pattern.replace("*", "1")) is not None, pattern
    found = noisy.noise_recordings({name: tree / name for name in ("sonic-pi-samples", "scratch", "minetest-data")})
    assert [name for name, _ in found["train"]] == ["sonic-pi-samples/ambi_sauna"]
    assert [name for name, _ in found["test"]] == ["scratch/Human/PartyNoise"]
    assert [name for name, _ in found["val"]] == ["minetest-data/carts/sounds/carts_cart_moving.1"]
