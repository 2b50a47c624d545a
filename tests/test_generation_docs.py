"""Every command of docs/generation.md and every `unisono generate` of the README runs, and so does their Python."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile as sf
from typer.testing import CliRunner

from pages import run
from unisono.cli import app

ROOT = Path(__file__).parent.parent
GENERATION, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/generation.md", "README.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout after the demo, with a model of two steps, and files of a user's."""
    from unisono.data.mini.corpus import build_mini_corpus

    place = tmp_path_factory.mktemp("a checkout")
    for name in ("train.py", "inference.py", "configs"):
        (place / name).symlink_to(ROOT / name)
    counts = dict.fromkeys(("text_to_audio", "text_to_speech", "speech_enhancement"), (6, 3, 3))
    build_mini_corpus(place / "data/mini", workers=1, progress=False, counts=counts)
    run("python train.py experiment=demo_fast exp_dir=experiments/demo epochs=1 epoch_length=2", place)
    (place / "experiments/demo_fast").symlink_to("demo")
    noisy = next((place / "data/mini/speech_enhancement/noisy").glob("se_test_*.flac"))
    sf.write(place / "noisy.wav", *sf.read(noisy))
    if not (place / "data/mini/speech_enhancement/noisy/se_test_00000.flac").exists():
        shutil.copy(noisy, place / "data/mini/speech_enhancement/noisy/se_test_00000.flac")
    return place


@pytest.mark.slow
def test_every_command_runs(workplace: Path) -> None:
    generation = commands(GENERATION)
    assert len(generation) >= 8
    for command in generation:
        run(command, workplace)
    for command in commands(README):
        if command.startswith("unisono generate"):
            run(command, workplace)
    for name in ("knocks", "hello", "clean", "clean2"):
        assert sf.info(workplace / f"{name}.wav").duration > 0.1
    assert (workplace / "experiments/demo/inference/manifest.jsonl").is_file()
    assert (workplace / "experiments/demo/inference_last/manifest.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", [GENERATION, README], ids=["generation", "readme"])
def test_every_line_of_python_runs(workplace: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names: dict = {}
    programs = [program for program in blocks(page, "python") if "unisono" in program]
    assert programs
    for program in programs:
        exec(program, names)
    assert (workplace / "knocks.flac").is_file()
    if page is GENERATION:
        assert names["longer"].duration_s == 4.0 and (workplace / "shared/model/config.yaml").is_file()
        assert [audio.duration_s for audio in names["several"]] == [2.0, 3.0]


@pytest.mark.slow
def test_help_shows_commands_that_parse(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples need files that are not there: they fail for that, not for their options."""
    said = run("unisono generate --help", workplace)
    examples = re.findall(r"^ +(unisono generate .*)$", said, re.MULTILINE)
    assert len(examples) >= 8
    monkeypatch.chdir(tmp_path)
    for example in examples:
        result = CliRunner().invoke(app, shlex.split(example)[1:])
        assert result.exit_code != 2, f"{example}\n{result.output}"
