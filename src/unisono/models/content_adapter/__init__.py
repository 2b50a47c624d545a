"""Content and instruction together: adapted content and predicted durations."""

from unisono.models.content_adapter.base import AdaptedContent, ContentAdapter
from unisono.models.content_adapter.cross_attention import CrossAttentionAdapter
from unisono.models.content_adapter.prefix import PrefixAdapter

__all__ = ["AdaptedContent", "ContentAdapter", "CrossAttentionAdapter", "PrefixAdapter"]
