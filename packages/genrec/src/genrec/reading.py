"""Reading JSON and tensors from disk; every failure is an `ArtifactError` of one sentence.

A file may be damaged, or written by somebody else: either its values have the right types, or an
`ArtifactError` is raised. Nothing in a file is run as code.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genrec.errors import ArtifactError

# The errors that wrong values of a file can cause.
_WRONG_CONTENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns errors in the use of a file's values into an `ArtifactError` about the file.

    Args:
        what: The start of the sentence: "folder/config.json is damaged".

    Raises:
        ArtifactError: There was an error within the block.
    """
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{what}: it lacks {error}") from error
    except _WRONG_CONTENT as error:
        raise ArtifactError(f"{what}: {_reason(error)}") from error


def unreadable(path: Path, error: OSError) -> ArtifactError:
    """Returns the error for a file that cannot be read; it says so if permission is missing."""
    if isinstance(error, PermissionError):
        return ArtifactError(f"{path} may not be read by this user: permission denied")
    return ArtifactError(f"{path} cannot be read: {error.strerror or error}")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError, NotADirectoryError: The file does not exist.
        ArtifactError: The file cannot be read, is no JSON in UTF-8, or is nested too deeply.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    with refusing(f"{path} is damaged"):
        return json.loads(content.decode())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ArtifactError: The file is missing, damaged or cannot be read.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def restore_module(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights into a module.

    Raises:
        ArtifactError: The weights are of another module.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"{source} holds the weights of another model: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Returns an error's message in one line, without the stack that torch may add to it."""
    return " ".join(str(error).split()).split(" Exception raised from ")[0]


def json_digest(value: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON value; order of keys and white space do not change it."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        ArtifactError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Checks the types of values from JSON.

    Args:
        values: Values by name; names without a type are ignored.
        hints: The types, as returned by `typing.get_type_hints`.

    Raises:
        TypeError: A value is of another type. A truth value is no number; a number with a fraction,
            or of more than 63 bits, is no int.
    """
    for name, value in values.items():
        if name in hints and not _is(value, hints[name]):
            expected = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
            raise TypeError(f"{name} must be {expected}, got {reprlib.repr(value)}")


def _is(value: Any, hint: Any) -> bool:
    """Returns whether a value from JSON has a type."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if hint is Any:
        return True
    if kind is Literal:
        return isinstance(value, str) and value in parts
    if kind in (Sequence, list):
        return isinstance(value, list) and all(_is(entry, parts[0]) for entry in value)
    if kind is dict:
        return isinstance(value, dict) and all(_is(entry, parts[1]) for entry in value.values())
    if hint is float:
        return type(value) in (int, float)
    if hint is int:
        return type(value) is int and value.bit_length() < 64
    return type(value) is (NoneType if hint is None else hint)
