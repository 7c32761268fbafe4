"""`recommend`, as the three apps have it: one history or a file of them to item ids."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semrec.shared.errors import ExperimentError
from semrec.shared.files import check_place, replacing
from semrec.shared.screen import Screen
from semrec.shared.text import visible

if TYPE_CHECKING:
    from genrec import Answer

RunOption = Annotated[Path, typer.Option("--run", help="Folder of a complete run")]
HistoryOption = Annotated[str | None, typer.Option(help="Item ids, oldest first, by commas")]
InputOption = Annotated[
    Path | None, typer.Option("--input", help='JSONL: {"history": [item ids]} a line')
]
OutputOption = Annotated[Path | None, typer.Option(help="JSONL to write, for --input")]
TopKOption = Annotated[int, typer.Option(min=1, help="Items a history")]
SeenOption = Annotated[bool, typer.Option(help="Leave out items of the history")]
AllowOption = Annotated[
    Path | None,
    typer.Option(help="Item ids, one a line, that alone may be recommended, as those in stock"),
]
DenyOption = Annotated[
    Path | None, typer.Option(help="Item ids, one a line, that must not be recommended")
]
ForceOption = Annotated[bool, typer.Option(help="Overwrite --output")]

_ANSWER_KEYS = ("items", "popular")

Stream = Callable[[Iterable[list[str]]], Iterator["Answer"]]
"""From histories of item ids to their answers, in order."""


def check_answer_options(history: str | None, source: Path | None, output: Path | None) -> None:
    """Raises BadParameter unless there is either one history, or an input and an output."""
    if (history is None) == (source is None):
        raise typer.BadParameter("give either --history or --input")
    if (source is None) != (output is None):
        raise typer.BadParameter("--input and --output go together")


def check_output(output: Path, *, run: Path, inputs: Sequence[Path | None], force: bool) -> None:
    """Refuses a file of answers that cannot be written, before a model is loaded.

    Args:
        output: The file. A pipe or a character device is written to as it is.
        run: The run's folder, whose own files are not to be replaced.
        inputs: The files that are read.
        force: Whether a file that is there already may be replaced.

    Raises:
        ExperimentError: It names the file as it was given.
    """
    check_place(output, "--output")
    if _is_stream(output) or not output.exists():
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


def _is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe or a character device, such as a terminal or /dev/null."""
    return path.is_fifo() or path.is_char_device()


def history_ids(history: str, known: Container[str]) -> list[str]:
    """The item ids of `--history`.

    Args:
        history: Ids by commas.
        known: The ids that there are.

    Raises:
        ExperimentError: One of them is unknown.
    """
    ids = [_as_known(part, known) for part in history.split(",")]
    for item_id in filter(None, ids):
        if item_id not in known:
            raise ExperimentError(f"--history must hold ids of the run's items, got {item_id!r}")
    return [item_id for item_id in ids if item_id]


def _as_known(text: str, known: Container[str]) -> str:
    """An id as it stands, where there is such a one, or else without the space around it."""
    line = text.removesuffix("\r")
    return next((part for part in (text, line, line.strip(" \t")) if part in known), text.strip())


def answer(
    titles: Mapping[str, str],
    stream: Stream,
    *,
    history: Sequence[str] | None,
    source: Path | None,
    output: Path | None,
    force: bool,
) -> None:
    """Prints the answer to one history, or writes the answers to a file of them.

    Args:
        titles: What the items that there are are called, by their ids.
        stream: The model.
        history: Item ids; None where there is a `source`.
        source: JSONL of histories.
        output: JSONL of the answers, as `check_output` takes it.
        force: Whether `output` may be replaced.

    Raises:
        ExperimentError: The output cannot be written, or a line of the source cannot be used.
    """
    if source is None:
        assert history is not None
        (result,) = stream([list(history)])
        _show(result, titles)
        return
    assert output is not None
    try:
        done, empty = _write_answers(titles, stream, source, output, force)
    except FileExistsError as error:  # since it was checked
        raise ExperimentError(f"{output} exists: choose another --output, or --force") from error
    # What goes into a pipe is not to be followed by a line that is no answer.
    typer.echo(visible(f"{output}: {done:,} answers"), err=_is_stream(output))
    if empty:
        _say_nothing_left(f"{empty:,} of {done:,} histories")


def _show(result: Answer, titles: Mapping[str, str]) -> None:
    """Prints one answer as a table."""
    if not result.items:
        _say_nothing_left("the history")
        return
    if result.popular:
        typer.echo("the history is empty: these are the popular items", err=True)
    table = Table("", "item_id", "title", "score")
    for place, item in enumerate(result.items, start=1):
        # As it stands: rich would take what is in square brackets for its own.
        shown = Text(visible(item.item_id)), Text(visible(titles[item.item_id]))
        table.add_row(str(place), *shown, f"{item.score:.3f}")
    Console().print(table)


def _say_nothing_left(of: str) -> None:
    typer.echo(
        f"nothing is left to recommend for {of}: --allow, --deny and --exclude-seen leave no item",
        err=True,
    )


def _write_answers(
    titles: Mapping[str, str], stream: Stream, source: Path, output: Path, force: bool
) -> tuple[int, int]:
    """Writes the answers to a file; returns how many there are, and how many hold no item."""
    total = None if _is_stream(source) else sum(1 for _ in _lines(source))
    done = empty = 0
    with replacing(output, overwrite=force) as beside, Screen().bar("recommending") as bar:
        queries, histories = itertools.tee(read_histories(source, titles))
        answers = stream(query["history"] for query in histories)
        with beside.open("wb") as written:
            for done, (query, result) in enumerate(zip(queries, answers, strict=True), start=1):
                items = [
                    {"item_id": item.item_id, "title": titles[item.item_id], "score": item.score}
                    for item in result.items
                ]
                written.write(_line({**query, "items": items, "popular": result.popular}))
                empty += not items
                bar.update(done, total)
    return done, empty


def _line(value: Mapping[str, Any]) -> bytes:
    """An object as a line of JSONL; half a surrogate pair, which is no text, stays an escape."""
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, by their numbers."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def read_histories(path: Path, known: Container[str]) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file of histories, line by line.

    Args:
        path: Each line is an object whose "history" is a list of item ids, oldest first, whole
            numbers among them as their digits; whatever else it holds is kept. Blank lines are
            passed over.
        known: The ids that there are.

    Raises:
        ExperimentError: A line is something else, names an unknown id, or has a key that the
            answer needs.
    """
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            query = json.loads(line, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise ExperimentError(f"{where}: not JSON: {error}") from error
        history = query.get("history") if isinstance(query, dict) else None
        # A bool is an int of Python's, and no id.
        if not isinstance(history, list) or not all(type(i) in (str, int) for i in history):
            raise ExperimentError(
                f'{where}: "history" must be a list of item ids, got {json.dumps(query)[:80]}'
            )
        for key in _ANSWER_KEYS:
            if key in query:
                raise ExperimentError(
                    f'{where}: the key "{key}" is the answer\'s: call it something else'
                )
        query["history"] = [str(item_id) for item_id in history]
        for item_id in query["history"]:
            if item_id not in known:
                raise ExperimentError(f"{where}: unknown item id {item_id!r}")
        yield query


def _finite(text: str) -> float:
    """A number of JSON's, which knows no infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that JSON can hold")
    return value


def read_ids(
    path: Path | None, known: Container[str], *, strict: bool = False
) -> frozenset[str] | None:
    """The item ids of a file, one a line; None where there is no file.

    Ids that are not known are counted on stderr.

    Args:
        path: The file.
        known: The ids that there are.
        strict: Whether at least one of them must be known.

    Raises:
        ExperimentError: None of them is known, though one must be, or the file is no text.
    """
    if path is None:
        return None
    try:
        # Not splitlines: an id may hold what else Python takes for the end of a line.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 text: {error}") from error
    ids = frozenset(_as_known(line, known) for line in lines) - {""}
    known_ids = frozenset(item_id for item_id in ids if item_id in known)
    if not known_ids and strict:
        raise ExperimentError(f"{path}: the run knows none of its {len(ids):,} item ids")
    words = f"the run does not know {len(ids) - len(known_ids):,} of {len(ids):,} item ids"
    if not ids:
        words = "it holds no item ids"
    if not ids or len(known_ids) < len(ids):
        typer.echo(visible(f"{path}: {words}"), err=True)
    return known_ids
