"""Checkpoints of a training: a JSON file lists the checkpoint's files and their digests.

All files are first written to the folder `.part` in the training's folder, and to the disk. Then
the tensor files move to their places, under new names, and the JSON file replaces the old one by a
rename. Last, the tensor files of older checkpoints are deleted. So a training that is killed at any
moment leaves a complete checkpoint, the old one or the new one. The next save removes other files
that a killed one has left.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec.errors import ArtifactError
from genrec.reading import (
    check_types,
    file_digest,
    json_digest,
    read_json,
    read_tensors,
    refusing,
    unreadable,
)
from genrec.sharded_files import Shards
from genrec.storage import naming, sync_folder, write_json, write_tensors

FORMAT = 2
STATE_FILE = "checkpoint.json"
LOG_FILE = "log.jsonl"
_PART_FOLDER = ".part"
SHARDS_FOLDER = ".shards"
"""Where the processes write their shares of tensors before a checkpoint takes them."""
_TENSOR_FILE = re.compile(r"(last-\d+|best-\d+|final)\.safetensors")
_SHARD_FOLDER = re.compile(r"(last|best)-\d+\.\d+")
_SHARD_FILE = re.compile(_SHARD_FOLDER.pattern + r"/shard-[\w-]+\.safetensors")
_ENTRIES = {
    "config": dict[str, Any],
    "steps_per_epoch": int,
    "state": dict[str, Any],
    "files": dict[str, str],
}
_RECORD = {"epoch", "step", "losses"}  # keys that each line of a log has, among others
_RECORD_START = b'{"epoch": '


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor] | Shards | None],
    *,
    kept: Mapping[str, str],
    log_bytes: int,
) -> dict[str, str]:
    """Writes a checkpoint, which then replaces the current one.

    Args:
        folder: The folder; it already contains the log.
        state: Values for the JSON file, which keeps floats exactly.
        tensors: Contents of the tensor files by stem: `last-12`, `best-3` or `final`. None keeps
            the current checkpoint's file of that name. Shards are already written; they are
            moved to a new folder, such as `last-12.0`.
        kept: Digests of the current checkpoint's files, by name.
        log_bytes: Length of the log, in bytes, at this checkpoint.

    Returns:
        Digests of the files, by name; pass them as `kept` in the next call.

    Raises:
        OSError: The system reports an error, such as a full disk.
    """
    part = folder / _PART_FOLDER
    with naming(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            digests = {LOG_FILE: _log_digest(folder / LOG_FILE, log_bytes)}
            moves = []  # of shards, from where they were written
            for stem, content in tensors.items():
                name = f"{stem}.safetensors"
                if content is None:
                    digests |= {file: kept[file] for file in kept if _stem(file) == stem}
                elif isinstance(content, Shards):
                    place = _free_folder(folder, stem)
                    moves.append((content.folder, place))
                    for file in sorted(content.folder.iterdir()):
                        digests[f"{place.name}/{file.name}"] = file_digest(file)
                else:
                    write_tensors(part / name, content)
                    digests[name] = file_digest(part / name)
            about = {"format": FORMAT, **state, "files": digests}
            write_json(part / STATE_FILE, {**about, "digest": json_digest(about)})
            for name in [path.name for path in part.iterdir() if path.name != STATE_FILE]:
                os.replace(part / name, folder / name)
            for written, place in moves:
                sync_folder(written)
                os.rename(written, place)
            sync_folder(folder)
            os.replace(part / STATE_FILE, folder / STATE_FILE)
            sync_folder(folder)
        finally:
            sweep(folder)
        present = {name.partition("/")[0] for name in digests}
        for path in list(folder.iterdir()):
            if path.name in present:
                continue
            if _TENSOR_FILE.fullmatch(path.name):
                path.unlink()
            elif _SHARD_FOLDER.fullmatch(path.name):
                shutil.rmtree(path)
    return digests


def _stem(name: str) -> str:
    """Returns what tensors a file holds: `last-12` of `last-12.safetensors` or `last-12.0/...`."""
    return name.partition(".")[0]


def _free_folder(folder: Path, stem: str) -> Path:
    """Returns the first of `last-12.0`, `last-12.1` and so on that is not there."""
    names = (folder / f"{stem}.{number}" for number in itertools.count())
    return next(path for path in names if not path.exists())


def sweep(folder: Path) -> None:
    """Deletes the files that a killed save has left."""
    for name in (_PART_FOLDER, SHARDS_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


def load_checkpoint(
    folder: Path,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor] | Shards]] | None:
    """Reads a checkpoint of `save_checkpoint`: the state, and the tensors by the stem of the file.

    Shards are checked, and left for each process to read its share.

    Returns:
        State and tensors; None if there is no checkpoint.

    Raises:
        ArtifactError: The checkpoint is damaged, incomplete or of another format.
    """
    path = folder / STATE_FILE
    with anew(folder):
        try:
            about = read_json(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        version = about.get("format") if isinstance(about, dict) else None
        if type(version) is not int:
            raise ArtifactError(f"{path} is no checkpoint: it names no format")
        if version != FORMAT:
            raise ArtifactError(
                f"{path} has format {version}, this version of genrec reads format {FORMAT}"
            )
        if about.pop("digest", None) != json_digest(about):
            raise ArtifactError(f"{path} is damaged: its digest disagrees with the rest of it")
        _check_entries(path, about)
        tensors: dict[str, dict[str, Tensor] | Shards] = {}
        for name, digest in about["files"].items():
            if name == LOG_FILE:
                continue
            if file_digest(folder / name) != digest:
                raise ArtifactError(
                    f"{folder / name} is damaged or of another training: {STATE_FILE} disagrees"
                )
            place, _, file = name.partition("/")
            tensors[_stem(name)] = Shards(folder / place) if file else read_tensors(folder / name)
        _check_shards(folder, about["files"])
    return about, tensors


def _check_shards(folder: Path, names: Iterable[str]) -> None:
    """Refuses files beside a checkpoint's shards, which would be read with them."""
    for place in {name.partition("/")[0] for name in names if "/" in name}:
        strangers = {f"{place}/{path.name}" for path in (folder / place).iterdir()} - set(names)
        if strangers:
            raise ArtifactError(f"{folder / min(strangers)} is no file of the checkpoint")


@contextmanager
def anew(folder: Path) -> Iterator[None]:
    """Adds to the error of a checkpoint what the user can do about it."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{error}; to train anew, move {folder} away") from error


def resume_log(folder: Path, size: int | None, digest: str | None = None) -> list[dict[str, Any]]:
    """Reads the log up to its checkpoint, and cuts off the lines that were written later.

    Args:
        folder: The folder of the log; if it has no log, an empty one is made.
        size: Length of the log at the checkpoint, in bytes. None if there is no checkpoint: then
            the whole log is cut off. It is from a training that was killed before its first
            checkpoint, and its last line may be incomplete.
        digest: SHA-256 of these bytes; None without a checkpoint.

    Raises:
        ArtifactError: The log is damaged or no log of a training; it is not changed.
    """
    path = folder / LOG_FILE
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise unreadable(path, error) from error
    if size is not None and len(content) < size:
        raise ArtifactError(
            f"{path} is damaged: it has {len(content)} bytes, {STATE_FILE} was saved at {size}"
        )
    if size is None:
        content = _without_torn_line(content)
    elif hashlib.sha256(content[:size]).hexdigest() != digest:
        raise ArtifactError(f"{path} is damaged or of another training: {STATE_FILE} disagrees")
    try:
        records = [json.loads(line) for line in content[:size].splitlines()]
        is_ours = all(record.keys() >= _RECORD for record in records)
    except (ValueError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise ArtifactError(f"{path} is damaged or not the log of a training: move it away")
    with naming(path), path.open("ab") as file:
        file.truncate(size or 0)
    return records if size else []


def _check_entries(path: Path, about: Mapping[str, Any]) -> None:
    """Checks that a checkpoint is complete and lists only files of a checkpoint.

    Raises:
        ArtifactError: It is damaged.
    """
    wrong = [name for name in _ENTRIES if name not in about]
    if wrong:
        raise ArtifactError(f"{path} is damaged: it lacks {', '.join(wrong)}")
    with refusing(f"{path} is damaged"):
        check_types(about, _ENTRIES)
        for name in about["files"]:
            is_known = _TENSOR_FILE.fullmatch(name) or _SHARD_FILE.fullmatch(name)
            if name != LOG_FILE and not is_known:
                raise ValueError(f"files must be those of a checkpoint, got {name!r}")
        if LOG_FILE not in about["files"]:
            raise ValueError(f"files must have {LOG_FILE}")


def _log_digest(path: Path, size: int) -> str:
    """Writes the log through to the disk; returns the SHA-256 of its first `size` bytes."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.sha256(file.read(size)).hexdigest()


def _without_torn_line(content: bytes) -> bytes:
    """Returns a log without its last line, if this is an incomplete line of a log."""
    whole, _, last = content.rpartition(b"\n")
    is_ours = last.startswith(_RECORD_START) or _RECORD_START.startswith(last)
    return whole if is_ours else content


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the state of an optimizer such as Adam as tensors: `optimizer.<index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Loads the tensors of `optimizer_tensors`; other tensors are ignored.

    Raises:
        ValueError: The tensors are of another optimizer, or of other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entries in state.items():
        shape = parameters[number].shape
        for key, tensor in entries.items():
            if tensor.ndim and tensor.shape != shape:
                raise ValueError(
                    f"optimizer.{number}.{key} must have shape {tuple(shape)}, got "
                    f"{tuple(tensor.shape)}"
                )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
