"""A run's configuration: a dataclass of tables, from its defaults and a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from semrec.shared.errors import ExperimentError

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
        ExperimentError: A key or value is not one of `kind`; the message begins with `where`.
    """
    types = get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        known = ", ".join(types)
        raise ExperimentError(f"{where}: unknown key {unknown[0]!r}; known keys are {known}")
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        hint = types[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ExperimentError(f"{where}: {name} must be a table, [{name}], got {value!r}")
            arguments[name] = build_config(hint, value, f"{where}: [{name}]")  # type: ignore[arg-type]
        else:
            value = tuple(value) if isinstance(value, list) else value
            if not _fits(value, hint):
                wanted = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
                wanted = (wanted or str(hint)).replace("typing.", "")
                raise ExperimentError(f"{where}: {name} must be {wanted}, got {value!r}")
            arguments[name] = value
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ExperimentError(f"{where}: {error}") from error


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


def _fits(value: object, hint: Any) -> bool:
    """Whether a TOML value is of a type; a whole number may stand for a float.

    Numbers must be within what 64 bits hold: no infinity is one.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, arguments[0]) for part in value)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    if isinstance(value, (int, float)) and not -(2**63) < value < 2**63:
        return False  # inf, nan, and what no tensor holds
    return isinstance(value, (int, float) if hint is float else hint)
