"""Any table of orders, and of items, to a native folder: inspected, shown, then read."""

from evalrec.importing.options import TableOptions
from evalrec.importing.plan import TablePlan, plan_table
from evalrec.importing.presets import PRESETS, Preset

__all__ = ["PRESETS", "Preset", "TableOptions", "TablePlan", "plan_table"]
