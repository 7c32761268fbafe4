"""Parts of an artifact: a folder of config.json, tensors and vectors, with their digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from semtok.catalog import CatalogError
from semtok.rows import unique_keys
from semtok.storage import replacing_folder

FORMAT = 2
"""The format of every config.json that this version writes, and the newest one that it reads.

Since format 2, a config.json holds its own digest and the digests of the files beside it.
"""

_MOST_SHOWN = 60  # characters of a wrong value


@contextmanager
def writing_part(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
    every_file: bool = False,
) -> Iterator[Path]:
    """Yields a folder to fill with files and parts; adds config.json, and puts it into place.

    Args:
        folder: The target.
        config: The content of config.json, as JSON; the format and the digests are added.
        overwrite: Whether an existing folder may be replaced.
        every_file: Whether the files of inner folders are listed with their digests even if an
            inner folder has a config.json, which may not be semtok's.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set.
    """
    with replacing_folder(Path(folder), overwrite=overwrite) as beside:
        yield beside
        said = {"format": FORMAT, **config, "files": _digests(beside, every_file)}
        # As a reader gets it: tuples become lists.
        said = json.loads(json.dumps(said, allow_nan=False))
        said["digest"] = _config_digest(said)
        text = json.dumps(said, indent=2, ensure_ascii=False)
        (beside / "config.json").write_bytes(text.encode(errors="surrogatepass") + b"\n")


def write_part(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes a part of config.json and, if there are tensors, tensors.safetensors.

    Raises:
        FileExistsError: If the folder exists already.
    """
    with writing_part(folder, config) as beside:
        if tensors:
            write_tensors(beside / "tensors.safetensors", tensors)


def read_part(
    folder: str | Path, kind: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `write_part` wrote, after checking each file against its digest.

    A part of format 1 has no digests and is not checked.

    Args:
        folder: The part's folder.
        kind: What config["kind"] must be; None takes any.

    Returns:
        The configuration, and the tensors ({} if there are none).

    Raises:
        CatalogError: If the folder is absent, damaged, of another kind or of a newer format.
    """
    folder = Path(folder)
    config = read_config(folder, kind)
    weights = folder / "tensors.safetensors"
    if "files" in config:
        _check_files(folder, config["files"])
        present = weights.name in config["files"]
    else:
        present = weights.exists()
    return config, read_tensors(weights) if present else {}


def read_config(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Reads a part's config.json alone, checking it against its own digest.

    Raises:
        CatalogError: For the same reasons as `read_part`.
    """
    path = folder / "config.json"
    try:
        config: Any = json.loads(
            path.read_bytes(),
            object_pairs_hook=unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise CatalogError(f"{folder}: no config.json there, so not a semtok folder") from None
    except (ValueError, RecursionError):
        raise CatalogError(f"{path}: malformed JSON") from None
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise CatalogError(f"{path}: names no format, so it is not semtok's")
    if version > FORMAT:
        raise CatalogError(
            f"{path}: has format {_shown(version)}, this semtok reads up to {FORMAT}: upgrade it"
        )
    if (version > 1 or "digest" in config) and config.get("digest") != _config_digest(config):
        raise CatalogError(
            f"{path}: damaged, its digest differs from its content; after a change by hand, "
            'remove "digest" and "files", and set "format": 1'
        )
    if version > 1 and not isinstance(config.get("files"), dict):
        raise CatalogError(f"{path}: damaged, names no files")
    if kind is not None and config.get("kind") != kind:
        raise CatalogError(f"{path}: kind must be {kind!r}, got {_shown(config.get('kind'))}")
    said: dict[str, Any] = config
    return said


@contextmanager
def refusing(folder: str | Path) -> Iterator[None]:
    """Turns errors while a part is rebuilt from its files into a CatalogError."""
    try:
        yield
    except CatalogError:
        raise
    except KeyError as error:
        raise CatalogError(f"{folder}: corrupt, {error} is missing") from None
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise CatalogError(f"{folder}: corrupt ({error})") from None


def whole(config: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """A whole number of a configuration.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is not a whole number, or out of its bounds.
    """
    return _whole(name, config[name], least, most)


def wholes(config: Mapping[str, Any], name: str, least: int, most: int) -> tuple[int, ...]:
    """A list of whole numbers, refused as `whole` does."""
    return tuple(_whole(name, value, least, most) for value in _listed(name, config[name]))


def number(config: Mapping[str, Any], name: str, least: float, most: float) -> float:
    """A number of a configuration, refused as `whole` does."""
    return _number(name, config[name], least, most)


def numbers(config: Mapping[str, Any], name: str, least: float, most: float) -> tuple[float, ...]:
    """A list of numbers, refused as `whole` does."""
    return tuple(_number(name, value, least, most) for value in _listed(name, config[name]))


def flag(config: Mapping[str, Any], name: str) -> bool:
    """A boolean of a configuration, refused as `whole` does."""
    if type(config[name]) is not bool:
        raise ValueError(f"{name} must be true or false, got {_shown(config[name])}")
    return bool(config[name])


def string(config: Mapping[str, Any], name: str) -> str:
    """A string of a configuration, refused as `whole` does."""
    return _string(name, config[name])


def strings(config: Mapping[str, Any], name: str) -> list[str]:
    """A list of strings, refused as `whole` does."""
    return [_string(name, value) for value in _listed(name, config[name])]


def choice(config: Mapping[str, Any], name: str, choices: Sequence[str]) -> Any:
    """One of a few strings of a configuration, refused as `whole` does."""
    if config[name] not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {_shown(config[name])}")
    return config[name]


def floats(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> np.ndarray:
    """A tensor of finite float32 with `ndim` dimensions.

    Raises:
        KeyError: If it is missing.
        ValueError: If it has another type, another number of dimensions, or holds NaN or infinity.
    """
    tensor = tensors[name]
    if tensor.dtype != np.float32 or tensor.ndim != ndim:
        raise ValueError(
            f"{name} must be float32 of {ndim} dimensions, got {tensor.dtype} of {tensor.ndim}"
        )
    for start in range(0, len(tensor), 4096):
        if not np.isfinite(tensor[start : start + 4096]).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def integers(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A vector of int64, refused as `floats` does."""
    tensor = tensors[name]
    if tensor.dtype != np.int64 or tensor.ndim != 1:
        raise ValueError(
            f"{name} must be int64 of 1 dimension, got {tensor.dtype} of {tensor.ndim}"
        )
    return tensor


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, with the permissions that the user's umask sets."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    path.write_bytes(save(arrays))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        CatalogError: If it is corrupt, or holds a type that numpy lacks.
        PermissionError: If this user may not read it.
    """
    with _reading(path, "safetensors file"):
        return load_file(path)


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a safetensors file: data is read only when it is used.

    bfloat16, which numpy lacks, is read into float32.

    Raises:
        CatalogError: If the file is corrupt, or holds a type that numpy lacks.
        PermissionError: If this user may not read it.
    """
    with _reading(path, "safetensors file"):
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
        return tensors


def write_npy(path: Path, array: Float32[np.ndarray, "rows dim"]) -> None:
    """Writes a .npy file in chunks of rows: the array may be a memory map."""
    with path.open("wb") as file:
        write_npy_header(file, array.shape)
        for start in range(0, len(array), 4096):
            file.write(np.ascontiguousarray(array[start : start + 4096], dtype="<f4").data)


def write_npy_header(file: Any, shape: tuple[int, ...]) -> None:
    """Writes the header of a .npy file of float32."""
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def map_npy(path: Path) -> np.ndarray:
    """Maps the array of a .npy file of numbers: data is read only when it is used.

    Raises:
        CatalogError: If the file is missing or corrupt, or holds objects.
        PermissionError: If this user may not read it.
    """
    with _reading(path, ".npy file of numbers"):
        return np.lib.format.open_memmap(path, mode="r")


_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turns all errors of broken bytes into a CatalogError; a PermissionError stays one."""
    try:
        with path.open("rb"):
            pass
        yield
    except PermissionError:
        raise
    except (
        SafetensorError, OSError, EOFError, LookupError, TypeError, ValueError, ArithmeticError,
        RecursionError, AttributeError, MemoryError,
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise CatalogError(f"{path}: not a readable {what} ({reason})") from None


def _digests(folder: Path, every_file: bool) -> dict[str, str]:
    """The digests of the files of a folder; an inner part has those of its files itself."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digests[path.name] = _file_digest(path)
        elif (path / "config.json").exists() and not every_file:
            digests[f"{path.name}/config.json"] = _file_digest(path / "config.json")
        else:
            inner = _digests(path, every_file)
            digests |= {f"{path.name}/{name}": value for name, value in inner.items()}
    return digests


def _check_files(folder: Path, digests: Mapping[str, Any]) -> None:
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise CatalogError(f"{path}: no such file, and {folder} needs it")
        if _file_digest(path) != digest:
            raise CatalogError(f"{path}: damaged, its digest differs from that in config.json")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _config_digest(config: Mapping[str, Any]) -> str:
    """The digest of a configuration's values, independent of their order and spacing."""
    said = {name: value for name, value in config.items() if name != "digest"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return str(_hash(text.encode()).hexdigest())


def _hash(data: bytes = b"") -> Any:
    return hashlib.blake2b(data, digest_size=16)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("numbers must be finite")
    return value


def _whole(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"{name} must be a whole number within [{least}, {most}], got {_shown(value)}"
        )
    return value


def _number(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number within [{least}, {most}], got {_shown(value)}")
    return float(value)


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {_shown(value)}")
    return value


def _listed(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """A wrong value, shortened so that it can be read."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
