"""Do the parts of a model fit together? Widths and rates are compared before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_parts(
    autoencoder: Any, instruction_encoder: Any, content_encoders: Mapping[str, Any], content_adapter: Any, backbone: Any
) -> None:
    """Raise ``ValueError`` with every pair of sizes that must be equal and is not.

    A part of the user's own may lack an attribute; then nothing is claimed about it.
    """
    adapter, latent = ("content_adapter", content_adapter), ("autoencoder", autoencoder)
    must_equal = [
        (("backbone", backbone), "latent_dim", latent, "latent_dim"),
        (("backbone", backbone), "frames_dim", adapter, "dim"),
        (("instruction_encoder", instruction_encoder), "dim", adapter, "instruction_dim"),
    ]
    for name, encoder in content_encoders.items():
        place = f"content_encoders.{name}"
        must_equal += [
            ((place, encoder), "dim", adapter, "dim"),
            ((place, encoder), "latent_dim", latent, "latent_dim"),
        ]
    found = []
    for (place, part), size, (other_place, other), other_size in must_equal:
        value, wanted = getattr(part, size, None), getattr(other, other_size, None)
        if value is not None and wanted is not None and value != wanted:
            found.append(f"{place}.{size} is {value}, but {other_place}.{other_size} is {wanted}")
    if found:
        raise ValueError("; ".join(found))
