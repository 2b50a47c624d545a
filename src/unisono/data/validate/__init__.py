"""The doctor: reads a whole corpus once and reports what would spoil a training; see docs/validate.md.

validated = validate([Path("data/mini")])
print(table(validated))
write_report(validated, Path("validation.json"))
fix(validated, Path("data/mini_clean"))
"""

from unisono.data.validate.findings import KINDS, Finding
from unisono.data.validate.fix import Fixed, fix
from unisono.data.validate.limits import Limits
from unisono.data.validate.model_inputs import ModelInputs, read_model_inputs
from unisono.data.validate.report import table, write_report
from unisono.data.validate.result import Validated
from unisono.data.validate.runner import validate

__all__ = [
    "KINDS",
    "Finding",
    "Fixed",
    "Limits",
    "ModelInputs",
    "Validated",
    "fix",
    "read_model_inputs",
    "table",
    "validate",
    "write_report",
]
