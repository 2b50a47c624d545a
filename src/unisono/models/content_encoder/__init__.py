"""One encoder per modality: content to ``Condition (B, L, D)``."""

from unisono.models.content_encoder.audio import AudioEncoder
from unisono.models.content_encoder.phoneme import PhonemeEncoder
from unisono.models.content_encoder.pitch import PitchEncoder
from unisono.models.content_encoder.pretrained_text import PretrainedTextEncoder
from unisono.models.content_encoder.score import ScoreEncoder
from unisono.models.content_encoder.text import ByteTextEncoder
from unisono.models.content_encoder.video import VideoEncoder

__all__ = [
    "AudioEncoder",
    "ByteTextEncoder",
    "PhonemeEncoder",
    "PitchEncoder",
    "PretrainedTextEncoder",
    "ScoreEncoder",
    "VideoEncoder",
]
