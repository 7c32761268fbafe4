"""The output of `evalrec prepare`: the plan of a table, the steps, and the counts of a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalrec import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalrec.importing import TablePlan
    from evalrec.importing.sources import Source
    from evalrec.preparation import Prepared
    from evalrec.published import CountDifference, PublishedSet


def print_plan(plan: TablePlan) -> None:
    """Show how two files will be read: their form, and the meaning of each column."""
    of_orders = {column: meaning for meaning, column in plan.order_columns.items()}
    of_items = {
        column: meaning for meaning, columns in plan.item_columns.items() for column in columns
    }
    if plan.catalogue is None:
        _print_source(plan, plan.orders, of_items | of_orders)
    else:
        _print_source(plan, plan.orders, of_orders)
        _print_source(plan, plan.catalogue, of_items)
    terminal.say(f"times: {plan.time.text}")


def _print_source(plan: TablePlan, source: Source, meanings: dict[str, str]) -> None:
    from rich.table import Table

    from evalrec.importing.sources import shown

    title = f"{source.path}: {source.text}"
    table = Table(title=terminal.cell(title), title_justify="left")
    for name in ("column", "is", "examples"):
        table.add_column(name, overflow="fold")
    for column in source.header:
        values = dict.fromkeys(shown(value) for value in source.values(column))
        examples = [text if len(text) <= 24 else text[:23] + "…" for text in list(values)[:3]]
        meaning = meanings.get(column, "")
        table.add_row(
            terminal.cell(column),
            f"[bold]{meaning}[/bold]" if meaning else "[dim]not used[/dim]",
            terminal.cell("  ".join(examples)),
        )
    terminal.print_table(table)


def print_prepared(prepared: Prepared) -> None:
    """Show the counts after each step, and everything else that was left out."""
    from rich.table import Table

    table = Table(title=terminal.cell(str(prepared.folder)), title_justify="left")
    table.add_column("step")
    for name in ("users", "items", "interactions"):
        table.add_column(name, justify="right")
    for step in prepared.steps:
        cells = [f"{step[name]:,}" for name in ("users", "items", "interactions")]
        table.add_row(step["step"], *cells)
    terminal.print_table(table)
    for note in prepared.notes:
        terminal.say(note)
    if prepared.num_below_rating:
        terminal.say(f"{prepared.num_below_rating:,} interactions are rated too low")
    if prepared.num_repeats:
        terminal.say(f"{prepared.num_repeats:,} interactions repeat a pair of a user and an item")
    if prepared.num_without_text:
        terminal.say(f"items without any text: {prepared.num_without_text:,}")
    terminal.say(f"wrote {prepared.folder}, content {prepared.content_sha256[:12]}")


def print_published(published: PublishedSet, differences: Sequence[CountDifference]) -> None:
    """Show the published counts of a data set, compared with the counts of your data."""
    from rich.table import Table

    terminal.say(f"{published.name}, by {published.source}:")
    table = Table()
    table.add_column("")
    for name in ("published", "here", "difference"):
        table.add_column(name, justify="right")
    for count in differences:
        difference = f"{count.difference:+,}" if count.difference else "0"
        table.add_row(count.name, f"{count.published:,}", f"{count.here:,}", difference)
    terminal.print_table(table)
    if published.note:
        terminal.say(published.note)
