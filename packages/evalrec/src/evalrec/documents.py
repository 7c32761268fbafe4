"""Reads the JSON files that this package wrote, with one kind of error."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from evalrec.interactions import DataError

_HUGE = 1e300  # no measured value is greater; NaN is refused too, as it is not less


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that this package wrote.

    Raises:
        DataError: If it is malformed or too deep, holds an invalid number, or has a key twice.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is malformed JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} must be a JSON object, got {type(document).__name__}")
    return document


def has_format(document: Mapping[str, Any], version: int) -> bool:
    """Whether a document has this format version; true and 1.0 are not versions."""
    return type(document.get("format")) is int and document["format"] == version


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turns all errors while something is rebuilt from its file into a DataError.

    Raises:
        DataError: It names the file.
    """
    try:
        yield
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path} is damaged: it lacks {error}") from error
    except (
        *(ValueError, TypeError, AttributeError, ArithmeticError, IndexError, EOFError),
        *(RecursionError, NotImplementedError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def text(name: str, value: Any) -> str:
    """A value that must be a text.

    Raises:
        ValueError: If it is not a text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {_shown(value)}")
    return value


def count(name: str, value: Any, *, least: int = 0) -> int:
    """A value that must be a whole number of 64 bits, from `least` on.

    Raises:
        ValueError: If it is not such a number.
    """
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"{name} must be a whole number from {least} on, got {_shown(value)}")
    return value


def finite(name: str, value: Any) -> int | float:
    """A value that must be a finite number.

    Raises:
        ValueError: If it is not such a number.
    """
    if type(value) not in (int, float) or not abs(value) < _HUGE:
        raise ValueError(f"{name} must be a finite number, got {_shown(value)}")
    number: int | float = value
    return number


def counts(name: str, values: Any) -> Int[np.ndarray, " values"]:
    """A list that must hold whole numbers of 64 bits, from 0 on; fractions are not cut off.

    Raises:
        ValueError: If it is not such a list.
    """
    if not isinstance(values, list):
        raise ValueError(f"{name} must be a list, got {_shown(values)}")
    array = np.array([count(name, value) for value in values], dtype=np.int64)
    array.setflags(write=False)
    return array


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A value that must be an object.

    Raises:
        ValueError: If it is not an object.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {_shown(value)}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return document


def _shown(value: Any) -> str:
    """A value for an error message; a long one is cut."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "one of more than 64 bits"
    shown = repr(value)
    return shown if len(shown) < 80 else f"{shown[:76]}..."
