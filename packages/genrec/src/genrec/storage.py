"""Writing to disk so that a kill, a full disk or a power cut leaves the old or the new.

What is written goes into a working folder beside its place, `.NAME.xxxxxxxx.part`, reaches the
disk (fsync) and only then takes its place, in one step: a file by a rename; a folder by an
exchange with the one that is there, where the system has that (`renameat2` of Linux), else by two
renames, and `recover` completes them if a kill came between. The program that fills a working
folder holds a lock in it, which the system lets go of when the program ends, however it ends. So
whoever writes to the same place next can tell what is left over, and sweeps it.

Windows has no such locks here: there nothing is swept, and nothing kept from others.
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

_LOCK, _NEW, _OLD = "lock", "new", "old"  # what a working folder holds
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Tells what the system refuses within the block, as a full disk, with the path as it is here.

    Raises:
        OSError: The system refused something, and its number is known.
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
        if error.errno is None:  # a sentence of this package
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file through to the disk, with the permissions that the umask gives.

    Tensors are brought to the CPU; those that share memory, as tied weights, are written each.
    """
    path.touch()
    mode = path.stat().st_mode  # safetensors puts a private file in its place
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
    """Brings the names that a folder holds to the disk."""
    if sys.platform != "win32":  # Windows opens no folder
        _sync(folder)


def put_file(work: Path, path: Path) -> None:
    """Lets the file `new` of a working folder take the place of `path`."""
    os.replace(work / _NEW, path)
    sync_folder(path.parent)


def put_folder(work: Path, folder: Path) -> None:
    """Lets the folder `new` of a working folder take the place of `folder`, whole or not at all."""
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
    """Renames a folder to where there is none.

    Returns:
        False where there is one, which another writer may have put there a moment ago.
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
        False where system or file system cannot: nothing has changed then.
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
    """Yields a new folder beside `path`, gone afterwards, in which to make `new`.

    What programs that are no more have left over beside `path` is swept first.
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
    """Completes what a kill between the two renames of `put_folder` left, if there is such."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for work in _abandoned(folder):
        if (work / _OLD).is_dir() and (work / _NEW).is_dir():
            os.rename(work / _NEW, folder)  # whole: it was on the disk before the first rename
            sync_folder(folder.parent)
            shutil.rmtree(work, ignore_errors=True)
            return


@contextmanager
def alone_with(folder: Path, what: str) -> Iterator[None]:
    """Keeps a folder from other programs and threads that ask for it alone, within the block.

    A lock that a killed program left does not count.

    Args:
        folder: An existing folder; the file `.lock` lies in it as long as the block runs.
        what: Who may have it, for the refusal: "training".

    Raises:
        BlockingIOError: Another one has it.
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
    """Makes a working folder; returns it with the lock in it, held."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        # Before it is locked, somebody who sweeps may come upon it: then there is another one.
        with suppress(FileNotFoundError):
            lock = _hold(work / _LOCK)
            if lock is not None:
                return work, lock


def _abandoned(path: Path) -> Iterator[Path]:
    """Yields the working folders beside `path` whose program is no more, each one locked."""
    if sys.platform == "win32":
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    for work in [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]:
        try:
            if work.is_symlink() or not {_LOCK, _NEW, _OLD}.issuperset(os.listdir(work)):
                continue  # not one of these
            lock = _hold(work / _LOCK, needed=True)
        except OSError:  # just gone, or another user's, or where there are no locks
            continue
        if lock is not None:
            try:
                yield work
            finally:
                os.close(lock)


def _hold(path: Path, *, needed: bool = False) -> int | None:
    """Makes a lock file and locks it; returns it opened, or None where another one has it.

    Args:
        path: The file.
        needed: Whether a file system without locks is an error; else nothing is kept from others
            there.

    Raises:
        FileNotFoundError: Its folder is not there.
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
        except FileNotFoundError:  # whoever had it has just removed it
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
    """Returns contiguous tensors on the CPU; those that share memory, as tied weights, are copied.

    A safetensors file holds each tensor by itself and refuses two that share memory.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result
