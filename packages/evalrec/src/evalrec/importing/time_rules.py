"""The rule of a column of times, from its first values and the caller's options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from evalrec.importing.times import RANGES, UNIT_NAMES, TimeRule, Unit, full_year, sample_texts
from evalrec.interactions import DataError

_CLOCK = (
    r"(?P<H>[0-9]{1,2}):(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:[.,](?P<f>[0-9]{1,9}))?)?"
    r"(?: ?(?P<p>[AaPp][Mm]))?(?: Uhr)? ?(?P<z>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_AFTER_DATE = rf"(?:(?:T|t|,? +|_){_CLOCK})?"
_YEAR, _MONTH, _DAY = r"(?P<y>[0-9]{4})", r"(?P<m>[0-9]{1,2})", r"(?P<d>[0-9]{1,2})"
_LATER_YEAR = r"(?P<y>[0-9]{4}|[0-9]{2})"
_YEAR_FIRST = rf"{_YEAR}[-/.]{_MONTH}[-/.]{_DAY}{_AFTER_DATE}"
_COMPACT = (
    r"(?P<y>[0-9]{4})(?P<m>[0-9]{2})(?P<d>[0-9]{2})"
    r"(?:T?(?P<H>[0-9]{2})(?P<M>[0-9]{2})(?P<S>[0-9]{2}))?(?P<z>Z)?"
)
_DIRECTIVES = {
    **{"Y": r"(?P<y>[0-9]{4})", "y": r"(?P<y>[0-9]{2})", "m": _MONTH, "d": _DAY},
    **{"H": r"(?P<H>[0-9]{1,2})", "I": r"(?P<H>[0-9]{1,2})", "M": r"(?P<M>[0-9]{1,2})"},
    **{"S": r"(?P<S>[0-9]{1,2})", "f": r"(?P<f>[0-9]{1,9})", "p": r"(?P<p>[AaPp][Mm])"},
    **{"z": r"(?P<z>Z|[+-][0-9]{2}(?::?[0-9]{2})?)", "%": "%"},
}


def time_rule(
    path: Path,
    column: str,
    values: Sequence[Any],
    *,
    dtype: Any = None,
    timezone: str | None = None,
    time_unit: Unit | None = None,
    time_format: str | None = None,
) -> TimeRule:
    """The rule by which a column of times is read, from its first values.

    Args:
        path: The file, for error messages.
        column: The column's name.
        values: Its first values.
        dtype: The polars type of the column, if the file has types.
        timezone: The time zone of times without one, by its IANA name; None takes UTC.
        time_unit: The unit of numbers; for texts, the unit in which they are kept. None detects it.
        time_format: The format of texts, as in `datetime.strptime`; None detects it.

    Raises:
        DataError: If the values are not known as times, or several readings are possible.
        ValueError: If an option is wrong or has no effect.
    """
    zone = check_timezone(timezone or "UTC")
    texts = sample_texts(values)
    if isinstance(dtype, pl.DataType) and dtype.is_temporal():
        return _typed(path, column, dtype, zone, timezone, time_unit or time_format)
    if not texts:
        raise DataError(f"{path}: {column!r} is empty in all of the first lines")
    if time_format is not None:
        return _text_rule(pattern_of(time_format), texts, time_unit, zone, repr(time_format))
    numbers = [text for text in texts if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)]
    if 2 * len(numbers) > len(texts) and not _are_compact(numbers):
        if timezone is not None:
            raise ValueError(f"timezone must not be given: {column!r} of {path} counts from 1970")
        return _epoch(path, column, numbers, time_unit)
    return _written(path, column, texts, time_unit, zone)


def check_timezone(name: str) -> str:
    """Checks the name of a time zone, and returns it.

    Raises:
        ValueError: If there is no time zone of this name.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"timezone must be one such as Europe/Berlin, got {name!r}") from None
    return name


def pattern_of(time_format: str) -> str:
    """The regular expression of a `strptime` format.

    Raises:
        ValueError: If a directive is not known, or the format lacks the year, month or day.
    """
    pattern = ""
    pieces = re.findall(r"%.|%$|[^%]+", time_format, re.DOTALL)
    for piece in pieces:
        if not piece.startswith("%"):
            pattern += re.escape(piece)
        elif piece[1:] in _DIRECTIVES:
            pattern += _DIRECTIVES[piece[1:]]
        else:
            raise ValueError(
                f"time_format must be made of %Y %y %m %d %H %I %M %S %f %p %z, got {time_format!r}"
            )
    names = re.findall(r"\?P<(.)>", pattern)
    if not {"y", "m", "d"} <= set(names) or len(set(names)) < len(names):
        raise ValueError(f"time_format must name year, month and day once, got {time_format!r}")
    return pattern


def _typed(
    path: Path, column: str, dtype: Any, zone: str, timezone: str | None, other: str | None
) -> TimeRule:
    if other is not None:
        raise ValueError(f"time_unit and time_format have no effect: {column!r} of {path} is typed")
    if dtype == pl.Date:
        return TimeRule(kind="typed", unit="s", timezone=zone, text=f"dates, midnight in {zone}")
    if not isinstance(dtype, pl.Datetime):
        raise DataError(f"{path}: {column!r} must hold moments, got {dtype}")
    unit: Unit = dtype.time_unit
    if dtype.time_zone is None:
        text = f"times without a zone, taken as {zone}, kept in {UNIT_NAMES[unit]}"
    elif timezone is not None:
        raise ValueError(f"timezone must not be given: {column!r} of {path} has a zone of its own")
    else:
        text = f"times with a zone, kept in {UNIT_NAMES[unit]}"
    return TimeRule(kind="typed", unit=unit, timezone=zone, text=text)


def _epoch(path: Path, column: str, numbers: Sequence[str], time_unit: Unit | None) -> TimeRule:
    decimals = max(len(number.partition(".")[2].rstrip("0")) for number in numbers)
    sizes = [int(number.partition(".")[0]) for number in numbers]
    unit: Unit | None = time_unit
    if unit is None:
        units = sorted({_unit_of(size) for size in sizes}, key=[*RANGES, "any"].index)
        if len(units) > 1:
            raise DataError(
                f"{path}: {column!r} holds times of several units by their size, from {min(sizes)} "
                f"to {max(sizes)}: --time-unit says which one all of them have"
            )
        unit = units[0]
    if unit == "any":
        return TimeRule(kind="epoch", unit="any", file_unit="any", text="numbers without a unit")
    kept: Unit = unit
    if decimals and unit == "s" and time_unit is None:
        kept = _finest(decimals)
    text = f"{UNIT_NAMES[unit]} since 1970"
    if kept != unit:
        text += f", kept in {UNIT_NAMES[kept]}"
    return TimeRule(kind="epoch", unit=kept, file_unit=unit, checked=time_unit is None, text=text)


def _unit_of(size: int) -> Unit:
    for unit, (low, high) in RANGES.items():
        if low <= size < high:
            return unit  # type: ignore[return-value]
    return "any"


def _finest(decimals: int) -> Unit:
    """The coarsest unit that holds this many decimals of a second."""
    if not decimals:
        return "s"
    return "ms" if decimals <= 3 else "us" if decimals <= 6 else "ns"


def _are_compact(numbers: Sequence[str]) -> bool:
    """Whether whole numbers are dates such as 20251231, or times such as 20251231140300."""
    if {len(number) for number in numbers} not in ({8}, {14}):
        return False
    for number in numbers:
        match = re.fullmatch(_COMPACT, number)
        if match is None or not 1900 <= int(match["y"]) < 2100 or not _is_date(match):
            return False
    return True


def _is_date(match: re.Match[str]) -> bool:
    try:
        date(full_year(int(match["y"])), int(match["m"]), int(match["d"]))
    except ValueError:
        return False
    return True


def _written(
    path: Path, column: str, texts: Sequence[str], time_unit: Unit | None, zone: str
) -> TimeRule:
    """The rule of times written as text, by the form that most of them have."""
    forms = {_YEAR_FIRST: "the year first", _COMPACT: "as 20251231"}
    for sign in (r"\.", "/", "-"):
        forms[rf"{_DAY}{sign}{_MONTH}{sign}{_LATER_YEAR}{_AFTER_DATE}"] = "the day first"
        if sign != r"\.":
            forms[rf"{_MONTH}{sign}{_DAY}{sign}{_LATER_YEAR}{_AFTER_DATE}"] = "the month first"
    counts = {}
    for pattern in forms:
        matches = [match for text in texts if (match := re.fullmatch(pattern, text))]
        counts[pattern] = sum(map(_is_date, matches))
    most = max(counts.values())
    best = [pattern for pattern, count in counts.items() if count == most]
    if 2 * most < len(texts) or not most:
        raise DataError(
            f"{path}: {column!r} holds no times that are known, such as {texts[0][:60]!r}: "
            "--time-format says how they are written, as in '%d.%m.%Y %H:%M'"
        )
    if len(best) > 1:
        raise DataError(
            f"{path}: {column!r} may have the day or the month first, as in {texts[0]!r}: "
            "--time-format '%d/%m/%Y' or '%m/%d/%Y' says which, with the clock's part where "
            "there is one"
        )
    return _text_rule(best[0], texts, time_unit, zone, f"{texts[0]!r}, {forms[best[0]]}")


def _text_rule(
    pattern: str, texts: Sequence[str], time_unit: Unit | None, zone: str, form: str
) -> TimeRule:
    matches = [match for text in texts if (match := re.fullmatch(pattern, text))]
    parts = [match.groupdict() for match in matches]
    unit = time_unit or _finest(max((len(each.get("f") or "") for each in parts), default=0))
    if unit == "any":
        raise ValueError("time_unit must be s, ms, us or ns where times are written out, got 'any'")
    if all(each.get("z") for each in parts):
        rule = "with a zone"
    elif any(each.get("z") for each in parts):
        rule = f"some with a zone, others taken as {zone}"
    else:
        rule = f"without a zone, taken as {zone}"
    return TimeRule(
        kind="text",
        unit=unit,
        pattern=pattern,
        timezone=zone,
        form=form,
        text=f"{form}, {rule}, kept in {UNIT_NAMES[unit]}",
    )
