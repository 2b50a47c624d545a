"""Lyrics that stand apart from their notes, as they do beside a MIDI file without them."""

from __future__ import annotations

import re
from dataclasses import replace

from unisono.errors import UserError
from unisono.scores.score import MELISMA_SIGNS, Score, WrittenNote, understand_lyrics


def with_lyrics(score: Score, lyrics: str) -> Score:
    """The score with these lyrics in the place of its own, one syllable to a note.

    Words part at spaces, syllables of a word at hyphens (``twin-kle twin-kle lit-tle star``), and ``+`` carries the
    vowel on over a further note.

    Raises:
        UserError: more or fewer syllables than notes.
    """
    syllables = [
        f"{syllable}-" if index + 1 < len(parts) else syllable
        for word in lyrics.split()
        for parts in [[word] if word in MELISMA_SIGNS else [part for part in re.split("[-‐]", word) if part]]
        for index, syllable in enumerate(parts)
    ]
    if len(syllables) != len(score.notes):
        raise UserError(
            f"{score.name} has {len(score.notes)} notes, the lyrics {len(syllables)} syllables: {lyrics[:80]!r}; part "
            "the syllables of a word with hyphens (twin-kle), and write + for a further note on the same vowel"
        )
    written = [
        WrittenNote(note.start_s, note.duration_s, note.pitch, syllable)
        for note, syllable in zip(score.notes, syllables, strict=True)
    ]
    return replace(score, notes=understand_lyrics(written, 0.0))
