"""Files of answers in JSONL, CSV and parquet, written in parts.

The parts are kept in a folder beside the file, so that a killed command can continue with the first
missing part. The file itself appears once all parts exist.
"""

from __future__ import annotations

import io
import json
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from semrec.shared.errors import ExperimentError
from semrec.shared.files import is_stream, read_json, replacing, write_sealed, writing

if TYPE_CHECKING:
    import polars as pl
    from genrec import Answer

COLUMNS = ("user", "rank", "item", "score", "title")
"""The columns of a table of answers, which has one row per recommended item."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer and its query.

    Attributes:
        query: The stored keys of the query, with which a line of JSONL begins. "user" is in each
            row of a table.
        where: The place of the query, for error messages.
        answer: The recommended items.
    """

    query: Mapping[str, Any]
    where: str
    answer: Answer


class AnswerFormat(ABC):
    """How answers are written to a file, one part at a time."""

    @abstractmethod
    def part(self, answered: Sequence[Answered], titles: Mapping[str, str]) -> bytes:
        """Returns answers as the bytes of a part of the file.

        Raises:
            ExperimentError: A query holds a value that the format cannot store.
        """

    def join(self, parts: Iterable[Path], out: Path) -> None:
        """Joins the parts into the file."""
        with out.open("wb") as joined:
            joined.write(self.head)
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)

    head: bytes = b""
    """The first bytes of a file."""


class JsonLines(AnswerFormat):
    """One object per line: the query, "items", and whether these are the "popular" items."""

    def part(self, answered: Sequence[Answered], titles: Mapping[str, str]) -> bytes:
        """One line per answer."""
        return b"".join(self.line(one_answer, titles) for one_answer in answered)

    def line(self, answered: Answered, titles: Mapping[str, str]) -> bytes:
        """The line of an answer; a lone surrogate, which is no valid text, stays escaped."""
        items = [
            {"item_id": item.item_id, "title": titles[item.item_id], "score": item.score}
            for item in answered.answer.items
        ]
        value = {**answered.query, "items": items, "popular": answered.answer.popular}
        try:
            return (json.dumps(value, ensure_ascii=False) + "\n").encode()
        except UnicodeEncodeError:
            return (json.dumps(value) + "\n").encode()
        except TypeError as error:  # such as a date of a parquet file
            raise ExperimentError(f"{answered.where}: {error}: leave it out") from error


class Csv(AnswerFormat):
    """One row per item, with quotes where they are needed."""

    head = (",".join(COLUMNS) + "\n").encode()

    def part(self, answered: Sequence[Answered], titles: Mapping[str, str]) -> bytes:
        """The rows of the answers, without the names of the columns."""
        return _rows(answered, titles).write_csv(include_header=False).encode()


class Parquet(AnswerFormat):
    """One row per item; "rank" is int32, "score" float64, the others are texts."""

    def part(self, answered: Sequence[Answered], titles: Mapping[str, str]) -> bytes:
        """The rows of the answers as a parquet file."""
        content = io.BytesIO()
        _rows(answered, titles).write_parquet(content)
        return content.getvalue()

    def join(self, parts: Iterable[Path], out: Path) -> None:
        """Writes one file with one part at a time in memory."""
        import polars as pl

        tables = [pl.scan_parquet(part.resolve(), glob=False) for part in parts]
        empty = _rows([], {}).lazy()
        pl.concat([empty, *tables]).sink_parquet(out.resolve())


def _rows(answered: Sequence[Answered], titles: Mapping[str, str]) -> pl.DataFrame:
    """One row per item with the columns `COLUMNS`.

    Raises:
        ExperimentError: A query has no "user" for its rows.
    """
    import polars as pl

    rows = []
    for each in answered:
        user = each.query.get("user")
        if type(user) not in (str, int):
            raise ExperimentError(
                f'{each.where}: "user" must be a text or a whole number, which names the rows of '
                ".csv and .parquet, got none: add it, or write .jsonl"
            )
        for rank, item in enumerate(each.answer.items, start=1):
            rows.append((str(user), rank, item.item_id, item.score, titles[item.item_id]))
    types = (pl.String, pl.Int32, pl.String, pl.Float64, pl.String)
    return pl.DataFrame(rows, schema=dict(zip(COLUMNS, types, strict=True)), orient="row")


FORMATS: Mapping[str, AnswerFormat] = {
    "": JsonLines(),  # as of /dev/stdout
    ".jsonl": JsonLines(),
    ".csv": Csv(),
    ".parquet": Parquet(),
}
"""The formats by the suffix of a file's name."""


def format_of(output: Path) -> AnswerFormat:
    """The format that the suffix of a file's name stands for.

    Raises:
        ExperimentError: The suffix is unknown, or its format cannot be written to a pipe.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise ExperimentError(f"--output must end in .jsonl, .csv or .parquet, got {output}")
    if is_stream(output) and not isinstance(FORMATS[suffix], JsonLines):
        raise ExperimentError(f"--output must be a file where it ends in {suffix}, got {output}")
    return FORMATS[suffix]


class Parts:
    """The parts of a file that is being written; each part in the folder is complete.

    Args:
        folder: The folder of the parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def counts(self, number: int) -> Counter[str] | None:
        """The counts that were stored with a part; None if the part does not exist."""
        path = self.folder / f"{number:06}.json"
        return Counter(read_json(path, sealed=True)) if path.exists() else None

    def write(self, number: int, content: bytes, counts: Counter[str]) -> None:
        """Writes a part and then its counts.

        Raises:
            ExperimentError: It cannot be written.
        """
        with replacing(self._path(number)) as beside:
            beside.write_bytes(content)
        write_sealed(self.folder / f"{number:06}.json", counts)

    def paths(self, count: int) -> list[Path]:
        """The paths of the first `count` parts in order."""
        return [self._path(number) for number in range(count)]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.part"


@contextmanager
def kept_parts(output: Path, identity: Mapping[str, Any]) -> Iterator[Parts]:
    """Yields the parts of a file in "NAME.parts" beside it; removes them once the block succeeds.

    If the block fails before any part is complete, the folder is removed too.

    Args:
        output: The file.
        identity: JSON values that determine the file's content. Existing parts of a killed command
            are kept if its identity was the same.

    Raises:
        ExperimentError: There are parts of another command, another process is writing them, or
            they cannot be written.
    """
    folder = output.with_name(f"{output.name}.parts")
    marker = folder / "command.json"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ExperimentError(
            f"{folder}: another process is at it: wait for it, or choose another --output"
        ) from error
    with lock:
        if not marker.exists():
            write_sealed(marker, identity)
        elif read_json(marker, sealed=True) != json.loads(json.dumps(identity)):
            raise ExperimentError(
                f"{folder} holds what another command was writing: end that one, remove the "
                "folder, or choose another --output"
            )
        try:
            yield Parts(folder)
        except BaseException:
            if not any(folder.glob("*.part")):  # nothing to continue from
                shutil.rmtree(folder)
            raise
    shutil.rmtree(folder)
