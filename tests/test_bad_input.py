"""What users get wrong: every fault is one error, before training, that names file, line, field and remedy."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from conftest import TASKS
from toy import make_tar, toy_dataset
from unisono.data.manifest import load_manifest, read_jsonl, write_jsonl
from unisono.errors import UserError
from unisono.media.audio import audio_info, read_audio, verify_audio_file
from unisono.media.locations import Location
from unisono.timing import seconds_to_samples

RATE = 24_000
SPEECH, CAPTION, NOISY = "text_to_speech", "text_to_audio", "speech_enhancement"


@pytest.fixture
def corpus(toy_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the toy corpus that may be broken."""
    return Path(shutil.copytree(toy_corpus, tmp_path / "corpus"))


def change(path: Path, line: int, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit one line (from 1) of a manifest in place."""
    records = [record for _, record in read_jsonl(path)]
    edit(records[line - 1])
    write_jsonl(path, records)


def refusal(corpus: Path, task: str) -> str:
    with pytest.raises(UserError) as caught:
        toy_dataset(corpus, task)
    return str(caught.value)


# -- the file as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{not json}", "not JSON"),
        (b'{"audio_id": "a"', "not JSON"),
        (b"[1, 2]", "a list, not a JSON object"),
        (b'"text"', "a str, not a JSON object"),
        (b"null", "a NoneType, not a JSON object"),
        (b'{"audio_id": "a"} {"audio_id": "b"}', "not JSON"),
        (b'{"audio_id": "a", "caption": "\\ud800"}', "escape without its other half"),
        (b"[" * 100_000, "not usable JSON"),
        (b'{"audio_id": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b'{"caption": "a"}', "field 'audio_id' is missing"),
    ],
)
def test_a_broken_line_is_named(corpus: Path, line: bytes, words: str) -> None:
    path = corpus / CAPTION / "content.jsonl"
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    assert f"{path}:3: " in refusal(corpus, CAPTION)
    assert words in refusal(corpus, CAPTION)


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"", "no items"), (b"\n \n\n", "no items"), (b'{"audio_id": "\xff"}\n', "not UTF-8"), (None, "no such manifest")],
)
@pytest.mark.parametrize("name", ["content.jsonl", "audio.jsonl"])
def test_a_file_that_is_no_manifest_is_named(corpus: Path, name: str, raw: bytes | None, words: str) -> None:
    path = corpus / CAPTION / name
    path.unlink() if raw is None else path.write_bytes(raw)
    message = refusal(corpus, CAPTION)
    assert str(path) in message and words in message


def test_byte_order_marks_line_ends_blank_lines_and_escapes_do_no_harm(corpus: Path) -> None:
    path = corpus / CAPTION / "content.jsonl"
    expected = [sample.content for sample in map(toy_dataset(corpus, CAPTION).__getitem__, range(8))]
    lines = [json.dumps(record, ensure_ascii=True) for _, record in read_jsonl(path)]
    path.write_bytes(b"\xef\xbb\xbf\r\n" + "\r\n\r\n".join(lines).encode())
    assert [sample.content for sample in map(toy_dataset(corpus, CAPTION).__getitem__, range(8))] == expected
    change(path, 1, lambda r: r.update(caption="🔔 rings\u2028 and rings"))
    assert toy_dataset(corpus, CAPTION)[0].content[0].text == "🔔 rings\u2028 and rings"
    write_jsonl(path, [{**r, "caption": "\\u0041 \\ud800 as typed"} for _, r in read_jsonl(path)])
    assert toy_dataset(corpus, CAPTION)[0].content[0].text == "\\u0041 \\ud800 as typed"


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"audio_id": "old"}])

    def torn():
        yield {"audio_id": "new"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, torn())
    assert list(load_manifest(path)) == ["old"] and list(tmp_path.iterdir()) == [path]


# -- fields ---------------------------------------------------------------------------------------------------------

MISSING = object()
FIELD_FAULTS = [
    ("text_to_audio", "content", "audio_id", bad)
    for bad in ("", " ", ".", "..", "../a", "a/b", "a\\b", "a\nb", "a\x00b", "x" * 201, "ä" * 101, 5, None, MISSING)
]
FIELD_FAULTS += [
    ("text_to_audio", "content", "caption", bad) for bad in ("", " \t\n", 5, None, [], ["a", ""], [3], MISSING)
]
FIELD_FAULTS += [(task, "content", "instruction", bad) for task in TASKS for bad in ("", "  ", 7, ["a"])]
FIELD_FAULTS += [
    ("text_to_speech", "content", "phonemes", bad)
    for bad in ([], "abcd", [1, 2, 3, 4], ["a", "", "b", "c"], ["a", None, "b", "c"], None, MISSING)
]
FIELD_FAULTS += [
    ("text_to_speech", "content", "durations_s", bad)
    for bad in ([], 0.6, "0.6", ["0.1", 0.1, 0.2, 0.2], [True, 0, 0, 0], [0, 0, 0, 0], None, MISSING)
]
FIELD_FAULTS += [
    ("text_to_speech", "content", "durations_s", [first, 0.1, 0.1, 0.1])
    for first in (float("nan"), float("inf"), -0.1, 10**400, 1e308)
]
FIELD_FAULTS += [  # the wrong number of them, the wrong sum
    ("text_to_speech", "content", "durations_s", bad) for bad in ([0.3, 0.3], [0.12] * 5, [0.1] * 4, [0.6] * 4)
]
FIELD_FAULTS += [("text_to_speech", "content", "speaker", bad) for bad in ("", 3, ["ann"])]
FIELD_FAULTS += [("text_to_speech", "content", "text", bad) for bad in (3, ["a"], {})]
FIELD_FAULTS += [
    (task, manifest, field, bad)
    for task, manifest, field in ((NOISY, "content", "noisy_audio"), (CAPTION, "audio", "audio"))
    for bad in ("", 5, None, MISSING, "gone.flac", "audio", "a\x00b", "x" * 5000, "/")
]
FIELD_FAULTS += [
    ("text_to_audio", "audio", "duration_s", bad) for bad in (0, -1, "0.6", True, float("nan"), 10**400, 0.7)
]


@pytest.mark.parametrize(("task", "manifest", "field", "bad"), FIELD_FAULTS)
def test_a_bad_field_is_refused_with_file_line_field_and_remedy(corpus, task, manifest, field, bad) -> None:
    path = corpus / task / f"{manifest}.jsonl"
    change(path, 5, lambda r: r.pop(field) if bad is MISSING else r.update({field: bad}))
    message = refusal(corpus, task)
    # An id that no longer joins is reported where its partner stands alone, unless it is no id at all.
    assert message.startswith(f"{path}:5: ") and f"field '{field}'" in message
    assert re.search(r"must|correct|add it|replace", message), message
    assert len(message) < 5500


@pytest.mark.parametrize(("field", "value"), [("speaker", None), ("text", ""), ("text", None), ("instruction", None)])
def test_optional_fields_may_be_null(corpus: Path, field: str, value: Any) -> None:
    change(corpus / SPEECH / "content.jsonl", 1, lambda r: r.update({field: value}))
    assert toy_dataset(corpus, SPEECH)[0].content[0].text == ("" if field == "text" else "word 0")


def test_ids_are_unique_and_in_both_manifests(corpus: Path) -> None:
    content, audio = (corpus / CAPTION / f"{name}.jsonl" for name in ("content", "audio"))
    change(content, 4, lambda r: r.update(audio_id="text_to_audio_1"))
    assert refusal(corpus, CAPTION) == (
        f"{content}:4: audio_id 'text_to_audio_1' was used on line 2 already; ids are unique"
    )
    change(content, 4, lambda r: r.update(audio_id="alone"))
    assert f"{content}:4: audio_id 'alone' has no line in {audio}; add it there or remove" in refusal(corpus, CAPTION)
    change(content, 4, lambda r: r.update(audio_id="text_to_audio_3"))
    write_jsonl(content, [record for _, record in read_jsonl(content)][:-1])
    assert f"{audio}:8: audio_id 'text_to_audio_7' has no line in {content}" in refusal(corpus, CAPTION)


def test_noisy_and_clean_are_of_one_length(corpus: Path) -> None:
    noisy = corpus / NOISY / "noisy" / f"{NOISY}_4.flac"
    data, rate = sf.read(noisy)
    sf.write(noisy, data[:-1000], rate)  # 42 ms: filled up with silence
    sample = toy_dataset(corpus, NOISY)[4]
    assert sample.content[0].waveform.shape == sample.waveform.shape
    assert not sample.content[0].waveform[-1000:].any()
    sf.write(noisy, np.concatenate([data, data[:900]]), rate)
    assert toy_dataset(corpus, NOISY)[4].content[0].waveform.shape == sample.waveform.shape
    sf.write(noisy, data[:-2400], rate)
    message = refusal(corpus, NOISY)
    assert message.startswith(f"{corpus / NOISY / 'content.jsonl'}:5: field 'noisy_audio': {noisy} lasts 0.500 s")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_text("no sound"), "not readable as audio"),
        (lambda p: sf.write(p, np.zeros(0), 24_000, format="WAV"), "0 samples"),
        (lambda p: sf.write(p, np.zeros(300), 500), "sample rate 500"),
    ],
)
@pytest.mark.parametrize(
    ("task", "manifest", "field", "file"),
    [(CAPTION, "audio", "audio", "audio/text_to_audio_4"), (NOISY, "content", "noisy_audio", f"noisy/{NOISY}_4")],
)
def test_audio_with_a_broken_header_is_refused(corpus, write, words, task, manifest, field, file) -> None:
    write(corpus / task / f"{file}.flac")
    message = refusal(corpus, task)
    assert message.startswith(f"{corpus / task / manifest}.jsonl:5: field '{field}'") and words in message


# -- damaged recordings ----------------------------------------------------------------------------------------------


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * RATE)).astype(np.float32)


def encoded(waveform: np.ndarray, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, waveform, RATE, format=kind)
    return buffer.getvalue()


def reads_of(location: Location | Path, start_s: float, duration_s: float) -> list:
    """The three ways in which a recording is read: as a whole, block by block, a part."""
    return [
        lambda: read_audio(location, RATE),
        lambda: verify_audio_file(location),
        lambda: read_audio(location, RATE, start_s, duration_s),
    ]


@pytest.mark.parametrize("kept", [0.98, 0.5])
@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "OGG", "OPUS", "MP3"])
def test_a_cut_is_refused_by_every_way_of_reading(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / "a.any"
    form = {"format": "OGG", "subtype": "OPUS"} if kind == "OPUS" else {"format": kind}
    sf.write(path, noise(10.0), RATE, **form)
    whole = path.read_bytes()
    for read in reads_of(path, 1.0, 1.0):
        read()
    cut = whole[: round(len(whole) * kept)]
    path.write_bytes(cut)
    for read in reads_of(path, 1.0, 1.0):
        with pytest.raises(UserError, match=r"a\.any: damaged audio, cut off"):
            read()
    for read in reads_of(Location(make_tar(tmp_path / "a.tar", {"a.any": cut}), "a.any"), 1.0, 1.0):
        with pytest.raises(UserError, match=r"a\.tar::a\.any: damaged audio, cut off"):
            read()


def test_a_cut_that_no_record_of_bytes_tells_is_found_where_the_sound_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    sf.write(path, noise(8.0), RATE)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"Info") if b"Info" in whole else whole.index(b"Xing")
    whole[place + 12 : place + 16] = (len(whole) // 2).to_bytes(4, "big")
    path.write_bytes(whole[: len(whole) // 2])
    assert read_audio(path, RATE, 1.0, 1.0).all()
    with pytest.raises(UserError, match="damaged audio"):
        read_audio(path, RATE, 3.5, 2.0)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFF000, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read(tmp_path: Path, length: int) -> None:
    whole = bytearray(encoded(noise(1.0), "WAV"))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(whole)
    assert len(read_audio(tmp_path / "a.wav", RATE)) == RATE


def test_a_hole_in_an_ogg_is_refused_by_every_way_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    sf.write(path, noise(20.0), RATE)
    whole = bytearray(path.read_bytes())
    for start_s in np.arange(0.0, 18.1, 0.7):  # a whole file is never refused
        assert len(read_audio(path, RATE, float(start_s), 1.9)) == seconds_to_samples(1.9, RATE)
    middle = len(whole) // 2
    whole[middle : middle + 800] = bytes(800)
    path.write_bytes(whole)
    for read in reads_of(path, 8.0, 4.0):
        with pytest.raises(UserError, match=r"damaged audio \(the header promises 20\.000 s"):
            read()
    assert len(read_audio(path, RATE, 1.0, 2.0)) == 2 * RATE


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_of_joined_files_the_second_is_not_lost_quietly(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(3.0), kind)
    (tmp_path / "a").write_bytes(data + data)
    for read in reads_of(tmp_path / "a", 0.0, 1.0)[:2]:
        with pytest.raises(UserError, match=f"another begins at byte {len(data)}"):
            read()


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_a_destroyed_beginning_is_refused_although_the_rest_can_be_decoded(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(3.0), kind)
    (tmp_path / "a").write_bytes(bytes(800) + data[800:])
    for read in reads_of(tmp_path / "a", 0.0, 1.0):
        with pytest.raises(UserError, match=r"does not begin with its header|not readable as audio"):
            read()


@pytest.mark.parametrize("frames", [0, 2**36 - 1])
def test_a_flac_that_does_not_tell_its_length_is_refused(tmp_path: Path, frames: int) -> None:
    data = bytearray(encoded(noise(1.0)))
    fields = int.from_bytes(data[18:26], "big") >> 36 << 36
    data[18:26] = (fields | frames).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.flac: its length is unknown"):
        audio_info(tmp_path / "a.flac")


def test_silence_compressed_hard_is_no_flac_of_unknown_length(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.zeros(600 * 8000), 8000)
    assert audio_info(tmp_path / "a.flac").duration_s == 600
