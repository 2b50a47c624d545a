"""Speech recognisers, whose text is compared with what should have been said.

Greedy decoding, no language model, one recording at a time: the text depends on the recording alone.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.pretrained import check_rate, load_model, model_parameters, quiet_parts
from unisono.evaluation.networks.torch_network import TorchNetwork
from unisono.features.pretrained import load_pretrained
from unisono.suggest import did_you_mean

_CUT = "parts of at most 30 s, cut at the quietest 0.1 s of the last 10 s"


class Recogniser(TorchNetwork):
    """`text`: the words of all parts, in order, with a space between them."""

    sample_rate = 16_000
    shortest_samples = 1_600
    _longest_samples = 30 * 16_000

    def __init__(self, device: str, parameters: dict[str, Any]) -> None:
        super().__init__(device, {**parameters, "transformers": library_version("transformers"), "long_clips": _CUT})

    def parts(self, waveform: np.ndarray) -> list[np.ndarray]:
        parts = quiet_parts(waveform, self._longest_samples, self.sample_rate)
        return [part for part in parts if len(part) >= self.shortest_samples]  # what is shorter holds no word

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        return {"text": np.array([self.recognise(waveform)])}

    @abstractmethod
    def recognise(self, waveform: np.ndarray) -> str:
        """The text of one part, float32 ``(S,)``."""


class Whisper(Recogniser):
    """Radford et al. 2023, "Robust speech recognition via large-scale weak supervision".

    Args:
        language: spoken in all clips, as Whisper names it ("english", "en"); None lets the model tell it for each clip.
            Models for English alone take none.
    """

    name = "whisper"

    def __init__(self, source: str, device: str = "cpu", language: str | None = None) -> None:
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        wanted = "a WhisperForConditionalGeneration"
        self.model = load_model(WhisperForConditionalGeneration, source, wanted)
        self.extractor: Any = load_pretrained(
            WhisperFeatureExtractor.from_pretrained, source, "the feature extractor of Whisper"
        )
        self.tokenizer: Any = load_pretrained(AutoTokenizer.from_pretrained, source, "the tokenizer of Whisper")
        check_rate(self.extractor, source, self.sample_rate)
        multilingual = bool(getattr(self.model.generation_config, "is_multilingual", False))
        self.options = {"task": "transcribe", "language": _checked_language(language)} if multilingual else {}
        if not multilingual and language is not None:
            raise UserError(f"networks.whisper.language: {source} knows one language; leave language out")
        heard = (self.options["language"] or "told by the model for each part") if multilingual else "that of the model"
        parameters = model_parameters(self.model, source) | {
            "language": heard,
            "decoding": "greedy, no timestamps, no fallback",
            "generation_settings": _settings(self.model.generation_config),
        }
        super().__init__(device, parameters)
        self.model.to(device)

    def recognise(self, waveform: np.ndarray) -> str:
        inputs = self.extractor(
            waveform, sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True
        ).to(self.device)
        tokens = self.model.generate(
            inputs.input_features,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            num_beams=1,
            return_timestamps=False,
            **self.options,
        )
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]


def _settings(generation_config: Any) -> dict[str, Any]:
    """Tokens that are suppressed, greatest length and the like, which come with the weights."""
    apart = ("transformers_version", "_from_model_config")
    return {name: value for name, value in generation_config.to_diff_dict().items() if name not in apart}


def _checked_language(language: str | None) -> str | None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    if language is None:
        return None
    if language.lower() not in {**LANGUAGES, **TO_LANGUAGE_CODE}:
        near = did_you_mean(language, TO_LANGUAGE_CODE, "one of Whisper's:")
        raise UserError(f"networks.whisper.language: {language!r} is no language of Whisper; {near}")
    return language.lower()


class Ctc(Recogniser):
    """Any model of ``transformers`` with a CTC head: wav2vec 2.0, HuBERT, WavLM, Data2Vec …"""

    name = "ctc"

    def __init__(self, source: str, device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        self.model = load_model(AutoModelForCTC, source, "a model with a CTC head")
        # Not AutoProcessor: with an n-gram model beside the weights it would ask for pyctcdecode.
        self.extractor: Any = load_pretrained(AutoFeatureExtractor.from_pretrained, source, "a feature extractor")
        self.tokenizer: Any = load_pretrained(AutoTokenizer.from_pretrained, source, "a tokenizer for CTC")
        check_rate(self.extractor, source, self.sample_rate)
        super().__init__(device, model_parameters(self.model, source) | {"decoding": "greedy, no language model"})
        self.model.to(device)

    def recognise(self, waveform: np.ndarray) -> str:
        inputs = self.extractor(waveform, sampling_rate=self.sample_rate, return_tensors="pt").to(self.device)
        tokens = self.model(**inputs).logits[0].argmax(dim=-1).tolist()
        # To skip special tokens would skip the blank too, before repetitions are merged, and "ll" would become "l".
        blank = self.tokenizer.pad_token_id
        special = {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.unk_token_id} - {blank}
        return self.tokenizer.decode([blank if token in special else token for token in tokens])
