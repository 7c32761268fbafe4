"""The command line: evalrec prepare, check, floors, compare and gate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalrec import prepare_cli, reporting_cli, terminal

if TYPE_CHECKING:
    from evalrec.findings import Finding
    from evalrec.interactions import Interactions
    from evalrec.published import PublishedSet
    from evalrec.splits import Split

app = typer.Typer(
    help="Comparable evaluation of recommenders: data, checks, floors, comparisons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(prepare_cli.prepare)


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
    """Options that stand before the name of a command."""


@app.command()
def check(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with interactions.* and items.jsonl.")
    ],
    split: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A part of a split made by others, with train, valid or test in its name; "
            "give the option once per part. Default: leave-one-out.",
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print the counts of a paper's data set, such as prorec-beauty, beside these.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report what would mislead: order, ties, repeats, cold targets, leaks. Exit 1 on an error."""
    from evalrec.checks import check_interactions
    from evalrec.findings import by_severity
    from evalrec.leaks import check_split
    from evalrec.prepare_screen import print_published
    from evalrec.published import get_published
    from evalrec.reduction import counts_of

    paper = None if published is None else get_published(published)
    table, parts = _read(directory, split or [])
    findings = by_severity([*check_interactions(table), *check_split(parts, table)])
    if as_json:
        _print_json(table, parts, findings, paper)
    else:
        _print_findings(directory, table, parts, findings)
        if paper is not None:
            print_published(paper, paper.compare(counts_of(table)))
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


app.command()(reporting_cli.floors)
app.command()(reporting_cli.compare)
app.command()(reporting_cli.gate)


def main() -> None:
    """Run the command line: bad input ends in one line on stderr and exit code 1."""
    # Threads that spin while they wait slow other programs; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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
    """The interactions of a folder, with the rows of its items if it lists them; and its split."""
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


def _print_json(
    table: Interactions, parts: Split, findings: list[Finding], paper: PublishedSet | None
) -> None:
    import json
    from dataclasses import asdict

    from evalrec.reduction import counts_of

    counts = {
        "users": table.num_users,
        "items": table.num_items,
        "interactions": len(table),
        **{name.replace(" ", "_"): count for name, count in parts.counts.items()},
    }
    report: dict[str, object] = {"counts": counts}
    report["findings"] = [finding.to_dict() for finding in findings]
    if paper is not None:
        report["published"] = {
            **{"name": paper.name, "source": paper.source, "note": paper.note},
            "counts": [asdict(count) for count in paper.compare(counts_of(table))],
        }
    typer.echo(json.dumps(report, indent=2))
