"""Written English to spoken words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import UserError
from unisono.text.normalize import spoken_phrases
from unisono.text.numbers import cardinal, decimal, ordinal, plural, year

WORDS = frozenset({
    "a", "a.", "i", "in", "the", "and", "of", "was", "it", "he", "said", "hello", "there", "'tis", "readers'", "y'all",
    "rock", "roll", "'n", "nasa", "cds", "well", "left", "cafe", "naive", "army's", "zoo", "ate", "fig",
})  # fmt: skip
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SMALL = {cardinal(number): number for number in range(100)}


def said(text: str) -> str:
    return " | ".join(" ".join(phrase) for phrase in spoken_phrases(text, WORDS.__contains__))


def value_of(words: list[str]) -> int:
    """Reads a cardinal back: an independent inverse."""
    total = group = 0
    for word in words:
        if word in SCALES:
            total, group = total + group * SCALES[word], 0
        elif word == "hundred":
            group *= 100
        else:
            group += SMALL[word]
    return total + group


@given(st.integers(0, 10**15 - 1))
def test_cardinals_can_be_read_back(number: int) -> None:
    assert value_of(cardinal(number).split()) == number


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (cardinal(1203), "one thousand two hundred three"),
        (cardinal(-5), "minus five"),
        (cardinal(10**15), "one" + " zero" * 15),
        (ordinal(21), "twenty first"),
        (ordinal(100), "one hundredth"),
        (ordinal(1_000_012), "one million twelfth"),
        (year(1900), "nineteen hundred"),
        (year(1905), "nineteen oh five"),
        (year(2000), "two thousand"),
        (year(2009), "two thousand nine"),
        (year(2024), "twenty twenty four"),
        (decimal("0.05"), "zero point zero five"),
        (decimal(".5"), "point five"),
        (decimal("1.2.13"), "one point two point thirteen"),
        (plural("nineteen ninety"), "nineteen nineties"),
        (plural("six"), "sixes"),
    ],
)
def test_numbers(spoken: str, expected: str) -> None:
    assert spoken == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $5.20 on Jan. 3, 1999.", "doctor smith paid five dollars and twenty cents on january third "
         "nineteen ninety nine"),
        ("$1, £2.02, €0.50, $3.5 million, $2bn, 5 €", "one dollar | two pounds and two pence | fifty cents | three "
         "point five million dollars | two billion dollars | five euros"),
        ("5:30 p.m. today, 10:05, 5:00, 17:00; 5pm", "five thirty p m today | ten oh five | five o'clock | seventeen "
         "hundred | five p m"),
        ("5 January 2005; the 5th of May; 1999-12-31; 5/6/1999", "the fifth of january two thousand five | the fifth "
         "of may | december thirty first nineteen ninety nine | may sixth nineteen ninety nine"),
        ("the 1990s and the '80s", "the nineteen nineties and the eighties"),
        ("1st, 22nd, 1,000th", "first | twenty second | one thousandth"),
        ("2½ cups, 3/4 cup, 1 1/2 miles, 24/7", "two and a half cups | three quarters cup | one and a half miles | "
         "twenty four seven"),
        ("1,234,567 or 1,2,3", "one million two hundred thirty four thousand five hundred sixty seven or one | two | "
         "three"),
        ("3.14%, 20°C, 1 km, 5 km/h, 6 ft. tall", "three point one four percent | twenty degrees celsius | one "
         "kilometer | five kilometers per hour | six feet tall"),
        ("10-20, -5, 555-1234, 16:9", "ten to twenty | minus five | five five five | one two three four | sixteen to "
         "nine"),
        ("007; No. 5; #7; p. 12", "zero zero seven | number five | number seven | page twelve"),
        ("in St. Louis on Elm St. and Main St.", "in saint louis on elm street and main street"),
        ("e.g. this, i.e. that, etc. J. R. Smith Jr. left.", "for example this | that is that | et cetera | j r smith "
         "junior left"),
        ("The U.S. Army's NASA, BBC, TVs and CDs; MP3, A4, 3D", "the u s army's nasa | b b c | t v's and cds | m p "
         "three | a. four | three d"),
        ("HELLO THERE BBC", "hello there bbc"),
        ("'Hello there,' he said -- 'tis readers' rock 'n' roll", "hello there | he said | 'tis readers' rock 'n roll"),
        ("He ate a fig. Well…left", "he ate a fig | well | left"),
        ("naïve café ﬁg", "naive cafe fig"),
        ("www.zoo.com/a or a.b@zoo.org", "www dot zoo dot com slash a or a dot b at zoo dot org"),
        ("a & b + c = 100%", "a and b plus c equals one hundred percent"),
        ("one\ntwo\n\nthree (four) well-left", "one two | three | four | well left"),
    ],
)  # fmt: skip
def test_text_is_said_as_people_say_it(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    "text", ["*bold*", "a_b", "Привет", "日本", "hi 😀", "a\0b", "\ud800", "\ue000a", "<b>", "5^2"]
)
def test_what_has_no_reading_is_named(text: str) -> None:
    with pytest.raises(UserError, match="which has no reading"):
        said(text)


@given(st.text(st.sampled_from("aBc .,:;!?'\"()-–—/$£€%&#°@+=½0123456789kmsthpx\n"), max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_writing_becomes_plain_words(text: str) -> None:
    try:
        phrases = spoken_phrases(text, WORDS.__contains__)
    except UserError as error:
        # A sign without an amount.
        assert any(f"holds {sign!r}" in str(error) for sign in "$£€#")  # noqa: PT017
        return
    for phrase in phrases:
        assert phrase
        assert all(word.replace("'", "").replace(".", "").isalpha() and word == word.lower() for word in phrase), phrase


@pytest.mark.parametrize(
    "text", ["9" * 6000, "$" + "9" * 6000, "9" * 6000 + "th", "1/" * 3000, "1:" * 3000, "a." * 5000]
)
def test_absurd_numbers_do_not_break(text: str) -> None:
    assert said(text)
