"""Audio that came from anywhere: folders and manifests joined by name, and nothing left out in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from judging import voice_like, write
from unisono.errors import UserError
from unisono.evaluation.pairing import pair, rate_note


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three generated and three reference recordings in folders with a space, two of them of one name."""
    generated, reference = tmp_path / "made by us", tmp_path / "clean ones"
    for name in ("a.wav", "deep/b.flac", "extra.wav"):
        write(generated / name.replace("flac", "wav"), voice_like(0.1))
    for name in ("a.flac", "deep/b.wav", "only here.wav"):
        write(reference / name.replace("flac", "wav"), voice_like(0.1))
    return generated, reference


def lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_folders_are_joined_by_path_without_suffix(folders):
    paired = pair(*folders, "se")
    items = {item.audio_id: item for item in paired.items}
    assert list(items) == ["a", "deep/b", "only here"]
    assert items["deep/b"].generated.path == folders[0] / "deep/b.wav"
    assert items["deep/b"].reference.path == folders[1] / "deep/b.wav"
    assert {item.task for item in paired.items} == {"speech_enhancement"}
    assert not items["only here"].generated.path.exists()
    told = " ".join(paired.notes)
    assert "1 generated recordings have no reference and are left out: 'extra'" in told
    assert "1 references have no generated recording and count as failures: 'only here'" in told


def test_without_references_every_recording_is_an_item(folders):
    paired = pair(folders[0], None, "text_to_speech")
    assert [item.audio_id for item in paired.items] == ["a", "deep/b", "extra"]
    assert all(item.reference is None for item in paired.items) and paired.notes == []


def test_a_set_of_references_needs_no_names(folders):
    paired = pair(*folders, "t2a", unpaired=True)
    assert len(paired.items) == 3 and len(paired.reference_set) == 3
    assert all(item.reference is None for item in paired.items)
    with pytest.raises(UserError, match="needs a REFERENCE"):
        pair(folders[0], None, "t2a", unpaired=True)


def test_manifests_bring_content_inputs_and_what_generation_wrote(tmp_path):
    data = tmp_path / "data"
    for name in ("x", "y"):
        write(data / f"{name}.wav", voice_like(0.1))
        write(data / f"noisy {name}.wav", voice_like(0.1))
        write(tmp_path / f"out/{name}.wav", voice_like(0.1))
    lines(data / "audio.jsonl", [{"audio_id": f"id {n}", "audio": f"{n}.wav"} for n in "xy"])
    content = [{"audio_id": f"id {n}", "noisy_audio": f"noisy {n}.wav", "text": f"Say {n}.", "snr_db": 3} for n in "xy"]
    lines(data / "content.jsonl", content)
    made = [
        {"audio_id": f"id {n}", "task": "speech_enhancement", "audio": f"{n}.wav", "instruction": "Go."} for n in "xy"
    ]
    lines(tmp_path / "out/manifest.jsonl", [*made, {"audio_id": "id x", "task": "text_to_audio", "audio": "x.wav"}])
    paired = pair(tmp_path / "out", data, "se")
    first = paired.items[0]
    assert (first.audio_id, first.content_text, first.instruction) == ("id x", "Say x.", "Go.")
    assert first.input_audio.path == data / "noisy x.wav" and first.details["snr_db"] == 3
    assert paired.notes == []
    # What is named takes the place of what lies beside the reference.
    other = lines(tmp_path / "other.jsonl", [{"audio_id": "id x", "text": "Other."}])
    paired = pair(tmp_path / "out", data, "se", content=other, inputs=data / "audio.jsonl")
    assert paired.items[0].content_text == "Other." and paired.items[0].input_audio.path == data / "x.wav"
    assert paired.notes == ["1 items are not among the lines of content: 'id y'"]


def test_what_cannot_be_paired_is_one_clear_error(folders, tmp_path):
    generated, reference = folders
    (tmp_path / "empty").mkdir()
    write(tmp_path / "others/z.wav", voice_like(0.1))
    write(tmp_path / "twice/a.wav", voice_like(0.1))
    write(tmp_path / "twice/a.WAV", voice_like(0.1))
    (tmp_path / "bad.jsonl").write_text('{"audio_id": "a"}\n')
    for arguments, words in (
        ((tmp_path / "gone", reference), "gone does not exist"),
        ((generated, tmp_path / "empty"), "no recording below"),
        ((generated, tmp_path / "others"), "--unpaired"),
        ((tmp_path / "twice", None), "have one name"),
        ((tmp_path / "bad.jsonl", None), "field 'audio' is missing"),
    ):
        with pytest.raises(UserError, match=words):
            pair(*arguments, "se")
    with pytest.raises(UserError, match="unknown task 'sing'"):
        pair(generated, reference, "sing")


def test_recordings_that_hold_more_than_is_heard_are_told(folders, tmp_path):
    items = pair(*folders, "sr").items
    assert rate_note(items, 16_000) is None and rate_note(items, 24_000) is None
    assert "nothing above 4000 Hz is heard; --sample-rate 16000" in rate_note(items, 8_000)
    (tmp_path / "text.wav").write_text("not audio")
    assert rate_note(pair(tmp_path / "text.wav", None, "sr").items, 8_000) is None


def test_two_recordings_are_one_pair_whatever_their_names(folders):
    generated, reference = folders
    enhanced, clean = generated / "a.wav", reference / "deep/b.wav"
    paired = pair(enhanced, clean, "se", inputs=reference / "only here.wav")
    (item,) = paired.items
    assert (item.audio_id, item.generated.path, item.reference.path) == ("a", enhanced, clean)
    assert item.input_audio.path == reference / "only here.wav" and paired.notes == []


def test_a_reference_manifest_brings_the_content_beside_it_like_its_folder(tmp_path):
    data = tmp_path / "data"
    write(data / "x.wav", voice_like(0.1))
    lines(data / "audio.jsonl", [{"audio_id": "x", "audio": "x.wav", "duration_s": 0.1}])
    lines(data / "content.jsonl", [{"audio_id": "x", "text": "Good morning."}])
    made = write(tmp_path / "made/x.wav", voice_like(0.1)).parent
    of_folder, of_manifest = (pair(made, source, "tts").items for source in (data, data / "audio.jsonl"))
    assert of_folder == of_manifest and of_manifest[0].content_text == "Good morning."
