"""Cells of a table, checked: which keys, whole numbers, numbers and times are accepted.

Each kind has two ways to the same values. The fast way takes a whole column in compiled code and
is only used if nothing is unusual. Otherwise each cell is checked alone: all correct values are
accepted, and the error names what is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import numpy as np
import polars as pl

_INT64 = np.iinfo(np.int64)
_EXACT = 2.0**53  # below it a float holds every whole number
_LONGEST_NUMBER = 1000  # characters of a text; no float needs more digits
_DATE = re.compile(r"^[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}")
_LARGEST_EXPONENT = 400  # of ten, beyond every float


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column that a reader needs.

    Attributes:
        source: Its name in the file.
        kind: A key (text or a whole number, not empty), a whole number, a finite number, a time
            (written as `time_format`, to seconds since 1970, UTC), or any text, empty or not.
        time_format: As in `datetime.strptime`.
    """

    source: str
    kind: Literal["key", "whole", "number", "time", "text"]
    time_format: str = ""

    def value(self, value: Any) -> Any:
        """The checked value.

        Raises:
            ValueError: "<column> must be <rule>, got <value>".
        """
        if self.kind == "key":
            return key(value, self.source)
        if self.kind == "whole":
            return whole_number(value, self.source)
        if self.kind == "number":
            return number(value, self.source)
        if self.kind == "time":
            return seconds(value, self.source, self.time_format)
        return "" if value is None else str(value)

    @property
    def dtype(self) -> Any:
        """The polars type of the checked values."""
        if self.kind in ("whole", "time"):
            return pl.Int64
        return pl.Float64 if self.kind == "number" else pl.String

    def checked(self, values: pl.Series) -> pl.Series | None:
        """The checked values of a whole column; None if cells have to be checked one by one."""
        if self.kind == "text":
            return values.cast(pl.String).fill_null("")
        if self.kind == "key":
            if not (values.dtype.is_integer() or values.dtype == pl.String):
                return None
            values = values.cast(pl.String)
            return values if values.null_count() == 0 and (values != "").all() else None
        if self.kind == "time":
            if values.dtype != pl.String:
                return None
            times = values.str.to_datetime(self.time_format, strict=False, time_unit="ms")
            if times.null_count() or values.str.contains(":60", literal=True).any():
                return None  # a leap second, which polars would turn into the second before
            return times.dt.epoch("s")
        if self.kind == "whole":
            if not (values.dtype.is_integer() or values.dtype == pl.String):
                return None  # a cast of floats, decimals or times would lose information
            values = values.cast(pl.Int64, strict=False)
            return values if values.null_count() == 0 else None
        if not (values.dtype.is_numeric() or values.dtype == pl.String):
            return None
        values = values.cast(pl.Float64, strict=False)
        if values.null_count() or not (values.abs() < _EXACT).all():
            return None
        return values


Columns = Mapping[str, Column]
"""Pairs of a new column name and the column that it comes from."""


def checked_frame(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame | None:
    """The columns, checked as a whole; None if rows have to be checked one by one."""
    checked = {}
    for name, column in columns.items():
        values = column.checked(frame[column.source])
        if values is None:
            return None
        checked[name] = values
    return pl.DataFrame(checked)


def key(value: Any, column: str) -> str:
    """An id: a string that is not empty, or the digits of a whole number.

    A float is refused, even without a fraction: two floats may be one id, or one of them two.

    Raises:
        ValueError: "<column> must be <rule>, got <value>"; the same holds for the functions below.
    """
    if value is None or value == "":
        raise ValueError(f"{column} must be given, got nothing")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{column} must be valid Unicode, got {shown(value)}") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{column} must be a string or a whole number, got {shown(value)}")


def whole_number(value: Any, column: str) -> int:
    """An int64 from an int, from a float or decimal without a fraction, or from a text of these.

    Nothing is rounded: texts and decimals are read digit by digit, and floats only below the bound
    up to which they hold every whole number.
    """
    exact = _exact(value)
    if exact is None or exact != exact.to_integral_value():
        is_time = isinstance(value, date) or (isinstance(value, str) and _DATE.search(value))
        hint = ": `evalrec prepare table` reads times" if is_time else ""
        raise ValueError(f"{column} must be a whole number, got {shown(value)}{hint}")
    if isinstance(value, float) and abs(value) >= _EXACT:
        raise ValueError(f"{column} must be below 2^53 where it is a float, got {value!r}")
    if not _INT64.min <= exact <= _INT64.max:
        raise ValueError(f"{column} must fit 64 bits, got {shown(value)}")
    return int(exact)


def number(value: Any, column: str) -> float:
    """A finite float from a number or from a text that spells one.

    A fraction becomes the nearest float, as usual; a whole number must be held exactly.
    """
    exact = _exact(value)
    nearest = math.nan if exact is None else float(exact)
    if exact is None or not math.isfinite(nearest):
        raise ValueError(f"{column} must be a number, got {shown(value)}")
    if abs(nearest) >= _EXACT and exact != Decimal(nearest):
        raise ValueError(f"{column} must be a number that a float holds, got {shown(value)}")
    return nearest


def _exact(value: Any) -> Decimal | None:
    """The exact finite number that a value is or spells; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str) and ("_" in value or len(value) > _LONGEST_NUMBER):
        return None
    try:
        exact = Decimal(value)
    except InvalidOperation:
        return None
    return exact if exact.is_finite() and exact.adjusted() < _LARGEST_EXPONENT else None


def seconds(value: Any, column: str, time_format: str) -> int:
    """Seconds since 1970 of a time in a written format, taken as UTC."""
    try:
        if not isinstance(value, str):
            raise ValueError
        moment = datetime.strptime(value, time_format)
    except ValueError:
        raise ValueError(f"{column} must be a time as {time_format}, got {shown(value)}") from None
    return int(moment.replace(tzinfo=UTC).timestamp())


def shown(value: Any) -> str:
    """A value for an error message: long ones are cut, a decimal is shown as it was read."""
    if isinstance(value, str) and len(value) > 63:
        return repr(value[:60] + "...")
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text[:60] + "..." if len(text) > 150 else text
