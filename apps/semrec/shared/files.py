"""The files of a run: written beside their place and put there in one step, read with words.

What is written beside is called `.NAME.PID.TOKEN.unfinished` and locked by its writer. Whoever
writes into the same folder later sweeps what nobody holds any more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from semrec.shared.errors import ExperimentError

try:
    import fcntl
except ImportError:  # a system without: nothing is locked there
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\.(.+)\.([1-9]\d*)\.[0-9a-f]{16}\.unfinished", re.DOTALL)
_DIGEST = "sha256"
# What a write meets whose path the system does not say.
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def content_hash(paths: Iterable[Path]) -> str:
    """Returns a hash of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe or a character device, such as a terminal or /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_writable(path: Path, *, parents: bool = False) -> None:
    """Refuses a place that nothing can be written to, before the work whose result goes there.

    Args:
        path: The file that is to be made or replaced; or, with `parents`, the folder.
        parents: Whether it is a folder, and the folders above it that are missing will be made.

    Raises:
        ExperimentError: It names the path as it was given, and what is wrong with it.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and parents and not place.is_dir():
        raise ExperimentError(f"{path} is a file, not a folder")
    if place.exists() and not parents and not (place.is_file() or is_stream(path)):
        what = "a folder" if place.is_dir() else "a device or a socket"
        raise ExperimentError(f"{path} is {what}, not a file")
    if is_stream(path):
        return
    parent = place if parents and place.exists() else place.parent
    while parents and not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.exists():
        raise ExperimentError(f"{path}: the folder {path.parent} is missing")
    if not parent.is_dir():
        raise ExperimentError(f"{path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExperimentError(f"{path}: no permission to write in {parent}")


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields a file to write, which takes the place of `path` once the block succeeds.

    The content is on the disk before the name is: after a crash there is the old file or the new
    one. The file's mode follows the umask. A link stays, and what it leads to is replaced; a pipe
    or a character device is never replaced: it is what is yielded.

    Args:
        path: The file.
        overwrite: Whether a file that is there already may be replaced.

    Raises:
        ExperimentError: It cannot be written.
        FileExistsError: It is there and may not be replaced.
    """
    if is_stream(path):
        with writing(path, path):
            yield path
        return
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(8)}.unfinished")
    with writing(path, beside):
        sweep(place.parent)
        held = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        mode = os.fstat(held).st_mode
        if fcntl is None:  # such a system renames no file that is open
            os.close(held)
        try:
            with suppress(OSError):  # a file system without locks: there nothing is swept
                _lock(held)
            yield beside
            if beside.stat().st_mode != mode:  # safetensors makes its files private
                beside.chmod(stat.S_IMODE(mode))
            sync(beside)
            check_writable(path)  # again: it may have become a device, or a folder
            _put(beside, place, overwrite)
            sync(place.parent)
        finally:
            beside.unlink(missing_ok=True)
            if fcntl is not None:
                os.close(held)


def _put(beside: Path, place: Path, overwrite: bool) -> None:
    """Gives a file its name; one that is there and may not be replaced stays."""
    if overwrite:
        os.replace(beside, place)
        return
    try:
        os.link(beside, place)
    except OSError as error:
        if error.errno not in _NO_LINKS or place.exists():
            raise
        os.replace(beside, place)  # a file system without links


@contextmanager
def writing(path: Path, beside: Path | None = None) -> Iterator[None]:
    """Names `path` in what goes wrong with a write within the block, as on a full disk.

    Args:
        path: The file or folder as it was given.
        beside: What stands for it until it is whole.

    Raises:
        ExperimentError: It cannot be written.
    """
    try:
        yield
    except SafetensorError as error:
        # It says what the system said in words of its own: 'IoError(Os { code: 28, ... })'.
        code = re.search(r"code: (\d+)", str(error))
        reason = os.strerror(int(code[1])) if code else " ".join(str(error).split())
        raise ExperimentError(f"{path} cannot be written: {reason}") from error
    except FileExistsError:
        raise
    except OSError as error:
        is_nameless = error.filename is None and (beside is not None or error.errno in _NAMELESS)
        if not is_nameless and (beside is None or str(error.filename) != str(beside)):
            raise
        raise ExperimentError(f"{path} cannot be written: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    if fcntl is None:  # a system that syncs only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some systems have no way to do that for folders
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what writers that are no longer there have left unfinished in a folder."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        match = _UNFINISHED.fullmatch(name)
        if match and not _is_alive(int(match[2])):
            with suppress(OSError):  # another's file, or swept by another
                descriptor = os.open(folder / name, os.O_RDWR)
                try:
                    _lock(descriptor)  # the number may be of a process of another container
                    (folder / name).unlink()
                finally:
                    os.close(descriptor)


def is_unfinished(path: Path, target: Path) -> bool:
    """Whether a file has the name of one that was to become `target`."""
    match = _UNFINISHED.fullmatch(path.name)
    return match is not None and match[1] == target.name


def _lock(descriptor: int) -> None:
    """Locks a file for this process; raises OSError where another has it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_json(path: Path, value: object) -> None:
    """Writes JSON beside `path` and renames it, so that it is never half a file."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_sealed(path: Path, value: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Writes a JSON object with a digest of itself, by which `read_json` knows damage."""
    value = json.loads(json.dumps(value))  # as it will be read, keys as texts
    text = json.dumps({**value, _DIGEST: _object_digest(value)}, indent=2)
    with replacing(path, overwrite=overwrite) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _object_digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Returns the object in a JSON file that a run wrote, without the digest of itself.

    Args:
        path: The file.
        sealed: Whether it must have a digest; one that it has must be right in any case.

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
            raise ExperimentError(f"{path} is damaged: it lacks the digest of itself")
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise ExperimentError(f"{path}: not JSON: it holds a number without end") from error
    elif value.pop(_DIGEST) != _object_digest(value):
        raise ExperimentError(f"{path} is damaged: it is not what was written there")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects in a JSONL file that a stage left.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with reading(path):
        # Not splitlines: an id may hold what else Python takes for the end of a line.
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
    with replacing(path) as beside:
        save_file(dict(tensors), beside)


def save_array(path: Path, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Writes an array to an .npy file.

    Raises:
        ExperimentError: It cannot be written.
    """
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, array, allow_pickle=False)


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
    """Yields a stage's file to be read; what damage raises becomes an ExperimentError."""
    damage = (SafetensorError, ValueError, EOFError, KeyError, TypeError, RecursionError)
    try:
        yield path
    except (FileNotFoundError, *damage) as error:
        raise ExperimentError(
            f"{path} is missing or damaged ({error}): remove the folder {path.parent}, and the "
            "command that began the run makes it again"
        ) from error
