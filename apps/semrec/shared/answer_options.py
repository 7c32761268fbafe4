"""The options of `recommend` and their checks before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from semrec.shared.answer_files import AnswerFormat, format_of
from semrec.shared.diversity import Grouping
from semrec.shared.errors import ExperimentError
from semrec.shared.files import check_place, is_stream
from semrec.shared.queries import Unknown

RunOption = Annotated[Path, typer.Option("--run", help="Folder of a complete run")]
HistoryOption = Annotated[
    str | None, typer.Option(help="Item ids, oldest first, separated by commas")
]
InputOption = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help='JSONL with a list "history" of item ids on each line, or .parquet with such a column',
    ),
]
UsersOption = Annotated[
    str | None,
    typer.Option(
        help="The run's users: all, a file with one id per line, or ids separated by commas"
    ),
]
InteractionsOption = Annotated[
    Path | None,
    typer.Option(
        help="Newer interactions for --users: any table that `evalrec prepare table` reads"
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="The file to write for --input and --users: .jsonl, .csv or .parquet"
    ),
]
TopKOption = Annotated[
    int, typer.Option("--top-k", "--per-user", min=1, help="Items per history or user")
]
SeenOption = Annotated[bool, typer.Option(help="Leave out items of the history")]
AllowOption = Annotated[
    Path | None,
    typer.Option(
        help="Recommend only these: a file with one item id per line, such as those in stock"
    ),
]
DenyOption = Annotated[
    Path | None, typer.Option(help="Never recommend these: a file with one item id per line")
]
UnknownOption = Annotated[
    Unknown | None,
    typer.Option(
        help="Ids that the run does not know: skip and count them (default for --users), or end "
        "with an error (default for --history and --input)"
    ),
]
DiversifyOption = Annotated[
    Grouping | None,
    typer.Option(
        help="At most --per-group items of an answer with the same first code, or with the same "
        "categories"
    ),
]
GroupOption = Annotated[int | None, typer.Option(min=1, help="For --diversify (default 2)")]
Engine = Literal["local", "ray"]
EngineOption = Annotated[
    Engine,
    typer.Option(help="Where --input and --users are computed: here, or on a Ray cluster"),
]
RayWorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="For --engine ray: most workers (default: one per CPU or GPU)"),
]
ForceOption = Annotated[bool, typer.Option(help="Overwrite --output")]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The options of `recommend`, named as on the command line."""

    run: Path
    history: str | None = None
    source: Path | None = None
    users: str | None = None
    interactions: Path | None = None
    output: Path | None = None
    top_k: int = 10
    exclude_seen: bool = False
    allow: Path | None = None
    deny: Path | None = None
    unknown: Unknown | None = None
    diversify: Grouping | None = None
    per_group: int | None = None
    engine: Engine = "local"
    workers: int | None = None
    force: bool = False
    trust: tuple[str, ...] = ()

    @property
    def skips_unknown(self) -> Unknown:
        """How ids that the run does not know are handled."""
        return self.unknown or ("error" if self.users is None else "skip")

    def check(self) -> None:
        """Refuses options that contradict each other, and files that cannot be read or written.

        Raises:
            BadParameter: The options contradict each other.
            ExperimentError: A file cannot be written.
            OSError: A file cannot be read.
        """
        if sum(part is not None for part in (self.history, self.source, self.users)) != 1:
            raise typer.BadParameter("give one of --history, --input and --users")
        if (self.history is None) != (self.output is not None):
            raise typer.BadParameter(
                "--history prints its answer: --output is only for --input and --users"
                if self.history is not None
                else "--input and --users need --output, the file to write"
            )
        if self.interactions is not None and self.users is None:
            raise typer.BadParameter("--interactions goes with --users")
        if self.per_group is not None and self.diversify is None:
            raise typer.BadParameter("--per-group goes with --diversify")
        if self.engine == "ray" and self.history is not None:
            raise typer.BadParameter("--engine ray goes with --input and --users")
        if self.workers is not None and self.engine != "ray":
            raise typer.BadParameter("--workers goes with --engine ray")
        if self.source is not None and self.source.suffix.lower() in (".csv", ".tsv"):
            raise ExperimentError(
                f"--input must be JSONL, or .parquet with a column of lists, got {self.source}"
            )
        listed = Path(self.users) if self.users and Path(self.users).is_file() else None
        inputs = (self.source, self.interactions, self.allow, self.deny, listed)
        if self.output is not None:
            check_output(self.output, run=self.run, inputs=inputs, force=self.force)
        for path in inputs:
            if path is not None:
                path.stat()

    @property
    def form(self) -> AnswerFormat:
        """The format of the output."""
        assert self.output is not None
        return format_of(self.output)


def check_output(output: Path, *, run: Path, inputs: Sequence[Path | None], force: bool) -> None:
    """Refuses an output file that cannot be written, before a model is loaded.

    Args:
        output: The file. A pipe or a character device is allowed.
        run: The run's folder, whose files must not be replaced.
        inputs: The input files, which must not be replaced.
        force: Whether an existing file may be replaced.

    Raises:
        ExperimentError: The file cannot be written; the message names it as the user did.
    """
    check_place(output, "--output")
    if is_stream(output) or not output.exists():
        format_of(output)
        return
    for path in inputs:
        if path is not None and path.exists() and path.samefile(output):
            raise ExperimentError(f"--output must not be a file that is read, got {output}")
    place = Path(os.path.realpath(output))
    root = Path(os.path.realpath(run))
    own_files = ("run.json", "environment.json", "metrics.json", "report.html")
    if root in place.parents and (place.parent != root or place.name in own_files):
        raise ExperimentError(f"--output must not be a file of the run, got {output}")
    if not force:
        raise ExperimentError(f"{output} exists: choose another --output, or --force")
    format_of(output)
