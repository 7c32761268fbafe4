"""Times in files, read as whole ticks since 1970: epochs, ISO times, dates, day first.

A `TimeRule` says how one column is read. It is made from the first values of the column. A later
value that does not follow it is refused with its line: nothing is rounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl

from evalrec.cells import Column, whole_number

Unit: TypeAlias = Literal["s", "ms", "us", "ns", "any"]

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of a second
UNIT_NAMES = {
    **{"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"},
    "any": "any",
}
# Each range is from 1973 to the year 5138. Smaller numbers are positions, or not times since 1970.
RANGES: dict[str, tuple[int, int]] = {
    "s": (10**8, 10**11),
    "ms": (10**11, 10**14),
    "us": (10**14, 10**17),
    "ns": (10**17, 2**63 - 1),
}
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class TimeRule:
    """How the values of a column are read as times.

    Attributes:
        kind: "epoch": numbers of `file_unit`; "text": texts that match `pattern`; "typed": a column
            whose type is a time.
        unit: The unit of the resulting whole numbers; "any" if numbers are only positions.
        file_unit: The unit of an epoch's numbers.
        checked: Whether an epoch's number must be in the range by which its unit was recognised.
        pattern: A regular expression with groups y, m, d and perhaps H, M, S, f, p and z.
        timezone: The time zone of times that name none, by its IANA name. Of an hour that occurs
            twice when clocks are set back, the first is taken; an hour that never was is refused.
        text: The rule in words.
        form: The form of a text, in words.
    """

    kind: Literal["epoch", "text", "typed"]
    unit: Unit
    text: str
    file_unit: Unit = "any"
    checked: bool = True
    pattern: str = ""
    timezone: str = "UTC"
    form: str = ""

    def ticks(self, value: Any, column: str) -> int:
        """The ticks of one time.

        Raises:
            ValueError: "<column> must be <rule>, got <value>".
        """
        if value is None or value == "":
            raise ValueError(f"{column} must be given, got nothing")
        if self.kind == "text":
            return self._of_text(value, column)
        if self.kind == "typed" or self.unit == self.file_unit:
            number = whole_number(value, column)
        else:
            number = self._of_fraction(value, column)
        self._check_range(number, value, column)
        return number

    def column_ticks(self, values: pl.Series) -> pl.Series | None:
        """The times of a whole column; None if values have to be checked one by one."""
        if values.null_count():
            return None
        if self.kind == "text":
            return _parsed(values, self) if values.dtype == pl.String else None
        if self.unit != self.file_unit and self.kind == "epoch":
            return None
        if not (values.dtype.is_integer() or values.dtype == pl.String):
            return None
        numbers = values.cast(pl.Int64, strict=False)
        if numbers.null_count():
            return None
        if self.kind == "epoch" and self.checked and self.unit != "any":
            low, high = RANGES[self.unit]
            if not ((numbers >= low) & (numbers < high)).all():
                return None
        return numbers

    def _check_range(self, number: int, value: Any, column: str) -> None:
        if self.kind != "epoch" or not self.checked or self.unit == "any":
            return
        low, high = (bound * TICKS[self.unit] // TICKS["s"] for bound in RANGES["s"])
        if not low <= number < high:
            raise ValueError(
                f"{column} must be a time in {UNIT_NAMES[self.file_unit]} as the first ones are, "
                f"got {value}: --time-unit takes all of them as they are"
            )

    def _of_fraction(self, value: Any, column: str) -> int:
        """The ticks of a number with decimals."""
        try:
            exact = Decimal(str(value)) * (TICKS[self.unit] // TICKS[self.file_unit])
        except ArithmeticError:
            exact = Decimal("NaN")
        if not exact.is_finite() or exact != exact.to_integral_value():
            raise ValueError(
                f"{column} must be a time of whole {UNIT_NAMES[self.unit]}, got {str(value)[:60]!r}"
                ": --time-unit keeps finer ones"
            )
        return int(exact)

    def _of_text(self, value: Any, column: str) -> int:
        match = re.fullmatch(self.pattern, value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{column} must be written as {self.form}, got {str(value)[:60]!r}")
        parts = {name: part for name, part in match.groupdict().items() if part}
        try:
            moment = _moment(parts)
            local = moment - _offset(parts["z"]) if "z" in parts else _in_utc(moment, self.timezone)
        except ValueError as error:
            raise ValueError(
                f"{column} must be a time that exists, got {value!r}: {error}"
            ) from None
        fraction, rest = divmod(int(parts.get("f", "").ljust(9, "0")), 10**9 // TICKS[self.unit])
        if rest:
            raise ValueError(
                f"{column} must be a time of whole {UNIT_NAMES[self.unit]} as the first ones are, "
                f"got {value!r}: --time-unit keeps finer ones"
            )
        since = local - _EPOCH
        return (since.days * 86_400 + since.seconds) * TICKS[self.unit] + fraction


@dataclass(frozen=True, kw_only=True)
class TimeColumn(Column):
    """A column of times, read as int64 ticks.

    Attributes:
        rule: The rule by which times are read.
        optional: Whether a time may be missing; it is then null.
    """

    kind: Literal["key", "whole", "number", "time", "text"] = "time"
    rule: TimeRule
    optional: bool = False

    def value(self, value: Any) -> int | None:
        """The ticks of a value."""
        if self.optional and (value is None or value == ""):
            return None
        return self.rule.ticks(value, self.source)

    def checked(self, values: pl.Series) -> pl.Series | None:
        """The ticks of a whole column; None if values have to be checked one by one."""
        values = typed_ticks(values, self.rule.timezone) if values.dtype.is_temporal() else values
        missing = values.is_null()
        if values.dtype == pl.String:
            missing = missing | (values == "").fill_null(False)
        if not missing.any():
            return self.rule.column_ticks(values)
        present = values.filter(~missing)
        ticks = self.rule.column_ticks(present) if self.optional else None
        if ticks is None:
            return None
        places = missing.arg_true().append((~missing).arg_true())
        both = pl.Series([None] * int(missing.sum()), dtype=pl.Int64).append(ticks)
        return both.gather(places.arg_sort())


def typed_ticks(values: pl.Series, timezone: str) -> pl.Series:
    """The ticks of a column whose type is a date or a time, in the unit of the type.

    A date counts as its midnight, in seconds.

    Raises:
        ValueError: If a time without a zone never was in `timezone`, or it is a time of day only.
    """
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("ms"))
        return _local_ticks(values, timezone) // 1000
    if not isinstance(values.dtype, pl.Datetime):
        raise ValueError(f"must be times, got {values.dtype}")
    if values.dtype.time_zone is not None:
        return values.to_physical()
    return _local_ticks(values, timezone)


def _local_ticks(values: pl.Series, timezone: str) -> pl.Series:
    if timezone == "UTC":
        return values.to_physical()
    zoned = values.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    if zoned.null_count() > values.null_count():
        gone = values.filter(zoned.is_null() & values.is_not_null())[0]
        raise ValueError(f"holds {gone}, an hour that clocks pass over in {timezone}")
    return zoned.to_physical()


def _parsed(values: pl.Series, rule: TimeRule) -> pl.Series | None:
    """The ticks of texts, in compiled code; None if they have to be parsed one by one."""
    parts = values.str.strip_chars().str.extract_groups(rf"^(?:{rule.pattern})$").struct.unnest()
    frame = parts.with_columns(
        pl.col(name).cast(pl.Int32, strict=False) for name in "ymdHMS" if name in parts.columns
    )
    zero = pl.lit(0, dtype=pl.Int32)
    hour, minute, second = (
        pl.col(name).fill_null(zero) if name in parts.columns else zero for name in "HMS"
    )
    if "p" in parts.columns:
        half = pl.col("p").str.to_lowercase().replace_strict({"am": 0, "pm": 12}, default=None)
        hour = pl.when(half.is_null()).then(hour).otherwise(hour % 12 + half)
    year = pl.col("y")
    year = year + pl.when(year < 69).then(2000).when(year < 100).then(1900).otherwise(0)
    # An invalid date would be an error of the whole column; this way it is a null.
    date = pl.concat_str(year, pl.lit("-"), "m", pl.lit("-"), "d").str.to_date(
        "%Y-%m-%d", strict=False
    )
    is_clock = (hour < 24) & (minute < 60) & (second < 60)
    of_day = pl.when(is_clock).then(hour.cast(pl.Int64) * 3600 + minute * 60 + second)
    moment = date.cast(pl.Datetime("ms")) + pl.duration(seconds=of_day, time_unit="ms")
    local = moment
    if rule.timezone != "UTC":
        local = moment.dt.replace_time_zone(
            rule.timezone, ambiguous="earliest", non_existent="null"
        ).dt.convert_time_zone("UTC")
    seconds = local.dt.epoch("s")
    if "z" in parts.columns:
        zoned = moment.dt.epoch("s") - _offsets()
        seconds = pl.when(pl.col("z").is_null()).then(seconds).otherwise(zoned)
    ticks = seconds * TICKS[rule.unit]
    if "f" in parts.columns:
        step = 10**9 // TICKS[rule.unit]
        finest = pl.col("f").fill_null("").str.pad_end(9, "0").cast(pl.Int64)
        ticks = pl.when(finest % step == 0).then(ticks + finest // step)
    result = frame.select(ticks.alias("ticks"))["ticks"]
    return None if result.null_count() else result


def _offsets() -> pl.Expr:
    """The offset from UTC, in seconds, of the zones in the texts of z."""
    digits = pl.col("z").str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").cast(pl.Int64)
    seconds = digits // 100 * 3600 + digits % 100 * 60
    return pl.when(pl.col("z").str.starts_with("-")).then(-seconds).otherwise(seconds)


def _moment(parts: dict[str, str]) -> datetime:
    year, hour = int(parts["y"]), int(parts.get("H", "0"))
    if "p" in parts:
        hour = hour % 12 + (12 if parts["p"].lower() == "pm" else 0)
    minute, second = (int(parts.get(name, "0")) for name in "MS")
    return datetime(full_year(year), int(parts["m"]), int(parts["d"]), hour, minute, second)


def full_year(year: int) -> int:
    """A year of four digits, from two or four: 69 is 1969, as in POSIX, and 68 is 2068."""
    return year + (2000 if year < 69 else 1900) if year < 100 else year


def _offset(zone: str) -> timedelta:
    """The offset of a zone from UTC: "Z", "+02", "+02:00"."""
    digits = "".join(sign for sign in zone if sign.isdigit()).ljust(4, "0")
    size = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -size if zone.startswith("-") else size


def _in_utc(moment: datetime, timezone: str) -> datetime:
    """A local time in UTC, without its zone."""
    zone = ZoneInfo(timezone)
    in_utc = moment.replace(tzinfo=zone).astimezone(UTC)
    if in_utc.astimezone(zone).replace(tzinfo=None) != moment:
        raise ValueError(f"clocks pass over that hour in {timezone}")
    return in_utc.replace(tzinfo=None)


def sample_texts(values: Sequence[Any]) -> list[str]:
    """The values of a sample that are not empty, as texts."""
    return [str(value).strip() for value in values if value is not None and str(value).strip()]
