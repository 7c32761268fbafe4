"""The command `evalrec prepare`: public formats by their files' names, and any table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evalrec import terminal

if TYPE_CHECKING:
    from evalrec.importing import TableOptions, TablePlan
    from evalrec.importing.sources import Source
    from evalrec.preparation import Prepared

FORMAT_NAMES = (
    *("native", "amazon2014", "amazon2018", "amazon2023", "movielens", "mind", "hm", "yelp"),
)
TABLE_NAMES = ("table", "steam", "taobao", "gowalla", "yoochoose", "microlens", "retailrocket")

_KEPT, _FORM = "What is kept", "How a table is written"
_COLUMNS, _LINES = "Meanings of a table's columns", "Treatment of a table's lines"


def _column(help_text: str) -> Any:
    return typer.Option(metavar="COLUMN", help=help_text, rich_help_panel=_COLUMNS)


def _form(help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=_FORM)


def _line(help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=_LINES)


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help=f"One of {', '.join((*TABLE_NAMES, *FORMAT_NAMES))}; or package.module:NAME of "
            "another package.",
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            help="For a table: ORDERS and perhaps CATALOGUE. Otherwise the raw files, or a folder "
            "of them; .gz need not be unpacked.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    k_core: Annotated[
        int | None,
        typer.Option(
            help="Minimal interactions of each user and each item, to the fixed point. Default: 5; "
            "for `table` 1.",
            rich_help_panel=_KEPT,
        ),
    ] = None,
    min_interactions: Annotated[
        int | None,
        typer.Option(
            help="Minimal interactions of a user. Default: 1; for `table` 2.", rich_help_panel=_KEPT
        ),
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="Leave out lower ratings.", rich_help_panel=_KEPT)
    ] = None,
    duplicates: Annotated[
        Literal["keep", "first", "last"],
        typer.Option(
            help="Which of a user's interactions with one item to keep.", rich_help_panel=_KEPT
        ),
    ] = "keep",
    max_history: Annotated[
        int | None,
        typer.Option(
            help="Keep this many of the last interactions of each user.", rich_help_panel=_KEPT
        ),
    ] = None,
    separator: Annotated[str | None, _form("Sign between cells; `tab` is a tab.", "SIGN")] = None,
    quote: Annotated[str | None, _form("Quote around cells, or none.", "SIGN")] = None,
    decimal: Annotated[str | None, _form("The decimal sign.", ",|.")] = None,
    encoding: Annotated[str | None, _form("Such as utf-8, utf-16, windows-1252.", "NAME")] = None,
    timezone: Annotated[
        str | None,
        _form("Time zone of times without one, such as Europe/Berlin. Default: UTC.", "NAME"),
    ] = None,
    time_unit: Annotated[
        str | None,
        _form("Unit of times that are numbers; for texts, the unit to keep.", "s|ms|us|ns|any"),
    ] = None,
    time_format: Annotated[
        str | None, _form("Format of times, such as '%d.%m.%Y %H:%M'.", "FORMAT")
    ] = None,
    split_categories: Annotated[
        str | None, _form("Sign between several categories in a text, such as ' > '.", "TEXT")
    ] = None,
    user: Annotated[str | None, _column("In ORDERS: the user's id.")] = None,
    item: Annotated[str | None, _column("In ORDERS: the item's id.")] = None,
    time: Annotated[str | None, _column("In ORDERS: the time.")] = None,
    rating: Annotated[str | None, _column("In ORDERS: the rating, for --min-rating.")] = None,
    weight: Annotated[str | None, _column("In ORDERS: the quantity.")] = None,
    event: Annotated[str | None, _column("In ORDERS: the kind of event.")] = None,
    item_id: Annotated[str | None, _column("In CATALOGUE: the item's id.")] = None,
    title: Annotated[str | None, _column("The item's title.")] = None,
    brand: Annotated[str | None, _column("The item's brand.")] = None,
    categories: Annotated[
        list[str] | None, _column("The item's categories; once per column.")
    ] = None,
    description: Annotated[str | None, _column("The item's description.")] = None,
    image: Annotated[str | None, _column("The path of the item's image.")] = None,
    quantity: Annotated[
        Literal["weight", "repeat", "ignore"] | None,
        _line("Use of quantities: a column `weight`, repeated interactions, or none."),
    ] = None,
    doubles: Annotated[
        Literal["merge", "keep"] | None,
        _line("Lines with the same user, item and time. Default: merge."),
    ] = None,
    unknown_items: Annotated[
        Literal["drop", "keep", "refuse"] | None,
        _line("Lines with items that the catalogue lacks. Default: drop."),
    ] = None,
    unused_items: Annotated[
        Literal["keep", "drop"] | None,
        _line("Items without interactions. Default: keep; for public data sets drop."),
    ] = None,
    incomplete: Annotated[
        Literal["refuse", "drop"] | None,
        _line("Lines without user, item or time. Default: refuse."),
    ] = None,
    only_events: Annotated[
        str | None, _line("The events that count, such as buy,cart. Default: all.", "NAME,...")
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE",
            help="Let the code of this package run, for a FORMAT named package.module:NAME.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder that this command wrote.")
    ] = False,
) -> None:
    """Make a native folder of a table or a public format: interactions, items, a description."""
    arguments = dict(locals())
    from evalrec.preparation import PrepareOptions
    from evalrec.preparation import prepare as prepare_format
    from evalrec.progress import ProgressScreen

    is_table = source == "table"
    options = PrepareOptions(
        min_rating=min_rating,
        duplicates=duplicates,
        min_interactions=_or(min_interactions, 2 if is_table else 1),
        k_core=_or(k_core, 1 if is_table else 5),
        max_history=max_history,
    )
    if source in TABLE_NAMES:
        _prepare_table(source, files, out, options, _table_options(arguments), force)
        return
    _refuse_table_options(source, arguments)
    with ProgressScreen() as screen:
        prepared = prepare_format(
            source,
            files,
            out,
            options=options,
            overwrite=force,
            trust=trust or (),
            progress=screen,
        )
    _print_prepared(prepared)


_COLUMN_NAMES = (
    *("user", "item", "time", "rating", "weight", "event", "item_id", "title", "brand"),
    *("categories", "description", "image"),
)
_TABLE_SETTINGS = (
    *("separator", "quote", "decimal", "encoding", "timezone", "time_unit", "time_format"),
    *("split_categories", "quantity", "doubles", "unknown_items", "unused_items", "incomplete"),
    "only_events",
)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _is_given(value: Any) -> bool:
    """Whether an option was set; an option that may be repeated is an empty list if it was not."""
    return value is not None and value != []


def _table_options(arguments: dict[str, Any]) -> TableOptions:
    """The options for a table, from the arguments that were set."""
    from evalrec.importing import TableOptions

    columns = {name: arguments[name] for name in _COLUMN_NAMES if _is_given(arguments[name])}
    settings = {name: arguments[name] for name in _TABLE_SETTINGS if arguments[name] is not None}
    if settings.get("separator") in ("tab", r"\t"):
        settings["separator"] = "\t"
    if "only_events" in settings:
        settings["only_events"] = tuple(settings["only_events"].split(","))
    return TableOptions(
        columns={
            name: (value,) if isinstance(value, str) else tuple(value)
            for name, value in columns.items()
        },
        **settings,
    )


def _refuse_table_options(source: str, arguments: dict[str, Any]) -> None:
    for name in (*_COLUMN_NAMES, *_TABLE_SETTINGS):
        if _is_given(arguments[name]):
            raise typer.BadParameter(
                f"is for {', '.join(TABLE_NAMES)}, not for {source}",
                param_hint="--" + name.replace("_", "-"),
            )


def _prepare_table(
    name: str, files: list[Path], out: Path, options: Any, table: TableOptions, force: bool
) -> None:
    from evalrec.importing import plan_table
    from evalrec.progress import ProgressScreen
    from evalrec.table_preparation import prepare_table

    if len(files) > 2:
        raise typer.BadParameter(f"must be ORDERS and perhaps CATALOGUE, got {len(files)} files")
    plan = plan_table(files[0], *files[1:], name=name, options=table)
    print_plan(plan)
    with ProgressScreen() as screen:
        prepared = prepare_table(plan, out, options=options, overwrite=force, progress=screen)
    _print_prepared(prepared)


def print_plan(plan: TablePlan) -> None:
    """Show how the files will be read: their form, and the meaning of each column."""
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


def _print_prepared(prepared: Prepared) -> None:
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
        terminal.say(f"{prepared.num_without_text:,} items have no text")
    terminal.say(f"wrote {prepared.folder}, content {prepared.content_sha256[:12]}")
