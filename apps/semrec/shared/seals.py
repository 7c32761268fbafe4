"""Digests of the files of a complete stage, by which damage is found."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalrec import sync

from semrec.shared.errors import ExperimentError
from semrec.shared.files import file_hash

# Not part of a stage's result: its bookkeeping, and the checkpoints of `genrec.fit`.
_ASIDE = re.compile(
    r"lock|stage\.json|log\.jsonl|checkpoint\.json(\.part)?"
    r"|(last-\d+|best-\d+|final)\.safetensors(\.part)?"
)


def clear_leftovers(folder: Path) -> None:
    """Removes the temporary files of an interrupted attempt from a stage's folder.

    All their names begin with a dot, in every package. To be called by the holder of the stage's
    lock, so that no other process writes there.
    """
    for path in list(folder.iterdir()):
        if path.name.startswith("."):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def seal(folder: Path) -> dict[str, str]:
    """Syncs all files of a stage and returns their digests, by their paths in the folder."""
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
        folder: The folder of the stage.
        digests: The result of `seal` when the stage was completed.

    Raises:
        ExperimentError: A file is missing or has changed.
    """
    remedy = f"remove the folder {folder} and repeat the command that began the run"
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
