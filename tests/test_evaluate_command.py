"""The commands `unisono evaluate`, `compare` and `metrics`, and that their page of the manual says what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judging import noisy, voice_like, write
from unisono.cli import app
from unisono.errors import UserError
from unisono.evaluation.catalogue import entries
from unisono.evaluation.listing import catalogue_markdown
from unisono.evaluation.networks.table import NETWORKS
from unisono.tasks import TASKS

PAGE = Path(__file__).parent.parent / "docs/evaluation.md"
FEW = ["--metric", "stoi", "--metric", "mel_distance_db", "-j", "0"]


def unisono(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Clean speech, two systems' versions of it, and noisy input; five recordings each."""
    folder = tmp_path_factory.mktemp("a path with spaces")
    for i in range(5):
        clean = voice_like(1.0, seed=i)
        write(folder / f"clean/{i}.wav", clean)
        for name, level in (("noisy", 0.1), ("first", 0.02), ("second", 0.01)):
            write(folder / f"{name}/{i}.wav", noisy(clean, level))
    return folder


def test_two_systems_from_folders_to_a_comparison(folders, tmp_path):
    for system in ("first", "second"):
        where = tmp_path / system
        said = unisono(
            "evaluate",
            folders / system,
            folders / "clean",
            "-t",
            "se",
            "--inputs",
            folders / "noisy",
            "-o",
            where,
            *FEW,
        )
        assert "speech_enhancement, 5 items" in said and "Input itself" in said and "stoi ↑" in said
        assert str((where / "report.html").resolve()) in said
        metrics = json.loads((where / "metrics.json").read_text())
        assert metrics["tasks"]["speech_enhancement"]["means"]["input"]["stoi"]["n"] == 5
    said = unisono("compare", tmp_path / "first", f"better={tmp_path / 'second'}", "-o", tmp_path / "both")
    assert "better - first" in said and re.search(r"mel_distance_db ↓ .* better\n", said)
    assert json.loads((tmp_path / "both/comparison.json").read_text())["baseline"] == "first"


def test_without_a_reference_and_with_a_set_of_references(folders, tmp_path):
    said = unisono("evaluate", folders / "noisy", "--task", "tts", "--metric", "dnsmos_ovrl", "-j", "0", "-o", tmp_path)
    assert "text_to_speech, 5 items" in said and "dnsmos_ovrl" in said
    unpaired = ("--unpaired", "--metric", "kad_mel_statistics", "-j", "0", "-o", tmp_path / "set")
    said = unisono("evaluate", folders / "noisy", folders / "clean", "-t", "t2a", *unpaired)
    assert re.search(r"kad_mel_statistics ↓ +\d", said)
    mean = json.loads((tmp_path / "set/metrics.json").read_text())["tasks"]["text_to_audio"]["means"]["model"]
    assert mean["kad_mel_statistics"]["n"] == 5


def test_what_a_user_can_mend(folders, tmp_path):
    for arguments, words in (
        (("evaluate", folders / "first", folders / "clean"), "--task is missing"),
        (("evaluate", folders / "first", folders / "clean", "-t", "x"), "unknown task 'x'"),
        (("evaluate", folders / "first", "-t", "se", "--network", "clap"), "write NAME=PATH"),
        (("evaluate", folders / "first", "-t", "t2a", "--network", "clap=nowhere"), "nowhere"),
        (("evaluate", folders / "first", "-t", "se", "--device", "tpu"), "device is 'tpu'"),
        (("compare", folders), "two evaluations or more"),
        (("metrics", "-t", "x"), "unknown task 'x'"),
    ):
        with pytest.raises(UserError, match=words):
            unisono(*arguments, *(("-o", tmp_path / "out") if arguments[0] != "metrics" else ()))
    assert not (tmp_path / "out").exists()


def test_every_metric_is_listed_with_what_it_needs():
    listed = unisono("metrics")
    for entry in entries():
        assert re.search(rf"^{entry.card.name} ", listed, re.MULTILINE), entry.card.name
    for name in NETWORKS:
        assert NETWORKS[name].built_in or f"  {name}: " in listed
    of_task = unisono("metrics", "--task", "svs")
    assert "pesq_wb" not in of_task and "mcd_dtw_db" in of_task


def test_cards_are_complete_and_names_unique():
    names = [entry.card.name for entry in entries()]
    assert len(names) == len(set(names))
    for entry in entries():
        card = entry.card
        for text in (card.title, card.value_range, card.definition, card.blind_to, card.source):
            assert len(text) > 2, card.name
        assert entry.tasks <= set(TASKS), card.name
        assert entry.network or (card.implementation and card.version), card.name
        assert entry.network or card.parameters, card.name


def test_the_manual_lists_every_metric_and_network():
    page = PAGE.read_text(encoding="utf-8")
    table = re.search(r"<!-- metrics: .*? -->\n(.*?)\n<!-- /metrics -->", page, re.DOTALL)
    assert table is not None
    assert table[1] == catalogue_markdown(), "run: unisono metrics --markdown, and put what it prints there"
    for row in NETWORKS.values():
        assert row.built_in or f"| `{row.name}` | {row.takes} |" in page, row.name


def test_the_configuration_names_every_network():
    from composing import composed

    networks = composed(config_name="evaluate").networks
    assert set(networks) == {row.name for row in NETWORKS.values() if not row.built_in}
    assert set(networks.values()) == {None}
