"""Files and folders written beside their place and renamed, so that none is left by halves."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a parquet file to exactly this path; polars alone would take "~" for the home folder.

    Raises:
        OSError: If it cannot be written, a full disk included; it names the path.
    """
    from polars.exceptions import PolarsError

    try:
        with path.open("wb") as file:
            frame.write_parquet(file)
    except PolarsError as error:
        reason = (str(error).splitlines() or ["unwritable"])[0]
        raise OSError(errno.EIO, reason, str(path)) from error


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the place of `path` if the block succeeds.

    What was there stays until then.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        beside.replace(path)
    finally:  # an interrupted write, too, leaves nothing behind
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill; it takes the place of `folder` once the block succeeds.

    What was there stays until then, and comes back if the last step fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        if folder.exists():
            folder.replace(old)
        try:
            new.replace(folder)
        except BaseException:
            if old.exists():
                old.replace(folder)
            raise
    finally:  # an interrupted write, too, leaves nothing behind
        shutil.rmtree(work, ignore_errors=True)
