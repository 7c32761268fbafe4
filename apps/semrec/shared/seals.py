"""What tells the files that a complete stage left from damaged ones: their digests."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalrec import sync

from semrec.shared.errors import ExperimentError
from semrec.shared.files import file_hash

# No part of a stage's result: its bookkeeping, and what a training goes on from (`genrec.fit`).
_ASIDE = re.compile(
    r"lock|stage\.json|log\.jsonl|checkpoint\.json(\.part)?"
    r"|(last-\d+|best-\d+|final)\.safetensors(\.part)?"
)


def clear_leftovers(folder: Path) -> None:
    """Removes what an interrupted try was writing beside its place in a stage's folder.

    All such names, whatever package gave them, begin with a dot. To be called by the holder of the
    stage's lock: nobody else writes there.
    """
    for path in list(folder.iterdir()):
        if path.name.startswith("."):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def seal(folder: Path) -> dict[str, str]:
    """The digest of each file that a stage left, by its path in the folder; all are on the disk."""
    digests = {}
    for path in _files(folder):
        sync(path)
        digests[path.relative_to(folder).as_posix()] = file_hash(path)
    for path in folder.rglob("*"):
        if path.is_dir():
            sync(path)
    sync(folder)
    return digests


def check_seal(folder: Path, digests: Any) -> None:
    """Compares the files of a stage with their digests.

    Args:
        folder: The stage's.
        digests: What `seal` said when the stage was completed.

    Raises:
        ExperimentError: A file is missing, or is not what it was.
    """
    remedy = f"remove the folder {folder}, and the command that began the run makes it again"
    if not isinstance(digests, dict):
        raise ExperimentError(f"{folder / 'stage.json'} is damaged: {remedy}")
    for name, digest in digests.items():
        path = folder / name
        try:
            same = file_hash(path) == digest
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ExperimentError(f"{path} is missing: {remedy}") from error
        if not same:
            raise ExperimentError(f"{path} is damaged: {remedy}")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        is_aside = path.parent == folder and _ASIDE.fullmatch(path.name)
        if path.is_file() and not is_aside:
            yield path
