"""From text to phonemes and speech."""
