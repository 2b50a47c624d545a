"""English sentences from a small grammar: several hundred words, some thirty patterns, millions of sentences.

Words and patterns were written for this project. Which split a sentence belongs to is a property of the sentence itself (a
hash of its text), so a test sentence cannot occur in training, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from unisono.errors import UserError

MIN_WORDS, MAX_WORDS = 3, 9
# Shares of sentence space in percent.
_SPLIT_SHARES = {"train": 80, "val": 10, "test": 10}

_WORDS: dict[str, tuple[str, ...]] = {
    "name": tuple(
        "Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Maria Nora Oscar Paul Rosa Simon Tom Vera "
        "Walter Yara Zoe Hugo Lena Martin".split()
    ),
    "person": tuple(
        "baker captain child doctor driver farmer gardener guard king lawyer neighbor nurse painter pilot "
        "sailor singer student teacher waiter writer judge hunter dancer builder stranger cousin".split()
    ),
    "animal": tuple(
        "bear bird cat cow crow deer dog duck eagle fish fox frog goat goose horse lion monkey mouse owl pig rabbit "
        "sheep snake tiger turtle whale wolf zebra".split()
    ),
    "thing": tuple(
        "apple bag ball basket blanket boat book bottle box bread bridge brush bucket button camera candle carpet chair "
        "clock coat coin cup curtain desk drum feather flag flute fork glass glove hammer hat jacket key kite knife "
        "ladder lamp letter map mirror needle newspaper orange package paper pencil piano picture pillow pipe plate "
        "pocket radio ring rope shirt shoe spoon stone suitcase sword table thimble ticket towel tower toy treasure umbrella vase violin "
        "wagon wallet watch wheel window".split()
    ),
    "food": tuple(
        "butter cake cheese chicken chocolate coffee corn honey juice lemon milk mushroom onion pepper pie potato rice "
        "salad salt soup sugar tea tomato toast water yogurt".split()
    ),
    "place": tuple(
        "attic beach castle church city corner desert farm field forest garden harbor hill hotel house island kitchen "
        "lake library market meadow mountain museum office park path river road school shop square station street "
        "theater valley village yard".split()
    ),
    "adjective": tuple(
        "broken cheap clean cold dark deep dry dusty empty fresh heavy huge large long lost narrow new old plain "
        "precious rough round rusty sharp short simple small smooth soft strange thick thin usual warm wet wide wooden".split()
    ),
    "trait": tuple(
        "angry brave calm clever curious famous friendly gentle happy hungry kind lazy little loud noisy old patient "
        "polite proud quiet serious shy silent sleepy strong tall tired wild wise young".split()
    ),
    "colour": tuple("black blue brown golden green grey orange pink purple red silver white yellow".split()),
    "acted": tuple(
        "borrowed bought broke brought carried caught chose cleaned dropped fixed forgot found gave hid kept lifted lost "
        "measured moved needed noticed opened packed painted pulled pushed remembered repaired returned shared "
        "showed sold stole threw touched wanted washed watched".split()
    ),
    "moved": tuple(
        "arrived climbed crawled danced fell hurried jumped laughed listened marched paused ran rested sang shouted slept "
        "smiled stopped swam traveled waited walked wandered whispered".split()
    ),
    "verb": tuple(
        "borrow bring buy carry catch change choose clean close cover draw find fix hide hold keep lift move open pack "
        "paint pull push repair send share show throw touch wash watch".split()
    ),
    "near": tuple("above across behind below beside beyond inside near outside past toward under".split()),
    "when": (
        "after lunch", "again", "all night", "at noon", "before dawn", "every morning", "for an hour", "in the evening",
        "last week", "on Friday", "on Sunday", "this summer", "today", "tomorrow", "yesterday", "in winter", "too late",
    ),
    "how": tuple(
        "alone badly bravely calmly carefully gently happily loudly proudly quickly quietly sadly slowly softly suddenly "
        "together twice".split()
    ),
    "feeling": tuple("afraid angry bored busy certain glad happy hungry lonely nervous proud ready sad sorry surprised tired".split()),
    "number": tuple("two three four five six seven eight nine ten twelve twenty fifty hundred".split()),
    "plural": tuple(
        "apples birds books boxes boats candles chairs children clouds coins dogs eggs flowers friends houses keys lamps "
        "letters miles minutes pages roses shoes songs stars steps stones tickets trees windows years".split()
    ),
    "weather": tuple("cloud fog frost moon rain sea sky snow storm sun thunder wind".split()),
    "weathered": ("came early", "faded", "grew dark", "rose", "turned cold", "moved on", "was calm", "was bright", "changed"),
    "pronoun": tuple("I we they you he she".split()),
    "whose": tuple("my our their your his her".split()),
    "asked": ("Why did", "When did", "How did", "Where did"),
    "modal": tuple("can should must might will could would".split()),
}  # fmt: skip

_PATTERNS: tuple[str, ...] = (
    "{name} {moved} {how}.",
    "The {person} {moved} {near} the {place}.",
    "The {trait} {animal} {moved} {how}.",
    "{name} {acted} the {adjective} {thing} {when}.",
    "{name} and {name} {acted} {whose} {thing}.",
    "The {person} {acted} {number} {plural} {when}.",
    "{pronoun} {acted} the {thing} {near} the {place}.",
    "{asked} the {animal} {verb} {whose} {thing}?",
    "{asked} {name} {verb} the {thing}?",
    "Please {verb} the {thing} {near} the {place}.",
    "{verb} {whose} {thing}, {name}!",
    "{pronoun} {modal} {verb} the {food} {when}.",
    "The {weather} {weathered} {when}.",
    "The {weather} {weathered} over the {place}.",
    "There were {number} {plural} in the {place}.",
    "The {food} in the {adjective} {thing} was {adjective}.",
    "{name} was {feeling} {when}.",
    "{whose} {thing} was {adjective} and {adjective}.",
    "{modal} {pronoun} {verb} {whose} {colour} {thing}?",
    "{name} {moved}, and the {animal} {moved}.",
    "No {person} {acted} the {food}.",
    "Is the {adjective} {thing} {near} the {place}?",
    "A {trait} {person} {acted} {number} {colour} {plural}.",
    "{number} {plural} and a {thing}, please.",
    "The {place} {near} the {place} was {adjective}.",
    "{pronoun} {moved} {how} to the {place}.",
    "The {trait} {person} and the {animal} {moved} {how}.",
    "{pronoun} {acted} {whose} {adjective} {thing} {near} the {place}.",
    "{modal} the {person} {verb} the {food} {when}?",
)

_SLOT = re.compile(r"\{(\w+)\}")


def split_of(sentence: str) -> str:
    """The split a sentence belongs to: 80 % train, 10 % val, 10 % test, by a hash of its text."""
    percent = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big") % 100
    for split, share in _SPLIT_SHARES.items():
        if percent < share:
            return split
        percent -= share
    raise AssertionError("the shares of the splits sum to 100")


def make_sentence(rng: np.random.Generator, split: str) -> str:
    """One sentence of 3 to 9 words that belongs to ``split`` (``train``, ``val`` or ``test``)."""
    if split not in _SPLIT_SHARES:
        raise UserError(f"split {split!r} is unknown; choose one of {', '.join(_SPLIT_SHARES)}")
    while True:
        sentence = _fill(rng, _PATTERNS[rng.integers(len(_PATTERNS))])
        if split_of(sentence) == split:
            return sentence


def draw_sentences(rng: np.random.Generator, split: str, count: int) -> list[str]:
    """``count`` different sentences; a longer list begins with the shorter one."""
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        sentences[make_sentence(rng, split)] = None
    return list(sentences)


def _fill(rng: np.random.Generator, pattern: str) -> str:
    used: set[str] = set()

    def word(slot: re.Match[str]) -> str:
        # A sentence does not use a word twice ("the park near the park").
        options = [option for option in _WORDS[slot[1]] if option not in used]
        chosen = options[rng.integers(len(options))]
        used.add(chosen)
        return chosen

    sentence = _SLOT.sub(word, pattern)
    sentence = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)
    sentence = re.sub(r"^hundred\b|(?<=\s)hundred\b", "a hundred", sentence)
    return sentence[0].upper() + sentence[1:]
