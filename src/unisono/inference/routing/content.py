"""Where an instruction ends and its content begins: `say: Hello`, `Read aloud "Hello"`, `the sound of a dog barking`.

The forms are patterns of `cues.tsv`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unisono.inference.routing import cues, words
from unisono.inference.routing.captions import caption_kind
from unisono.inference.routing.reading import QUOTE, Words, quotations, read
from unisono.tasks import TASKS

_TEXTS = frozenset(("text", "phonemes", "caption"))
_CAPTIONED = frozenset(("text_to_audio", "text_to_music"))


@dataclass(frozen=True)
class Split:
    """An instruction and what it holds.

    Attributes:
        request: the part whose words ask for a task; empty where all is a caption.
        content: caption or text as it was typed.
        caption: what of the instruction may be a caption of sounds or music, to be told apart by its words.
        task: what the form alone says ("the sound of …"), with the words ``said``.
        certain: the form leaves no doubt.
        conflict: why the content cannot be what it seems.
    """

    request: str
    content: str | None = None
    caption: str = ""
    task: str | None = None
    said: str = ""
    certain: bool = False
    conflict: str = ""


def split_content(typed: str, given: frozenset[str]) -> Split:
    """Part an instruction from its content.

    Where inputs bring a text, nothing in the instruction is content; where they bring other content, a quotation and
    what follows a colon or "the sound of" are.
    """
    if given & _TEXTS:
        conflict = "it quotes a text, and one is given as an input too" if quotations(typed) else ""
        return Split(typed, conflict=conflict)
    read_words = read(typed)
    split = _sound_of(read_words, given) or _after_colon(typed, given) or _quoted(typed, read_words)
    if split or given - {"speaker"}:
        return split or (_captioned_video(typed, read_words) if given == {"video"} else None) or Split(typed)
    return _spoken(read_words) or _generated(read_words)


def _sound_of(found: Words, given: frozenset[str]) -> Split | None:
    start = _request_start(found.plain)
    like = cues.form("SOUND_LIKE").match(found.plain, start)
    if like and not _points_at_input(like[1]):
        return Split("", _trimmed(found.original(like.start(1), like.end(1))), task="text_to_audio", said=like[0])
    made = cues.form("SOUND_MADE").match(found.plain, start)
    if made and not _points_at_input(made[1]) and cues.compiled("<GENERATE>|the|a").match(found.plain, start):
        return Split(
            "", _trimmed(found.original(made.start(1), made.end(1))), task="text_to_audio", said="sound that … makes"
        )
    match = cues.form("SOUND_OF").match(found.plain, start)
    if not match or _points_at_input(found.plain[match.end() :]) or match.end() >= len(found.plain):
        return None
    if not start and not cues.compiled("<GENERATE>|add|put|mix in|no|just|only|sound|sfx").match(found.plain):
        return None  # "A recording of a noisy street" is all caption
    tail = cues.form("TO_VIDEO").search(found.plain, match.end())
    content = _trimmed(found.original(match.end(), tail.start() if tail else None))
    if not content:
        return None
    if given and not given <= {"video", "speaker", "audio", "score", "f0"}:
        return None
    return Split("", content, task="text_to_audio", said=match[0].strip())


def _after_colon(typed: str, given: frozenset[str]) -> Split | None:
    """`head: content` where the head alone asks for a task, or names one."""
    match = re.match(r"([^:\"]{1,80}?)(?::| -)\s+(\S.*)", typed, re.DOTALL)
    if not match or given & {"audio", "f0"}:
        return None
    head, rest = match[1].strip(), match[2].strip()
    quoted = quotations(rest)
    rest = quoted[0][2] if len(quoted) == 1 and quoted[0][:2] == (0, len(rest)) else rest
    name = re.sub(r"\W+", "_", head.lower())
    named = next((task.name for task in TASKS.values() if name in (task.name, task.short)), None)
    if named:
        return Split("", rest, task=named, said=head, certain=True)
    plain = read(head).plain
    of_head = _head_task(plain)
    if of_head:
        return Split("", rest, task=of_head, said=head, certain=True)
    if match[0][match.end(1)] == " ":
        return None
    if re.match(r"(?:not|no) ", plain):
        return Split(head, rest, caption=rest)
    if any(cue.pattern.search(plain) for cue in cues.cues() if cue.strength > 1):
        return Split(head, rest)
    last = _head_task(plain.rpartition(" ")[2])
    if last and _is_request(plain):
        return Split(head, rest, task=last, said=head)
    return None


def _head_task(word: str) -> str | None:
    """Task of the content that a word announces, as in "Music: slow blues"."""
    return next((task for task, pattern in cues.pairs("heads") if pattern.fullmatch(word)), None)


def _quoted(typed: str, found: Words) -> Split | None:
    quotes = quotations(typed)
    if not quotes:
        return None
    if quotes[0][:2] == (0, len(typed)):
        return Split("", quotes[0][2], caption=quotes[0][2])
    if not _is_request(found.plain):
        return None
    if len(quotes) > 1:
        return Split(typed, conflict="it quotes several texts; give one")
    kind, _ = caption_kind(re.sub(rf"\b(?:says?|saying|speak\w*|speech|announc\w*|voice|{QUOTE})\b", " ", found.plain))
    if kind == "text_to_audio" and cues.compiled("<GENERATE>").match(found.plain, _request_start(found.plain)):
        return Split(typed, conflict="it asks for words to be said and for other sounds")
    return Split(typed, quotes[0][2])


def _captioned_video(typed: str, found: Words) -> Split | None:
    """With a video, a bare caption tells what is to be heard."""
    if _is_request(found.plain) or cues.compiled("(?:this|the|my|it|its) <VIDEO>|silent|mute").search(found.plain):
        return None
    return Split(typed, _trimmed(typed), caption=typed) if caption_kind(typed)[0] else None


def _spoken(found: Words) -> Split | None:
    """`Say good morning to everybody`: what follows is to be said."""
    start = _request_start(found.plain)
    match = cues.form("SPEAK").match(found.plain, start)
    said = found.plain[match.end() :] if match else ""
    begins = re.match(r"(?:it|this|that|there|here|what) (?:is|was|will|has) ", said)  # "say it is late"
    if not match or not said or (_points_at_input(said) and not begins) or re.match("QUOTE|something|anything", said):
        return None
    content = found.original(match.end()).lstrip(" ,.:;")
    if not re.search(r"\w", content):
        return None
    return Split(found.original(0, match.end()), content, task="text_to_speech", said=match[0].strip())


def _generated(found: Words) -> Split:
    """`Compose a waltz`, or a caption alone."""
    start = _request_start(found.plain)
    rest = found.plain[start:]
    match = cues.compiled("<GENERATE>").match(rest)
    typed = found.typed
    if match:
        asked = rest[match.end() :].lstrip()
        wanted = found.original(len(found.plain) - len(asked))
        what = re.split(r" (?:for|about|called|titled) ", rest)[0]
        if (
            cues.compiled("<NOT_AUDIO>").match(rest)
            or _points_at_input(asked)
            or cues.form("POINTS").search(asked)
            or cues.form("VAGUE").fullmatch(asked)
            or _asks_for_other(what, _CAPTIONED)
        ):
            return Split(typed)
        return Split(found.original(0, start), _trimmed(wanted), caption=wanted, said=match[0].strip())
    asked_you = re.match(r"[\w']+ (?:up |out |together )?(?:me |us )?(?=(?:an?|some|the) )", rest) if start else None
    if (
        asked_you
        and found.plain[:start].split()[-1] in ("you", "please", "to")
        and caption_kind(rest[asked_you.end() :])[0]
    ):
        wanted = found.original(start + asked_you.end())
        return Split(found.original(0, start), _trimmed(wanted), caption=wanted, said=asked_you[0].strip())
    what = re.split(r" (?:for|about|called|titled) ", rest)[0]
    if cues.form("VAGUE").fullmatch(rest):
        return Split(typed)
    if _is_request(found.plain) or (
        not cues.form("SUBJECT").match(rest) and _asks_for_other(what, _CAPTIONED | {"text_to_speech"})
    ):
        return Split(typed)
    body = found.original(start)
    if re.search(r"(?<![\w'])(?:is|are|was|were|has|have|will|am)(?![\w'])", rest) and not _is_heard(rest):
        return Split(typed)
    return Split(found.original(0, start), _trimmed(body), caption=body)


def _asks_for_other(plain: str, tasks: frozenset[str]) -> bool:
    """Whether words name what a task does that is not among these."""
    return any(cue.pattern.search(plain) for cue in cues.cues() if cue.strength > 2 and cue.task not in tasks)


def _points_at_input(plain: str) -> bool:
    """Whether words begin with "this", "the text" and the like, which stand for content that is given elsewhere."""
    return bool(cues.form("DEICTIC").match(plain))


def _is_heard(plain: str) -> bool:
    """Whether anything is said to sound, rather than to be."""
    return any(words.is_verb(word, words.listed("sound_verbs")) for word in plain.split())


def _request_start(plain: str) -> int:
    match = cues.form("POLITE").match(plain)
    return match.end() if match else 0


def _is_request(plain: str) -> bool:
    """Whether words ask for something, rather than describe a sound."""
    start = _request_start(plain)
    return bool(start and not plain[start:]) or any(
        (
            cues.compiled("<REQUEST>").match(plain, start),
            cues.form("NAMES_A_TASK").search(plain) and not cues.form("SUBJECT").match(plain, start),
            cues.form("ABOUT_AN_INPUT").search(plain),
        )
    )


def _trimmed(caption: str) -> str:
    return caption.strip(" .,;:!?").removesuffix(" please").strip(" ,")
