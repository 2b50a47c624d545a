"""CLAP: one space for sounds and for captions.

Wu et al. 2023, "Large-scale contrastive language-audio pretraining with feature fusion and keyword-to-caption
augmentation". Any ``ClapModel`` of ``transformers``: laion/clap-htsat-unfused, laion/larger_clap_general … Scores of
different checkpoints do not compare.

Shapes: D of the joint space (512).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.pretrained import check_rate, load_model, model_parameters
from unisono.evaluation.networks.torch_network import TorchNetwork, listening
from unisono.features.pretrained import load_pretrained

WANTED = "a ClapModel"


class Clap(TorchNetwork):
    """`embedding` ``(D,)`` of length 1.

    The feature extractor would take ten seconds from anywhere in a longer clip, by chance. Here every part is heard:
    equal parts of at most 10 s, whose vectors are averaged.
    """

    name = "clap"
    sample_rate = 48_000
    longest_s = 10.0
    shortest_samples = 4_800

    def __init__(self, source: str, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        self.model = load_model(ClapModel, source, WANTED)
        self.extractor: Any = load_pretrained(ClapFeatureExtractor.from_pretrained, source, "CLAP's feature extractor")
        self.tokenizer: Any = load_pretrained(AutoTokenizer.from_pretrained, source, "CLAP's tokenizer")
        check_rate(self.extractor, source, self.sample_rate)
        # Neither cuts anything here, as no part is longer than the model's input; the fused model wants four copies.
        self.truncation = "fusion" if self.model.config.audio_config.enable_fusion else "rand_trunc"
        parameters = model_parameters(self.model, source) | {
            "front_end": f"ClapFeatureExtractor, truncation={self.truncation}, padding={self.extractor.padding}",
            "transformers": library_version("transformers"),
            "embedding": "unit length",
        }
        super().__init__(device, parameters)
        self.model.to(device)

    def __call__(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        vector = super().__call__(waveform)["embedding"]
        return {"embedding": (vector / np.linalg.norm(vector)).astype(np.float32)}

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        state = np.random.get_state()  # noqa: NPY002 - the extractor draws from NumPy's own generator, if only from one
        try:
            inputs = self.extractor(
                waveform, sampling_rate=self.sample_rate, truncation=self.truncation, return_tensors="pt"
            )
        finally:
            np.random.set_state(state)  # noqa: NPY002
        features = self.model.get_audio_features(**inputs.to(self.device))
        return {"embedding": _vectors(features)[0]}

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``(N, D)`` of captions, of length 1; a caption's vector does not depend on its neighbours."""
        vectors = np.zeros((len(texts), self.model.config.projection_dim), dtype=np.float32)
        longest = self.model.config.text_config.max_position_embeddings - 2  # RoBERTa counts from 2
        with listening(self.device):
            for i, text in enumerate(texts):
                tokens = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt").to(self.device)
                vectors[i] = _vectors(self.model.get_text_features(**tokens))[0]
        return vectors


def _vectors(features: Any) -> np.ndarray:
    # transformers 4 gives the vectors themselves.
    return getattr(features, "pooler_output", features).float().cpu().numpy()
