"""Captions of scenes: English that says exactly what a composition holds, in varied wordings.

A caption determines its composition: no two compositions share a caption, so splitting compositions splits captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unisono.data.mini.compositions import Composition, Group

NUMBERS = {2: "two", 3: "three", 4: "four"}
TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times"}
ADVERBS = {"slow": "slowly", "medium": "", "fast": "quickly"}


@dataclass(frozen=True)
class Wording:
    """How a kind is named.

    Attributes:
        noun: names one event, or the whole of a sustained one.
        plural: names several events; empty for a sustained kind, which is not counted.
        subject, verb: make a clause; empty where none sounds natural.
        article: before the noun where no number stands: "a" (or "an"), "the", or "" for mass nouns ("rain").
    """

    noun: str
    plural: str
    subject: str
    verb: str
    article: str = "a"


WORDINGS: dict[str, Wording] = {
    "knock": Wording("knock", "knocks", "someone", "knocks"),
    "footstep": Wording("footstep", "footsteps", "", ""),
    "clap": Wording("hand clap", "hand claps", "someone", "claps"),
    "clink": Wording("glass clink", "glass clinks", "glasses", "clink"),
    "bell": Wording("bell chime", "bell chimes", "a bell", "chimes"),
    "drum": Wording("drum hit", "drum hits", "someone", "hits a drum"),
    "tick": Wording("clock tick", "clock ticks", "a clock", "ticks"),
    "drip": Wording("water drip", "water drips", "water", "drips"),
    "cymbal": Wording("cymbal crash", "cymbal crashes", "a cymbal", "crashes"),
    "pluck": Wording("string pluck", "string plucks", "someone", "plucks a string"),
    "zap": Wording("laser zap", "laser zaps", "a laser", "zaps"),
    "rising_whistle": Wording("rising whistle", "rising whistles", "", ""),
    "falling_whistle": Wording("falling whistle", "falling whistles", "", ""),
    "beep": Wording("beep", "beeps", "a machine", "beeps"),
    "horn": Wording("car horn honk", "car horn honks", "a car", "honks"),
    "phone": Wording("phone ring", "phone rings", "a phone", "rings"),
    "bark": Wording("dog bark", "dog barks", "a dog", "barks"),
    "chirp": Wording("bird chirp", "bird chirps", "a bird", "chirps"),
    "frog": Wording("frog croak", "frog croaks", "a frog", "croaks"),
    "owl": Wording("owl hoot", "owl hoots", "an owl", "hoots"),
    "meow": Wording("cat meow", "cat meows", "a cat", "meows"),
    "creak": Wording("door creak", "door creaks", "a door", "creaks"),
    "siren": Wording("siren", "", "a siren", "wails"),
    "crickets": Wording("chirping of crickets", "", "crickets", "chirp", "the"),
    "bee": Wording("buzzing of a bee", "", "a bee", "buzzes", "the"),
    "rain": Wording("rain", "", "it", "rains", ""),
    "wind": Wording("wind", "", "the wind", "blows", ""),
    "thunder": Wording("thunder", "", "thunder", "rolls", ""),
    "steam": Wording("hissing steam", "", "steam", "hisses", ""),
    "fire": Wording("crackling fire", "", "a fire", "crackles"),
    "bubbles": Wording("bubbling water", "", "water", "bubbles", ""),
    "engine": Wording("engine hum", "", "an engine", "hums"),
    "helicopter": Wording("helicopter", "", "a helicopter", "flies"),
    "saw": Wording("sawing", "", "someone", "saws", ""),
    "typing": Wording("typing", "", "someone", "types", ""),
}


def caption(rng: np.random.Generator, composition: Composition) -> str:
    """A caption of the composition, in one of its wordings."""
    if composition.together:
        return _caption_together(rng, *composition.groups)
    as_clauses = all(_has_clause(group) for group in composition.groups) and rng.random() < 0.35
    parts = [clause(group) if as_clauses else noun_phrase(rng, group) for group in composition.groups]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        wordings = [f"{first}, then {second}", f"{second} after {first}", f"first {first}, then {second}"]
        if not as_clauses:
            wordings.append(f"{first} followed by {second}")
        return str(rng.choice(wordings))
    first, second, third = parts
    wordings = [f"{first}, then {second}, then {third}", f"first {first}, then {second}, and finally {third}"]
    return str(rng.choice(wordings))


def _caption_together(rng: np.random.Generator, background: Group, foreground: Group) -> str:
    behind, front = noun_phrase(rng, background), noun_phrase(rng, foreground)
    wordings = [f"{behind} with {front}", f"{front} during {behind}", f"{front} with {behind} in the background"]
    if _has_clause(foreground):
        wordings.append(f"{behind} while {clause(foreground)}")
    if _has_clause(background):
        wordings.append(f"{front} while {clause(background)}")
    if _has_clause(foreground) and _has_clause(background):
        wordings.append(f"{clause(foreground)} while {clause(background)}")
    return str(rng.choice(wordings))


def noun_phrase(rng: np.random.Generator, group: Group) -> str:
    """Such as "three distant slow low knocks", "one bell chime", "distant rain"."""
    wording = WORDINGS[group.kind]
    adjectives = [group.distance] if group.distance == "distant" else []
    adjectives += [group.speed] if group.speed != "medium" else []
    adjectives += [group.pitch] if group.pitch != "middle" else []
    if group.count > 1:
        return " ".join([NUMBERS[group.count], *adjectives, wording.plural])
    words = " ".join([*adjectives, wording.noun])
    if group.count == 1 and rng.random() < 0.3:
        return f"one {words}"
    article = "an" if wording.article == "a" and words[0] in "aeiou" else wording.article
    return f"{article} {words}".lstrip()


def clause(group: Group) -> str:
    """Such as "a dog barks twice quickly in the distance"; only for groups of middle pitch."""
    assert _has_clause(group), f"no clause says what {group} is"
    wording = WORDINGS[group.kind]
    distance = "in the distance" if group.distance == "distant" else ""
    words = [wording.subject, wording.verb, TIMES.get(group.count, ""), ADVERBS[group.speed], distance]
    return " ".join(word for word in words if word)


def _has_clause(group: Group) -> bool:
    return bool(WORDINGS[group.kind].verb) and group.pitch == "middle"
