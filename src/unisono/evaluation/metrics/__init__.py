"""The metrics, a file per family; `unisono.evaluation.catalogue` says which there are."""
