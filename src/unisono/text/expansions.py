"""Numbers, signs and abbreviations of written English replaced by words, as patterns applied in a fixed order."""

from __future__ import annotations

import re
from collections.abc import Callable

from unisono.text.numbers import cardinal, decimal, ordinal, plural, spelled_digits, whole_number, year

LETTER = "\ue000"  # stands before a letter that is said by its name; no text that is read may hold it

_MONTHS = [
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
]
_MONTH = "|".join([*_MONTHS, *(rf"{month[:3]}\." for month in _MONTHS), r"Sept\."])
# A number as people write it: grouped by commas or not, with decimals or not.
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"

# Before a name: the dot never ends a sentence.
_TITLES = {
    "Mr": "mister", "Mrs": "misses", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Rev": "reverend",
    "Gen": "general", "Col": "colonel", "Maj": "major", "Capt": "captain", "Lt": "lieutenant", "Sgt": "sergeant",
    "Hon": "honorable", "Gov": "governor", "Sen": "senator", "Rep": "representative", "Pres": "president",
    "Messrs": "messieurs", "Mt": "mount", "Ft": "fort", "Fr": "father",
}  # fmt: skip
# The dot may end a sentence as well.
_ABBREVIATIONS = {
    "Jr": "junior", "Sr": "senior", "Esq": "esquire", "Co": "company", "Corp": "corporation", "Inc": "incorporated",
    "Ltd": "limited", "Bros": "brothers", "Dept": "department", "Ave": "avenue", "Blvd": "boulevard", "Rd": "road",
    "St": "street", "etc": "et cetera", "vs": "versus", "approx": "approximately", "est": "established",
    "Mon": "monday", "Tue": "tuesday", "Tues": "tuesday", "Wed": "wednesday", "Thu": "thursday", "Thurs": "thursday",
    "Fri": "friday",
    **{month[:3]: month for month in _MONTHS if month != "May"}, "Sept": "September",
}  # fmt: skip
# Before a number.
_NUMBERED = {"No": "number", "no": "number", "Vol": "volume", "vol": "volume", "Ch": "chapter", "ch": "chapter",
             "Fig": "figure", "fig": "figure", "p": "page", "pp": "pages"}  # fmt: skip
_BEFORE_SAINTS = frozenset(
    {
        *("A", "And", "At", "By", "East", "For", "Fort", "From", "In", "Mount", "New", "North", "Of", "On", "Port"),
        *("South", "The", "To", "West", "With"),
    }
)
_UNITS = {
    "km/h": "kilometers per hour", "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "m": "meters",
    "kg": "kilograms", "mg": "milligrams", "g": "grams", "ml": "milliliters", "mph": "miles per hour", "lbs": "pounds",
    "lb": "pounds", "oz": "ounces", "ft": "feet", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz",
    "Hz": "hertz", "ms": "milliseconds", "dB": "decibels", "KB": "kilobytes", "MB": "megabytes", "GB": "gigabytes",
    "TB": "terabytes", "kW": "kilowatts", "W": "watts", "V": "volts", "hrs": "hours", "hr": "hours", "mins": "minutes",
    "min": "minutes", "secs": "seconds", "sec": "seconds",
    "°C": "degrees celsius", "°F": "degrees fahrenheit", "°": "degrees", "¢": "cents",
}  # fmt: skip
_SINGULARS = {"feet": "foot", "hertz": "hertz", "kilohertz": "kilohertz", "megahertz": "megahertz",
              "gigahertz": "gigahertz"}  # fmt: skip
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", ""),
               "₹": ("rupee", "paisa")}  # fmt: skip
_PLURALS = {"penny": "pence", "yen": "yen", "paisa": "paise"}
_SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "b": "billion", "B": "billion",
           "bn": "billion", "Bn": "billion"}  # fmt: skip
_DENOMINATORS = (*range(2, 11), 12, 16, 20, 32, 64, 100)
_FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅛": (1, 8)}
_SIGNS = {"&": "and", "+": "plus", "=": "equals", "@": "at", "%": "percent", "/": "slash", "×": "times",
          "÷": "divided by", "±": "plus or minus", "§": "section", "©": "copyright", "®": "registered",
          "™": "trademark", "№": "number", "°": "degrees"}  # fmt: skip


def expand(text: str) -> str:
    """Text without digits, with the words that numbers, signs and abbreviations stand for."""
    if not _PLAIN.fullmatch(text):
        for pattern, replacement in _WITH_DIGITS if _HAS_DIGIT.search(text) else ():
            text = pattern.sub(replacement, text)
        for pattern, replacement in _WITHOUT_DIGITS:
            text = pattern.sub(replacement, text)
    return text


# ------------------------------------------------------------------------------------------------- replacements


def _number(written: str) -> str:
    written = written.replace(",", "")
    return decimal(written) if "." in written else whole_number(written)


def _counted(number: str, unit: str) -> str:
    if number != "1":
        return f" {_number(number)} {unit} "
    first, *rest = unit.split(" ")
    return f" one {' '.join([_SINGULARS.get(first, first.removesuffix('s')), *rest])} "


def _coins(count: str, name: str) -> str:
    return f"{whole_number(count)} {name if count == '1' else _PLURALS.get(name, f'{name}s')}"


def _money(match: re.Match[str]) -> str:
    sign = match["sign"] or match["after"]
    unit, subunit = _CURRENCIES[sign]
    amount = match["amount"].replace(",", "")
    if match["scale"]:
        scale = _SCALES.get(match["scale"], match["scale"].lower())
        return f" {_number(amount)} {scale} {_PLURALS.get(unit, f'{unit}s')} "
    whole, _, part = amount.partition(".")
    if part and (len(part) != 2 or not subunit):
        return f" {_number(amount)} {_PLURALS.get(unit, f'{unit}s')} "
    cents = part.lstrip("0")
    said = [_coins(whole or "0", unit)] if whole.strip("0") or not cents else []
    if cents:
        said.append(_coins(cents, subunit))
    return f" {' and '.join(said)} "


def _time(match: re.Match[str]) -> str:
    hour, minute, second, half = int(match[1]), int(match[2]), match[3], match[4]
    said = [cardinal(hour)]
    if minute:
        said.append(f"oh {cardinal(minute)}" if minute < 10 else cardinal(minute))
    elif not half and second is None:
        said.append("o'clock" if 0 < hour <= 12 else "hundred")
    if second is not None:
        said.append(f"and {cardinal(int(second))} seconds")
    return f" {' '.join(said)} {_half_of_day(half)} "


def _half_of_day(half: str | None) -> str:
    return _named(f"{half}m") if half else ""


def _named(letters: str) -> str:
    return " ".join(f"{LETTER}{letter.lower()}" for letter in letters)


def _date(month: int, day: int, written_year: str | None) -> str:
    said = f" {_MONTHS[month - 1]} {ordinal(day)} "
    if written_year is None:
        return said
    return f"{said} {year(int(written_year)) if len(written_year) == 4 else whole_number(written_year)} "


def _month_number(name: str) -> int:
    return next(index for index, month in enumerate(_MONTHS, 1) if month.startswith(name[:3]))


def _month_first(match: re.Match[str]) -> str:
    return _date(_month_number(match[1]), int(match[2]), match[3])


def _day_first(match: re.Match[str]) -> str:
    the, month = match["the"], _MONTHS[_month_number(match["month"]) - 1]
    said = f"{the or ' the '} {ordinal(int(match['day']))} of {month} "
    return f"{said} {year(int(match['year']))} " if match["year"] else said


def _slashed_date(match: re.Match[str]) -> str:
    month, day = int(match[1]), int(match[2])
    if month > 12:
        month, day = day, month
    return _date(month, day, match[3]) if 1 <= month <= 12 and 1 <= day <= 31 else match[0]


def _iso_date(match: re.Match[str]) -> str:
    month, day = int(match[2]), int(match[3])
    return _date(month, day, match[1]) if 1 <= month <= 12 and 1 <= day <= 31 else match[0]


def _fraction(numerator: int, denominator: int) -> str:
    if denominator == 2:
        name = "half" if numerator == 1 else "halves"
    else:
        name = "quarter" if denominator == 4 else ordinal(denominator)
        name = name if numerator == 1 else plural(name)
    return f"{cardinal(numerator)} {name}"


def _written_fraction(match: re.Match[str]) -> str:
    numerator, denominator = int(match["numerator"]), int(match["denominator"])
    if denominator not in _DENOMINATORS or not 0 < numerator < denominator:
        # "24/7", "9/11"
        return f" {match['whole'] or ''} {cardinal(numerator)} {cardinal(denominator)} "
    said = _fraction(numerator, denominator)
    if match["whole"]:
        article = said.replace("one ", "a ", 1) if numerator == 1 else said
        return f" {cardinal(int(match['whole']))} and {article} "
    return f" {said} "


def _fraction_sign(match: re.Match[str]) -> str:
    numerator, denominator = _FRACTIONS[match[2]]
    return f" {match[1] or ''} {numerator}/{denominator} "


def _plain_number(match: re.Match[str]) -> str:
    written = match[0]
    if len(written) == 4 and written.isdigit() and 1100 <= int(written) <= 2099:
        return f" {year(int(written))} "
    return f" {_number(written)} "


def _address(match: re.Match[str]) -> str:
    said = match[0].rstrip(".,;:!?)")
    ending = match[0][len(said) :]
    said = re.sub(r"^https?://", "", said)
    names = {".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark"}
    return "".join(f" {names[character]} " if character in names else character for character in said) + ending


def _letters(match: re.Match[str]) -> str:
    return f" {_named(match[0].replace('.', ''))} "


def _saint_or_street(match: re.Match[str]) -> str:
    """A street has its name before it ("Elm St."), a saint after."""
    before = match[1] or ""
    return f"{before} street." if before and before not in _BEFORE_SAINTS else f"{before} saint "


def _phone(match: re.Match[str]) -> str:
    return " " + ", ".join(spelled_digits(group) for group in re.findall(r"\d+", match[0])) + " "


def _words(table: dict[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda match: f" {table[match[1]]} "


def _any(table: dict[str, str]) -> str:
    return "|".join(re.escape(key) for key in sorted(table, key=len, reverse=True))


# ---------------------------------------------------------------------------------------------------- patterns

_PLAIN = re.compile(r"(?:[A-Za-z' ,;:!?\"()\n]|(?<=[A-Za-z])-(?=[A-Za-z]))*[.!?\"]*\s*")
_HAS_DIGIT = re.compile(r"[0-9½⅓⅔¼¾⅛]")
_ADDRESS = r"\b(?:https?://|www\.)\S+|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
# A dot belongs to the abbreviation alone unless what follows begins a sentence.
_DOT_WITHIN = r"\.(?=\s*[a-z0-9,;:!?)])"

_Replacement = str | Callable[[re.Match[str]], str]
_WITH_DIGITS: list[tuple[re.Pattern[str], _Replacement]] = [
    (re.compile(_ADDRESS), _address),
    (re.compile(rf"(?:US)?(?P<sign>[$£€¥₹])\s?(?P<amount>{_NUMBER})(?:\s?(?P<scale>[kKmMbB]|[bB]n|"
                r"[tT]housand|[mMbB]illion|[tT]rillion)\b)?(?P<after>)"), _money),
    (re.compile(rf"(?<![\d.,])(?P<sign>)(?P<amount>{_NUMBER})(?P<scale>)\s?(?P<after>[£€¥₹])"), _money),
    (re.compile(rf"\b([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?:\s?([aApP])(?:[mM]\b|\.[mM]\b(?:{_DOT_WITHIN})?))?"),
     _time),
    (re.compile(rf"\b(\d{{1,2}})\s?([aApP])(?:[mM]\b|\.[mM]\b(?:{_DOT_WITHIN})?)"),
     lambda match: f" {cardinal(int(match[1]))} {_half_of_day(match[2])} "),
    (re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b"), _iso_date),
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b"), _slashed_date),
    (re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (\d{{4}})\b)?"), _month_first),
    (re.compile(rf"(?P<the>\b[tT]he )?\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<month>{_MONTH})(?!\w)"
                r"(?:,? (?P<year>\d{4})\b)?"), _day_first),
    (re.compile(r"\b(1\d|20)(\d0)'?s\b"), lambda match: f" {plural(year(int(match[1] + match[2])))} "),
    (re.compile(r"'?\b(\d+)'?s\b"), lambda match: f" {plural(whole_number(match[1]))} "),
    (re.compile(r"\b(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th)\b"),
     lambda match: f" {ordinal(int(match[1].replace(',', '')))} "),
    (re.compile(r"((?<!\d)\d+)?\s?([½⅓⅔¼¾⅛])"), _fraction_sign),
    (re.compile(r"(?<![\d/.,])(?:(?P<whole>\d{1,15})\s+)?(?P<numerator>\d{1,3})/(?P<denominator>\d{1,3})(?![\d/])"),
     _written_fraction),
    (re.compile(r"(?<![\w-])(?:\+?\d{1,3}[ -])?(?:\(\d{3}\) ?|\d{3}[ -])?\d{3}-\d{4}\b"), _phone),
    (re.compile(r"#(?=\d)"), " number "),
    (re.compile(rf"\b({_any(_NUMBERED)})\. ?(?=\d)"), _words(_NUMBERED)),
    (re.compile(rf"(?<![\w.,])({_NUMBER})\s?({_any(_UNITS)})(?![\w/])(?:\.(?=\s[a-z]))?"),
     lambda match: _counted(match[1], _UNITS[match[2]])),
    (re.compile(r"(?<=\d)[-–:](?=\d)"), " to "),
    (re.compile(r"(?<![\w)])-(?=\.?\d)"), " minus "),
    (re.compile(r"\b[A-Za-z](?=\d)|(?<=\d)[A-Za-z]\b"), _letters),
    (re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)+|(?<!\w)\.\d+|\d+"), _plain_number),
]  # fmt: skip
_WITHOUT_DIGITS: list[tuple[re.Pattern[str], _Replacement]] = [
    (re.compile(rf"{_ADDRESS}|(?<![\w.-])[\w-]+(?:\.[\w-]+){{0,4}}\.(?:com|org|net|edu|gov)\b"), _address),
    (re.compile(r"\be\.g\."), " for example "),
    (re.compile(r"\bi\.e\."), " that is "),
    (re.compile(rf"\b({_any(_TITLES)})\."), _words(_TITLES)),
    (re.compile(r"(\b[A-Z][a-z]+)? ?\bSt\.(?= [A-Z])"), _saint_or_street),
    (re.compile(rf"\b({_any(_ABBREVIATIONS)}){_DOT_WITHIN}"), _words(_ABBREVIATIONS)),
    (re.compile(rf"\b({_any(_ABBREVIATIONS)})(?=\.)"), _words(_ABBREVIATIONS)),
    # "U.S." and "a.m." keep no dot; the last one of a text ends it anyway.
    (re.compile(r"\b(?:[A-Za-z]\.){2,}(?![A-Za-z])"), _letters),
    (re.compile(r"\b[A-HJ-Z]\.(?=\s+[A-Z])"), _letters),
    (re.compile(r"--+|\s[-–]+\s|–"), " — "),
    (re.compile(rf"({_any(_SIGNS)})"), _words(_SIGNS)),
]
