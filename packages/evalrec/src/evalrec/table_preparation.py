"""From a table of orders and a table of items to a native folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from evalrec.importing import TablePlan
from evalrec.importing.catalogue import Items, items_of_orders, read_items
from evalrec.importing.orders import OrderCounts, read_orders
from evalrec.importing.times import UNIT_NAMES
from evalrec.interactions import Interactions
from evalrec.preparation import (
    Prepared,
    check_place,
    file_sizes,
    refuse_input,
    write_dataset,
)
from evalrec.readers.formats import Progress, byte_counter
from evalrec.reduction import PrepareOptions, reduce


def prepare_table(
    plan: TablePlan,
    out: str | Path,
    *,
    options: PrepareOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write a native folder from a table of orders and a table of items.

    Args:
        plan: How the files are read, from `plan_table`.
        out: The folder, which appears whole or not at all.
        options: Which interactions are kept; None only leaves out users with one interaction.
        overwrite: Whether a folder that `prepare` or this function wrote before is replaced.
        progress: Called with the name of a stage, the work done and the total work.

    Raises:
        DataError: If a file cannot be used, or nothing is left; nothing is written then.
        ValueError: If an option has no effect.
        FileExistsError: If the folder exists, as for `prepare`.
        OSError: If the folder cannot be written; this is checked before anything is read.
    """
    options = options or PrepareOptions(k_core=1, min_interactions=2)
    if "rating" in plan.options.columns and options.min_rating is None:
        raise ValueError("rating must not be named without min_rating, which alone reads it")
    if options.unknown_items != "keep":
        raise ValueError("unknown_items of a table must be set by TableOptions.unknown_items")
    if options.keep_images:
        raise ValueError("keep_images must not be set for a table, whose images are always kept")
    out = Path(out)
    check_place(out, overwrite)
    refuse_input(out, plan.paths)
    items = None
    if plan.catalogue is not None:
        advance = byte_counter("reading items", [plan.catalogue.path], progress)
        items = read_items(plan, out, advance=advance)
    read, counts = read_orders(
        plan,
        None if items is None else items.records.keys(),
        min_rating=options.min_rating,
        advance=byte_counter("reading", [plan.orders.path], progress),
    )
    table, steps = reduce(read.interactions, options, progress)
    notes = _notes(plan, counts, items)
    records = items_of_orders(plan, counts, out) if items is None else items.records
    num_untitled = sum("title" not in records.get(item, ()) for item in table.item_ids)
    if "title" in plan.item_columns and num_untitled:
        notes.append(f"{_counted(num_untitled, 'item')} without a title")
    if items is not None and plan.options.unused_items == "keep":
        table, num_unused = _with_unused(table, list(items.records))
        if num_unused:
            notes.append(
                f"{_counted(num_unused, 'item')} of the catalogue without interactions kept, as "
                "the last (--unused-items)"
            )
    num_short = steps[0]["users"] - next(
        (step["users"] for step in steps if step["step"].startswith("users of")),
        steps[0]["users"],
    )
    if num_short:
        notes.append(
            f"{_counted(num_short, 'user')} with fewer than {options.min_interactions} "
            "interactions left out (--min-interactions 1 keeps all)"
        )
    return write_dataset(
        out,
        table,
        records,
        read=read,
        steps=steps,
        source={
            "source": plan.preset.name,
            "files": file_sizes(plan.paths),
            "options": asdict(options),
            "table": plan.to_json(),
        },
        time_unit=UNIT_NAMES[plan.time.unit],
        notes=tuple(notes),
        progress=progress,
    )


def _with_unused(table: Interactions, item_ids: Sequence[str]) -> tuple[Interactions, int]:
    """The table with all items of the catalogue, new ones last; and how many are new."""
    known = set(table.item_ids)
    unused = [item for item in item_ids if item not in known]
    return replace(table, item_ids=(*table.item_ids, *unused)), len(unused)


def _notes(plan: TablePlan, counts: OrderCounts, items: Items | None) -> list[str]:
    """The lines that were left out or merged, one sentence per reason."""
    notes = [f"{_counted(counts.lines, 'line')} of orders"]
    if counts.events:
        frequent = sorted(counts.events.items(), key=lambda event: (-event[1], event[0]))
        names = ", ".join(f"{name!r} {count:,}" for name, count in frequent[:10])
        kept = f"{counts.other_events:,} left out" if counts.other_events else "all kept"
        notes.append(f"events: {names}; {kept} (--only-events names those that count)")
    if counts.returns:
        notes.append(
            f"{_counted(counts.returns, 'line')} of a quantity of 0 or less, returns, left out"
        )
    if counts.incomplete:
        notes.append(f"{_counted(counts.incomplete, 'line')} without user, item or time left out")
    if counts.merged:
        notes.append(
            f"{_counted(counts.merged, 'line')} of the user, item and time of another merged with "
            "it (--doubles)"
        )
    if counts.unknown:
        fate = "kept without texts" if plan.options.unknown_items == "keep" else "left out"
        notes.append(
            f"{_counted(counts.num_unknown, 'line')} of {_counted(len(counts.unknown), 'item')} "
            f"that the catalogue lacks, such as {counts.unknown_examples()}, {fate} "
            "(--unknown-items)" + _zeros_hint(counts, items)
        )
    if items is not None and items.num_doubles:
        notes.append(f"{_counted(items.num_doubles, 'line')} of items that had one already")
    if items is not None and items.num_incomplete:
        notes.append(f"{_counted(items.num_incomplete, 'line')} of the catalogue without an id")
    return notes


def _counted(count: int, noun: str) -> str:
    """A number and its noun: "1 line", "2,000 lines"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _zeros_hint(counts: OrderCounts, items: Items | None) -> str:
    """A hint if unknown items would be known without their leading zeros."""
    if items is None:
        return ""
    stripped = {item.lstrip("0") for item in items.records}
    num_alike = sum(item.lstrip("0") in stripped for item in counts.unknown)
    return f"; {num_alike:,} of them differ from one of its ids in leading zeros alone" * (
        num_alike > 0
    )
