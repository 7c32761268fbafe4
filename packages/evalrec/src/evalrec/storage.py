"""Files and folders that are written beside their place and put there in one step.

Unfinished data are in `.NAME.TOKEN.evalrec-part`, which its writer locks as long as it lives. Later
writers in the same folder delete such data if nobody holds the lock. A folder that is replaced is
exchanged with the new one in one step where the system can do that. Elsewhere it is
`.NAME.TOKEN.evalrec-old` for a moment, from which `recover_folder` restores it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # a system without locks: nothing is locked there, and nothing is deleted
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import polars as pl

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}\.evalrec-(part|old)", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOT_ABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# Errors of a write whose path the system does not name.
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPIPE)


@contextmanager
def replacing_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields an empty file to fill; it takes the place of `path` once the block succeeds.

    An older file stays until then, and the content is on the disk before it has the name. The
    block may also replace the empty file, as safetensors does; the mode follows the umask in any
    case. A link stays, and its target is replaced. A device or a pipe is never replaced: it is
    yielded itself, and written to.

    Args:
        path: The file.
        overwrite: Whether a file that exists when the block ends may be replaced.

    Raises:
        FileExistsError: If it exists and may not be replaced.
        OSError: If it cannot be written; the message names the path as the caller wrote it.
    """
    place = Path(os.path.realpath(path))
    with _naming(path, place):
        if _is_stream(path):
            yield path
            return
        check_writable(path)
        _sweep(place.parent)
        # In a folder of its own, which stays locked whatever happens to the file in it.
        folder, lock = _create(place)
        try:
            beside = folder / "content"
            beside.touch()
            mode = beside.stat().st_mode
            yield beside
            if beside.stat().st_mode != mode:
                beside.chmod(stat.S_IMODE(mode))
            sync(beside)
            check_writable(path)  # again: it may have become a device, or a folder
            if overwrite:
                beside.replace(place)
            else:
                _link(beside, place)
            sync(place.parent)
        finally:  # an interrupted write leaves nothing behind either
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill; it takes the place of `folder` once the block succeeds.

    An older folder stays until then. A link stays, and its target is replaced. Missing folders
    above it are made.

    Raises:
        OSError: If it cannot be written; the message names the folder as the caller wrote it.
    """
    check_writable(folder, parents=True)
    place = Path(os.path.realpath(folder))
    with _naming(folder, place):
        place.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(folder)
        _sweep(place.parent)
        beside, lock = _create(place)
        try:
            yield beside
            for path in sorted(beside.rglob("*")):
                sync(path)
            sync(beside)
            _put(beside, place)
            sync(place.parent)
        finally:  # an interrupted write leaves nothing behind either
            shutil.rmtree(beside, ignore_errors=True)
            os.close(lock)


def recover_folder(folder: Path) -> None:
    """Restores a folder whose replacement was killed between two renames.

    Only systems that cannot exchange two folders in one step leave one like that.
    """
    place = Path(os.path.realpath(folder))
    if fcntl is None or place.exists() or not place.parent.is_dir():
        return
    for path in sorted(place.parent.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        if match and match.groups() == (place.name, "old") and (lock := _lock(path)) is not None:
            with suppress(OSError):  # another process has restored it
                path.rename(place)
            os.close(lock)


def check_writable(path: Path, *, parents: bool = False) -> None:
    """Refuses a target that cannot be written, before the work whose result goes there.

    Args:
        path: The file to make or replace, or the pipe or device to write to.
        parents: Whether it is a folder to make or replace, whose missing parent folders will be
            made.

    Raises:
        OSError: It names the path as the caller wrote it, and what is wrong with it.
    """
    place = Path(os.path.realpath(path))
    if parents and place.exists() and not place.is_dir():
        raise NotADirectoryError(f"{path} is {_kind(path)}, not a folder")
    if not parents and place.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if place.exists() and not (place.is_file() or place.is_dir() or _is_stream(path)):
        raise OSError(f"{path} is {_kind(path)}, so nothing is written there")
    if _is_stream(path):
        return
    parent = place.parent
    while parents and not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.exists():
        raise FileNotFoundError(f"{path}: the folder {Path(path).parent} is missing")
    if not parent.is_dir():
        raise NotADirectoryError(f"{path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: no permission to write in {parent}")


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk.

    If the system cannot confirm this, the call does not wait.

    Raises:
        OSError: If they cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_ABLE:
            raise
    finally:
        os.close(descriptor)


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


def _kind(path: Path) -> str:
    if path.is_file():
        return "a file"
    return "a pipe or a device of characters" if _is_stream(path) else "a socket or a device"


def _is_stream(path: Path) -> bool:
    """Whether a path is a device of characters, such as /dev/null, or a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


@contextmanager
def _naming(path: Path, place: Path) -> Iterator[None]:
    """Makes errors of a write name the requested path, not the temporary one."""
    beside = os.path.join(place.parent, f".{place.name}.")
    try:
        yield
    except OSError as error:
        is_ours = isinstance(error.filename, str) and error.filename.startswith(beside)
        if is_ours or (error.filename is None and error.errno in _NAMELESS):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _create(place: Path) -> tuple[Path, int]:
    """A new folder beside a place, and the descriptor that locks it."""
    while True:
        beside = place.with_name(f".{place.name}.{secrets.token_hex(8)}.evalrec-part")
        beside.mkdir()
        lock = os.open(beside, os.O_RDONLY)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # deleted before it was locked: make another
            if os.path.samestat(os.fstat(lock), beside.stat()):
                return beside, lock
        os.close(lock)


def _lock(path: Path) -> int | None:
    """The descriptor that locks leftovers of a writer; None while the writer lives."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _sweep(folder: Path) -> None:
    """Deletes leftovers of killed writers in a folder, except what `recover_folder` may need."""
    if fcntl is None:
        return
    for path in folder.iterdir():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (match[2] == "old" and not path.with_name(match[1]).exists()):
            continue
        if (lock := _lock(path)) is not None:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            os.close(lock)


def _link(beside: Path, place: Path) -> None:
    """Gives a new file its name, unless there is another file with that name."""
    try:
        os.link(beside, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if place.exists():
            number = errno.EEXIST
            raise FileExistsError(number, os.strerror(number), str(beside)) from error
        beside.replace(place)  # a file system without links


def _put(beside: Path, place: Path) -> None:
    """Puts a new folder in its place; an older one is deleted, or left for the next clean-up."""
    if _renamed(beside, place):
        return
    if not place.is_dir():  # it was a folder when the writing began
        raise NotADirectoryError(f"{place} is {_kind(place)}, so it is not replaced")
    if not _exchange(beside, place):
        old = beside.with_name(beside.name.removesuffix("-part") + "-old")
        lock = os.open(place, os.O_RDONLY)
        try:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            place.rename(old)
            try:
                beside.rename(place)
            except BaseException:
                old.rename(place)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            os.close(lock)


def _renamed(new: Path, place: Path) -> bool:
    """Renames a folder to a place that is free.

    Returns:
        False if the place is taken, perhaps by another writer a moment ago.
    """
    if place.exists():
        return False
    try:
        os.rename(new, place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges the names of two folders in one step; False if the system cannot.

    Raises:
        OSError: If it can, but not these two.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_ABLE:
        return False
    raise OSError(number, os.strerror(number), str(second))
