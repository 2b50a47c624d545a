"""What frozen encoders computed, kept on disk: latents, text embeddings, speaker vectors, video features.

    FOLDER/KIND/FINGERPRINT/   one encoder's features: store.json, shard-*.safetensors, an index of large stores
    FOLDER/files/              which file holds what

A feature is found by the fingerprint of what made it and the digest of what it was made from, so neither another
encoder's nor a changed file's can be read by mistake. ``unisono cache`` fills the folder; training reads it.
"""

from unisono.data.feature_cache.reading import CachedLatents, CachedSequences, CachedTexts, CachedVectors
from unisono.data.feature_cache.store import FeatureStore, StoreSpec

__all__ = ["CachedLatents", "CachedSequences", "CachedTexts", "CachedVectors", "FeatureStore", "StoreSpec"]
