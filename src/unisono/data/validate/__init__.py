"""The doctor: reads a whole corpus once and reports what would spoil a training; see docs/validate.md.

validated = validate([Path("data/mini")])
print(table(validated))
write_report(validated, Path("validation.json"))
fix(validated, Path("data/mini_clean"))
"""

from unisono.data.validate.findings import KINDS, Finding
from unisono.data.validate.fix import fix
from unisono.data.validate.limits import Limits
from unisono.data.validate.report import table, write_report
from unisono.data.validate.runner import Validated, validate

__all__ = ["KINDS", "Finding", "Limits", "Validated", "fix", "table", "validate", "write_report"]
