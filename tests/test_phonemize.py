"""Graphemes to phonemes: English by dictionary and fallback, other languages by eSpeak NG; the step on manifests."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from unisono.data.manifest import read_jsonl, write_jsonl
from unisono.data.prepare.commands_text import phonemize as command
from unisono.data.prepare.steps import phonemize as step
from unisono.errors import UserError
from unisono.text.ipa import languages, transcribe_ipa
from unisono.text.phonemes import ARPABET_TO_IPA, PHONEMES, SILENCE, to_arpabet_inventory
from unisono.text.phonemize import Phonemizer, cmu_dictionary, phonemizer

SENTENCES = ("The captain waited near the harbor all night.", "Who paid $5 to Zyxomma's frobnicator, Dr. Smith?")
GERMAN = "Ich möchte, dass Sie pünktlich zum Zug kommen."


def test_dictionary_words_numbers_and_pauses() -> None:
    english = Phonemizer()
    assert english.phonemes("Hello, world!") == ["_", "h", "ʌ", "l", "oʊ", "_", "w", "ɜː", "l", "d", "_"]
    assert Phonemizer(silences=False).phonemes("Hello, world!") == ["h", "ʌ", "l", "oʊ", "w", "ɜː", "l", "d"]
    assert english.words("Dr. Smith paid $5.") == ["doctor", "smith", "paid", "five", "dollars"]
    assert english.phonemes("Dr. Smith paid $5.") == english.phonemes("doctor smith paid five dollars")
    assert english.transcribe("Is it A, or a?").words == ("is", "it", "a", "or", "a")


def test_unknown_words_are_guessed_within_the_inventory_and_reported() -> None:
    result = Phonemizer().transcribe(SENTENCES[1])
    assert result.fallback_words == ("zyxomma's", "frobnicator")
    assert set(result.phonemes) <= set(Phonemizer().inventory())
    assert SILENCE not in result.phonemes[1:6]
    # The stem decides how a possessive ends.
    said = Phonemizer(pronunciations={"zyxomma": "Z IH K S"}).transcribe("zyxomma's")
    assert said.fallback_words == ()
    assert said.phonemes == ("_", "z", "ɪ", "k", "s", "ɪ", "z", "_")


@pytest.mark.parametrize(("word", "ending"), [("cat's", "s"), ("dog's", "z"), ("church's", "ɪ z")])
def test_possessives(word: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {word: phones for word, phones in cmu_dictionary().items() if not word.endswith("'s")}
    monkeypatch.setattr("unisono.text.phonemize.cmu_dictionary", lambda: entries)
    english = Phonemizer()
    (stem,), (said,) = english.pronounce([word[:-2]]), english.pronounce([word])
    assert said == [*stem, *ending.split(" ")]
    assert english.transcribe(word).fallback_words == ()


def test_every_english_symbol_has_a_place_among_the_arpabet_ones() -> None:
    for symbol in PHONEMES:
        parts = to_arpabet_inventory([symbol], "here")
        assert parts
        assert set(parts) <= {*ARPABET_TO_IPA.values(), SILENCE}
    assert to_arpabet_inventory(list(ARPABET_TO_IPA.values()), "") == list(ARPABET_TO_IPA.values())


def test_fallback_is_like_the_dictionary() -> None:
    """eSpeak NG's reading of words that the dictionary has, every 300th: most sounds are the same."""
    words = sorted(word for word in cmu_dictionary() if word.isalpha())[::300]
    known = Phonemizer(silences=False).pronounce(words)
    guessed = [[s for phrase in read for s in phrase] for read in transcribe_ipa(words, "en-us")]
    same = [
        len(set(truth) & set(to_arpabet_inventory(guess, word))) / len(set(truth))
        for word, truth, guess in zip(words, known, guessed, strict=True)
    ]
    assert len(words) > 300
    assert sum(same) / len(same) > 0.85


def test_british_english_stays_within_the_inventory_of_espeak() -> None:
    british = Phonemizer("en-gb")
    assert british.phonemes("Hello.") == ["_", "h", "ə", "l", "əʊ", "_"]
    assert set(british.inventory()) == set(PHONEMES)
    assert set(british.phonemes(SENTENCES[0])) <= set(PHONEMES)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "Zeit, Pferd!", "_ ts aɪ t _ pf eː ɾ t _"),
        ("it", "pizza città", "_ p i tsː a tʃ i tː a _"),
        ("fr", "un bon vin", "_ œ̃ b ɔ̃ v ɛ̃ _"),
        ("pl", "dzień", "_ dʑ ɛ ɲ _"),
        ("es", "chico", "_ tʃ i k o _"),
        ("zh", "妈，麻，马，骂", "_ m ɑ55 _ m ɑ35 _ m ɑ214 _ m ɑ51 _"),
        ("zh", "吃是天", "_ ʈʂʰ ɨ55 ʂ ɨ51 tʰ iɛ55 n _"),
        ("ko", "안녕", "_ ɐ n n j ʌ ŋ _"),
    ],
)
def test_languages(language: str, text: str, expected: str) -> None:
    assert Phonemizer(language).phonemes(text) == expected.split(" ")


def test_stress_is_dropped_or_kept_and_nothing_else_changes() -> None:
    plain, stressed = Phonemizer("de").phonemes(GERMAN), Phonemizer("de", keep_stress=True).phonemes(GERMAN)
    assert [symbol.strip("ˈˌ") for symbol in stressed] == plain
    assert any(symbol.startswith("ˈ") for symbol in stressed)
    assert not any(mark in symbol for symbol in plain for mark in "ˈˌ͡| ")


def test_language_switches_leave_no_trace() -> None:
    result = Phonemizer("de").phonemes("Der Download klappt.")
    assert not any("(" in symbol or "en" in symbol for symbol in result)
    assert result[1:4] == ["d", "ɛ", "ɾ"]


def test_inventory_lists_the_vocabulary() -> None:
    english = Phonemizer().inventory()
    assert english[0] == SILENCE
    assert len(english) == 40
    german = Phonemizer("de")
    listed = german.inventory([GERMAN])
    assert set(german.phonemes(GERMAN)) == set(listed)
    assert listed[0] == SILENCE
    assert listed == german.inventory([GERMAN, GERMAN])
    with pytest.raises(UserError, match="give texts"):
        german.inventory()


@pytest.mark.parametrize("language", ["de", "zh"])
def test_reading_does_not_depend_on_what_was_read_before(language: str) -> None:
    texts = {
        "de": [GERMAN, "Die Straße ist 25 Meter lang.", "Der Download klappt"],
        "zh": ["你好吗", "中国", "hello 马"],
    }
    alone = [Phonemizer(language).transcribe(text) for text in texts[language]]
    together = Phonemizer(language).transcribe_many(texts[language][::-1] * 2)
    assert together == alone[::-1] * 2


def test_phonemes_are_the_same_in_another_process_and_in_a_copy() -> None:
    code = (
        "import json; from unisono.text.phonemize import Phonemizer;"
        f"print(json.dumps([Phonemizer().phonemes({SENTENCES[1]!r}), Phonemizer('de').phonemes({GERMAN!r})]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [Phonemizer().phonemes(SENTENCES[1]), Phonemizer("de").phonemes(GERMAN)]
    assert json.loads(other) == here
    used = phonemizer("de")
    used.pronounce(["Zug"])
    assert pickle.loads(pickle.dumps(used)).phonemes(GERMAN) == here[1]


def test_words_are_pronounced_alone() -> None:
    assert phonemizer().pronounce(["Twinkle", "star", "star", "a."]) == [
        ["t", "w", "ɪ", "ŋ", "k", "ʌ", "l"],
        ["s", "t", "ɑː", "ɹ"],
        ["s", "t", "ɑː", "ɹ"],
        ["eɪ"],
    ]
    assert phonemizer("de").pronounce(["Zug", "Zeit"]) == [["ts", "uː", "k"], ["ts", "aɪ", "t"]]
    assert phonemizer().pronounce([]) == []


def test_english_is_fast() -> None:
    words = sorted(word for word in cmu_dictionary() if word.isalpha())
    texts = [" ".join(words[start :: len(words) // 12][:12]).capitalize() + "." for start in range(0, 9000, 6)]
    english = Phonemizer()
    began = time.perf_counter()
    results = english.transcribe_many(texts)
    per_second = len(texts) / (time.perf_counter() - began)
    assert not any(isinstance(result, UserError) or result.fallback_words for result in results)
    assert per_second > 2000 / 4  # about 10 000; slack for a busy machine


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("en-us", "", "at least one word"),
        ("en-us", "...", "nothing to pronounce"),
        ("en-us", "Привет", "CYRILLIC"),
        ("en-us", "5 * 3", "no reading"),
        ("en-us", "word " * 3000, "at most"),
        ("en-us", None, "at least one word"),
        ("de", "…", "nothing to pronounce"),
        ("de", "日本", "CJK"),
        ("de", "a\0b", "no reading"),
        ("ru", "日本", "CJK"),
        ("ja", "日本", "CJK"),
        ("de", "ja 😀", "GRINNING FACE"),
    ],
)
def test_texts_without_a_reading_are_explained(language: str, text: str, message: str) -> None:
    both = Phonemizer(language).transcribe_many([text, "Hallo"])
    assert message in str(both[0])
    assert not isinstance(both[1], UserError)
    with pytest.raises(UserError, match=message):
        Phonemizer(language).phonemes(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "fench"}, r"none of eSpeak NG's \d+; did you mean|the codes are"),
        ({"language": "kl"}, "none of eSpeak NG's"),  # ends the process
        ({"language": "de", "pronunciations": {"a": "AH"}}, "pronunciations are for en-us"),
        ({"pronunciations": {"a": "AH0"}}, "'a' is 'AH0'"),
        ({"pronunciations": {"a": ""}}, "write ARPAbet"),
        ({"keep_stress": True}, "no stress marks"),
    ],
)
def test_wrong_options_are_explained(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phonemizer(**arguments)


def test_languages_are_many_and_name_their_files() -> None:
    known = languages()
    assert {"de", "fr", "it", "es", "pl", "zh", "ru", "pt-br", "ko"} <= set(known)
    assert known["fr"] == "roa/fr"
    assert known["pt"] == "roa/pt"


@pytest.mark.parametrize(("package", "language"), [("pocketsphinx", "en-us"), ("espeakng_loader", "de")])
def test_missing_packages_name_the_extra(package: str, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    cmu_dictionary.cache_clear()
    languages.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'unisono\[speech\]'"):
        Phonemizer(language).phonemes("Hallo")
    cmu_dictionary.cache_clear()


# ------------------------------------------------------------------------------------------------------ the step


def manifest_of(folder: Path, records: list[dict]) -> Path:
    return write_jsonl(folder / "a folder" / "content.jsonl", records)


def lines(path: Path) -> list[dict]:
    return [record for _, record in read_jsonl(path)]


def many(count: int) -> list[dict]:
    return [
        {"audio_id": f"u{n}", "text": f"Sentence {n} by frob{chr(97 + n % 7)}.", "speaker": "x"} for n in range(count)
    ]


def test_lines_get_phonemes_and_keep_what_they_have(tmp_path: Path) -> None:
    kept = {"audio_id": "c", "phonemes": ["a"], "durations_s": [1.0], "text": "left alone"}
    records = [
        {"audio_id": "a", "text": SENTENCES[0], "speaker": "ann", "noisy_audio": "x.flac"},
        {"audio_id": "b", "text": GERMAN, "language": "de"},
        kept,
    ]
    manifest = manifest_of(tmp_path, records)
    output = manifest.with_name("with phonemes.jsonl")
    report = step.phonemize_manifest(manifest, output, workers=1, progress=False)
    written = lines(output)
    assert written[0] == {**records[0], "phonemes": Phonemizer().phonemes(SENTENCES[0]), "language": "en-us"}
    assert written[1] == {**records[1], "phonemes": Phonemizer("de").phonemes(GERMAN)}
    assert written[2] == kept
    assert (report.num_lines, report.num_kept, report.failures) == (3, 1, ())
    assert set(report.symbols) == {*written[0]["phonemes"], *written[1]["phonemes"]}
    assert report.symbols[0] == SILENCE
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "content.jsonl", "with phonemes.jsonl", "with phonemes.report.json",
    ]  # fmt: skip


def test_workers_and_chunks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path, many(25))
    whole = manifest.with_name("whole.jsonl")
    step.phonemize_manifest(manifest, whole, workers=1, progress=False)
    monkeypatch.setattr(step, "_LINES_PER_JOB", 4)
    parts = manifest.with_name("parts.jsonl")
    report = step.phonemize_manifest(manifest, parts, workers=2, progress=False)
    assert parts.read_bytes() == whole.read_bytes()
    assert len(lines(parts)) == 25
    assert report.fallback_words["froba"] == 4
    assert "froba (4)" in str(report)


def test_failures_are_named_by_line_and_nothing_is_written(tmp_path: Path) -> None:
    records = [
        {"audio_id": "a", "text": "Fine."},
        {"audio_id": "b", "text": "* * *"},
        {"audio_id": "c"},
        {"audio_id": "d", "text": "Hi", "language": "xx-none"},
        {"audio_id": "e", "text": 5},
    ]
    manifest = manifest_of(tmp_path, records)
    output = manifest.with_name("out.jsonl")
    with pytest.raises(UserError) as error:
        step.phonemize_manifest(manifest, output, workers=1, progress=False)
    for line, message in [(2, "'*'"), (3, "'text' is missing"), (4, "xx-none"), (5, "a non-empty text")]:
        assert any(f"content.jsonl:{line}" in row and message in row for row in str(error.value).splitlines())
    assert "--leave-out-failures" in str(error.value)
    assert not output.exists()
    report = step.phonemize_manifest(manifest, output, workers=1, progress=False, leave_out_failures=True)
    assert [record["audio_id"] for record in lines(output)] == ["a"]
    assert [failure["line"] for failure in report.failures] == [2, 3, 4, 5]
    told = json.loads((manifest.parent / "out.report.json").read_text(encoding="utf-8"))
    assert [failure["audio_id"] for failure in told["left_out"]] == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no items"),
        (b"\n\n", "no items"),
        (b'{"audio_id": "a", "text": "x"}\n{"broken\n', r"content\.jsonl:2: not JSON"),
        (b'{"audio_id": "a", "text": "x"}\n[1]\n', r"content\.jsonl:2: a list"),
        (b'{"audio_id": "a", "text": "x\xff"}\n', "not UTF-8"),
        (b'{"audio_id": "a", "text": "\\ud800"}\n', "other half"),
    ],
)
def test_broken_manifests(content: bytes, message: str, tmp_path: Path) -> None:
    manifest = tmp_path / "content.jsonl"
    manifest.write_bytes(content)
    with pytest.raises(UserError, match=message):
        step.phonemize_manifest(manifest, tmp_path / "out.jsonl", workers=1, progress=False)
    assert not (tmp_path / "out.jsonl").exists()


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    manifest = tmp_path / "content.jsonl"
    manifest.write_bytes(
        '\ufeff{"audio_id": "ä", "text": "One."}\r\n\r\n{"audio_id": "b", "text": "Two."}\r\n'.encode()
    )
    step.phonemize_manifest(manifest, tmp_path / "out.jsonl", workers=1, progress=False)
    assert [record["audio_id"] for record in lines(tmp_path / "out.jsonl")] == ["ä", "b"]


def test_outputs_are_not_replaced_unasked_nor_paths_broken(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [{"audio_id": "a", "text": "Hi.", "noisy_audio": "a.flac"}])
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        step.phonemize_manifest(manifest, manifest, workers=1, progress=False)
    with pytest.raises(UserError, match=r"content\.jsonl:1: field 'noisy_audio' is a path relative"):
        step.phonemize_manifest(manifest, tmp_path / "out.jsonl", workers=1, progress=False)
    with pytest.raises(UserError, match="no such manifest"):
        step.phonemize_manifest(tmp_path / "none.jsonl", tmp_path / "out.jsonl", workers=1, progress=False)
    step.phonemize_manifest(manifest, manifest, workers=1, progress=False, overwrite=True)
    assert lines(manifest)[0]["phonemes"] == ["_", "h", "aɪ", "_"]


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_LINES_PER_JOB", 3)
    manifest = manifest_of(tmp_path, many(12))
    output = manifest.with_name("out.jsonl")
    code = (
        "import os, signal; from unisono.data.prepare.steps import phonemize as step\n"
        "step._LINES_PER_JOB = 3\n"
        "real, calls = step._phonemize_chunk, []\n"
        "def chunk(job):\n"
        "    calls.append(job)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(job)\n"
        "step._phonemize_chunk = chunk\n"
        f"step.phonemize_manifest({str(manifest)!r}, {str(output)!r}, workers=1, progress=False)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    done: list[int] = []
    real = step._phonemize_chunk
    monkeypatch.setattr(step, "_phonemize_chunk", lambda job: (done.append(job.first_line), real(job))[1])
    step.phonemize_manifest(manifest, output, workers=1, progress=False)
    assert done == [7, 10]
    assert [record["audio_id"] for record in lines(output)] == [f"u{n}" for n in range(12)]
    # Another manifest, or another language, is not mixed with what is left of the first.
    manifest_of(tmp_path, many(6))
    step.phonemize_manifest(manifest, output, workers=1, progress=False, overwrite=True)
    assert done == [7, 10, 1, 4]


def test_command(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [{"audio_id": "a", "text": "Unisono sings."}])
    words = tmp_path / "words.dict"
    words.write_text("# names\nUnisono Y UW2 N IH0 S OW1 N OW0\n", encoding="utf-8")
    app = Typer()
    app.command()(command)
    output = manifest.with_name("out.jsonl")
    result = CliRunner().invoke(
        app, [str(manifest), "-o", str(output), "--pronunciations", str(words), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "1 lines" in result.output
    assert lines(output)[0]["phonemes"][:6] == ["_", "j", "uː", "n", "ɪ", "s"]
    words.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"words\.dict:1: 'nothing' has no phones"):
        step.read_pronunciations(words)
