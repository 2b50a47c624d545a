"""Manifests, datasets, collation and sampling."""
