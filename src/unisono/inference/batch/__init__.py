"""Generating the items of manifests: which are left to do, in which batches, by which process, and what is kept."""
