"""English numbers in words, American style: no "and", no hyphens, ready for a pronunciation dictionary."""

from __future__ import annotations

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ("", "thousand", "million", "billion", "trillion")
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_MOST_DIGITS = 15


def cardinal(number: int) -> str:
    """``1203`` is "one thousand two hundred three". From 10**15 on the digits are said one by one."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number >= 10**_MOST_DIGITS:
        return spelled_digits(str(number))
    groups: list[str] = []
    for scale in _SCALES:
        number, group = divmod(number, 1000)
        if group:
            groups.append(f"{_below_thousand(group)} {scale}".rstrip())
        if not number:
            break
    return " ".join(reversed(groups)) or "zero"


def ordinal(number: int) -> str:
    """``23`` is "twenty third"."""
    before, _, last = cardinal(number).rpartition(" ")
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    else:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return f"{before} {last}".lstrip()


def year(number: int) -> str:
    """``1905`` is "nineteen oh five", ``2005`` "two thousand five", ``2015`` "twenty fifteen"."""
    century, rest = divmod(number, 100)
    if not 1000 <= number <= 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def spelled_digits(digits: str) -> str:
    """``007`` is "zero zero seven"."""
    return " ".join(_ONES[int(digit)] for digit in digits)


def decimal(number: str) -> str:
    """``3.14`` is "three point one four"; ``1.2.13``, a version, is "one point two point thirteen"."""
    whole, *parts = number.replace(",", "").split(".")
    said = [whole_number(whole)] if whole else []
    for part in parts:
        said += ["point", spelled_digits(part) if len(parts) == 1 else whole_number(part)]
    return " ".join(said)


def whole_number(digits: str) -> str:
    """A cardinal; with leading zeros or beyond the trillions, digit by digit."""
    if len(digits) > _MOST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return spelled_digits(digits)
    return cardinal(int(digits))


def plural(words: str) -> str:
    """``nineteen ninety`` becomes "nineteen nineties"."""
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith("x") else f"{words}s"


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    said = [f"{_ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        said += [_TENS[rest // 10 - 2]] + ([_ONES[rest % 10]] if rest % 10 else [])
    elif rest:
        said.append(_ONES[rest])
    return " ".join(said)
