"""The command line: evalrec prepare, check, floors and compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evalrec import reporting_cli, terminal

if TYPE_CHECKING:
    from evalrec.findings import Finding
    from evalrec.interactions import Interactions
    from evalrec.preparation import Prepared
    from evalrec.splits import Split

app = typer.Typer(
    help="Evaluation of recommenders that can be compared: data, checks, floors, comparisons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        import evalrec

        typer.echo(f"evalrec {evalrec.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """What stands before the name of a command."""


FORMAT_NAMES = (
    *("native", "amazon2014", "amazon2018", "amazon2023", "movielens", "mind", "hm", "yelp"),
)


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(FORMAT_NAMES)}.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES", help="The raw files, or a folder of them; .gz as they are."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    k_core: Annotated[
        int,
        typer.Option(help="Least interactions of a user and of an item, to the fixed point."),
    ] = 5,
    min_rating: Annotated[float | None, typer.Option(help="Leave out what is rated lower.")] = None,
    duplicates: Annotated[
        Literal["keep", "first", "last"],
        typer.Option(help="Of a user's interactions with one item, which stay."),
    ] = "keep",
    max_history: Annotated[
        int | None, typer.Option(help="Keep the last so many interactions of each user.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder that this command wrote.")
    ] = False,
) -> None:
    """Make a native folder of a public raw format: interactions, items, and what was done."""
    from evalrec.preparation import PrepareOptions
    from evalrec.preparation import prepare as run
    from evalrec.progress import ProgressScreen

    options = PrepareOptions(
        min_rating=min_rating, duplicates=duplicates, k_core=k_core, max_history=max_history
    )
    with ProgressScreen() as screen:
        prepared = run(source, files, out, options=options, overwrite=force, progress=screen)
    _print_prepared(prepared)


@app.command()
def check(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with interactions.* and items.jsonl.")
    ],
    split: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A part of a split that others made, its name holding train, valid or test; "
            "give the option once a part. Default: leave-one-out.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report what would mislead: order, ties, repeats, cold targets, leaks. Exit 1 on an error."""
    from evalrec.checks import check_interactions
    from evalrec.findings import by_severity
    from evalrec.leaks import check_split

    table, parts = _read(directory, split or [])
    findings = by_severity([*check_interactions(table), *check_split(parts, table)])
    if as_json:
        _print_json(table, parts, findings)
    else:
        _print_findings(directory, table, parts, findings)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


app.command()(reporting_cli.floors)
app.command()(reporting_cli.compare)


def main() -> None:
    """Run the command line: bad input ends in one line on stderr and exit code 1."""
    try:
        code = app(prog_name="evalrec", standalone_mode=False)
        if code == 130:  # typer has swallowed a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        _stop("interrupted; nothing is half-written", 130)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _stop(text, 1)
    except (ValueError, ImportError) as error:
        _stop(str(error), 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        sys.exit(terminal.print_usage_error(error))  # a wrong call


def _stop(text: str, code: int) -> None:
    terminal.say("evalrec: " + " ".join(text.split()), err=True)
    sys.exit(code)


def _read(directory: Path, files: list[Path]) -> tuple[Interactions, Split]:
    """The interactions of a folder, by the rows of its items where it lists them; its split."""
    from evalrec.progress import ProgressScreen
    from evalrec.readers.native import (
        ITEM_SUFFIXES,
        find_interactions,
        find_items,
        read_interactions,
        read_item_ids,
    )
    from evalrec.split_files import read_split
    from evalrec.splits import leave_one_out

    path = find_interactions(directory)
    listed = any((directory / f"items{suffix}").is_file() for suffix in ITEM_SUFFIXES)
    with ProgressScreen() as screen:
        screen("reading", 0, 1)
        item_ids = read_item_ids(find_items(directory)) if listed else None
        table = read_interactions(path, item_ids=item_ids)
        parts = read_split(files, table) if files else leave_one_out(table)
        screen("reading", 1, 1)
    return table, parts


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
    if prepared.num_below_rating:
        terminal.say(f"{prepared.num_below_rating:,} interactions are rated too low")
    if prepared.num_repeats:
        terminal.say(f"{prepared.num_repeats:,} interactions repeat a pair of a user and an item")
    if prepared.num_without_text:
        terminal.say(f"{prepared.num_without_text:,} items have no text")
    terminal.say(f"wrote {prepared.folder}, content {prepared.content_sha256[:12]}")


def _print_findings(
    directory: Path, table: Interactions, parts: Split, findings: list[Finding]
) -> None:
    from rich.table import Table

    counts = ", ".join(f"{count:,} {name}" for name, count in parts.counts.items() if count)
    terminal.say(
        f"{directory}: {table.num_users:,} users, {table.num_items:,} items, "
        f"{len(table):,} interactions"
    )
    terminal.say(counts)
    if not findings:
        terminal.say("nothing found that would mislead")
        return
    styles = {"error": "bold red", "warning": "yellow", "info": "dim"}
    shown = Table(show_lines=True)
    for name in ("", "finding", "what to do"):
        shown.add_column(name)
    for finding in findings:
        style = styles[finding.severity]
        what = f"[bold]{terminal.cell(finding.code)}[/bold]: {terminal.cell(finding.message)}"
        severity = f"[{style}]{finding.severity}[/{style}]"
        shown.add_row(severity, what, terminal.cell(finding.advice))
    terminal.print_table(shown)


def _print_json(table: Interactions, parts: Split, findings: list[Finding]) -> None:
    import json

    counts = {
        "users": table.num_users,
        "items": table.num_items,
        "interactions": len(table),
        **{name.replace(" ", "_"): count for name, count in parts.counts.items()},
    }
    report = {"counts": counts, "findings": [finding.to_dict() for finding in findings]}
    typer.echo(json.dumps(report, indent=2))
