"""Graphemes to phonemes: English by dictionary and fallback, other languages by eSpeak NG; the step on manifests."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from unisono.data.manifest import read_jsonl, write_jsonl
from unisono.data.prepare.commands_text import phonemize as command
from unisono.data.prepare.steps import phonemize as step
from unisono.data.prepare.steps.engine import Options, StepResult
from unisono.errors import UserError
from unisono.text.ipa import languages, transcribe_ipa
from unisono.text.phonemes import ARPABET_TO_IPA, PHONEMES, SILENCE, to_arpabet_inventory
from unisono.text.phonemize import Phonemizer, cmu_dictionary, phonemizer, read_pronunciations

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


def run(content: Path, output: Path, workers: int = 1, **options: Any) -> StepResult:
    steps = {name: options.pop(name) for name in ("overwrite", "max_left_out") if name in options}
    return step.add_phonemes(content, Options(output, workers, False, **steps), **options)


def test_lines_get_phonemes_and_keep_what_they_have(tmp_path: Path) -> None:
    kept = {"audio_id": "c", "phonemes": ["a"], "durations_s": [1.0], "text": "left alone"}
    records = [
        {"audio_id": "a", "text": SENTENCES[0], "speaker": "ann", "noisy_audio": "x.flac", "phonemes": None},
        {"audio_id": "b", "text": GERMAN, "language": "de"},
        kept,
    ]
    manifest = manifest_of(tmp_path, records)
    output = manifest.with_name("with phonemes.jsonl")
    result = run(manifest, output)
    written = lines(output)
    assert written[0] == {**records[0], "phonemes": Phonemizer().phonemes(SENTENCES[0]), "language": "en-us"}
    assert written[1] == {**records[1], "phonemes": Phonemizer("de").phonemes(GERMAN)}
    assert written[2] == kept
    assert (result.items, result.left_out.total()) == (3, 0)
    symbols, outside, untouched = result.notes
    assert "phonemes='${phoneme_inventory:" in outside
    new = {*written[0]["phonemes"], *written[1]["phonemes"]} - {SILENCE}
    assert symbols == f"{len(new) + 1} symbols: {' '.join([SILENCE, *sorted(new)])}"
    assert untouched == "1 lines had phonemes or a score and stay as they were"
    assert sorted(path.name for path in output.parent.iterdir()) == ["content.jsonl", "with phonemes.jsonl"]


def test_workers_and_chunks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path, many(25))
    whole = manifest.with_name("whole.jsonl")
    run(manifest, whole)
    monkeypatch.setattr(step, "_CHUNK_ITEMS", 4)
    parts = manifest.with_name("parts.jsonl")
    result = run(manifest, parts, workers=2)
    assert parts.read_bytes() == whole.read_bytes()
    assert len(lines(parts)) == 25
    assert all(line["guessed_words"] == [line["text"].split()[-1][:-1]] for line in lines(parts))
    assert "froba (4)" in str(result)


def test_lines_that_cannot_be_read_are_left_out_with_their_reason(tmp_path: Path) -> None:
    records = [
        {"audio_id": "a", "text": "Fine."},
        {"audio_id": "b", "text": "* * *"},
        {"audio_id": "c"},
        {"audio_id": "d", "text": "Hi", "language": "xx-none"},
        {"audio_id": "e", "text": 5},
    ]
    manifest = manifest_of(tmp_path, records)
    audio = write_jsonl(manifest.with_name("audio.jsonl"), [{"audio_id": i, "audio": f"{i}.wav"} for i in "edcba"])
    before = audio.read_bytes()
    output = manifest.with_name("out.jsonl")
    with pytest.raises(UserError, match=r"4 of 5 lines would be left out.*--max-left-out"):
        run(manifest, output)
    assert not output.exists() and audio.read_bytes() == before
    result = run(manifest, output, max_left_out=0.8)
    assert [record["audio_id"] for record in lines(output)] == ["a"]
    assert dict(result.left_out) == {"bad_text": 2, "no_text": 2}
    told = lines(manifest.with_name("out.phonemize.left_out.jsonl"))
    assert [(entry["item"], entry["line"], entry["content"]) for entry in told] == [
        (record["audio_id"], number, record) for number, record in enumerate(records[1:], 2)
    ]
    for entry, message in zip(told, ("'*'", "'text' is missing", "xx-none", "a non-empty text"), strict=True):
        assert message in entry["reason"]
    # Another content.jsonl may need the targets that lie there; those of this output are beside them.
    assert audio.read_bytes() == before
    assert lines(manifest.with_name("out.audio.jsonl")) == [{"audio_id": "a", "audio": "a.wav"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no items"),
        (b"\n\n", "no items"),
        (b'{"audio_id": "a", "text": "x"}\n{"broken\n', r"content\.jsonl:2: not JSON"),
        (b'{"audio_id": "a", "text": "x"}\n[1]\n', r"content\.jsonl:2: a list"),
        (b'{"audio_id": "a", "text": "x\xff"}\n', "not UTF-8"),
        (b'{"audio_id": "a", "text": "\\ud800"}\n', "other half"),
        (b'{"audio_id": "a", "text": "x"}\n{"audio_id": "a", "text": "y"}\n', "used on line 1 already"),
        (b'{"text": "x"}\n', r"content\.jsonl:1: field 'audio_id' is missing"),
    ],
)
def test_broken_manifests(content: bytes, message: str, tmp_path: Path) -> None:
    manifest = tmp_path / "content.jsonl"
    manifest.write_bytes(content)
    with pytest.raises(UserError, match=message):
        run(manifest, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    manifest = tmp_path / "content.jsonl"
    manifest.write_bytes(
        '\ufeff{"audio_id": "ä", "text": "One."}\r\n\r\n{"audio_id": "b", "text": "Two."}\r\n'.encode()
    )
    run(manifest, tmp_path / "out.jsonl")
    assert [record["audio_id"] for record in lines(tmp_path / "out.jsonl")] == ["ä", "b"]


def test_outputs_are_not_replaced_unasked_and_paths_stay_right(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [{"audio_id": "a", "text": "Hi.", "noisy_audio": "a.flac"}])
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        run(manifest, manifest)
    with pytest.raises(UserError, match="no such manifest"):
        run(tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    run(manifest, tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl")[0]["noisy_audio"] == "a folder/a.flac"
    assert not (tmp_path / "audio.jsonl").exists()
    run(manifest, manifest, overwrite=True)
    assert lines(manifest)[0]["phonemes"] == ["_", "h", "aɪ", "_"]


def test_sentences_beside_targets_of_another_manifest(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [{"audio_id": "to be said", "text": "Hi."}])
    audio = write_jsonl(manifest.with_name("audio.jsonl"), [{"audio_id": "a", "audio": "a.wav"}])
    before = audio.read_bytes()
    result = run(manifest, manifest.with_name("out.jsonl"))
    assert "stays as it is" in result.notes[0] and audio.read_bytes() == before
    with pytest.raises(UserError, match="'to be said' has no line in"):
        run(manifest, manifest.with_name("more.jsonl"), audio=audio)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_CHUNK_ITEMS", 3)
    manifest = manifest_of(tmp_path, many(12))
    output = manifest.with_name("out.jsonl")
    code = (
        "import os, signal; from pathlib import Path; from unisono.data.prepare.steps import phonemize as step\n"
        "from unisono.data.prepare.steps.engine import Options\n"
        "step._CHUNK_ITEMS = 3\n"
        "real, calls = step._read, []\n"
        "def read(*arguments):\n"
        "    calls.append(arguments)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*arguments)\n"
        "step._read = read\n"
        f"step.add_phonemes({str(manifest)!r}, Options(Path({str(output)!r}), 1, False))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    (records,) = output.parent.glob(".*/records.log")
    with records.open("ab") as file:
        file.write(b"0123abcd\tthe kill came here")
    done: list[str] = []
    real = step._read
    monkeypatch.setattr(step, "_read", lambda *a: (done.append(a[2][0].audio_id), real(*a))[1])
    run(manifest, output)
    assert done == ["u6", "u9"]
    assert [record["audio_id"] for record in lines(output)] == [f"u{n}" for n in range(12)]
    # Another manifest, or another language, is not mixed with what is left of the first.
    manifest_of(tmp_path, many(6))
    run(manifest, output, overwrite=True)
    run(manifest, output, overwrite=True, language="en-gb")
    assert done == ["u6", "u9", "u0", "u3", "u0", "u3"]


def test_command(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [{"audio_id": "a", "text": "Unisono sings."}])
    words = tmp_path / "words.dict"
    words.write_text("# names\nUnisono Y UW2 N IH0 S OW1 N OW0  # ours\n\n", encoding="utf-8")
    app = Typer()
    app.command()(command)
    output = manifest.with_name("out.jsonl")
    result = CliRunner().invoke(
        app, [str(manifest), "-o", str(output), "--pronunciations", str(words), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "1 items" in result.output
    assert lines(output)[0]["phonemes"][:6] == ["_", "j", "uː", "n", "ɪ", "s"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good G UH D\nnothing\n", r"words\.dict:2: 'nothing' is not a word and its"),
        ("bad X\n", r"words\.dict:1: 'bad X' is not a word and its"),
        ("one W AH N\nOne W AO N\n", r"words\.dict:2: 'one' has two pronunciations, W AH N and W AO N"),
    ],
)
def test_dictionaries_with_faults_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    words = tmp_path / "words.dict"
    words.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_pronunciations(words)
    with pytest.raises(UserError, match="not readable"):
        read_pronunciations(tmp_path / "none.dict")
