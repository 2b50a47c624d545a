"""Scores: notes with lyrics from MIDI, MusicXML or a line of text, and the units a singing model is given.

score = read_score("song.musicxml")
score = parse_score("C4:0.5:twin- C4:0.5:kle G4:1:star rest:0.5")
units = score_units(score, Phonemizer("en-us"))
units.phonemes, units.notes, units.note_durations_s, units.slurs
"""

from unisono.scores.cache import score_file_units
from unisono.scores.lyrics import with_lyrics
from unisono.scores.midi import write_midi
from unisono.scores.pitch import hz_to_midi, midi_to_hz, note_name, note_number
from unisono.scores.read import read_score
from unisono.scores.score import Score, ScoreNote, parse_score
from unisono.scores.units import ScoreUnits, score_units

__all__ = [
    "Score",
    "ScoreNote",
    "ScoreUnits",
    "hz_to_midi",
    "midi_to_hz",
    "note_name",
    "note_number",
    "parse_score",
    "read_score",
    "score_file_units",
    "score_units",
    "with_lyrics",
    "write_midi",
]
