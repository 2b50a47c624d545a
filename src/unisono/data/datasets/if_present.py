"""Data sets that are used where they were prepared."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# Key of a data set's node, not an argument of its class: leave the set out where its manifest does not exist.
IF_PRESENT = "if_present"


def without_absent_sets(nodes: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Nodes of data sets to build; those marked ``if_present`` whose manifest is absent are left out, with a warning.

    Only lists that are generated and evaluated allow the mark: a training set never goes missing unasked.
    """
    kept = []
    for node in nodes:
        if node.get(IF_PRESENT) and not Path(str(node.get("content"))).is_file():
            logger.warning("%s does not exist: this data set is left out", node.get("content"))
        else:
            kept.append({str(key): value for key, value in node.items() if key != IF_PRESENT})
    return kept
