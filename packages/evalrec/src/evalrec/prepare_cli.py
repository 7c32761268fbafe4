"""The command `evalrec prepare`: public formats by their files' names, and any table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from evalrec.importing import TableOptions
    from evalrec.preparation import Prepared
    from evalrec.published import PublishedSet
    from evalrec.reduction import PrepareOptions

FORMAT_NAMES = (
    *("native", "amazon2014", "amazon2018", "amazon2023", "movielens", "mind", "hm", "yelp"),
)
TABLE_NAMES = (
    *("table", "steam", "taobao", "tmall", "gowalla", "yoochoose", "microlens", "retailrocket"),
)

_KEPT, _FORM = "What is kept", "How a table is written"
_COLUMNS, _LINES = "Which column of a table is what", "What becomes of a table's lines"
_KEPT_NAMES = (  # fields of PrepareOptions
    *("min_rating", "unknown_items", "duplicates", "min_interactions", "k_core", "sample_users"),
    *("max_history", "seed", "keep_images"),
)


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
        Literal["keep", "first", "last"] | None,
        typer.Option(
            help="Of a user's interactions with one item, which stay. Default: keep.",
            rich_help_panel=_KEPT,
        ),
    ] = None,
    sample_users: Annotated[
        int | None,
        typer.Option(help="Draw so many users, after the k-core.", rich_help_panel=_KEPT),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the sample of users. Default: 0.", rich_help_panel=_KEPT),
    ] = None,
    max_history: Annotated[
        int | None,
        typer.Option(
            help="Keep this many of the last interactions of each user.", rich_help_panel=_KEPT
        ),
    ] = None,
    keep_images: Annotated[
        bool | None,
        typer.Option(
            help="Keep the address or the path of each item's image, as the field `image`.",
            rich_help_panel=_KEPT,
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Make the data set of a paper, such as prorec-beauty, and print its counts "
            "beside those reached. Other options go before what it sets.",
        ),
    ] = None,
    separator: Annotated[str | None, _form("Between cells; `tab` is a tab.", "SIGN")] = None,
    quote: Annotated[str | None, _form("What cells may stand between, or none.", "SIGN")] = None,
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
        _line(
            "Lines of items that the catalogue lacks, of a public format too. Default: drop; of "
            "formats keep."
        ),
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
    from evalrec.prepare_screen import print_prepared, print_published

    paper = None if published is None else _published(published, source)
    options = _options(source, arguments, paper)
    if source in TABLE_NAMES:
        prepared = _prepare_table(source, files, out, options, _table_options(arguments), force)
    else:
        _refuse_table_options(source, arguments)
        prepared = _prepare_format(source, files, out, options, trust or [], force)
    print_prepared(prepared)
    if paper is not None:
        print_published(paper, paper.compare(prepared.counts))


_COLUMN_NAMES = (
    *("user", "item", "time", "rating", "weight", "event", "item_id", "title", "brand"),
    *("categories", "description", "image"),
)
_TABLE_SETTINGS = (
    *("separator", "quote", "decimal", "encoding", "timezone", "time_unit", "time_format"),
    *("split_categories", "quantity", "doubles", "unknown_items", "unused_items", "incomplete"),
    "only_events",
)


def _published(name: str, source: str) -> PublishedSet:
    """The data set with a name, checked against the format of the files."""
    from evalrec.published import get_published

    published = get_published(name)
    if source != published.format:
        raise typer.BadParameter(
            f"{name} is made of {published.format}: {published.files}; got {source}",
            param_hint="--published",
        )
    return published


def _options(
    source: str, arguments: dict[str, Any], published: PublishedSet | None
) -> PrepareOptions:
    """The options, from the arguments, the published data set and the defaults, in this order."""
    from dataclasses import replace

    from evalrec.reduction import PrepareOptions

    names = [name for name in _KEPT_NAMES if name != "unknown_items" or source not in TABLE_NAMES]
    chosen = {name: arguments[name] for name in names if arguments[name] is not None}
    if published is not None:
        return replace(published.options, **chosen)
    if source == "table":
        return PrepareOptions(**{"k_core": 1, "min_interactions": 2, **chosen})
    return PrepareOptions(**chosen)


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
        if name != "unknown_items" and _is_given(arguments[name]):
            raise typer.BadParameter(
                f"is for {', '.join(TABLE_NAMES)}, not for {source}",
                param_hint="--" + name.replace("_", "-"),
            )


def _prepare_format(
    name: str,
    files: list[Path],
    out: Path,
    options: PrepareOptions,
    trust: list[str],
    force: bool,
) -> Prepared:
    from evalrec.preparation import prepare
    from evalrec.progress import ProgressScreen

    with ProgressScreen() as screen:
        return prepare(
            name, files, out, options=options, overwrite=force, trust=trust, progress=screen
        )


def _prepare_table(
    name: str,
    files: list[Path],
    out: Path,
    options: PrepareOptions,
    table: TableOptions,
    force: bool,
) -> Prepared:
    from evalrec.importing import plan_table
    from evalrec.prepare_screen import print_plan
    from evalrec.progress import ProgressScreen
    from evalrec.table_preparation import prepare_table

    if len(files) > 2:
        raise typer.BadParameter(f"must be ORDERS and perhaps CATALOGUE, got {len(files)} files")
    plan = plan_table(files[0], *files[1:], name=name, options=table)
    print_plan(plan)
    with ProgressScreen() as screen:
        return prepare_table(plan, out, options=options, overwrite=force, progress=screen)
