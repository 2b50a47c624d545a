"""Unisono: one instruction-conditioned model for audio generation."""

__version__ = "0.1.0"

__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str):
    # Imported on first use: `import unisono` and `unisono --help` must not pay for torch.
    if name == "Pipeline":
        from unisono.inference.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'unisono' has no attribute {name!r}")
