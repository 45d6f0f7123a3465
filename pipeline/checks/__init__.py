"""What a machine can find wrong with labels: alone, beside a network's buildings, and as a whole.

The same rules stand in sql/checks.sql as views of the PostGIS store; one test holds the two together.
"""

from pipeline.checks.findings import FINDING_COLUMNS, find
from pipeline.checks.rules import RULES, CheckRules
from pipeline.checks.shift import Shift, find_shift

__all__ = ["FINDING_COLUMNS", "RULES", "CheckRules", "Shift", "find", "find_shift"]
