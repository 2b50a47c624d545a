"""The parts of data preparation: packages, texts, splits, cuts and the table of recipes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.data.manifest import PATH_FIELDS, rebased
from unisono.data.prepare import RECIPES
from unisono.data.prepare.debian import corpus as debian
from unisono.data.prepare.debian import effects, noisy, packages, speech
from unisono.data.prepare.debian.tables import load_table
from unisono.data.prepare.splits import SPLITS, fill_splits, split_of, tied_groups
from unisono.errors import UserError
from unisono.text.align import AlignedPhone, Alignment, text_to_words


def test_without_apt_the_message_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_check_installed", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda command: None if command == "dpkg-deb" else f"/usr/bin/{command}")
    with pytest.raises(UserError, match=r"dpkg-deb is not on the PATH.*unisono prepare mini"):
        debian.prepare_debian(tmp_path / "out")
    monkeypatch.setattr(shutil, "which", lambda command: None if command == "apt-get" else f"/usr/bin/{command}")
    with pytest.raises(UserError, match="apt-get is not on the PATH"):
        debian.prepare_debian(tmp_path / "out")


def test_failed_downloads_and_damaged_packages_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: f"/usr/bin/{command}")

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "W: noise\nE: Unable to locate package x\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"cannot download the package scratch \(E: Unable to locate package x\)"):
        packages.fetch_package("scratch", tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scratch_1.0_all.deb").write_bytes(b"not a package")
    with pytest.raises(UserError, match="is not a Debian package"):
        packages.fetch_package("scratch", tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_cached_package_is_unpacked_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: scratch\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: test\n"
    )
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/note").write_text("hello")
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(
        ["dpkg-deb", "--build", str(root), str(cache / "scratch_2.0-1_all.deb")], check=True, capture_output=True
    )
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("used the network"))
    package = packages.fetch_package("scratch", cache)
    assert package.version == "1:2.0-1"
    unpacked = packages.unpack_package(package, tmp_path / "unpacked")
    assert (unpacked / "usr/share/note").read_text() == "hello"
    assert packages.unpack_package(package, tmp_path / "unpacked") == unpacked


def test_splits_keep_tied_clips_together_and_about_the_shares() -> None:
    keys = [f"text {number}" for number in range(4000)]
    shares = {split: sum(split_of(key) == split for key in keys) / len(keys) for split in SPLITS}
    assert shares["train"] == pytest.approx(0.9, abs=0.02)
    assert shares["test"] == pytest.approx(0.05, abs=0.015)
    ties = {"a": ["x"], "b": ["x", "y"], "c": ["y"], "d": ["z"]}
    groups = tied_groups(ties)
    assert groups == tied_groups(dict(reversed(ties.items())))
    assert groups["a"] == groups["b"] == groups["c"] != groups["d"]
    captions = {f"clip{number}": f"caption {number % 120}" for number in range(300)}
    captions |= {f"common{number}": "common" for number in range(40)}
    splits = fill_splits(captions, max_held_out=4)
    by_caption: dict[str, set[str]] = {}
    for clip, caption in captions.items():
        by_caption.setdefault(caption, set()).add(splits[clip])
    assert all(len(found) == 1 for found in by_caption.values())
    assert by_caption["common"] == {"train"}
    for split in ("val", "test"):
        assert 0.05 <= sum(value == split for value in splits.values()) / len(splits) <= 0.07


def test_paths_of_lines_stay_right_in_another_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "an old/train", tmp_path / "new"
    line = {"audio": "../a.flac", "noisy_audio": "x.tar::in/a.flac", "video": str(tmp_path / "v.mp4"), "text": "../b"}
    moved = rebased(line, old, new)
    assert moved == {**line, "audio": "../an old/a.flac", "noisy_audio": "../an old/train/x.tar::in/a.flac"}
    assert rebased(moved, new, old) == line
    assert rebased(line, old, old) == line


def test_every_path_of_the_documented_format_is_known_as_one() -> None:
    text = (Path(__file__).parents[1] / "docs/data_format.md").read_text(encoding="utf-8")
    # Rows such as | | `voicing` | path of an array `(T,)` | …
    rows = re.findall(r"^\|[^|]*?\|?\s*((?:`\w+`,? ?)+)\s*\| path", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)[:1]}
    assert {"audio", "video_features", "score"} <= named <= set(PATH_FIELDS)


def test_captions_that_differ_in_an_article_are_the_same() -> None:
    assert effects.normalise_caption("A splash, in water!") == effects.normalise_caption("splash in the water")


def test_tables_are_well_formed() -> None:
    for package in effects.EFFECT_PACKAGES:
        table = load_table(package)
        for caption in table["captions"].values():
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ,-]+[A-Za-z0-9]", caption), caption
        assert not set(table["captions"]) & set(table["left_out"])


def test_spoken_text() -> None:
    table = load_table("asterisk-core-sounds-en")

    def said(text: str, name: str = "") -> str:
        return speech.spoken_text(text, table["replace"].get(name, {}), table["respell"])

    assert said("press 1 or 28, then # [!] (a remark)...") == "press one or twenty-eight, then pound"
    assert said("dial 1234 * IAX") == "dial one two three four star I A X"
    assert said("IAXY 3Dx") == "IAXY threeDx"
    assert said("dial 500 or dial extension 8500 to", "demo-instruct") == (
        "dial five zero zero or dial extension eight five zero zero to"
    )
    assert [speech.number_in_words(digits) for digits in ("0", "19", "20", "42", "007")] == [
        "zero",
        "nineteen",
        "twenty",
        "forty-two",
        "zero zero seven",
    ]


def test_long_prompts_are_cut_at_pauses_with_their_words_and_phones() -> None:
    text = "One two. Three four, five six seven. Eight nine"
    words = text_to_words(text)
    phones: list[AlignedPhone] = []
    start_s = 0.1
    for index, _ in enumerate(words):
        phones.append(AlignedPhone("AH", index, start_s, 0.5, -10.0))
        start_s = round(start_s + 0.5, 2)
        if index in (1, 3, 4, 6):  # a pause after two., four, five and seven.
            phones.append(AlignedPhone("", -1, start_s, 0.4, -3.0))
            start_s = round(start_s + 0.4, 2)
    alignment = Alignment(tuple(words), tuple(phones), start_s + 0.1, -10.0)
    parts = speech.split_at_pauses(text, alignment, longest_frames=310)
    assert [part.text for part in parts] == ["One two. Three four,", "five six seven.", "Eight nine"]
    assert " ".join(part.text for part in parts) == text
    assert sum(len([p for p in part.phones if p.phone]) for part in parts) == len(words)
    for part in parts:
        first, last = part.phones[0], part.phones[-1]
        assert 0 <= first.start_s - part.start_frame / 100 <= 0.151
        assert 0 <= part.end_frame / 100 - last.end_s <= 0.151
        assert part.end_frame - part.start_frame <= 310
    assert speech.split_at_pauses(text, alignment) == [
        speech.Part(text, 0, round(alignment.duration_s * 100), alignment.phones)
    ]


def test_looped_noise_is_long_enough_and_has_no_click() -> None:
    rng = np.random.default_rng(3)
    time_s = np.arange(9_000) / 16_000
    recording = np.sin(2 * np.pi * 101.3 * time_s).astype(np.float32)
    noise = noisy.recorded_noise(rng, recording, 40_000)
    assert noise.shape == (40_000,)
    assert np.abs(np.diff(noise)).max() < 1.5 * np.abs(np.diff(recording)).max()


def test_recipes_are_listed_without_heavy_imports() -> None:
    assert {"mini", "debian"} <= set(RECIPES)
    assert RECIPES["debian"].load() is debian.prepare_debian
    code = (
        "import sys; from unisono.data.prepare import RECIPES; "
        "assert all(recipe.description for recipe in RECIPES.values()); "
        "heavy = {'torch', 'numpy', 'av', 'soxr', 'pocketsphinx'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
