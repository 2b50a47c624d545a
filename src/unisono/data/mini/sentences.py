"""English sentences from a small grammar: several hundred words, some thirty patterns, millions of sentences.

Words and patterns were written for this project. Which split a sentence belongs to is a property of the sentence
itself (a hash of its text), so a test sentence cannot occur in training, whatever the seeds.
"""

from __future__ import annotations

import functools
import hashlib
import re

import numpy as np

from unisono.errors import UserError

MIN_WORDS, MAX_WORDS = 3, 9
# Shares of sentence space in percent.
_SPLIT_SHARES = {"train": 80, "val": 10, "test": 10}

# One slot a block; an underscore joins the words of one entry.
_LEXICON = """
name: Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Maria Nora Oscar Paul Rosa Simon Tom Vera
    Walter Yara Zoe Hugo Lena Martin
person: baker captain child doctor driver farmer gardener guard king lawyer neighbor nurse painter pilot sailor
    singer student teacher waiter writer judge hunter dancer builder stranger cousin
animal: bear bird cat cow crow deer dog duck eagle fish fox frog goat goose horse lion monkey mouse owl pig rabbit
    sheep snake tiger turtle whale wolf zebra
thing: apple bag ball basket blanket boat book bottle box bread bridge brush bucket button camera candle carpet
    chair clock coat coin cup curtain desk drum feather flag flute fork glass glove hammer hat jacket key kite knife
    ladder lamp letter map mirror needle newspaper orange package paper pencil piano picture pillow pipe plate
    pocket radio ring rope shirt shoe spoon stone suitcase sword table thimble ticket towel tower toy treasure
    umbrella vase violin wagon wallet watch wheel window
food: butter cake cheese chicken chocolate coffee corn honey juice lemon milk mushroom onion pepper pie potato rice
    salad salt soup sugar tea tomato toast water yogurt
place: attic beach castle church city corner desert farm field forest garden harbor hill hotel house island kitchen
    lake library market meadow mountain museum office park path river road school shop square station street theater
    valley village yard
adjective: broken cheap clean cold dark deep dry dusty empty fresh heavy huge large long lost narrow new old plain
    precious rough round rusty sharp short simple small smooth soft strange thick thin usual warm wet wide wooden
trait: angry brave calm clever curious famous friendly gentle happy hungry kind lazy little loud noisy old patient
    polite proud quiet serious shy silent sleepy strong tall tired wild wise young
colour: black blue brown golden green grey orange pink purple red silver white yellow
acted: borrowed bought broke brought carried caught chose cleaned dropped fixed forgot found gave hid kept lifted
    lost measured moved needed noticed opened packed painted pulled pushed remembered repaired returned shared
    showed sold stole threw touched wanted washed watched
moved: arrived climbed crawled danced fell hurried jumped laughed listened marched paused ran rested sang shouted
    slept smiled stopped swam traveled waited walked wandered whispered
verb: borrow bring buy carry catch change choose clean close cover draw find fix hide hold keep lift move open pack
    paint pull push repair send share show throw touch wash watch
near: above across behind below beside beyond inside near outside past toward under
when: after_lunch again all_night at_noon before_dawn every_morning for_an_hour in_the_evening last_week on_Friday
    on_Sunday this_summer yesterday in_winter too_late
soon: today tomorrow tonight at_noon next_week next_month on_Monday before_dinner after_school very_soon later
use: bring buy carry cook eat find finish hide keep pack prepare share taste try
how: alone badly bravely calmly carefully gently happily loudly proudly quickly quietly sadly slowly softly suddenly
    together twice
feeling: afraid angry bored busy certain glad happy hungry lonely nervous proud ready sad sorry surprised tired
number: two three four five six seven eight nine ten twelve twenty fifty hundred
plural: apples birds books boxes boats candles chairs children clouds coins dogs eggs flowers friends houses keys
    lamps letters miles minutes pages roses shoes songs stars steps stones tickets trees windows years
weather: cloud fog frost moon rain sea sky snow storm sun thunder wind
weathered: came_early faded grew_dark rose turned_cold moved_on was_calm was_bright changed
pronoun: I we they you he she
whose: my our their your his her
asked: Why_did When_did How_did Where_did
modal: can should must might will could would
"""

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
    "{pronoun} {modal} {use} the {food} {soon}.",
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
    "{modal} the {person} {use} the {food} {soon}?",
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


def draw_sentences(rng: np.random.Generator, split: str, count: int, max_words: int = MAX_WORDS) -> list[str]:
    """``count`` different sentences of at most ``max_words`` words; a longer list begins with the shorter one."""
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        sentence = make_sentence(rng, split)
        if len(sentence.split()) <= max_words:
            sentences[sentence] = None
    return list(sentences)


@functools.cache
def _lexicon() -> dict[str, tuple[str, ...]]:
    """The entries of every slot."""
    blocks = re.findall(r"^(\w+): (.*(?:\n {4}.*)*)", _LEXICON, flags=re.MULTILINE)
    return {slot: tuple(entry.replace("_", " ") for entry in entries.split()) for slot, entries in blocks}


def _fill(rng: np.random.Generator, pattern: str) -> str:
    used: set[str] = set()
    lexicon = _lexicon()

    def word(slot: re.Match[str]) -> str:
        # A sentence does not use a word twice ("the park near the park").
        options = [option for option in lexicon[slot[1]] if option not in used]
        chosen = options[rng.integers(len(options))]
        used.add(chosen)
        return chosen

    sentence = _SLOT.sub(word, pattern)
    sentence = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)
    sentence = re.sub(r"^hundred\b|(?<=\s)hundred\b", "a hundred", sentence)
    return sentence[0].upper() + sentence[1:]
