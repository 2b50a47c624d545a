"""What is left after the doctor: cleaned manifests that can be used as they stand; what a model does not know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from test_validate import corpus, edit, errors_of, examine, ids_of, only
from unisono.data.commands import validate as command
from unisono.data.datasets import DATASETS
from unisono.data.validate import ModelInputs, fix, read_model_inputs, table
from unisono.errors import UserError


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    app = typer.Typer()
    app.command()(command)
    return app


# -- what --fix writes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "out", "written"),
    [
        ("train", "clean", "clean/text_to_speech/train"),
        ("", "clean", "clean/text_to_speech/train"),
        ("", "clean/text_to_speech", "clean/text_to_speech/train"),
        ("train", "clean/text_to_speech", "clean/text_to_speech/train"),
        ("train", "clean/text_to_speech/train", "clean/text_to_speech/train"),
        ("train", "text_to_audio/clean", "text_to_audio/clean/text_to_speech/train"),
        ("..", "clean", "clean/text_to_speech/train"),
    ],
)
def test_a_cleaned_set_keeps_its_task_and_split(which: str, out: str, written: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech")
    edit(folder / "train" / "content.jsonl", 2, phonemes="broken")
    fixed = fix(examine(folder / which), tmp_path / out)
    assert fixed.complete and (tmp_path / written / "audio.jsonl").is_file(), fixed.text
    again = examine(tmp_path / out)
    assert not again.findings and ids_of(again) == ["train ü0", "train ü2"], table(again)
    assert again.corpora[0].task == "text_to_speech" and again.corpora[0].manifests.split == "train"
    # Training takes it too: files are looked for from the new place.
    dataset = DATASETS["text_to_speech"](*(tmp_path / written / f"{name}.jsonl" for name in ("content", "audio")))
    assert len(dataset) == 2 and dataset[1].audio_id == "train ü2"


def test_a_task_that_was_said_is_kept_in_the_path(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",)).rename(tmp_path / "my sounds")
    fix(examine(folder / "train", task="t2a"), tmp_path / "clean")
    assert (tmp_path / "clean" / "text_to_audio" / "train" / "content.jsonl").is_file()
    assert not examine(tmp_path / "clean").findings


def test_lines_without_a_partner_are_counted_and_named(app: typer.Typer, tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=5)
    content = folder / "train" / "content.jsonl"
    lines = content.read_text(encoding="utf-8").splitlines()
    content.write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    edit(content, 1, caption="")
    result = CliRunner().invoke(app, [str(folder / "train"), "--workers", "1", "--fix", str(tmp_path / "clean")])
    assert result.exit_code == 0, result.output
    assert "2 of 3 lines kept, 2 of 5 of audio.jsonl; left out: 'train ü0', 'train ü3', 'train ü4'" in result.output
    assert result.stdout.splitlines()[-1] == f"{tmp_path / 'clean'}: no errors are left; 0 warnings stay"
    removed = [json.loads(line) for line in (tmp_path / "clean" / "removed.jsonl").open(encoding="utf-8")]
    assert [(one["audio_id"], one["kinds"]) for one in removed] == [
        ("train ü0", ["bad_field"]), ("train ü3", ["missing_content"]), ("train ü4", ["missing_content"])]  # fmt: skip
    assert removed[0]["partner"] == f"{folder / 'train' / 'audio.jsonl'}:1" and removed[1]["partner"] is None
    again = CliRunner().invoke(app, [str(tmp_path / "clean"), "--workers", "1"])
    assert again.exit_code == 0 and "0 errors, 0 warnings" in again.output


def test_a_manifest_without_a_good_line_is_told_by_the_exit_status(app: typer.Typer, tmp_path: Path) -> None:
    folder = corpus(tmp_path, items=2)
    for number in (1, 2):
        edit(folder / "test" / "content.jsonl", number, caption="")
    result = CliRunner().invoke(app, [str(folder), "--workers", "1", "--fix", str(tmp_path / "clean")])
    assert result.exit_code == 1 and "some manifests have no good line" in result.stdout.splitlines()[-1]


def test_warnings_that_stay_are_counted(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    edit(folder / "train" / "content.jsonl", 1, caption="sound 0 of test")
    edit(folder / "train" / "content.jsonl", 2, caption=["a", "a"])
    edit(folder / "train" / "audio.jsonl", 2, duration_s="x")
    validated = examine(folder)
    assert (validated.num_errors, validated.num_warnings) == (1, 1)
    assert fix(validated, tmp_path / "clean").text.splitlines()[-1].endswith("no errors are left; 1 warnings stay")


# -- what a model takes -----------------------------------------------------------------------------------------------


def test_a_set_that_has_to_be_degraded_says_so(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "speech_enhancement", splits=("train",))
    assert not examine(folder).notes
    for number in (1, 2, 3):
        edit(folder / "train" / "content.jsonl", number, noisy_audio=None)
    validated = examine(folder)
    assert (
        not validated.findings and "`degradation`" in only_note(validated.notes) and "'noisy_audio'" in table(validated)
    )


def only_note(notes: list[str]) -> str:
    assert len(notes) == 1, notes
    return notes[0]


def test_speakers_are_compared_with_a_model_or_a_note_says_that_they_are_not(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    edit(folder / "train" / "content.jsonl", 2, speaker="me")
    assert "ann, me" in only_note(examine(folder).notes)
    model = {"phoneme": ModelInputs(frozenset("_hɛsmn"), frozenset(["ann"]))}
    validated = examine(folder, model=model)
    finding = only(validated, "unknown_speaker")
    assert finding.line == 2 and finding.field == "speaker" and "(it has: ann)" in finding.message
    assert finding.level == "error" and not validated.notes
    model = {"phoneme": ModelInputs(frozenset("_hɛsm"), frozenset(["ann", "me"]))}
    assert [f.kind for f in examine(folder, model=model).findings] == ["unknown_symbol"] * 3
    # A model that reads no phonemes says nothing about them.
    assert not examine(folder, model={"text": ModelInputs(frozenset())}).findings


def test_the_size_of_a_speaker_embedding_is_compared(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    for number, size in enumerate((42, 42, 16), 1):
        np.save(folder / "train" / f"{number}.npy", np.ones(size, dtype=np.float32))
        edit(folder / "train" / "content.jsonl", number, speaker=None, speaker_embedding=f"{number}.npy")
    model = {"phoneme": ModelInputs(frozenset("_hɛsmn"), speaker_embedding_dim=42)}
    store = tmp_path / "facts.sqlite"
    for _ in range(2):  # read, and remembered
        finding = only(examine(folder, model=model, store=store), "wrong_embedding_size")
        assert (finding.line, finding.value, finding.field) == (3, 16, "speaker_embedding")
    none = {"phoneme": ModelInputs(frozenset("_hɛsmn"))}
    assert len(errors_of(examine(folder, model=none, store=store))) == 3


def test_a_voice_by_reference_is_read_without_its_encoder(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    edit(folder / "train" / "content.jsonl", 1, speaker=None, speaker_audio="../audio/train ü1.wav")
    assert not examine(folder).findings
    (folder / "train" / "no.wav").write_bytes(b"no sound")
    edit(folder / "train" / "content.jsonl", 1, speaker_audio="no.wav")
    assert only(examine(folder), "unreadable_content").field == "speaker_audio"


def test_a_configuration_tells_what_its_model_takes(tmp_path: Path) -> None:
    inputs = read_model_inputs("default speakers=[ann,bob] model.content_encoders.phoneme.speaker_embedding_dim=42")
    assert inputs["phoneme"].speakers == {"ann", "bob"} and inputs["phoneme"].speaker_embedding_dim == 42
    assert inputs["score"].speaker_embedding_dim is None and "_" in inputs["score"].phonemes
    assert "text" not in inputs
    saved = tmp_path / "a run" / "config.yaml"
    saved.parent.mkdir()
    saved.write_text("model: {content_encoders: {phoneme: {phonemes: [a, b], speakers: [c]}, text: {dim: 3}}}\n")
    assert read_model_inputs(str(saved)) == {"phoneme": ModelInputs(frozenset("ab"), frozenset("c"))}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no_such_config", "no_such_config"),
        ("none.yaml", "none.yaml"),
        ("", "empty"),
        ("default 'speakers=", "quotation"),
        ("text.yaml", "no model"),
        ("broken.yaml", "cannot be read"),
        ("list.yaml", "must be a list"),
    ],
)
def test_a_configuration_that_is_none(config: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.yaml").write_text("phonemes: [a]\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "list.yaml").write_text("content_encoders: {phoneme: {phonemes: abc}}\n")
    with pytest.raises(UserError, match=re.escape(message)):
        read_model_inputs(config)
