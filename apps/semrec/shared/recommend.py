"""`recommend`, as the three apps have it: one history or a file of them to item ids."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from genrec import Answer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semrec.shared.errors import ExperimentError
from semrec.shared.files import replacing
from semrec.shared.screen import Screen

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

Stream = Callable[[Iterable[list[str]]], Iterator[Answer]]
"""From histories of item ids to their answers, in order."""


def check_answer_options(history: str | None, source: Path | None, output: Path | None) -> None:
    """Raises BadParameter unless there is either one history, or an input and an output."""
    if (history is None) == (source is None):
        raise typer.BadParameter("give either --history or --input")
    if (source is None) != (output is None):
        raise typer.BadParameter("--input and --output go together")


def answer(
    titles: Mapping[str, str],
    stream: Stream,
    *,
    history: str | None,
    source: Path | None,
    output: Path | None,
    force: bool,
) -> None:
    """Prints the answer to one history, or writes the answers to a file of them.

    Args:
        titles: What the items that there are are called, by their ids.
        stream: The model.
        history: Item ids by commas; None where there is a `source`.
        source: JSONL of histories.
        output: JSONL of the answers.
        force: Whether `output` may be replaced.

    Raises:
        ExperimentError: The output exists, or a line of the source cannot be used.
    """
    if source is None:
        assert history is not None
        ids = [part.strip() for part in history.split(",") if part.strip()]
        (result,) = stream([ids])
        if result.popular:
            typer.echo("the history is empty: these are the popular items", err=True)
        table = Table("", "item_id", "title", "score")
        for place, item in enumerate(result.items, start=1):
            # As it stands: rich would take what is in square brackets for its own.
            shown = Text(item.item_id), Text(titles[item.item_id])
            table.add_row(str(place), *shown, f"{item.score:.3f}")
        Console().print(table)
        return
    assert output is not None
    if output.exists() and not force:
        raise ExperimentError(f"{output} exists: choose another --output, or --force")
    with source.open("rb") as file:
        total = sum(1 for _ in file)
    done = 0
    with replacing(output) as beside, Screen().bar("recommending") as bar:
        queries, histories = itertools.tee(read_histories(source, titles))
        answers = stream(query["history"] for query in histories)
        with beside.open("w", encoding="utf-8") as written:
            for done, (query, result) in enumerate(zip(queries, answers, strict=True), start=1):
                items = [
                    {"item_id": item.item_id, "title": titles[item.item_id], "score": item.score}
                    for item in result.items
                ]
                line = {**query, "items": items, "popular": result.popular}
                written.write(json.dumps(line, ensure_ascii=False) + "\n")
                bar.update(done, total)
    typer.echo(f"{output}: {done:,} answers")


def read_histories(path: Path, known: Container[str]) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file of histories, line by line.

    Args:
        path: Each line is an object whose "history" is a list of item ids, oldest first, whole
            numbers among them as their digits; whatever else it holds is kept.
        known: The ids that there are.

    Raises:
        ExperimentError: A line is something else, or names an unknown id.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                query = json.loads(line)
            except ValueError as error:
                raise ExperimentError(f"{path}, line {number}: not JSON: {error}") from error
            history = query.get("history") if isinstance(query, dict) else None
            # A bool is an int of Python's, and no id.
            if not isinstance(history, list) or not all(type(i) in (str, int) for i in history):
                raise ExperimentError(
                    f'{path}, line {number}: "history" must be a list of item ids, '
                    f"got {json.dumps(query)[:80]}"
                )
            query["history"] = [str(item_id) for item_id in history]
            for item_id in query["history"]:
                if item_id not in known:
                    raise ExperimentError(f"{path}, line {number}: unknown item id {item_id!r}")
            yield query


def read_ids(path: Path | None, known: Container[str]) -> frozenset[str] | None:
    """The item ids of a file, one a line; None where there is no file.

    Ids that are not known are counted on stderr.

    Args:
        path: The file.
        known: The ids that there are.

    Raises:
        ExperimentError: None of them is known, or the file is no text.
    """
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 text: {error}") from error
    ids = frozenset(line.strip() for line in lines) - {""}
    known_ids = frozenset(item_id for item_id in ids if item_id in known)
    if not known_ids:
        raise ExperimentError(f"{path}: the run knows none of its {len(ids):,} item ids")
    if len(known_ids) < len(ids):
        unknown = len(ids) - len(known_ids)
        typer.echo(f"{path}: the run does not know {unknown:,} of {len(ids):,} item ids", err=True)
    return known_ids
