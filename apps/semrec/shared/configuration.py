"""A run's configuration: a dataclass of tables, from its defaults and a TOML file."""

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
        kind: A frozen dataclass whose fields are values, or dataclasses for the TOML's tables.
        path: The file; None gives the defaults.

    Raises:
        ExperimentError: The file is no TOML, or a key or value in it is not one of `kind`.
    """
    if path is None:
        return kind()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"{path}: not TOML: {error}") from error
    return build_config(kind, values, f"{path}")


def build_config(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Returns a configuration from nested mappings; what they leave out is the default.

    Raises:
        ConfigError: Keys or values are not those of `kind`. It names all of them, but for rules
            between several values of which another is wrong. Each message begins with `where`.
    """
    from pydantic import ValidationError

    try:
        return _validated(kind, values)
    except ValidationError as error:
        mistakes = dict.fromkeys(_mistakes(kind, values, error))
        raise ConfigError([f"{where}: {mistake}" for mistake in mistakes]) from error


def adapter(kind: type[Config]) -> TypeAdapter[Config]:
    """What pydantic makes of a dataclass; it is imported here, since `--help` has no use for it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _validated(kind: type[Config], values: Mapping[str, Any]) -> Config:
    # As JSON, whose arrays may be tuples and whose objects dataclasses where types are strict.
    content = json.dumps({name: _plain(value) for name, value in values.items()})
    return adapter(kind).validate_json(content, strict=True, extra="forbid")


def _plain(value: Any, depth: int = 0) -> Any:
    """A value of JSON; what no field can be becomes a list of a table, which is none either.

    Numbers must be within what 64 bits hold: no infinity is one, and no tensor holds more. No
    field is as deep as `_DEEPEST`.
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
    """What is wrong, a sentence each."""
    wrong: dict[tuple[str, ...], set[str]] = {}  # what is, by the path of its table
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
    """What is wrong with a key by itself: it is unknown, or its value of another type."""
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
    """What a table's own rules say of values of the right types.

    They end at the first that is wrong. Where that says so of a single value, the value is left
    out, and the rules are asked again. A refusal of several values counts only where nothing is
    left out, for it may be due to that.

    Args:
        table: The dataclass.
        values: What is set of it.
        path: That of the table.
        is_whole: Whether nothing that is set is left out.
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
    """How a refusal of this value alone ends; a whole number may have become a float."""
    shown = _shown(value)
    forms = [f"{shown}", f"{shown!r}", *([f"{float(shown)}"] if isinstance(shown, int) else [])]
    return tuple(f"got {form}" for form in forms)


def _path(kind: type[Any], location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The path of a key, where pydantic names a part of its value, too."""
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
    """The dataclass of a table, and what is set of it."""
    for name in path:
        kind, values = get_type_hints(kind)[name], values[name]
    return kind, values


def _shown(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _type_words(hint: Any) -> str:
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    return (name or str(hint)).replace("typing.", "")


def set_keys(path: Path | None) -> frozenset[str]:
    """What a TOML file sets that `load_config` has read: such as "seed" and "stage_two.epochs"."""
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
    """Raises ValueError unless a seed is one that all that draws can take."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
