"""Numbers as people write them: with a decimal comma or point, and thousands in groups."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import polars as pl

from evalrec.cells import Column, number

Decimal: TypeAlias = Literal[",", "."]

_WITH_COMMA = re.compile(r"-?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?|-?[0-9]+,[0-9]+")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]*)?")
_WITH_POINT = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+\.[0-9]+|-?[0-9]+\.[0-9]+")


def sniff_decimal(cells: Iterable[str]) -> Decimal | None:
    """The decimal sign of numbers; None if they do not show it, or both signs occur.

    "1.234" alone does not show it: it may be a thousand or one.
    """
    comma = point = False
    for cell in cells:
        text = cell.strip()
        has_comma = bool(_WITH_COMMA.fullmatch(text)) and "," in text
        has_point = bool(_WITH_POINT.fullmatch(text))
        if has_comma and not re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+", text):
            comma = True
        elif has_point and not re.fullmatch(r"-?[0-9]{1,3}(\.[0-9]{3})+", text):
            point = True
    if comma == point:
        return None
    return "," if comma else "."


@dataclass(frozen=True, kw_only=True)
class DecimalColumn(Column):
    """A column of finite numbers, which may be texts.

    Attributes:
        decimal: The decimal sign. With a comma, points may separate groups of three digits; with
            a point, no sign may.
    """

    kind: Literal["key", "whole", "number", "time", "text"] = "number"
    decimal: Decimal = "."

    def value(self, value: Any) -> float:
        """The number, exactly; a fraction becomes the nearest float."""
        if not isinstance(value, str):
            return number(value, self.source)
        text = value.strip()
        if self.decimal == "," and _GROUPED.fullmatch(text):
            text = text.replace(".", "").replace(",", ".")
        elif self.decimal == ",":
            text = "" if "." in text else text.replace(",", ".")
        try:
            return number(text, self.source)
        except ValueError:
            other = "." if self.decimal == "," else ","
            hint = f": --decimal '{other}' reads it" if other in value else ""
            raise ValueError(
                f"{self.source} must be a number with a decimal "
                f"{'comma' if self.decimal == ',' else 'point'}, got {value[:60]!r}{hint}"
            ) from None

    def checked(self, values: pl.Series) -> pl.Series | None:
        """The numbers of a whole column; None if cells have to be checked one by one."""
        if self.decimal == "," and values.dtype == pl.String:
            if values.str.contains(".", literal=True).any():
                return None
            values = values.str.replace(",", ".", literal=True)
        return super().checked(values)
