"""The options for a table: its form, the meaning of its columns, and which lines are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evalrec.importing.dialects import check_signs
from evalrec.importing.times import UNIT_NAMES, Unit
from evalrec.importing.vocabulary import CATALOGUE_MEANINGS, ORDER_MEANINGS

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "decimal": (None, ",", "."),
    "time_unit": (None, *UNIT_NAMES),
    "quantity": ("weight", "repeat", "ignore"),
    "doubles": ("merge", "keep"),
    "unknown_items": ("drop", "keep", "refuse"),
    "unused_items": (None, "keep", "drop"),
    "incomplete": (None, "refuse", "drop"),
}


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table of orders, and perhaps one of items, is read.

    Attributes:
        columns: The names of columns by what they hold. In the orders: `user`, `item`, `time`,
            `rating`, `weight`, `event`. In the catalogue: `item_id`, `title`, `brand`,
            `categories` (one or several), `description`, `image`; without a catalogue, these
            except `item_id` are columns of the orders. Other columns are guessed.
        separator: The sign between cells; None detects it, as for the next three options.
        quote: The sign around cells; "none" for no sign.
        decimal: The decimal sign, "," or ".".
        encoding: The encoding, as Python names it.
        split_categories: The sign between several categories in one text; None does not split.
        timezone: The time zone of times that name none, by its IANA name; None takes UTC.
        time_unit: The unit of times that are numbers; for texts, the unit in which they are kept.
            None detects it.
        time_format: The format of times, as in `datetime.strptime`; None detects it.
        quantity: Quantities become weights of the interactions, as many interactions, or nothing.
            A line with a quantity of zero or less, a return, is left out in any case.
        doubles: Lines with the same user, item and time are merged, with the sum of their
            quantities, or kept.
        unknown_items: Items that the catalogue lacks are left out, kept without texts, or an error.
        unused_items: Items of the catalogue without interactions are kept, as the last ones, or
            left out; None takes the preset's choice, "keep" for "table".
        incomplete: Lines without user, item or time are an error, or left out; None takes the
            preset's choice, "refuse" for "table".
        only_events: The events that count; None counts all.

    Raises:
        ValueError: If a value is not allowed, or a meaning is unknown or has several columns.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    separator: str | None = None
    quote: str | None = None
    decimal: Literal[",", "."] | None = None
    encoding: str | None = None
    split_categories: str | None = None
    timezone: str | None = None
    time_unit: Unit | None = None
    time_format: str | None = None
    quantity: Literal["weight", "repeat", "ignore"] = "weight"
    doubles: Literal["merge", "keep"] = "merge"
    unknown_items: Literal["drop", "keep", "refuse"] = "drop"
    unused_items: Literal["keep", "drop"] | None = None
    incomplete: Literal["refuse", "drop"] | None = None
    only_events: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, values in _CHOICES.items():
            value = getattr(self, name)
            if value not in values:
                known = ", ".join(str(each) for each in values if each is not None)
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        check_signs(self.separator, self.quote)
        if self.split_categories == "":
            raise ValueError("split_categories must not be empty")
        meanings = {*ORDER_MEANINGS, *CATALOGUE_MEANINGS}
        for meaning, names in self.columns.items():
            if meaning not in meanings:
                raise ValueError(f"columns must be of {', '.join(sorted(meanings))}: {meaning!r}")
            if not names or (len(names) > 1 and meaning != "categories"):
                raise ValueError(f"columns must name one for {meaning}, got {list(names)}")

    def to_json(self) -> dict[str, Any]:
        """The options that differ from the defaults, for `dataset.json`."""
        default = asdict(TableOptions())
        return {name: value for name, value in asdict(self).items() if value != default[name]}
