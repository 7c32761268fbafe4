"""The files of a run: complete writes, and reads with clear error messages."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evalrec import check_writable, replacing_file
from safetensors import SafetensorError

from semrec.shared.errors import ExperimentError

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "sha256"
# Exceptions of a write that do not name the path.
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def content_hash(paths: Iterable[Path]) -> str:
    """Returns a hash of the files' contents, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_files(value: object) -> list[Path]:
    """The files that a configuration value names, or all files of a folder that it names.

    Args:
        value: Any value; only a text or a list of texts can name files.
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
    """A short digest of the files that a value names: "@1a2b3c4d"; "" if it names none."""
    paths = input_files(value)
    return f"@{content_hash(paths)[:8]}" if paths else ""


def check_place(path: Path, option: str, *, parents: bool = False) -> None:
    """`evalrec.check_writable` for the path of a command-line option.

    Raises:
        ExperimentError: Nothing can be written there; the message says what to do.
    """
    try:
        check_writable(path, parents=parents)
    except OSError as error:
        raise ExperimentError(f"{error}: choose another {option}") from error


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a character device, such as a terminal or /dev/null."""
    return path.is_fifo() or path.is_char_device()


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """`evalrec.replacing_file`: yields a file that replaces `path` once it is complete.

    Raises:
        ExperimentError: The file cannot be written.
        FileExistsError: The file exists and may not be replaced.
    """
    with writing(path), replacing_file(path, overwrite=overwrite) as beside:
        yield beside


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Adds `path` to the errors of a write within the block, such as a full disk.

    Raises:
        ExperimentError: It cannot be written.
    """
    try:
        yield
    except SafetensorError as error:
        # The library wraps the system's error: 'IoError(Os { code: 28, ... })'.
        code = re.search(r"code: (\d+)", str(error))
        reason = os.strerror(int(code[1])) if code else " ".join(str(error).split())
        raise ExperimentError(f"{path} cannot be written: {reason}") from error
    except FileExistsError:
        raise
    except OSError as error:
        is_nameless = error.filename is None and error.errno in _NAMELESS
        if not is_nameless and error.filename != str(path):
            raise
        raise ExperimentError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: Path, value: object) -> None:
    """Writes a complete JSON file."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_sealed(path: Path, value: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Writes a JSON object with its own digest, by which `read_json` finds damage."""
    value = json.loads(json.dumps(value))  # as it will be read: keys are texts
    text = json.dumps({**value, _DIGEST: _object_digest(value)}, indent=2)
    with replacing(path, overwrite=overwrite) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _object_digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Returns the object in a JSON file of a run, without its digest.

    Args:
        path: The file.
        sealed: Whether the file must have a digest. An existing digest must always be right.

    Raises:
        ExperimentError: The file is missing, damaged or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ExperimentError(f"{path} is missing: is this the folder of a run?") from error
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ExperimentError(f"{path}: not a JSON object")
    if _DIGEST not in value:
        if sealed:
            raise ExperimentError(f"{path} is damaged: it lacks its own digest")
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise ExperimentError(f"{path}: not JSON: it holds an infinite number") from error
    elif value.pop(_DIGEST) != _object_digest(value):
        raise ExperimentError(f"{path} is damaged: its content has changed")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects in a JSONL file of a stage.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with reading(path):
        # Not splitlines: an id may hold other characters that Python treats as line ends.
        lines = path.read_text(encoding="utf-8").split("\n")
        values = [json.loads(line) for line in lines if line]
        if not all(isinstance(value, dict) for value in values):
            raise ValueError("a line is not a JSON object")
        return values


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes contiguous tensors to a safetensors file.

    Raises:
        ExperimentError: It cannot be written.
    """
    from safetensors.torch import save_file

    with replacing(path) as beside:
        save_file(dict(tensors), beside)


def save_array(path: Path, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Writes an array to an .npy file.

    Raises:
        ExperimentError: It cannot be written.
    """
    # Only for a file that is also open for reading does numpy report the system's error.
    with replacing(path) as beside, beside.open("w+b") as file:
        np.save(file, array, allow_pickle=False)


def save_anew(folder: Path, save: Callable[[Path], None]) -> None:
    """Saves a folder; replaces the remains of an interrupted attempt."""
    if folder.exists():
        shutil.rmtree(folder)
    save(folder)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a safetensors file of a stage, by name.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    from safetensors.torch import load_file

    with reading(path):
        return load_file(path)


def load_array(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Returns the array in an .npy file of a stage.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with reading(path):
        array: np.ndarray[Any, np.dtype[Any]] = np.load(path, allow_pickle=False)
        return array


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Yields a stage's file for reading; turns the exceptions of damage into ExperimentError."""
    damage = (SafetensorError, ValueError, EOFError, KeyError, TypeError, RecursionError)
    try:
        yield path
    except (FileNotFoundError, *damage) as error:
        raise ExperimentError(
            f"{path} is missing or damaged ({error}): remove the folder {path.parent} and repeat "
            "the command that began the run"
        ) from error
