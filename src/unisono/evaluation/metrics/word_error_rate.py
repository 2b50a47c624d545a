"""Word and character error rates of what a speech recogniser reads from the clip, against the text it should say.

Both sides pass through Whisper's text normaliser first; without one, spelling, digits and punctuation count as errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from unisono.evaluation.collection import VOICE_TASKS, Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricCard, NotApplicable, Outcome, SetOutcome, library_version
from unisono.evaluation.networks.network import AudioNetwork

UNSPACED = frozenset({"zh", "cmn", "yue", "ja", "th", "lo", "my", "km"})
"""Languages written without spaces between words: no words to count, and spaces of the recogniser mean nothing."""


@dataclass(frozen=True)
class Errors:
    """Edits between two normalised texts: substituted, deleted and inserted units, and units that should be there."""

    edits: int
    units: int

    @property
    def percent(self) -> float:
        """Above 100 where more was inserted than should be there."""
        return 100 * self.edits / self.units


def language_of(item: EvaluationItem, default: str) -> str:
    """Language of the item's text, without its region: ``en`` of ``en-us``."""
    given = item.details.get("language")
    name = given if isinstance(given, str) and given.strip() else default
    return name.strip().lower().replace("_", "-").split("-")[0]


def normalise(text: str, language: str) -> str:
    """Text as Whisper's normaliser for the language leaves it: lower case, no punctuation, single spaces; for English
    also numbers in digits, contractions written out and American spelling."""
    return " ".join(_normaliser("english" if language in ("en", "eng") else "basic")(text).split())


@lru_cache
def _normaliser(kind: Literal["english", "basic"]) -> Callable[[str], str]:
    if kind == "english":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    # OpenAI's default deletes combining marks, and with them the vowels of Indian scripts.
    return BasicTextNormalizer(preserve_marks=True)


def word_errors(text: str, heard: str, language: str) -> Errors:
    """Errors in words. `NotApplicable` where the text has none, or where the language is written without spaces."""
    if language in UNSPACED:
        raise NotApplicable(f"{language!r} is written without spaces between words; see the character error rate")
    text = normalise(text, language)
    if not text:
        raise NotApplicable("nothing is left of the item's text after normalisation")

    import jiwer

    found = jiwer.process_words(text, normalise(heard, language))
    return Errors(found.substitutions + found.deletions + found.insertions, len(found.references[0]))


def character_errors(text: str, heard: str, language: str) -> Errors:
    """Errors in characters; a space is one, except in languages written without spaces."""
    text, heard = normalise(text, language), normalise(heard, language)
    if language in UNSPACED:
        text, heard = text.replace(" ", ""), heard.replace(" ", "")
    if not text:
        raise NotApplicable("nothing is left of the item's text after normalisation")

    import jiwer

    found = jiwer.process_characters(text, heard)
    return Errors(found.substitutions + found.deletions + found.insertions, len(text))


_KINDS = {"wer": (word_errors, "WER", "words"), "cer": (character_errors, "CER", "characters")}


@dataclass(frozen=True)
class WordErrorRate(CollectionMetric):
    """``wer_NETWORK`` and ``cer_NETWORK`` over all items together, and the same per utterance.

    Attributes:
        network: name of a recogniser in the table of networks.
        language: of items that name none.
        tasks: names of the tasks that get it.
    """

    network: str = "whisper"
    language: str = "en"
    tasks: frozenset[str] = VOICE_TASKS

    libraries = ("jiwer", "whisper_normalizer")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for kind in _KINDS for name in (self._weighted(kind), self._per_utterance(kind)))

    def _weighted(self, kind: str) -> str:
        return f"{kind}_{self.network}"

    def _per_utterance(self, kind: str) -> str:
        return f"{kind}_{self.network}_per_utterance"

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and isinstance(item.details.get("text"), str)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        cards = []
        for kind, (_, title, units) in _KINDS.items():
            over_all = f"Edits of all items over {units} of all texts, so that a long utterance counts for more."
            per_item = f"Edits over {units} of the text; the mean over items weighs every utterance alike."
            cards += [
                self._card(network, self._weighted(kind), f"{title} ({self.network})", over_all, "set"),
                self._card(
                    network, self._per_utterance(kind), f"{title} per utterance ({self.network})", per_item, "item"
                ),
            ]
        return tuple(cards)

    def _card(
        self, network: AudioNetwork, name: str, title: str, weighting: str, scope: Literal["item", "set"]
    ) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit="%",
            direction="lower",
            value_range="0 % to 100 % and more, where words are inserted",
            definition=f"Substitutions, deletions and insertions between the text and its transcript. {weighting}",
            blind_to="Everything but the words: voice, prosody, noise that the recogniser ignores. The recogniser errs "
            "by itself, most of all on singing, and its language model repairs unclear speech or invents some in "
            "silence: read it beside the same rate of the reference. Clips that failed are left out, not counted as "
            "wrong. The normaliser of English joins numbers spoken in a row (one two: 12), so that many digits are one "
            "word.",
            source="Levenshtein 1966; normaliser of Radford et al. 2023 (Whisper), appendix C",
            implementation="jiwer",
            version=library_version("jiwer"),
            parameters=listener(network) | self._parameters(),
            decimals=1,
            scope=scope,
        )

    def _parameters(self) -> dict[str, Any]:
        return {
            "normaliser": "whisper-normalizer, English for en, otherwise basic with combining marks kept; both sides",
            "normaliser_version": library_version("whisper-normalizer"),
            "language": f"the item's, {self.language} where it names none",
            "unspaced_languages": f"{', '.join(sorted(UNSPACED))}: no words, spaces no characters",
            "text": "the item's text",
        }

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        result = CollectionResult()
        for kind, (count, _, _) in _KINDS.items():
            found: dict[int, Errors] = {}

            def judge(index: int, kind=kind, count=count, found=found) -> dict[str, float]:
                item = clips.items[index]
                text = item.details.get("text")
                if not isinstance(text, str):
                    raise NotApplicable("the item has no text")
                language = language_of(item, self.language)
                # Whether there is anything to count comes before whether the clip could be heard.
                count(text, "", language)
                found[index] = count(text, str(clips.heard(index, "text").item()), language)
                return {self._per_utterance(kind): found[index].percent}

            result.items.update(each_item(clips, [self._per_utterance(kind)], judge))
            outcomes = result.items[self._per_utterance(kind)]
            result.sets[self._weighted(kind)] = _weighted(list(found.values()), outcomes)
        return result


def _weighted(found: list[Errors], outcomes: list[Outcome]) -> SetOutcome:
    missing = sum(outcome.status == "failed" for outcome in outcomes)
    if not found:
        reasons = dict.fromkeys(outcome.reason for outcome in outcomes)
        return SetOutcome(None, 0, missing, f"no item could be judged: {'; '.join(list(reasons)[:3])}", {"items": 0})
    total = Errors(sum(errors.edits for errors in found), sum(errors.units for errors in found))
    # Failed clips are left out: numbers over fewer of the same items are no match for one another.
    return SetOutcome(total.percent, len(found), missing, conditions={"items": len(found)})
