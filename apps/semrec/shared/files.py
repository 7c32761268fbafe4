"""The files of a run: written beside their place and renamed, read with words for what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semrec.shared.errors import ExperimentError


def content_hash(paths: Iterable[Path]) -> str:
    """Returns a hash of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def input_files(value: object) -> list[Path]:
    """The files that a value of a configuration names, or those of the folder that it names.

    Args:
        value: Any value; only a text, or a text in a list, can name a file.
    """
    if isinstance(value, (list, tuple)):
        return [path for part in value for path in input_files(part)]
    if not isinstance(value, str) or not value:
        return []
    path = Path(value)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def files_digest(value: object) -> str:
    """What tells the files that a value names from others: "@1a2b3c4d"; "" if it names none."""
    paths = input_files(value)
    return f"@{content_hash(paths)[:8]}" if paths else ""


def write_json(path: Path, value: object) -> None:
    """Writes JSON beside `path` and renames it, so that it is never half a file."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file to write; renamed to `path` in the end, removed if there is an error."""
    unfinished = beside_path(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def beside_path(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.unfinished")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file that a run wrote.

    Raises:
        ExperimentError: The file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExperimentError(f"{path} is missing: is this the folder of a run?") from error
    except ValueError as error:
        raise ExperimentError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ExperimentError(f"{path}: not a JSON object")
    return value


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a safetensors file that a stage left, by name.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with reading(path):
        return load_file(path)


def load_array(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Returns the array in an .npy file that a stage left.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with reading(path):
        array: np.ndarray[Any, np.dtype[Any]] = np.load(path, allow_pickle=False)
        return array


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Yields a stage's file to be read; what it raises becomes an ExperimentError."""
    try:
        yield path
    except (FileNotFoundError, SafetensorError, ValueError, EOFError) as error:
        raise ExperimentError(
            f"{path} is missing or damaged ({error}): remove the folder {path.parent}, and the "
            "command that began the run makes it again"
        ) from error
