"""Sentences: where they end, and that nothing of the text is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. How are you? Fine!", ["Hello there.", "How are you?", "Fine!"]),
        (
            "Dr. Smith paid $5.50 at 3 p.m. on Jan. 4. He left.",
            ["Dr. Smith paid $5.50 at 3 p.m. on Jan. 4.", "He left."],
        ),
        ("George W. Bush and I. We went… and came back.", ["George W. Bush and I.", "We went… and came back."]),
        ("He said no. Then No. 5 left.", ["He said no.", "Then No. 5 left."]),
        ('"Really?" he said. Yes.', ['"Really?" he said.', "Yes."]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("A heading\n\nA paragraph", ["A heading", "A paragraph"]),
        ("One line\nthat goes on.", ["One line\nthat goes on."]),
        ("no end", ["no end"]),
        ("...", []),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_long_sentences_part_at_commas_then_at_spaces() -> None:
    clause = "a clause of some thirty letters"
    pieces = split_sentences(", ".join([clause] * 10), longest=100)
    assert all(len(piece) <= 100 for piece in pieces) and all(piece.endswith((",", "letters")) for piece in pieces)
    assert [len(piece) for piece in split_sentences("word " * 60, longest=100)] == [99, 99, 99]
    assert list(map(len, split_sentences("x" * 450))) == [200, 200, 50]


@given(st.text(st.sampled_from("ab .,!?…\"')(\n。-")), st.integers(8, 40))
def test_nothing_is_lost_but_space_and_what_has_no_word(text: str, longest: int) -> None:
    pieces = split_sentences(text, longest)
    assert all(0 < len(piece) <= longest for piece in pieces)
    assert re.sub(r"\W", "", "".join(pieces)) == re.sub(r"\W", "", text)
