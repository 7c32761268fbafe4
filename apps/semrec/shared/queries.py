"""The inputs of `recommend`: histories and lists of ids, from the command line and from files."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from semrec.shared.errors import ExperimentError
from semrec.shared.text import visible

if TYPE_CHECKING:
    import polars as pl

Unknown = Literal["skip", "error"]
"""How ids that the run does not know are handled: skipped and counted, or refused."""

ANSWER_KEYS = ("items", "popular")
"""The keys that an answer adds to its query; the query must not have them."""

_ROWS_AT_ONCE = 4096


def history_ids(history: str, known: Container[str], unknown: Unknown = "error") -> list[str]:
    """The item ids of `--history`.

    Args:
        history: Ids separated by commas.
        known: The known ids.
        unknown: How other ids are handled.

    Raises:
        ExperimentError: An id is unknown and `unknown` is "error".
    """
    ids = [_as_known(part, known) for part in history.split(",")]
    for item_id in filter(None, ids):
        if unknown == "error" and item_id not in known:
            raise ExperimentError(f"--history must hold ids of the run's items, got {item_id!r}")
    return [item_id for item_id in ids if item_id]


def _as_known(text: str, known: Container[str]) -> str:
    """The text itself if it is a known id, else the text without spaces around it."""
    line = text.removesuffix("\r")
    return next((part for part in (text, line, line.strip(" \t")) if part in known), text.strip())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a file's non-blank lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def read_histories(
    path: Path, known: Container[str], unknown: Unknown = "error"
) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file of histories, line by line or row by row.

    Args:
        path: JSONL, whose blank lines are skipped, or a table with the suffix .parquet. Each
            "history" is a list of item ids, oldest first; an integer stands for its digits. Other
            keys are kept.
        known: The known ids.
        unknown: Other ids are refused, or kept for the model to skip.

    Raises:
        ExperimentError: A line is wrong, has an unknown id that is refused, or has a key that the
            answer needs.
    """
    is_table = path.suffix.lower() == ".parquet"
    for where, query in _table_rows(path) if is_table else _json_lines(path):
        history = query.get("history") if isinstance(query, dict) else None
        # In Python a bool is an int, but it is no id.
        if not isinstance(history, list) or not all(type(i) in (str, int) for i in history):
            shown = json.dumps(query, default=str)[:80]
            raise ExperimentError(f'{where}: "history" must be a list of item ids, got {shown}')
        assert isinstance(query, dict)
        for key in ANSWER_KEYS:
            if key in query:
                raise ExperimentError(
                    f'{where}: the key "{key}" is the answer\'s: call it something else'
                )
        query["history"] = [str(item_id) for item_id in history]
        for item_id in query["history"] if unknown == "error" else ():
            if item_id not in known:
                raise ExperimentError(f"{where}: unknown item id {item_id!r}")
        yield query


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSONL file, each with its place for error messages."""
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise ExperimentError(f"{where}: not JSON: {error}") from error


def _table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a parquet file, read in parts, each with its place for error messages."""
    with _parquet(path) as table:
        start = 0
        while rows := table.slice(start, _ROWS_AT_ONCE).collect().to_dicts():
            for number, row in enumerate(rows, start=start + 1):
                yield f"{path}, row {number}", row
            start += len(rows)


@contextmanager
def _parquet(path: Path) -> Iterator[pl.LazyFrame]:
    """Yields a table of histories, which is read within the block.

    Raises:
        ExperimentError: The table is damaged, or has no column "history" of lists.
    """
    import polars as pl

    try:
        table = pl.scan_parquet(path.resolve(), glob=False)
        schema = table.collect_schema()
        if not isinstance(schema.get("history"), pl.List):
            raise ExperimentError(
                f'{path}: a column "history" must hold lists of item ids, got {", ".join(schema)}'
            )
        yield table
    except pl.exceptions.PolarsError as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise ExperimentError(f"{path} cannot be read as parquet: {reason}") from error


def _finite(text: str) -> float:
    """A number in JSON, which has no infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that JSON can hold")
    return value


def read_ids(
    path: Path | None, known: Container[str], *, strict: bool = False
) -> frozenset[str] | None:
    """The item ids of a file with one id per line; None if `path` is None.

    The number of unknown ids is printed on stderr.

    Args:
        path: The file.
        known: The known ids.
        strict: Whether at least one of them must be known.

    Raises:
        ExperimentError: No id is known although `strict` is set, or the file is not text.
    """
    if path is None:
        return None
    ids = frozenset(_as_known(line, known) for line in id_lines(path)) - {""}
    known_ids = frozenset(item_id for item_id in ids if item_id in known)
    if not known_ids and strict:
        raise ExperimentError(f"{path}: the run knows none of its {len(ids):,} item ids")
    words = f"the run does not know {len(ids) - len(known_ids):,} of {len(ids):,} item ids"
    if not ids:
        words = "it holds no item ids"
    if not ids or len(known_ids) < len(ids):
        typer.echo(visible(f"{path}: {words}"), err=True)
    return known_ids


def id_lines(path: Path) -> list[str]:
    """The lines of a file of ids.

    Raises:
        ExperimentError: The file is not text.
    """
    try:
        # Not splitlines: an id may hold what else Python takes for the end of a line.
        return path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 text: {error}") from error


def read_user_ids(users: str, known: Container[str]) -> list[str]:
    """The user ids of `--users`, each once.

    Args:
        users: A file with one id per line, if such a file exists; else ids separated by commas.
        known: The known ids.
    """
    path = Path(users)
    texts = id_lines(path) if path.is_file() else users.split(",")
    return list(dict.fromkeys(filter(None, (_as_known(text, known) for text in texts))))
