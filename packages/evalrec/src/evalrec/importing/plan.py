"""What an import will do, before a file is read in full or anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalrec.importing.columns import choose_columns, option_of
from evalrec.importing.numbers import sniff_decimal
from evalrec.importing.options import TableOptions
from evalrec.importing.presets import PRESETS, Preset
from evalrec.importing.sources import Source, open_source
from evalrec.importing.time_rules import time_rule
from evalrec.importing.times import TimeRule
from evalrec.importing.vocabulary import CATALOGUE_MEANINGS, ORDER_MEANINGS, TEXT_MEANINGS
from evalrec.interactions import DataError

_NUMBERS = ("rating", "weight")
_OF_PRESET = (*("separator", "time_unit", "split_categories", "unused_items", "incomplete"),)


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """How two files will be read.

    Attributes:
        preset: The data set, or `table`.
        options: The caller's options, completed by the preset.
        orders: The file of interactions.
        order_columns: Its columns by their meanings.
        catalogue: The file of items; None if items are described in the orders.
        item_columns: The columns of items by their meanings, in the catalogue or in the orders.
        time: The rule by which times are read.
        decimal: The decimal sign of numbers.
    """

    preset: Preset
    options: TableOptions
    orders: Source
    order_columns: Mapping[str, str]
    catalogue: Source | None
    item_columns: Mapping[str, tuple[str, ...]]
    time: TimeRule
    decimal: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        return (self.orders.path, *([self.catalogue.path] if self.catalogue else []))

    def to_json(self) -> dict[str, Any]:
        """The plan as a dict, for `dataset.json`."""
        return {
            "options": self.options.to_json(),
            "form": [source.text for source in (self.orders, self.catalogue) if source],
            "columns": {name: [column] for name, column in self.order_columns.items()}
            | {name: list(columns) for name, columns in self.item_columns.items()},
            "times": self.time.text,
            "decimal": self.decimal,
        }


def plan_table(
    orders: str | Path,
    catalogue: str | Path | None = None,
    *,
    name: str = "table",
    options: TableOptions | None = None,
) -> TablePlan:
    """Make a plan from the first rows of a table of orders and a table of items.

    Args:
        orders: A file with a line per interaction: .csv, .tsv, .txt, .dat, .jsonl or .json, each
            perhaps packed as .gz or .zst, or .parquet or .xlsx.
        catalogue: A file with a line per item, in any of these formats; None takes the texts of
            items from the orders.
        name: A public data set of `PRESETS`, or "table".
        options: Settings that are not to be guessed, and which lines are kept.

    Raises:
        DataError: If a file cannot be used or could be read in several ways; it says what to do.
        ImportError: If a file needs an extra that is missing.
        ValueError: If an option is wrong or has no effect.
    """
    if name not in PRESETS:
        raise ValueError(f"name must be one of {', '.join(PRESETS)}, got {name!r}")
    preset = PRESETS[name]
    explicit = options or TableOptions()
    options = _completed(explicit, preset)
    table = _open(Path(orders), options, preset, preset.headers)
    items = None
    if catalogue is not None:
        items = _open(Path(catalogue), options, preset, preset.item_headers)
    columns = choose_columns(table.path, table.header, ORDER_MEANINGS, options.columns)
    chosen = {meaning: names[0] for meaning, names in columns.items()}
    rule = time_rule(
        table.path,
        chosen["time"],
        table.values(chosen["time"]),
        dtype=table.dtypes.get(chosen["time"]),
        timezone=options.timezone,
        time_unit=options.time_unit,
        time_format=options.time_format,
    )
    plan = TablePlan(
        preset=preset,
        options=options,
        orders=table,
        order_columns=chosen,
        catalogue=items,
        item_columns=_item_columns(table, items, columns, options),
        time=rule,
        decimal=_decimal(table, chosen, options),
    )
    _refuse_without_effect(plan, explicit)
    return plan


def _completed(options: TableOptions, preset: Preset) -> TableOptions:
    """The options; those that are None are taken from the preset."""
    settings: dict[str, Any] = {"columns": {**preset.columns, **options.columns}}
    for name in _OF_PRESET:
        if getattr(options, name) is None:
            settings[name] = getattr(preset, name)
    return replace(options, **settings)


def _open(
    path: Path, options: TableOptions, preset: Preset, headers: tuple[tuple[str, ...], ...]
) -> Source:
    return open_source(
        path,
        separator=options.separator,
        quote=options.quote,
        encoding=options.encoding,
        headers=headers,
        literal=preset.literal,
    )


def _item_columns(
    table: Source,
    items: Source | None,
    columns: Mapping[str, tuple[str, ...]],
    options: TableOptions,
) -> dict[str, tuple[str, ...]]:
    """The columns that describe items, in the catalogue or else in the orders."""
    if items is not None:
        return choose_columns(
            items.path,
            items.header,
            CATALOGUE_MEANINGS,
            options.columns,
            item_column=columns["item"][0],
        )
    taken = {name for names in columns.values() for name in names}
    free = tuple(name for name in table.header if name not in taken)
    named = {
        meaning: names for meaning, names in options.columns.items() if set(names) <= set(free)
    }
    return choose_columns(table.path, free, TEXT_MEANINGS, named)


def _decimal(table: Source, columns: Mapping[str, str], options: TableOptions) -> str:
    """The decimal sign: as set, or as the columns of numbers show it, or else as the file does."""
    if options.decimal is not None:
        return options.decimal
    cells = [
        str(value)
        for meaning in _NUMBERS
        if meaning in columns
        for value in table.values(columns[meaning])
    ]
    return sniff_decimal(cells) or table.decimal or "."


def _refuse_without_effect(plan: TablePlan, options: TableOptions) -> None:
    """Refuse options that would have no effect.

    Raises:
        ValueError: It names the option.
        DataError: If a column is named that the file lacks.
    """
    sources = [source for source in (plan.orders, plan.catalogue) if source is not None]
    if not any(source.kind == "delimited" for source in sources):
        for name in ("separator", "quote", "encoding"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} must not be given: no file is delimited text")
    if plan.catalogue is None:
        _refuse_catalogue_options(plan, options)
    if options.split_categories is not None and "categories" not in plan.item_columns:
        raise ValueError("split_categories must not be given: there is no column of categories")
    if options.only_events is not None and "event" not in plan.order_columns:
        raise ValueError("only_events must not be given: no column holds events, see --event")
    if options.decimal is not None and not set(_NUMBERS) & set(plan.order_columns):
        raise ValueError("decimal must not be given: no column holds quantities or ratings")
    if options.quantity == "repeat" and "weight" not in plan.order_columns:
        raise ValueError("quantity must not be repeat: no column holds quantities, see --weight")


def _refuse_catalogue_options(plan: TablePlan, options: TableOptions) -> None:
    for meaning in CATALOGUE_MEANINGS:
        if meaning in options.columns and meaning not in plan.item_columns:
            raise DataError(
                f"{plan.orders.path} has no column {options.columns[meaning][0]!r} that holds "
                f"nothing else, which {option_of(meaning)} names, and there is no catalogue"
            )
    for name, default in (("unknown_items", "drop"), ("unused_items", None)):
        if getattr(options, name) != default:
            raise ValueError(f"{name} must not be given: there is no catalogue")
