"""Files and folders written beside and renamed; parts as JSON and safetensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from semtok.catalog import CatalogError

FORMAT = 1
"""The format of every config.json that this version writes, and the newest that it reads."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; renames it to `path` once the block succeeds."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a new folder beside `folder` to fill; renames it to `folder` once the block succeeds.

    Raises:
        FileExistsError: If `folder` exists and `overwrite` is not set.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder}: exists already")
    folder = folder.resolve()  # a link stays, and what it leads to is replaced
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if folder.exists():
            os.rename(folder, old)
            try:
                os.rename(beside, folder)
            except BaseException:
                os.rename(old, folder)
                raise
            shutil.rmtree(old)
        else:
            os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def alone_with(folder: Path) -> Iterator[None]:
    """Keeps a folder from other programs that ask for it alone, as long as the block runs.

    Raises:
        BlockingIOError: If another program has it.
    """
    place = folder.resolve()
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{folder}: another run changes it: try again after that") from None
    try:
        yield
    finally:
        lock.release()


def write_part(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes `folder`/config.json, with the format's version, and `folder`/tensors.safetensors.

    Raises:
        FileExistsError: If the folder exists already.
    """
    with replacing_folder(Path(folder)) as beside:
        write_config(beside, config)
        if tensors:
            arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
            save_file(arrays, beside / "tensors.safetensors")
            # safetensors makes its files private; the others follow the user's umask.
            (beside / "tensors.safetensors").chmod((beside / "config.json").stat().st_mode)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes `folder`/config.json, with the format's version, into an existing folder."""
    text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def read_part(
    folder: str | Path, kind: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `write_part` wrote.

    Args:
        folder: The part's folder.
        kind: What config["kind"] must be; None takes any.

    Returns:
        The configuration, and the tensors ({} if there are none).

    Raises:
        CatalogError: If the folder is absent, corrupt, of another kind or of a newer format.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CatalogError(f"{folder}: no config.json there, so not a semtok folder") from None
    except ValueError:
        raise CatalogError(f"{path}: malformed JSON") from None
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CatalogError(f"{path}: names no format, so it is not semtok's")
    if config["format"] > FORMAT:
        raise CatalogError(
            f"{path}: has format {config['format']}, this semtok reads up to {FORMAT}: upgrade it"
        )
    if kind is not None and config.get("kind") != kind:
        raise CatalogError(f"{path}: kind must be {kind!r}, got {config.get('kind')!r}")
    tensors: dict[str, np.ndarray] = {}
    weights = folder / "tensors.safetensors"
    if weights.exists():
        tensors = read_tensors(weights)
    return config, tensors


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        CatalogError: If it is corrupt, or holds a type that numpy lacks.
    """
    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{path}: not a readable safetensors file ({error})") from None


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a safetensors file: nothing is read before it is used.

    bfloat16, which numpy lacks, is read into float32.

    Raises:
        CatalogError: If the file is corrupt, or holds a type that numpy lacks.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the header against the file's size
            pass
        with path.open("rb") as file:
            start = 8 + (length := int.from_bytes(file.read(8), "little"))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {}
        for name, about in header.items():
            is_bf16 = about["dtype"] == "BF16"
            array: np.ndarray = np.empty(about["shape"], _DTYPES[about["dtype"]])
            if array.size:
                offset = start + about["data_offsets"][0]
                array = np.memmap(path, array.dtype, "r", offset, array.shape)
            # bfloat16 is the upper half of a float32.
            tensors[name] = (array.astype("<u4") << 16).view("<f4") if is_bf16 else array
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{path}: not a readable safetensors file ({error})") from None
    return tensors


_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


@contextmanager
def refusing(folder: str | Path) -> Iterator[None]:
    """Turns what goes wrong while a part is rebuilt from its files into a CatalogError."""
    try:
        yield
    except CatalogError:
        raise
    except KeyError as error:
        raise CatalogError(f"{folder}: corrupt, {error} is missing") from None
    except (ValueError, TypeError, IndexError) as error:
        raise CatalogError(f"{folder}: corrupt ({error})") from None
