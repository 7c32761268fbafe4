"""Writing to disk so that a kill, a full disk or a power cut leaves either the old or the new.

A new file or folder is first written to a working folder beside its place, `.NAME.xxxxxxxx.part`,
and to the disk (fsync). Only then it takes its place in one step: a file by a rename; a folder by
an exchange with the old one, if the system supports it (`renameat2` of Linux). Otherwise a folder
needs two renames, and `recover` completes them after a kill between the two. The program that fills
a working folder holds a lock in it, which the system releases when the program ends, even by a
kill. So the next program that writes to the same place knows which working folders are left over,
and removes them.

On Windows these locks do not exist: nothing is removed, and folders are not locked.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

if sys.platform != "win32":
    import fcntl

_LOCK, _NEW, _OLD = "lock", "new", "old"  # the entries of a working folder
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Raises errors of the system within the block, such as a full disk, again with this path.

    Raises:
        OSError: The system reported an error with a number.
    """
    try:
        yield
    except SafetensorError as error:  # holds the system's error as text
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
    except OSError as error:
        if error.errno is None:  # raised by this package, with its own sentence
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file through to the disk, with the permissions of the umask.

    Tensors are moved to the CPU. Tensors that share memory, such as tied weights, are each written.
    """
    path.touch()
    mode = path.stat().st_mode  # safetensors replaces it by a file with private permissions
    save_file(_unshared(tensors), path)
    path.chmod(mode)
    _sync(path)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file through to the disk."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Writes the names of a folder's entries through to the disk."""
    if sys.platform != "win32":  # Windows cannot open a folder
        _sync(folder)


def put_file(work: Path, path: Path) -> None:
    """Replaces `path` by the file `new` of a working folder."""
    os.replace(work / _NEW, path)
    sync_folder(path.parent)


def put_folder(work: Path, folder: Path) -> None:
    """Replaces `folder` by the folder `new` of a working folder, completely or not at all."""
    new, old = work / _NEW, work / _OLD
    sync_folder(new)
    if not renamed(new, folder) and not exchange(new, folder):
        sync_folder(work)
        os.rename(folder, old)
        try:
            os.rename(new, folder)
        except BaseException:
            os.rename(old, folder)
            raise
    sync_folder(folder.parent)


def renamed(new: Path, place: Path) -> bool:
    """Renames a folder, unless the new name exists.

    Returns:
        False if it exists; another writer may have made it a moment ago.
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


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two paths in one step.

    Returns:
        False if the system or the file system cannot do this; then nothing has changed.
    """
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(second))


@contextmanager
def working_beside(path: Path) -> Iterator[Path]:
    """Yields a new working folder beside `path`, in which to make `new`, and removes it afterwards.

    Before this, it removes the working folders that ended programs have left beside `path`.
    """
    recover(path)
    for work in _abandoned(path):
        shutil.rmtree(work, ignore_errors=True)
    work, lock = _start(path)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def recover(folder: Path) -> None:
    """Completes `put_folder` after a kill between its two renames, if there was one."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for work in _abandoned(folder):
        if (work / _OLD).is_dir() and (work / _NEW).is_dir():
            os.rename(work / _NEW, folder)  # complete: it was on the disk before the first rename
            sync_folder(folder.parent)
            shutil.rmtree(work, ignore_errors=True)
            return


@contextmanager
def alone_with(folder: Path, what: str) -> Iterator[None]:
    """Locks a folder within the block: no other program or thread can lock it too.

    A lock file that a killed program left is ignored.

    Args:
        folder: An existing folder; it contains the file `.lock` while the block runs.
        what: The kind of program that locks it, for the error message: "training".

    Raises:
        BlockingIOError: The folder is already locked.
    """
    path = folder / ".lock"
    lock = _hold(path)
    if lock is None:
        raise BlockingIOError(
            f"{folder} is in use by another {what}: wait until it has ended, or name another folder"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _start(path: Path) -> tuple[Path, int]:
    """Makes a working folder and locks it; returns both."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        # Another program may remove the folder before it is locked: then the loop makes a new one.
        with suppress(FileNotFoundError):
            lock = _hold(work / _LOCK)
            if lock is not None:
                return work, lock


def _abandoned(path: Path) -> Iterator[Path]:
    """Yields the working folders beside `path` whose program has ended; each is locked."""
    if sys.platform == "win32":
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    for work in [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]:
        try:
            if work.is_symlink() or not {_LOCK, _NEW, _OLD}.issuperset(os.listdir(work)):
                continue  # not a working folder
            lock = _hold(work / _LOCK, needed=True)
        except OSError:  # just removed, or another user's, or a file system without locks
            continue
        if lock is not None:
            try:
                yield work
            finally:
                os.close(lock)


def _hold(path: Path, *, needed: bool = False) -> int | None:
    """Makes a lock file and locks it; returns its descriptor, or None if another program has it.

    Args:
        path: The file.
        needed: Whether a file system without locks is an error; otherwise the file stays unlocked
            there.

    Raises:
        FileNotFoundError: The file's folder does not exist.
    """
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:  # the program that held the lock has just removed the file
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS and not needed:
                return lock
            os.close(lock)
            raise
        os.close(lock)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous tensors on the CPU; tensors that share memory are copied (tied weights).

    A safetensors file stores each tensor separately and refuses two that share memory.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result
