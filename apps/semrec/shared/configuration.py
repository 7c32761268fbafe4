"""A run's configuration: a dataclass of tables, read from a TOML file over its defaults."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from semrec.shared.errors import ConfigError, ExperimentError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_DEEPEST = 20

Config = TypeVar("Config")


def load_config(kind: type[Config], path: Path | None) -> Config:
    """Returns the defaults of `kind`, overridden by the tables of a TOML file.

    Args:
        kind: A frozen dataclass; its fields are values, or dataclasses for the tables of the TOML.
        path: The file; None for the defaults.

    Raises:
        ExperimentError: The file is not TOML, or a key or value in it does not fit `kind`.
    """
    if path is None:
        return kind()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"{path}: not TOML: {error}") from error
    return build_config(kind, values, f"{path}")


def build_config(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Returns a configuration from nested mappings; missing keys have their defaults.

    Raises:
        ConfigError: Keys or values do not fit `kind`. It names all mistakes, except violated rules
            between several values if one of these is wrong itself. Each message begins with
            `where`.
    """
    from pydantic import ValidationError

    try:
        return _validated(kind, values)
    except ValidationError as error:
        mistakes = dict.fromkeys(_mistakes(kind, values, error))
        raise ConfigError([f"{where}: {mistake}" for mistake in mistakes]) from error


def adapter(kind: type[Config]) -> TypeAdapter[Config]:
    """The pydantic adapter of a dataclass; pydantic is imported here, since `--help` needs none."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _validated(kind: type[Config], values: Mapping[str, Any]) -> Config:
    # Validated as JSON: only then strict types accept arrays for tuples and objects for
    # dataclasses.
    content = json.dumps({name: _plain(value) for name, value in values.items()})
    return adapter(kind).validate_json(content, strict=True, extra="forbid")


def _plain(value: Any, depth: int = 0) -> Any:
    """Converts a value to JSON; a value that no field accepts becomes `[{}]`, likewise refused.

    Numbers must fit in 64 bits, since tensors hold no more, and be finite. No field is nested as
    deeply as `_DEEPEST`.
    """
    if depth == _DEEPEST:
        return [{}]
    if isinstance(value, Mapping):
        return {name: _plain(part, depth + 1) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth + 1) for part in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    is_number = isinstance(value, (int, float)) and -(2**63) < value < 2**63
    return value if is_number else [{}]


def _mistakes(kind: type[Any], values: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """Yields one sentence per mistake."""
    wrong: dict[tuple[str, ...], set[str]] = {}  # the wrong keys, by the path of their table
    for detail in error.errors(include_url=False):
        path = _path(kind, detail["loc"])
        for depth, name in enumerate(path):
            wrong.setdefault(path[:depth], set()).add(name)
        if detail["type"] == "value_error":
            yield from _refusals(*_table(kind, values, path), path)
        elif not path:
            yield f"not a configuration: {detail['msg']}"
        else:
            yield _wrong_key(kind, values, path)
    for path, names in wrong.items():
        table, part = _table(kind, values, path)
        rest = {name: value for name, value in part.items() if name not in names}
        yield from _refusals(table, rest, path, is_whole=False)


def _wrong_key(kind: type[Any], values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """The mistake of a single key: it is unknown, or its value has the wrong type."""
    *tables, name = path
    table, part = _table(kind, values, path[:-1])
    types, dotted = get_type_hints(table), ".".join(path)
    if name not in types:
        place = f"[{'.'.join(tables)}]: " if tables else ""
        return f"{place}unknown key {name!r}; known keys are {', '.join(types)}"
    if dataclasses.is_dataclass(types[name]):
        return f"{dotted} must be a table, [{dotted}], got {part[name]!r}"
    return f"{dotted} must be {_type_words(types[name])}, got {_shown(part[name])!r}"


def _refusals(
    table: type[Any], values: Mapping[str, Any], path: tuple[str, ...], *, is_whole: bool = True
) -> Iterator[str]:
    """Yields the refusals of a table's own rules, for values of the right types.

    The rules stop at the first mistake. If the mistake concerns a single value, that value is left
    out and the rules run again. A refusal of several values together counts only if no value was
    left out, because the left-out value may have caused it.

    Args:
        table: The dataclass.
        values: The values that are set.
        path: The path of the table.
        is_whole: Whether no set value is left out.
    """
    from pydantic import ValidationError

    left, types = dict(values), get_type_hints(table)
    while True:
        try:
            _validated(table, left)
            return
        except ValidationError as error:
            message = str(error.errors()[0]["ctx"]["error"])
        name = message.partition(" ")[0]
        is_single = name in left and message.endswith(_endings(left[name]))
        if is_whole or is_single:
            dotted, is_field = ".".join(path), name.partition(".")[0] in types
            prefix = f"{dotted}." if is_field else f"[{dotted}]: "
            yield f"{prefix if path else ''}{message}"
        if not is_single:
            return
        del left[name]
        is_whole = False


def _endings(value: Any) -> tuple[str, ...]:
    """The possible ends of a refusal of this value; an integer may have become a float."""
    shown = _shown(value)
    forms = [f"{shown}", f"{shown!r}", *([f"{float(shown)}"] if isinstance(shown, int) else [])]
    return tuple(f"got {form}" for form in forms)


def _path(kind: type[Any], location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The path of a key, even if pydantic names a part of its value."""
    path: tuple[str, ...] = ()
    hint: Any = kind
    for name in map(str, location):
        if not dataclasses.is_dataclass(hint):
            break
        path, hint = (*path, name), get_type_hints(hint).get(name)
    return path


def _table(
    kind: type[Any], values: Mapping[str, Any], path: tuple[str, ...]
) -> tuple[type[Any], Mapping[str, Any]]:
    """The dataclass of a table and its set values."""
    for name in path:
        kind, values = get_type_hints(kind)[name], values[name]
    return kind, values


def _shown(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _type_words(hint: Any) -> str:
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    return (name or str(hint)).replace("typing.", "")


def set_keys(path: Path | None) -> frozenset[str]:
    """The keys that a TOML file sets, such as "seed" and "stage_two.epochs"."""
    values = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    return frozenset(_dotted(values))


def _dotted(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in _dotted(value))
        else:
            yield name


def check_at_least(lowest: int, config: object, *names: str) -> None:
    """Raises ValueError unless each of these values of a configuration is `lowest` or more."""
    for name in names:
        value = getattr(config, name)
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def check_seed(seed: int) -> None:
    """Raises ValueError unless all random generators accept the seed."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
