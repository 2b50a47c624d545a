"""Steps that add to a manifest: phonemes and their durations, F0, voices, pictures."""
