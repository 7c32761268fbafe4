"""Files and folders written beside, synced and put into place in one step; locks; leftovers.

What is unfinished lies in a scratch folder beside its target, `.NAME.TOKEN.semtok-part`, or
`-work` for what is too large for memory. Its owner holds a lock on the file `lock` in it, which
the system lets go of when the process ends, however it ends: a later command may sweep what has no
owner any more.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART, _WORK, _LOCK = "semtok-part", "semtok-work", "semtok-lock"
_SCRATCH = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{8}}\.({_PART}|{_WORK})", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fs.h
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_LOCK_TRIES = 5  # a sweeping process holds a lock for a moment


@contextmanager
def replacing_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a path beside `path` to write to; puts it into place once the block succeeds.

    A link is followed: what it leads to is replaced.

    Args:
        path: The target.
        durable: Whether the file is to outlive a power cut: it is synced before it is in place.

    Raises:
        FileExistsError: If `path` is there and no regular file, such as a device or a pipe.
    """
    target = _followed(path)
    check_regular(path)
    with scratch(target, part=True) as folder, _naming(path, folder):
        beside = folder / target.name
        yield beside
        if durable and not _is_scratch(target):
            _sync(beside)
        os.replace(beside, target)
        if durable and not _is_scratch(target):
            _sync_folder(target.parent)


@contextmanager
def replacing_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a new folder beside `folder` to fill; puts it into place once the block succeeds.

    An older folder is exchanged for the new one in one step where the system can do that (Linux).
    Elsewhere it is renamed first; a run that is killed just then is made good by `recover`.

    Raises:
        FileExistsError: If `folder` exists and `overwrite` is not set.
    """
    recover(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder}: exists already")
    target = folder.resolve()  # a link stays, and what it leads to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target, part=True) as beside, _naming(folder, beside):
        new, old = beside / "new", beside / "old"
        new.mkdir()
        yield new
        if not _is_scratch(target):
            _sync_tree(new)
        is_first = _renamed(new, target)
        if not is_first and not overwrite:
            raise FileExistsError(f"{folder}: exists already")
        if not is_first and not _exchange(new, target):
            os.rename(target, old)
            try:
                os.rename(new, target)
            except BaseException:
                os.rename(old, target)
                raise
        if not _is_scratch(target):
            _sync_folder(target.parent)


def _renamed(new: Path, place: Path) -> bool:
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


@contextmanager
def scratch(path: Path, *, part: bool = False) -> Iterator[Path]:
    """A folder of this process alone beside `path`, gone in the end.

    Args:
        path: What it is for; need not exist.
        part: Whether it holds what is to become `path`, rather than what is only needed meanwhile.
    """
    while True:
        kind = _PART if part else _WORK
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            # Another process may sweep it before it is locked: then the next name is taken.
            with suppress(FileNotFoundError):
                lock = _locked(folder / "lock")
                if lock is not None:
                    break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def reserve(path: Path, size: int) -> None:
    """Raises OSError if a file of `size` bytes finds no room, which a memory map would die of."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None


def sweep(folder: Path) -> None:
    """Removes what killed runs have left in a folder, and puts back what they were replacing.

    Nothing is touched whose owner is alive.
    """
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            match = _SCRATCH.fullmatch(path.name)
            if match is not None:
                _sweep_scratch(path, folder / match["name"])
            elif path.name.endswith(f".{_LOCK}"):
                with suppress(OSError):
                    _release(path, _locked(path))


def recover(path: Path) -> None:
    """Puts back a folder that a killed run was replacing, and sweeps what else it has left of it.

    Versions before the scratch folders left `.NAME.PID.old`, `.part` and `.work`.
    """
    target = _followed(path)
    name = re.escape(target.name)
    earlier = re.compile(rf"\.{name}\.(\d+)\.(old|part|work)")
    try:
        leftovers = [
            entry
            for entry in target.parent.iterdir()
            if (match := _SCRATCH.fullmatch(entry.name)) and match["name"] == target.name
        ]
        dead = [
            entry
            for entry in target.parent.iterdir()
            if (match := earlier.fullmatch(entry.name)) and not _is_alive(int(match[1]))
        ]
    except OSError:
        return  # no such folder, or not to be listed: whoever opens the target says so
    for entry in leftovers:
        _sweep_scratch(entry, target)
    with suppress(OSError):
        for entry in sorted(dead, key=lambda entry: entry.stat().st_mtime, reverse=True):
            if entry.suffix == ".old" and not target.exists():
                os.rename(entry, target)
            else:
                _remove(entry)


@contextmanager
def alone_with(folder: Path) -> Iterator[None]:
    """Keeps a folder from other programs that ask for it alone, as long as the block runs.

    Raises:
        BlockingIOError: If another program has it.
    """
    place = folder.resolve()
    path = place.with_name(f".{place.name}.{_LOCK}")
    for trial in range(_LOCK_TRIES):
        lock = _locked(path)
        if lock is not None:
            break
        time.sleep(0.02 * trial)
    else:
        raise BlockingIOError(f"{folder}: another run changes it: try again after that")
    try:
        yield
    finally:
        _release(path, lock)


def check_regular(path: Path) -> None:
    """Refuses to write to what is there and is no regular file.

    Raises:
        FileExistsError: If it is a device, a pipe, a socket or a folder.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise FileExistsError(f"{path}: is {what}, so nothing is written there")


def check_parent(path: Path) -> None:
    """Refuses a target whose folder is missing or not to be written to.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
        PermissionError: If this user may not write there.
    """
    parent = _followed(path).parent
    if not parent.exists():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if not parent.is_dir():
        raise NotADirectoryError(f"{path.parent}: is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.parent}: no permission to write there")


def _followed(path: Path) -> Path:
    """The path, or what it leads to if it is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()


@contextmanager
def _naming(path: Path, folder: Path) -> Iterator[None]:
    """Has errors of what is written into a scratch folder name the file that it is for."""
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        if name.startswith(str(folder)) or (not name and error.errno in _FULL):
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


def _locked(path: Path) -> int | None:
    """Makes and locks a file; the descriptor, or None if another process has it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been removed by its last owner in between.
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                return lock
            os.close(lock)
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            os.close(lock)
        except OSError:
            os.close(lock)
            raise


def _release(path: Path, lock: int | None) -> None:
    if lock is not None:
        path.unlink(missing_ok=True)
        os.close(lock)


def _sweep_scratch(folder: Path, target: Path) -> None:
    """Removes a scratch folder whose owner is gone, its old content put back if nothing else is."""
    with suppress(OSError):
        lock = _locked(folder / "lock")
        if lock is None:
            return
        try:
            if (folder / "old").exists() and not target.exists():
                os.rename(folder / "old", target)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _is_scratch(path: Path) -> bool:
    """Whether a path lies in a scratch folder: it is synced with that, or needs no syncing."""
    return any(_SCRATCH.fullmatch(parent.name) for parent in path.parents)


def _exchange(new: Path, target: Path) -> bool:
    """Exchanges two folders in one step; False where the system, or the file system, cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(new), os.fsencode(target)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(target))


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync_folder(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not all file systems can sync a folder
        _sync(folder)
