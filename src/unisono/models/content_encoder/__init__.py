"""One encoder per modality: content to ``Condition (B, L, D)``."""

from unisono.models.content_encoder.audio import AudioEncoder
from unisono.models.content_encoder.phoneme import PhonemeEncoder
from unisono.models.content_encoder.text import ByteTextEncoder

__all__ = ["AudioEncoder", "ByteTextEncoder", "PhonemeEncoder"]
