"""Features of recordings and videos that models are conditioned on: F0, voices, pictures. Each file stands alone."""
