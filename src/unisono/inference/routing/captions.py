"""Whether a caption describes sounds or music."""

from __future__ import annotations

import re
from functools import cache

from unisono.inference.routing import cues, words
from unisono.inference.routing.reading import read


def caption_kind(caption: str) -> tuple[str | None, str]:
    """Task of a caption, and the words that say so; None and the reason where it is not clear.

    What is named first counts: "people talk while music plays" is a scene, "a slow song with rain behind it" is music.
    One stroke or note ("two drum hits", "a cymbal") is a sound. An instrument named before a sound is left to the user.
    """
    plain = read(caption).plain
    sounds = [(match.start(), match[0]) for match in _phrases("sounds").finditer(plain)]
    music = [(match.start(), match[0]) for match in _phrases("music").finditer(plain)]
    instruments = []
    plain_rest = plain
    for start, phrase in sounds + music:
        plain_rest = plain_rest[:start] + "#" * len(phrase) + plain_rest[start + len(phrase) :]
    for match in re.finditer(r"[^\W_]+", plain_rest):
        if words.is_noun(match[0], words.listed("music_words")):
            music.append((match.start(), match[0]))
        elif words.is_noun(match[0], words.listed("instruments")):
            instruments.append((match.start(), match[0]))
        elif words.is_noun(match[0], words.listed("sound_nouns")) or words.is_verb(
            match[0], words.listed("sound_verbs")
        ):
            sounds.append((match.start(), match[0]))
    sung = [(match.start(), match[0]) for match in cues.compiled(r"sings?|singing|hums|humming").finditer(plain)]
    if not music and not instruments:
        sounds += sung
    if music and (not sounds or min(music + instruments) < min(sounds)):
        return "text_to_music", _said(music + instruments)
    if instruments and not sounds:
        return "text_to_music", _said(instruments)
    if sounds and (not instruments or min(sounds) < min(instruments)):
        return "text_to_audio", _said(sounds)
    if instruments:
        return None, f"it names both music ({_said(instruments)}) and sounds ({_said(sounds)})"
    return None, "it names neither a sound nor music that is known here"


@cache
def _phrases(kind: str) -> re.Pattern[str]:
    """What several words together say of a caption."""
    return re.compile("|".join(pattern.pattern for key, pattern in cues.pairs("captions") if key == kind))


def _said(found: list[tuple[int, str]]) -> str:
    return ", ".join(dict.fromkeys(word for _, word in sorted(found)[:4]))
