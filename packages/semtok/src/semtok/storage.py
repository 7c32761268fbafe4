"""Files and folders that are written beside the target and put into place in one step; locks.

Unfinished data are in a scratch folder beside the target, `.NAME.TOKEN.semtok-part`, or `-work`
for arrays that are too large for memory. The owner of the folder locks the file `lock` in it. The
system releases the lock when the process ends, in whatever way. A later command may remove scratch
folders that have no owner any more.
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
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # from linux/fs.h
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_LOCK_TRIES = 5  # a process that cleans up holds a lock for a moment


@contextmanager
def replacing_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a path beside `path` to write to; puts it into place once the block succeeds.

    A link is followed: its target is replaced.

    Args:
        path: The target.
        durable: Whether the file must survive a power cut: it is then synced before it is renamed.

    Raises:
        FileExistsError: If `path` exists and is not a regular file, but a device or a pipe.
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
    Elsewhere it is renamed first; if a run is killed at that moment, `recover` restores it.

    Raises:
        FileExistsError: If `folder` exists and `overwrite` is not set.
    """
    recover(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder}: exists already")
    target = folder.resolve()  # a link stays, and its target is replaced
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


@contextmanager
def scratch(path: Path, *, part: bool = False) -> Iterator[Path]:
    """A folder of this process alone beside `path`; it is removed at the end.

    Args:
        path: The target that the folder is for; need not exist.
        part: Whether the folder will become `path`, rather than hold temporary data.
    """
    while True:
        kind = _PART if part else _WORK
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            # Another process may remove it before it is locked: then the next name is tried.
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
    """Raises OSError if there is no room for `size` bytes: a memory map would kill the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None


def sweep(folder: Path) -> None:
    """Removes what killed runs have left in a folder, and restores what they were replacing.

    Scratch folders whose owner is alive are not touched.
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
    """Restores a folder that a killed run was replacing, and removes its other leftovers.

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
        return  # no such folder, or not readable: the code that opens the target reports this
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
    """Locks a folder against other programs that call this, as long as the block runs.

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
    """Refuses to write to a path that exists and is not a regular file.

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
    """Refuses a target whose folder is missing or not writable.

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
    """The path, or its target if it is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()


@contextmanager
def _naming(path: Path, folder: Path) -> Iterator[None]:
    """Makes errors in a scratch folder name the file that it is for."""
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        if name.startswith(str(folder)) or (not name and error.errno in _FULL):
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


def _locked(path: Path) -> int | None:
    """Makes and locks a file; returns the descriptor, or None if another process has the lock."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed it in between.
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
    """Removes a scratch folder without owner; restores its old content if the target is missing."""
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
    except OSError:  # a process of another user
        return True
    return True


def _is_scratch(path: Path) -> bool:
    """Whether a path is in a scratch folder: it is synced with that, or needs no syncing."""
    return any(_SCRATCH.fullmatch(parent.name) for parent in path.parents)


def _exchange(new: Path, target: Path) -> bool:
    """Exchanges two folders in one step; False if the system or the file system cannot."""
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
